"""Where a training is kept: a model file, and a folder beside it with the state to go on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.data.run_folder import held
from tomodask.errors import InputError

__all__ = [
    "Place",
    "begun",
    "digest_of_training",
    "same_training",
    "state_of",
    "stopped_at",
    "versions",
]

_log = logging.getLogger(__name__)
STATE = "state.safetensors"
LOCK = ".lock"


class Place:
    """A model file and the folder of its training, ``NAME.training``.

    Parameters
    ----------
    output : path
        Ends with ``.safetensors``.
    resume, overwrite : bool
        Whether a training that is there may be gone on with, or dropped.

    Attributes
    ----------
    target, folder, state : Path
        Model file, folder beside it, and what `resume` goes on from.

    Raises
    ------
    InputError
        If the name is no model file's, its folder does not exist, or something is there that may
        neither be gone on with nor dropped: a model without the state of its training can be
        dropped only.
    """

    def __init__(
        self, output: str | os.PathLike[str], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        target = Path(output)
        if target.suffix.lower() != ".safetensors":
            raise InputError(f"output {str(output)!r} must end with .safetensors, a model file")
        if not target.absolute().parent.is_dir():
            raise InputError(f"{target}: the folder {target.parent} does not exist; make it first")
        if resume and overwrite:
            raise InputError("resume and overwrite exclude each other; give one of them")
        self.target, self.folder = target, target.with_suffix(".training")
        self.state = state_of(output)
        self._overwrite, self._resume = overwrite, resume
        if not (resume or overwrite) and (target.exists() or self.state.exists()):
            there = target if target.exists() else self.folder
            raise InputError(
                f"{there} exists already: go on with it (resume=True, --resume), or drop it "
                "(overwrite=True, --overwrite), or choose another name"
            )
        if resume and target.exists() and not self.state.exists():
            raise InputError(
                f"{target} is there, but not the state of its training ({self.state}) to go on "
                "from; drop it (overwrite=True, --overwrite), or choose another name"
            )

    def _drop(self) -> None:
        """What was there, but for the lock, which is held."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)
        self.target.unlink(missing_ok=True)

    @contextlib.contextmanager
    def begun(self) -> Iterator[bool]:
        """Hold the folder, see `begun`."""
        self.folder.mkdir(exist_ok=True)
        with held(self.folder):
            if self._overwrite:
                self._drop()
            there = self.state.exists()
            if self._resume and not there:
                _log.info("%s: no epoch is there to go on from; training begins", self.folder)
            yield there


def state_of(output: str | os.PathLike[str]) -> Path:
    """The file that a training of a model file goes on from, whether it is there or not."""
    return Path(output).with_suffix(".training") / STATE


@contextlib.contextmanager
def begun(place: Place | None) -> Iterator[bool]:
    """Hold the folder of a training, dropping what may be dropped.

    Gives whether there is a state to go on from; without a place there is none.  Entered last, when
    nothing speaks against the training any more.

    Raises
    ------
    InputError
        If another process trains into the folder.
    """
    if place is None:
        yield False
        return
    with place.begun() as there:
        yield there


def digest_of_training(told: Any, arrays: Sequence[np.ndarray] = ()) -> str:
    """A short text that changes with anything of what must be the same where a training goes on."""
    text = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for values in arrays:
        text.update(np.ascontiguousarray(values).tobytes())
    return text.hexdigest()[:32]


def same_training(
    place: Place,
    told: Mapping[str, Any],
    identity: str,
    settings: Mapping[str, Any],
    *,
    data: str,
    parts: str = "",
) -> None:
    """Refuse the state of another training.

    Parameters
    ----------
    place : Place
    told : mapping
        What the state holds: ``identity`` and ``settings``.
    identity : str
        From `digest_of_training`.
    settings : mapping
        Those of now.
    data : str
        What must be the same beside them, for the message: "tomograms, picks".
    parts : str
        A setting that is a mapping itself: it is told by its parts, as the whole is too long.

    Raises
    ------
    InputError
        Naming the settings that differ.
    """
    if told.get("identity") == identity:
        return
    former = told.get("settings", {})
    old, new = ({**one.get(parts, {}), **one} for one in (former, settings))
    names = [name for name in new if name != parts and old.get(name) != new[name]]
    changed = ", ".join(f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in names)
    raise InputError(
        f"{place.folder} is of another training ({changed or f'other {data}'}); give the same "
        f"{data} and settings, or start anew (overwrite=True, --overwrite)"
    )


def stopped_at(
    error: Exception, place: Place | None, *, epoch: int, epochs: int, model: str = ""
) -> str:
    """What is told where the loss is no number any more.

    Parameters
    ----------
    error : Exception
    place : Place, optional
    epoch, epochs : int
        Done, and all.
    model : str
        What the model file holds; empty where there is none.
    """
    told = f"epoch {epoch + 1} of {epochs}: {error}"
    if place is None or not epoch:
        return told
    told += f", and go on (resume=True, --resume); {place.folder} keeps the state after epoch "
    return f"{told}{epoch}" + (f", {place.target} {model}" if model else "")


def versions() -> dict[str, str]:
    """Of what a trained network depends on."""
    found = {"python": platform.python_version()}
    for name in ("tomodask", "torch", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
