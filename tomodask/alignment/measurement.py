"""What was measured of each particle: by the record of its tilt series, or a tilt range alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tomodask.alignment.checks import tilt_ranges
from tomodask.arrays.fourier import measured
from tomodask.arrays.kept import KeptArrays
from tomodask.arrays.tilt_weights import record_digest, tilt_weights, weights_at
from tomodask.data.subtomogram_table import tilt_series_of

__all__ = ["FINER", "LEAST_WEIGHT", "Measurement", "measurements"]

_log = logging.getLogger(__name__)

#: A Fourier voxel with less weight than this tells of noise only: it is left out.
LEAST_WEIGHT = 0.05
#: Samples of `Measurement.volume` in one Fourier voxel: a contrast transfer function turns fast.
FINER = 2

#: Each plan of an alignment asks twice: 124 tilt series in boxes of 64 voxels, 15 in boxes of 128.
_kept = KeptArrays(2**26)


@dataclass(frozen=True)
class Measurement:
    """What the particles of one tilt series, or of one tilt range, have in common.

    Attributes
    ----------
    tilt_range : (float, float)
        Degrees; NaN where the record tells.
    record : mapping, optional
        Of the tilt series, see `tomodask.arrays.tilt_weights.check_record`.
    """

    tilt_range: tuple[float, float]
    record: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """Tells one from others."""
        return repr(self.tilt_range) if self.record is None else record_digest(self.record)

    def weights(self, frequencies: np.ndarray, *, box: int, voxel_size: float) -> np.ndarray:
        """Weight of the model at whole frequencies (z, y, x) of a box, 0 where nothing is known.

        Returns
        -------
        array of float32, shape (count,)
            1 within a tilt range.
        """
        if self.record is None:
            return measured(frequencies[:, 0], frequencies[:, 2], self.tilt_range).astype(
                np.float32
            )
        z, y, x = np.rint(frequencies).astype(np.intp).T
        record = self.record
        key = self.digest, box, voxel_size
        w = _kept.get(key, lambda: tilt_weights(box, voxel_size, record))[z, y, x]
        return np.where(np.abs(w) < LEAST_WEIGHT, np.float32(0), w)

    def volume(self, *, box: int, voxel_size: float) -> np.ndarray:
        """The record's weights, `FINER` samples a Fourier voxel, to be looked up between them.

        Returns
        -------
        array of float32, shape (2 m + 1, 2 m + 1, m + 1)
            Frequency 0 at (m, m, 0); a little farther than the inscribed sphere.
        """
        assert self.record is not None
        m = FINER * (box // 2 + 1)
        around = np.arange(-m, m + 1) / (FINER * box)
        return weights_at(
            around, around, around[m:], box=box, voxel_size=voxel_size, record=self.record
        )


def measurements(
    table: pd.DataFrame,
    attrs: Mapping[Any, Any],
    tilt_range: tuple[float, float] | None,
) -> tuple[np.ndarray, list[Measurement]]:
    """What was measured of the particles of a table.

    Parameters
    ----------
    table : DataFrame
        A particle table.
    attrs : mapping
        Of the subtomograms; ``tilt_series`` is {tomogram: record of its tilt series}.
    tilt_range : (float, float), optional
        Degrees, of all particles; it takes the place of records.

    Returns
    -------
    kind : array of intp, shape (particles,)
        Which of the measurements each particle is of.
    kinds : list of Measurement
        Tilt ranges before records; tomograms of equal records are one.

    Raises
    ------
    InputError
        If a record is damaged, or a particle has neither a record nor a tilt range.
    """
    records = {} if tilt_range is not None else tilt_series_of(attrs, "subtomograms")
    digests = {name: record_digest(record) for name, record in records.items()}
    if "tomogram" in table:
        mine = table["tomogram"].astype(str).map(digests)
    else:  # boxes of one tomogram need not name it
        mine = pd.Series(next(iter(digests.values())) if len(digests) == 1 else None, table.index)
    known = mine.notna().to_numpy()
    tilts = np.full((len(table), 2), np.nan)
    if not known.all() or not len(table):
        tilts[~known] = tilt_ranges(table[~known], tilt_range)
    if known.any() and not known.all():
        _log.warning(
            "%d of %d particles are of tomograms without a record of the tilt series: of them the "
            "tilt range alone is known",
            (~known).sum(),
            len(table),
        )
    ranges, kind = np.unique(tilts[~known], axis=0, return_inverse=True)
    kinds = [Measurement((float(low), float(high))) for low, high in ranges]
    out = np.zeros(len(table), np.intp)
    out[~known] = kind.ravel()
    for digest in sorted(set(mine[known])):
        out[(mine == digest).to_numpy()] = len(kinds)
        name = next(name for name, one in digests.items() if one == digest)
        kinds.append(Measurement((np.nan, np.nan), records[name]))
    return out, kinds
