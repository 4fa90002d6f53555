"""The lens: contrast transfer, its zeros, defocus by height."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from simulation.tilt_images import PERFECT, as_volume, images, noise, one_tilt, smooth

from tomodask.arrays.optics import ctf_radial, interaction_constant, wavelength
from tomodask.simulation.imaging import simulate_tilt_series
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.projections import depth_slabs, project_volume

# --- the lens -----------------------------------------------------------------------------------


def test_contrast_of_a_perfect_microscope_is_minus_twice_the_phase():
    volume = smooth((16, 24, 32))
    got = images(as_volume(volume, voxel_size=8.0), one_tilt(0.0))[0]
    phase = volume.sum(axis=0) * 8.0 * interaction_constant(300.0)
    want = -2 * (phase - phase.mean())
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def zeros(defocus, microscope, below):
    """Frequencies (1/Å) where the CTF of one defocus is zero, by its formula."""
    k = np.linspace(1e-4, below, 400_001)
    values = ctf_radial(
        k,
        defocus=defocus,
        voltage=microscope.voltage,
        spherical_aberration=microscope.spherical_aberration,
        amplitude_contrast=microscope.amplitude_contrast,
    )
    return k[1:][np.diff(np.sign(values)) != 0]


def check_zeros(power, k, expected):
    """Each expected zero has the local minimum of the power within one bin of it."""
    step = k[1] - k[0]
    places = np.concatenate([[0.0], expected])
    for before, zero in zip(places[:-1], expected, strict=True):
        half = 0.45 * (zero - before)
        near = np.flatnonzero(np.abs(k - zero) < half)
        lowest = k[near[np.argmin(power[near])]]
        assert abs(lowest - zero) <= step, (lowest / step, zero / step)


def test_zeros_of_the_power_spectrum_are_where_the_formula_puts_them():
    size, pixel = 512, 4.0
    scope = Microscope(defocus=25_000.0)
    image = images(as_volume(noise((2, size, size)), voxel_size=pixel), one_tilt(0.0), scope)[0]
    power = np.abs(np.fft.fft2(image)) ** 2
    f = np.fft.fftfreq(size)
    ring = np.rint(size * np.hypot(f[:, None], f[None, :])).astype(int)
    mean = ndi.mean(power, ring, np.arange(size // 2))
    k = np.arange(size // 2) / size / pixel
    expected = zeros(25_000.0, scope, 0.09)
    assert len(expected) >= 3
    check_zeros(mean, k, expected)


def spectrum_of_strip(image, place, pixel, *, length=512, width=64):
    """Power by frequency of a strip of columns, within 15° of y, averaged over pieces of y."""
    window = np.hanning(length)[:, None] * np.hanning(width)[None, :]
    columns = image[:, place - width // 2 : place + width // 2]
    starts = range(0, len(image) - length + 1, length // 2)
    power = sum(np.abs(np.fft.fft2(columns[s : s + length] * window)) ** 2 for s in starts)
    ky, kx = np.fft.fftfreq(length)[:, None], np.fft.fftfreq(width)[None, :]
    ring = np.rint(length * np.hypot(ky, kx)).astype(int)
    along = np.abs(kx) < np.tan(np.deg2rad(15)) * np.abs(ky)
    index = np.arange(1, length // 2)
    return index / length / pixel, ndi.mean(power[along], ring[along], index)


@pytest.mark.parametrize(("angle", "handedness"), [(50.0, -1), (-50.0, 1)])
def test_zeros_move_with_the_height_across_a_tilt(angle, handedness):
    ny, nx, pixel = 2048, 640, 4.0
    scope = Microscope(defocus=15_000.0, handedness=handedness)
    volume = as_volume(noise((2, ny, nx), seed=5), voxel_size=pixel, chunks=(2, 512, -1))
    image = images(volume, one_tilt(angle), scope)[0]
    first = []
    for offset in (-160, 0, 160):
        height = -offset * pixel * np.tan(np.deg2rad(angle))  # z' = −x' tan θ
        expected = zeros(15_000.0 + handedness * height, scope, 0.11)
        k, power = spectrum_of_strip(image, nx // 2 + offset, pixel)
        check_zeros(power, k, expected)
        first.append(expected[0])
    # the same zeros at all places would not have passed: they are several bins apart
    assert abs(first[0] - first[2]) > 5 * (k[1] - k[0])


def test_astigmatism_and_defocus_of_the_scheme_go_before_the_microscope():
    volume = as_volume(noise((2, 96, 96)), voxel_size=4.0)
    scheme = one_tilt(0.0, defocus_u=21_000.0, defocus_v=19_000.0, defocus_angle=40.0)
    got = simulate_tilt_series(volume, scheme=scheme, microscope=Microscope(defocus=50_000.0))
    same = Microscope(defocus=20_000.0, astigmatism=2_000.0, astigmatism_angle=40.0)
    want = simulate_tilt_series(volume, scheme=one_tilt(0.0), microscope=same)
    np.testing.assert_array_equal(got.to_numpy(), want.to_numpy())
    assert got["defocus_u"].item() == 21_000.0
    assert want["defocus_v"].item() == 19_000.0
    plain = images(volume, one_tilt(0.0), Microscope(defocus=20_000.0))
    assert np.abs(plain - want.to_numpy()).max() > 0.1 * plain.std()


def test_each_slab_of_a_thick_specimen_has_its_own_defocus():
    """A scatterer above the centre is imaged with the defocus of its height."""
    pixel, nz, ny, nx, above = 2.0, 240, 64, 128, 100
    volume = np.zeros((nz, ny, nx), np.float32)
    volume[nz // 2 + above, ny // 2, nx // 2] = 1
    volume = ndi.gaussian_filter1d(volume, 0.7, axis=2)
    volume = ndi.gaussian_filter1d(volume, 0.7, axis=1)
    scope = Microscope(defocus=8_000.0)
    slabs = depth_slabs(nz * pixel, pixel_size=pixel, angles=[0.0], microscope=scope)
    assert slabs == 4  # 480 Å against 155 Å
    got = images(as_volume(volume, voxel_size=pixel), one_tilt(0.0), scope)[0]
    exact = Microscope(defocus=8_000.0 - above * pixel)  # handedness −1: higher is less defocus
    flat = as_volume(np.stack([volume.sum(axis=0), np.zeros((ny, nx))]), voxel_size=pixel)
    want = images(flat, one_tilt(0.0), exact)[0]
    wrong = images(flat, one_tilt(0.0), scope)[0]
    assert (got - want).std() < 0.25 * want.std()
    assert (got - want).std() < 0.3 * (wrong - want).std()
    # in slabs of four planes hardly anything is left: it was the distance to the slab's middle
    fine = project_volume(as_volume(volume, voxel_size=pixel), [0.0], slabs=nz // 4)
    close = images(fine, one_tilt(0.0), scope)[0]
    assert (close - want).std() < 0.03 * want.std()


def test_slabs_follow_the_depth_of_field():
    scope = Microscope()
    # at 10 Å pixels a whole lamella of 2000 Å lies within it, at ±60° in two slabs
    assert depth_slabs(2000.0, pixel_size=10.0, angles=[0.0], microscope=scope) == 1
    assert depth_slabs(2000.0, pixel_size=10.0, angles=[-60.0, 60.0], microscope=scope) == 2
    assert depth_slabs(2000.0, pixel_size=4.0, angles=[0.0], microscope=scope) == 4
    assert depth_slabs(2000.0, pixel_size=4.0, angles=[0.0], microscope=PERFECT) == 1
    assert depth_slabs(20.0, pixel_size=0.2, angles=[85.0], microscope=scope) == 100  # its planes
    phase = np.pi * wavelength(300.0) * (2000.0 / 4 / 2) * (0.5 / 4) ** 2
    assert phase <= 0.3
