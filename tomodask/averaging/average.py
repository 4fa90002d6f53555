"""What an average is, and how it comes of the sums of its half sets."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.arrays.sampling import half_sphere
from tomodask.averaging.corrected_fsc import corrected_fsc
from tomodask.averaging.fsc import fsc
from tomodask.averaging.half_sums import AMOUNT_UNIT, HalfSums, Totals
from tomodask.averaging.map_filters import from_half_sphere
from tomodask.averaging.signal_to_noise import spectral_snr
from tomodask.averaging.symmetrising import symmetrised
from tomodask.errors import InputError

__all__ = ["Average", "check_half", "finished_averages"]

_log = logging.getLogger(__name__)
_LEAST = 2  # particles a half: of one alone, no noise can be told


@dataclass(frozen=True)
class Average:
    """The average of subtomograms, in the reference's frame.

    Attributes
    ----------
    average, half_1, half_2 : array of float32, shape (n, n, n)
        Centre at voxel ``n // 2``.
    voxel_size : float
        Å.
    particles : (int, int)
        In each half.
    coverage : float
        Share of the Fourier voxels that at least one particle measured.
    ssnr : DataFrame
        ``frequency``, ``resolution``, ``ssnr`` of the average and ``noise`` of a box by shell; see
        `tomodask.averaging.signal_to_noise`.
    weights : (float, float)
        Sum of the particles' weights in each half: of whole particles, their number.
    symmetry : str
        Point group that both sums were made equal under.
    set_aside : DataFrame
        ``particle``, ``image`` and ``reason`` of each box that could not be averaged.
    """

    average: np.ndarray
    half_1: np.ndarray
    half_2: np.ndarray
    voxel_size: float
    particles: tuple[int, int]
    coverage: float
    ssnr: pd.DataFrame = field(repr=False)
    weights: tuple[float, float]
    symmetry: str
    set_aside: pd.DataFrame = field(repr=False)

    def fsc(
        self, *, diameter: float | None = None, mask: xr.DataArray | None = None
    ) -> pd.DataFrame:
        """Fourier shell correlation of the halves, see `tomodask.fsc`."""
        halves = self.half_1, self.half_2
        return fsc(*halves, voxel_size=self.voxel_size, diameter=diameter, mask=mask)

    def corrected_fsc(
        self, *, diameter: float | None = None, mask: xr.DataArray | None = None, seed: int = 0
    ) -> pd.DataFrame:
        """The same under a mask, less what the mask adds, see `tomodask.corrected_fsc`."""
        halves = self.half_1, self.half_2
        size = self.voxel_size
        return corrected_fsc(*halves, voxel_size=size, diameter=diameter, mask=mask, seed=seed)


def check_half(number: int, count: int, aside: str = "") -> None:
    """Refuse half `number`, 1 or 2, of too few particles; `aside` tells of those set aside."""
    if count < _LEAST:
        raise InputError(
            f"half {number} has {count} particle{'' if count == 1 else 's'}, it needs at least "
            f"{_LEAST}{aside}; give more particles, or share them out anew by the column half"
        )


def finished_averages(
    sums: HalfSums,
    labels: tuple[int | None, ...],
    grid: np.ndarray,
    symmetry: str,
    n: int,
    voxel_size: float,
    share: float,
) -> Average | dict[int, Average]:
    """Averages of all classes; of one without a label, that alone.

    Parameters
    ----------
    sums : HalfSums
        Of the halves of each class, two slots a class.
    labels : tuple of int
        Of the classes; (None,) for one that has no label.
    grid : array, shape (turns, 3, 3)
        Those turns of the symmetry that carry the grid of frequencies into itself.
    symmetry : str
    n : int
        Edge of the boxes, voxels.
    voxel_size : float
        Å.
    share : float
        Of the mean weight of a shell, that is added to each weight.

    Raises
    ------
    InputError
        If a half (without labels), or a half of each class, has fewer than two particles.
    """
    aside = pd.DataFrame(list(sums.set_aside), columns=["particle", "image", "reason"])
    told = "; ".join(f"particle {i} ({name}): {why}" for i, name, why in sums.set_aside[:5])
    if len(aside):
        more = f"; and {len(aside) - 5} more" if len(aside) > 5 else ""
        _log.warning("%d boxes are left out of the average: %s%s", len(aside), told, more)
    if labels == (None,):
        for half in (0, 1):
            check_half(half + 1, int(sums.particles[half]), f" ({told})" if told else "")
    frequencies = half_sphere(n / 2 - 0.5)
    shells = np.rint(np.linalg.norm(frequencies, axis=1)).astype(np.intp)
    enough = (sums.amount * AMOUNT_UNIT).reshape(-1, 2).min(1) >= _LEAST
    if not enough.any():
        raise InputError(
            f"none of {len(labels)} classes has {_LEAST} particles in each half; give more "
            "particles, or ask for fewer classes"
        )
    if not enough.all():
        few = ", ".join(str(label) for label, ok in zip(labels, enough, strict=True) if not ok)
        _log.warning("left out, with fewer than %d particles in a half: class %s", _LEAST, few)
    totals, out = sums.totals(), {}
    for place in np.flatnonzero(enough):
        mine = slice(2 * place, 2 * place + 2)
        data = symmetrised(totals.data[mine], frequencies, grid)
        weight = symmetrised(totals.weight[mine], frequencies, grid)
        whole = data.sum(0), weight.sum(0)
        held = sums.amount[mine] * AMOUNT_UNIT
        out[labels[place]] = Average(
            _volume(*whole, n, share),
            _volume(data[0], weight[0], n, share),
            _volume(data[1], weight[1], n, share),
            voxel_size,
            (int(sums.particles[mine][0]), int(sums.particles[mine][1])),
            float((whole[1] > 0).mean()),
            spectral_snr(
                *whole,
                shells=shells,
                **_radial(totals, mine, len(grid)),
                box=n,
                voxel_size=voxel_size,
            ),
            (float(held[0]), float(held[1])),
            symmetry.strip().upper(),
            aside,
        )
    return out[None] if labels == (None,) else out  # type: ignore[return-value,index]


def _radial(totals: Totals, mine: slice, turns: int) -> dict[str, np.ndarray]:
    """Sums over shells of both halves; a turn of the grid adds each particle once more."""
    return {
        name: turns * getattr(totals, name)[mine].sum(0) for name in ("power", "spread", "count")
    }


def _volume(data: np.ndarray, weight: np.ndarray, n: int, share: float) -> np.ndarray:
    """The box of a weighted sum over half a sphere of frequencies."""
    k = half_sphere(n / 2 - 0.5)
    if share:
        shell = np.rint(np.linalg.norm(k, axis=1)).astype(np.intp)
        seen = np.maximum(np.bincount(shell, weight > 0), 1)
        mean = (np.bincount(shell, weight) / seen)[shell]
        data, weight = data * (1 + share), np.where(weight > 0, weight + share * mean, 0)
    values = np.divide(data, weight, out=np.zeros_like(data), where=weight > 0)
    return from_half_sphere(values, k, n)
