"""What the commands that train a network share: options, and how they end when they are stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from tomodask.cli.options import overwrite_option, seed_option
from tomodask.errors import InputError

__all__ = ["precision_of", "training", "training_options"]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Of the products; auto takes bfloat16 where the machine has it.",
    ),
    seed_option,
    click.option(
        "--threads", type=int, metavar="N", help="Of the processor.  [default: all cores]"
    ),
    click.option("--resume", is_flag=True, help="Go on with a training that was stopped."),
    overwrite_option,
)


def training_options(function: Decorated) -> Decorated:
    """Add ``--precision``, ``--seed``, ``--threads``, ``--resume`` and ``--overwrite``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def precision_of(asked: str) -> Any:
    """Return the precision of ``--precision``; needs PyTorch where that is auto."""
    if asked != "auto":
        return asked
    from tomodask.nets.training_step import default_precision

    return default_precision()


@contextmanager
def training(output: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Train within: it begins where the options go together, and Ctrl-C tells how it goes on.

    Parameters
    ----------
    output : Path
        The model file.
    resume, overwrite : bool
        Whether they were asked for.

    Raises
    ------
    InputError
        If both are asked for, or PyTorch is not there.
    KeyboardInterrupt
        With the sentence that is told.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one of them")
    from tomodask.nets import needs

    needs("torch")
    from tomodask.training.keeping import state_of

    state = state_of(output)
    before = _written(state)
    try:
        yield
    except KeyboardInterrupt:
        now = _written(state)
        # With --overwrite a state may be there that is of the former training.
        if now is None or (now == before and not resume):
            told = "stopped before the first epoch was done: there is nothing to go on from yet, "
            raise KeyboardInterrupt(f"{told}the same command begins again") from None
        way = "--resume in place of --overwrite" if overwrite else "--resume"
        raise KeyboardInterrupt(
            f"stopped; the epochs that were finished are kept, the same command with {way} goes "
            "on from there"
        ) from None


def _written(path: Path) -> int | None:
    """When a file was written, ns; None where there is none."""
    return path.stat().st_mtime_ns if path.exists() else None
