"""Noise that is not white and references that are not known to all detail: weights by shell."""

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.scenes import VOXEL, boxes, dataset_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.alignment import noise
from tomodask.alignment.measurement import Measurement
from tomodask.alignment.plan import masked_reference, plan_alignment
from tomodask.alignment.poses import align_subtomograms
from tomodask.alignment.refinement import correlation
from tomodask.arrays.geometry import angular_distance
from tomodask.arrays.sampling import half_sphere, padded_spectrum, soft_sphere, spectrum_at
from tomodask.data.particles import orientations
from tomodask.errors import InputError

N = 32
TILTS = (-60.0, 60.0)
RADIUS = 11.0


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def coloured(count, seed, *, law):
    """Noise whose amplitude at frequency |k| (Fourier voxels) is law(|k|), within the wedge."""
    axis, half = np.fft.fftfreq(N, 1 / N), np.fft.rfftfreq(N, 1 / N)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + half**2)
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(count, N, N, N))
    keep = np.abs(axis[:, None, None]) <= np.tan(np.deg2rad(60)) * np.abs(half)
    out = np.fft.irfftn(
        np.fft.rfftn(white, axes=(1, 2, 3)) * law(radius) * keep, s=(N,) * 3, axes=(1, 2, 3)
    )
    return (out / out.std()).astype(np.float32)


def measured_amplitude(volumes):
    k = noise.noise_frequencies(Measurement(TILTS), box=N, voxel_size=VOXEL)
    (power,) = noise.noise_power(volumes, frequencies=k, radius=RADIUS)
    return power


def test_amplitude_of_coloured_noise():
    law = lambda r: 1 / (1 + 0.2 * r)  # noqa: E731
    amplitude = measured_amplitude(coloured(12, 0, law=law)).amplitude()
    shells = np.arange(3, N // 2)
    ratio = amplitude[3:] / law(shells)
    np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.06)


def test_what_lies_within_the_sphere_is_not_noise():
    volumes = coloured(4, 1, law=np.ones_like)
    inside = soft_sphere(N, RADIUS - 4, edge=2.0)
    particle = 30 * inside * np.random.default_rng(2).normal(size=(N,) * 3).astype(np.float32)
    a = measured_amplitude(volumes).amplitude()
    b = measured_amplitude(volumes + particle).amplitude()
    np.testing.assert_allclose(a[2:], b[2:], rtol=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(deadline=None, max_examples=10)
def test_sums_do_not_depend_on_batches(seed, cut):
    volumes = coloured(7, seed, law=np.ones_like)
    volumes[3] = np.nan  # is left out
    whole = measured_amplitude(volumes)
    parts = [measured_amplitude(volumes[:cut]), measured_amplitude(volumes[cut:])]
    merged = noise.merge_power(parts[:: 1 if seed % 2 else -1])
    np.testing.assert_array_equal(merged.sums, whole.sums)  # equal, not close
    assert merged.boxes == whole.boxes == 6


def test_scale_of_a_box_does_not_count():
    volumes = coloured(3, 3, law=np.ones_like)
    louder = volumes * np.array([1.0, 64.0, 0.25], np.float32)[:, None, None, None]
    a, b = measured_amplitude(volumes), measured_amplitude(louder)
    np.testing.assert_allclose(a.amplitude(), b.amplitude(), rtol=1e-5)


def test_whitening_finds_what_coloured_noise_hides():
    """Noise with a hundred times the power at low frequencies: plain correlation is led astray."""
    dataset, truth, reference = boxes(12, snr=np.inf)
    clean = dataset["subtomogram"].to_numpy()
    law = lambda r: np.where(r < 5.0, 10.0, 1.0)  # noqa: E731
    dirty = clean + 5.0 * clean.std() * coloured(12, 4, law=law)
    job = {"shift_range": 20.0, "diameter": 2 * RADIUS * VOXEL}
    errors = {}
    for whiten in (False, True):
        found = align_subtomograms(dataset_of(dirty, truth), reference, whiten=whiten, **job)
        errors[whiten] = angular_distance(orientations(found.compute()), orientations(truth))
    assert np.median(errors[True]) < 0.5 * np.median(errors[False])
    assert errors[True].max() < 10


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_chunks_and_batches_change_no_whitened_pose(batch, tmp_path):
    dataset, truth, reference = boxes(6)
    mixed = dataset.assign_coords(tilt_min=("particle", [-60.0, -50.0] * 3))
    job = {"angular_step": 30.0, "shift_range": 20.0, "diameter": 240.0, "whiten": True}
    want = align_subtomograms(mixed, reference, batch=2, **job).compute()
    again = mixed.chunk(particle=4)
    got = align_subtomograms(
        again, reference, batch=batch, split_every=2, checkpoint=tmp_path, **job
    ).compute(scheduler="threads", num_workers=2)
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    with pytest.raises(InputError, match="holds batches of another job"):
        align_subtomograms(
            again, reference, batch=batch, checkpoint=tmp_path, **{**job, "whiten": False}
        )
    assert len(truth) == 6


def curve(values, *, box=N, voxel_size=VOXEL):
    frequency = np.arange(len(values)) / (box * voxel_size)
    return pd.DataFrame({"frequency": frequency, "correlation": values})


def test_what_a_reference_is_known_to():
    values = np.linspace(1, -0.2, N // 2 + 1)
    known = noise.known_by_shell(curve(values), box=N, voxel_size=VOXEL)
    first = int(np.argmax(values < 0.143))
    np.testing.assert_allclose(known[:first], np.sqrt(2 * values[:first] / (1 + values[:first])))
    assert (known[first:] == 0).all()
    # of a box twice the size, the same
    finer = np.interp(np.arange(N + 1) / 2, np.arange(N // 2 + 1), values)
    again = noise.known_by_shell(curve(finer, box=2 * N), box=N, voxel_size=VOXEL)
    np.testing.assert_allclose(again, known, atol=1e-6)
    # of coarser voxels: nothing is known of what is finer than the curve goes
    coarse = noise.known_by_shell(curve(np.full(9, 0.9)), box=N, voxel_size=VOXEL)
    assert (coarse[:9] > 0.9).all()
    assert (coarse[9:] == 0).all()
    with pytest.raises(InputError, match=r"fsc is 0\.10 in the first shell"):
        noise.known_by_shell(curve(np.full(9, 0.1)), box=N, voxel_size=VOXEL)
    with pytest.raises(InputError, match=r"columns frequency and correlation.*got ndarray"):
        noise.known_by_shell(values, box=N, voxel_size=VOXEL)


def test_weights_of_shells_are_those_of_the_correlation():
    """Weighting the reference's spectrum and the data is weighting both lists of voxels."""
    dataset, truth, reference = boxes(1)
    shells = np.linspace(1.0, 0.3, N // 2 + 1)
    volume = masked_reference(reference.to_numpy())
    k = half_sphere(10.0)
    data = spectrum_at(dataset["subtomogram"].to_numpy()[0], k)
    u = np.interp(np.linalg.norm(k, axis=1), np.arange(len(shells)), shells).astype(np.float32)
    plain = padded_spectrum(volume, radius=10.0)
    pose = orientations(truth)[0].as_matrix(), np.zeros(3)
    got = correlation(noise.weighted(plain, shells), k, data * u, *pose)
    want = correlation(plain, k, data * u, *pose, u)
    assert got == pytest.approx(want, abs=2e-3)


def test_fsc_ends_the_band_and_weights_it():
    dataset, truth, reference = boxes(4)
    values = np.where(np.arange(N // 2 + 1) < 8, 0.9, 0.0)
    known = noise.known_by_shell(curve(values), box=N, voxel_size=VOXEL)
    job = {"tilt_range": TILTS, "angular_step": 20.0, "shift_range": 2.0}
    plan = plan_alignment(reference.to_numpy(), known=known, **job)
    assert np.linalg.norm(plan.frequencies, axis=1).max() <= 7
    np.testing.assert_allclose(plan.shells, np.sqrt(1.8 / 1.9), rtol=1e-5)
    table = align_subtomograms(dataset, reference, fsc=curve(values)).compute()
    assert angular_distance(orientations(table), orientations(truth)).max() < 4


def test_boxes_without_noise_cannot_be_whitened():
    dataset, truth, reference = boxes(2)
    volumes = dataset["subtomogram"].to_numpy() * soft_sphere(N, RADIUS - 4, edge=2.0)
    with pytest.raises(InputError, match="whiten found no box that holds noise"):
        align_subtomograms(
            dataset_of(volumes, truth), reference, whiten=True, diameter=2 * RADIUS * VOXEL
        ).compute()


def test_a_tomogram_whose_boxes_are_all_bad_stops_no_whitening():
    dataset, truth, reference = boxes(4)
    volumes = dataset["subtomogram"].to_numpy()
    volumes[3, 1, 2, 3] = np.nan
    mixed = dataset_of(volumes, truth).assign_coords(tilt_min=("particle", [-60.0] * 3 + [-50.0]))
    table = align_subtomograms(mixed, reference, whiten=True, angular_step=30.0).compute()
    assert table["score"].notna().tolist() == [True, True, True, False]
