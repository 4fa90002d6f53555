"""Where the shared data lies, draws and killed runs that tests of several rooms use."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest


def shared_data(*parts: str) -> Path:
    """A file of the data beside the project; the test is skipped, aloud, where it is missing."""
    root = os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(
            f"needs the real data {'/'.join(parts)}: not found (set TOMODASK_SHARED to its folder)"
        )
    return path


@st.composite
def irregular_chunks(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Chunks of a Dask array, cut anywhere."""
    out = []
    for size in shape:
        cuts = draw(st.sets(st.integers(1, size - 1), max_size=4)) if size > 1 else set()
        edges = [0, *sorted(cuts), size]
        out.append(tuple(b - a for a, b in itertools.pairwise(edges)))
    return tuple(out)


def run_killed(script: str, when: Callable[[], bool], *, timeout: float = 60) -> None:
    """Run Python code in a process of its own and kill -9 it as soon as `when` says so.

    The code imports from the folder of the tests, as they do.
    """
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    process = subprocess.Popen([sys.executable, "-c", path + textwrap.dedent(script)])
    try:
        deadline = time.monotonic() + timeout
        while not when():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, f"nothing to kill for after {timeout:g} s"
            time.sleep(0.002)
    finally:
        process.kill()  # SIGKILL: nothing is tidied up
        process.wait()
