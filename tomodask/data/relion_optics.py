"""RELION's optics groups: the pixel size that coordinates count in, kept and written again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Optics", "pixel_sizes"]

# The first of these that a file has is the pixel that rlnCoordinateX counts in: RELION 4 and 5
# count in pixels of the tilt series, 3.1 in those of the tomogram that boxes were cut from.
_PIXEL = ("rlnTomoTiltSeriesPixelSize", "rlnMicrographPixelSize", "rlnImagePixelSize")
_GROUP = "rlnOpticsGroup"


@dataclass(frozen=True)
class Optics:
    """The optics table as plain rows, so that it fits into ``DataFrame.attrs``."""

    rows: list[dict[str, Any]]

    @classmethod
    def of_blocks(cls, blocks: dict[str, Any]) -> Optics:
        """The block of that name, or one that looks like it."""
        for name, block in blocks.items():
            if name == "optics" or (
                isinstance(block, pd.DataFrame)
                and _GROUP in block
                and any(column in block for column in _PIXEL)
                and "rlnImageName" not in block
                and "rlnAngleRot" not in block
            ):
                table = block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
                return cls(
                    [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
                )
        return cls([])

    @classmethod
    def to_write(cls, table: pd.DataFrame, voxel_size: float | None, style: str) -> Optics:
        """The groups the table came with, brought to `voxel_size`; else one new group.

        A tilt series keeps its pixel size: what changes is the binning.
        """
        kept = table.attrs.get("optics")
        used = set(table[_GROUP]) if _GROUP in table else {1}
        if kept and used <= {row.get(_GROUP) for row in kept}:
            return cls([_brought_to(row, voxel_size, style) for row in kept])
        if voxel_size is None:
            return cls([])
        row: dict[str, Any] = {_GROUP: 1, "rlnOpticsGroupName": "opticsGroup1"}
        if style != "relion3.1":
            row |= {"rlnTomoTiltSeriesPixelSize": voxel_size, "rlnTomoSubtomogramBinning": 1.0}
        return cls([row | {"rlnImagePixelSize": voxel_size, "rlnImageDimensionality": 3}])

    def groups(self, table: pd.DataFrame) -> np.ndarray:
        """Group of each particle."""
        known = [row[_GROUP] for row in self.rows]
        if _GROUP in table and set(table[_GROUP]) <= set(known):
            return table[_GROUP].to_numpy()
        return np.full(len(table), known[0])

    def is_single(self, particles: pd.DataFrame) -> bool:
        """Whether all particles are of the one group there is."""
        alone = len(self.rows) == 1 and _GROUP in particles
        return alone and bool((particles[_GROUP] == self.rows[0].get(_GROUP)).all())

    def per_particle(self, table: pd.DataFrame, default: float) -> np.ndarray:
        """Å per coordinate pixel of each particle."""
        if not self.rows:
            return np.full(len(table), default)
        sizes = {row[_GROUP]: _pixel_of(row) or default for row in self.rows}
        return np.array([sizes[group] for group in self.groups(table)], float)


def pixel_sizes(
    particles: pd.DataFrame, optics: Optics, voxel_size: float | None
) -> np.ndarray | None:
    """Å per coordinate pixel of each particle; None where nobody says.

    In this order: the caller, the particle's optics group, ``rlnPixelSize``, and Warp's and older
    RELION's ``rlnDetectorPixelSize`` (µm) / ``rlnMagnification``.
    """
    count = len(particles)
    if voxel_size is not None:
        return np.full(count, voxel_size)
    by_group = {row.get(_GROUP): _pixel_of(row) for row in optics.rows}
    if by_group and all(by_group.values()):
        first = next(iter(by_group.values()))
        if _GROUP not in particles:
            return np.full(count, first)
        if set(particles[_GROUP]) <= set(by_group):
            return np.array([by_group[group] for group in particles[_GROUP]], float)
    for column in (*_PIXEL, "rlnPixelSize"):
        if column in particles and (numbers := _positive(particles[column])) is not None:
            return numbers
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(particles):
        detector = _positive(particles["rlnDetectorPixelSize"])
        magnification = _positive(particles["rlnMagnification"])
        if detector is not None and magnification is not None:
            return np.asarray(detector * 1e4 / magnification)
    return None


def _positive(values: pd.Series) -> np.ndarray | None:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    return np.asarray(numbers) if (numbers > 0).all() else None


def _pixel_of(row: dict[str, Any]) -> float | None:
    for column in _PIXEL:
        if column in row and float(row[column]) > 0:
            return float(row[column])
    return None


def _brought_to(row: dict[str, Any], voxel_size: float | None, style: str) -> dict[str, Any]:
    row = dict(row)
    if voxel_size is None or _pixel_of(row) == voxel_size:
        return row
    if "rlnTomoTiltSeriesPixelSize" in row:
        return row  # coordinates go on counting in pixels of the tilt series
    row.pop("rlnMicrographPixelSize", None)
    row["rlnImagePixelSize"] = voxel_size
    if style != "relion3.1":
        row["rlnTomoTiltSeriesPixelSize"] = voxel_size
    return row
