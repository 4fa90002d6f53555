"""Voxels that lie in a file: what readers of all formats share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomodask.data.compressed import plain_file
from tomodask.data.volumes import require_unchanged
from tomodask.errors import InputError

__all__ = ["StoredVoxels", "mapped"]


class StoredVoxels:
    """Type and axes of voxels as they are read, z, y, x; `stored_dtype` says how they lie there."""

    stored_dtype: str

    @property
    def dtype(self) -> np.dtype:
        """Type of the voxels, in the byte order of this machine."""
        return np.dtype(self.stored_dtype).newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Always 3."""
        return 3


def mapped(
    path: str, stamp: tuple[int, int], dtype: str, offset: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Map the voxels of a file, packed ones unpacked; what is kept of them must be copied.

    Parameters
    ----------
    path : str
    stamp : (int, int)
        Size and time of the file when it was opened.
    dtype : str
        With byte order.
    offset : int
        Bytes before the first voxel.
    shape : tuple of int

    Raises
    ------
    InputError
        If the file was written to since it was opened, or cannot be read any more.
    """
    try:
        plain = plain_file(Path(path))
        require_unchanged(Path(path), stamp)
        return np.memmap(plain, dtype, "r", offset, shape)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read any more ({error}); was it moved or written to?"
        ) from None
