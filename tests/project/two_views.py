"""Images of two views of a phantom in a stack, and their averaging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import pandas as pd
import pytest

from tomodask.data.images import images_array, save_images
from tomodask.data.run_folder import RunFolder
from tomodask.project.averaging2d import steps
from tomodask.project.averaging2d.averaging import Averaging2D, average2d
from tomodask.simulation.views import phantom_images, phantom_views

SETTINGS = {"radius": 140.0, "shift_range": 20.0, "embed": 0, "rounds": 4}


def save_input(folder: Path) -> pd.DataFrame:
    """Write the stack, and the views to begin with; gives the truth."""
    images, truth = phantom_images(60, views=2, box=32, pixel_size=12.0, snr=0.5, seed=4)
    views = phantom_views(2, box=32, pixel_size=12.0, seed=4)
    with dask.config.set(scheduler="synchronous"):
        save_images(images, folder / "stack.mrcs")
        save_images(
            images_array(views.to_numpy(), pd.DataFrame(index=range(2)), pixel_size=12.0),
            folder / "views.mrcs",
        )
    return truth


def averaged(files: tuple[Path, object], output: Path, **options: object) -> Averaging2D:
    """The averaging in a folder: from the start, or on from where one stopped."""
    folder, _ = files
    given = {"references": folder / "views.mrcs", **SETTINGS, **options}
    return average2d(folder / "stack.mrcs", output=output, scheduler="synchronous", **given)


def without_pictures(patch: pytest.MonkeyPatch) -> Callable[[RunFolder], Path]:
    """Let reports be empty pages; gives what writes whole ones."""
    real = steps.write_averaging2d_report
    patch.setattr(
        steps,
        "write_averaging2d_report",
        lambda folder: (folder.path / "report.html").write_text(""),
    )
    return real
