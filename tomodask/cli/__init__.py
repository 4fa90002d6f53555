"""``tomodask …``: parses what was typed, calls public functions, prints what they found."""

from tomodask.cli.application import main

__all__ = ["main"]
