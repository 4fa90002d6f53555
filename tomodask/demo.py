"""The embedded demo: the main job on a tomogram of phantoms, held against the truth."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from tomodask.arrays.geometry import angular_distance
from tomodask.averaging.fsc import fsc, resolution_at
from tomodask.data.particles import orientations, read_particles, write_particles
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.nets.engines import require_engine
from tomodask.picking.scoring.pairing import matched_pairs
from tomodask.project import Run, run
from tomodask.report import Truth, write_report
from tomodask.simulation.phantom import phantom_map, phantom_tomogram

__all__ = ["Comparison", "compare_with_truth", "demo_model", "run_demo"]

_TOLERANCE = 60.0  # Å: half the particle's radius; a pick farther off is not of this particle


@dataclass(frozen=True)
class Comparison:
    """Found poses held against true ones.

    Attributes
    ----------
    recall, precision : float
        Of the true particles the share that was found; of the picks the share that is one.
    angular_error : float
        Median over the true picks, degrees.
    shift_error : float
        Median distance of the particles' centres, voxels.
    resolution : float
        Where the FSC of the average against the true map falls below 0.5, Å.
    curve : DataFrame
        That FSC.
    """

    recall: float
    precision: float
    angular_error: float
    shift_error: float
    resolution: float
    curve: pd.DataFrame

    def lines(self) -> list[Truth]:
        """The figures beside what is expected of the demo."""
        return [
            Truth("recall", f"{self.recall:.3f}", "≥ 0.95", self.recall >= 0.95),
            Truth("precision", f"{self.precision:.3f}", "≥ 0.95", self.precision >= 0.95),
            Truth(
                "median angular error",
                f"{self.angular_error:.2f}°",
                "≤ 3°",
                self.angular_error <= 3,
            ),
            Truth(
                "median shift error",
                f"{self.shift_error:.2f} voxel",
                "≤ 0.5 voxel",
                self.shift_error <= 0.5,
            ),
            Truth(
                "FSC 0.5 of the average against the phantom",
                f"{self.resolution:.1f} Å",
                "≤ 30 Å",
                self.resolution <= 30,
            ),
        ]


def compare_with_truth(
    poses: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    average: np.ndarray,
    true_map: np.ndarray,
    voxel_size: float,
    tolerance: float = _TOLERANCE,
) -> Comparison:
    """Match poses to the true particles one to one, nearest first, and measure.

    Parameters
    ----------
    poses : DataFrame
        ``z, y, x``, ``shift_*`` (Å) and ``quat_*``.
    truth : DataFrame
        The same of the true particles, and ``kind``: rows other than ``particle`` are decoys, and
        a pick on one of them is false.
    average, true_map : array, shape (n, n, n)
    voxel_size, tolerance : float
        Å; a pick farther than `tolerance` from every true particle is false.
    """
    true = truth[truth["kind"] == "particle"].reset_index(drop=True)
    position = poses[["z", "y", "x"]].to_numpy(float)
    if "shift_z" in poses:
        position = position + poses[["shift_z", "shift_y", "shift_x"]].to_numpy(float)
    picks, trues, far = matched_pairs(position, true[["z", "y", "x"]].to_numpy(float), tolerance)
    curve = fsc(average, true_map, voxel_size=voxel_size)
    if not len(picks):
        return Comparison(0.0, 0.0, float("nan"), float("nan"), float("inf"), curve)
    angle = angular_distance(orientations(poses)[picks], orientations(true)[trues])
    return Comparison(
        recall=len(picks) / len(true),
        precision=len(picks) / len(poses),
        angular_error=float(np.median(angle)),
        shift_error=float(np.median(far)) / voxel_size,
        resolution=resolution_at(curve, 0.5),
        curve=curve,
    )


def demo_model() -> Path:
    """The model file that comes with the package: it knows the phantom and the decoy beside it.

    How it was trained is told by the JSON of the same name beside it, and by
    ``benchmarks/train_demo_model.py``.
    """
    return Path(str(resources.files("tomodask") / "models" / "phantom.safetensors"))


def run_demo(
    output: str | Path,
    *,
    method: Literal["segmentation", "template"] = "segmentation",
    scheduler: str | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> tuple[Run, Comparison]:
    """Make the phantom's tomogram, run the main job on it, and hold the result against the truth.

    Parameters
    ----------
    output : path
        A folder for everything: ``input/``, and ``run/`` with results and ``report.html``
        (``run_template/`` for the method of that name).  The same call goes on there.
    method : {"segmentation", "template"}
        How particles are found: by the network that comes with the package (`demo_model`), or by
        matching the map.
    scheduler, workers
        As in `tomodask.run`.
    seed : int
        Of the phantom.

    Returns
    -------
    run : Run
    comparison : Comparison
        Recall, precision, errors and resolution.

    Raises
    ------
    InputError
        If `output` cannot hold the demo, or nothing is installed that runs networks.
    """
    if method not in ("segmentation", "template"):
        raise InputError(f"method must be 'segmentation' or 'template', got {method!r}")
    by_model = method == "segmentation"
    if by_model:
        try:
            require_engine("auto")
        except InputError as error:
            raise InputError(f"{error}; the demo runs without by --method template") from None
    folder = Path(output)
    made = folder / "input"
    try:
        made.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {made}: {error.strerror}; give another output") from error
    tomogram, truth = phantom_tomogram(seed=seed)
    if not (made / "tomogram.zarr").exists():
        save_tomogram(tomogram, made / "tomogram.zarr")
    if not (made / "template.mrc").exists():
        save_tomogram(phantom_map(), made / "template.mrc")
    write_particles(truth, made / "truth.csv")
    shutil.copyfile(demo_model(), made / "model.safetensors")  # to try the commands on
    picker: dict[str, Any] = (
        {"model": made / "model.safetensors", "particle_class": "particle"}
        if by_model
        else {"angular_step": 20.0}
    )
    result = run(
        made / "tomogram.zarr",
        template=made / "template.mrc",
        output=folder / ("run" if by_model else "run_template"),
        scheduler=scheduler,
        workers=workers,
        **picker,
    )
    comparison = _measure(result, truth)
    write_report(result.output, truth=comparison.lines(), truth_fsc=comparison.curve)
    return result, comparison


def _measure(result: Run, truth: pd.DataFrame) -> Comparison:
    average = open_tomogram(result.average)
    voxel_size = result.voxel_size
    return compare_with_truth(
        read_particles(result.poses),
        truth,
        average=average.to_numpy(),
        true_map=phantom_map(voxel_size=voxel_size, box=average.shape[0]).to_numpy(),
        voxel_size=voxel_size,
    )
