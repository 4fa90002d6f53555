"""What a user can mend: wrong input, told apart from a fault of tomodask itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["InputError", "did_you_mean"]


class InputError(ValueError):
    """The input is at fault; the message names the file or parameter, its value and the way out.

    The command line prints the message alone and ends with exit code 2; any other exception is a
    fault of tomodask (exit code 1).
    """


def did_you_mean(wrong: Iterable[str], known: Sequence[str]) -> str:
    """The end of a message: known names that unknown ones are nearly, whatever their case.

    Examples
    --------
    >>> did_you_mean(["groel", "ribosome"], ["GroEL", "no particle"])
    "; did you mean 'GroEL'?"
    >>> did_you_mean(["ribosome"], ["GroEL"])
    ''
    """
    plain: dict[str, str] = {}
    for name in known:
        plain.setdefault(name.casefold(), name)
    near = [difflib.get_close_matches(one.casefold(), plain, n=1) for one in wrong]
    found = dict.fromkeys(repr(plain[one[0]]) for one in near if one)
    return f"; did you mean {', '.join(found)}?" if found else ""
