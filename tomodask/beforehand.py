"""What is refused before hours of work go into it, though it would matter only after them."""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd

from tomodask.alignment.poses import check_alignment
from tomodask.data.particles import read_particles, write_particles
from tomodask.errors import InputError

__all__ = ["check_class", "check_name", "check_run_alignment", "check_table", "number", "whole"]

_NAMES_IN_RUN = {"angular_step": "search_step", "resolution": "align_resolution"}


@overload
def number(name: str, value: float) -> float: ...
@overload
def number(name: str, value: float | None) -> float | None: ...
def number(name: str, value: float | None) -> float | None:
    """A finite number as Python's own, whoever's it was; None stays None.

    Raises
    ------
    InputError

    Examples
    --------
    >>> number("threshold", np.float32(0.5))
    0.5
    """
    if value is None:
        return None
    try:
        plain = float(value)
    except (TypeError, ValueError):
        plain = float("nan")
    if isinstance(value, (bool, np.bool_)) or not np.isfinite(plain):
        raise InputError(f"{name} must be a number, got {value!r}")
    return plain


@overload
def whole(name: str, value: int, *, least: int) -> int: ...
@overload
def whole(name: str, value: int | None, *, least: int) -> int | None: ...
def whole(name: str, value: int | None, *, least: int) -> int | None:
    """A whole number as Python's own, whoever's it was; None stays None.

    Raises
    ------
    InputError
        If it is none, or below `least`.

    Examples
    --------
    >>> whole("box", np.int64(40), least=2)
    40
    """
    if value is None:
        return None
    try:
        plain = operator.index(value)
    except TypeError:
        plain = least - 1
    if isinstance(value, (bool, np.bool_)) or plain < least:
        raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
    return plain


def check_run_alignment(**parameters: Any) -> None:
    """`check_alignment`, its parameters named as those of a run are.

    Raises
    ------
    InputError
    """
    try:
        check_alignment(**parameters)
    except InputError as error:
        name, _, rest = str(error).partition(" ")
        raise InputError(f"{_NAMES_IN_RUN.get(name, name)} {rest}") from None


def check_class(name: str | None, classes: Sequence[str], where: str) -> str:
    """The class of particles to average: the one that was asked for, or the only one.

    Parameters
    ----------
    name : str, optional
    classes : sequence of str
        That a model knows.
    where : str
        What messages call the model.

    Raises
    ------
    InputError
        If there is no such class, or none of several was chosen.

    Examples
    --------
    >>> check_class(None, ["ribosome"], "model.safetensors")
    'ribosome'
    """
    known = ", ".join(map(repr, classes))
    if name is None:
        if len(classes) > 1:
            raise InputError(
                f"{where} knows {len(classes)} classes of particles, {known}: say which to average "
                "(particle_class=…, --class)"
            )
        return classes[0]
    if name not in classes:
        raise InputError(
            f"particle_class must be a class that {where} knows, {known}, got {name!r}"
        )
    return name


def check_name(name: str, where: str) -> None:
    """Refuse a tomogram's name that a STAR file does not give back.

    Raises
    ------
    InputError
    """
    table = pd.DataFrame({"tomogram": [name], "z": [0.0], "y": [0.0], "x": [0.0]})
    kept = False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "name.star")
        try:
            write_particles(table, path, voxel_size=1.0)
            kept = read_particles(path)["tomogram"].tolist() == [name]
        except InputError:
            pass
    if not kept:
        raise InputError(
            f"{where}: STAR files cannot keep the name {name!r} of the tomogram; rename it to "
            "letters, digits, - and _"
        )


def check_table(table: pd.DataFrame, output: Path, **options: Any) -> None:
    """Write a table as `write_particles` will, where it is in nobody's way.

    Parameters
    ----------
    table : DataFrame
        What is known before the work: the columns that it adds can always be written.
    output : Path
        Where the table will be written; nothing is written there.
    **options
        Of `write_particles`.

    Raises
    ------
    InputError
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, output.name)
        try:
            write_particles(table, path, **options)
        except InputError as error:
            raise InputError(str(error).replace(str(path), str(output))) from None
