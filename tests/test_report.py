"""Figures and the report: everything in one page, nothing from the network, nothing left out."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import dask
import dask.array as da
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask import plot
from tomodask.arrays.resampling import fitted, resampled
from tomodask.averaging.fsc import fsc
from tomodask.data.particles import with_orientations
from tomodask.errors import InputError
from tomodask.project import run
from tomodask.report import Truth, write_report
from tomodask.simulation.phantom import phantom_map, phantom_tomogram
from tomodask.training.colors import class_color


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    volume, _ = phantom_tomogram((56, 88, 88), particles=6, decoys=0, snr=0.5, seed=3)
    return run(
        volume.rename("<TS & 1>"),  # what HTML must not take for a tag
        template=phantom_map(box=32),
        output=tmp_path_factory.mktemp("report") / "out",
        angular_step=20.0,
        search_step=30.0,
        box=40,
        max_particles=6,
        scheduler="synchronous",
    )


class Page(HTMLParser):
    """Balanced tags, links and images of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.headings = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_page_is_whole_and_needs_nothing_else(finished):
    text = finished.report.read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.images) == 6
    assert all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"url\(|@import|<script", text)
    assert all(len(image["alt"]) > 30 for image in page.images)
    assert page.headings == [
        "Tomogram and picks", "Scores", "Average", "Resolution", "Orientations",
        "Time, machine, versions", "Files",
    ]  # fmt: skip
    assert "&lt;TS &amp; 1&gt;" in text
    assert "<TS" not in text


def test_page_tells_numbers_command_versions_and_paths(finished):
    text = finished.report.read_text()
    assert f"{finished.resolution_143:.1f} Å" in text
    assert f"{finished.resolution_5:.1f} Å" in text
    assert ">6<" in text
    for what in ("match the template", "extract subtomograms", "align", "average"):
        assert what in text
    for name in ("picks.star", "poses.star", "average.mrc", "half1.mrc", "fsc.csv", "scores.zarr"):
        assert str((finished.output / name).resolve()) in text
    assert "tomodask run" in text
    assert f"dask {dask.__version__}" in text
    assert f"numpy {np.__version__}" in text


def test_truth_is_shown_first(finished):
    curve = pd.read_csv(finished.fsc)
    lines = [Truth("recall", "1.00", "≥ 0.95", True), Truth("error", "4.2°", "≤ 3°", False)]
    with dask.config.set(scheduler="synchronous"):
        text = write_report(finished.output, truth=lines, truth_fsc=curve).read_text()
    assert Page(text).headings[0] == "Against the truth"
    assert re.search(r'recall</th><td>1.00</td><td>≥ 0.95</td><td><span class="met">met', text)
    assert re.search(r"4.2°</td><td>≤ 3°</td><td><span class=\"missed\">missed", text)


def test_report_leaves_matplotlib_as_it_was(finished):
    before = dict(mpl.rcParams)
    with dask.config.set(scheduler="synchronous"):
        write_report(finished.output)
    assert dict(mpl.rcParams) == before


def test_figures_need_no_display_and_no_pyplot():
    code = (
        "import sys, numpy as np; from tomodask import plot;"
        "plot.plot_scores(np.arange(9.0)).savefig('/dev/null', format='png');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_report_wants_a_run(tmp_path, finished):
    with pytest.raises(InputError, match=r"is no folder of a run: it has no run.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text((finished.output / "run.json").read_text())
    with pytest.raises(InputError, match="has no average yet"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json cannot be read"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "tomodask-run-9"}')
    with pytest.raises(InputError, match="format 'tomodask-run-9'"):
        write_report(tmp_path)


def tomogram(shape=(12, 20, 30)):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return xr.DataArray(
        da.from_array(values, chunks=7), dims=("z", "y", "x"), attrs={"voxel_size": 10.0}
    )


def test_circles_are_where_the_slab_cuts_the_particles():
    volume = tomogram()
    picks = pd.DataFrame({"z": [60.0, 60.0, 0.0], "y": [100, 0, 100], "x": [150, 20, 200]})
    figure = plot.plot_tomogram(volume, picks, diameter=40.0, thickness=10.0)
    upper, lower = figure.axes
    (circles,) = upper.collections
    np.testing.assert_allclose(circles.get_offsets(), [[15, 10], [2, 0]])  # nm, (x, y)
    (image,) = upper.images
    np.testing.assert_allclose(image.get_array(), volume.to_numpy()[6], rtol=1e-6)
    np.testing.assert_allclose(lower.images[0].get_array(), volume.to_numpy()[:, 10], rtol=1e-6)
    assert "2 of 3 picks" in upper.get_title(loc="left")
    assert "2 of 3 picks" in lower.get_title(loc="left")


def test_probabilities_lie_over_the_slab_of_most_picks():
    """Of another voxel size than the tomogram's, and yet at the same places."""
    volume = tomogram((24, 20, 30))
    values = np.zeros((2, 12, 10, 15), np.float32)
    values[0, 4, 3, 5], values[1, 4, 7, 9], values[0, 4, 7, 9] = 1.0, 0.5, 0.25
    probability = xr.DataArray(
        da.from_array(values, chunks=5), dims=("class", "z", "y", "x"),
        coords={"class": ["a", "b"]}, attrs={"voxel_size": 20.0, "diameters": (40.0, 30.0)},
    )  # fmt: skip
    picks = pd.DataFrame({"z": [80.0, 84.0, 200.0], "y": [60, 140, 10], "x": [100, 180, 10]})
    figure = plot.plot_segmentation(volume, probability, picks)
    bare, painted = figure.axes
    assert len(bare.images) == 1
    assert "of 1 nm at z = 8 nm" in bare.get_title(loc="left")
    np.testing.assert_allclose(bare.images[0].get_array(), volume.to_numpy()[8], rtol=1e-6)
    over = painted.images[1]
    np.testing.assert_allclose(over.get_extent(), [-1, 29, -1, 19])  # voxels of 2 nm about 0
    np.testing.assert_allclose(over.get_array()[..., 3][[3, 7, 0], [5, 9, 0]], [0.7, 0.35, 0])
    colors = over.get_array()[..., :3]
    np.testing.assert_allclose(colors[3, 5], np.array(class_color(0)) / 255)
    np.testing.assert_allclose(colors[7, 9], np.array(class_color(1)) / 255)
    (circles,) = painted.collections
    np.testing.assert_allclose(circles.get_offsets(), [[10, 6], [18, 14]])  # nm, (x, y)
    assert "2 of 3 picks" in painted.get_title(loc="left")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    alone = plot.plot_segmentation(volume, probability)
    assert "z = 12 nm" in alone.axes[0].get_title(loc="left")


def test_scores_are_counted():
    figure = plot.plot_scores(np.array([0.1, 0.2, 0.2, 0.9]), threshold=0.05)
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 4


def test_directions_point_where_the_particles_do():
    turns = Rotation.from_matrix(
        [np.eye(3), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]]  # the second takes z to x
    )
    figure = plot.plot_orientations(with_orientations(pd.DataFrame({"a": [0, 1]}), turns))
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[0][1], np.pi / 2, atol=1e-6)  # up
    np.testing.assert_allclose(points[1], [0, 0], atol=1e-6)  # along x
    many = with_orientations(pd.DataFrame({"a": range(2000)}), Rotation.random(2000, rng=0))
    counts = plot.plot_orientations(many).axes[0].collections[0].get_array()
    assert counts.sum() == 2000


def test_average_shows_the_central_slices():
    volume = np.random.default_rng(0).normal(size=(8, 8, 8))
    axes = plot.plot_average({"average": volume}, voxel_size=5.0).axes
    for panel, want in zip(axes, (volume[4], volume[:, 4], volume[:, :, 4]), strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), want)
        left, right, bottom, top = panel.images[0].get_extent()
        assert (left, right, bottom, top) == (-2.25, 1.75, -2.25, 1.75)  # voxel 4 at 0 nm
    with pytest.raises(InputError, match="maps is empty"):
        plot.plot_average({}, voxel_size=5.0)


def test_a_ball_s_surface_is_a_disc_lit_from_one_side():
    z, y, x = np.ogrid[-16:16, -16:16, -16:16]
    ball = 1 / (1 + np.exp(np.sqrt(z**2 + y**2 + x**2) - 8.0))
    figure = plot.plot_surfaces(ball, voxel_size=10.0)
    for panel in figure.axes:
        image = panel.images[0].get_array()
        seen = ~np.ma.getmaskarray(image)
        scale = seen.shape[0] / (2 * (8 + 3))  # the box about the ball, three voxels around it
        assert seen.sum() == pytest.approx(np.pi * (8 * scale) ** 2, rel=0.08)
    empty = plot.plot_surfaces(np.zeros((8, 8, 8)), voxel_size=10.0, level=1.0)
    assert np.ma.getmaskarray(empty.axes[0].images[0].get_array()).all()


def test_fsc_says_where_it_falls():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(24,) * 3)
    curve = fsc(signal, signal, voxel_size=5.0)
    texts = [text.get_text() for text in plot.plot_fsc(curve, truth=curve).axes[0].texts]
    assert texts == ["0.143: below 10.0 Å", "0.5: below 10.0 Å"]
    curve["correlation"] = np.linspace(1, 0, len(curve))
    texts = [text.get_text() for text in plot.plot_fsc(curve).axes[0].texts]
    assert texts[1] == "0.5: 20.0 Å"


# The template's way to the tomogram's voxels


def test_resampling_is_that_of_the_function_itself():
    """A band-limited function, sampled at either voxel size, is the same function."""

    def sampled(n, voxel):
        z, y, x = (np.arange(n).reshape(s) * voxel - n // 2 * voxel for s in
                   ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))  # fmt: skip
        return np.exp(-((z - 3) ** 2 + (y + 2) ** 2 + 2 * x**2) / 2 / 9**2)

    for n, voxel, factor in ((48, 2.0, 1.5), (49, 2.0, 1.5), (40, 3.0, 0.5), (64, 2.0, 0.77)):
        found = resampled(sampled(n, voxel), factor)
        want = sampled(found.shape[0], voxel * factor)
        np.testing.assert_allclose(found, want, atol=2e-3)


def test_same_voxel_size_changes_nothing():
    volume = np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32)
    np.testing.assert_allclose(resampled(volume, 1.0), volume, atol=1e-5)


@pytest.mark.parametrize(("n", "size"), [(5, 8), (8, 5), (6, 6), (7, 4), (4, 7), (5, 5)])
def test_fitting_keeps_the_centre(n, size):
    volume = np.zeros((n,) * 3, np.float32)
    volume[n // 2, n // 2, n // 2] = 1
    out = fitted(volume, size)
    assert np.argwhere(out == 1).tolist() == [[size // 2] * 3]


def test_padding_is_the_border_s_mean():
    assert fitted(np.full((4, 4, 4), 3.0), 6).tolist() == np.full((6, 6, 6), 3.0).tolist()


def test_resampling_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"factor must be above 0, got 0"):
        resampled(np.zeros((4, 4, 4)), 0.0)
    with pytest.raises(ValueError, match="make less than 2"):
        resampled(np.zeros((4, 4, 4)), 9.0)
