"""Whole jobs that can be killed and go on: tomogram → average, rounds of refinement, 2D classes."""

from tomodask.project.averaging2d import Averaging2D, average2d, open_average2d
from tomodask.project.refining import Refinement, refine
from tomodask.project.running import Run, run

__all__ = ["Averaging2D", "Refinement", "Run", "average2d", "open_average2d", "refine", "run"]
