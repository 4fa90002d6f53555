"""What `import tomodask` offers, and that it costs nothing before it is used."""

import subprocess
import sys

import tomodask


def test_every_public_name_is_there_and_documented():
    for name in tomodask.__all__:
        value = getattr(tomodask, name)
        assert name == "__version__" or value.__doc__, name
    assert sorted(tomodask.__all__) == tomodask.__all__
    assert set(dir(tomodask)) == set(tomodask.__all__)


def test_every_public_name_of_the_simulation():
    from tomodask import simulation

    for name in simulation.__all__:
        assert getattr(simulation, name) is not None
    assert set(dir(simulation)) == set(simulation.__all__)


def test_unknown_names_are_refused():
    assert not hasattr(tomodask, "no_such_thing")


def test_importing_loads_no_heavy_package():
    code = (
        "import sys, tomodask; print([m for m in ('dask', 'numba', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_core_needs_neither_torch_nor_cuda_nor_notebooks():
    """Every module but those of `nets` that train imports with these packages out of reach."""
    code = """
import importlib, importlib.abc, pkgutil, sys

ABSENT = {"torch", "openvino", "cupy", "dask_cuda", "dask_jobqueue", "IPython", "ipywidgets"}
ABSENT |= {"h5py", "sklearn", "plotly", "anywidget"}

NAMES = (
    "boxes.gradcam", "boxes.last_layer", "boxes.networks", "boxes.trainer",
    "pretraining.contrastive", "pretraining.moco", "pretraining.swav", "pretraining.trainer",
    "segmentation.losses", "segmentation.resunet", "segmentation.trainer",
    "training_state", "training_step",
)
TRAINING = {f"tomodask.nets.{name}" for name in NAMES}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import tomodask
for module in pkgutil.walk_packages(tomodask.__path__, "tomodask."):
    if module.name in TRAINING:
        continue  # what trains, and nothing that picks
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
