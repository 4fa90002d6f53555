"""Training as it is shown: nothing is lost in the files, and no picture ever stops it."""

import csv
import io
import logging
import sys
import types
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from tomodask.errors import InputError
from tomodask.picking.learning.pictures import painted, plot_training, thinned
from tomodask.picking.learning.run import EpochReport
from tomodask.picking.learning.view import PickingLook, watch_training
from tomodask.training import screens
from tomodask.training.colors import class_color, half_blocks
from tomodask.training.screens import NotebookFigure, PlainRows, TerminalScreen
from tomodask.training.view import TrainingView


def report(epoch, **options):
    rng = np.random.default_rng(epoch)
    label = np.zeros((20, 24), np.uint8)
    label[4:9, 4:9], label[12:17, 14:19] = 1, 2
    told = {
        "epochs": 4, "loss": 0.5, "learning_rate": 1e-3, "precision": 0.25, "recall": 0.5,
        "f1": 1 / 3, "threshold": 0.5, "seconds": 30.0, "image": rng.normal(size=(20, 24)),
        "label": label, "prediction": np.stack([label == 1, label == 2]).astype(np.float32),
        "classes": ("ribosome", "[red]ring"),
    }  # fmt: skip
    return EpochReport(epoch=epoch, **{**told, **options})


def rows(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_log_gets_a_line_an_epoch_and_the_folder_its_files(tmp_path, capsys):
    view = watch_training(tmp_path / "log")
    for epoch in (1, 2, 3, 4):
        view(report(epoch, loss=1 / epoch))
    out, err = capsys.readouterr()
    assert out == ""
    assert all(character == "\n" or character.isprintable() for character in err)
    assert err.splitlines()[1] == (
        "train: epoch 2 of 4: loss 0.5000, precision 0.250, recall 0.500, F1 0.333, "
        "learning rate 0.001, 30 s, about 60 s left"
    )
    assert "left" not in err.splitlines()[3]
    there = {p.relative_to(tmp_path / "log").as_posix() for p in (tmp_path / "log").rglob("*.*")}
    assert there == {
        "history.csv", "progress.png", *(f"slices/epoch_000{n}.png" for n in (1, 2, 3, 4))
    }  # fmt: skip
    assert [float(row["loss"]) for row in rows(tmp_path / "log")] == [1, 1 / 2, 1 / 3, 1 / 4]
    picture = matplotlib.image.imread(tmp_path / "log" / "slices" / "epoch_0004.png")
    assert (np.abs(picture[..., :3] - np.array(class_color(0)) / 255).max(-1) < 0.02).any()


def test_a_training_that_goes_on_keeps_its_history(tmp_path, capsys):
    for epochs in ((1, 2, 3), (3, 4)):  # stopped after the checkpoint of the second
        view = watch_training(tmp_path)
        for epoch in epochs:
            view(report(epoch, loss=10.0 * len(epochs) + epoch))
    assert [float(row["loss"]) for row in rows(tmp_path)] == [31, 32, 23, 24]
    assert [row["epoch"] for row in view.history] == [1, 2, 3, 4]
    assert "epoch 4 of 4" in capsys.readouterr().err


def test_figures_that_are_not_known_yet_stay_open(tmp_path, capsys):
    nothing = {"precision": float("nan"), "recall": float("nan"), "f1": float("nan")}
    view = watch_training(tmp_path)
    view(report(1, **nothing))
    assert "precision –, recall –, F1 –" in capsys.readouterr().err
    assert rows(tmp_path)[0]["f1"] == ""
    assert watch_training(tmp_path).history[0]["f1"] is None
    plot_training(view.history)


class Broken:
    def show(self, look, report, history):
        raise RuntimeError("no colours left")

    close = PlainRows.close


def test_a_view_that_fails_says_so_once_and_stops_nothing(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    view = TrainingView(PickingLook(), Broken(), tmp_path / "file" / "log")
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2, 3, 4):
            view(report(epoch))
    assert len(caplog.records) == 2
    assert "no colours left" in caplog.text
    assert "the files about training failed" in caplog.text
    assert len(view.history) == 4


def test_a_damaged_history_is_told_of_and_begun_anew(tmp_path, caplog, capsys):
    (tmp_path / "history.csv").write_text("epoch,loss\n1,much\n")
    with caplog.at_level(logging.WARNING):
        view = watch_training(tmp_path)
    assert "is not a history" in caplog.text
    view(report(1))
    assert [row["loss"] for row in rows(tmp_path)] == ["0.5"]


def terminal(width=100, height=40, **options):
    from rich.console import Console

    stream = io.StringIO()
    options = {"color_system": "truecolor", "force_terminal": True, **options}
    return stream, Console(file=stream, width=width, height=height, **options)


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_gets_a_table_curves_and_pictures(width):
    stream, console = terminal(width)
    screen = TerminalScreen(console)
    view = TrainingView(PickingLook(), screen)
    for epoch in (1, 2, 3, 4):
        view(report(epoch, loss=1 / epoch))
    shown = stream.getvalue()
    assert screen.live is None  # closed at the last epoch
    assert shown.endswith("\x1b[?25h")  # the cursor is back
    assert shown.count("learning rate") == 1
    assert "3/4" in shown
    assert "done" in shown
    for number in (0, 1):
        assert "38;2;{};{};{}m■".format(*class_color(number)) in shown
    assert "[red]ring" in shown  # names are no mark-up
    assert ("slice and labels" in shown) == (width == 100)


def test_a_terminal_without_colours_gets_no_noise():
    stream, console = terminal(color_system=None)
    view = TrainingView(PickingLook(), TerminalScreen(console))
    view(report(4))
    assert "▀" not in stream.getvalue()
    assert "F1" in stream.getvalue()


def test_a_terminal_left_early_is_put_in_order():
    stream, console = terminal()

    def stopped():
        with TrainingView(PickingLook(), TerminalScreen(console)) as view:
            view(report(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert stream.getvalue().endswith("\x1b[?25h")


def test_a_notebook_gets_one_figure_drawn_again(monkeypatch):
    shown = []
    handle = types.SimpleNamespace(update=shown.append)

    def display(picture, *, display_id):
        shown.append(picture)
        return handle

    fake = types.SimpleNamespace(
        display=types.SimpleNamespace(display=display, Image=lambda **given: given),
        get_ipython=lambda: type("ZMQInteractiveShell", (), {})(),
    )
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    view = watch_training()
    assert isinstance(view.screen, NotebookFigure)
    for epoch in (1, 2):
        view(report(epoch))
    assert len(shown) == 2
    assert all(picture["data"].startswith(b"\x89PNG") for picture in shown)


def test_the_stream_s_kind_is_what_decides(monkeypatch):
    assert isinstance(watch_training().screen, PlainRows)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(watch_training().screen, TerminalScreen)


def test_half_blocks_are_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    text = half_blocks(picture)
    assert [len(line) for line in text.plain.split("\n")] == [7, 7, 7]
    styles = [span.style for span in text.spans]
    colors = np.array([style.color.triplet for style in styles]).reshape(3, 7, 3)
    grounds = np.array([style.bgcolor.triplet for style in styles]).reshape(3, 7, 3)
    np.testing.assert_array_equal(colors, picture[::-1][::2])  # the highest row is the first
    np.testing.assert_array_equal(grounds[:2], picture[::-1][1::2])
    assert not grounds[2].any()


def test_painting_outlines_labels_and_covers_by_probability():
    grey = np.full((9, 9), 5.0)
    grey[0, 0] = 6
    label = np.zeros((9, 9), np.uint8)
    label[2:7, 2:7] = 2
    out = painted(grey, label=label)
    ring = label.astype(bool)
    ring[3:6, 3:6] = False
    label[8, 8] = 255
    np.testing.assert_array_equal((out == class_color(1)).all(-1), ring)
    prediction = np.zeros((2, 9, 9))
    prediction[0, 4, 4], prediction[1, 4, 5], prediction[1, 4, 4] = 1, 0.5, 0.2
    bare, out = painted(grey).astype(float), painted(grey, prediction=prediction).astype(float)
    np.testing.assert_allclose(out[4, 4], 0.3 * bare[4, 4] + 0.7 * np.array(class_color(0)), atol=1)
    np.testing.assert_allclose(
        out[4, 5], 0.65 * bare[4, 5] + 0.35 * np.array(class_color(1)), atol=1
    )
    np.testing.assert_array_equal(out[5], bare[5])
    assert painted(np.full((3, 3), np.nan)).shape == (3, 3, 3)  # nothing to see is no error


@pytest.mark.parametrize(
    ("width", "height", "shape"),
    [(99, 99, (20, 24)), (12, 99, (10, 12)), (99, 7, (6, 8)), (1, 1, (1, 1))],
)
def test_thinning_keeps_means_and_fits(width, height, shape):
    whole = report(1)
    image, label, prediction = thinned(whole, width=width, height=height)
    assert image.shape == label.shape == prediction.shape[1:] == shape
    if shape == (10, 12):
        assert image.mean() == pytest.approx(whole.image.mean())
        assert set(np.unique(label)) == {0, 1, 2}


def test_curves_need_an_epoch():
    with pytest.raises(InputError, match="history is empty"):
        plot_training([])
    figure = plot_training([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [0.5, 0.25])


def test_time_left_is_that_of_the_last_epochs():
    history = [{"seconds": s} for s in (90.0, 10.0, 10.0, 12.0)]
    assert screens.seconds_left(replace(report(4), epochs=10), history) == 60
    assert screens.seconds_left(replace(report(4), epochs=4), history) == 0


def test_the_table_is_there_before_pictures_are_drawn(tmp_path, monkeypatch):
    """Which takes a while the first time: a stop in it once left neither."""

    def stop(*_):
        raise KeyboardInterrupt

    view = watch_training(tmp_path)
    monkeypatch.setattr(view.look, "plot", stop, raising=False)
    with pytest.raises(KeyboardInterrupt):
        view(report(1))
    assert [row["epoch"] for row in rows(tmp_path)] == ["1"]
