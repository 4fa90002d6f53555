"""Weights of a tilt series: against boxes that were projected and back-projected, and limits."""

import numpy as np
import pytest

from tomodask.arrays.fourier import frequency_grid, measured
from tomodask.arrays.optics import ctf, dose_attenuation, wavelength
from tomodask.arrays.projection import back_project, fine_rows, project
from tomodask.arrays.tilt_weights import (
    check_record,
    record_digest,
    record_range,
    tilt_weights,
    weights_at,
)
from tomodask.errors import InputError

LENS = {"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.07}


def record(low=-60.0, high=60.0, step=3.0, pixel_size=10.0, **more):
    angle = np.arange(low, high + step / 2, step)
    return {
        "angle": angle.tolist(),
        "weight": [float(np.deg2rad(step))] * len(angle),
        "pixel_size": pixel_size,
        "phase_flipped": False,
        "dose_weighted": False,
        "method": "wbp",
        **more,
    }


def with_lens(defocus, count=41, **more):
    return record(defocus_u=[defocus] * count, **LENS, **more)


def radius(n):
    kz, ky, kx = frequency_grid((n, n, n))
    return n * np.sqrt(kz**2 + ky**2 + kx**2)


def central(volume, n):
    cuts = (slice(m // 2 - n // 2, m // 2 - n // 2 + n) for m in volume.shape)
    return volume[tuple(cuts)]


def fitted(power, cross, model, seen):
    """Correlation of the measured transfer with a model of it, and its slope."""
    transfer = cross[seen] / power[seen]
    dot = (power[seen] * transfer * model[seen]).sum()
    square = (power[seen] * model[seen] ** 2).sum()
    return dot / np.sqrt(square * (power[seen] * transfer**2).sum()), dot / square


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("step", [2.0, 5.0])
def test_a_box_of_a_back_projected_particle_holds_them(n, step):
    """Reference: white particles, half as wide as the box, projected, filtered, back-projected."""
    series = record(-60.0, 50.0, step, pixel_size=1.0)
    big, rows = 3 * n, 300  # rows are particles of their own: y has no say
    axis = np.arange(big) - big // 2
    soft = 0.5 - 0.5 * np.tanh(np.hypot(axis[:, None], axis) - n / 4)
    rng = np.random.default_rng(0)
    particles = (rng.normal(size=(big, rows, big)) * soft[:, None]).astype(np.float32)
    images = project(particles, series["angle"], width=4 * big)
    inner = np.arange(n) - n // 2
    box = back_project(
        fine_rows(images, response=np.abs), series["angle"], inner, inner, weights=series["weight"]
    )
    particles = particles[big // 2 - n // 2 :, :, big // 2 - n // 2 :][:n, :, :n]
    truth, seen = (
        np.fft.rfft2(np.fft.ifftshift(one, axes=(0, 2)), axes=(0, 2)) for one in (particles, box)
    )
    got = (truth.conj() * seen).real.mean(1) / (np.abs(truth) ** 2).mean(1)
    want = tilt_weights(n, 1.0, series)[:, 0]
    kz, _, kx = frequency_grid((n, n, n))
    k = n * np.hypot(kz[:, 0], kx[0])
    band = (k > 0) & (k < n / 2 - 1)
    error = np.sqrt(((got - want)[band] ** 2).mean())
    wedge = measured(kz[:, 0], kx[0], (-60, 50))
    assert error < 0.05
    assert error < 0.35 * np.sqrt(((got - wedge)[band] ** 2).mean())
    low = (k > 0) & (k < 4)
    assert np.abs(got - want)[low].max() < 0.12  # where slabs overlap, it is the hardest
    assert got[0, 0] == pytest.approx(want[0, 0], abs=0.12)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_box_seen_through_a_lens_holds_them(flipped):
    """The same in three dimensions, each image filtered by the contrast transfer function."""
    n, wide, tall, width, voxel = 24, 48, 72, 120, 8.0
    series = with_lens(30000.0, pixel_size=voxel, phase_flipped=flipped)
    axis, rows = np.arange(wide) - wide // 2, np.arange(tall) - tall // 2
    r = np.sqrt(axis[:, None, None] ** 2 + rows[:, None] ** 2 + axis**2)
    ky, kx = np.fft.fftfreq(tall, voxel)[:, None], np.fft.rfftfreq(width, voxel)
    lens = ctf(ky, kx, defocus_u=30000.0, **LENS)
    lens = np.abs(lens) if flipped else lens
    rng, inner = np.random.default_rng(1), np.arange(n) - n // 2
    cross, power = 0.0, 0.0
    for _ in range(4):
        particle = (rng.normal(size=r.shape) * (0.5 - 0.5 * np.tanh(r - n / 4))).astype("f4")
        images = np.fft.rfft2(project(particle, series["angle"], width=width)) * lens
        images = np.fft.irfft2(images, s=(tall, width)).astype(np.float32)
        box = back_project(
            fine_rows(images, response=np.abs),
            series["angle"], inner, inner, weights=series["weight"],
        )  # fmt: skip
        box = box[:, tall // 2 - n // 2 :][:, :n]
        truth = np.fft.rfftn(np.fft.ifftshift(central(particle, n)))
        cross = cross + (truth.conj() * np.fft.rfftn(np.fft.ifftshift(box))).real
        power = power + np.abs(truth) ** 2
    w = tilt_weights(n, voxel, series)
    for low, high in ((1, 5), (5, 8), (8, 11)):
        correlation, slope = fitted(power, cross, w, (radius(n) >= low) & (radius(n) < high))
        assert correlation > 0.99
        assert slope == pytest.approx(1, abs=0.06)


def test_what_leaves_the_box_is_lost():
    """At 6 µm and 6 Å the lens carries by half a box of 32; flipping phases brings some back."""
    n, voxel = 32, 6.0
    weak = tilt_weights(n, voxel, with_lens(60000.0, pixel_size=voxel))
    small = tilt_weights(n, voxel, with_lens(10000.0, pixel_size=voxel))
    shell = (radius(n) > 13) & (radius(n) < 16)
    assert (weak[shell] ** 2).mean() < 0.6 * (small[shell] ** 2).mean()
    flipped = tilt_weights(n, voxel, with_lens(60000.0, pixel_size=voxel, phase_flipped=True))
    inside = np.broadcast_to(measured(*frequency_grid((n, n, n))[::2], (-50, 50)), flipped.shape)
    assert flipped[shell & inside].mean() > 0.4
    assert np.abs(weak[shell & inside].mean()) < 0.1


def test_a_dense_series_without_a_lens_is_the_wedge():
    n = 48
    w = tilt_weights(n, 10.0, record(step=1.0))
    kz, _, kx = frequency_grid((n, n, n))
    inside, outside = (
        np.broadcast_to(measured(kz, kx, tilts), w.shape) for tilts in ((-54, 54), (-66, 66))
    )
    band = (radius(n) > 6) & (radius(n) < n / 2)
    far = n * np.hypot(kz, kx) > 10
    assert np.abs(w[inside & band & far] - 1).max() < 0.1
    assert np.abs(w[~outside & band & far]).max() < 0.1
    wedge = np.broadcast_to(measured(kz, kx, (-60, 60)), w.shape)
    assert np.corrcoef(w[band], wedge[band])[0, 1] > 0.97
    assert w.max() < 1.2  # however many slabs overlap


def test_all_round_everything_is_measured_once():
    w = tilt_weights(32, 10.0, record(-90.0, 88.0, 2.0))
    np.testing.assert_allclose(w[radius(32) < 15], 1, atol=0.16)
    assert abs(w[radius(32) < 15].mean() - 1) < 0.01
    assert w[0, 0, 0] == pytest.approx(1, abs=1e-6)


def test_the_planes_of_a_coarse_series_stand_apart():
    n = 64
    w = tilt_weights(n, 10.0, {**record(-40.0, 40.0, 40.0), "weight": [0.7] * 3})
    assert w[0, 0, 20] == pytest.approx(0.7 * 20, rel=0.02)  # n Δθ |k|
    assert np.abs(w[10, 0, 20]) < 0.2  # between the planes
    assert w[round(20 * np.tan(np.deg2rad(40))), 5, 20] > 8


def test_contrast_alternates_unless_phases_were_flipped():
    n, voxel = 64, 6.0
    plain = tilt_weights(n, voxel, record(step=1.0, pixel_size=voxel))
    w = tilt_weights(
        n, voxel, record(step=1.0, pixel_size=voxel, defocus_u=[30000.0] * 121, **LENS)
    )
    k = radius(n)[0, 0] / n / voxel
    lens = ctf(np.zeros_like(k), k, defocus_u=30000.0, **LENS)
    sure = (np.abs(lens) > 0.3) & (k > 4 / n / voxel)
    assert (np.sign(w[0, 0][sure]) == np.sign(lens[sure])).all()
    assert np.count_nonzero(np.diff(np.sign(lens[sure]))) >= 3
    np.testing.assert_allclose(w[0, 0][sure], (plain[0, 0] * lens)[sure], atol=0.12)
    flipped = tilt_weights(
        n, voxel,
        record(step=1.0, pixel_size=voxel, defocus_u=[30000.0] * 121, phase_flipped=True, **LENS),
    )  # fmt: skip
    assert (flipped[0, 0][sure] > 0.2).all()


def test_astigmatism_and_damage_are_in_the_images():
    n, voxel = 32, 6.0
    one = with_lens(30000.0, pixel_size=voxel, defocus_v=[20000.0] * 41, defocus_angle=[90.0] * 41)
    w, u, v = (
        tilt_weights(n, voxel, series)
        for series in (one, with_lens(30000.0, pixel_size=voxel), with_lens(20000.0))
    )
    np.testing.assert_allclose(w[0, 1:12, 0], u[0, 1:12, 0], atol=1e-6)  # along y: U
    x = slice(3, 12)
    assert np.abs(w[0, 0, x] - v[0, 0, x]).max() < 0.25 * np.abs(u[0, 0, x] - v[0, 0, x]).max()
    plain = tilt_weights(n, voxel, record(pixel_size=voxel))
    dose = {"pre_exposure": [40.0] * 41, "exposure": [3.0] * 41}
    worn = tilt_weights(n, voxel, record(pixel_size=voxel, **dose))
    left = dose_attenuation(radius(n)[0, 0] / n / voxel, pre_exposure=40.0, exposure=3.0)
    np.testing.assert_allclose(worn[0, 0, 1:], (plain[0, 0] * left)[1:], rtol=0.1, atol=0.01)
    twice = tilt_weights(n, voxel, record(pixel_size=voxel, dose_weighted=True, **dose))
    np.testing.assert_allclose(twice[0, 0, 1:], (worn[0, 0] * left)[1:], rtol=0.15, atol=0.01)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("dose", [False, True])
def test_against_the_transfer_function_itself(flipped, dose):
    """One tilt along x at frequencies in its plane, where the slab is 1: `optics.ctf` by itself."""
    n, voxel = 24, 5.0
    lens = LENS | {"phase_shift": 30.0}
    one = {"defocus_u": [52000.0], "defocus_v": [47000.0], "defocus_angle": [25.0]}
    worn = {"pre_exposure": [20.0], "exposure": [4.0], "dose_weighted": True} if dose else {}
    series = record(0.0, 0.0, 3.0, pixel_size=voxel, phase_flipped=flipped, **one, **lens, **worn)
    ky, kx = np.fft.fftfreq(n), np.fft.rfftfreq(n)[1:]
    got = weights_at(np.zeros(1), ky, kx, box=n, voxel_size=voxel, record=series)[0]
    bare = record(0.0, 0.0, 3.0, pixel_size=voxel)
    share = weights_at(np.zeros(1), ky, kx, box=n, voxel_size=voxel, record=bare)[0]
    ky, kx = ky[:, None] / voxel, kx[None] / voxel
    k = np.hypot(ky, kx)
    contrast = ctf(ky, kx, **{key: value[0] for key, value in one.items()}, **lens)
    wave = wavelength(300.0)
    carried = np.abs(wave * 49500.0 * k - 2.7e7 * wave**3 * k**3) / voxel / n
    if flipped:
        stays = np.clip((0.75 - 2 * carried) / 0.5, 0, 1)
        want = 2 / np.pi + stays * (np.abs(contrast) - 2 / np.pi)
    else:
        want = np.clip((0.75 - carried) / 0.5, 0, 1) * contrast
    if dose:
        want = want * dose_attenuation(k, pre_exposure=20.0, exposure=4.0) ** 2
    np.testing.assert_allclose(got, share * want, atol=1e-4 * np.abs(share).max())


def test_a_window_on_the_ramp_is_in_the_weights():
    n, voxel = 32, 10.0
    plain, damped = record(step=1.0), record(step=1.0, filter="hamming", voxel_size=voxel)
    one, two = (tilt_weights(n, voxel, series) for series in (plain, damped))
    k = np.arange(n // 2) / n  # along x and along the tilt axis, which the window does not see
    seen = slice(3, n // 2)
    share = 0.54 + 0.46 * np.cos(2 * np.pi * k)
    np.testing.assert_allclose(two[0, 0, seen] / one[0, 0, seen], share[seen], atol=0.02)
    np.testing.assert_allclose(two[0, seen, 5] / one[0, seen, 5], share[5], atol=0.02)
    coarse = tilt_weights(n, 2 * voxel, damped), tilt_weights(n, 2 * voxel, plain)
    share = 0.54 + 0.46 * np.cos(np.pi * k)  # of a coarser level: half the cycles per voxel
    np.testing.assert_allclose(
        coarse[0][0, 0, seen] / coarse[1][0, 0, seen], share[seen], atol=0.02
    )


@pytest.mark.parametrize("n", [16, 17])
def test_they_are_those_of_a_real_box(n):
    """The transform of real, even numbers: w(k) = w(−k), also on the planes kept whole."""
    series = record(-50.0, 30.0, defocus_u=np.linspace(2e4, 3e4, 28), **LENS)
    w = tilt_weights(n, 8.0, series)
    assert w.shape == (n, n, n // 2 + 1)
    assert w.dtype == np.float32
    real = np.fft.irfftn(w, s=(n, n, n), axes=(0, 1, 2))
    np.testing.assert_allclose(np.fft.rfftn(real), w, atol=1e-5)


def test_finer_samples_agree_where_they_meet():
    n = 16
    series = with_lens(20000.0)
    axis = np.arange(-7, 8) / n
    fine = np.arange(-14, 15) / (2 * n)
    one = weights_at(axis, axis, axis[7:], box=n, voxel_size=10.0, record=series)
    two = weights_at(fine, fine, fine[14:], box=n, voxel_size=10.0, record=series)
    np.testing.assert_allclose(two[::2, ::2, ::2], one, atol=2e-4)
    np.testing.assert_allclose(one[:, :, 0], one[::-1, ::-1, 0], atol=1e-6)
    want = tilt_weights(n, 10.0, series)
    k = np.arange(-7, 8)
    np.testing.assert_allclose(one, want[np.ix_(k, k, np.arange(8))], atol=1e-6)


def test_records_are_plain_and_told_apart():
    series = record(angle=np.array([-2.0, 1.0]), weight=(0.1, 0.2), note=np.int64(3))
    kept = check_record(series, "here")
    assert kept["angle"] == [-2.0, 1.0]
    assert kept["weight"] == [0.1, 0.2]
    assert type(kept["note"]) is int
    assert check_record(kept, "here") == kept
    assert record_range(kept) == (-2.0, 1.0)
    assert record_digest(kept) == record_digest(dict(reversed(kept.items())))
    assert record_digest(kept) != record_digest({**kept, "phase_flipped": True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angle": None}, "angle not there"),
        ({"angle": "all"}, "angle is no list of numbers"),
        ({"angle": []}, "angle is no list of numbers"),
        ({"weight": [0.1]}, "41 tilts, but 1 of weight"),
        ({"weight": [float("nan")] * 41}, "weight is no list of numbers"),
        ({"weight": [0.0] * 41}, "weight must not be negative, nor 0 for all"),
        ({"angle": [100.0] * 41}, "within -90 to 90°"),
        ({"pixel_size": 0.0}, "pixel_size must be above 0 Å"),
        ({"voxel_size": -1.0}, "voxel_size must be above 0 Å"),
        ({"pixel_size": "big"}, "pixel_size is no number: 'big'"),
        ({"method": "art"}, "method must be one of wbp, sirt, got 'art'"),
        ({"phase_flipped": "no"}, "phase_flipped must be true or false, got 'no'"),
        ({"defocus_u": [1e4] * 41}, "it has defocus_u, but no voltage, spherical_aberration"),
        ({"defocus_u": [1e4] * 40}, "41 tilts, but 40 of defocus_u"),
        ({"defocus_u": [1e4] * 41, **LENS, "voltage": -1.0}, "voltage must be above 0 kV"),
    ],
)
def test_damaged_records_are_refused(change, message):
    with pytest.raises(InputError, match=rf"TS_01: the record .* is damaged: .*{message}.*; make"):
        check_record({**record(), **change}, "TS_01")


def test_what_is_no_record_is_refused():
    with pytest.raises(InputError, match="no table of names and values but list"):
        tilt_weights(16, 10.0, [1, 2])
    with pytest.raises(InputError, match="weight, method not there"):
        tilt_weights(16, 10.0, {"angle": [0.0], "pixel_size": 1.0})
    with pytest.raises(InputError, match="need box ≥ 2"):
        tilt_weights(1, 10.0, record())
