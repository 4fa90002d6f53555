"""Training of an encoder without labels, resumable.

Boxes are in `box_stream`, views in `tomodask.nets.boxes.views`, the epochs in `pretraining_run`,
the arithmetic in `tomodask.nets.pretraining.trainer`, the pictures in `pretraining_look`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import get_args

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.classification.learning.class_labels import Labelled, labelled_boxes
from tomodask.classification.learning.pretraining_run import EncoderEpoch, EncoderRun
from tomodask.classification.learning.probes import halves
from tomodask.classification.learning.settings import EncoderSettings, Method
from tomodask.classification.learning.training_boxes import (
    cubic_edge,
    looked_at,
    opened,
    told_of_boxes,
)
from tomodask.errors import InputError
from tomodask.nets import needs
from tomodask.nets.boxes.encoder import Encoder, EncoderName
from tomodask.nets.boxes.model_file import BoxModel
from tomodask.training.keeping import Place
from tomodask.training.run import run_training

__all__ = ["EncoderEpoch", "EncoderSettings", "pretrain_encoder"]

_log = logging.getLogger(__name__)
_PROBED = 2000  # labelled boxes, at most
_FEWEST = 8  # boxes


def pretrain_encoder(
    subtomograms: xr.Dataset | str | os.PathLike[str],
    *,
    method: Method = "moco",
    network: EncoderName = "rb3d",
    settings: EncoderSettings | None = None,
    labels: pd.DataFrame | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    on_epoch: Callable[[EncoderEpoch], None] | None = None,
) -> BoxModel:
    """Train an encoder of boxes without labels (Gupta et al. [1]_).

    Two random views of a box shall have features that are alike, those of other boxes other ones.

    Parameters
    ----------
    subtomograms : Dataset or path
        Boxes of 24 to 48 voxels.  They stream from where they lie, block by block.
    method : {"moco", "simclr", "swav"}
    network : {"rb3d", "inception3d", "dsrf3d"}
    settings : EncoderSettings, optional
    labels : DataFrame or path, optional
        Known classes of some boxes, as for `train_classifier`: nothing is learned from them, but
        every few epochs two simple classifiers of the features tell what these are worth.
    output : path, optional
        The model file, ``.safetensors``, of the last epoch; beside it a folder of the same stem,
        ``.training``, with the state that `resume` goes on from, ``history.csv`` and
        ``progress.png``.  None keeps nothing.
    resume : bool
        Go on where a training of the same boxes and settings stopped; on a CPU, with the same
        version and threads, the result is the same to the last bit as without the stop.
        `learning_rate`, `precision` and `probe_every` may be others.
    overwrite : bool
        Drop a training that is there.
    threads : int, optional
        Of PyTorch on the CPU.
    on_epoch : callable, optional
        Gets an `EncoderEpoch` after each epoch; by default the live view.

    Returns
    -------
    BoxModel
        Without classes: for ``train_classifier(init=…)`` and `embed_subtomograms`.

    Raises
    ------
    InputError
        If boxes or settings do not go together; if the loss is no number any more (the state of the
        last whole epoch is kept); if memory does not hold a batch.

    Notes
    -----
    Boxes that hold NaN or one value only are set aside, and named in a warning.

    References
    ----------
    .. [1] Gupta et al., Front. Physiol. 13, 957484 (2022), doi:10.3389/fphys.2022.957484.
    """
    needs("torch", extra="classification")
    settings = settings or EncoderSettings()
    if method not in get_args(Method):
        raise InputError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    place = None if output is None else Place(output, resume=resume, overwrite=overwrite)
    boxes = opened(subtomograms)
    encoder = Encoder(network, cubic_edge(boxes), settings.dimension)
    if method == "moco" and settings.queue < settings.batch:
        raise InputError(
            f"queue must hold at least a batch, {settings.batch} keys, got {settings.queue}: raise "
            "it (--queue), or lower batch (--batch)"
        )
    labelled = None if labels is None else _probed(labelled_boxes(boxes, labels), settings.seed)
    rows = np.arange(boxes.sizes["particle"])
    sound, digest = looked_at(boxes, rows)
    rows = rows[sound]
    if len(rows) < _FEWEST:
        raise InputError(
            f"subtomograms has {len(rows)} sound boxes: without labels at least {_FEWEST} are "
            "needed to be told apart; extract more"
        )
    if labelled is not None:
        labelled = labelled.without(~sound[labelled.rows])
        halves(labelled.numbers)  # refused now, not after an epoch
    run = EncoderRun(
        boxes,
        rows,
        encoder,
        method,
        settings,
        probed=labelled,
        threads=threads,
        data=told_of_boxes(
            boxes, {"boxes": len(rows), "set_aside": int((~sound).sum()), "digest": digest}
        ),
    )
    told = f"{len(rows)} boxes, at most {run.bytes / 1e6:.0f} MB of boxes in memory"
    if labelled is not None:
        told += f"; {len(labelled.rows)} with a label judge the features"
    _log.info(told)
    from tomodask.classification.learning.pretraining_look import watch_encoder

    return run_training(run, place, resume=resume, on_epoch=on_epoch, watch=watch_encoder)


def _probed(labelled: Labelled, seed: int) -> Labelled:
    """At most so many that a probe costs less than an epoch."""
    drawn = np.random.default_rng(seed).permutation(len(labelled.rows))[:_PROBED]
    left_out = np.ones(len(labelled.rows), bool)
    left_out[drawn] = False
    return labelled.without(left_out)
