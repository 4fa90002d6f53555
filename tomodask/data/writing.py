"""Nothing half-written ever bears the final name: write beside it, then rename."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tomodask.errors import InputError

__all__ = ["check_target", "full_disk", "no_space", "put_in_place", "replacing"]


def no_space(error: OSError, path: Path, needed: int | None = None) -> InputError | None:
    """The error for a full disk; None where `error` means another thing."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return full_disk(path, needed)


def full_disk(path: Path, needed: int | None = None) -> InputError:
    """The error for a disk without room for `path`; `needed` is in bytes."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        room = f"up to {needed / 1e6:.0f} MB needed, " if needed is not None else ""
        return InputError(
            f"{path}: the disk is full ({room}{free / 1e6:.0f} MB free); "
            "free some space or write elsewhere, nothing was left behind"
        )
    return InputError(f"{path}: the disk is full; free some space or write elsewhere")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse what `replacing` would, before the work that goes into it.

    Raises
    ------
    InputError
        If `path` exists and may not be replaced, or its folder does not exist.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another name or allow overwriting it")
    if path.is_dir() and not any(
        (path / mark).exists() for mark in ("zarr.json", ".zgroup", ".zarray")
    ):
        raise InputError(f"{path} is a folder but no Zarr store, so it is not overwritten")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool, needed: int | None = None) -> Iterator[Path]:
    """A temporary name beside `path`; renamed to it at the end, removed on any error.

    Parameters
    ----------
    path : Path
        A file or a folder (a Zarr store) to be written.
    overwrite : bool
        Whether something under that name may be replaced; a folder only if it is a Zarr store.
    needed : int, optional
        Bytes, for the message where the disk is full.

    Raises
    ------
    InputError
        If `path` exists and may not be replaced, its folder does not exist, or the disk is full.
    """
    check_target(path, overwrite=overwrite)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        put_in_place(part, path)
    except OSError as error:
        if (full := no_space(error, path, needed)) is not None:
            raise full from None
        if isinstance(error, PermissionError):
            raise InputError(f"{path}: no permission to write there ({error})") from None
        raise
    finally:
        _remove(part)


def put_in_place(part: Path, path: Path) -> None:
    """Give `part` the name `path`.  What bears it goes then, and only then.

    Files and folders alike; a folder cannot be renamed onto another, so it is put aside first.
    """
    if not path.is_dir():
        os.replace(part, path)
        return
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    path.rename(old)
    try:
        os.replace(part, path)
    except BaseException:
        old.rename(path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    """Remove a file or folder for good, though threads may still be writing into it.

    Where one task fails, Dask lets those that run beside it go on; what they write would make the
    folder again.
    """
    if path.is_dir():
        for _ in range(20):
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)
            if not path.exists():
                return
    path.unlink(missing_ok=True)
