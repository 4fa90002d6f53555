"""What an alignment refuses or warns of in its references, before any graph runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.alignment.plan import masked_reference, rms_radius
from tomodask.arrays.geometry import matrices_zyx, rotation_grid
from tomodask.arrays.sampling import Spectrum, half_sphere, padded_spectrum, sample
from tomodask.arrays.symmetry import symmetry_group
from tomodask.errors import InputError

__all__ = [
    "check_mask",
    "check_references",
    "off_center",
    "symmetry_score",
    "warn_of_references",
]

_log = logging.getLogger(__name__)

#: A density whose middle is farther off than this part of its radius was hardly meant so.
_OFF = 0.25
#: A reference that is this much less like itself than about another axis has it elsewhere.
_ALIKE = 0.8
_SYMMETRIC = 0.3  # less is no symmetry at all
_TURNS_AT_MOST = 6
_FLOOR = 1e-3  # of the strongest shell's power


def check_references(
    references: Sequence[xr.DataArray], *, shape: tuple[int, ...], voxel_size: float
) -> np.ndarray:
    """The references' voxels, if they fit the boxes.

    Parameters
    ----------
    references : sequence of DataArray
    shape : tuple of int
        Of the boxes, particles first.
    voxel_size : float
        Of the boxes, Å.

    Returns
    -------
    array of float32, shape (K, n, n, n)

    Raises
    ------
    InputError
        If boxes or references are not cubes of one size and voxel size, or a reference is not
        finite or holds nothing.
    """
    box = tuple(shape[1:])
    if len(set(box)) != 1:
        raise InputError(f"subtomograms must be cubic boxes, got {box} voxels")
    if not references:
        raise InputError("reference must be a map or several, got an empty list")
    out = np.empty((len(references), *box), np.float32)
    for number, one in enumerate(references):
        name = "reference" if len(references) == 1 else f"reference {number + 1}"
        if tuple(one.shape) != box:
            raise InputError(
                f"{name} has {tuple(one.shape)} voxels, the boxes have {box}; cut or pad it "
                "about its centre to the size of the boxes"
            )
        theirs = one.attrs.get("voxel_size")
        if theirs is not None and abs(float(theirs) - voxel_size) > 0.01 * voxel_size:
            raise InputError(
                f"{name} has voxels of {float(theirs):g} Å, the boxes {voxel_size:g} Å; resample "
                f"it: tomodask convert REFERENCE OUT.mrc --resample-to {voxel_size:g}"
            )
        out[number] = one.values
        if not np.isfinite(out[number]).all() or np.ptp(out[number]) == 0:
            what = "zeros only" if not out[number].any() else "a constant or NaN map"
            raise InputError(
                f"{name} must hold finite, unequal values, got {what}; give the map of the "
                "particle that is looked for"
            )
    return out


def check_mask(
    mask: xr.DataArray | None, volumes: np.ndarray, *, diameter: float | None
) -> np.ndarray | None:
    """The mask's voxels, if it fits the references and leaves something of them.

    Raises
    ------
    InputError
        If it is of another size, not within 0 to 1, empty, or given beside a diameter.
    """
    if mask is None:
        return None
    if diameter is not None:
        raise InputError("give mask or diameter, one of them: both cut the reference out")
    values = np.asarray(mask.values, np.float32)
    if values.shape != volumes.shape[1:]:
        raise InputError(
            f"mask has {values.shape} voxels, the references have {volumes.shape[1:]}; cut or pad "
            "it about its centre"
        )
    if not (values.min() >= 0 and values.max() <= 1):  # NaN, too
        raise InputError(
            f"mask must lie within 0 to 1, got {values.min():g} to {values.max():g}; threshold the "
            "map it was made of and soften the edge"
        )
    for number, volume in enumerate(volumes):
        if not masked_reference(volume, mask=values).any():
            raise InputError(
                f"mask leaves nothing of reference {number + 1}; it is 1 where the particle is"
            )
    return values


def warn_of_references(
    volumes: np.ndarray,
    *,
    voxel_size: float,
    mask_radius: float | None,
    mask: np.ndarray | None,
    symmetry: str,
    angular_step: float,
) -> None:
    """Log what looks like a mistake: a density off the centre, a symmetry axis off z.

    Parameters
    ----------
    volumes : array, shape (K, n, n, n)
    voxel_size : float
        Å.
    mask_radius, mask
        As of `masked_reference`.
    symmetry : str
        Point group.
    angular_step : float
        Degrees; the symmetry is looked at to the detail that such turns tell apart.
    """
    group = symmetry_group(symmetry)
    for number, volume in enumerate(volumes):
        name = "reference" if len(volumes) == 1 else f"reference {number + 1}"
        masked = masked_reference(volume, mask_radius=mask_radius, mask=mask)
        off = off_center(masked)
        if np.linalg.norm(off) > max(_OFF * rms_radius(masked), 1.0):
            _log.warning(
                "%s: the middle of its density is %.0f Å from the centre of the box (z, y, x: %s "
                "Å); shifts count from that centre, and a mask about it may cut the particle: "
                "move the density there unless this is meant",
                name,
                np.linalg.norm(off) * voxel_size,
                ", ".join(f"{x * voxel_size:.0f}" for x in off),
            )
        if len(group) == 1:
            continue
        here, best, axis = _symmetry_scores(masked, group, angular_step)
        about = "({:.2f}, {:.2f}, {:.2f})".format(*axis)
        if max(here, best) < _SYMMETRIC:
            _log.warning(
                "%s: turned by %s about z it correlates with itself to %.2f only, and about no "
                "other axis to more than %.2f; is this its symmetry?",
                name, symmetry.upper(), here, best,
            )  # fmt: skip
        elif here < _ALIKE * best:
            _log.warning(
                "%s: turned by %s about z it correlates with itself to %.2f, about the axis (x, y, "
                "z) = %s to %.2f; turn the map so that its main axis lies along z, or give another "
                "symmetry",
                name, symmetry.upper(), here, about, best,
            )  # fmt: skip


def off_center(masked: np.ndarray) -> np.ndarray:
    """Centre of the squared density from voxel ``n // 2``, (z, y, x) in voxels.

    Squared, as a map may be dark on bright or have any background within its mask.
    """
    n = masked.shape[0]
    power = np.asarray(masked, np.float64) ** 2
    axis = np.arange(n) - n // 2
    along = [power.sum(axis=others) @ axis for others in ((1, 2), (0, 2), (0, 1))]
    return np.asarray(np.asarray(along) / power.sum())


def symmetry_score(masked: np.ndarray, symmetry: str, *, radius: float) -> float:
    """Mean correlation of a masked reference with itself turned by a group about z.

    Parameters
    ----------
    masked : array, shape (n, n, n)
    symmetry : str
    radius : float
        Of the frequencies that are compared, Fourier voxels.
    """
    spectrum, k = padded_spectrum(masked, radius=radius), half_sphere(radius)
    return _self_correlation(spectrum, k, Rotation.identity(), _turns(symmetry_group(symmetry)))


def _symmetry_scores(
    masked: np.ndarray, group: Rotation, angular_step: float
) -> tuple[float, float, tuple[float, float, float]]:
    """The score about z, the best of a grid of axes, and that axis (x, y, z)."""
    n = masked.shape[0]
    radius = 4.1 * n / (2 * np.pi * rms_radius(masked) * np.deg2rad(max(angular_step, 15.0)))
    radius = float(np.clip(radius, min(4.0, n / 2 - 1), n / 2 - 1))
    spectrum, k = padded_spectrum(masked, radius=radius), half_sphere(radius)
    turns = _turns(group)
    here = _self_correlation(spectrum, k, Rotation.identity(), turns)
    grid = rotation_grid(30.0)
    scores = [_self_correlation(spectrum, k, tilted, turns) for tilted in grid]
    best = int(np.argmax(scores))
    if scores[best] <= here:
        return here, here, (0.0, 0.0, 1.0)
    x, y, z = grid[best].apply([0.0, 0.0, 1.0])
    return here, float(scores[best]), (float(x), float(y), float(z))


def _turns(group: Rotation) -> Rotation:
    """Some of the group's turns, the identity left out."""
    others = np.arange(1, len(group))
    return group[others[:: max(1, len(others) // _TURNS_AT_MOST)]]


def _self_correlation(
    spectrum: Spectrum, k: np.ndarray, tilted: Rotation, turns: Rotation
) -> float:
    """Mean correlation of a spectrum with itself turned about axes that a rotation has tilted."""
    plain = sample(spectrum, k, np.eye(3))
    # Shells are made alike, or else the lowest, which is round, would speak for all; but not those
    # that hold next to nothing.
    shell = np.rint(np.linalg.norm(k, axis=1)).astype(np.intp)
    power = np.bincount(shell, np.abs(plain) ** 2) / np.maximum(np.bincount(shell), 1)
    weight = (1 / np.sqrt(power + _FLOOR * power.max()))[shell]
    plain = plain * weight
    total = 0.0
    for matrix in matrices_zyx(tilted * turns * tilted.inv()):
        turned = sample(spectrum, k, matrix.T) * weight
        norm = np.sqrt(np.vdot(plain, plain).real * np.vdot(turned, turned).real)
        total += np.vdot(plain, turned).real / norm if norm > 0 else 0.0
    return float(total / len(turns))
