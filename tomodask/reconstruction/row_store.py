"""Rows of all images on disk between the two halves of a reconstruction.

An image is written once, by one task; a block of the tomogram reads a few rows of all images.  So
the file lies in the order (row, tilt, sample), in which those rows are one piece.  Finished images
are marked, and a run that was stopped goes on with the others.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomodask.data.writing import full_disk
from tomodask.errors import InputError

__all__ = ["RowStore"]

_STATE = "state.json"


@dataclass(frozen=True)
class RowStore:
    """A folder with a file of float32 rows, shape (rows, tilts, samples); picklable.

    The file is named by the fingerprint: where another run takes the folder, this one finds its
    rows gone, and does not go on with those of the other.
    """

    path: str
    shape: tuple[int, int, int]
    fingerprint: str

    @property
    def file(self) -> Path:
        """The rows."""
        return Path(self.path, f"rows-{self.fingerprint[:16]}.f4")

    @classmethod
    def open_or_create(
        cls, path: Path, shape: tuple[int, int, int], *, fingerprint: str
    ) -> RowStore:
        """Go on with the store of the same `fingerprint`, or begin one; another's is dropped."""
        path = path.absolute()
        store = cls(str(path), shape, fingerprint)
        state = {"fingerprint": fingerprint, "shape": list(shape)}
        needed = 4 * int(np.prod(shape))
        if path.exists():
            try:
                same = json.loads((path / _STATE).read_text("utf-8")) == state
            except (OSError, ValueError):
                same = False
            if same and store.file.is_file() and store.file.stat().st_size == needed:
                return store
            shutil.rmtree(path)
        if shutil.disk_usage(path.parent).free < needed:
            raise full_disk(path, needed)
        path.mkdir()
        with store.file.open("wb") as file:
            file.truncate(needed)
        (path / _STATE).write_text(json.dumps(state), "utf-8")
        return store

    def missing(self) -> list[int]:
        """Images that are not there yet."""
        return [tilt for tilt in range(self.shape[1]) if not self._mark(tilt).exists()]

    def write(self, tilt: int, image: np.ndarray) -> None:
        """Store the rows of one image, and mark it as finished."""
        rows, tilts, samples = self.shape
        if image.shape != (rows, samples):
            raise ValueError(f"an image of {(rows, samples)} is stored, got {image.shape}")
        image = np.ascontiguousarray(image, np.float32)
        # Not a memory map: a page on the border of two images belongs to both, and workers on two
        # machines would overwrite each other's share of it.
        try:
            handle = os.open(self.file, os.O_WRONLY)
        except FileNotFoundError as error:
            raise self._gone(error) from None
        try:
            for row in range(rows):
                data = memoryview(image[row].view(np.uint8))
                offset = 4 * samples * (row * tilts + tilt)
                while len(data):
                    written = os.pwrite(handle, data, offset)
                    data, offset = data[written:], offset + written
        finally:
            os.close(handle)
        self._mark(tilt).touch()

    def read(self, rows: slice, samples: slice) -> np.ndarray:
        """Rows of all images, shape (tilts, rows, samples), a copy."""
        try:
            stored = np.memmap(self.file, np.float32, "r", shape=self.shape)
        except (OSError, ValueError) as error:
            raise self._gone(error) from None
        return np.ascontiguousarray(stored[rows, :, samples].transpose(1, 0, 2))

    def remove(self) -> None:
        """Drop the store, unless another run has taken its place."""
        if self.file.exists():
            shutil.rmtree(self.path, ignore_errors=True)

    def _gone(self, error: Exception) -> InputError:
        return InputError(
            f"{self.path}: the rows of the images are not there any more ({error}); does another "
            "run write the same output?  If not, run the same again"
        )

    def _mark(self, tilt: int) -> Path:
        return Path(self.path, f"{tilt:05d}.done")
