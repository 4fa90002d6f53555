"""What a run of rounds in 2D is asked for, and what a round came to: plain values, for any file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.errors import InputError
from tomodask.planar.averages2d import check_images
from tomodask.planar.image_optics import Correction, check_correction
from tomodask.planar.plan2d import check_search

__all__ = [
    "HISTORY",
    "LEAST",
    "Round2D",
    "Settings2D",
    "check_settings",
    "search_settings",
    "start_resolution",
]

#: Columns of `Round2D.history`.
HISTORY = ("round", "score", "reassigned", "turned", "moved", "filled", "twins")
#: Half of the images that a class needs.
LEAST = 2


@dataclass(frozen=True)
class Settings2D:
    """What holds for all rounds; plain values, to be kept beside the rounds.

    Attributes
    ----------
    classes : int
        1 is reference-free.
    radius : float
        Of the disc that is aligned by, Å.
    shift_range : float
        Farthest shift, Å.
    shift_step : float, optional
        Å; by default one pixel.
    mirror : bool
        Whether images may show the reference's mirror image.
    equal : bool
        Classes of equal size, as the EQK-means of ISAC.
    center : bool
        Whether references are centred after each round.
    ctf : {"multiply", "flip"}, optional
        How images that carry their defocus are corrected for the contrast transfer.
    resolution : float, optional
        Finest detail of the references, Å; by default what the FRC of each class says.
    start_resolution : float, optional
        Of the images that the classes start from, Å; by default 2/9 of the radius.
    coarse : int
        Rounds in which several classes are compared by that band alone, so that a small class does
        not lose its images to others that show more; 0 where they start from known references.
    rounds : int
        At most.
    seed : int
        Of the images that the classes start from.
    batch : int, optional
        Images that a task takes.
    """

    classes: int
    radius: float
    shift_range: float
    shift_step: float | None = None
    mirror: bool = True
    equal: bool = False
    center: bool = True
    ctf: Correction | None = None
    resolution: float | None = None
    start_resolution: float | None = None
    coarse: int = 5
    rounds: int = 30
    seed: int = 0
    batch: int | None = None


@dataclass(frozen=True)
class Round2D:
    """What a round came to, and all that the next one needs.

    Attributes
    ----------
    number : int
        0 is the start, before any alignment.
    references : array of float32, shape (classes, n, n)
        What images are aligned to in the next round: averages, filtered and centred.
    averages : array of float32, shape (classes, n, n)
        Unfiltered, in the frame of the table's poses; a class without images is 0.
    halves : array of float32, shape (2, classes, n, n)
        Averages of the images of even and odd number, or as their coordinate ``half`` says.
    table : DataFrame
        A row an image in their order, index ``image``: ``class`` (from 1; 0 where set aside, with a
        ``reason``, a column that is there only then), ``psi``, ``shift_y``, ``shift_x``,
        ``mirror``, ``score``, ``half``.
    frc : DataFrame
        ``class``, ``frequency`` (1/Å), ``resolution`` (Å), ``correlation`` of the halves.
    history : DataFrame
        A row a round so far: ``round``, ``score`` (mean), ``reassigned`` (share of the images that
        changed their class), ``turned`` (degrees) and ``moved`` (Å) (median over the images that
        kept it, less what is common to a class), ``filled`` and ``twins`` (classes that took over
        images since they were empty, or were of one view with another).
    settled : bool
        Whether the rounds are done: the next one would change nothing that counts.
    pixel_size : float
        Å.
    """

    number: int
    references: np.ndarray = field(repr=False)
    averages: np.ndarray = field(repr=False)
    halves: np.ndarray = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    frc: pd.DataFrame = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    settled: bool
    pixel_size: float

    @property
    def counts(self) -> np.ndarray:
        """Images of each class, shape (classes,)."""
        label = self.table["class"].to_numpy(int)
        return np.bincount(label, minlength=len(self.references) + 1)[1:]


def check_settings(images: xr.DataArray, settings: Settings2D) -> tuple[int, float]:
    """Edge in pixels and pixel size of images that fit the settings.

    Raises
    ------
    InputError
        Naming the setting, its value and the way out.
    """
    n, pixel_size = check_images(images)
    count, k = images.sizes["image"], settings.classes
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"classes must be a whole number, at least 1, got {k!r}")
    if 2 * LEAST * k > count:
        raise InputError(
            f"{k} classes need {2 * LEAST} images each, {2 * LEAST * k} in all, there are "
            f"{count}; ask for fewer classes"
        )
    search = search_settings(settings, images)
    check_search(
        (n, n),
        radius=settings.radius,
        shift_range=settings.shift_range,
        step=search["shift_step"],
        pixel_size=pixel_size,
    )
    check_correction(settings.ctf)
    for name, least in (("rounds", 1), ("coarse", 0), ("seed", 0), ("batch", 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    for name in ("resolution", "start_resolution"):
        value = getattr(settings, name)
        if value is not None and not value >= 2 * pixel_size:
            raise InputError(
                f"{name} must be at least two pixels, {2 * pixel_size:g} Å, got {value}"
            )
    return n, pixel_size


def search_settings(settings: Settings2D, images: xr.DataArray) -> dict[str, Any]:
    """What `plan_alignment2d` is given besides the references."""
    pixel_size = float(images.attrs["pixel_size"])
    return {
        "radius": settings.radius,
        "shift_range": settings.shift_range,
        "shift_step": pixel_size if settings.shift_step is None else settings.shift_step,
        "mirror": settings.mirror,
        "pixel_size": pixel_size,
    }


def start_resolution(settings: Settings2D) -> float:
    """Å, of the images that classes start from, and by which a class is divided."""
    return settings.start_resolution or settings.radius * 2 / 9
