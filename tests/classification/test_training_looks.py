"""Classifiers and encoders in training as they are shown; what is common is tested with picking."""

import csv
import io

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from tomodask.classification.learning.pretraining_look import (
    EncoderLook,
    plot_encoder,
    watch_encoder,
)
from tomodask.classification.learning.pretraining_run import EncoderEpoch
from tomodask.classification.learning.training_look import (
    ClassifierLook,
    plot_classifier,
    watch_classifier,
)
from tomodask.classification.learning.training_run import ClassifierEpoch
from tomodask.errors import InputError
from tomodask.training.screens import TerminalScreen
from tomodask.training.view import TrainingView

NAMES = ("ribosome", "[red]ring", "a kind whose name is too long for a table")


def classified(epoch, **changes):
    confusion = np.array([[8, 1, 0], [0, 5, 0], [2, 0, 123]])
    told = {
        "epochs": 3, "loss": 1 / epoch, "learning_rate": 0.01, "validation_loss": 1.5 / epoch,
        "accuracy": 0.9, "class_accuracy": 0.8, "seconds": 2.0, "confusion": confusion,
        "classes": NAMES, "ended": False,
    }  # fmt: skip
    return ClassifierEpoch(epoch=epoch, **{**told, **changes})


def pretrained(epoch, linear=0.5):
    views = np.random.default_rng(epoch).normal(size=(4, 2, 24, 24))
    return EncoderEpoch(
        epoch=epoch, epochs=3, loss=4 / epoch, learning_rate=1e-4, linear=linear,
        neighbours=linear, seconds=2.0, views=views,
    )  # fmt: skip


def rows(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_log_and_files_of_a_classifier(tmp_path, capsys):
    view = watch_classifier(tmp_path)
    view(classified(1))
    view(classified(2, ended=True))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "classify: epoch 1 of 3: loss 1.0000, validation 1.5000, accuracy 0.900, of classes 0.800, "
        "learning rate 0.01, 2.0 s, about 4.0 s left"
    )
    assert "left" not in lines[1]  # patience has ended it
    assert [row["validation_loss"] for row in rows(tmp_path)] == ["1.5", "0.75"]
    assert {p.name for p in tmp_path.iterdir()} == {"history.csv", "progress.png"}
    assert matplotlib.image.imread(tmp_path / "progress.png").shape[1] > 900


def test_a_log_of_an_encoder_says_what_is_known(tmp_path, capsys):
    view = watch_encoder(tmp_path)
    view(pretrained(1))
    view(pretrained(2, float("nan")))
    assert "linear probe –, nearest probe –" in capsys.readouterr().err.splitlines()[1]
    assert [row["linear"] for row in rows(tmp_path)] == ["0.5", ""]
    assert [row["linear"] for row in watch_encoder(tmp_path).history] == [0.5, None]


def terminal(width, height=40):
    stream = io.StringIO()
    options = {"color_system": "truecolor", "force_terminal": True}
    return stream, Console(file=stream, width=width, height=height, **options)


@pytest.mark.parametrize("width", [50, 110])
def test_a_terminal_shows_which_class_is_taken_for_which(width):
    stream, console = terminal(width)
    view = TrainingView(ClassifierLook(), TerminalScreen(console))
    for epoch in (1, 2, 3):
        view(classified(epoch))
    shown = stream.getvalue()
    assert shown.endswith("\x1b[?25h")  # the cursor is back
    assert "[red]ring" in shown  # names are no mark-up
    assert "a kind whose name…" in shown
    assert "123" in shown


def test_a_terminal_without_room_leaves_classes_and_views_out():
    report = classified(1, confusion=np.eye(30, dtype=int), classes=tuple(map(str, range(30))))
    (text,) = ClassifierLook().below(report, 60, 20)
    assert "… and 21 more classes" in text.plain
    assert EncoderLook().below(pretrained(1), 80, 20) == []
    assert EncoderLook().below(pretrained(1), 10, 50) == []


def test_a_terminal_shows_views():
    stream, console = terminal(110, 60)
    view = TrainingView(EncoderLook(), TerminalScreen(console))
    for epoch in (1, 2, 3):
        view(pretrained(epoch))
    assert "two views of some boxes" in stream.getvalue()
    assert "▀" in stream.getvalue()


def test_curves_are_those_of_the_history():
    history = [{"epoch": n, "loss": 1 / n, "linear": None if n == 2 else n / 4} for n in (1, 2, 3)]
    figure = plot_encoder(history)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xdata(), [1, 3])
    assert len(plot_encoder([{"epoch": 1, "loss": 1.0, "linear": None}]).axes) == 2  # no labels
    counts = plot_classifier(history, np.eye(3), NAMES).axes[3]
    assert counts.get_yticklabels()[0].get_text() == "ribosome"
    for plot in (plot_encoder, plot_classifier):
        with pytest.raises(InputError, match="history is empty"):
            plot([])


@pytest.mark.parametrize("watch", [watch_classifier, watch_encoder])
def test_curves_of_what_was_done_before_are_there_at_once(tmp_path, watch):
    told = {"loss": 0.5, "learning_rate": 0.01, "linear": None, "accuracy": 0.5, "seconds": 1.0}
    watch(tmp_path).take_up([])
    assert not list(tmp_path.iterdir())
    view = watch(tmp_path)
    view.take_up([{"epoch": 1, **told}, {"epoch": 2, **told}])
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2"]
    assert matplotlib.image.imread(tmp_path / "progress.png").shape[1] > 900
    assert watch(tmp_path).history == view.history
