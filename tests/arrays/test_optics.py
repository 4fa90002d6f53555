"""Optics: against published figures, and filters across a tilt against each column by itself."""

import numpy as np
import pytest

from tomodask.arrays.optics import (
    _planes,
    critical_exposure,
    ctf,
    ctf_radial,
    defocus_step,
    delocalisation,
    dose_attenuation,
    filter_across,
    image_frequencies,
    interaction_constant,
    wavelength,
)

SCOPE = {"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.07}


def test_wavelengths_and_interaction_constants_are_those_of_the_tables():
    # Reimer & Kohl, Transmission Electron Microscopy, table 2.1; Kirkland 2010, table 2.2
    for voltage, length, sigma in [(100, 0.03701, 9.244e-4), (200, 0.02508, 7.288e-4)]:
        assert wavelength(voltage) == pytest.approx(length, rel=5e-4)
        assert interaction_constant(voltage) == pytest.approx(sigma, rel=5e-4)
    assert wavelength(300.0) == pytest.approx(0.019687, rel=1e-4)
    assert interaction_constant(300.0) == pytest.approx(6.526e-4, rel=1e-3)


def test_ctf_by_hand():
    k, defocus = 0.05, 20_000.0
    chi = np.pi * 0.0196875 * defocus * k**2 - 0.5 * np.pi * 2.7e7 * 0.0196875**3 * k**4
    want = np.sin(chi + np.arcsin(0.07))
    got = ctf(np.zeros(1), np.full(1, k), defocus_u=defocus, **SCOPE)[0]
    assert got == pytest.approx(want, abs=2e-4)
    assert ctf_radial(np.array([k]), defocus=defocus, **SCOPE)[0] == pytest.approx(got, abs=1e-12)


def test_ctf_is_positive_at_low_frequency_of_underfocus():
    k = np.linspace(0, 0.01, 20)
    assert (ctf_radial(k, defocus=20_000.0, **SCOPE) > 0).all()
    assert ctf_radial(k, defocus=-20_000.0, **SCOPE)[-1] < 0


def test_phase_plate_turns_the_first_value():
    assert ctf_radial(np.zeros(1), defocus=0.0, phase_shift=90.0, **SCOPE)[0] == pytest.approx(
        np.cos(np.arcsin(0.07))
    )


@pytest.mark.parametrize("angle", [0.0, 30.0, -75.0])
def test_astigmatism_has_its_defocus_along_its_direction(angle):
    k = np.linspace(0.005, 0.1, 40)
    for turn, defocus in [(0.0, 30_000.0), (90.0, 20_000.0), (45.0, 25_000.0)]:
        azimuth = np.deg2rad(angle + turn)
        got = ctf(
            k * np.sin(azimuth), k * np.cos(azimuth),
            defocus_u=30_000.0, defocus_v=20_000.0, defocus_angle=angle, **SCOPE,
        )  # fmt: skip
        np.testing.assert_allclose(got, ctf_radial(k, defocus=defocus, **SCOPE), atol=1e-9)


def test_critical_exposure_of_the_paper():
    # Grant & Grigorieff 2015: the curve 0.24499 k^-1.6649 + 2.8141 at 300 kV, 0.8 of it at 200
    k = np.array([0.05, 0.1, 1 / 3])
    np.testing.assert_allclose(critical_exposure(k), 0.24499 * k**-1.6649 + 2.8141, rtol=2e-3)
    ratio = critical_exposure(k, voltage=200.0) / critical_exposure(k)
    np.testing.assert_allclose(ratio, 0.8, rtol=5e-3)


def test_attenuation_is_averaged_over_the_exposure():
    k = np.array([0.0, 1e-5, 0.02, 0.1, 0.4])
    many = np.linspace(30.0, 33.0, 20_001)
    want = np.mean([dose_attenuation(k, pre_exposure=n) for n in many], axis=0)
    got = dose_attenuation(k, pre_exposure=30.0, exposure=3.0)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got[0] == 1.0


def test_attenuation_after_the_critical_exposure_is_one_over_root_e():
    k = np.array([0.05, 0.2])
    got = dose_attenuation(k, pre_exposure=critical_exposure(k))
    np.testing.assert_allclose(got, np.exp(-0.5), rtol=1e-12)


def test_frequencies_are_those_of_rfft2():
    ky, kx = image_frequencies((6, 9), 2.0)
    assert ky.shape == (6, 1)
    assert kx.shape == (1, 5)
    assert ky[3, 0] == -0.25
    assert kx[0, 1] == pytest.approx(1 / 18)


def band_limited(shape, pixel, seed=0):
    """White noise up to 0.7 of Nyquist's frequency: filtered, it has no long tails."""
    image = np.random.default_rng(seed).normal(size=shape)
    ky, kx = image_frequencies(shape, pixel)
    share = np.hypot(ky, kx) * 2 * pixel
    spectrum = np.fft.rfft2(image) * np.clip((0.85 - share) / 0.3, 0, 1)
    return np.fft.irfft2(spectrum, s=shape).astype(np.float32)


def respond(ky, kx, change):
    u, v = 24_000.0 + change, 23_000.0 + change
    return ctf(ky, kx, defocus_u=u, defocus_v=v, defocus_angle=30.0, **SCOPE)


def column_by_column(image, pixel, slope, gather, pad=70):
    """Reference: each column with the response of its own defocus, on a wider mirrored image."""
    ny, nx = image.shape
    padded = np.pad(image.astype(float), pad, mode="symmetric")
    ky, kx = image_frequencies(padded.shape, pixel)
    spectrum = np.fft.rfft2(padded)
    out = np.zeros_like(padded)
    for x in range(padded.shape[1]):
        at = min(max(x - pad, 0), nx - 1)
        response = respond(ky, kx, slope * pixel * (at - nx // 2))
        if gather:
            out[:, x] = np.fft.irfft2(spectrum * response, s=padded.shape)[:, x]
        else:
            alone = np.zeros_like(padded)
            alone[:, x] = padded[:, x]
            out += np.fft.irfft2(np.fft.rfft2(alone) * response, s=padded.shape)
    return out[pad : pad + ny, pad : pad + nx]


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize(("width", "tilt"), [(90, 60.0), (421, 75.0)])
def test_filter_across_a_tilt_is_that_of_each_column(gather, width, tilt):
    pixel, slope = 2.5, -np.tan(np.deg2rad(tilt))
    image = band_limited((40, width), pixel)
    most = 24_000 + abs(slope) * pixel * width / 2
    reach = delocalisation(pixel, voltage=300.0, spherical_aberration=2.7, defocus=most)
    step = defocus_step(pixel, 300.0)
    got = filter_across(
        image, respond, pixel_size=pixel, slope=slope, step=step, reach=reach, gather=gather
    )
    level = filter_across(image, respond, pixel_size=pixel, step=step, reach=reach, gather=gather)
    want = column_by_column(image, pixel, slope, gather)
    assert got.dtype == np.float32
    assert (got - want).std() < 0.02 * want.std()
    edges = np.r_[0:8, width - 8 : width]
    assert (got - want)[:, edges].std() < 0.03 * want.std()
    assert (level - want).std() > 5 * (got - want).std()  # without the gradient it is another image


def test_wide_images_are_filtered_in_strips():
    """The case above with 421 columns is one of them."""
    from tomodask.arrays import optics

    seen = []
    pixel, slope = 2.5, -np.tan(np.deg2rad(75.0))

    def watch(ky, kx, change):
        seen.append((len(ky), kx.shape[1]))
        return respond(ky, kx, change)

    image = band_limited((20, 421), pixel)
    filter_across(
        image, watch, pixel_size=pixel, slope=slope, step=defocus_step(pixel, 300.0), reach=150.0
    )
    assert len(seen) > 8
    assert max(columns for _, columns in seen) < 421 // 2
    assert optics.PHASE_ERROR <= 0.3


def test_no_place_is_further_from_a_plane_than_the_phase_allowed():
    pixel, slope = 4.0, np.tan(np.deg2rad(60.0))
    places, changes = _planes(512, slope * pixel, defocus_step(pixel, 300.0))
    assert places[0] == 0
    assert places[-1] == 511
    half = np.diff(changes).max() / 2
    assert np.pi * wavelength(300.0) * half * (0.5 / pixel) ** 2 <= 0.3
    assert changes[0] == pytest.approx(-256 * slope * pixel)


def test_without_a_slope_it_is_one_filter():
    image = band_limited((33, 50), 3.0)
    calls = []

    def unity(ky, kx, change):
        calls.append(change)
        return np.ones((ky.shape[0], kx.shape[1]))

    got = filter_across(image, unity, pixel_size=3.0, step=100.0, reach=60.0)
    np.testing.assert_allclose(got, image, atol=2e-6)
    assert calls == [0.0]


@pytest.mark.parametrize("gather", [False, True])
def test_shares_of_the_planes_sum_to_one(gather):
    """A response that does not know of defocus gives the image back, whatever the strips."""
    image = band_limited((24, 601), 2.5)

    def unity(ky, kx, change):
        return np.ones((ky.shape[0], kx.shape[1]))

    got = filter_across(
        image, unity, pixel_size=2.5, slope=2.0, step=100.0, reach=80.0, gather=gather
    )
    np.testing.assert_allclose(got, image, atol=5e-6)


def test_gathering_is_the_transpose_of_spreading_inside():
    """⟨a, spread b⟩ = ⟨gather a, b⟩ for images that stay away from the mirrored borders."""
    rng = np.random.default_rng(3)
    a, b = np.zeros((2, 200, 420), np.float32)
    a[90:110, 100:320], b[90:110, 100:320] = rng.normal(size=(2, 20, 220))

    def even(ky, kx, change):
        return ctf(ky, kx, defocus_u=24_000.0 + change, **SCOPE)

    more = {"pixel_size": 2.5, "slope": 1.5, "step": 200.0, "reach": 120.0}
    left = (a * filter_across(b, even, **more)).sum(dtype=float)
    right = (filter_across(a, even, gather=True, **more) * b).sum(dtype=float)
    assert abs(left - right) < 1e-3 * np.linalg.norm(a) * np.linalg.norm(b)


def test_borders_do_not_wrap_round():
    image = np.zeros((64, 256), np.float32)
    image[:, -6:] = np.random.default_rng(1).normal(size=(64, 6))
    got = filter_across(image, respond, pixel_size=2.5, slope=1.0, step=150.0, reach=150.0)
    # What the lens carries over a border is lost; only the tails beyond its reach are left.
    assert np.abs(got[:, :64]).max() < 2e-3 * np.abs(image).max()
    assert np.abs(got[:, -64:]).max() > 0.1
