"""Several references at once: who belongs to which, and what becomes of empty and equal classes.

Each particle is aligned to every class's reference (of its own half).  With a reference m scaled to
a box d of N independent real numbers (twice the measured Fourier voxels of the band) of white noise
of unknown height, the best scale leaves ``|d|² (1 − CCC²)``, and the likelihood, its noise taken at
its best, is

    log p(d | class) = −(N / 2) · log(1 − CCC²) + const.

*Hard* assignment takes the class of the highest likelihood, which is that of the highest CCC;
*soft* assignment gives each class the share ``π_c p(d | c) / Σ``, with π the classes' shares of the
round before, and the particle enters every class's average with that weight, at its pose there.

A class that has fallen empty takes over those of the largest class that fit it worst; one that has
done so often is given up.  Two classes are one and the same where their averages agree as well as
their own halves say they can.  Each half lays its map of b on its map of a by itself, by a motion
M; then

    ρ = r_ab / √(h_a h_b) ≥ 0.97,   r_ab = mean of corr(a_i, M b_j),

over M, i and j, with h the correlation of a class's halves, all within the particle's sphere and
the band of the round.  Where particles may be of both classes in part, a_i and b_i hold the same
noise: then i ≠ j alone.  What passes between the halves is ρ, a number as of a Fourier shell
correlation, and what is decided by it; each half's particles follow the motion of its own maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.alignment.measurement import measurements
from tomodask.arrays.resampling import resampled
from tomodask.arrays.sampling import half_sphere
from tomodask.errors import InputError
from tomodask.rounds.superposition import Motion, correlation_under, superpose

__all__ = [
    "check_classes",
    "class_shares",
    "equal_classes",
    "fill_empty",
    "measured_values",
    "posteriors",
    "reassigned",
    "short_classes",
]

_SURE = 1e-3  # a share below is none
_FAR = 0.9  # of the correlation that is asked for


def check_classes(classes: int, half: np.ndarray) -> int:
    """The number of classes, if the halves have particles for so many.

    Raises
    ------
    InputError
    """
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer) or classes < 1:
        raise InputError(f"classes must be a whole number, at least 1, got {classes!r}")
    least = int(np.bincount(half, minlength=3)[1:].min())
    if 2 * classes > least:
        raise InputError(
            f"classes must leave each at least two particles of each half: {classes} classes need "
            f"{2 * classes} in a half, the smaller half has {least}; ask for fewer"
        )
    return int(classes)


def measured_values(
    table: pd.DataFrame,
    attrs: Mapping[object, object],
    *,
    box: int,
    voxel_size: float,
    resolution: float,
    tilt_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """How many independent numbers were measured of each particle up to a resolution (Å).

    Twice the Fourier voxels of half the sphere that its tilt series measured.

    Returns
    -------
    array of float64, shape (particles,)
    """
    kind, kinds = measurements(table, attrs, tilt_range)
    k = half_sphere(min(box * voxel_size / resolution, box / 2 - 1))
    counts = [
        2.0 * np.count_nonzero(one.weights(k, box=box, voxel_size=voxel_size)) for one in kinds
    ]
    return np.asarray(np.asarray(counts)[kind])


def posteriors(scores: np.ndarray, values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The probability of each class for each particle.

    Parameters
    ----------
    scores : array, shape (particles, classes)
        Constrained correlations.
    values : array, shape (particles,)
        `measured_values`.
    shares : array, shape (classes,)
        Of the classes before; they need not sum to 1.

    Returns
    -------
    array of float64, shape (particles, classes)
        Rows sum to 1; what is below 0.001 is 0.

    Examples
    --------
    >>> posteriors(np.array([[0.5, 0.5], [0.5, 0.4]]), np.array([100.0, 100]), np.ones(2)).round(3)
    array([[0.5  , 0.5  ],
           [0.997, 0.003]])
    """
    scores = np.clip(scores, 0.0, 1 - 1e-9)  # what runs against the model tells nothing for it
    log = -0.5 * values[:, None] * np.log1p(-(scores**2))
    with np.errstate(divide="ignore"):
        log = log + np.log(np.asarray(shares, float))
    log -= log.max(1, keepdims=True)
    p = np.exp(log)
    p /= p.sum(1, keepdims=True)
    p = np.where(p < _SURE, 0.0, p)
    return np.asarray(p / p.sum(1, keepdims=True))


def class_shares(weights: np.ndarray) -> np.ndarray:
    """Share of each class, of weights of shape (particles, classes)."""
    return np.asarray(weights.sum(0) / weights.sum())


def reassigned(before: np.ndarray | None, after: np.ndarray) -> float:
    """Share of the particles whose class changed; NaN where there was none before."""
    return float("nan") if before is None else float(np.mean(before != after))


def short_classes(weights: np.ndarray, half: np.ndarray, *, least: int) -> list[int]:
    """Classes, from 0, with less than `least` particles in a half; as of `fill_empty`."""
    held = np.stack([weights[half == h].sum(0) for h in (1, 2)])
    return [int(c) for c in np.flatnonzero(held.min(0) < least)]


def fill_empty(
    weights: np.ndarray, scores: np.ndarray, half: np.ndarray, *, least: int
) -> tuple[np.ndarray, list[int]]:
    """Give classes with too few particles the worst fitting half of the largest other class.

    In a half where that has too few itself, of the one that is the largest there.

    Parameters
    ----------
    weights : array, shape (particles, classes)
        Of each particle in each class; not changed.
    scores : array, shape (particles, classes)
    half : array of int, shape (particles,)
        1 or 2; each half of the particles is split by itself.
    least : int
        Particles (sum of weights) that a class needs in each half.

    Returns
    -------
    weights : array
        Where a class was filled, its particles are wholly of it.
    filled : list of int
        Which classes, from 0.
    """
    weights, filled = weights.copy(), []
    for c in range(weights.shape[1]):
        if c not in short_classes(weights, half, least=least):
            continue
        total = weights.sum(0)
        total[c] = -1.0  # it may be the largest, with its particles in one half
        for h in (1, 2):
            held = weights[half == h].sum(0)
            mine, held[c] = held[c], -1.0
            giver = int(np.argmax(total))
            if held[giver] < 2 * least:
                if mine >= least:
                    continue  # it has enough here, and the giver none to spare
                giver = int(np.argmax(held))
            # Particles that are set aside are of no class, and fill none.
            of_giver = (half == h) & (weights.sum(1) > 0) & (weights.argmax(1) == giver)
            members = np.flatnonzero(of_giver)
            worst = members[np.argsort(scores[members, giver], kind="stable")]
            moving = worst[: len(worst) // 2]
            weights[moving] = 0.0
            weights[moving, c] = 1.0
        filled.append(c)
    return weights, filled


def equal_classes(
    halves: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    voxel_size: float,
    resolution: float,
    diameter: float,
    symmetry: str = "C1",
    threshold: float = 0.97,
    shared: bool = False,
    method: Literal["simplex", "gradient"] = "simplex",
) -> list[tuple[int, int, tuple[Motion, Motion]]]:
    """Which classes are one: pairs (kept, given up, motions from the kept map to the other).

    Parameters
    ----------
    halves : sequence of (array, array), shape (n, n, n)
        The half maps of each class, the largest class first: of two equal ones the earlier is kept.
    voxel_size, resolution, diameter : float
        Å.
    symmetry : str
    threshold : float
        Of ρ, see above.
    shared : bool
        Whether a particle may be of two classes in part.
    method : {"simplex", "gradient"}
        As of `superpose`.

    Returns
    -------
    list of (int, int, (Motion, Motion))
        None that is given up is kept elsewhere.  The motions are those of half 1 and of half 2,
        each measured in the maps of its half alone.
    """
    n = halves[0][0].shape[0]
    # Three voxels to the period are enough, and 8 times faster than six; but the particle must have
    # the four voxels of room that masks leave at the faces.
    room = max(1 - diameter / (n * voxel_size), 8 / n)
    edge = 2 * int(np.ceil(max(16, 3 * n * voxel_size / resolution, 8 / room) / 2))
    factor = max((n // 2) / (edge // 2), 1.0)
    size = voxel_size * factor
    small = [[resampled(x, factor) if factor > 1 else x for x in pair] for pair in halves]
    own: dict[str, Any] = {
        "voxel_size": size,
        "resolution": max(resolution, 2 * size),
        "diameter": diameter,
    }
    still = Motion(Rotation.identity(), np.zeros(3), 1.0)
    reliable = [max(correlation_under(still, *pair, **own), 1e-3) for pair in small]
    pairs = [(i, j) for i in (0, 1) for j in (0, 1) if i != j or not shared]
    out: list[tuple[int, int, tuple[Motion, Motion]]] = []
    gone: set[int] = set()
    for a in range(len(small)):
        for b in range(a + 1, len(small)):
            if a in gone or b in gone:
                continue
            level = threshold * np.sqrt(reliable[a] * reliable[b])
            motions: list[Motion] = []
            found: list[float] = []
            for half in (0, 1):
                motion = superpose(
                    small[a][half], small[b][half], symmetry=symmetry, everywhere=True,
                    method=method, **own,
                )  # fmt: skip
                motions.append(motion)
                found += [
                    correlation_under(motion, small[a][i], small[b][j], **own) for i, j in pairs
                ]
                if np.mean(found) < _FAR * level:  # the other half will not mend it
                    break
            else:
                if np.mean(found) >= level:
                    out.append((a, b, (motions[0], motions[1])))
                    gone.add(b)
    return out
