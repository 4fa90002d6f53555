"""Dose, detector, noise and motion: what becomes of an image as it is recorded."""

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from simulation.tilt_images import PERFECT, as_volume, images, noise, one_tilt, smooth

from tomodask.arrays.optics import dose_attenuation
from tomodask.data.tilt_series_array import transforms
from tomodask.simulation.detector import counting_detector, sinc_detector
from tomodask.simulation.imaging import signal_variance, simulate_tilt_series
from tomodask.simulation.microscope import Beads, Microscope, Motion
from tomodask.simulation.tilt_schemes import tilt_scheme

# --- dose and detector --------------------------------------------------------------------------


def shells(image, count):
    f = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None, :])
    power = np.abs(np.fft.fft2(image)) ** 2
    which = (f * 2 * count).astype(int)
    mean = ndi.mean(power, which, np.arange(count))
    return (np.arange(count) + 0.5) / 2 / count, mean


def test_high_frequencies_fade_with_the_dose():
    volume = as_volume(noise((2, 256, 256)), voxel_size=4.0)
    fresh = images(volume, one_tilt(0.0))[0]
    spent = images(volume, one_tilt(0.0, pre_exposure=60.0, exposure=3.0))[0]
    k, before = shells(fresh, 30)
    _, after = shells(spent, 30)
    want = dose_attenuation(k / 4.0, pre_exposure=60.0, exposure=3.0)
    np.testing.assert_allclose(np.sqrt(after / before)[1:], want[1:], rtol=0.1)
    scheme = one_tilt(0.0, pre_exposure=60.0, exposure=3.0)
    kept = simulate_tilt_series(volume, scheme=scheme, microscope=PERFECT, damage=False)
    np.testing.assert_array_equal(kept.to_numpy()[0], fresh)
    assert "pre_exposure" not in kept.coords


def test_mtf_is_that_of_the_detector():
    volume = as_volume(noise((2, 256, 256)), voxel_size=6.0)
    sharp = images(volume, one_tilt(0.0))[0]
    k, before = shells(sharp, 30)
    for detector, curve in [
        (sinc_detector(), np.sinc(k)),
        (sinc_detector(pixel_size=3.0), np.sinc(k / 2)),
        (
            counting_detector(dqe_zero=0.9, dqe_nyquist=0.4, mtf_nyquist=0.3),
            0.3 ** ((2 * k) ** 2),
        ),
    ]:
        blurred = images(volume, one_tilt(0.0), detector=detector)[0]
        np.testing.assert_allclose(np.sqrt(shells(blurred, 30)[1] / before), curve, rtol=0.03)


def test_noise_has_the_colour_of_the_detector():
    volume = as_volume(smooth((2, 256, 256)), voxel_size=6.0)
    detector = counting_detector(dqe_zero=0.8, dqe_nyquist=0.4, mtf_nyquist=0.3)
    clean = images(volume, one_tilt(0.0), detector=detector)[0]
    noisy = images(volume, one_tilt(0.0), detector=detector, snr=0.5)[0]
    k, power = shells(noisy - clean, 20)
    want = detector.noise(k, 1.0) ** 2
    np.testing.assert_allclose((power / power.mean())[2:], (want / want.mean())[2:], rtol=0.15)
    assert (noisy - clean).var() == pytest.approx(clean.var() / 0.5, rel=0.03)


@pytest.mark.parametrize("snr", [10.0, 0.1, 0.003])
def test_measured_snr_is_the_wanted_one(snr):
    scheme = tilt_scheme((-60, 60), 20, dose=100.0)
    volume = as_volume(noise((20, 128, 128)))
    clean = images(volume, scheme, Microscope())
    noisy = images(volume, scheme, Microscope(), snr=snr)
    measured = clean.var(dtype=float) / (noisy - clean).var(dtype=float)
    assert measured == pytest.approx(snr, rel=0.02)
    assert np.abs(clean.mean(axis=(1, 2))).max() < 1e-6


@pytest.mark.parametrize("scope", [PERFECT, Microscope()])
def test_beads_do_not_count_as_signal(scope):
    scheme = tilt_scheme((-40, 40), 20)
    volume = noise((30, 96, 96), seed=8)
    z, y, x = np.ogrid[:30, :96, :96]
    at = [(20, 40, 30), (6, 70, 61)]
    gold = volume.copy()
    for bz, by, bx in at:
        gold += 100 * np.exp(-((z - bz) ** 2 + (y - by) ** 2 + (x - bx) ** 2) / 18)
    beads = Beads(tuple((10.0 * a, 10.0 * b, 10.0 * c) for a, b, c in at), diameter=260.0)
    options = {"scheme": scheme, "microscope": scope, "motion": Motion(20.0, 1.0)}
    plain = float(signal_variance(as_volume(volume), **options).compute())
    naive = float(signal_variance(as_volume(gold), **options).compute())
    clear = float(signal_variance(as_volume(gold), beads=beads, **options).compute())
    assert naive > 3 * plain
    assert clear == pytest.approx(plain, rel=0.1)
    noisy = images(as_volume(gold), scheme, scope, motion=Motion(20.0, 1.0), beads=beads, snr=0.1)
    clean = images(as_volume(gold), scheme, scope, motion=Motion(20.0, 1.0))
    assert (noisy - clean).var() == pytest.approx(clear / 0.1, rel=0.02)


def test_variance_of_the_noise_of_counted_electrons_is_their_number():
    scheme = tilt_scheme((-30, 30), 30, dose=9.0)
    volume = as_volume(smooth((20, 200, 200)), voxel_size=5.0)
    counted = images(volume, scheme, Microscope(), shot_noise=True)
    clean = images(volume, scheme, Microscope())
    mean = 3.0 * 5.0**2
    counts = mean * (1 + counted)
    assert np.abs(counts - np.rint(counts)).max() < 1e-3  # an ideal detector counts
    assert counts.mean() == pytest.approx(mean, rel=0.005)
    assert (mean * (counted - clean)).var() == pytest.approx(mean, rel=0.02)


def test_a_detector_of_less_dqe_is_noisier():
    scheme = tilt_scheme((0, 0), 1, dose=4.0)
    volume = as_volume(smooth((4, 256, 256)), voxel_size=4.0)
    detector = counting_detector(dqe_zero=0.5, dqe_nyquist=0.25, mtf_nyquist=0.5)
    clean = images(volume, scheme, detector=detector)[0]
    noise_ = images(volume, scheme, detector=detector, shot_noise=True)[0] - clean
    k, power = shells(noise_, 20)
    shot = 256**2 / (4.0 * 4.0**2)  # power of white noise of variance 1 / electrons a pixel
    np.testing.assert_allclose((power / shot)[2:], detector.noise(k, 1.0)[2:] ** 2, rtol=0.15)


def test_gold_leaves_no_fewer_electrons_than_none():
    volume = np.zeros((4, 32, 32), np.float32)
    volume[:, 16, 16] = 1e4
    counted = images(as_volume(volume), tilt_scheme((0, 0), 1, dose=2.0), shot_noise=True)
    assert counted.min() >= -1
    assert np.isfinite(counted).all()


# --- motion -------------------------------------------------------------------------------------


def test_transforms_undo_the_motion():
    scheme = tilt_scheme((-20, 20), 20)
    volume = as_volume(smooth((12, 121, 140), sigma=2.0), voxel_size=5.0)
    still = images(volume, scheme)
    series = simulate_tilt_series(
        volume, scheme=scheme, microscope=PERFECT, motion=Motion(shift=20.0, rotation=3.0), seed=4
    )
    moved = series.to_numpy()
    middle = (np.array([140, 121]) - 1) / 2  # (x, y)
    for image, want, transform in zip(moved, still, transforms(series), strict=True):
        assert np.abs(image - want).max() > 0.3 * want.std()
        # new = A (old − c) + d + c: each new pixel looks its old place up
        inverse = np.linalg.inv(transform[:, :2])
        offset = middle - inverse @ (middle + transform[:, 2])
        aligned = ndi.affine_transform(
            image, inverse[::-1, ::-1], offset[::-1], order=5, mode="nearest"
        )
        inside = np.s_[20:-20, 20:-20]
        assert (aligned - want)[inside].std() < 0.01 * want[inside].std()


def test_the_specimen_turns_and_the_lens_does_not():
    """With strong astigmatism the zeros stay where they were, whatever the motion."""
    volume = as_volume(noise((2, 256, 256)), voxel_size=4.0)
    scope = Microscope(defocus=20_000.0, astigmatism=8_000.0, astigmatism_angle=30.0)
    still = images(volume, one_tilt(0.0), scope)[0]
    moved = images(volume, one_tilt(0.0), scope, motion=Motion(0.0, 20.0), seed=5)[0]

    def smoothed(image):
        return ndi.gaussian_filter(np.abs(np.fft.fft2(image)) ** 2, 2.0, mode="wrap")

    series = simulate_tilt_series(
        volume, scheme=one_tilt(0.0), microscope=scope, motion=Motion(0.0, 20.0), seed=5
    )
    a11, a21 = transforms(series)[0, :, 0]
    assert abs(np.rad2deg(np.arctan2(a21, a11))) > 5
    log = [np.log(smoothed(image)).ravel() for image in (still, moved)]
    turned = np.log(smoothed(ndi.rotate(still, 15.0, reshape=False, mode="mirror"))).ravel()
    assert np.corrcoef(*log)[0, 1] > np.corrcoef(log[0], turned)[0, 1] + 0.1


def test_what_does_not_move_is_aligned_already():
    scheme = tilt_scheme((-3, 3), 3)
    volume = as_volume(noise((4, 16, 16)))
    still = simulate_tilt_series(volume, scheme=scheme, microscope=PERFECT, motion=Motion())
    assert transforms(still) is None
    np.testing.assert_array_equal(still.to_numpy(), images(volume, scheme))


def test_motion_has_the_size_asked_for_and_belongs_to_the_order():
    scheme = tilt_scheme((-60, 60), 0.25)
    flat = xr.DataArray(
        da.zeros((len(scheme), 8, 8), dtype=np.float32, chunks=(1, 8, 8)),
        dims=("tilt", "y", "x"),
        attrs={"pixel_size": 4.0},
    )
    series = simulate_tilt_series(
        flat, scheme=scheme, microscope=PERFECT, motion=Motion(10.0, 0.5), seed=1
    )
    found = transforms(series)
    rotation = np.rad2deg(np.arctan2(found[:, 1, 0], found[:, 0, 0]))
    assert rotation.std() == pytest.approx(0.5, rel=0.1)
    assert (found[:, :, 2] * 4.0).std() == pytest.approx(10.0, rel=0.1)
    some = scheme.iloc[100:110].reset_index(drop=True)
    part = simulate_tilt_series(
        flat[100:110], scheme=some, microscope=PERFECT, motion=Motion(10.0, 0.5), seed=1
    )
    np.testing.assert_array_equal(transforms(part), found[100:110])
