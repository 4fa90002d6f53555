"""Finished batches on disk, so that a run that is killed goes on where it stopped."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomodask.errors import InputError

__all__ = ["BatchFolder"]


@dataclass(frozen=True)
class BatchFolder:
    """A folder with one small file for each finished batch; without a path it keeps nothing.

    A file appears under its name only when it is whole (written aside, then renamed).
    """

    path: str | None

    @classmethod
    def open(cls, path: str | Path | None, fingerprint: str) -> BatchFolder:
        """Open or make the folder.

        Raises
        ------
        InputError
            If it holds the batches of another job: other input or other parameters.
        """
        if path is None:
            return cls(None)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "fingerprint.txt"
        if mark.exists() and mark.read_text().strip() != fingerprint:
            raise InputError(
                f"checkpoint {folder} holds batches of another job (other boxes, reference or "
                "parameters); give another folder or delete this one"
            )
        if not mark.exists():
            _write_whole(mark, fingerprint.encode())
        return cls(str(folder))

    def read(self, name: str, dtype: np.dtype) -> np.ndarray | None:
        """The rows of a finished batch, or None where it is not there or not readable."""
        if self.path is None:
            return None
        file = Path(self.path, f"{name}.npy")
        try:
            rows = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return rows if rows.dtype == dtype else None

    def write(self, name: str, rows: np.ndarray) -> None:
        """Keep the rows of a finished batch."""
        if self.path is None:
            return
        file = Path(self.path, f"{name}.npy")
        aside = _aside(file)
        try:
            with aside.open("wb") as out:
                np.save(out, rows)
                out.flush()
                os.fsync(out.fileno())
            aside.replace(file)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise InputError(
                f"cannot write {file}: {error.strerror}; make room and run the same command "
                "again, what is finished is kept"
            ) from error


def _aside(path: Path) -> Path:
    """By chance: processes on two machines, or in two containers, may have the same number."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")


def _write_whole(path: Path, content: bytes) -> None:
    aside = _aside(path)
    aside.write_bytes(content)
    aside.replace(path)
