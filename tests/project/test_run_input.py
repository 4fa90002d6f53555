"""The main job: what it takes, and what it refuses before all work."""

import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from tomodask.data.subtomograms import open_subtomograms
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.project import run
from tomodask.project.from_tomogram import stages
from tomodask.simulation.phantom import phantom_map

sys.path.insert(0, str(Path(__file__).parent))
from phantom_run import SETTINGS, again, content, save_input


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small tomogram of six particles, its template, and the truth."""
    folder = tmp_path_factory.mktemp("input")
    return folder, save_input(folder)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """The report has its own tests, and takes longer than all else here."""

    def write(output):
        (output / "report.html").write_text("")

    monkeypatch.setattr(stages, "write_report", write)


def test_a_template_of_another_voxel_size_is_resampled_only_when_asked(files, tmp_path):
    folder, _ = files
    fine = phantom_map(voxel_size=6.0, box=56)
    with pytest.raises(
        InputError, match=r"voxels are 6 Å, those of the tomogram 10 Å; .*--resample"
    ):
        run(
            folder / "tomogram.mrc",
            template=fine,
            output=tmp_path / "out",
            scheduler="synchronous",
            **SETTINGS,
        )
    assert not (tmp_path / "out").exists()
    result = run(
        folder / "tomogram.mrc",
        template=fine,
        output=tmp_path / "out",
        resample_template=True,
        scheduler="synchronous",
        **SETTINGS,
    )
    assert result.particles == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search_step": 0.5}, "search_step must be within 1 to 90°, got 0.5"),
        ({"shift_range": 9999.0}, "shift_range must be within 0 to 200 Å"),
        ({"align_resolution": 3.0}, "align_resolution must be at least two voxels, 20 Å"),
        ({"threshold": float("nan")}, "threshold must be a number, got nan"),
        ({"angular_step": float("inf")}, "angular_step must be a number, got inf"),
        ({"max_particles": 1}, "max_particles must be a whole number, at least 4, got 1"),
        ({"max_particles": 2.5}, "max_particles must be a whole number, at least 4, got 2.5"),
        ({"seed": -1}, "seed must be a whole number, at least 0, got -1"),
        ({"box": True}, "box must be a whole number, at least 2, got True"),
        ({"box": 20}, "box must be at least the diameter of the particle, 26 voxels, got 20"),
        ({"outside": "crop"}, "outside must be 'pad' or 'drop', got 'crop'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_what_matters_late_is_refused_before_all_work(files, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        again(files, tmp_path / "out", **{"scheduler": None, **options})
    assert not (tmp_path / "out" / "scores.zarr").exists()


@pytest.mark.parametrize("name", ["TS#1", "TS'1", "_TS1"])
def test_a_name_that_a_star_cannot_keep_is_refused_before_all_work(files, tmp_path, name):
    folder, _ = files
    odd = tmp_path / f"{name}.mrc"
    with dask.config.set(scheduler="synchronous"):
        save_tomogram(open_tomogram(folder / "tomogram.mrc").rename(name), odd)
    with pytest.raises(InputError, match=rf"{name}.mrc: STAR files cannot keep the name .*rename"):
        run(odd, template=folder / "template.mrc", output=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_an_unknown_tilt_range_is_asked_for(files, tmp_path):
    folder, _ = files
    volume = open_tomogram(folder / "tomogram.mrc")
    del volume.attrs["tilt_range"]
    with pytest.raises(InputError, match=r"does not say its tilt range; give it: .*--tilt-range"):
        run(volume, template=folder / "template.mrc", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_record_of_the_tilt_series_reaches_the_average(files, tmp_path):
    """It is kept with the boxes, another one is another run, and a range takes its place."""
    folder, _ = files
    angle = list(np.arange(-60.0, 61.0, 2.0))
    series = {
        "angle": angle, "weight": [float(np.deg2rad(2.0))] * len(angle), "pixel_size": 10.0,
        "method": "wbp",
    }  # fmt: skip
    volume = open_tomogram(folder / "tomogram.mrc").assign_attrs(tilt_series=series)
    del volume.attrs["tilt_range"]
    save_tomogram(volume, tmp_path / "in.zarr")
    job = {"template": folder / "template.mrc", "scheduler": "synchronous", **SETTINGS}
    done = run(tmp_path / "in.zarr", output=tmp_path / "out", **job)
    kept = open_subtomograms(done.subtomograms).attrs["tilt_series"]
    assert list(kept) == ["phantom"]
    assert kept["phantom"]["angle"] == angle
    said = run(tmp_path / "in.zarr", output=tmp_path / "said", tilt_range=(-60, 60), **job)
    assert "tilt_series" not in open_subtomograms(said.subtomograms).attrs
    assert content(done.average) != content(said.average)
    other = open_tomogram(tmp_path / "in.zarr")
    other.attrs["tilt_series"]["phase_flipped"] = True
    with pytest.raises(InputError, match=r"tilt_series is .* there and .* here"):
        run(other, output=tmp_path / "out", **job)


def test_dark_particles_are_found_with_the_template_inverted(files, tmp_path):
    folder, _ = files
    volume = open_tomogram(folder / "tomogram.mrc").compute()
    dark = xr.DataArray(-volume.values, dims=volume.dims, name="dark", attrs=volume.attrs)
    result = run(
        dark,
        template=folder / "template.mrc",
        output=tmp_path / "out",
        invert=True,
        scheduler="synchronous",
        **SETTINGS,
    )
    assert result.particles == 6
    average = open_tomogram(result.average).values
    assert average[18:23, 18:23, 18:23].mean() < np.median(average)


def test_a_folder_may_be_moved_and_its_report_drawn_again(files, tmp_path):
    from tomodask.report import write_report

    folder, _ = files
    run(
        open_tomogram(folder / "tomogram.mrc").compute(),
        template=folder / "template.mrc",
        output=tmp_path / "out",
        scheduler="synchronous",
        **SETTINGS,
    )
    (tmp_path / "out").rename(tmp_path / "moved")
    with dask.config.set(scheduler="synchronous"):
        write_report(tmp_path / "moved")
    assert str(tmp_path / "moved" / "poses.star") in (tmp_path / "moved/report.html").read_text()
