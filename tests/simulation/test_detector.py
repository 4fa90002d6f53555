"""Detectors: their curves, and files of them."""

import numpy as np
import pytest

from tomodask.errors import InputError
from tomodask.simulation.detector import (
    Detector,
    counting_detector,
    ideal_detector,
    read_detector,
    sinc_detector,
)

MTF = """
data_

loop_
_rlnResolutionInversePixel
_rlnMtfValue
0.0 1.0
0.25 0.8
0.5 0.4
"""


def test_sinc_of_the_papers():
    omega = np.linspace(0.01, 1, 200)  # share of Nyquist's frequency
    got = sinc_detector().signal(omega / 2 / 6.0, 6.0)
    want = np.sin(np.pi * omega / 2) / (np.pi * omega / 2)
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(sinc_detector(shaped_noise=True).dqe, 1.0)


def test_a_sum_over_pixels_is_a_sinc():
    """What gives the sinc its meaning: waves averaged over square pixels, numerically."""
    for cycles in (0.1, 0.3, 0.5):
        fine = np.cos(2 * np.pi * cycles * (np.arange(1000) + 0.5 - 500) / 1000)
        assert sinc_detector().signal(np.array([cycles]), 1.0)[0] == pytest.approx(
            fine.mean(), abs=1e-5
        )


def test_binned_images_see_the_curve_of_the_physical_pixel():
    detector = sinc_detector(pixel_size=1.5)
    k = np.array([0.02, 0.05])
    np.testing.assert_allclose(detector.signal(k, 6.0), np.sinc(k * 1.5), atol=1e-6)
    with pytest.raises(InputError, match=r"pixels of 1 Å are finer than the detector's of 1.5 Å"):
        detector.signal(k, 1.0)


def test_counting_detector_has_its_three_figures():
    detector = counting_detector(dqe_zero=0.9, dqe_nyquist=0.3, mtf_nyquist=0.4)
    nyquist = np.array([0.0, 0.5])
    np.testing.assert_allclose(detector.signal(nyquist, 1.0), [1.0, 0.4], rtol=1e-5)
    dqe = (detector.signal(nyquist, 1.0) / detector.noise(nyquist, 1.0)) ** 2
    np.testing.assert_allclose(dqe, [0.9, 0.3], rtol=1e-4)
    np.testing.assert_allclose(detector.dqe[0], 0.9)


def test_ideal_detector_changes_nothing():
    detector = ideal_detector()
    k = np.linspace(0, 0.7, 9)
    assert (detector.signal(k, 1.0) == 1).all()
    assert detector.white


def test_reads_the_mtf_of_relion(tmp_path):
    path = tmp_path / "mtf.star"
    path.write_text(MTF)
    detector = read_detector(path, pixel_size=2.0)
    k = np.array([0.0, 0.0625, 0.125, 0.25])  # × 2 Å: cycles per physical pixel
    np.testing.assert_allclose(detector.signal(k, 4.0), [1.0, 0.9, 0.8, 0.4])
    assert detector.white
    assert detector.noise(k, 4.0)[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_\n\nloop_\n_rlnA\n_rlnB\n1 2\n3 4\n", "no columns rlnResolutionInversePixel"),
        (MTF.replace("0.25 0.8", "0.25 -0.8"), "mtf of a detector must be above 0 at .* negative"),
        (MTF.replace("0.25 0.8", "0.0 0.8"), "must rise from row to row"),
        (MTF.replace("0.25 0.8", "0.25 high"), "must be numbers"),
    ],
)
def test_refuses_files(tmp_path, text, message):
    path = tmp_path / "mtf.star"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_detector(path)


def test_refuses_values(tmp_path):
    with pytest.raises(InputError, match=r"does not exist"):
        read_detector(tmp_path / "none.star")
    with pytest.raises(InputError, match=r"mtf_nyquist must be above 0 and at most 1, got 1.2"):
        counting_detector(dqe_zero=0.9, dqe_nyquist=0.3, mtf_nyquist=1.2)
    with pytest.raises(InputError, match=r"dqe_nyquist must be at most dqe_zero, 0.5, got 0.8"):
        counting_detector(dqe_zero=0.5, dqe_nyquist=0.8, mtf_nyquist=0.5)
    with pytest.raises(InputError, match="tables of one length"):
        Detector((0.0, 0.5), (1.0,), (1.0, 1.0))
    with pytest.raises(InputError, match="pixel_size of a detector must be above 0"):
        sinc_detector(pixel_size=-1.0)
