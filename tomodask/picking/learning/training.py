"""Training of a picking network on marked particles, resumable.

The data are in `data` and `crops`, the epochs in `run`, the arithmetic in
`tomodask.nets.segmentation.trainer`, the pictures in `view`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from tomodask.cluster import compute
from tomodask.data.parts import TomogramParts
from tomodask.data.statistics import Statistics
from tomodask.errors import InputError
from tomodask.nets import needs
from tomodask.nets.segmentation.model_file import PickingModel
from tomodask.picking.learning.crops import TrainingTomogram
from tomodask.picking.learning.data import Marked, read_marked
from tomodask.picking.learning.run import EpochReport, TrainingRun
from tomodask.picking.learning.settings import TrainingSettings
from tomodask.training.keeping import Place
from tomodask.training.run import run_training

__all__ = ["EpochReport", "TrainingSettings", "train_picker"]


def train_picker(
    tomograms: Any,
    picks: pd.DataFrame | str | os.PathLike[str],
    *,
    diameter: float | Mapping[str, float],
    settings: TrainingSettings | None = None,
    output: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    voxel_size: float | None = None,
    any_size: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> PickingModel:
    """Train a segmentation network on marked particle centres (DeepETPicker [1]_).

    Parameters
    ----------
    tomograms : path, DataArray, or a sequence of them
        Of one voxel size.
    picks : DataFrame or path
        Centres of some particles, any table that `read_particles` reads; with several tomograms,
        ``tomogram`` has their names.  Classes are column ``kind`` (names), else ``class``.
        Particles that are not marked count as background; see `TrainingSettings.some_marked`.
    diameter : float or mapping of str to float
        Of the particles, Å; a mapping has each class's.
    settings : TrainingSettings, optional
    output : path, optional
        The model file, ``.safetensors``; beside it a folder of the same stem, ``.training``, with
        the state that `resume` goes on from, ``history.csv``, curves and slices.  The file is there
        from the first epoch on and is the best one so far.  None keeps nothing.
    classes : sequence of str, optional
        Only these, in this order.
    voxel_size : float, optional
        Å; in place of what the tomograms say.
    any_size : bool
        Train also where particles are not 7 to 25 voxels across.
    resume : bool
        Go on where a training of the same data and settings stopped; on a CPU, with the same
        version and threads, the result is the same to the last bit as without the stop.
        `learning_rate` and `precision` may be others, where the loss was no number.
    overwrite : bool
        Drop a training that is there.
    threads : int, optional
        Of PyTorch on the CPU.
    on_epoch : callable, optional
        Gets an `EpochReport` after each epoch; by default the live view of `watch_training`.

    Returns
    -------
    PickingModel
        The epoch of the best validation score: F1 that weights recall by 0.7.

    Raises
    ------
    InputError
        If particles, classes, sizes or settings do not go together; if the loss is no number any
        more (the state of the last whole epoch is kept); if memory does not hold one crop.

    References
    ----------
    .. [1] Liu et al., Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0.
    """
    needs("torch")
    settings = settings or TrainingSettings()
    marked = read_marked(
        tomograms,
        picks,
        diameter=diameter,
        classes=classes,
        voxel_size=voxel_size,
        any_size=any_size,
    )
    settings = replace(
        settings, architecture=replace(settings.architecture, classes=len(marked.classes))
    )
    widths = settings.widths(len(marked.classes))
    if len(widths) != len(marked.classes):
        raise InputError(
            f"label_diameter must be one, or one for each of the {len(marked.classes)} classes "
            f"({', '.join(marked.classes)}), got {settings.label_diameter}"
        )
    place = None if output is None else Place(output, resume=resume, overwrite=overwrite)
    run = TrainingRun(marked, settings, _normalised(marked, settings), threads=threads)
    from tomodask.picking.learning.view import watch_training

    return run_training(
        run,
        place,
        resume=resume,
        on_epoch=on_epoch,
        watch=watch_training,
    )


def _normalised(marked: Marked, settings: TrainingSettings) -> list[TrainingTomogram]:
    """The tomograms with their mean and spread; computes."""
    sources = []
    for volume, centers, numbers in zip(
        marked.volumes, marked.centers, marked.numbers, strict=True
    ):
        # As segmentation measures it, in blocks of its own: the same numbers for any chunks.
        parts = TomogramParts(volume, marked.voxel_size)
        statistics: Statistics = compute(parts.statistics(), label="mean")
        statistics.require_finite(str(volume.attrs.get("source") or volume.name))
        if not statistics.std > 0:
            raise InputError(f"{volume.name}: all voxels are {statistics.mean:g}; nothing to learn")
        sources.append(
            TrainingTomogram(
                volume=volume,
                mean=statistics.mean,
                std=-statistics.std if settings.invert else statistics.std,
                centers=centers,
                classes=numbers,
            )
        )
    return sources
