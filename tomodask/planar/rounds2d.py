"""Rounds of 2D alignment and averaging: reference-free (one class) and multireference (several).

A round aligns every image to the references, shares the images out to the classes, averages each
class by halves, and makes of the averages the references of the next round.  What a round came to
is a `Round2D`, all of plain arrays and one table: it can be kept in a file, and gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

__all__ = ["Round2D", "Settings2D", "classify_images", "next_round", "rounds_of", "start_round"]


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
        Whether averages are centred after each round.
    ctf : {"multiply", "flip"}, optional
        How images that carry their defocus are corrected for the contrast transfer.
    resolution : float, optional
        Finest detail of the references, Å; by default what the FRC of each class says.
    rounds : int
        At most.
    seed : int
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
    ctf: Literal["multiply", "flip"] | None = None
    resolution: float | None = None
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
        Averages of the images of odd and even number.
    table : DataFrame
        A row an image in their order, index ``image``: ``class`` (from 1; 0 where set aside, with a
        ``reason``), ``psi``, ``shift_y``, ``shift_x``, ``mirror``, ``score``, ``half``.
    frc : DataFrame
        ``class``, ``frequency`` (1/Å), ``resolution`` (Å), ``correlation`` of the halves.
    counts : array of int64, shape (classes,)
        Images of each class.
    reassigned : float
        Share of the images that changed their class; NaN in the first round.
    turned, moved : float
        Median change of the poses of the others, degrees and Å, less what is common to a class.
    reseeded : tuple of int
        Classes (from 1) that were empty and took over images of another.
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
    counts: np.ndarray = field(repr=False)
    reassigned: float
    turned: float
    moved: float
    reseeded: tuple[int, ...]
    settled: bool
    pixel_size: float


def start_round(
    images: xr.DataArray, settings: Settings2D, *, references: xr.DataArray | None = None
) -> Round2D:
    """Round 0: references drawn from the images by the seed, or those given.

    Computes, where references are drawn.
    """
    raise NotImplementedError


def next_round(images: xr.DataArray, state: Round2D, settings: Settings2D) -> Round2D:
    """Align, share out and average once more; computes.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        Lazy; the same in every round.
    state : Round2D
        Of the round before, from `start_round`, `next_round` or a file; not changed.
    settings : Settings2D

    Returns
    -------
    Round2D
        The same, bit by bit, on any chunks, batches and workers, and whether `state` comes from a
        file or from memory.
    """
    raise NotImplementedError


def rounds_of(
    images: xr.DataArray, settings: Settings2D, *, state: Round2D | None = None
) -> Iterator[Round2D]:
    """Yield the rounds after `state` (by default the start's), until one has settled."""
    raise NotImplementedError


def classify_images(
    images: xr.DataArray,
    *,
    classes: int,
    radius: float,
    shift_range: float,
    references: xr.DataArray | None = None,
    on_round: Callable[[Round2D], None] | None = None,
    **settings: object,
) -> Round2D:
    """Run all rounds and return the last; computes."""
    raise NotImplementedError
