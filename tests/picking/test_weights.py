"""A template weighted by what the tilt series left of it fits better than in its wedge alone."""

import dask
import numpy as np
import pytest

from tomodask.arrays.spectrum_slices import band_rows
from tomodask.arrays.tilt_weights import tilt_weights
from tomodask.data.particles import orientations, read_particles
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.picking.templates.correlation import row_weights
from tomodask.picking.templates.matching import match_template
from tomodask.simulation.phantom import phantom_map
from tomodask.simulation.tomogram import simulate


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    settings = {
        "seed": 5,
        "specimen": {"shape": [48, 96, 96], "voxel_size": 10.0},
        "particles": [{"structure": "phantom", "copies": 4}],
        "tilts": {"increment": 3.0},
        "microscope": {"defocus": 60_000.0},
        "noise": {"snr": 0.5},
        "reconstruction": {"ctf": "none"},
    }
    made = simulate(settings, tmp_path_factory.mktemp("cell") / "out", scheduler="synchronous")
    return open_tomogram(made.tomogram), read_particles(made.particles)


def test_scores_at_the_true_poses_rise(scene):
    tomogram, truth = scene

    def scores(**options):
        with dask.config.set(scheduler="synchronous"):
            found = match_template(
                tomogram,
                phantom_map(voxel_size=10.0, box=40),
                rotations=orientations(truth),
                resolution=22.0,
                **options,
            ).compute()
        at = np.rint(truth[["z", "y", "x"]].to_numpy(float) / 10).astype(int)
        near = [tuple(slice(max(0, c - 2), c + 3) for c in place) for place in at]
        return np.mean([found["score"].to_numpy()[place].max() for place in near])

    known, blind = scores(), scores(tilt_range=(-60, 60))
    assert known > 1.15 * blind
    assert known > 0.35


def test_stored_scores_know_which_weights_they_are_of(scene):
    tomogram, _ = scene
    template = phantom_map(voxel_size=10.0, box=40)
    other = tomogram.assign_attrs(
        tilt_series=tomogram.attrs["tilt_series"] | {"phase_flipped": True}
    )
    names = {
        match_template(one, template, resolution=30.0, **options).attrs["fingerprint"]
        for one, options in ((tomogram, {}), (other, {}), (tomogram, {"tilt_range": (-60, 60)}))
    }
    assert len(names) == 3
    coarse = [match_template(one, template, resolution=80.0) for one in (tomogram, other)]
    assert coarse[0].attrs["fingerprint"] == coarse[1].attrs["fingerprint"]


def test_weights_of_rows_are_those_of_the_box(scene):
    record = scene[0].attrs["tilt_series"]
    box = 24
    rows = band_rows((box,) * 3, band=0.3, tilt_range=(-60, 60))
    got = row_weights(rows, radius=6.0, voxel_size=10.0, record=record)
    wanted = rows.gather(tilt_weights(box, 10.0, record)).real
    inside = np.concatenate(
        [np.arange(low, high) > 0 for low, high in zip(rows.low, rows.high, strict=True)]
    )  # in the plane x = 0 the box shares what both of a conjugate pair hold
    assert np.abs(got - wanted)[inside].max() < 1e-6
    assert np.abs(got).max() > 0.5


def test_without_a_record_all_weights_are_one():
    rows = band_rows((16, 16, 16), band=0.3, tilt_range=(-60, 60))
    assert (row_weights(rows, radius=4.0, voxel_size=10.0, record=None) == 1).all()


def test_a_damaged_record_is_told(scene):
    broken = scene[0].assign_attrs(tilt_series={"angle": [0.0]})
    with pytest.raises(InputError, match="the record of the tilt series is damaged"):
        match_template(broken, phantom_map(voxel_size=10.0, box=40))
