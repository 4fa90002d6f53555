"""Names of tomograms, which each program writes in its own way."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["names_of_tomogram"]

_SUFFIXES = re.compile(  # the last is Warp's, the size of a pixel
    r"(\.(mrcs?|map|rec|st|ali|ccp4|tiff?|em|ome|zarr|gz|bz2|tomostar)|_[\d.]+apx)+$"
)
_NO_NAMES = frozenset(["", "nan", "none", "tomogram"])


def names_of_tomogram(names: Iterable[str], own: Iterable[str]) -> set[str]:
    """Those of `names` that mean the tomogram that is called `own`, in one way or another.

    Names that are equal win over those that are equal without folder and suffix, and these over
    those where one is a part of the other.  A number alone, as Dynamo has it, and no name at all
    say nothing, so they are taken where there is but one name.

    Parameters
    ----------
    names : iterable of str
        As in a particle table.
    own : iterable of str
        The tomogram's; where there is none, all of `names` may be it.

    Examples
    --------
    >>> names_of_tomogram(["TS_01.mrc_10.00Apx.mrc", "TS_02.mrc"], ["rec_TS_01"])
    {'TS_01.mrc_10.00Apx.mrc'}
    >>> names_of_tomogram(["TS_1"], ["TS_10"])
    set()
    """
    names, own = set(names), {name for name in own if _stem(name) not in _NO_NAMES}
    if len(names) == 1 and (not own or all(_says_nothing(name) for name in names)):
        return names
    stems = {_stem(name) for name in own}
    for mine in (
        {name for name in names if name in own},
        {name for name in names if _stem(name) in stems},
        {name for name in names if any(_is_part(_stem(name), stem) for stem in stems)},
    ):
        if mine:
            return mine
    return set()


def _stem(name: str) -> str:
    """Without folder and suffixes; lower case."""
    return _SUFFIXES.sub("", name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower())


def _says_nothing(name: str) -> bool:
    return _stem(name) in _NO_NAMES or _stem(name).isdecimal()


def _is_part(one: str, other: str) -> bool:
    """Whether the shorter lies in the longer, and its ends cut no number and no word there."""
    short, long = sorted((one, other), key=len)
    if _says_nothing(short):
        return False
    at = long.find(short)
    while at >= 0:
        before, after = long[at - 1 : at], long[at + len(short) :][:1]
        cuts = _one_kind(before, short[:1]) or _one_kind(short[-1:], after)
        if not cuts:
            return True
        at = long.find(short, at + 1)
    return False


def _one_kind(a: str, b: str) -> bool:
    return (a.isdecimal() and b.isdecimal()) or (a.isalpha() and b.isalpha())
