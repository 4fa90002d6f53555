"""Projection and back-projection against sums written out."""

import numpy as np
import pytest
import scipy.fft
from helpers import told_by_new_process

from tomodask.arrays.projection import back_project, fine_rows, project, window

ANGLES = np.array([-75.0, -60.0, -37.3, 0.0, 12.0, 60.0, 90.0])


def smooth(shape, seed=0):
    """Noise without the highest frequencies, so that no image rings beyond its ends."""
    volume = np.random.default_rng(seed).normal(size=shape)
    kz, kx = np.fft.fftfreq(shape[0])[:, None, None], np.fft.fftfreq(shape[2])
    keep = np.exp(-((np.hypot(kz, kx) / 0.16) ** 4))
    window = np.hanning(shape[0] + 2)[1:-1, None, None] * np.hanning(shape[2] + 2)[1:-1]
    return (scipy.fft.ifftn(scipy.fft.fftn(volume) * keep).real * window).astype(np.float32)


def slice_of(volume, angle, frequencies):
    """The voxels' Fourier sum along the plane of a tilt, written out."""
    nz, _, nx = volume.shape
    z, x = np.arange(nz) - nz // 2, np.arange(nx) - nx // 2
    turn = np.deg2rad(angle)
    at = x * np.cos(turn) + z[:, None] * np.sin(turn)
    waves = np.exp(-2j * np.pi * at[..., None] * frequencies)
    return np.einsum("zyx,zxk->yk", volume.astype(np.float64), waves)


@pytest.mark.parametrize("shape", [(40, 3, 61), (41, 2, 60)])
@pytest.mark.parametrize("width", [128, 129])
def test_central_slice_theorem(shape, width):
    volume = smooth(shape)
    images = project(volume, ANGLES, width=width).astype(np.float64)
    k = np.linspace(0, 0.499, 80)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(width) - width // 2, k))
    for image, angle in zip(images, ANGLES, strict=True):
        wanted = slice_of(volume, angle, k)
        error = np.abs(image @ waves - wanted).max()
        assert error < 1e-4 * np.sqrt((np.abs(wanted) ** 2).mean())


def test_no_tilt_is_the_sum_along_the_beam():
    volume = np.random.default_rng(0).normal(size=(31, 7, 40)).astype(np.float32)
    wanted = volume.sum(0, dtype=np.float64)
    assert np.abs(project(volume, [0.0])[0] - wanted).max() < 3e-5 * wanted.std()
    assert np.abs(project(volume, [180.0])[0][:, 1:] - wanted[:, :0:-1]).max() < 3e-5 * wanted.std()


@pytest.mark.parametrize("rows", [(1, 6), (64, 100), (65, 129)])
def test_slabs_of_rows_have_the_bits_of_the_whole(rows):
    rng = np.random.default_rng(2)
    volume = rng.normal(size=(12, 130, 23)).astype(np.float32)
    part = slice(*rows)
    whole = project(volume, ANGLES, width=30)
    assert np.array_equal(project(volume[:, part], ANGLES, width=30), whole[:, part])

    fine = fine_rows(whole, response=lambda k: k)
    assert np.array_equal(fine_rows(whole[:, part], response=lambda k: k), fine[:, part])
    zs, xs = np.arange(12) - 6, np.arange(23) - 11
    wanted = back_project(fine, ANGLES, zs, xs)
    start, stop = window(ANGLES, zs[3:5], xs[7:20], 30)
    got = back_project(fine[:, part, start:stop], ANGLES, zs[3:5], xs[7:20], width=30, first=start)
    assert np.array_equal(got, wanted[3:5, part, 7:20])


def test_planes_add_up_to_the_volume():
    volume = np.random.default_rng(3).normal(size=(20, 4, 25)).astype(np.float32)
    whole = project(volume, ANGLES, width=40)
    parts = [project(volume[z : z + 6], ANGLES, width=40, center_z=10 - z) for z in range(0, 20, 6)]
    assert np.abs(sum(parts) - whole).max() < 1e-4 * whole.std()


def test_back_projection_reads_the_images_between_pixels():
    width = 65
    x = np.arange(width) - width // 2
    waves = [(0.03, 0.1), (0.11, -0.4), (0.21, 1.0)]
    envelope = np.exp(-((x / 12) ** 2))

    def image(at):
        return sum(np.cos(2 * np.pi * f * at + p) for f, p in waves) * np.exp(-((at / 12) ** 2))

    assert envelope[0] < 1e-3
    fine = fine_rows(np.tile(image(x), (len(ANGLES), 2, 1)).astype(np.float32))
    zs, xs = np.array([-7.5, 0.0, 3.0]), np.array([-11.0, 0.3, 8.0, 12.25])
    weights = np.arange(1.0, len(ANGLES) + 1)
    got = back_project(fine, ANGLES, zs, xs, weights=weights)
    wanted = np.zeros((3, 4))
    for weight, angle in zip(weights, np.deg2rad(ANGLES), strict=True):
        wanted += weight * image(xs * np.cos(angle) + zs[:, None] * np.sin(angle))
    assert np.allclose(got[:, 0], wanted, atol=2e-4 * abs(wanted).max())


def test_back_projection_is_the_transpose():
    volume, angles = smooth((21, 3, 33), 5), np.arange(-60, 61, 3.0)
    images = np.zeros((41, 3, 80), np.float32)
    images[..., 20:60] = smooth((41, 3, 40), 6)
    zs, xs = np.arange(21) - 10, np.arange(33) - 16
    there = np.vdot(project(volume, angles, width=80).astype(float), images)
    back = np.vdot(volume.astype(float), back_project(fine_rows(images), angles, zs, xs))
    assert abs(there - back) < 1e-4 * abs(there)


def test_what_the_image_does_not_reach_adds_nothing():
    fine = fine_rows(np.ones((1, 1, 20), np.float32))
    far = back_project(fine, [0.0], np.array([0.0]), np.array([-30.0, 30.0]))
    assert not far.any()
    with pytest.raises(ValueError, match="width must be given"):
        back_project(fine[..., 3:], [0.0], np.zeros(1), np.zeros(1), first=3)


_HASHED = """
import hashlib
import numpy as np
from tomodask.arrays.projection import back_project, fine_rows, project

volume = np.random.default_rng(0).standard_normal((20, 30, 40)).astype(np.float32)
angles = np.arange(-60, 61, 7.0)
images = project(volume, angles)
back = back_project(fine_rows(images), angles, np.arange(-9.0, 9.0), np.arange(-15.0, 15.0))
print(hashlib.sha256(images.tobytes() + back.tobytes()).hexdigest())
"""


def test_kernels_compiled_or_found_in_the_cache_tell_the_same(tmp_path):
    """A kernel with fused sums, called by kernels: the first process and later ones agree."""
    first, second = (told_by_new_process(_HASHED, tmp_path) for _ in range(2))
    assert len(first) > 60
    assert first == second
