"""Boxes as networks want them."""

from __future__ import annotations

import numba
import numpy as np

from tomodask.errors import InputError

__all__ = ["check_boxes", "finite_boxes", "normalised"]

_PARTS = 8  # sums that run side by side, so that the processor need not wait for each


def finite_boxes(boxes: np.ndarray) -> np.ndarray:
    """Which boxes, shape (n, z, y, x), hold neither NaN nor infinite values; bool, shape (n,)."""
    return np.asarray(np.isfinite(boxes).all(axis=(1, 2, 3)))


def normalised(
    boxes: np.ndarray, *, invert: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """Each box with mean 0 and standard deviation 1; a constant box becomes zeros.

    Parameters
    ----------
    boxes : array of float, shape (n, z, y, x)
    invert : bool
        Multiply by −1.
    out : array of float32, shape (n, z, y, x), optional
        Where to put them, C-contiguous.

    Returns
    -------
    array of float32, shape (n, z, y, x)
        Each depends on its own voxels alone, sums in float64.
    """
    made = np.empty(boxes.shape, np.float32) if out is None else out
    if boxes.size:
        kind = np.float32 if boxes.dtype == np.float32 else np.float64  # in native byte order
        flat = np.ascontiguousarray(boxes, kind).reshape(len(boxes), -1)
        _normalise(flat, made.reshape(len(boxes), -1), -1.0 if invert else 1.0)
    return made


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


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _normalise(boxes, out, sign):  # type: ignore[no-untyped-def]
    """Rows with mean 0 and deviation 1, shape (n, voxels)."""
    voxels = boxes.shape[1]
    whole = voxels - voxels % _PARTS
    parts = np.empty(_PARTS, np.float64)
    for i in range(len(boxes)):
        box, made = boxes[i], out[i]
        first = np.float64(box[0])  # measured from it, equal voxels have the sum 0, not nearly 0
        parts[:] = 0.0
        for j in range(0, whole, _PARTS):
            for k in range(_PARTS):
                parts[k] += box[j + k] - first
        mean = parts.sum()
        for j in range(whole, voxels):
            mean += box[j] - first
        mean = first + mean / voxels
        parts[:] = 0.0
        for j in range(0, whole, _PARTS):
            for k in range(_PARTS):
                off = box[j + k] - mean
                parts[k] += off * off
        square = parts.sum()
        for j in range(whole, voxels):
            square += (box[j] - mean) ** 2
        spread = np.sqrt(square / voxels)
        scale = sign / spread if spread > 0 else 0.0
        for j in range(voxels):
            made[j] = (box[j] - mean) * scale
