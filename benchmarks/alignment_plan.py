"""A million particles, twenty candidates each: what the graph of `align_subtomograms` weighs.

    python benchmarks/alignment_plan.py [--candidates 20] [--small | --large]

The graphs are the true ones, of boxes of a store, up to 10⁵ particles (10⁶ with --large).  They are
run, too, on two local workers, with tasks that take no time and hand on as many bytes as the true
ones: what is left is Dask's.  The cost of a partition is the slope between two runs, and what 10⁶
particles need follows from it.  64³ boxes, ±60°, 20° grid; nothing is read from disk.  --small
takes a tenth of the particles: it shows that all works, its slopes are rough.
"""

from __future__ import annotations

import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[threads] = "1"

import argparse
import platform
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import Delayed
from distributed import Client, LocalCluster
from distributed.diagnostics import MemorySampler

from tomodask.alignment import candidate_bag as bag
from tomodask.alignment.batches import BatchFolder
from tomodask.alignment.noise import ShellPower
from tomodask.alignment.particle import POSE
from tomodask.alignment.poses import align_subtomograms
from tomodask.data import subtomograms as storing
from tomodask.data.subtomogram_store import StoredBox
from tomodask.data.subtomogram_table import batch_size, subtomogram_dataset
from tomodask.simulation.phantom import phantom_map, phantom_subtomograms

BOX, VOXEL, TILTS = 64, 6.0, (-60.0, 60.0)
MILLION = 1_000_000
KINDS = ("plan", "search", "others")  # of tasks, whose results move between workers
SHARE = 0.05  # what Dask may cost of what it runs


# Tasks that take no time; workers import them by name, as they do the true ones.


def idle_blocks(readers: list[Any]) -> np.ndarray:
    """A block of boxes that weighs what a true one does, its pages never touched."""
    return np.zeros((len(readers), *((BOX,) * 3)), np.float32)


def idle_plan(*args: Any, **kwargs: Any) -> np.ndarray:
    return np.zeros(int(os.environ["IDLE_PLAN"]), np.uint8)


def idle_noise(
    blocks: Any, frequencies: Any, place: Any, kinds: list[int], **kwargs: Any
) -> dict[int, ShellPower]:
    return dict.fromkeys(kinds, ShellPower(np.ones(BOX // 2, np.int64), 1))


def idle_search(
    blocks: Any, plans: Any, place: Any, start: int, identities: np.ndarray, *args: Any, **kw: Any
) -> list[Any]:
    payload = int(os.environ["IDLE_PAYLOAD"])
    return [start, np.zeros((len(identities), payload), np.uint8)]


def idle_refine(found: list[Any], *args: Any, **kwargs: Any) -> np.ndarray:
    start, data = found
    poses = np.zeros(len(data), POSE)
    poses["particle"] = start + np.arange(len(data))
    poses["matrix"], poses["score"] = np.eye(3), 0.5
    return poses


def job(count: int, *, candidates: int, tomograms: int = 1, whiten: bool = False) -> Delayed:
    """The graph of an alignment of boxes that are not there."""
    where, written = "/data/some/where/boxes.zarr", "0" * 32
    readers = [StoredBox(where, i, (BOX,) * 3, written, 10**18 + i) for i in range(count)]
    # A tilt range of its own makes a tomogram a measurement, as its record would.
    tomogram = np.arange(count) * tomograms // count
    table = pd.DataFrame(
        {
            "image": [f"{i}@{where}" for i in range(count)],
            "tilt_min": TILTS[0] + 1e-3 * tomogram,
            "tilt_max": np.full(count, TILTS[1]),
        }
    )
    with (
        mock.patch.object(storing, "read_boxes", idle_blocks),
        mock.patch.object(bag, "noise", idle_noise),
        mock.patch.object(bag, "search", idle_search),
        mock.patch.object(bag, "refine", idle_refine),
        mock.patch.object(bag, "plan", idle_plan),
    ):
        blocks = storing.lazy_boxes(readers, (BOX,) * 3)
        dataset = subtomogram_dataset(blocks, table, voxel_size=VOXEL, attrs={})
        reference = phantom_map(voxel_size=VOXEL, box=BOX)
        return align_subtomograms(dataset, reference, candidates=candidates, whiten=whiten)


def particle(candidates: int) -> dict[str, float]:
    """Bytes and seconds of one particle, and of what is made once for all."""
    seen: dict[str, Any] = {}
    search = bag.search

    def spy(blocks: Any, plans: Any, *args: Any, **kwargs: Any) -> Any:
        seen["found"], seen["plan"] = search(blocks, plans, *args, **kwargs), plans[0]
        return seen["found"]

    volumes, _ = phantom_subtomograms(33, box=BOX, voxel_size=VOXEL, snr=0.1)
    boxes = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), da.from_array(volumes, (32, -1, -1, -1)))},
        coords={"particle": np.arange(33)},
        attrs={"voxel_size": VOXEL},
    )
    reference = phantom_map(voxel_size=VOXEL, box=BOX)

    def cpu(count: int) -> float:
        few = boxes.isel(particle=slice(0, count))
        call = {"tilt_range": TILTS, "candidates": candidates, "batch": count}
        began = time.process_time()
        align_subtomograms(few, reference, **call).compute()
        return time.process_time() - began

    with dask.config.set(scheduler="synchronous"):
        with mock.patch.object(bag, "search", spy):
            cpu(2)  # compiles
        one, many = cpu(1), cpu(33)
    found = len(cloudpickle.dumps(seen["found"])) / 2
    return {
        "seconds": (many - one) / 32,
        "once": one - (many - one) / 32,
        "found": found,
        "plan": len(cloudpickle.dumps(seen["plan"])),
        "pose": POSE.itemsize,
    }


def weigh(
    count: int, *, candidates: int, tomograms: int = 1, whiten: bool = False
) -> dict[str, float]:
    """Build a graph, make it ready as a client does, and print what it weighs."""
    began = time.process_time()
    built = job(count, candidates=candidates, tomograms=tomograms, whiten=whiten)
    building = time.process_time() - began
    began = time.process_time()
    (ready,) = dask.optimize(built)
    graph = dict(ready.__dask_graph__())
    weight = len(cloudpickle.dumps(graph))
    sending = time.process_time() - began
    parts = -(-count // batch_size(count, BOX))
    figures = {
        "particles": count,
        "parts": parts,
        "keys": len(graph),
        "bytes": weight,
        "building": building,
        "sending": sending,
    }
    print(
        f"  {count:9,d} {tomograms:9,d} {parts:10,d} {len(graph):8,d} {len(graph) / parts:8.2f} "
        f"{weight / 1e6:8.1f} {weight / count:8.0f} {building:8.2f} {sending:8.2f} "
        f"{1e3 * (building + sending) / parts:10.2f}{'   whiten' if whiten else ''}",
        flush=True,
    )
    return figures


def run(client: Client, count: int, *, candidates: int, tomograms: int = 1) -> dict[str, float]:
    """Run a graph of idle tasks; CPU and bytes of everything but building it."""
    built = job(count, candidates=candidates, tomograms=tomograms)
    before = client.run(spent)
    here, began = time.process_time(), time.perf_counter()
    memory = MemorySampler()
    with memory.sample("run", client=client, measure="managed", interval=0.2):
        table = client.compute(built).result()
    wall, here = time.perf_counter() - began, time.process_time() - here
    after = client.run(spent)
    assert isinstance(table, pd.DataFrame)
    assert len(table) == count
    there = sum(after[w][0] - before[w][0] for w in after)
    plans, found, moved = (
        sum(after[w][1][kind] - before[w][1][kind] for w in after) for kind in KINDS
    )
    held = float(memory.to_pandas().max().iloc[0])
    parts = -(-count // batch_size(count, BOX))
    print(
        f"  {count:9,d} {tomograms:9,d} {parts:10,d} {wall:8.1f} {here:10.1f} {there:10.1f} "
        f"{plans / 1e6:9.1f} {found / 1e6:9.1f} {moved / 1e6:9.1f} {(found + moved) / count:10.0f} "
        f"{held / 1e6:8.0f}",
        flush=True,
    )
    return {"parts": parts, "wall": wall, "here": here, "there": there, "moved": moved}


def spent(dask_worker: Any) -> tuple[float, dict[str, int]]:
    """CPU seconds of a worker, and bytes that came to it from others."""
    came = dict.fromkeys(KINDS, 0)
    for one in dask_worker.transfer_incoming_log:
        for key, size in one["keys"].items():
            kind = (key[0] if isinstance(key, tuple) else key).split("-")[0]
            came[kind if kind in came else "others"] += size
    return time.process_time(), came


def checkpoints(rows: int) -> tuple[float, float, int]:
    """Seconds to write and to read the file of a batch, and its bytes."""
    poses = np.zeros(rows, POSE)
    with tempfile.TemporaryDirectory() as path:
        folder = BatchFolder.open(path, "benchmark")
        began = time.perf_counter()
        for i in range(300):
            folder.write(f"batch{i:06d}", poses)
        wrote = time.perf_counter()
        for i in range(300):
            assert folder.read(f"batch{i:06d}", POSE) is not None
        read = time.perf_counter()
        size = Path(path, "batch000000.npy").stat().st_size
    return (wrote - began) / 300, (read - wrote) / 300, size


def slope(small: dict[str, float], large: dict[str, float], name: str) -> float:
    """What one partition more costs."""
    return (large[name] - small[name]) / (large["parts"] - small["parts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--large", action="store_true", help="build and run all 10⁶, some minutes")
    parser.add_argument("--small", action="store_true", help="a tenth of the particles")
    args = parser.parse_args()
    count, less = args.candidates, 10 if args.small else 1
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")

    one = particle(count)
    print(
        f"a particle, {count} candidates: {1e3 * one['seconds']:.1f} ms of one core; "
        f"{one['found'] / 1e3:.1f} kB from search to refinement, {one['pose']} bytes a pose; once "
        f"for a tilt range or record: {one['once']:.1f} s, {one['plan'] / 1e6:.1f} MB"
    )

    print("\ngraphs: CPU seconds of the client to build, then to optimise and pack")
    print(
        f"  {'particles':>9s} {'tomograms':>9s} {'partitions':>10s} {'keys':>8s} {'/ part':>8s} "
        f"{'MB':>8s} {'bytes/p':>8s} {'build':>8s} {'pack':>8s} {'ms / part':>10s}"
    )
    counts = (1_000, 10_000) if args.small else (1_000, 10_000, 100_000)
    weighed = [weigh(n, candidates=count) for n in counts]
    if args.large:
        weighed.append(weigh(MILLION, candidates=count))
    for n in counts[1:]:
        weigh(n, candidates=count, tomograms=n // 1000)
    weigh(counts[-1], candidates=count, tomograms=counts[-1] // 1000, whiten=True)

    print(
        "\nidle tasks on two workers: seconds by the clock; CPU of client and scheduler, of "
        "workers;\nMB that moved between workers: plans, candidates (found), all else (bytes a "
        "particle: without plans);\nmost MB that results held at a time"
    )
    print(
        f"  {'particles':>9s} {'tomograms':>9s} {'partitions':>10s} {'clock':>8s} "
        f"{'scheduler':>10s} {'workers':>10s} {'plans':>9s} {'found':>9s} {'else':>9s} "
        f"{'bytes/p':>10s} {'held':>8s}"
    )
    # By its own name: workers then import the idle tasks and do not unpickle them each time.
    import alignment_plan as this

    os.environ["IDLE_PAYLOAD"] = str(int(one["found"]))
    os.environ["IDLE_PLAN"] = str(int(one["plan"]))
    with (
        # Workers keep a line for each transfer, a thousand unless told otherwise.
        dask.config.set(
            {
                "distributed.admin.low-level-log-length": 10_000_000,
                "distributed.admin.large-graph-warning-threshold": "1GB",
            }
        ),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):
        this.run(client, 512, candidates=count)  # imports
        small = this.run(client, 8_192 // less, candidates=count)
        large = this.run(client, 81_920 // less, candidates=count)
        if args.large:
            large = this.run(client, MILLION, candidates=count)
        this.run(client, 10_000 // less, candidates=count, tomograms=max(10 // less, 2))
        this.run(client, 100_000 // less, candidates=count, tomograms=100 // less)
    scheduler, worker = slope(small, large, "here"), slope(small, large, "there")

    batch = batch_size(MILLION, BOX)
    parts = MILLION // batch
    write, read, size = checkpoints(batch)
    big = weighed[-1]
    client_s = (big["building"] + big["sending"]) / big["parts"]
    print(
        f"\na partition of {batch} particles: {batch * one['seconds']:.2f} s of work; of Dask "
        f"{1e3 * client_s:.2f} ms before the start, {1e3 * scheduler:.2f} ms of the scheduler, "
        f"{1e3 * worker:.2f} ms of the worker; its checkpoint {size} bytes, {1e3 * write:.1f} ms "
        f"to write, {1e3 * read:.2f} ms to read"
    )
    work = MILLION * one["seconds"]
    print(f"\n10⁶ particles × {count} candidates, {work / 3600:.1f} core hours of work:")
    print(
        f"  {parts:,d} partitions, {parts * big['keys'] / big['parts']:,.0f} keys, "
        f"{MILLION * big['bytes'] / big['particles'] / 1e6:.0f} MB of graph, "
        f"{parts * client_s:.0f} s until the first task runs"
    )
    print(
        f"  candidates {MILLION * one['found'] / 1e9:.0f} GB, refined where they lie, poses "
        f"{MILLION * one['pose'] / 1e6:.0f} MB, through the tree; {parts:,d} files of checkpoints, "
        f"{parts * size / 1e6:.0f} MB, {parts * read:.0f} s to read again"
    )
    print(f"  {'cores':>7s} {'work, s':>9s} {'before, s':>9s} {'scheduler':>15s} {'whole, s':>9s}")
    for cores in (1, 2, 16, 64, 256, 1024):
        busy = max(work / cores + parts * worker / cores, parts * scheduler)
        whole = parts * client_s + busy
        print(
            f"  {cores:7,d} {work / cores:9.0f} {parts * client_s:9.0f} "
            f"{100 * parts * scheduler / busy:13.0f} % {whole:9.0f}"
        )
    print(
        f"partitions that keep Dask's share below {100 * SHARE:.0f} %: at least "
        f"{worker / SHARE:.2f} s of work ({worker / SHARE / one['seconds']:.0f} particles) for the "
        f"worker's part, and for the scheduler's and the client's "
        f"{(scheduler + client_s) / SHARE / one['seconds']:.1f} particles for each core"
    )


if __name__ == "__main__":
    main()
