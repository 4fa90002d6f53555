"""Where the shared data lies, and draws that tests of several rooms use."""

from __future__ import annotations

import itertools
import os
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
