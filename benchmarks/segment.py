"""Segmentation: how near it comes to the bare network's speed, its memory, and two workers.

The paper's network (24/48/72/108 channels) with random weights, on noise in an OME-Zarr store; the
probabilities go into a store too.  Weights do not change the speed.

    python benchmarks/segment.py [--precision bfloat16] [--halo 8] [--edges 256 512]
    python benchmarks/segment.py --engines [--tiles 64 96]     # what runs one tile how fast
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import dask.array as da
import numpy as np
import psutil
import xarray as xr
from dask.distributed import Client, LocalCluster

from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.nets.segmentation.architecture import Architecture, weight_shapes
from tomodask.nets.segmentation.inference import open_engine
from tomodask.nets.segmentation.model_file import PickingModel
from tomodask.picking.segmentation.segmenting import save_segmentation, segment_tomogram

SEED, DEPTH = 0, 64


def random_model(halo: int) -> PickingModel:
    architecture = Architecture()
    rng = np.random.default_rng(SEED)
    weights = {}
    for name, shape in weight_shapes(architecture).items():
        if len(shape) > 1:
            values = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = np.full(shape, float(name.endswith(("weight", "running_var"))))
        weights[name] = values.astype(np.float32)
    return PickingModel(architecture, weights, ("particle",), (100.0,), 10.0, halo)


def noise(folder: Path, edge: int) -> xr.DataArray:
    path = folder / f"noise-{edge}.zarr"
    state = da.random.default_rng(SEED)
    data = state.normal(size=(DEPTH, edge, edge), chunks=128).astype(np.float32)
    volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": 10.0}, name="noise")
    save_tomogram(volume, path, levels=1)
    return open_tomogram(path)


class Peak:
    """Highest resident memory of this process and all of its children together."""

    def __enter__(self) -> Peak:
        self.highest, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        own = psutil.Process()
        while not self.ended.wait(0.05):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.highest = max(self.highest, total)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def told(tiles: int, tile: tuple[int, ...], alone: float, cpu: float) -> None:
    print(
        f"the engine alone, on the same worker: {alone:.2f} CPU s a tile, "
        f"{np.prod(tile) / alone:,.0f} voxels/s; the whole comes to "
        f"{100 * tiles * alone / cpu:.0f} % of that × the share (goal: 85 %)"
    )


def bare(model: PickingModel, tile: tuple[int, ...], precision: str, part: int = 1) -> float:
    """CPU seconds of the engine alone for a tile; `part` tells one call from another."""
    engine = open_engine(model, engine="openvino", precision=precision)
    data = np.random.default_rng(SEED).normal(size=(1, 1, *tile)).astype(np.float32)
    return cpu_seconds(lambda: engine.infer(data))


def cpu_seconds(work: Callable[[], object]) -> float:
    work()  # compiled, and its memory taken
    start = time.process_time()
    work()
    return time.process_time() - start


def run(client: Client, lazy: xr.DataArray, path: Path) -> tuple[float, list[float], float]:
    """Wall seconds, CPU seconds of each worker, peak memory in GB."""
    before = client.run(time.process_time)
    with Peak() as peak:
        start = time.perf_counter()
        save_segmentation(lazy, path, resume=False)
        wall = time.perf_counter() - start
    after = client.run(time.process_time)
    return wall, [after[one] - before[one] for one in before], peak.highest / 1e9


def whole(options: argparse.Namespace, folder: Path) -> None:
    model = random_model(options.halo)
    small, large = (noise(folder, edge) for edge in options.edges)

    def lazy(volume: xr.DataArray) -> xr.DataArray:
        return segment_tomogram(volume, model, engine="openvino", precision=options.precision)

    tile, share, tiles = tile_of(small, model)
    print(
        f"{'×'.join(map(str, small.shape))} voxels: {tiles} tiles of {'×'.join(map(str, tile))}, "
        f"halo {options.halo}, {100 * share:.0f} % of the computed voxels are the tomogram's"
    )
    walls, busiest, peaks = {}, {}, {}
    for workers in (1, 2):
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                memory_limit=0,
            ) as cluster,
            Client(cluster) as client,
        ):
            alone = []
            for label in ("first run", "second run"):  # the first compiles the network
                if workers == 1:  # before and after: others' work on the machine slows both
                    alone.append(
                        client.submit(bare, model, tile, options.precision, len(alone)).result()
                    )
                wall, cpu, peak = run(client, lazy(small), folder / "p.zarr")
                print(
                    f"{workers} worker(s), {label}: {wall:.1f} s, {small.size / wall:,.0f} "
                    f"voxels/s; {sum(cpu):.1f} CPU s; peak {peak:.2f} GB in all processes"
                )
            walls[workers], busiest[workers] = wall, max(cpu)
            if workers == 1:
                alone.append(client.submit(bare, model, tile, options.precision, 2).result())
                told(tiles, tile, float(np.mean(alone[1:])), sum(cpu))
            else:
                peaks["small"] = peak
                wall, _, peaks["large"] = run(client, lazy(large), folder / "large.zarr")
                print(
                    f"{'×'.join(map(str, large.shape))} voxels, 2 workers: {wall:.1f} s, "
                    f"{large.size / wall:,.0f} voxels/s"
                )
    print(
        f"two workers are {walls[1] / walls[2]:.2f}× one by the clock (load average {load()}), "
        f"{busiest[1] / busiest[2]:.2f}× by the CPU seconds of the busier worker, as where two "
        "cores are free"
    )
    print(
        f"peak memory of all processes: {peaks['small']:.2f} GB, with {large.size / small.size:.0f}"
        f"× the voxels {peaks['large']:.2f} GB"
    )


def tile_of(volume: xr.DataArray, model: PickingModel) -> tuple[tuple[int, ...], float, int]:
    from tomodask.picking.segmentation.segmenting import _plan

    plan = _plan(volume.shape, model, None, None)  # type: ignore[arg-type]
    return plan.tile, plan.share, int(np.prod(plan.counts))


def load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def engines(options: argparse.Namespace, folder: Path) -> None:
    """One thread, one tile at a time; the error is the largest of a probability."""
    import torch

    from tomodask.nets.segmentation.resunet import ResUNet3D

    torch.set_num_threads(1)
    model = random_model(options.halo)
    network = ResUNet3D(model.architecture).eval()
    network.load_state_dict(
        {name: torch.from_numpy(values) for name, values in model.weights.items()}, strict=False
    )
    print("| engine | " + " | ".join(f"{n}³, CPU s" for n in options.tiles) + " | error |")
    print("|---|" + "---|" * (len(options.tiles) + 1))
    rows: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    for edge in options.tiles:
        data = np.random.default_rng(SEED).normal(size=(1, 1, edge, edge, edge)).astype(np.float32)
        want = eager(torch, network, data)
        for name, work in runners(torch, network, model, data, folder):
            errors[name] = max(errors.get(name, 0.0), float(np.abs(work() - want).max()))
            rows.setdefault(name, []).append(cpu_seconds(work))
    for name, seconds in rows.items():
        times = " | ".join(f"{one:.2f}" for one in seconds)
        print(f"| {name} | {times} | {errors[name]:.0e} |")


def eager(torch, network, data: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return torch.sigmoid(network(torch.from_numpy(data))).numpy()


def runners(torch, network, model: PickingModel, data: np.ndarray, folder: Path):
    yield "PyTorch, eager", lambda: eager(torch, network, data)
    for engine, precision in (
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
    ):
        one = open_engine(model, engine=engine, precision=precision)  # type: ignore[arg-type]
        name = {"torch": "PyTorch, channels last", "openvino": "OpenVINO"}[engine]
        yield f"{name}, {precision}", lambda one=one: one.infer(data)
    try:
        import onnxruntime
    except ImportError:
        print("ONNX Runtime is not installed: no row (pip install onnx onnxscript onnxruntime)")
        return
    path = folder / f"net-{data.shape[-1]}.onnx"
    torch.onnx.export(network, (torch.from_numpy(data),), str(path), dynamo=True, verbose=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    yield (
        "ONNX Runtime, float32",
        lambda: 1 / (1 + np.exp(-session.run(None, {name: data})[0])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", action="store_true", help="the table of engines, no more")
    parser.add_argument("--tiles", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--halo", type=int, default=8)
    parser.add_argument("--edges", type=int, nargs=2, default=[256, 512])
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("openvino", "dask", "numpy"))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load()}; "
        f"{packages}; seed {SEED}; channels 24/48/72/108, {options.precision}, one thread a worker"
    )
    with tempfile.TemporaryDirectory() as folder:
        (engines if options.engines else whole)(options, Path(folder))


if __name__ == "__main__":
    main()
