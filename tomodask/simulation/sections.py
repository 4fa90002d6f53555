"""Frozen dataclasses from nested tables, as TOML has them: each key known, each value checked.

A section is a dataclass; its fields are the keys, their types and bounds what a value is held to.
A field that is a dataclass is a section of its own, a tuple of dataclasses a list of sections.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from functools import lru_cache
from typing import Any

from tomodask.errors import InputError

__all__ = ["bounded", "section_of", "without_none"]


def bounded(default: Any, **bounds: Any) -> Any:
    """A field with bounds, `least`, `above` and `below`; `choices` are the texts it may have."""
    return field(default=default, metadata=bounds)


def without_none(value: Any) -> Any:
    """Nested plain values without what is not given; tuples as lists."""
    if isinstance(value, dict):
        return {key: without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, tuple):
        return [without_none(one) for one in value]
    return value


@lru_cache(maxsize=32)
def _types(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def section_of(
    section: type, table: Mapping[str, Any], where: str = "", root: type | None = None
) -> Any:
    """A section from a table.

    Parameters
    ----------
    section : type
        The dataclass.
    table : mapping
    where : str
        The section's name with a dot behind it, or nothing.
    root : type, optional
        The section that holds all: where a key in a wrong place may belong; by default `section`.

    Raises
    ------
    InputError
        Naming the key, and for one that is not known the nearest that is.
    """
    root = root or section
    if not isinstance(table, Mapping):
        raise InputError(
            f"{where.rstrip('.')} must be a table, [{where.rstrip('.')}], got {table!r}"
        )
    known = {one.name: one for one in fields(section)}
    for key in table:
        if key not in known:
            raise InputError(_unknown(where, str(key), section, root))
    values = {}
    for name, one in known.items():
        if name in table:
            values[name] = _value(f"{where}{name}", table[name], _types(section)[name], one, root)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{where}{name} is missing")
    return section(**values)


def _unknown(where: str, key: str, section: type, root: type) -> str:
    names = [one.name for one in fields(section)]
    homes = [""] * (key in _types(root))  # a right key in a wrong place
    for name, kind in _types(root).items():
        inner = next(iter(typing.get_args(kind)), kind)  # a tuple of sections counts as one
        if key in getattr(inner, "__dataclass_fields__", {}):
            homes.append(f"{name}.")
    near = [f"{home}{key}" for home in homes] or [
        f"{where}{name}" for name in difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    ]
    said = f"unknown key {where}{key}"
    if near:
        return f"{said}; did you mean {' or '.join(near)}?"
    return f"{said}; known are {', '.join(names)}"


def _value(name: str, value: Any, kind: Any, one: Any, root: type) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kind = next(part for part in inner if part is not type(None))
        return _value(name, value, kind, one, root)
    if hasattr(kind, "__dataclass_fields__"):
        return section_of(kind, value, f"{name}.", root)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            wanted = f"a list of tables, each [[{name}]]" if inner[-1] is Ellipsis else "a list"
            raise InputError(f"{name} must be {wanted}, got {value!r}")
        if inner[-1] is Ellipsis:
            return tuple(
                _value(f"{name}[{i}]", v, inner[0], one, root) for i, v in enumerate(value)
            )
        if len(value) != len(inner):
            raise InputError(f"{name} must have {len(inner)} values, got {len(value)}: {value}")
        return tuple(_value(name, v, k, one, root) for v, k in zip(value, inner, strict=True))
    return _plain(name, value, kind, one.metadata)


def _plain(name: str, value: Any, kind: type, bounds: Mapping[str, Any]) -> Any:
    if kind is bool or kind is str:
        if not isinstance(value, kind):
            wanted = "true or false" if kind is bool else "text"
            raise InputError(f"{name} must be {wanted}, got {value!r}")
        choices = bounds.get("choices")
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")
        return value
    right = isinstance(value, int) if kind is int else isinstance(value, (int, float))
    # Neither NaN, nor infinite, nor a whole number that is too large for a float.
    if not right or isinstance(value, bool) or not -1e300 < value < 1e300:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {what}, got {value!r}")
    if value < bounds.get("least", -math.inf):
        raise InputError(f"{name} must be at least {bounds['least']:g}, got {value}")
    if value <= bounds.get("above", -math.inf):
        raise InputError(f"{name} must be above {bounds['above']:g}, got {value}")
    if value >= bounds.get("below", math.inf):
        raise InputError(f"{name} must be below {bounds['below']:g}, got {value}")
    return kind(value)
