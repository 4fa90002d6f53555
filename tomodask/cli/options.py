"""Options that several commands share, and checks that come before any work."""

from __future__ import annotations

import inspect
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click

from tomodask.errors import InputError

__all__ = [
    "INPUT",
    "OWN_THREADS",
    "TABLES",
    "VOLUMES",
    "angstrom",
    "candidates_option",
    "check_output",
    "cluster_options",
    "command",
    "command_line",
    "diameter_option",
    "examples_as_written",
    "global_step_option",
    "keep_former",
    "numbers_or_none",
    "output_option",
    "overwrite_option",
    "seed_option",
    "shift_range_option",
    "table_style_option",
    "tilt_range_option",
    "voxel_size_option",
]

#: What runs a command that starts no cluster of itself: `cluster_options`.
OWN_THREADS = "threads of this process, one a core; with --workers that many processes"
INPUT = click.Path(path_type=Path)
VOLUMES = (".mrc", ".map", ".rec", ".st", ".ali", ".zarr")
TABLES = (".star", ".tbl", ".csv")

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def command(function: Callable[..., Any]) -> click.Command:
    """Make a command of a function; its help keeps the lines of its examples."""
    told = click.version_option(version("tomodask"), prog_name="tomodask")(function)
    return click.command(
        help=examples_as_written(function.__doc__ or ""),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        no_args_is_help=False,
    )(told)


def examples_as_written(text: str) -> str:
    """Keep the lines of the paragraph that begins with "Example:"; click would fill it."""
    return inspect.cleandoc(text).replace("\nExample:", "\n\b\nExample:")


def cluster_options(*, default: str) -> Callable[[Decorated], Decorated]:
    """Add ``--scheduler``, ``--workers``, ``--memory`` and ``--config``.

    Parameters
    ----------
    default : str
        What runs without ``--scheduler``, for the help.
    """

    def decorate(function: Decorated) -> Decorated:
        for option in reversed(
            (
                click.option(
                    "--scheduler",
                    metavar="WHERE",
                    help="Where the work runs: tcp://HOST:PORT (a running Dask scheduler), cuda (a "
                    "worker for each GPU here), slurm (jobs), or synchronous (this process, one "
                    f"task after the other).  [default: {default}]",
                ),
                click.option(
                    "--workers", type=int, metavar="N", help="Number of workers, one thread each."
                ),
                click.option("--memory", metavar="SIZE", help="Memory of each worker, e.g. 4GiB."),
                click.option(
                    "--config",
                    type=INPUT,
                    metavar="TOML",
                    help="File with a table [slurm]: options of dask_jobqueue.SLURMCluster.",
                ),
            )
        ):
            function = option(function)
        return function

    return decorate


def output_option(metavar: str, text: str) -> Callable[[Decorated], Decorated]:
    """Add ``-o``, ``--output``."""
    return click.option("-o", "--output", type=INPUT, required=True, metavar=metavar, help=text)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an output that is there already."
)
tilt_range_option = click.option(
    "--tilt-range",
    type=float,
    nargs=2,
    metavar="LO HI",
    help="Least and largest tilt, degrees; -90 90 where nothing is missing; replaces the record of "
    "the tilt series.  [default: what the input says]",
)
voxel_size_option = click.option(
    "--voxel-size",
    type=float,
    metavar="Å",
    help="Take this voxel size (Å) in place of what the input says.",
)
diameter_option = click.option(
    "--diameter", type=float, metavar="Å", help="Of the particle, Å.  [default: measured]"
)
shift_range_option = click.option(
    "--shift-range",
    type=float,
    metavar="Å",
    help="How far a particle may be off the centre along each axis, Å.  [default: a tenth of the "
    "box]",
)
global_step_option = click.option(
    "--angular-step", type=float, default=20.0, show_default=True, help="Of global searches, °."
)
candidates_option = click.option(
    "--candidates", type=int, default=6, show_default=True, help="Poses refined for each particle."
)
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Of all that is drawn."
)
table_style_option = click.option(
    "--style",
    type=click.Choice(["relion3.1", "relion4", "relion5"]),
    default="relion3.1",
    show_default=True,
    help="Kind of a STAR that is written.",
)


def check_output(
    path: Path,
    suffixes: tuple[str, ...],
    *,
    inputs: tuple[Path, ...] = (),
    replace: bool = True,
) -> None:
    """Refuse an output that could not be written, before hours of work go into it.

    Parameters
    ----------
    path : Path
    suffixes : tuple of str
        What its name may end with.
    inputs : tuple of Path
        Files that must not be replaced by it.
    replace : bool
        Whether one that is there may be replaced.
    """
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"output {str(path)!r} must end with {', '.join(suffixes)}, got {path.suffix!r}; "
            "choose another name"
        )
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    if any(_same(path, one) for one in inputs):
        raise InputError(f"output {str(path)!r} is an input too; choose another name")
    if path.exists() and not replace:
        raise InputError(f"{path} exists already; choose another name or add --overwrite")


def keep_former(path: Path) -> None:
    """Keep a table that is about to be replaced as ``NAME~``, aloud.

    A script may be run again, and what it replaces is small and may have cost hours.
    """
    if path.exists():
        former = path.with_name(f"{path.name}~")
        shutil.copy2(path, former)
        click.echo(f"{path}: the table that was there is kept as {former.name}", err=True)


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def command_line() -> str:
    """The command as it was given, for reports."""
    return shlex.join(["tomodask", *sys.argv[1:]])


def numbers_or_none(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    """Return the two numbers of an option, or None where it was not given."""
    return (values[0], values[1]) if values else None


def angstrom(resolution: float) -> str:
    """Return a resolution as text."""
    return f"{resolution:.1f} Å" if resolution < float("inf") else "not reached"
