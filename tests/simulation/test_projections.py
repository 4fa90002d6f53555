"""Projections of a specimen: central slices, whatever the chunks."""

import dask
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.ndimage as ndi
from helpers import irregular_chunks
from hypothesis import given, settings
from simulation.tilt_images import as_volume, noise, smooth

from tomodask.simulation.projections import project_volume

# --- projections --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 24, 32), (21, 25, 33)])
def test_projection_at_zero_is_the_sum_over_z(shape):
    volume = noise(shape)
    got = project_volume(as_volume(volume), [0.0]).to_numpy()[0]
    want = volume.sum(axis=0, dtype=float)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("angle", [-60.0, -17.3, 0.0, 33.0, 60.0])
def test_central_slice(angle):
    """The spectrum of a projection is the plane kz = kx tan θ of the volume's, summed directly."""
    shape = (20, 9, 48)
    volume = np.zeros(shape)
    volume[5:15, :, 16:32] = noise((10, 9, 16), seed=2)
    # Voxels are points: their projection, cut at Nyquist's frequency, has long tails, which the
    # border of the image cuts off.  Smoothed noise has none.
    volume = ndi.gaussian_filter(volume, (1.5, 0, 1.5), mode="constant").astype(np.float32)
    got = np.fft.fft(project_volume(as_volume(volume), [angle]).to_numpy()[0], axis=1)
    theta = np.deg2rad(angle)
    z, x = np.arange(20) - 10, np.arange(48) - 24
    want = np.empty_like(got)
    for i, k in enumerate(np.fft.fftfreq(48)):
        place = x[None, :] * np.cos(theta) + z[:, None] * np.sin(theta) + 24
        want[:, i] = np.einsum("zyx,zx->y", volume, np.exp(-2j * np.pi * k * place))
    below = np.abs(np.fft.fftfreq(48)) < 0.45
    error = np.abs(got - want)[:, below]
    assert error.max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("angle", [-45.0, 20.0, 60.0])
def test_agrees_with_a_volume_turned_and_summed(angle):
    """Real space against Fourier space: SciPy turns the volume about y, and sums along z."""
    volume = smooth((49, 12, 65), sigma=2.0)
    got = project_volume(as_volume(volume), [angle]).to_numpy()[0]
    # x' = x cos θ + z sin θ, z' = −x sin θ + z cos θ: the value at (z', x') comes from (z, x)
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    back = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    deep = np.pad(volume, ((16, 16), (0, 0), (0, 0)))
    center = np.array(deep.shape) // 2
    turned = ndi.affine_transform(deep, back, center - back @ center, order=3)
    want = turned.sum(axis=0)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.9999
    assert (got - want).std() < 0.01 * want.std()


def test_projection_of_a_point_lies_where_the_meanings_say():
    volume = np.zeros((33, 16, 48), np.float32)
    volume[16 + 8, 5, 24 - 10] = 1
    got = project_volume(as_volume(volume), [30.0]).to_numpy()[0]
    place = 24 - 10 * np.cos(np.pi / 6) + 8 * np.sin(np.pi / 6)
    x = np.arange(48)
    np.testing.assert_allclose(got[5, 8:29], np.sinc(x - place)[8:29], atol=3e-3)
    assert np.abs(got[4]).max() < 1e-6


@given(data=st.data())
@settings(deadline=None, max_examples=12)
def test_chunks_and_rows_never_change_a_projection(data):
    shape = (12, 75, 20)
    volume, angles = noise(shape), [-60.0, -3.0, 0.0, 41.0]
    slabs = data.draw(st.integers(1, 3))
    want = project_volume(as_volume(volume, chunks=-1), angles, slabs=slabs)
    chunks, rows = data.draw(irregular_chunks(shape)), data.draw(st.integers(1, 80))
    got = project_volume(as_volume(volume, chunks=chunks), angles, slabs=slabs, rows=rows)
    with dask.config.set(scheduler="threads", num_workers=2):
        np.testing.assert_array_equal(got.to_numpy(), want.to_numpy())


def test_slabs_sum_to_the_whole():
    volume, angles = smooth((30, 16, 40)), [-50.0, 0.0, 12.0]
    whole = project_volume(as_volume(volume), angles).to_numpy()
    slabs = project_volume(as_volume(volume), angles, slabs=4)
    assert slabs.dims == ("slab", "tilt", "y", "x")
    np.testing.assert_allclose(slabs.to_numpy().sum(axis=0), whole, atol=2e-4)
    # planes 0–7 lie about plane 3.5, 11.5 voxels of 10 Å below the centre (plane 15)
    assert slabs["height"].to_numpy()[0] == pytest.approx(-115.0)


def test_a_long_series_is_projected_in_groups_of_tilts():
    from tomodask.simulation import projections as module

    volume, angles = noise((6, 8, 10)), np.linspace(-60, 60, 9)
    want = project_volume(as_volume(volume), angles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUDGET", 4 * module._ROWS * 10 * 36)
        got = project_volume(as_volume(volume), angles)
    assert got.data.numblocks[0] == 3
    np.testing.assert_allclose(got.to_numpy(), want.to_numpy(), atol=1e-4)
