"""The main job: from a tomogram to an average as one run that can be killed and goes on."""

from tomodask.project.running import Run, run

__all__ = ["Run", "run"]
