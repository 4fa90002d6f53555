"""Points at their places, densities as they were, the missing wedge empty, always equal."""

import numpy as np
import pytest
from helpers import irregular_chunks
from hypothesis import given, settings
from reconstruction.places import PLACES, TILTS, WIDE, mass_centre
from reconstruction.scenes import blobs, series_of, slow_back_projection, slow_projection

from tomodask.arrays.fourier import frequency_grid
from tomodask.arrays.projection import project
from tomodask.data.tilt_series import files_beside, open_tilt_series, write_tilt_series
from tomodask.data.tilt_series_array import transforms, with_transforms
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.reconstruction.images import align_images
from tomodask.reconstruction.tomogram import reconstruct, save_reconstruction


@pytest.mark.parametrize("shape", [(24, 20, 48), (25, 20, 48), (24, 21, 49), (25, 21, 49)])
@pytest.mark.parametrize("method", ["wbp", "sirt"])
def test_a_point_comes_back_at_its_place(shape, method):
    place = (3, 4, -8)
    volume = np.zeros(shape, np.float32)
    at = tuple(n // 2 + p for n, p in zip(shape, place, strict=True))
    volume[at] = 1
    out = reconstruct(
        series_of(volume, WIDE), thickness=5.0 * shape[0], normalize="none", method=method
    ).to_numpy()
    assert out.shape == shape
    assert np.unravel_index(np.argmax(out), shape) == at
    smooth = blobs(shape, [place])
    out = reconstruct(
        series_of(smooth, WIDE), thickness=5.0 * shape[0], normalize="none", method=method
    ).to_numpy()
    np.testing.assert_allclose(mass_centre(out, place), place, atol=0.02)
    if method == "wbp":
        np.testing.assert_allclose(out, smooth, atol=0.01)


def test_a_point_is_as_high_as_the_disc_of_its_band():
    volume = np.zeros((33, 3, 65), np.float32)
    volume[16, 1, 32] = 1
    out = reconstruct(
        series_of(volume, np.arange(-90.0, 90.0)), thickness=165, normalize="none"
    ).to_numpy()
    assert out[16, 1, 32] == pytest.approx(np.pi / 4, rel=0.02)
    assert np.abs(out[:, [0, 2]]).max() < 1e-6


def test_a_dense_series_gives_the_densities_back():
    volume = np.zeros((40, 4, 96), np.float32)
    volume[5:35, :, 20:76] = 2.0
    out = reconstruct(
        series_of(volume, np.arange(-90.0, 90.0)), thickness=200, normalize="none"
    ).to_numpy()
    assert out[12:28, :, 30:66].mean() == pytest.approx(2.0, rel=2e-3)
    assert abs(out[12:28, :, 2:12].mean()) < 0.01


def test_against_the_definition():
    volume = blobs((17, 6, 48), [(2, 1, -5), (-3, -1, 6)])
    images = np.stack([slow_projection(volume, angle, 48) for angle in TILTS])
    np.testing.assert_allclose(project(volume, TILTS), images, atol=5e-5)
    out = reconstruct(series_of(volume, TILTS, images=images), thickness=85.0, normalize="none")
    slow = slow_back_projection(images, TILTS, 17)
    # The row's end is where both differ: mirrored here, nothing beyond it there.
    np.testing.assert_allclose(out[:, :, 8:-8], slow[:, :, 8:-8], atol=2e-4)


@settings(max_examples=6, deadline=None)
@given(chunks=irregular_chunks((24, 21, 40)))
def test_chunks_do_not_change_a_bit(chunks):
    series = series_of(blobs((24, 21, 40), PLACES), TILTS[::4])
    for method in ("wbp", "sirt"):
        options = {"thickness": 120.0, "method": method, "iterations": 2}
        whole = reconstruct(series, chunks=(-1, -1, -1), **options).to_numpy()
        cut = reconstruct(series, chunks=chunks, **options)
        assert cut.chunks == chunks
        np.testing.assert_array_equal(cut.to_numpy(), whole)


def test_slabs_do_not_change_a_bit(monkeypatch):
    series = series_of(blobs((24, 21, 40), PLACES), TILTS[::4])
    options = {"thickness": 120.0, "method": "sirt", "iterations": 3}
    whole = reconstruct(series, **options).to_numpy()
    monkeypatch.setattr("tomodask.reconstruction.graphs.slab_rows", lambda *_: 4)
    np.testing.assert_array_equal(reconstruct(series, **options).to_numpy(), whole)


def plane_distance(shape, tilts):
    """Distance of each frequency from the nearest measured plane, Fourier voxels of z."""
    kz, _, kx = frequency_grid(shape)
    theta = np.deg2rad(np.asarray(tilts))
    off = [np.abs(kz * np.cos(t) - kx * np.sin(t)) for t in theta]
    return np.min(off, axis=0) * shape[0]


def test_the_missing_wedge_is_empty_and_the_images_come_back():
    shape = (64, 12, 64)
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, n) for n in shape]
    ball = (axes[0][:, None, None] ** 2 + axes[2] ** 2) < 0.5**2
    volume = (rng.normal(size=shape) * ball).astype(np.float32)
    series = series_of(volume, TILTS)
    out = reconstruct(series, thickness=320.0, normalize="none").to_numpy()
    spectrum = np.abs(np.fft.rfftn(out)) ** 2
    outside = plane_distance(shape, np.arange(-60.0, 60.1, 0.5)) > 1
    share = spectrum[np.broadcast_to(outside, spectrum.shape)].sum() / spectrum.sum()
    assert share < 0.01
    again = project(out, TILTS[10:31:5])
    for image, wanted in zip(again, series.to_numpy()[10:31:5], strict=True):
        # In the band that a box of this size resolves with these tilts.
        assert np.corrcoef(_low(image), _low(wanted))[0, 1] > 0.998


def _low(image):
    spectrum = np.fft.rfft2(image)
    ky, kx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])
    return np.fft.irfft2(spectrum * ((ky**2 + kx**2 < 0.25**2) & (kx > 0.03)), image.shape).ravel()


def test_sirt_falls_towards_the_images_and_beats_back_projection(tmp_path):
    volume = blobs((32, 8, 64), [(4, 0, -12), (-6, 1, 10), (0, -1, 0)], sigma=2.0)
    series = series_of(volume, np.arange(-60.0, 61.0, 15.0))
    told = save_reconstruction(
        series, tmp_path / "a.mrc", thickness=160.0, normalize="none", method="sirt", iterations=30
    )
    residuals = np.array(told["residuals"])
    assert len(residuals) == 31
    assert (np.diff(residuals) < 0).all()
    assert residuals[-1] < 0.1
    iterated = open_tomogram(tmp_path / "a.mrc").to_numpy()
    direct = reconstruct(series, thickness=160.0, normalize="none").to_numpy()
    off = [np.linalg.norm(each - volume) / np.linalg.norm(volume) for each in (iterated, direct)]
    assert off[0] < 0.85 * off[1]


def test_bins_give_the_same_densities():
    volume = np.zeros((48, 32, 96), np.float32)
    volume[8:40, :, 20:76] = 1.0
    series = series_of(volume, np.arange(-90.0, 90.0))
    whole = reconstruct(series, thickness=240.0, normalize="none", chunks=64)
    half = reconstruct(series, thickness=240.0, normalize="none", bin=2)
    assert half.shape == (24, 16, 48)
    assert half.attrs["voxel_size"] == 10.0
    inner = half.to_numpy()[8:16, 4:12, 15:33].mean()
    assert inner == pytest.approx(whole.to_numpy()[16:32, 8:24, 30:66].mean(), rel=5e-3)
    same = reconstruct(series, thickness=240.0, normalize="none", voxel_size=10.0)
    np.testing.assert_array_equal(same, half)


def moved_series(folder, shape, angles, *, rotation=4.0):
    """A series shifted and turned as a microscope does it, and what undoes that."""
    volume = blobs(shape, PLACES, sigma=2.5, heights=[1.0, 0.8, 0.6])
    straight = series_of(volume, angles)
    rng = np.random.default_rng(3)
    shifts = rng.uniform(-3, 3, (len(angles), 2)).round(3)
    turn = np.deg2rad(rotation)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    transform = np.concatenate([np.tile(matrix, (len(angles), 1, 1)), shifts[:, :, None]], axis=2)
    # Images of Gaussians are known at any place: nothing is interpolated.
    ny, nx = shape[1:]
    x, y = np.arange(nx) - (nx - 1) / 2, np.arange(ny) - (ny - 1) / 2
    images = np.zeros((len(angles), ny, nx))
    for number, theta in enumerate(np.deg2rad(angles)):
        new = np.einsum("ij,jyx->iyx", matrix, np.stack(np.broadcast_arrays(x, y[:, None])))
        new += shifts[number][:, None, None]
        new -= (np.array([nx // 2, ny // 2]) - (np.array([nx, ny]) - 1) / 2)[:, None, None]
        for place, height in zip(PLACES, [1.0, 0.8, 0.6], strict=True):
            at = place[2] * np.cos(theta) + place[0] * np.sin(theta)
            across = ((new[0] - at) ** 2 + (new[1] - place[1]) ** 2) / (2 * 2.5**2)
            images[number] += height * 2.5 * np.sqrt(2 * np.pi) * np.exp(-across)
    moved = with_transforms(series_of(volume, angles, images=images), transform)
    write_tilt_series(moved, folder / "TS.mrc")
    return straight, moved, matrix


@pytest.mark.parametrize("shape", [(24, 40, 48), (25, 41, 49), (24, 41, 48)])
def test_a_moved_series_and_its_xf_or_aln_give_the_same_tomogram(tmp_path, shape):
    straight, moved, matrix = moved_series(tmp_path, shape, TILTS)
    options = {"thickness": 5.0 * shape[0], "normalize": "none"}
    wanted = reconstruct(straight, **options).to_numpy()
    found = files_beside(tmp_path / "TS.mrc")
    assert {key: path.name for key, path in found.items()} == {"xf": "TS.xf", "tilts": "TS.rawtlt"}
    by_xf = reconstruct(open_tilt_series(tmp_path / "TS.mrc", **found), **options).to_numpy()
    inner = (slice(None), slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(by_xf[inner], wanted[inner], atol=0.01)
    unmoved = reconstruct(with_transforms(moved, None), **options).to_numpy()
    assert np.abs(unmoved - wanted)[inner].max() > 0.1
    # AreTomo's: the axis' angle, and shifts in the raw image.
    sizes = np.array([shape[2], shape[1]])
    half = sizes // 2 - (sizes - 1) / 2
    shift = -np.einsum("ji,tj->ti", matrix, transforms(moved)[:, :, 2] - half)
    lines = [f"# RawSize = {shape[2]} {shape[1]} {len(TILTS)}", "# SEC ROT GMAG TX TY …"]
    lines += [
        f"{number + 1} -4.0 1.0 {x:.4f} {y:.4f} 1 1 1 0 {angle:.2f}"
        for number, ((x, y), angle) in enumerate(zip(shift, TILTS, strict=True))
    ]
    (tmp_path / "TS.aln").write_text("\n".join(lines))
    by_aln = reconstruct(
        open_tilt_series(tmp_path / "TS.mrc", aln=tmp_path / "TS.aln"), **options
    ).to_numpy()
    np.testing.assert_allclose(by_aln, by_xf, atol=2e-3)


def test_the_record_says_what_was_measured():
    series = series_of(
        blobs((24, 21, 40), PLACES),
        TILTS,
        columns={
            "exposure": np.full(41, 3.0),
            "pre_exposure": np.arange(41) * 3.0,
            "defocus_u": np.linspace(3e4, 3.1e4, 41),
            "defocus_v": np.linspace(2.9e4, 3e4, 41),
            "defocus_angle": np.full(41, 20.0),
        },
        attrs={"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1},
    )
    plain = reconstruct(series, thickness=120.0).attrs["tilt_series"]
    assert plain["angle"] == TILTS.tolist()
    np.testing.assert_allclose(plain["weight"], np.deg2rad(3.0))
    assert (plain["phase_flipped"], plain["dose_weighted"], plain["method"]) == (
        False,
        False,
        "wbp",
    )
    assert plain["defocus_v"] == np.linspace(2.9e4, 3e4, 41).tolist()
    assert plain["pre_exposure"][2] == 6.0
    assert (plain["voltage"], plain["spherical_aberration"]) == (300.0, 2.7)
    record = reconstruct(
        series, thickness=120.0, ctf="flip", dose_weight=True, method="sirt", iterations=1
    ).attrs["tilt_series"]
    assert (record["phase_flipped"], record["dose_weighted"], record["method"]) == (
        True,
        True,
        "sirt",
    )
    series = series.drop_vars(["defocus_u", "defocus_v", "defocus_angle"])
    assert "defocus_u" not in reconstruct(series, thickness=120.0).attrs["tilt_series"]


def test_inverting_turns_the_contrast_over():
    series = series_of(blobs((24, 21, 40), PLACES), TILTS[::4])
    one = reconstruct(series, thickness=120.0).to_numpy()
    np.testing.assert_array_equal(
        reconstruct(series, thickness=120.0, invert=True).to_numpy(), -one
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"thickness": 2.0}, "thickness must be at least a voxel, 5 Å, got 2"),
        ({"thickness": float("nan")}, "thickness must be at least a voxel"),
        ({"thickness": 1e6}, r"thickness makes at most 16384 planes .* not in nm"),
        ({"method": "art"}, "method must be wbp or sirt, got 'art'"),
        ({"filter": "hann"}, "filter must be ramp or hamming"),
        ({"method": "sirt", "iterations": 0}, "iterations must be a whole number of at least 1"),
        ({"relaxation": 2.5}, "relaxation must be above 0 and below 2"),
        ({"chunks": (5, 5)}, "do not fit the shape"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(options, told):
    series = series_of(np.zeros((8, 16, 16), np.float32), TILTS[::8])
    with pytest.raises(InputError, match=told):
        reconstruct(series, **{"thickness": 40.0, **options})


def test_a_series_that_is_none_is_told():
    series = series_of(np.zeros((8, 16, 16), np.float32), TILTS[::8])
    with pytest.raises(InputError, match="dims"):
        reconstruct(series.rename(tilt="t"), thickness=40.0)
    with pytest.raises(InputError, match="two different angles"):
        reconstruct(series[:1], thickness=40.0)
    with pytest.raises(InputError, match="pixel_size above 0"):
        reconstruct(series.assign_attrs(pixel_size=0), thickness=40.0)


def test_a_thin_slab_is_told(caplog):
    series = series_of(np.zeros((8, 16, 16), np.float32), TILTS[::8])
    reconstruct(series, thickness=300.0)
    assert "thickness 300 Å makes 60 planes of 5 Å" in caplog.text
    caplog.clear()
    reconstruct(series, thickness=1000.0)
    assert not caplog.text


def test_what_was_done_to_the_images_is_in_the_record_and_is_not_done_twice():
    series = series_of(
        np.zeros((8, 16, 16), np.float32), TILTS[::8],
        columns={"pre_exposure": np.arange(6.0), "defocus_u": np.full(6, 3e4)},
        attrs={"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1},
    )  # fmt: skip
    images = align_images(series, ctf="flip")
    record = reconstruct(images, thickness=40.0, dose_weight=True).attrs["tilt_series"]
    assert record["phase_flipped"] is True
    assert record["dose_weighted"] is True
    with pytest.raises(InputError, match="is phase flipped already"):
        reconstruct(images, thickness=40.0, ctf="flip")
