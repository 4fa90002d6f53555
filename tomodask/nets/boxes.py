"""Boxes as networks want them."""

from __future__ import annotations

import numpy as np

from tomodask.errors import InputError

__all__ = ["check_boxes", "finite_boxes", "normalised"]


def finite_boxes(boxes: np.ndarray) -> np.ndarray:
    """Which boxes, shape (n, z, y, x), hold neither NaN nor infinite values; bool, shape (n,)."""
    return np.asarray(np.isfinite(boxes).all(axis=(1, 2, 3)))


def normalised(boxes: np.ndarray, *, invert: bool = False) -> np.ndarray:
    """Each box with mean 0 and standard deviation 1; a constant box becomes zeros.

    Parameters
    ----------
    boxes : array, shape (n, z, y, x)
    invert : bool
        Multiply by −1.

    Returns
    -------
    array of float32, shape (n, z, y, x)
        Each depends on its own voxels alone, sums in float64.
    """
    out = np.empty(boxes.shape, np.float32)
    for box, made in zip(boxes, out, strict=True):
        mean, spread = box.mean(dtype=np.float64), box.std(dtype=np.float64)
        scale = (-1.0 if invert else 1.0) / spread if spread > 0 else 0.0
        np.multiply(np.subtract(box, mean, dtype=np.float64), scale, out=made, casting="same_kind")
    return out


def check_boxes(boxes: np.ndarray, edge: int) -> None:
    """Refuse what is not boxes of this edge, or holds NaN.

    Raises
    ------
    InputError
        With the numbers of the boxes at fault.
    """
    if boxes.ndim != 4 or boxes.shape[1:] != (edge,) * 3:
        raise InputError(
            f"boxes must have the shape (n, {edge}, {edge}, {edge}), as the network was made for, "
            f"got {boxes.shape}: resample or crop them, or train a network for that box"
        )
    if not np.issubdtype(boxes.dtype, np.floating):
        raise InputError(f"boxes must be float, got {boxes.dtype}")
    bad = np.flatnonzero(~finite_boxes(boxes))
    if len(bad):
        named = ", ".join(map(str, bad[:5])) + (" …" if len(bad) > 5 else "")
        raise InputError(
            f"{len(bad)} of {len(boxes)} boxes hold NaN or infinite values (numbers {named}): set "
            "them aside first"
        )
