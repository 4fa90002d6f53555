"""Training of a classifier of boxes on labels, resumable.

Labels are in `class_labels`, boxes in `box_stream`, the epochs in `training_run`, the arithmetic in
`tomodask.nets.boxes.trainer`, the pictures in `training_look`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import xarray as xr

from tomodask.classification.learning.class_labels import labelled_boxes, split_labels
from tomodask.classification.learning.settings import ClassifierSettings
from tomodask.classification.learning.training_boxes import (
    cubic_edge,
    looked_at,
    opened,
    told_of_boxes,
)
from tomodask.classification.learning.training_run import ClassifierEpoch, ClassifierRun
from tomodask.errors import InputError
from tomodask.nets import needs
from tomodask.nets.boxes.encoder import Encoder, EncoderName
from tomodask.nets.boxes.model_file import BoxModel, read_box_model
from tomodask.training.keeping import Place
from tomodask.training.run import run_training

__all__ = ["ClassifierEpoch", "ClassifierSettings", "train_classifier"]

_log = logging.getLogger(__name__)
_UNEVEN = 5  # times: from there on, balance is offered
_VOXELS = 0.05  # by which voxel sizes may differ, as a share


def train_classifier(
    subtomograms: xr.Dataset | str | os.PathLike[str],
    labels: pd.DataFrame | str | os.PathLike[str],
    *,
    network: EncoderName = "rb3d",
    init: BoxModel | str | os.PathLike[str] | None = None,
    settings: ClassifierSettings | None = None,
    output: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    on_epoch: Callable[[ClassifierEpoch], None] | None = None,
) -> BoxModel:
    """Train a network to tell kinds of particles by their boxes [1]_ [2]_.

    Parameters
    ----------
    subtomograms : Dataset or path
        Boxes of 24 to 48 voxels.  They stream from where they lie, block by block.
    labels : DataFrame or path
        Any table that `read_particles` reads, or a CSV: classes in ``kind`` (names) or ``class``
        (numbers), matched to boxes by ``image``, ``particle`` or place; "no particle" is a class
        like others.  Boxes without a label are left out.
    network : {"rb3d", "inception3d", "dsrf3d"}
    init : BoxModel or path, optional
        Begin with the weights of `pretrain_encoder` or of another classifier, of the same network
        and box; the last layer is drawn anew, and the learning rate is lower where settings do not
        tell it.
    settings : ClassifierSettings, optional
    output : path, optional
        The model file, ``.safetensors``; beside it a folder of the same stem, ``.training``, with
        the state that `resume` goes on from, ``history.csv`` and ``progress.png``.  The file is
        there from the first epoch on and is the best one so far.  None keeps nothing.
    classes : sequence of str, optional
        Only these, in this order.
    resume : bool
        Go on where a training of the same data and settings stopped; on a CPU, with the same
        version and threads, the result is the same to the last bit as without the stop.
        `learning_rate` and `precision` may be others, where the loss was no number.
    overwrite : bool
        Drop a training that is there.
    threads : int, optional
        Of PyTorch on the CPU.
    on_epoch : callable, optional
        Gets a `ClassifierEpoch` after each epoch; by default the live view.

    Returns
    -------
    BoxModel
        The epoch of the best accuracy on held-out boxes; its confidence is calibrated by them.
        ``training["validation"]`` has their confusion matrix, ``training["test"]`` that of boxes
        which nothing was chosen by.

    Raises
    ------
    InputError
        If boxes, labels, classes or settings do not go together; if the loss is no number any more
        (the state of the last whole epoch is kept).

    Notes
    -----
    Boxes that hold NaN or one value only are set aside, and named in a warning.

    References
    ----------
    .. [1] Xu et al., Bioinformatics 33, i13 (2017), doi:10.1093/bioinformatics/btx230.
    .. [2] Gupta et al., Front. Physiol. 13, 957484 (2022), doi:10.3389/fphys.2022.957484.
    """
    needs("torch", extra="classification")
    asked = settings or ClassifierSettings()
    settings = asked.settled(network, pretrained=init is not None)
    place = None if output is None else Place(output, resume=resume, overwrite=overwrite)
    boxes = opened(subtomograms)
    start = read_box_model(init) if isinstance(init, str | os.PathLike) else init
    labelled = labelled_boxes(boxes, labels, classes=classes)
    split_labels(labelled, validation=settings.validation)  # refused before all boxes are read
    encoder = Encoder(network, cubic_edge(boxes), len(labelled.classes))
    if start is not None:
        _check_start(start, encoder, float(boxes.attrs["voxel_size"]))
    sound, digest = looked_at(boxes, labelled.rows)
    labelled = labelled.without(~sound)
    split = split_labels(
        labelled, validation=settings.validation, test=settings.test, seed=settings.seed
    )
    run = ClassifierRun(
        boxes,
        labelled,
        split,
        encoder,
        settings,
        start=start,
        threads=threads,
        data=told_of_boxes(
            boxes,
            {
                "labels": Path(labels).name if isinstance(labels, str | os.PathLike) else "a table",
                "boxes": labelled.counts,
                "set_aside": int((~sound).sum()),
                "digest": digest,
            },
        ),
    )
    _say(run)
    if start is not None and asked.learning_rate is None:
        _log.info(
            "learning rate %g, lower than from a random start (learning_rate=, --learning-rate)",
            settings.learning_rate,
        )
    from tomodask.classification.learning.training_look import watch_classifier

    return run_training(
        run,
        place,
        resume=resume,
        on_epoch=on_epoch,
        watch=watch_classifier,
    )


def _check_start(start: BoxModel, encoder: Encoder, voxel_size: float) -> None:
    its = start.encoder
    ways = []
    if its.network != encoder.network:
        ways.append(f"give network={its.network!r} (--network)")
    if its.box != encoder.box:
        ways.append(f"extract boxes of {its.box}³ (--box)")
    if ways:
        raise InputError(
            f"init is {its.network} for boxes of {its.box}³, these are for {encoder.network} of "
            f"{encoder.box}³: {', '.join(ways)}, or pretrain an encoder for these"
        )
    if not abs(start.voxel_size - voxel_size) <= _VOXELS * start.voxel_size:
        raise InputError(
            f"init was trained on voxels of {start.voxel_size:g} Å, these are of {voxel_size:g} Å: "
            "resample the tomograms, or pretrain an encoder on these boxes"
        )


def _say(run: ClassifierRun) -> None:
    counts = ", ".join(f"{name} {n}" for name, n in run.labelled.counts.items())
    sizes = ", ".join(f"{len(v)} for {name}" for name, v in run.numbers.items() if len(v))
    held = sum(stream.bytes for stream in run.streams.values())
    _log.info("%s; %s; at most %.0f MB of boxes in memory", counts, sizes, held / 1e6)
    part = run.streams["training"]
    if not part.whole:
        _log.info(
            "boxes are shuffled in lots of %d of %d (memory=%g GB)",
            part.at_once,
            len(part.rows),
            run.settings.memory,
        )
    most, least = (of(run.labelled.counts.values()) for of in (max, min))
    if most >= _UNEVEN * least and not run.settings.balance:
        _log.info(
            "the largest class has %.0f times as many boxes as the smallest, which may be passed "
            "over; balance=True (--balance) weighs them alike",
            most / least,
        )
