"""Whole jobs that can be killed and go on: tomogram → average, rounds of refinement, 2D classes,
clusters of what nobody labelled.
"""

from tomodask.project.averaging2d.averaging import Averaging2D, average2d, open_average2d
from tomodask.project.from_tomogram.running import Run, run
from tomodask.project.refinement.refining import Refinement, refine
from tomodask.project.subdivision.subdividing import Subdivision, open_subdivision, subdivide

__all__ = [
    "Averaging2D",
    "Refinement",
    "Run",
    "Subdivision",
    "average2d",
    "open_average2d",
    "open_subdivision",
    "refine",
    "run",
    "subdivide",
]
