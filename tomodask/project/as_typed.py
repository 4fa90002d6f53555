"""A call of a job, told as the command line that does the same: for the report."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

__all__ = ["as_typed"]

_NOT_TYPED = ("output", "command", "overwrite", "on_round")


def as_typed(
    command: str,
    function: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    first: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    off: Mapping[str, str] | None = None,
    without: Mapping[str, str] | None = None,
    repeated: Sequence[str] = (),
) -> str:
    """The command line that does what a call did.

    Parameters
    ----------
    command : str
        Of tomodask.
    function : callable
        That was called.  Its first parameter is what the command takes without an option; of the
        others those that are not as by default are told.
    given : mapping of str to value
        Its arguments by name; other names are passed over.
    first : sequence of str
        Parameters that are told before the output, always.
    options : mapping of str to str, optional
        Parameter → option, where that is not its name with dashes.
    off : mapping of str to str, optional
        Parameter → option that says it is False, where it is True by default.
    without : mapping of str to str, optional
        Parameter → what its option takes for None, where that is not the default.
    repeated : sequence of str
        Parameters whose option is given again for each of their values; others' takes them all.

    Returns
    -------
    str
        Values that have no file are told as IN_MEMORY.
    """
    options, off, without = options or {}, off or {}, without or {}
    parameters = inspect.signature(function).parameters
    inputs = next(iter(parameters))
    words = ["tomodask", command, *_words(given[inputs])]
    for name in first:
        words += [_option(name, options), *_words(given[name])]
    words += ["-o", str(given["output"])]
    for name, value in given.items():
        if name in (inputs, *first, *_NOT_TYPED) or name not in parameters:
            continue
        if _same(value, parameters[name].default) or (value is None and name not in without):
            continue  # None is refused by the job, in words of its own
        option = _option(name, options)
        if isinstance(value, bool):
            words.append(option if value else off.get(name, option))
        elif value is None:
            words += [option, without[name]]
        elif name in repeated:
            words += [word for one in _words(value) for word in (option, one)]
        else:
            words += [option, *_words(value)]
    return shlex.join(words)


def _option(name: str, options: Mapping[str, str]) -> str:
    return options.get(name, f"--{name.replace('_', '-')}")


def _same(value: Any, default: Any) -> bool:
    """Compared only where that gives one answer: arrays and tables give many."""
    plain = isinstance(value, str | int | float | tuple)
    return value is default or bool(plain and value == default)


def _words(value: Any) -> list[str]:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [_word(one) for one in (value if several else [value])]


def _word(value: Any) -> str:
    if isinstance(value, xr.DataArray | xr.Dataset):
        # The store first: what was cut from a tomogram has that as its source.
        return str(value.attrs.get("store") or value.attrs.get("source") or "IN_MEMORY")
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | os.PathLike | int) else "IN_MEMORY"
