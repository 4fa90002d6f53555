"""The rounds of a refinement: each reads the one before from its files, and leaves its own.

A round is told from its files alone (`round_files`), never from what the process still knows: so a
killed refinement that goes on ends with the same bytes.  What happens in it is
`tomodask.rounds.one_round`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.averaging.fsc import resolution_at
from tomodask.cluster import compute
from tomodask.data.columns import QUATERNION
from tomodask.project.refinement.job import RefinementJob
from tomodask.project.refinement.round_files import write_round
from tomodask.rounds.iterations import Finished, Search
from tomodask.rounds.one_round import compute_round
from tomodask.rounds.round_state import Round

__all__ = ["do_round"]


def do_round(
    at: Path, job: RefinementJob, before: Round, search: Search, phase: str
) -> tuple[Finished, dict[str, Any]]:
    """Align, average, measure and write a round into its folder.

    Returns
    -------
    Finished
    dict
        What else is told of it, as JSON knows it.
    """
    at.mkdir(exist_ok=True)
    result = compute_round(
        job.rounds,
        before,
        search,
        several=phase == "classes",
        compute=partial(compute, passing=True),
        checkpoint=at / "batches",
    )
    write_round(at, job, result)
    told = result.events | {
        "phase": phase,
        "shares": {str(c): one.weights_share for c, one in result.classes.items()},
        "classes": {
            str(c): {
                "particles": list(one.average.particles),
                "resolution_143": _or_none(resolution_at(one.curve, 0.143)),
                "resolution_5": _or_none(resolution_at(one.curve, 0.5)),
            }
            for c, one in result.classes.items()
        },
        "set_aside": int(result.table[QUATERNION[0]].isna().sum()),
    }
    return result.finished, told


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
