"""``tomodask classify train`` and ``classify predict``: networks that know boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import (
    INPUT,
    OWN_THREADS,
    check_output,
    cluster_options,
    command,
    keep_former,
    output_option,
    overwrite_option,
    table_style_option,
)
from tomodask.cli.places import place
from tomodask.cli.training_options import precision_of, training, training_options

__all__ = ["NETWORK", "box_training_options", "classify"]

_NAMED = 8  # classes
NETWORK = click.option(
    "--network",
    type=click.Choice(["rb3d", "inception3d", "dsrf3d"]),
    default="rb3d",
    show_default=True,
    help="RB3D (Gupta et al. 2022), Inception3D or DSRF3D (Xu et al. 2017).",
)
_BOX_TRAINING = (
    click.option("--invert", is_flag=True, help="Take the boxes' negative."),
    click.option(
        "--memory",
        type=float,
        default=1.0,
        show_default=True,
        metavar="GB",
        help="Of boxes at once; where they are more, they are shuffled in lots.",
    ),
    training_options,
)


def box_training_options(function: Any) -> Any:
    """Add what training with labels and without have in common."""
    for option in reversed(_BOX_TRAINING):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def classify() -> None:
    """Tell kinds of particles by a network that learned from labels.

    Without labels: `tomodask pretrain`.
    """


@command
@click.argument("subtomograms", type=INPUT)
@click.option(
    "--labels",
    type=INPUT,
    required=True,
    metavar="TABLE",
    help="Which box is what: STAR, Dynamo's tbl or CSV, with classes in kind or class.",
)
@output_option("MODEL.safetensors", "The model file; MODEL.training/ beside it shows how it went.")
@NETWORK
@click.option(
    "--init",
    type=INPUT,
    metavar="PRETRAINED",
    help="Begin with this encoder of `tomodask pretrain`.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="Learn this class of the table only; may be given again.  [default: all]",
)
@click.option(
    "--preset",
    type=click.Choice(["finetuning", "subdivision"]),
    help="Settings of Gupta et al. (after pretraining) or Xu et al.; options given go before.",
)
@click.option("--epochs", type=int, help="Rounds of training, at most.  [default: 50]")
@click.option("--batch", type=int, help="Boxes of a step.  [default: 16]")
@click.option(
    "--learning-rate", type=float, help="At the start.  [default: 0.01; with --init 0.001]"
)
@click.option(
    "--patience", type=int, help="Rounds without a better one that end it.  [default: 15]"
)
@click.option(
    "--validation",
    type=float,
    help="Share of each class that is held out to choose the round by.  [default: 0.2]",
)
@click.option("--test", type=float, help="Share that is looked at once, at the end.  [default: 0]")
@click.option(
    "--balance",
    is_flag=True,
    help="Weigh boxes so that small classes count as much as large ones.",
)
@click.option("--augment", is_flag=True, help="Turn, shift, scale and crop the boxes at random.")
@click.option(
    "--known",
    type=float,
    help="Share of held-out boxes that keep their class; as unsure as the rest is none of these.  "
    "[default: 0.95]",
)
@box_training_options
def train(
    subtomograms: Path,
    *,
    labels: Path,
    output: Path,
    network: Any,
    init: Path | None,
    classes: tuple[str, ...],
    preset: str | None,
    augment: bool,
    precision: Any,
    threads: int | None,
    resume: bool,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Train a classifier on SUBTOMOGRAMS that bear labels.

    Rows of the table are matched to boxes by image, particle or place.  Boxes without a
    label are left out; empty boxes are best given as a class (no particle).  Training can be
    stopped (Ctrl-C) and goes on with --resume; the model file is there after the first round
    and is the best one so far.

    Example:
      tomodask classify train boxes.zarr --labels labels.star -o classifier.safetensors
    """
    with training(output, resume=resume, overwrite=overwrite):
        from tomodask.classification.learning.training import ClassifierSettings, train_classifier
        from tomodask.nets.boxes.views import Views

        make = ClassifierSettings if preset is None else getattr(ClassifierSettings, preset)
        given = {name: value for name, value in settings.items() if value is not None}
        model = train_classifier(
            subtomograms,
            labels,
            network=network,
            init=init,
            settings=make(
                augment=Views() if augment else None, precision=precision_of(precision), **given
            ),
            output=output,
            classes=classes or None,
            resume=resume,
            overwrite=overwrite,
            threads=threads,
        )
    told = model.training["validation"]
    click.echo(
        f"{output}: {', '.join(model.classes)}; accuracy on held-out boxes "
        f"{told['accuracy']:.3f}, mean of the classes {told['class_accuracy']:.3f} (epoch "
        f"{model.training['kept_epoch']})"
    )
    click.echo(_recalled(told["confusion"], model.classes))
    if tested := model.training.get("test"):
        click.echo(_assessment(tested, model.classes))


@command
@click.argument("subtomograms", type=INPUT)
@click.option("--model", type=INPUT, required=True, help="A classifier that `classify train` made.")
@output_option("TABLE", "Particle table with classes: .star, .tbl or .csv.")
@click.option(
    "--labels",
    type=INPUT,
    metavar="TABLE",
    help="Known classes of some boxes: accuracy, confusion and calibration are told.",
)
@click.option(
    "--least-confidence",
    type=float,
    metavar="P",
    help="Below it a box is none of these.  [default: the model's]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the products.",
)
@table_style_option
@overwrite_option
@cluster_options(default=OWN_THREADS)
def predict(
    subtomograms: Path,
    *,
    model: Path,
    output: Path,
    labels: Path | None,
    least_confidence: float | None,
    precision: Any,
    style: str,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Name the kind of each of SUBTOMOGRAMS.

    The table has class, probabilities and confidence; unlikely boxes are none of these.
    Confidence is calibrated on few boxes, so that 0.8 is meant to be right eight times in ten:
    --labels of your own boxes tell whether it is.  A kind that the network never saw is mostly
    given a class all the same.

    Example:
      tomodask classify predict boxes.zarr --model classifier.safetensors -o classes.star
    """
    from tomodask.data.particles import PARTICLE_SUFFIXES, write_particles

    check_output(output, PARTICLE_SUFFIXES, inputs=(model, subtomograms), replace=overwrite)
    from tomodask.classification.learning.class_labels import labelled_boxes
    from tomodask.classification.learning.predicting import (
        classify_subtomograms,
        collect_classes,
        compare_labels,
    )
    from tomodask.data.subtomograms import open_subtomograms
    from tomodask.nets.boxes.inference import open_predictor
    from tomodask.nets.boxes.model_file import read_box_model

    known = read_box_model(model)
    boxes = open_subtomograms(subtomograms)
    found = classify_subtomograms(
        boxes, model=open_predictor(known, precision=precision), least_confidence=least_confidence
    )
    labelled = None if labels is None else labelled_boxes(boxes, labels)
    with place(cluster, local=False):
        table = collect_classes(found)
    keep_former(output)
    write_particles(table, output, voxel_size=float(boxes.attrs["voxel_size"]), style=style)
    counts = table["kind"].value_counts()
    told = ", ".join(f"{name or 'set aside'} {count}" for name, count in counts.items())
    click.echo(f"{output}: {told}")
    if labelled is not None:
        click.echo(_assessment(compare_labels(table, known.classes, labelled), known.classes))


def _assessment(told: dict[str, Any], classes: tuple[str, ...]) -> str:
    """Accuracy, calibration and confusion as lines."""
    lines = []
    if told.get("boxes"):
        said = told["accuracy_of_said"]
        lines.append(
            f"accuracy {told['accuracy']:.3f} of {told['boxes']} labelled boxes (mean of the "
            f"classes {told['class_accuracy']:.3f}); {told['none']:.1%} none of these"
            + (f", accuracy of the others {said:.3f}" if said is not None else "")
            + f"; calibration error {told['calibration_error']:.3f}"
        )
        width = max(len(name) for name in classes)
        columns = [max(5, len(str(n + 1)) + 1) for n in range(len(classes))]
        head = "".join(f"{n + 1:>{w}}" for n, w in enumerate(columns)) + "  recall"
        lines.append(f"{'label, class said':<{width + 5}}{head}")
        rows = zip(classes, told["confusion"], told["recall"], strict=True)
        for n, (name, row, recall) in enumerate(rows):
            counts = "".join(f"{count:>{w}}" for count, w in zip(row, columns, strict=True))
            last = f"{'–' if recall is None else f'{recall:.3f}':>8}"
            lines.append(f"{n + 1:>3}  {name:<{width}}{counts}{last}")
    if told.get("others"):
        lines.append(
            f"{told['others']} boxes are labelled as classes that the model does not know: "
            f"{told['others_none']:.1%} of them were said to be none of these"
        )
    if told.get("set_aside"):
        lines.append(f"{told['set_aside']} labelled boxes were set aside")
    return "\n".join(lines)


def _recalled(table: list[list[int]], classes: tuple[str, ...]) -> str:
    """How many of each class's held-out boxes were said to be of it, the worst ones first."""
    from tomodask.classification.learning.verdicts import recalls

    known = zip(recalls(table), classes, map(sum, table), strict=True)
    worst = sorted((share, name, count) for share, name, count in known if share is not None)
    told = [f"{name} {share:.2f} of {count}" for share, name, count in worst[:_NAMED]]
    left = f"; {len(worst) - _NAMED} more classes are better" if len(worst) > _NAMED else ""
    return f"recall: {', '.join(told)}{left}"


classify.add_command(train, "train")
classify.add_command(predict, "predict")
