"""Where a command works, by what was typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

__all__ = ["place"]


@contextlib.contextmanager
def place(cluster: dict[str, Any], *, local: bool = True) -> Iterator[None]:
    """Open what ``--scheduler`` and its companions name.

    Parameters
    ----------
    cluster : dict
        The values of `cluster_options`.
    local : bool
        Whether a local cluster is started where nothing was typed; else threads of this process
        do the work, which start at once and suit what waits for the disk.
    """
    if not local and all(value is None for value in cluster.values()):
        yield
        return
    from tomodask.cluster import connect

    with connect(**cluster):
        yield
