"""Where a training is kept: a model file, and a folder beside it with the state to go on from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.errors import InputError

__all__ = ["Place", "changed_settings", "digest_of_training", "versions"]

STATE = "state.safetensors"


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
        neither be gone on with nor dropped.
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
        self.state = self.folder / STATE
        self._overwrite = overwrite
        if not (resume or overwrite) and (target.exists() or self.state.exists()):
            there = target if target.exists() else self.folder
            raise InputError(
                f"{there} exists already: go on with it (resume=True, --resume), or drop it "
                "(overwrite=True, --overwrite), or choose another name"
            )

    def begin(self) -> bool:
        """Make the folder, dropping what may be dropped; whether there is a state to go on from.

        Called last, when nothing speaks against the training any more.
        """
        if self._overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.target.unlink(missing_ok=True)
        self.folder.mkdir(exist_ok=True)
        return self.state.exists()


def digest_of_training(told: Any, arrays: Sequence[np.ndarray] = ()) -> str:
    """A short text that changes with anything of what must be the same where a training goes on."""
    text = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for values in arrays:
        text.update(np.ascontiguousarray(values).tobytes())
    return text.hexdigest()[:32]


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any], *, parts: str = "") -> str:
    """Which settings differ, for a message; empty where none does.

    `parts` names a setting that is a mapping itself: it is told by its parts, as the whole is too
    long to read.
    """
    old, new = ({**one.get(parts, {}), **one} for one in (old, new))
    names = [name for name in new if name != parts and old.get(name) != new[name]]
    return ", ".join(f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in names)


def versions() -> dict[str, str]:
    """Of what a trained network depends on."""
    found = {"python": platform.python_version()}
    for name in ("tomodask", "torch", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
