"""Images are where their transforms say, at any size and bin; lens and damage are undone."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reconstruction.scenes import series_of

from tomodask.arrays.optics import ctf, dose_attenuation, filter_across, image_frequencies
from tomodask.data.tilt_series_array import as_tilt_series, transforms
from tomodask.errors import InputError
from tomodask.reconstruction.images import align_images, extended


def spot(shape, place, sigma):
    """A Gaussian at (y, x) pixels from ``size // 2``."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.exp(-((y[:, None] - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * sigma**2))


def one_image(image, *, transform=None, **known):
    return as_tilt_series(
        da.from_array(np.asarray(image, np.float32)[None]),
        angle=[0.0],
        pixel_size=2.0,
        transform=None if transform is None else np.array(transform)[None],
        **known,
    )


@pytest.mark.parametrize("shape", [(64, 81), (101, 64)])
@pytest.mark.parametrize(("factor", "shift"), [(1, (0.3, -1.7)), (2, (0, 0)), (2.5, (3.2, 1.1))])
def test_shift_and_bin_keep_the_centre_and_the_line_sums(shape, factor, shift):
    series = one_image(
        spot(shape, (5.3, -7.1), 5.0), transform=[[1, 0, shift[0]], [0, 1, shift[1]]]
    )
    out = align_images(series, bin=factor, normalize="none")
    place = (5.3 + shift[1]) / factor, (-7.1 + shift[0]) / factor
    wanted = spot(out.shape[1:], place, 5.0 / factor) / factor
    assert out.shape[1:] == tuple(int(n / factor) for n in shape)
    assert out.attrs["pixel_size"] == 2.0 * factor
    # The outermost pixels hold what was shifted in from beyond the border.
    np.testing.assert_allclose(out[0, 3:-3, 3:-3], wanted[3:-3, 3:-3], atol=5e-5)


def test_no_transform_and_no_bin_leave_the_pixels_alone():
    image = np.random.default_rng(0).normal(size=(33, 40)).astype(np.float32)
    out = align_images(one_image(image), normalize="none")
    np.testing.assert_allclose(out[0], image, atol=1e-6)
    centred = align_images(one_image(image + 7))
    np.testing.assert_allclose(centred[0], image - image.mean(), atol=1e-5)
    scaled = align_images(one_image(3 * image + 7), normalize="std", invert=True)
    np.testing.assert_allclose(scaled[0], -(image - image.mean()) / image.std(), atol=1e-5)


@pytest.mark.parametrize("degrees", [12.0, -85.3])
@pytest.mark.parametrize("shape", [(80, 97), (96, 81)])
def test_a_turn_is_about_the_middle_and_may_turn_the_image_over(degrees, shape):
    theta = np.deg2rad(degrees)
    matrix = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    shift = np.array([1.3, -2.2])
    place = np.array([-7.1, 5.3])  # x, y from size // 2
    series = one_image(spot(shape, place[::-1], 2.5), transform=np.column_stack([matrix, shift]))
    out = align_images(series, normalize="none")
    new_shape = shape if abs(degrees) < 45 else shape[::-1]
    assert out.shape[1:] == new_shape
    sizes, new_sizes = np.array(shape[::-1]), np.array(new_shape[::-1])
    middle = sizes // 2 - (sizes - 1) / 2  # of our centre from the middle of the image
    new = matrix @ (place + middle) + shift - (new_sizes // 2 - (new_sizes - 1) / 2)
    inner = slice(12, -12), slice(12, -12)  # corners were not imaged: there is the mean
    wanted = spot(new_shape, new[::-1], 2.5)
    np.testing.assert_allclose(out.to_numpy()[0][inner], wanted[inner], atol=1e-3)
    assert transforms(out) is None


@pytest.mark.parametrize("factor", [2, 2.5, 4])
@pytest.mark.parametrize("degrees", [7.0, 85.3])
def test_a_turn_and_a_bin_together(degrees, factor):
    theta = np.deg2rad(degrees)
    matrix = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    shape, place, shift = (201, 240), np.array([-20.1, 11.3]), np.array([1.3, -2.2])
    series = one_image(spot(shape, place[::-1], 9.0), transform=np.column_stack([matrix, shift]))
    out = align_images(series, bin=factor, normalize="none").to_numpy()[0]
    new_shape = shape if degrees < 45 else shape[::-1]
    half = [np.array([n // 2 - (n - 1) / 2 for n in each[::-1]]) for each in (shape, new_shape)]
    new = matrix @ (place + half[0]) + shift - half[1]
    assert out.shape == tuple(int(n / factor) for n in new_shape)
    wanted = spot(out.shape, new[::-1] / factor, 9.0 / factor) / factor
    inner = slice(10, -10), slice(10, -10)
    np.testing.assert_allclose(out[inner], wanted[inner], atol=1e-3)


def test_binning_folds_nothing_back():
    # A wave beyond the new Nyquist frequency is gone, one below it stays as it is.
    x = np.arange(256) - 128
    fast, slow = np.cos(2 * np.pi * 0.3 * x), np.cos(2 * np.pi * 0.1 * x)
    gone = align_images(one_image(np.tile(fast, (32, 1))), bin=2, normalize="none")
    kept = align_images(one_image(np.tile(slow, (32, 1))), bin=2, normalize="none")
    inner = slice(4, -4), slice(28, -28)
    assert np.abs(gone.to_numpy()[0][inner]).max() < 0.01
    wanted = np.tile(np.cos(2 * np.pi * 0.2 * (np.arange(128) - 64)), (16, 1)) / 2
    np.testing.assert_allclose(kept.to_numpy()[0][inner], wanted[inner], atol=5e-3)


@settings(max_examples=6, deadline=None)
@given(chunks=st.sampled_from([(3, 5, 7), (1, 20, 24), (2, 20, 3)]))
def test_chunks_do_not_change_a_bit(chunks):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(3, 20, 24)).astype(np.float32)
    turn = np.tile(np.column_stack([[[0.99, -0.05], [0.05, 0.99]], [0.4, 1.2]]), (3, 1, 1))
    both = [
        align_images(
            as_tilt_series(
                da.from_array(images, chunks=each), angle=[-3, 0, 3], pixel_size=1.0, transform=turn
            )
        ).to_numpy()
        for each in ((1, -1, -1), chunks)
    ]
    np.testing.assert_array_equal(*both)


LENS = {
    "voltage": 300.0,
    "spherical_aberration": 2.7,
    "amplitude_contrast": 0.1,
    "handedness": -1,
}


def imaged(truth, angle, defocus, pixel_size):
    """The contrast of a thin tilted layer: each place with the defocus of its height."""

    def respond(ky, kx, change):
        lens = {key: value for key, value in LENS.items() if key != "handedness"}
        return ctf(ky, kx, defocus_u=defocus + change, defocus_v=None, **lens)

    slope = -LENS["handedness"] * np.tan(np.deg2rad(angle))
    return filter_across(
        truth.astype(np.float32),
        respond,
        pixel_size=pixel_size,
        slope=slope,
        step=20.0,
        reach=400.0,
    )


@pytest.mark.parametrize("angle", [0.0, 50.0])
def test_flipping_phases_with_the_local_defocus_brings_the_truth_nearer(angle):
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(128, 512))
    image = imaged(truth, angle, 20000.0, 4.0)

    def likeness(**lens):
        series = as_tilt_series(
            da.from_array(image[None]),
            angle=[angle],
            pixel_size=4.0,
            columns={"defocus_u": [20000.0], "defocus_v": [20000.0], "defocus_angle": [0.0]},
            attrs={**LENS, **lens},
        )
        method = "flip" if lens or angle >= 0 else "none"
        flipped = align_images(series, ctf=method).to_numpy()[0]
        return np.corrcoef(flipped.ravel(), truth.ravel())[0, 1]

    as_it_is = np.corrcoef(image.ravel(), truth.ravel())[0, 1]
    right = likeness()
    assert right > 0.8 > as_it_is + 0.2
    if angle:  # the wrong way round the defocus grows where it falls
        assert likeness(handedness=1) < right - 0.05


def test_astigmatism_turns_with_the_image():
    turn = np.deg2rad(30.0)
    matrix = [[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0]]
    series = one_image(
        np.zeros((32, 32)),
        transform=matrix,
        columns={"defocus_u": [3e4], "defocus_v": [2e4], "defocus_angle": [10.0]},
        attrs=LENS,
    )
    assert float(align_images(series)["defocus_angle"][0]) == pytest.approx(40.0)


def test_dose_weighting_is_the_attenuation_itself():
    image = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    series = one_image(
        image, columns={"pre_exposure": [60.0], "exposure": [3.0]}, attrs={"voltage": 300.0}
    )
    out = align_images(series, dose_weight=True).to_numpy()[0]
    ky, kx = image_frequencies(image.shape, 2.0)
    left = dose_attenuation(np.hypot(ky, kx), pre_exposure=60.0, exposure=3.0, voltage=300.0)
    wanted = np.fft.irfft2(np.fft.rfft2(image - image.mean()) * left, image.shape)
    inner = slice(16, -16)  # the transform's borders wrap round
    difference = (out - wanted)[inner, inner]
    assert np.abs(difference).max() < 0.02 * wanted.std()


def test_the_mirrored_border_fades():
    row = np.arange(1.0, 9.0)
    out = extended(row, 4)
    np.testing.assert_array_equal(out[4:-4], row)
    assert (np.diff(out[:4]) != 0).all()
    assert abs(out[0]) < abs(row[3])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bin": 0.5}, "bin must be at least 1 pixel per voxel, got 0.5"),
        ({"voxel_size": 1.0}, "voxel_size must be at least the pixel size, 5 Å, got 1"),
        ({"bin": 2, "voxel_size": 10.0}, "bin and voxel_size are both given"),
        ({"bin": 10}, "bin must leave at least 4 pixels"),
        ({"normalize": "max"}, "normalize must be mean, std or none"),
        ({"ctf": "wiener"}, "ctf must be none or flip"),
        ({"ctf": "flip"}, "needs defocus_u of each image, which TS lacks"),
        ({"dose_weight": True}, "need the voltage"),
    ],
)
def test_what_cannot_be_is_told(options, told):
    series = series_of(np.zeros((4, 16, 16), np.float32), [-3.0, 0.0, 3.0])
    with pytest.raises(InputError, match=told):
        align_images(series, **options)


def test_what_an_option_needs_of_the_series_is_told():
    series = series_of(np.zeros((4, 16, 16), np.float32), [-3.0, 0.0, 3.0])
    series.attrs["voltage"] = 300.0
    with pytest.raises(InputError, match=r"needs defocus_u of each image, .* give defocus"):
        align_images(series, ctf="flip")
    with pytest.raises(InputError, match=r"needs pre_exposure of each image, .*\.mdoc"):
        align_images(series, dose_weight=True)
    series = series.assign_coords(defocus_u=("tilt", np.full(3, 2e4)))
    with pytest.raises(InputError, match="needs spherical_aberration"):
        align_images(series, ctf="flip")


def test_an_image_that_is_no_number_is_named():
    series = series_of(np.zeros((4, 16, 16), np.float32), [-3.0, 0.0, 3.0])
    images = series.to_numpy().copy()
    images[1, 3, 3] = np.nan
    broken = align_images(series.copy(data=da.from_array(images)))
    with pytest.raises(InputError, match="TS: image 2 holds pixels that are NaN"):
        broken.compute()
