"""Simulated and reconstructed: the microscope is undone, and densities keep their scale."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from reconstruction.scenes import blobs

from tomodask.arrays.optics import interaction_constant
from tomodask.reconstruction.tomogram import reconstruct
from tomodask.simulation.imaging import simulate_tilt_series
from tomodask.simulation.microscope import Microscope, Motion
from tomodask.simulation.tilt_schemes import tilt_scheme

VOXEL = 8.0


def specimen(shape=(24, 96, 160), count=60):
    rng = np.random.default_rng(4)
    places = rng.uniform(-0.4, 0.4, (count, 3)) * np.array(shape)
    volume = blobs(shape, places, sigma=1.1)
    return xr.DataArray(
        da.from_array(volume, chunks=64), dims=("z", "y", "x"), name="cell",
        attrs={"voxel_size": VOXEL},
    )  # fmt: skip


def imaged(volume, scheme, **options):
    return simulate_tilt_series(volume, scheme=scheme, damage=False, **options)


def likeness(tomogram, volume):
    inner = (slice(None), slice(12, -12), slice(40, -40))
    return np.corrcoef(tomogram.to_numpy()[inner].ravel(), volume.to_numpy()[inner].ravel())[0, 1]


def test_a_perfect_microscope_gives_twice_the_phase_of_a_voxel():
    volume = specimen()
    series = imaged(volume, tilt_scheme((-84, 84), 2.0), microscope=Microscope(ctf=False))
    out = reconstruct(series, thickness=24 * VOXEL, invert=True)
    scale = 2 * interaction_constant(300.0) * VOXEL
    inner = (slice(6, -6), slice(12, -12), slice(40, -40))
    slope, _ = np.polyfit(
        volume.to_numpy()[inner].ravel(), out.to_numpy()[inner].ravel() / scale, 1
    )
    assert slope == pytest.approx(1.0, abs=0.12)  # 12° are not measured
    assert likeness(out, volume) > 0.93


def test_flipped_phases_are_nearer_to_the_truth():
    volume = specimen()
    scheme = tilt_scheme((-60, 60), 3.0)
    scope = Microscope(defocus=40_000.0, astigmatism=1000.0, astigmatism_angle=25.0)
    series = imaged(volume, scheme, microscope=scope)
    options = {"thickness": 24 * VOXEL, "invert": True}
    plain = likeness(reconstruct(series, **options), volume)
    flipped = likeness(reconstruct(series, ctf="flip", **options), volume)
    assert flipped > plain + 0.05


def test_motion_is_undone_by_the_transforms_of_the_series():
    volume = specimen()
    scheme = tilt_scheme((-60, 60), 6.0)
    scope = Microscope(ctf=False)
    still = reconstruct(imaged(volume, scheme, microscope=scope), thickness=24 * VOXEL)
    moved = imaged(volume, scheme, microscope=scope, motion=Motion(shift=25.0, rotation=0.5))
    undone = reconstruct(moved, thickness=24 * VOXEL)
    inner = (slice(None), slice(12, -12), slice(40, -40))
    a, b = still.to_numpy()[inner].ravel(), undone.to_numpy()[inner].ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.99
