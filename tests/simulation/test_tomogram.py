"""A whole simulation: its truth, its bytes, its stops."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tomodask.arrays.fourier import shell_correlation
from tomodask.averaging.averages import average_subtomograms
from tomodask.data.extraction import extract_subtomograms
from tomodask.data.particles import read_particles
from tomodask.data.tilt_series import open_tilt_series
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_map
from tomodask.simulation.projections import open_projections, save_projections
from tomodask.simulation.tomogram import simulate

SETTINGS = {
    "seed": 3,
    "specimen": {"shape": [48, 96, 112], "voxel_size": 10.0},
    "particles": [
        {"structure": "phantom", "copies": 4},
        {"structure": "phantom-decoy", "name": "decoy", "copies": 2},
    ],
    "beads": {"number": 2, "diameter": 80.0},
    "tilts": {"increment": 4.0, "dose": 100.0},
    "microscope": {"defocus": 30000.0},
    "noise": {"snr": 0.5},
    "motion": {"shift": 5.0},
}


def settings(**changes):
    return SETTINGS | changes


def content(folder: Path) -> dict[str, bytes]:
    """Every file's bytes; of a STAR without its time of writing, and not the run's own notes."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("run.json", ".lock"):
            data = path.read_bytes()
            if path.suffix == ".star":
                data = data.split(b"\n", 1)[1]
            out[str(path.relative_to(folder))] = data
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulation") / "out"
    return simulate(settings(), folder, scheduler="synchronous")


def test_the_truth_is_beside_the_tomogram(made):
    table = read_particles(made.particles)
    assert table["kind"].value_counts().to_dict() == {"phantom": 4, "decoy": 2}
    assert made.count == 6
    labels = open_tomogram(made.labels)
    assert labels.shape == (48, 96, 112)
    values = labels.to_numpy()
    for row in range(len(table)):
        at = np.argwhere(values == row + 1).mean(0) * 10.0
        assert np.linalg.norm(at - table.loc[row, ["z", "y", "x"]].to_numpy(float)) < 40
    occupied = open_tomogram(made.occupancy).to_numpy()
    assert set(np.unique(values[occupied > 0.999])) - {0} == set(range(1, 9))  # and two beads
    assert len(pd.read_csv(made.output / "beads.csv")) == 2
    assert 0 < made.molecular_occupancy < made.bounding_occupancy < 1


def test_the_tomogram_says_what_was_measured(made):
    tomogram = open_tomogram(made.tomogram)
    assert tomogram.shape == (48, 96, 112)
    assert tomogram.attrs["voxel_size"] == 10.0
    assert tomogram.attrs["tilt_range"] == (-60.0, 60.0)
    record = tomogram.attrs["tilt_series"]
    assert record["phase_flipped"]
    assert len(record["angle"]) == 31
    assert np.allclose(record["defocus_u"], 30000.0)
    series = open_tilt_series(made.tilt_series.with_suffix(".star"))
    assert series.shape == (31, 96, 112)
    assert np.isclose(float((series["exposure"]).sum()), 100.0)


def test_the_density_at_its_place_is_in_the_tomogram(made):
    true = open_tomogram(made.density).to_numpy()
    found = open_tomogram(made.tomogram).to_numpy()
    inner = (slice(None), slice(12, -12), slice(24, -24))
    assert np.corrcoef(true[inner].ravel(), found[inner].ravel())[0, 1] > 0.3


def test_the_average_at_the_true_poses_is_the_structure(tmp_path):
    quiet = settings(
        noise={"snr": 5.0}, beads={}, motion={}, specimen={"shape": [64, 160, 160]},
        particles=[{"structure": "phantom", "copies": 12}],
    )  # fmt: skip
    made = simulate(quiet, tmp_path / "out", scheduler="synchronous")
    table = read_particles(made.particles)
    boxes = extract_subtomograms(open_tomogram(made.tomogram), table, box=40)
    average = average_subtomograms(boxes).compute().average
    curve = shell_correlation(average, phantom_map(voxel_size=10.0, box=40).to_numpy())
    assert curve[4:12].min() > 0.8  # 100 to 33 Å
    assert len(table) == 12


def test_the_same_bytes_on_any_number_of_workers(made, tmp_path):
    again = simulate(settings(), tmp_path / "out", workers=2)
    assert content(again.output) == content(made.output)


def test_the_same_call_again_does_nothing(made):
    before = {path: path.stat().st_mtime_ns for path in made.output.rglob("*") if path.is_file()}
    again = simulate(settings(), made.output, scheduler="synchronous")
    assert again.seconds == made.seconds
    changed = {
        path.name
        for path, at in before.items()
        if path.stat().st_mtime_ns != at and path.name not in ("run.json", ".lock")
    }
    assert not changed


def test_another_simulation_in_the_same_folder_is_refused(made):
    with pytest.raises(InputError, match="holds another run: seed is 3 there and 4 here"):
        simulate(settings(seed=4), made.output, scheduler="synchronous")
    others = [one | {"name": "other"} for one in SETTINGS["particles"][:1]]
    told = "structure is phantom phantom-decoy there and phantom here; particles.name is not given"
    with pytest.raises(InputError, match=told):
        simulate(settings(particles=others), made.output, scheduler="synchronous")


SCRIPT = """
import json, sys
from tomodask.simulation.tomogram import simulate
simulate(json.loads(sys.argv[1]), sys.argv[2], scheduler="synchronous")
"""


@pytest.mark.parametrize("stage", ["pack", "project", "image", "reconstruct"])
def test_a_killed_run_goes_on_to_the_same_bytes(made, tmp_path, stage):
    folder = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, json.dumps(settings()), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if stage in json.loads((folder / "run.json").read_text())["began"]:
                break
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert stage in json.loads((folder / "run.json").read_text())["began"]
    again = simulate(settings(), folder, scheduler="synchronous")
    assert content(again.output) == content(made.output)


def test_what_is_wrong_is_said_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"the structure .*none.pdb cannot be read"):
        simulate(settings(particles=[{"structure": "none.pdb", "copies": 1}]), tmp_path / "a")
    with pytest.raises(InputError, match=r"none.star does not exist"):
        simulate(settings(detector={"model": "file", "mtf": "none.star"}), tmp_path / "a")
    with pytest.raises(InputError, match="finer than the detector's of 12 Å"):
        simulate(settings(detector={"model": "sinc", "pixel_size": 12.0}), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    crowded = settings(specimen={"shape": [48, 96, 112], "occupancy": 0.9}, beads={})
    with pytest.raises(InputError, match=r"occupancy=0\.9 is out of reach: .* 0\.2"):
        simulate(crowded, tmp_path / "a", scheduler="synchronous")


@pytest.fixture
def cell(tmp_path):
    """A simulation whose structure and detector are files beside it."""
    save_tomogram(phantom_map(voxel_size=10.0, box=40), tmp_path / "map.mrc")
    mtf = "data_\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n0.0 1.0\n0.5 0.6\n"
    (tmp_path / "mtf.star").write_text(mtf)
    (tmp_path / "cell.toml").write_text(
        "[specimen]\nshape = [33, 48, 48]\n[tilts]\nincrement = 20\n"
        '[[particles]]\nstructure = "map.mrc"\ncopies = 1\n'
        '[detector]\nmodel = "file"\nmtf = "mtf.star"\n'
    )
    return tmp_path


def test_a_run_goes_on_from_any_folder_but_not_with_another_file(cell, monkeypatch):
    made = simulate(cell / "cell.toml", cell / "out", scheduler="synchronous")
    monkeypatch.chdir(cell)
    assert simulate("cell.toml", "out", scheduler="synchronous").seconds == made.seconds
    Path("mtf.star").write_text(Path("mtf.star").read_text().replace("0.6", "0.5"))
    with pytest.raises(InputError, match=r"another run: detector\.mtf is mtf\.star"):
        simulate("cell.toml", "out", scheduler="synchronous")


def test_a_structure_may_be_a_zarr_store(cell):
    save_tomogram(open_tomogram(cell / "map.mrc"), cell / "map.zarr")
    text = (cell / "cell.toml").read_text()
    (cell / "other.toml").write_text(text.replace("map.mrc", "map.zarr"))
    one = simulate(cell / "cell.toml", cell / "one", scheduler="synchronous")
    other = simulate(cell / "other.toml", cell / "other", scheduler="synchronous")
    assert content(other.output / "tomogram.zarr") == content(one.output / "tomogram.zarr")
    save_tomogram(2 * open_tomogram(cell / "map.mrc"), cell / "map.zarr", overwrite=True)
    with pytest.raises(InputError, match=r"structure is map\.zarr"):
        simulate(cell / "other.toml", cell / "other", scheduler="synchronous")


def test_what_did_not_fit_may_be_asked_for_anew(tmp_path):
    specimen = {"shape": [40, 48, 48], "occupancy": 0.9}
    one = [{"structure": "phantom"}]
    small = settings(specimen=specimen, particles=one, beads={}, tilts={"increment": 30.0})
    with pytest.raises(InputError, match="out of reach"):
        simulate(small, tmp_path / "out", scheduler="synchronous")
    small["specimen"] = specimen | {"occupancy": 0.05}
    assert simulate(small, tmp_path / "out", scheduler="synchronous").count
    small |= {"specimen": {"shape": [40, 48, 48]}, "particles": [one[0] | {"copies": 1}]}
    with pytest.raises(InputError, match=r"occupancy is 0\.05 there and not given here;"):
        simulate(small, tmp_path / "out", scheduler="synchronous")


def test_membranes_have_the_resolution_of_the_specimen(tmp_path):
    bare = {
        "specimen": {"shape": [40, 48, 48], "resolution": 60.0},
        "vesicles": {"number": 1, "radius": [100.0, 110.0]},
        "tilts": {"increment": 60.0},
    }
    made = simulate(bare, tmp_path / "a", scheduler="synchronous")
    coarse = open_tomogram(made.density).to_numpy()
    bare["specimen"]["resolution"] = 20.0
    fine = open_tomogram(simulate(bare, tmp_path / "b", scheduler="synchronous").density).to_numpy()
    assert coarse.max() < 0.8 * fine.max()
    assert np.isclose(coarse.sum(), fine.sum(), rtol=0.1)


def test_a_name_with_a_space(tmp_path):
    small = settings(
        name="my cell", specimen={"shape": [40, 48, 48]}, beads={}, tilts={"increment": 30.0},
        particles=[{"structure": "phantom", "name": "a b", "copies": 1}],
    )  # fmt: skip
    made = simulate(small, tmp_path / "out", scheduler="synchronous")
    table = read_particles(made.particles)
    boxes = extract_subtomograms(open_tomogram(made.tomogram), table, box=16)
    assert set(boxes["tomogram"].to_numpy()) == {"my cell"}
    assert table["kind"].tolist() == ["a b"]


def test_projections_come_back_as_they_were(made, tmp_path):
    found = open_projections(made.projections)
    save_projections(found, tmp_path / "again.zarr")
    again = open_projections(tmp_path / "again.zarr")
    assert again.identical(found)
    assert found.attrs["pixel_size"] == 10.0
    with pytest.raises(InputError, match="no store of projections"):
        open_projections(tmp_path / "none.zarr")
    with pytest.raises(InputError, match="holds no projections"):
        open_projections(made.density)
