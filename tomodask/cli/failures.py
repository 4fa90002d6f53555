"""What becomes of an error at the command line: one sentence, and an exit code that scripts know.

0: done.  1: a fault of tomodask.  2: the user can mend it.  130: stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tomodask.errors import InputError

__all__ = ["STOPPED", "failure"]

OWN_FAULT, USERS_INPUT, STOPPED = 1, 2, 130

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grows beyond what is allowed",
    errno.EROFS: "the disk cannot be written to",
}
_FILE = {
    FileNotFoundError: ("no such file or folder", "check the path"),
    PermissionError: ("access is not permitted", "change its permissions or choose another path"),
    IsADirectoryError: ("is a folder", "name a file"),
    NotADirectoryError: ("a part of the path is no folder", "check the path"),
    FileExistsError: ("exists already", "choose another name"),
}


def failure(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence for an error that ended a command.

    Of an error that tells nothing to a user, the traceback is kept in a file that the sentence
    names.
    """
    for cause in _chain(error):
        if (sentence := _users(cause)) is not None:
            return USERS_INPUT, sentence
    kind = f"{type(error).__name__}: {_one_line(error)}" if str(error) else type(error).__name__
    return OWN_FAULT, (
        f"an error in tomodask itself ({kind}); please report it with {_keep_traceback(error)}; "
        "what was finished is kept"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from: libraries wrap a full disk in their own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if error.__cause__ is None:
            return
        error = error.__cause__


def _users(error: BaseException) -> str | None:
    """Return the sentence for an error that the user can mend, None for any other."""
    if isinstance(error, InputError):
        return _one_line(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f"{error.filename}: " if error.filename else ""
        return (
            f"{where}{_DISK[error.errno]} ({os.strerror(error.errno)}); free some space or choose "
            "another output, and repeat the same command: what was finished is kept"
        )
    if isinstance(error, OSError) and error.filename is not None and type(error) in _FILE:
        what, way_out = _FILE[type(error)]
        return f"{error.filename}: {what}; {way_out}"
    # By name: importing distributed for it would make every command slow.
    if isinstance(error, MemoryError) or type(error).__name__ == "KilledWorker":
        return (
            f"not enough memory ({_one_line(error) or 'MemoryError'}); give each worker more with "
            "--memory, or use fewer with --workers"
        )
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _keep_traceback(error: BaseException) -> str:
    """Write the traceback where it disturbs nobody; returns how to find it."""
    name = f"tomodask-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    path = Path(tempfile.gettempdir(), name)
    lines = [f"{' '.join(sys.argv)}\n", *traceback.format_exception(error)]
    try:
        path.write_text("".join(lines), "utf-8")
    except OSError:
        print("".join(lines), file=sys.stderr)
        return "the lines above"
    return f"the file {path}"
