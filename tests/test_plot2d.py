"""Figures of two dimensions draw what they are given: one class, many classes, none."""

import numpy as np
import pandas as pd
import pytest

from tomodask import plot
from tomodask.errors import InputError
from tomodask.plot2d import plot_rounds2d, shade


def table(count=90, classes=3):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "psi": rng.uniform(-180, 180, count), "shift_y": rng.normal(size=count),
            "shift_x": rng.normal(size=count), "mirror": rng.random(count) < 0.5,
            "score": rng.random(count), "class": rng.integers(0, classes + 1, count),
        }
    )  # fmt: skip


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_a_gallery_names_every_class_with_its_images(classes, tmp_path):
    rng = np.random.default_rng(1)
    maps, counts = rng.normal(size=(classes, 16, 16)), np.arange(classes) + 1
    maps[0] = 0  # a class without images
    figure = plot.plot_class_gallery(maps, counts.tolist(), resolutions={1: 12.0, 2: np.inf})
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == classes
    assert titles[0].startswith(f"class {classes}\n{classes:,} ·")
    assert any("12 Å" in title for title in titles)
    figure.savefig(tmp_path / "a.png", dpi=40)
    figure = plot.plot_class_gallery(maps, counts.tolist(), by_size=False, most=2)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [one.split("\n")[0] for one in titles] == ["class 1", "class 2"][:classes]


def test_poses_of_all_and_of_none(tmp_path):
    for one in (table(), table().iloc[:1], table().iloc[:0], table().drop(columns="mirror")):
        plot.plot_poses2d(one).savefig(tmp_path / "a.png", dpi=40)
    figure = plot.plot_poses2d(table())
    bars = next(axes for axes in figure.axes if axes.get_title(loc="left") == "Classes").patches
    assert [int(bar.get_height()) for bar in bars] == np.bincount(table()["class"])[1:].tolist()


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_an_embedding_is_coloured_by_class(classes, tmp_path):
    points = np.random.default_rng(2).normal(size=(90, 2))
    label = table(classes=classes)["class"].tolist()
    maps = np.random.default_rng(3).normal(size=(classes, 8, 8))
    figure = plot.plot_embedding(points, label, averages=maps)
    assert len(figure.axes[0].collections) == len(set(label))
    figure.savefig(tmp_path / "a.png", dpi=40)


def test_curves_and_rounds(tmp_path):
    frequency = np.linspace(0, 0.05, 20)
    curve = pd.DataFrame({"frequency": frequency, "correlation": 1 - frequency / 0.05})
    curves = pd.concat([curve.assign(**{"class": c}) for c in (1, 2)])
    curves.loc[curves["class"] == 2, "correlation"] = np.nan
    figure = plot.plot_frc(curves)
    told = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert told == ["1: 23.3 Å"]
    figure.savefig(tmp_path / "a.png", dpi=40)
    history = pd.DataFrame(
        {"round": [1, 2], "score": [0.1, 0.2], "resolution": [np.inf, 20.0],
         "reassigned": [np.nan, 0.1], "turned": [np.nan, 3.0], "moved": [np.nan, np.inf]}
    )  # fmt: skip
    for one in (history, history.iloc[:1]):
        plot_rounds2d(one).savefig(tmp_path / "b.png", dpi=40)


def test_colours_of_neighbours_differ():
    for count in (5, 50):
        colors = [shade(number, count) for number in range(1, count + 1)]
        assert len(set(map(str, colors))) == count


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="3 counts"):
        plot.plot_class_gallery(np.zeros((2, 4, 4)), [1, 2, 3])
    with pytest.raises(InputError, match="with a class each"):
        plot.plot_embedding(np.zeros((5, 2)), [1, 2])
