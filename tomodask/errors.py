"""What a user can mend: wrong input, told apart from a fault of tomodask itself."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """The input is at fault; the message names the file or parameter, its value and the way out.

    The command line prints the message alone and ends with exit code 2; any other exception is a
    fault of tomodask (exit code 1).
    """
