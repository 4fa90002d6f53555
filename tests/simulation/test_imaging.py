"""Imaging: physics by hand and by slow references, and equal bytes whatever the chunks."""

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings

from tomodask.arrays.optics import ctf_radial, dose_attenuation, interaction_constant, wavelength
from tomodask.data.tilt_series_array import transforms
from tomodask.errors import InputError
from tomodask.simulation.detector import counting_detector, sinc_detector
from tomodask.simulation.imaging import signal_variance, simulate_tilt_series
from tomodask.simulation.microscope import Beads, Microscope, Motion
from tomodask.simulation.projections import depth_slabs, project_volume
from tomodask.simulation.tilt_schemes import tilt_scheme

PERFECT = Microscope(ctf=False)


def never_compute(*args, **kwargs):
    raise AssertionError("the graph was computed while it was being built")


def as_volume(array, *, chunks="auto", voxel_size=10.0, name="volume"):
    return xr.DataArray(
        da.from_array(np.asarray(array, np.float32), chunks=chunks),
        dims=("z", "y", "x"),
        attrs={"voxel_size": voxel_size},
        name=name,
    )


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def smooth(shape, seed=0, sigma=1.5):
    """Smooth noise in the middle of a volume, zero around it."""
    margin = [n // 5 for n in shape]
    inside = [n - 2 * m for n, m in zip(shape, margin, strict=True)]
    padded = np.pad(noise(inside, seed), [(m, m) for m in margin])
    return ndi.gaussian_filter(padded, sigma, mode="constant")


def one_tilt(angle, **columns):
    scheme = tilt_scheme((angle, angle), 1.0, order="continuous")
    return scheme.assign(**columns)


def images(projections, scheme, microscope=PERFECT, **keywords):
    with dask.config.set(scheduler="synchronous"):
        return simulate_tilt_series(
            projections, scheme=scheme, microscope=microscope, **keywords
        ).to_numpy()


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


# --- the graph ----------------------------------------------------------------------------------

EVERYTHING = {
    "microscope": Microscope(astigmatism=500.0, b_factor=50.0),
    "motion": Motion(10.0, 1.0),
    "detector": sinc_detector(shaped_noise=True),
    "seed": 3,
}


@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_chunks_and_workers_never_change_an_image(data):
    shape = (10, 70, 24)
    volume, scheme = noise(shape), tilt_scheme((-40, 40), 20, dose=50.0)
    options = {**EVERYTHING, **data.draw(st.sampled_from([{"snr": 0.1}, {"shot_noise": True}]))}
    chunks = data.draw(irregular_chunks(shape))
    with dask.config.set(scheduler="synchronous"):
        want = simulate_tilt_series(as_volume(volume, chunks=-1), scheme=scheme, **options)
        want = want.to_numpy()
    with dask.config.set(scheduler="threads", num_workers=2):
        got = simulate_tilt_series(as_volume(volume, chunks=chunks), scheme=scheme, **options)
        np.testing.assert_array_equal(got.to_numpy(), want)


def test_projections_of_a_store_give_the_same_bytes(tmp_path):
    scheme = tilt_scheme((-40, 40), 20, dose=50.0)
    volume = as_volume(noise((10, 40, 24)))
    want = simulate_tilt_series(volume, scheme=scheme, snr=0.2, **EVERYTHING)
    kept = project_volume(volume, scheme["angle"])
    kept.data.rechunk((2, 20, 24)).to_zarr(str(tmp_path / "p.zarr"))
    opened = kept.copy(data=da.from_zarr(str(tmp_path / "p.zarr")))
    variance = float(signal_variance(opened, scheme=scheme, **EVERYTHING).compute())
    got = simulate_tilt_series(opened, scheme=scheme, snr=0.2, variance=variance, **EVERYTHING)
    np.testing.assert_array_equal(got.to_numpy(), want.to_numpy())


@pytest.mark.parametrize("stream", [0, 1, 2, 3])
def test_noise_knows_nothing_of_what_was_drawn_to_pack(stream):
    scheme = tilt_scheme((-4, 4), 2.0)
    clean = as_volume(smooth((8, 24, 32)))
    added = images(clean, scheme, snr=1e-4, seed=3) - images(clean, scheme)
    drawn = np.random.default_rng([3, stream]).standard_normal((24, 32), dtype=np.float32)
    for image in added:
        assert abs(np.corrcoef(image.ravel(), drawn.ravel())[0, 1]) < 0.2


def test_seeds_and_tilts_have_noise_of_their_own():
    scheme = tilt_scheme((-20, 20), 20)
    volume = as_volume(smooth((8, 64, 64)))
    clean = images(volume, scheme)
    a = images(volume, scheme, snr=0.01, seed=1) - clean
    b = images(volume, scheme, snr=0.01, seed=2) - clean
    for one, other in [(a[0], a[1]), (a[0], a[2]), (a[0], b[0])]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.06
    np.testing.assert_array_equal(images(volume, scheme, snr=0.01, seed=1) - clean, a)


def test_builds_a_graph_of_one_chunk_an_image_and_computes_nothing():
    scheme = tilt_scheme((-20, 20), 10, dose=30.0)
    with dask.config.set(scheduler=never_compute):
        series = simulate_tilt_series(
            as_volume(noise((8, 24, 32))), scheme=scheme, snr=0.1, **EVERYTHING
        )
    assert series.dims == ("tilt", "y", "x")
    assert series.dtype == np.float32
    assert series.data.chunks == ((1,) * 5, (24,), (32,))
    assert series.name == "volume"
    assert {"angle", "order", "exposure", "pre_exposure", "defocus_u"} <= set(series.coords)
    np.testing.assert_array_equal(series["angle"], scheme["angle"])
    for key, value in {"pixel_size": 10.0, "voltage": 300.0, "handedness": -1}.items():
        assert series.attrs[key] == value


def test_a_projection_reads_each_chunk_of_the_volume_once():
    reads = []

    def read(block, block_info=None):
        reads.append(block_info[0]["chunk-location"])
        return block

    data = da.zeros((8, 128, 16), chunks=(4, 64, 8), dtype=np.float32).map_blocks(
        read, meta=np.empty((0, 0, 0), np.float32)
    )
    volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": 5.0})
    with dask.config.set(scheduler="synchronous"):
        project_volume(volume, np.arange(-60, 61, 3.0)).compute()
    assert sorted(reads) == sorted(set(reads))
    assert len(reads) == 8


# --- what is refused ----------------------------------------------------------------------------


def refused(message, *, volume=None, **keywords):
    volume = as_volume(noise((4, 8, 8))) if volume is None else volume
    keywords = {"scheme": tilt_scheme((-3, 3), 3), "microscope": PERFECT, **keywords}
    with (
        dask.config.set(scheduler=never_compute),
        pytest.raises(InputError, match=message),
    ):
        simulate_tilt_series(volume, **keywords)


def test_refuses_values():
    refused(r"snr must be above 0, got -1", snr=-1.0)
    refused(r"snr and shot_noise exclude each other", snr=1.0, shot_noise=True)
    refused(r"shot_noise needs the column exposure .* tilt_scheme\(dose=…\)", shot_noise=True)
    refused(r"variance must be above 0, got 0", snr=1.0, variance=0.0)
    refused(r"seed must be a whole number, at least 0, got -1", seed=-1)
    refused(r"pixels of 10 Å are finer", detector=sinc_detector(pixel_size=12.0))
    scheme = tilt_scheme((-3, 3), 3)
    refused(r"scheme needs the columns angle and order, got angle", scheme=scheme[["angle"]])
    refused(r"order of scheme must be whole numbers", scheme=scheme.assign(order=1))
    refused(r"exposure of scheme must be above 0 e/Å², got 0", scheme=scheme.assign(exposure=0.0))
    refused(r"angles must lie within ±85", scheme=scheme.assign(angle=[-88.0, 0, 88]))


def test_refuses_angles_that_do_not_match():
    kept = project_volume(as_volume(noise((4, 8, 8))), [-3.0, 0.0, 3.0])
    refused(
        r"scheme has 5 tilts and projections have 3", volume=kept, scheme=tilt_scheme((-4, 4), 2)
    )
    refused(r"tilt 0 is at -2 and -3 degrees", volume=kept, scheme=tilt_scheme((-2, 2), 2))


def test_refuses_what_is_no_volume():
    bare = as_volume(noise((4, 8, 8)))
    refused(r"volume needs the attribute voxel_size", volume=bare.drop_attrs())
    refused(r"projections must have the dims", volume=bare.rename(z="w"))
    with pytest.raises(InputError, match=r"slabs must be 1 to 4"):
        project_volume(bare, [0.0], slabs=5)
    with pytest.raises(InputError, match=r"angles must be a list of degrees"):
        project_volume(bare, [])
    kept = project_volume(bare, [-3.0, 0.0, 3.0])
    del kept.attrs["volume_shape"]
    refused(
        r"lack the attribute volume_shape", volume=kept, beads=Beads(((0, 0, 0),), 50.0), snr=1.0
    )


def test_an_empty_specimen_has_no_snr():
    with pytest.raises(InputError, match="there is no signal"):
        images(as_volume(np.zeros((4, 8, 8))), tilt_scheme((-3, 3), 3), snr=1.0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"voltage": 300_000.0}, r"voltage must be in kV, 10 to 3000, got 300000"),
        ({"defocus": 4.0}, r"defocus must be in Å, got 4; for µm write defocus=40000"),
        ({"amplitude_contrast": 7.0}, r"amplitude_contrast must be between 0 and 1, got 7"),
        ({"spherical_aberration": -1.0}, r"spherical_aberration must be in mm"),
        ({"b_factor": -5.0}, r"b_factor must not be negative"),
        ({"handedness": 0}, r"handedness must be -1 or 1, got 0"),
        ({"phase_shift": float("nan")}, r"phase_shift of the microscope must be a finite number"),
    ],
)
def test_refuses_microscopes(keywords, message):
    with pytest.raises(InputError, match=message):
        Microscope(**keywords)


def test_refuses_motions_and_beads():
    with pytest.raises(InputError, match=r"shift of the motion must be at least 0 Å, got -1"):
        Motion(shift=-1.0)
    with pytest.raises(InputError, match=r"rotation of the motion must be 0 to 20 degrees"):
        Motion(rotation=30.0)
    with pytest.raises(InputError, match=r"rows \(z, y, x\)"):
        Beads(((1.0, 2.0),), 50.0)
    with pytest.raises(InputError, match=r"diameter above 0 Å, got 0"):
        Beads((), 0.0)
