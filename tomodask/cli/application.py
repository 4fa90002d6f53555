"""The command ``tomodask`` itself: its commands, its log, and how it ends."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import click

from tomodask.cli.failures import STOPPED, USERS_INPUT, failure
from tomodask.cli.options import examples_as_written

__all__ = ["main"]

ABOUT = """Cryo-electron tomography from tomogram to average, on this machine or many.

Lengths are in angstrom (Å) unless an option says voxels, angles in degrees.

Example:
  tomodask run tomogram.mrc --template ribosome.mrc --tilt-range -60 60 -o out
"""
#: Where a command is defined; looked up when it is called, so that --help is quick.
_COMMANDS = {
    "info": "volumes",
    "convert": "volumes",
    "density": "density",
    "simulate": "simulation",
    "reconstruct": "reconstruction",
    "match": "picking",
    "train": "training",
    "segment": "segmentation",
    "pick": "picking",
    "score": "scoring",
    "extract": "picking",
    "align": "alignment",
    "average": "averaging",
    "fsc": "resolution",
    "refine": "refinement",
    "average2d": "planar",
    "pretrain": "pretraining",
    "classify": "classification",
    "embed": "subdivision",
    "subdivide": "subdivision",
    "explain": "subdivision",
    "run": "runs",
    "demo": "runs",
}


class Commands(click.Group):
    """The group of commands; ends with the exit code and the sentence of `failure`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the work."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that was asked for."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"tomodask.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of the output (head, less) may leave before its end."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and leave the process; see `tomodask.cli.failures` for the exit codes."""
        code = 0
        try:
            with _spoken_log():
                result = super().main(
                    args, "tomodask", complete_var, standalone_mode=False, **extra
                )
                if not standalone_mode:
                    return result
                code = result if isinstance(result, int) else 0
                sys.stdout.flush()
        except click.ClickException as error:
            code = _say_usage(error)
        except (KeyboardInterrupt, click.Abort) as stop:
            known = "stopped; what was finished is kept, the same command goes on from there"
            _say(str(stop.__cause__ or "") or known)  # click raises its own in place of it
            code = STOPPED
        except Exception as error:
            code, sentence = failure(error)
            _say(sentence)
        sys.exit(code)


def _say(sentence: str) -> None:
    print(f"tomodask: {sentence}", file=sys.stderr, flush=True)


def _say_usage(error: click.ClickException) -> int:
    """Tell in one line what was typed wrongly."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USERS_INPUT
    command = context.command_path if context is not None else "tomodask"
    message = " ".join(error.format_message().split())
    if not message.endswith((".", "?")):
        message += "."
    print(f"{command}: {message} See `{command} --help`.", file=sys.stderr, flush=True)
    return USERS_INPUT


class _Speaker(logging.Handler):
    """Log to what the standard error stream is at the moment: a progress bar may have taken it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the bare message; warnings are called so."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{prefix}{record.getMessage()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _spoken_log() -> Iterator[None]:
    """Show what tomodask logs, and not what its libraries warn its developers of."""
    logger, speaker = logging.getLogger("tomodask"), _Speaker()
    before = logger.level
    logger.addHandler(speaker)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(speaker)
        logger.setLevel(before)


@click.group(
    cls=Commands,
    help=examples_as_written(ABOUT),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(version("tomodask"), prog_name="tomodask")
def main() -> None:
    """Run ``tomodask``."""
