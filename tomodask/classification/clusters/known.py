"""Which known structure an average is like.

The average is the reference of one alignment and the known maps are its particles, so that the
average is turned over all rotations once for all of them; from the best pose the motion is refined
along the slope of the correlation (`tomodask.rounds.map_pair`), and the average, brought back by
it, is compared shell by shell.  The structural discrepancy of the subdivision paper [1]_ is the
resolution at which that Fourier shell correlation falls below 0.5.

.. [1] Xu et al., "Deep learning-based subdivision approach for large scale macromolecules structure
   recovery from electron cryo tomograms", Bioinformatics 33, i13 (2017).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.resampling import fitted
from tomodask.averaging.fsc import fsc, resolution_at
from tomodask.averaging.map_filters import centred
from tomodask.data.columns import SHIFT
from tomodask.data.job_input import job_template
from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.rounds.map_pair import MapPair
from tomodask.rounds.superposition import Motion, turned_map

__all__ = ["KnownMaps", "known_maps", "nearest_known"]

_log = logging.getLogger(__name__)
_STEP = 20.0  # degrees, of the search
_SAME = 0.01  # by which voxel sizes may differ, as a share


class KnownMaps(Mapping[str, np.ndarray]):
    """Name → map, each made ready to be compared (`known_maps`), which is not to be done again.

    Parameters
    ----------
    maps : mapping of str to array of float32, shape (box, box, box)
        Centred.
    voxel_size : float
        Of all of them, Å.
    """

    def __init__(self, maps: Mapping[str, np.ndarray], voxel_size: float) -> None:
        self._maps, self.voxel_size = dict(maps), float(voxel_size)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def fits(self, voxel_size: float, box: int) -> bool:
        """Whether they are of this voxel size (Å, to 1 %) and box (voxels)."""
        near = abs(self.voxel_size - voxel_size) <= _SAME * voxel_size
        return near and all(one.shape == (box, box, box) for one in self._maps.values())


def known_maps(
    known: Mapping[str, np.ndarray | xr.DataArray], *, voxel_size: float, box: int
) -> KnownMaps:
    """Known maps in the voxels and the box of the averages they are compared with, centred.

    What is resampled, cut or padded is told in the log.  The centre is that of the squared density.

    Parameters
    ----------
    known : mapping
        Name → map: an array of `voxel_size`, or a DataArray with ``attrs["voxel_size"]``, Å.
        `KnownMaps` that fit are given back as they are.
    voxel_size : float
        Wanted, Å; sizes that differ by 1 % or less count as one.
    box : int
        Wanted edge, voxels.

    Returns
    -------
    KnownMaps
        Arrays of float32, shape (box, box, box).

    Raises
    ------
    InputError
        If there is none, or one is not a map, has voxels that are not finite, or holds one value
        only (in the box, too).
    """
    if not known:
        raise InputError("known is empty; give the maps to compare with")
    if isinstance(known, KnownMaps) and known.fits(voxel_size, box):
        return known  # centred twice, they would be interpolated twice
    own = known.voxel_size if isinstance(known, KnownMaps) else voxel_size
    out = {}
    for name, one in known.items():
        values = one if isinstance(one, xr.DataArray) else np.asarray(one)
        if values.ndim != 3:
            raise InputError(
                f"known[{name!r}] must be a map with the axes (z, y, x), got shape {values.shape}"
            )
        theirs = float(getattr(one, "attrs", {}).get("voxel_size", own))
        given = xr.DataArray(
            np.asarray(values), dims=("z", "y", "x"), attrs={"voxel_size": theirs, "source": name}
        )
        finer = job_template(given, voxel_size, True, role="known map").to_numpy()
        # Before it is cut: a particle beside the middle would lose a part.
        made = fitted(centred(fitted(finer, max(*finer.shape, box))), box)
        if not np.ptp(made) > 0:
            raise InputError(
                f"known[{name!r}] holds one value only in a box of {box} voxels of {voxel_size:g} Å"
            )
        if given.shape != made.shape or abs(theirs - voxel_size) > _SAME * voxel_size:
            _log.info(
                "known map %s: %s voxels of %g Å made %d³ of %g Å",
                name, "×".join(map(str, given.shape)), theirs, box, voxel_size,
            )  # fmt: skip
        out[name] = made
    return KnownMaps(out, voxel_size)


def nearest_known(
    volume: np.ndarray,
    known: Mapping[str, np.ndarray | xr.DataArray],
    *,
    voxel_size: float,
    resolution: float,
    diameter: float,
    mirrored: bool = False,
) -> pd.DataFrame:
    """Which known structures a map is like: each is laid on it, by a search of all rotations.

    Computes, in this thread.

    Parameters
    ----------
    volume : array, shape (n, n, n)
    known : mapping
        Name → map; it is centred and, of other voxels or another box, resampled, cut or padded.
        Where many maps are compared, give what `known_maps` gives: it is taken as it is.
    voxel_size : float
        Å.
    resolution : float
        Finest detail that is compared in the search and in ``correlation``, Å.
    diameter : float
        Of the soft sphere, Å.
    mirrored : bool
        Compare the mirror image of each known map, too, and tell of the likelier one: the hand of
        a tomogram is only as sure as the sense of its tilt axis.

    Returns
    -------
    DataFrame
        A row a structure, the likest first: ``name``, ``correlation`` in the band,
        ``discrepancy``, the resolution (Å) at which the FSC of the two falls below 0.5 (the
        structural discrepancy of [1]_; infinite if at once), and ``mirrored``.

    Raises
    ------
    InputError
        If the map is not cubic or holds nothing, or a known one cannot be compared.
    """
    volume = np.asarray(volume, np.float32)
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise InputError(f"volume must be a cubic map, got shape {volume.shape}")
    n = len(volume)
    maps = known_maps(known, voxel_size=voxel_size, box=n)
    images = [(name, False, values) for name, values in maps.items()]
    if mirrored:
        images += [(name, True, _mirrored(values)) for name, values in maps.items()]
    attrs = {"voxel_size": float(voxel_size)}
    boxes = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), np.stack([one for *_, one in images]))},
        coords={"particle": np.arange(len(images))},
        attrs=attrs,
    )
    found = align_subtomograms(
        boxes,
        xr.DataArray(volume, dims=("z", "y", "x"), attrs=attrs),
        tilt_range=(-90.0, 90.0),
        angular_step=_STEP,
        resolution=max(resolution, 2 * voxel_size),
        diameter=diameter,
        quiet=True,
    ).compute(scheduler="synchronous")
    # A known map shows the volume at (R, t): the motion to the volume is the way back.
    turns = orientations(found).inv()
    shifts = -turns.apply(found[list(SHIFT[::-1])].to_numpy(float) / voxel_size)
    rows = []
    for (name, mirror, values), turn, shift in zip(images, turns, shifts, strict=True):
        correlation, discrepancy = _compared(
            values, volume, turn, shift, voxel_size, resolution, diameter
        )
        rows.append(
            {
                "name": name,
                "correlation": correlation,
                "discrepancy": discrepancy,
                "mirrored": mirror,
            }
        )
    table = pd.DataFrame(rows)
    table = table.sort_values(["correlation", "name", "mirrored"], ascending=[False, True, True])
    return table.drop_duplicates("name", ignore_index=True)


def _compared(
    values: np.ndarray,
    volume: np.ndarray,
    turn: Rotation,
    shift_xyz: np.ndarray,
    voxel_size: float,
    resolution: float,
    diameter: float,
) -> tuple[float, float]:
    """Correlation in the band after the best motion near a start, and the discrepancy, Å."""
    pair = MapPair.of(values, volume, voxel_size, resolution, diameter)
    turn, shift, score = pair.nearest_optimum(turn, shift_xyz)
    motion = Motion(turn, shift * voxel_size, score)
    back = turned_map(volume, motion, voxel_size=voxel_size)
    curve = fsc(values, back, voxel_size=voxel_size, diameter=diameter)
    return score, resolution_at(curve, 0.5)


def _mirrored(volume: np.ndarray) -> np.ndarray:
    """The mirror image about the plane z = n // 2."""
    flipped = volume[::-1]
    return np.ascontiguousarray(np.roll(flipped, 1, axis=0) if len(volume) % 2 == 0 else flipped)
