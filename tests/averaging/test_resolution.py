"""FSC under masks and within cones, local resolution, B-factor: each against maps that tell it."""

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import xarray as xr
from alignment.scenes import VOXEL

from tomodask.arrays.fourier import frequency_grid, shell_correlation, wedge
from tomodask.arrays.sampling import soft_sphere
from tomodask.averaging.cone_fsc import cone_axes, fsc_by_cone, resolution_by_direction
from tomodask.averaging.corrected_fsc import corrected_fsc, randomised_phases
from tomodask.averaging.fsc import fsc, resolution_at
from tomodask.averaging.local_resolution import local_correlation, local_resolution
from tomodask.averaging.sharpening import b_factor, guinier_plot, reference_weights, sharpen
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_map

N = 48


def radius(n):
    """Of each Fourier voxel of rfftn, in Fourier voxels."""
    kz, ky, kx = frequency_grid((n, n, n))
    return n * np.sqrt(kz**2 + ky**2 + kx**2)


def filtered(volume, gain):
    return np.fft.irfftn(np.fft.rfftn(volume) * gain, s=volume.shape, axes=(0, 1, 2))


def halves(*, until=8.0, noise=0.5, seed=0, n=N):
    """Two half maps of a white particle: one signal up to a shell, noise of its own everywhere."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, n, n)) * soft_sphere(n, n / 5)
    signal = filtered(signal, radius(n) < until)
    signal /= signal.std()
    return [signal + noise * rng.normal(size=signal.shape) for _ in range(2)]


def tight_mask(n=N, seed=1):
    """Sharp, and of fine structure: what a mask should not be."""
    rng = np.random.default_rng(seed)
    blobs = scipy.ndimage.gaussian_filter(rng.normal(size=(n, n, n)), 1.5)
    return ((blobs > 0.02) & (soft_sphere(n, n / 5) > 0.5)).astype(float)


def test_what_a_tight_mask_adds_is_taken_away():
    """Beyond the signal's last shell the halves are noise: the masked FSC says otherwise."""
    a, b = halves(until=8.0, noise=0.3)
    curve = corrected_fsc(a, b, voxel_size=VOXEL, mask=tight_mask())
    beyond = slice(12, 23)
    assert np.abs(curve["unmasked"][beyond]).max() < 0.15
    assert curve["masked"][beyond].mean() > 0.3
    assert np.abs(curve["correlation"][beyond].mean()) < 0.1
    within = slice(2, 7)
    np.testing.assert_array_equal(curve["correlation"][within], curve["masked"][within])
    assert curve["correlation"][within].min() > 0.9
    assert curve.attrs["randomised_from"] == pytest.approx(N * VOXEL / 9, rel=0.15)


def test_the_last_shell_of_the_signal_is_found_under_a_soft_sphere():
    a, b = halves(noise=0.5)
    curve = corrected_fsc(a, b, voxel_size=VOXEL, diameter=0.7 * N * VOXEL)
    assert np.abs(curve["correlation"] - curve["masked"])[14:].max() < 0.1
    for one in (0.5, 0.143):  # without it the sphere smears the last shell over four more
        assert resolution_at(curve, one) == pytest.approx(N * VOXEL / 8.5, rel=0.08)
    smeared = resolution_at(fsc(a, b, voxel_size=VOXEL, diameter=0.7 * N * VOXEL))
    assert smeared < N * VOXEL / 12


def test_halves_of_noise_under_a_tight_mask_have_no_correlation():
    mask, found = tight_mask(), []
    for seed in range(4):
        a, b = np.random.default_rng(seed).normal(size=(2, N, N, N))
        curve = corrected_fsc(a, b, voxel_size=VOXEL, mask=mask, seed=seed)
        found.append(curve["correlation"][5:].mean())
        assert curve.attrs["randomised_from"] >= N * VOXEL / 2
    assert np.abs(np.mean(found)) < 0.06


def test_correction_is_seeded_and_halves_swap():
    a, b = halves()
    kept = a.copy()
    mask = xr.DataArray(soft_sphere(N, 12), dims=("z", "y", "x"), attrs={"voxel_size": VOXEL})
    first, again, other = (
        corrected_fsc(a, b, voxel_size=VOXEL, mask=mask, seed=seed) for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first["randomised"].equals(other["randomised"])
    swapped = corrected_fsc(b, a, voxel_size=VOXEL, mask=mask, seed=3)
    for name in ("unmasked", "masked"):
        np.testing.assert_allclose(swapped[name], first[name], atol=1e-12)
    np.testing.assert_array_equal(a, kept)
    same = corrected_fsc(a, a, voxel_size=VOXEL, mask=mask)
    np.testing.assert_allclose(same["correlation"], 1)
    assert np.isnan(same.attrs["randomised_from"])


def test_random_phases_keep_amplitudes_and_low_shells():
    rng = np.random.default_rng(0)
    for n in (15, 16):
        volume = rng.normal(size=(n, n, n))
        out = randomised_phases(volume, 4, rng)
        before, after = np.fft.rfftn(volume), np.fft.rfftn(out)
        np.testing.assert_allclose(np.abs(after), np.abs(before), rtol=1e-9)
        low = np.rint(radius(n)) < 4
        np.testing.assert_allclose(after[low], before[low], atol=1e-9)
        assert np.abs(shell_correlation(volume, out)[4:]).max() < 0.5


def test_fsc_takes_a_mask_as_it_takes_a_diameter():
    a, b = halves()
    by_mask = fsc(a, b, voxel_size=VOXEL, mask=soft_sphere(N, 10.0))
    by_diameter = fsc(a, b, voxel_size=VOXEL, diameter=20 * VOXEL)
    pd.testing.assert_frame_equal(by_mask, by_diameter)


def test_a_missing_wedge_is_seen_by_the_cone_about_the_beam():
    a, b = halves(until=20.0, noise=0.05)
    rng = np.random.default_rng(5)
    held = wedge((N, N, N), (-60, 60))
    a, b = (filtered(one, held) + 0.02 * rng.normal(size=one.shape) for one in (a, b))
    cones = fsc_by_cone(a, b, voxel_size=VOXEL, half_angle=25.0)
    assert list(cones["direction"].unique()) == list(cone_axes())
    found = resolution_by_direction(cones)
    for name in ("x", "y"):
        assert found[name] == pytest.approx(N * VOXEL / 20, rel=0.1)
    assert found["z"] > 2 * found["x"]
    assert fsc_by_cone(a, b, voxel_size=VOXEL, axes={"up": (3, 0, 0)}, half_angle=25.0)[
        "correlation"
    ].equals(cones[cones["direction"] == "z"]["correlation"].reset_index(drop=True))


@pytest.mark.parametrize("n", [15, 16])
def test_cones_against_a_loop_and_all_together(n):
    """A cone of 90° is the whole shell; a narrow one the sum over the voxels within it."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n, n))
    b = a + rng.normal(size=a.shape)
    all_round = fsc_by_cone(a, b, voxel_size=1.0, axes={"any": (1, 2, 3)}, half_angle=90)
    whole = fsc(a, b, voxel_size=1.0)
    pooled = all_round["voxels"] >= 8
    np.testing.assert_allclose(
        all_round["correlation"][pooled][1:], whole["correlation"][pooled][1:]
    )
    cone = fsc_by_cone(a, b, voxel_size=1.0, axes={"t": (1, 1, 0)}, half_angle=40)
    k = np.fft.fftfreq(n, 1 / n)
    grid = np.stack(np.meshgrid(k, k, k, indexing="ij"), -1)
    length = np.linalg.norm(grid, axis=-1)
    along = np.abs(grid @ np.array([1, 1, 0]) / np.sqrt(2))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    for shell in (5, 7):
        inside = (np.rint(length) == shell) & (along >= length * np.cos(np.deg2rad(40)) - 1e-9)
        want = (fa * fb.conj()).real[inside].sum() / np.sqrt(
            (np.abs(fa[inside]) ** 2).sum() * (np.abs(fb[inside]) ** 2).sum()
        )
        assert cone["correlation"][shell] == pytest.approx(want)
        assert 2 * cone["voxels"][shell] == pytest.approx(inside.sum(), abs=1)


def test_local_correlation_against_a_loop():
    n = 16
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n, n))
    b = a + rng.normal(size=a.shape)
    got = local_correlation(a, b, frequency=0.3, window=8.0)
    off = (radius(n) / n - 0.3) * 8
    band = np.where(np.abs(off) < 1, 0.5 + 0.5 * np.cos(np.pi * off), 0)
    fa, fb = filtered(a, band), filtered(b, band)
    sphere = soft_sphere(n, 3.0, edge=2.0)
    for at in ((8, 8, 8), (5, 9, 2), (0, 0, 15)):
        window = np.roll(sphere, [i - 8 for i in at], (0, 1, 2))
        want = (window * fa * fb).sum() / np.sqrt((window * fa**2).sum() * (window * fb**2).sum())
        assert got[at] == pytest.approx(want, abs=1e-5)


def test_local_resolution_tells_the_blurred_side_from_the_sharp_one():
    """Left: signal to shell 20 of 32; right: to shell 11.  Noise of each half everywhere."""
    n, rng = 64, np.random.default_rng(0)
    white = rng.normal(size=(n, n, n))
    sharp, blurred = (filtered(white, radius(n) < r) for r in (20, 11))
    x = np.arange(n)
    side = np.clip((x - n / 2) / 4 + 0.5, 0, 1)
    signal = sharp * (1 - side) + blurred * side
    signal *= 1 / sharp.std()
    a, b = (signal + 0.7 * rng.normal(size=signal.shape) for _ in range(2))
    result = local_resolution(a, b, voxel_size=5.0, window=100.0)
    assert result.dims == ("z", "y", "x")
    assert result.attrs["window"] == 100.0
    values = result.to_numpy()
    left, right = values[8:-8, 8:-8, 13:20], values[8:-8, 8:-8, 45:52]
    assert np.median(left) == pytest.approx(n * 5.0 / 20, rel=0.1)
    assert np.median(right) == pytest.approx(n * 5.0 / 11, rel=0.1)
    assert left.max() < right.min()
    swapped = local_resolution(b, a, voxel_size=5.0, window=100.0)
    np.testing.assert_allclose(swapped, result, rtol=1e-4)


def test_local_resolution_outside_the_mask_and_of_equal_halves():
    a, b = halves(n=32)
    mask = soft_sphere(32, 8.0)
    result = local_resolution(a, b, voxel_size=5.0, window=60.0, mask=mask).to_numpy()
    assert (result[mask < 0.4] == 20.0).all()  # a third of the window
    same = local_resolution(a, a, voxel_size=5.0, window=60.0)
    np.testing.assert_allclose(same, 10.0)  # Nyquist's
    noise = np.random.default_rng(0).normal(size=(2, 32, 32, 32))
    nothing = local_resolution(*noise, voxel_size=5.0, window=80.0)
    assert np.median(nothing) == pytest.approx(80 / 3, rel=1e-5)
    assert local_resolution(a, b, voxel_size=5.0).attrs["window"] == 80.0  # half the box


@pytest.mark.parametrize("given", [150.0, -80.0])
def test_a_given_b_factor_is_found_and_taken_back(given):
    rng = np.random.default_rng(0)
    white = rng.normal(size=(48, 48, 48))
    k = radius(48) / (48 * 2.0)
    blurred = filtered(white, np.exp(-given / 4 * k**2))
    told = b_factor(blurred, voxel_size=2.0, resolution_range=(10.0, 4.0))
    assert told == pytest.approx(given, rel=0.1)
    back = sharpen(blurred, voxel_size=2.0, b_factor=given)
    inside = k < 0.24
    a, b = np.fft.rfftn(back)[inside], np.fft.rfftn(white)[inside]
    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())
    auto = sharpen(blurred, voxel_size=2.0)
    assert auto.attrs["b_factor"] == pytest.approx(told, rel=0.1)
    assert auto.attrs["resolution"] == 4.0


def test_weights_of_the_correlation_take_the_noise_from_the_guinier_plot():
    """Noise lies level under a map that falls off: without weights B comes out too small."""
    rng = np.random.default_rng(1)
    k = radius(64) / (64 * 1.5)
    signal = filtered(rng.normal(size=(64, 64, 64)), np.exp(-200 / 4 * k**2))
    pair = [signal + 0.05 * signal.std() * rng.normal(size=(*k.shape[:2], 64)) for _ in range(2)]
    mean = (pair[0] + pair[1]) / 2
    curve = fsc(*pair, voxel_size=1.5)
    finest = resolution_at(curve, 0.143)
    span = (10.0, finest)
    plain = b_factor(mean, voxel_size=1.5, resolution_range=span)
    weighted = b_factor(mean, voxel_size=1.5, fsc=curve, resolution_range=span)
    assert weighted == pytest.approx(200, rel=0.05)
    assert abs(weighted - 200) < 0.7 * abs(plain - 200)
    sharp = sharpen(mean, voxel_size=1.5, fsc=curve).to_numpy()
    beyond = k > 1 / finest + 3 / (64 * 1.5)
    assert np.abs(np.fft.rfftn(sharp)[beyond]).max() < 1e-3 * np.abs(np.fft.rfftn(sharp)).max()


def test_guinier_plot_of_a_gaussian():
    """exp(−2 π² σ² k²): B = 8 π² σ²."""
    axis = (np.arange(64) - 32) * 3.0
    r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    blob = np.exp(-r2 / (2 * 5.0**2))
    told = b_factor(blob, voxel_size=3.0, resolution_range=(60.0, 15.0))
    assert told == pytest.approx(8 * np.pi**2 * 25, rel=0.05)
    plot = guinier_plot(blob, voxel_size=3.0)
    assert list(plot) == ["frequency", "resolution", "frequency_squared", "log_amplitude"]


def test_reference_weights_are_the_correlation_with_the_perfect_map():
    """C_ref: simulated halves, and the correlation of their mean with the signal."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(48, 48, 48))
    a, b = (signal + 1.5 * rng.normal(size=signal.shape) for _ in range(2))
    weights = reference_weights(fsc(a, b, voxel_size=1.0))
    np.testing.assert_allclose(weights[8:], shell_correlation((a + b) / 2, signal)[8:], atol=0.06)


def test_says_what_is_wrong():
    a, b = halves(n=16)
    mask = np.ones((16, 16, 16))
    wrong = [
        ({"mask": mask[:8]}, "mask has .* voxels, the maps have"),
        ({"mask": 2 * mask}, "mask must be within 0 to 1, got 2 to 2"),
        ({"mask": 0 * mask}, "mask is 0 everywhere"),
        ({"mask": mask, "diameter": 50.0}, "not both"),
        ({"diameter": -1.0}, "diameter must be above 0"),
    ]
    other = xr.DataArray(mask, attrs={"voxel_size": 3.0})
    wrong.append(({"mask": other}, "mask has voxels of 3 Å, the maps 10 Å"))
    for options, match in wrong:
        for call in (fsc, corrected_fsc, fsc_by_cone):
            with pytest.raises(InputError, match=match):
                call(a, b, voxel_size=VOXEL, **options)
    with pytest.raises(InputError, match="nothing to correct for"):
        corrected_fsc(a, b, voxel_size=VOXEL)
    with pytest.raises(InputError, match="seed must be 0 or above"):
        corrected_fsc(a, b, voxel_size=VOXEL, diameter=80.0, seed=-1)
    with pytest.raises(InputError, match="maps must hold finite voxels"):
        fsc(a, np.where(b > 2, np.nan, b), voxel_size=VOXEL)
    with pytest.raises(InputError, match="half_angle must be within"):
        fsc_by_cone(a, b, voxel_size=VOXEL, half_angle=1)
    with pytest.raises(InputError, match="axis 'w' must be three numbers"):
        fsc_by_cone(a, b, voxel_size=VOXEL, axes={"w": (0, 0, 0)})
    with pytest.raises(InputError, match="window must be within 8 voxels and the box, 80 to 160"):
        local_resolution(a, b, voxel_size=VOXEL, window=20.0)
    with pytest.raises(InputError, match="threshold must be within"):
        local_resolution(a, b, voxel_size=VOXEL, threshold=1.5)
    with pytest.raises(InputError, match="resolution_range must fall"):
        b_factor(a, voxel_size=VOXEL, resolution_range=(5, 10))
    with pytest.raises(InputError, match="a line through 1 shells"):
        b_factor(a, voxel_size=VOXEL, resolution_range=(41, 40))
    with pytest.raises(InputError, match=r"B-factor of a map of 20.0 Å cannot be told"):
        sharpen(a, voxel_size=VOXEL)
    with pytest.raises(InputError, match="resolution must be at least two voxels"):
        sharpen(a, voxel_size=VOXEL, b_factor=1.0, resolution=5.0)
    with pytest.raises(InputError, match="b_factor must be a number"):
        sharpen(a, voxel_size=VOXEL, b_factor="much")
    with pytest.raises(InputError, match="fsc has 5 shells, the map 9"):
        sharpen(a, voxel_size=VOXEL, b_factor=1.0, resolution=30.0, fsc=fsc(
            a[:8, :8, :8], b[:8, :8, :8], voxel_size=VOXEL))  # fmt: skip


def test_the_phantom_keeps_its_resolution():
    """A known map and its copy with noise: the cones agree with the whole."""
    volume = phantom_map(voxel_size=VOXEL, box=N).to_numpy()
    rng = np.random.default_rng(0)
    a, b = (volume + 0.3 * volume.std() * rng.normal(size=volume.shape) for _ in range(2))
    whole = resolution_at(fsc(a, b, voxel_size=VOXEL, diameter=300.0))
    found = resolution_by_direction(fsc_by_cone(a, b, voxel_size=VOXEL, diameter=300.0))
    assert found.median() == pytest.approx(whole, rel=0.1)
