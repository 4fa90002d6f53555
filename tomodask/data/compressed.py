"""Files packed with gzip or bzip2: unpacked once, as a stream, beside the other temporary files.

A packed file cannot be read from its middle.  Each machine that works on it keeps one plain copy,
which its tasks map into memory; it goes when the process that made it ends.
"""

from __future__ import annotations

import atexit
import bz2
import gzip
import hashlib
import os
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tomodask.data.writing import no_space
from tomodask.errors import InputError

__all__ = ["plain_file"]

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}


def plain_file(path: Path) -> Path:
    """The file itself, or the plain copy of one that ends in ``.gz`` or ``.bz2``.

    Raises
    ------
    InputError
        If it is missing, cannot be unpacked, or the copy does not fit the temporary folder.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path} is a folder")
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        return path
    state = path.stat()
    key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    folder = Path(tempfile.gettempdir(), f"tomodask-{os.getuid()}")
    plain = folder / (hashlib.sha256(key.encode()).hexdigest()[:24] + path.with_suffix("").suffix)
    if plain.exists():
        return plain
    folder.mkdir(mode=0o700, exist_ok=True)
    part = folder / f".{plain.name}.{uuid.uuid4().hex}"
    try:
        with opener(path, "rb") as packed, part.open("wb") as copy:
            shutil.copyfileobj(packed, copy, 1 << 20)
        part.rename(plain)  # two workers may race; either copy is whole
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged or cut off ({error}); copy it again") from None
    except OSError as error:
        if (full := no_space(error, plain)) is not None:
            raise full from None
        raise InputError(f"{path}: cannot be unpacked ({error}); copy it again") from None
    finally:
        part.unlink(missing_ok=True)
    atexit.register(plain.unlink, missing_ok=True)
    return plain
