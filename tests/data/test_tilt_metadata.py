"""Angles, transforms, doses and defocus as IMOD, SerialEM, AreTomo and CTFFIND write them."""

import numpy as np
import pytest
from helpers import shared_data

from tomodask.data.defocus import read_defocus
from tomodask.data.mdoc import read_mdoc
from tomodask.data.tilt_metadata import (
    angles_text,
    read_aln,
    read_angles,
    read_xf,
    xf_text,
)
from tomodask.errors import InputError


def test_angles_and_transforms_of_a_real_imod_folder():
    angles = read_angles(shared_data("metadata", "imod", "TS_001", "TS_001.tlt"))
    raw = read_angles(shared_data("metadata", "imod", "TS_001", "TS_001.rawtlt"))
    transform = read_xf(shared_data("metadata", "imod", "TS_001", "TS_001.xf"))
    assert len(angles) == len(raw) == len(transform) == 40
    # AngleOffset=2.85 in the folder's .edf: what was refined lies beside the raw angles.
    np.testing.assert_allclose(angles - raw, 2.85, atol=0.4)
    assert transform[0].tolist() == [[0.1020875, 0.9947760, 2.395], [-0.9947760, 0.1020875, -3.871]]
    np.testing.assert_allclose(np.linalg.det(transform[:, :, :2]), 1, atol=1e-3)
    assert len(read_xf(shared_data("metadata", "eman", "example.xf"))) == 55
    xtilt = read_angles(shared_data("metadata", "imod", "TS_001", "TS_001.xtilt"))
    assert len(xtilt) == 40
    assert np.abs(xtilt).max() == 0.01


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    angles = rng.uniform(-70, 70, 9).round(3)
    transform = rng.normal(size=(9, 2, 3)).round(3)
    (tmp_path / "a.rawtlt").write_text(angles_text(angles))
    (tmp_path / "a.xf").write_text(xf_text(transform))
    np.testing.assert_array_equal(read_angles(tmp_path / "a.rawtlt"), angles)
    np.testing.assert_allclose(read_xf(tmp_path / "a.xf"), transform, atol=1e-9)


def test_a_real_mdoc():
    mdoc = read_mdoc(shared_data("metadata", "mdoc", "TS_01.mrc.mdoc"))
    assert len(mdoc.angle) == 41
    assert mdoc.pixel_size == 5.4
    assert mdoc.tilt_axis == 85.3
    assert mdoc.angle[:3].round(1).tolist() == [0.0, 3.0, -3.0]
    assert mdoc.order.tolist() == list(range(41))  # the stack is in the order of acquisition
    assert mdoc.exposure is None  # ExposureDose is 0 throughout: not calibrated
    np.testing.assert_array_equal(mdoc.target_defocus, 40000)
    assert mdoc.frames[40].endswith("TS_01_040_60.0.mrc")


def test_doses_and_order_of_an_mdoc(tmp_path):
    text = "PixelSpacing = 2.5\nVoltage = 300\n"
    for place, (angle, minute) in enumerate([(-3, 7), (0, 5), (3, 9)]):
        text += f"[ZValue = {place}]\nTiltAngle = {angle}\nExposureDose = {place + 1}\n"
        text += f"DateTime = 02-Jan-2024  10:{minute:02d}:00\n"
    path = tmp_path / "a.mdoc"
    path.write_text(text)
    mdoc = read_mdoc(path)
    assert mdoc.order.tolist() == [1, 0, 2]
    assert mdoc.exposure.tolist() == [1, 2, 3]
    assert mdoc.pre_exposure.tolist() == [2, 0, 3]
    assert mdoc.voltage == 300


def test_an_mdoc_with_gaps_is_of_a_stack_with_the_same_images_taken_out(tmp_path):
    text = "".join(
        f"[ZValue = {place}]\nTiltAngle = {3 * place}\nExposureDose = 2\n"
        f"DateTime = 02-Jan-2024  10:0{place}:00\nMagnification =\n"
        for place in (5, 1, 2)
    )
    (tmp_path / "a.mdoc").write_text(text)
    mdoc = read_mdoc(tmp_path / "a.mdoc")
    assert mdoc.angle.tolist() == [3, 6, 15]
    assert mdoc.order.tolist() == [0, 1, 2]
    assert mdoc.exposure.tolist() == [2, 2, 2]
    assert mdoc.pre_exposure is None  # what the others had is not told
    (tmp_path / "a.mdoc").write_text(text.replace("Magnification", "PriorRecordDose"))
    assert read_mdoc(tmp_path / "a.mdoc").pre_exposure is None
    (tmp_path / "a.mdoc").write_text(text.replace("Magnification =", "PriorRecordDose = 8"))
    assert read_mdoc(tmp_path / "a.mdoc").pre_exposure.tolist() == [8, 8, 8]


def test_marks_of_other_editors_are_no_text(tmp_path):
    """Windows' line ends, its mark of UTF-8, and zeros that pad a record."""
    (tmp_path / "a.tlt").write_bytes(b"\xef\xbb\xbf-60.5\r\n0\r\n60\x00\x00\r\n\x00\r\n")
    assert read_angles(tmp_path / "a.tlt").tolist() == [-60.5, 0, 60]


def test_a_real_aln():
    aln = read_aln(shared_data("metadata", "alignment", "test.aln"))
    assert aln.size == (2032, 2032, 90)
    assert aln.patches == 16
    assert aln.angle.tolist() == [-61.5, -60.0, -58.5, -57.0]
    turn = np.deg2rad(12.6611)
    np.testing.assert_allclose(
        aln.transform[0, :, :2],
        [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]],
        atol=1e-9,
    )
    np.testing.assert_allclose(aln.transform[0, :, 2], -aln.transform[0, :, :2] @ [24.786, -2.677])
    assert not set(aln.section) & {0, 1, 87, 88}  # its dark frames, counted from 1


def aln_text(sections, dark, images):
    head = f"# AreTomo Alignment / Priims bprmMn\n# RawSize = 64 48 {images}\n# NumPatches = 0\n"
    head += "".join(f"# DarkFrame = {first} {second} -60.0\n" for first, second in dark)
    rows = "".join(f"{one} 0 1 0 0 1 1 1 0 {10.0 * one}\n" for one in sections)
    return head + "# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT\n" + rows


@pytest.mark.parametrize(
    ("sections", "dark", "kept"),
    [
        ([1, 2, 3, 4], [], [0, 1, 2, 3]),  # AreTomo 3 counts from 1
        ([0, 1, 2, 3], [], [0, 1, 2, 3]),  # AreTomo 2 from 0
        ([1, 3, 4], [(2, 2)], [0, 2, 3]),
        ([0, 2, 3], [(1, 1)], [0, 2, 3]),
        ([1, 2, 3], [(2, 2)], [0, 2, 3]),  # counts what remained
        ([4, 1, 3], [(2, 2)], [0, 2, 3]),  # any order of the lines
    ],
)
def test_which_images_an_aln_means(tmp_path, sections, dark, kept):
    path = tmp_path / "a.aln"
    path.write_text(aln_text(sections, dark, 4))
    aln = read_aln(path)
    assert aln.section.tolist() == kept
    assert aln.dark == [place for place in range(4) if place not in kept]
    assert (np.diff(aln.section) > 0).all()


def test_imod_defocus_versions(tmp_path):
    path = tmp_path / "a.defocus"
    path.write_text("1 1 -10 -10 4000 2\n2 2 0 0 4100\n3 3 10 10 4200\n")
    defocus = read_defocus(path, 3)
    assert defocus.u.tolist() == defocus.v.tolist() == [40000, 41000, 42000]
    path.write_text("1 0 0 0 0 3\n1 2 -10 0 4000 3900 30\n2 3 0 10 4200 4100 50\n")
    defocus = read_defocus(path, 3)
    off = 500 * np.cos(np.deg2rad(20))  # 30° and 50° of one size
    np.testing.assert_allclose(defocus.u, [40000, 40500 + off, 42000])
    np.testing.assert_allclose(defocus.v, [39000, 40500 - off, 41000])
    np.testing.assert_allclose(defocus.angle, [30, 40, 50])
    path.write_text("1 0 0 0 0 3\n1 1 0 0 4000 3900 179\n1 1 0 0 4000 3900 1\n")
    assert abs(read_defocus(path, 1).angle[0]) < 1e-9  # not 90


def test_ctffind_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("# CTFFIND\n1 41000 40000 12 0 0.1 9\n2 42000 41000 13 0 0.1 8\n")
    defocus = read_defocus(path, 2)
    assert defocus.u.tolist() == [41000, 42000]
    assert defocus.angle.tolist() == [12, 13]
    assert defocus.phase_shift is None
    with pytest.raises(InputError, match=r"defocus of 2 images, the stack has 5"):
        read_defocus(path, 5)


@pytest.mark.parametrize(
    ("reader", "name", "text", "told"),
    [
        (read_angles, "a.tlt", "-60\nabc\n", r"a\.tlt, line 2: expected one tilt angle.*'abc'"),
        (read_angles, "a.tlt", "-60\n160\n", r"line 2: a tilt angle lies within ±90°, got 160"),
        (read_angles, "a.tlt", "\n", r"a\.tlt: no tilt angles"),
        (read_xf, "a.xf", "1 0 0 1 0 0\n1 0 0 1 0\n", r"a\.xf, line 2: expected A11 A12 A21 A22"),
        (read_xf, "a.xf", "0 0 0 0 0 0\n", r"line 1: the matrix .* cannot be undone"),
        (read_xf, "a.xf", "1 0 0 nan 0 0\n", r"line 1: expected A11"),
        (read_aln, "a.aln", "1 2 3\n", r"line 1: expected SEC ROT"),
        (read_aln, "a.aln", "# SEC\n", r"no line '# RawSize"),
        (read_aln, "a.aln", aln_text([1, 9], [], 4), r"SEC is 1 to 9, but RawSize tells of 4"),
        (read_aln, "a.aln", aln_text([1, 1], [], 4), r"listed twice"),
        (read_aln, "a.aln", aln_text([2, 4], [(2, 2)], 4), r"both aligned and a dark frame"),
        (read_mdoc, "a.mdoc", "PixelSpacing = 1\n", r"no image, expected sections"),
        (read_mdoc, "a.mdoc", "[ZValue = 0]\nTiltAngle = x\n", r"line 2: expected TiltAngle"),
        (read_mdoc, "a.mdoc", "[ZValue = 0]\nTiltAngle = \n", r"no TiltAngle for \[ZValue = 0\]"),
        (read_angles, "a.tlt", "-60,5\n", r"got '-60,5'; write decimals with a point"),
        (read_mdoc, "a.mdoc", "[ZValue = 0]\nBinning = 1\n", r"no TiltAngle for \[ZValue = 0\]"),
    ],
)
def test_damaged_files_are_named_with_the_line(tmp_path, reader, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        reader(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.tlt: cannot be read"):
        read_angles(tmp_path / "none.tlt")
