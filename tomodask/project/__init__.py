"""Whole jobs that can be killed and go on: tomogram → average, and rounds of refinement."""

from tomodask.project.refining import Refinement, refine
from tomodask.project.running import Run, run

__all__ = ["Refinement", "Run", "refine", "run"]
