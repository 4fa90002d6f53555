"""Which of many peaks are particles: a threshold between groups of scores, and a distance."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["apart", "split_scores"]

# Groups of peaks are separate where their means are so many summed deviations apart and so much of
# the way between the means is empty: a long tail passes the one or the other, hardly both.
_GROUPS = ((3.5, 0.25), (2.5, 0.4))


def split_scores(scores: np.ndarray, background: float) -> float:
    """The threshold: the background's limit, or between clearly separate groups of peaks."""
    ordered = np.sort(scores)
    threshold, before = background, 0.0
    while len(ordered) >= 6:
        n = np.arange(1, len(ordered))
        first, second = np.cumsum(ordered)[:-1], np.cumsum(ordered**2)[:-1]
        total, square = ordered.sum(), (ordered**2).sum()
        low, high = first / n, (total - first) / (len(ordered) - n)
        spread_low = np.sqrt(np.maximum(second / n - low**2, 0))
        spread_high = np.sqrt(np.maximum((square - second) / (len(ordered) - n) - high**2, 0))
        # Groups of fewer than three have no spread to speak of.
        parted = (high - low) / (spread_low + spread_high + 1e-3)
        parted[(n < 3) | (len(ordered) - n < 3)] = 0
        cut = int(parted.argmax())
        # Few peaks have a spread by chance: the border is the widest gap between the two means.
        first_in, last_in = np.searchsorted(ordered, [low[cut], high[cut]])
        line = ordered[max(first_in - 1, 0) : last_in + 1]
        gap = max(first_in - 1, 0) + int(np.diff(line).argmax())
        distance = high[cut] - low[cut]
        empty = (ordered[gap + 1] - ordered[gap]) / distance
        if not any(parted[cut] >= a and empty >= e for a, e in _GROUPS) or distance < before / 3:
            break  # a third: a few low members of the particles are no group of their own
        before = distance
        threshold = (ordered[gap] + ordered[gap + 1]) / 2
        ordered = ordered[gap + 1 :]
    return float(threshold)


def apart(rows: np.ndarray, distance: float) -> np.ndarray:
    """Highest score first; of rows closer than `distance` (voxels) only the first."""
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 3]))]
    tree = cKDTree(rows[:, :3]) if len(rows) else None
    kept = np.ones(len(rows), bool)
    for i in range(len(rows)):
        if kept[i] and tree is not None:
            near = [j for j in tree.query_ball_point(rows[i, :3], distance) if j > i]
            kept[near] = False
    return rows[kept]
