"""Stacks and their tables: what is written is read back, and what does not match is told."""

import dask
import dask.array as da
import mrcfile
import numpy as np
import pytest
import starfile
from helpers import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.data.tilt_metadata import angles_text, xf_text
from tomodask.data.tilt_series import files_beside, open_tilt_series, write_tilt_series
from tomodask.data.tilt_series_array import (
    aligned_shape,
    as_tilt_series,
    transforms,
    with_transforms,
)
from tomodask.errors import InputError

ANGLES = np.arange(-20.0, 21.0, 10.0)


def small_series(*, shape=(12, 17), transform=None, seed=0):
    images = np.random.default_rng(seed).normal(size=(len(ANGLES), *shape)).astype(np.float32)
    return as_tilt_series(
        da.from_array(images, chunks=(2, 5, 7)),
        angle=ANGLES,
        pixel_size=4.3,
        name="TS_01",
        columns={
            "order": [4, 2, 0, 1, 3],
            "exposure": np.full(5, 3.0),
            "pre_exposure": [12.0, 6, 0, 3, 9],
            "defocus_u": np.linspace(30000, 31000, 5),
            "defocus_v": np.linspace(29000, 30000, 5),
            "defocus_angle": np.linspace(10, 20, 5),
        },
        transform=transform,
        attrs={
            "voltage": 300.0,
            "spherical_aberration": 2.7,
            "amplitude_contrast": 0.1,
            "handedness": -1,
        },
    )


def rotations(degrees, shifts):
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.concatenate([matrix.transpose(2, 0, 1), np.asarray(shifts)[:, :, None]], axis=2)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_series_is_read_back_with_all_that_is_known(tmp_path, aligned):
    shifts = np.random.default_rng(1).normal(size=(5, 2)).round(3)
    series = small_series(transform=None if aligned else rotations(np.linspace(3, 5, 5), shifts))
    write_tilt_series(series, tmp_path / "TS_01.mrc")
    back = open_tilt_series(tmp_path / "TS_01.star")
    np.testing.assert_array_equal(back, series)
    assert back.chunks == ((1,) * 5, (12,), (17,))
    assert back.name == "TS_01"
    for key in set(series.coords):
        np.testing.assert_allclose(back.coords[key], series.coords[key], rtol=1e-11, atol=1e-11)
    assert set(back.coords) == set(series.coords)
    for key in set(series.attrs) - {"source"}:
        assert back.attrs[key] == series.attrs[key]
    stack = open_tilt_series(tmp_path / "TS_01.mrc", **files_beside(tmp_path / "TS_01.mrc"))
    np.testing.assert_array_equal(stack, series)
    np.testing.assert_array_equal(stack["angle"], ANGLES)
    assert (transforms(stack) is None) == aligned
    if not aligned:
        np.testing.assert_allclose(transforms(stack), transforms(series), atol=6e-4)
        # RELION's words for the same, without ours.
        blocks = starfile.read(tmp_path / "TS_01.star", always_dict=True)
        table = blocks["TS_01"]
        blocks["TS_01"] = table[[name for name in table if "Transform" not in name]]
        starfile.write(blocks, tmp_path / "relion.star")
        relion = open_tilt_series(tmp_path / "relion.star")
        np.testing.assert_allclose(transforms(relion), transforms(series), atol=1e-4)


def test_other_programs_read_the_stack(tmp_path):
    series = small_series()
    write_tilt_series(series, tmp_path / "a.mrc")
    with mrcfile.open(tmp_path / "a.mrc") as stack:
        assert stack.is_image_stack()
        assert stack.voxel_size.x == pytest.approx(4.3)
        np.testing.assert_array_equal(stack.data, series.to_numpy())
    assert mrcfile.validate(tmp_path / "a.mrc")
    assert np.loadtxt(tmp_path / "a.rawtlt").tolist() == ANGLES.tolist()


@settings(max_examples=5, deadline=None)
@given(chunks=st.sampled_from([(1, 4, 17), (5, 12, 1), (2, 12, 17)]), threads=st.integers(1, 2))
def test_chunks_and_workers_do_not_change_a_byte(tmp_path_factory, chunks, threads):
    folder = tmp_path_factory.mktemp("stack")
    series = small_series(transform=rotations(np.linspace(3, 5, 5), np.ones((5, 2))))
    with dask.config.set(scheduler="synchronous"):
        write_tilt_series(series, folder / "a.mrc")
    other = series.copy(data=series.data.rechunk(chunks))
    (folder / "b").mkdir()
    with dask.config.set(num_workers=threads, scheduler="threads"):
        write_tilt_series(other, folder / "b" / "a.mrc")
    for name in ("a.mrc", "a.rawtlt", "a.star", "a.xf"):
        assert (folder / name).read_bytes() == (folder / "b" / name).read_bytes()


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def stop(block, block_info=None):
        if block_info[0]["array-location"][0][0] == 3:
            raise KeyboardInterrupt
        return block

    series = small_series()
    series = series.copy(data=series.data.rechunk((1, -1, -1)).map_blocks(stop, dtype=np.float32))
    with pytest.raises(KeyboardInterrupt), dask.config.set(scheduler="synchronous"):
        write_tilt_series(series, tmp_path / "a.mrc")
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_no_numbers_are_told(tmp_path):
    series = small_series()
    series = series.where(series > -2.5)
    with pytest.raises(InputError, match="NaN or infinite"):
        write_tilt_series(series, tmp_path / "a.mrc")
    assert list(tmp_path.iterdir()) == []


def test_imods_axis_is_half_a_pixel_before_ours_for_even_sizes(tmp_path):
    series = small_series(shape=(12, 17))
    write_tilt_series(series, tmp_path / "a.mrc")
    (tmp_path / "b.xf").write_text(xf_text(np.tile(np.eye(2, 3), (5, 1, 1))))
    opened = open_tilt_series(tmp_path / "a.mrc", tilts=tmp_path / "a.rawtlt", xf=tmp_path / "b.xf")
    np.testing.assert_array_equal(transforms(opened)[:, :, 2], [[0.0, 0.5]] * 5)  # x odd, y even
    (tmp_path / "c.ali").write_bytes((tmp_path / "a.mrc").read_bytes())
    ali = open_tilt_series(tmp_path / "c.ali", tilts=tmp_path / "a.rawtlt")
    np.testing.assert_array_equal(transforms(ali), transforms(opened))


def aln_file(path, size, rows, dark=()):
    text = f"# AreTomo Alignment / Priims bprmMn\n# RawSize = {size[0]} {size[1]} {size[2]}\n"
    text += "# NumPatches = 0\n"
    text += "".join(f"# DarkFrame = {place} {place} 0.0\n" for place in dark)
    text += "# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT\n"
    for section, rot, tx, ty, tilt in rows:
        text += f"{section} {rot} 1.0 {tx} {ty} 1 1 1 0 {tilt}\n"
    path.write_text(text)
    return path


def test_an_aln_means_the_same_as_its_xf_and_leaves_dark_images_out(tmp_path):
    series = small_series()
    write_tilt_series(series, tmp_path / "a.mrc")
    rows = [(n + 1, -12.0, 1.5 * n, -n, ANGLES[n] + 0.5) for n in (0, 1, 3, 4)]
    aln = aln_file(tmp_path / "a.aln", (17, 12, 5), rows, dark=[3])
    opened = open_tilt_series(tmp_path / "a.mrc", aln=aln)
    assert opened["angle"].to_numpy().tolist() == [-19.5, -9.5, 10.5, 20.5]
    np.testing.assert_array_equal(opened, series[[0, 1, 3, 4]])
    turn = rotations(np.full(5, 12.0), np.zeros((5, 2)))[:, :, :2]
    shift = -np.einsum("tij,tj->ti", turn, [[1.5 * n, -n] for n in range(5)])
    (tmp_path / "a.xf").write_text(xf_text(np.concatenate([turn, shift[:, :, None]], axis=2)))
    (tmp_path / "a.tlt").write_text(angles_text(ANGLES + 0.5))
    same = open_tilt_series(tmp_path / "a.mrc", xf=tmp_path / "a.xf", tilts=tmp_path / "a.tlt")
    np.testing.assert_allclose(transforms(opened), transforms(same)[[0, 1, 3, 4]], atol=6e-4)


def test_an_axis_along_x_turns_the_image_over():
    assert aligned_shape(small_series()) == (12, 17)
    turned = with_transforms(small_series(), rotations(np.full(5, 85.3), np.zeros((5, 2))))
    assert aligned_shape(turned) == (17, 12)
    assert aligned_shape(with_transforms(turned, None)) == (12, 17)


def test_a_real_mdoc_with_a_stack_of_its_size(tmp_path):
    path = shared_data("metadata", "mdoc", "TS_01.mrc.mdoc")
    with mrcfile.new(tmp_path / "TS_01.mrc") as stack:
        stack.set_data(np.ones((41, 6, 8), np.float32))
    series = open_tilt_series(tmp_path / "TS_01.mrc", mdoc=path)
    assert series.attrs["pixel_size"] == 5.4
    assert series.attrs["tilt_axis"] == 85.3
    assert series["order"].to_numpy().tolist() == list(range(41))
    assert "exposure" not in series.coords


def test_a_real_imod_folder_opens(tmp_path):
    stack = shared_data("metadata", "imod", "TS_001", "TS_001.st")
    found = files_beside(stack)
    assert found["tilts"].name == "TS_001.tlt"
    assert found["xf"].name == "TS_001.xf"
    series = open_tilt_series(stack, pixel_size=2.0, **found)
    assert len(series) == 40
    assert float(series["angle"][0]) == -57.12


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("tilts", angles_text(ANGLES[:4]), r"has 4 tilt angles, but .*a\.mrc has 5 images"),
        ("xf", xf_text(np.tile(np.eye(2, 3), (6, 1, 1))), r"has 6 transforms, but .* has 5 images"),
        ("mdoc", "[ZValue = 0]\nTiltAngle = 1\n", r"has 1 images, but .* has 5 images"),
    ],
)
def test_counts_that_do_not_match_are_told_with_the_way_out(tmp_path, name, text, told):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    wrong = tmp_path / f"wrong.{name}"
    wrong.write_text(text)
    files = {"tilts": tmp_path / "a.rawtlt", name: wrong}
    with pytest.raises(InputError, match=told + ".*give the file of this stack"):
        open_tilt_series(tmp_path / "a.mrc", **files)


def test_an_aln_of_another_stack_is_told(tmp_path):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    rows = [(n + 1, 0, 0, 0, 0.0) for n in range(3)]
    aln = aln_file(tmp_path / "a.aln", (17, 12, 7), rows)
    with pytest.raises(InputError, match=r"aligns 3 of 7 images, but .* has 5 images"):
        open_tilt_series(tmp_path / "a.mrc", aln=aln)
    aln = aln_file(tmp_path / "a.aln", (16, 12, 5), rows)
    with pytest.raises(InputError, match=r"16×12 pixels, those of .* have 17×12"):
        open_tilt_series(tmp_path / "a.mrc", aln=aln)


def test_angles_in_another_order_are_told(tmp_path):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    doc = "".join(
        f"[ZValue = {place}]\nTiltAngle = {angle}\n"
        for place, angle in enumerate([0.0, -10, 10, -20, 20])
    )
    (tmp_path / "a.mdoc").write_text(doc)
    with pytest.raises(InputError, match=r"disagree: image .* another order"):
        open_tilt_series(tmp_path / "a.mrc", tilts=tmp_path / "a.rawtlt", mdoc=tmp_path / "a.mdoc")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tilts": None}, "tilt angles are unknown; give tilts"),
        ({"xf": "a.xf", "aln": "a.aln"}, "xf and aln are both given"),
        ({"voltage": -3}, "voltage must be 1 to 3000, got -3"),
        ({"handedness": 0}, "handedness must be -1 or 1, got 0"),
        ({"defocus": float("nan")}, "defocus must be a number of Å"),
        ({"defocus": -3}, "defocus counts in Å, got -3; is it µm"),
        ({"pixel_size": 0}, "pixel_size must be above 0"),
    ],
)
def test_what_is_missing_or_wrong_is_told(tmp_path, change, told):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    with pytest.raises(InputError, match=told):
        open_tilt_series(tmp_path / "a.mrc", **{"tilts": tmp_path / "a.rawtlt", **change})


def test_one_defocus_or_a_file_of_them(tmp_path):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    tilts = tmp_path / "a.rawtlt"
    series = open_tilt_series(tmp_path / "a.mrc", tilts=tilts, defocus=25000.0, voltage=200)
    assert series["defocus_u"].to_numpy().tolist() == [25000] * 5
    assert series.attrs["voltage"] == 200
    (tmp_path / "a.defocus").write_text("1 5 -20 20 3000 2\n")
    series = open_tilt_series(tmp_path / "a.mrc", tilts=tilts, defocus=tmp_path / "a.defocus")
    assert series["defocus_v"].to_numpy().tolist() == [30000] * 5


def test_overfocus_is_told(tmp_path, caplog):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    open_tilt_series(tmp_path / "a.mrc", tilts=tmp_path / "a.rawtlt", defocus=-30000.0)
    assert "a.mrc: the defocus is below 0, which is overfocus: -30000 Å" in caplog.text


def test_defocus_of_all_images_or_of_those_that_an_aln_kept(tmp_path):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    rows = [(n + 1, -12.0, 0, 0, ANGLES[n]) for n in (0, 1, 3, 4)]
    aln = aln_file(tmp_path / "a.aln", (17, 12, 5), rows, dark=[3])
    for kept in ([1, 2, 3, 4, 5], [1, 2, 4, 5]):
        text = "".join(f"{n + 1} {m}0000 {m}0000 0 0.{m} 0.1 9\n" for n, m in enumerate(kept))
        (tmp_path / "a.txt").write_text(text)
        series = open_tilt_series(tmp_path / "a.mrc", aln=aln, defocus=tmp_path / "a.txt")
        assert series["defocus_u"].to_numpy().tolist() == [10000, 20000, 40000, 50000]
        assert series.attrs["phase_shift"] == pytest.approx(np.rad2deg(0.3))
    (tmp_path / "a.txt").write_text(text + text)
    with pytest.raises(InputError, match="defocus of 8 images, the stack has 4"):
        open_tilt_series(tmp_path / "a.mrc", aln=aln, defocus=tmp_path / "a.txt")


def test_images_taken_as_aligned_though_their_axis_lies_elsewhere_are_told(tmp_path, caplog):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    images = "".join(f"[ZValue = {n}]\nTiltAngle = {a}\n" for n, a in enumerate(ANGLES))
    for axis, told in ((85.3, True), (-179.5, False), (0.0, False)):
        caplog.clear()
        text = f"[T = Tilt axis angle = {axis}, binning = 4]\n{images}"
        (tmp_path / "a.mdoc").write_text(text)
        series = open_tilt_series(tmp_path / "a.mrc", mdoc=tmp_path / "a.mdoc")
        assert series.attrs["tilt_axis"] == axis
        assert ("no alignment (xf or aln)" in caplog.text) == told
    caplog.clear()
    (tmp_path / "a.mdoc").write_text(text.replace("angle = 0.0", "angle = 85.3"))
    (tmp_path / "a.xf").write_text(xf_text(np.tile(np.eye(2, 3), (5, 1, 1))))
    open_tilt_series(tmp_path / "a.mrc", mdoc=tmp_path / "a.mdoc", xf=tmp_path / "a.xf")
    assert not caplog.text


def test_what_a_star_of_relion_has_beyond_ours_is_told_and_binned_movies_are_known(
    tmp_path, caplog
):
    series = small_series()
    write_tilt_series(series, tmp_path / "a.mrc")
    assert open_tilt_series(tmp_path / "a.star").attrs["files"] == [str(tmp_path / "a.mrc")]
    assert not caplog.text
    rows = "".join(f"{n + 1}@a.mrc {a} 2.5\n" for n, a in enumerate(ANGLES))
    (tmp_path / "b.star").write_text(
        "data_global\n\nloop_\n_rlnTomoName #1\n_rlnMicrographOriginalPixelSize #2\nTS 1.1\n\n"
        "data_TS\n\nloop_\n_rlnMicrographName #1\n_rlnTomoNominalStageTiltAngle #2\n"
        "_rlnTomoXTilt #3\n" + rows
    )
    assert open_tilt_series(tmp_path / "b.star").attrs["pixel_size"] == pytest.approx(4.3)
    assert "the slab's tilt about x (up to 2.5°) is not used" in caplog.text


def test_a_star_of_relion_lists_images_in_any_order_or_a_file_each(tmp_path):
    series = small_series()
    write_tilt_series(series, tmp_path / "a.mrc")
    (tmp_path / "frames").mkdir()
    for number in range(5):
        with mrcfile.new(tmp_path / "frames" / f"{number}.mrc") as image:
            image.set_data(series.to_numpy()[number])
    head = "data_global\n\nloop_\n_rlnTomoName #1\n_rlnVoltage #2\n_rlnTomoHand #3\n"
    head += "_rlnTomoTiltSeriesPixelSize #4\nTS 300.0 -1.0 4.3\n\ndata_TS\n\nloop_\n"
    head += (
        "_rlnMicrographName #1\n_rlnTomoNominalStageTiltAngle #2\n_rlnMicrographPreExposure #3\n"
    )
    for names in (["3@a.mrc", "1@a.mrc", "5@a.mrc"], [f"frames/{n}.mrc" for n in (2, 0, 4)]):
        rows = [f"{name} {angle} 3.0" for name, angle in zip(names, (0, -20, 20), strict=True)]
        (tmp_path / "b.star").write_text(head + "\n".join(rows) + "\n")
        opened = open_tilt_series(tmp_path / "b.star")
        np.testing.assert_array_equal(opened, series[[2, 0, 4]])
        assert opened["angle"].to_numpy().tolist() == [0, -20, 20]
        assert (opened.attrs["voltage"], opened.attrs["handedness"]) == (300, -1)
        assert opened["pre_exposure"].to_numpy().tolist() == [3, 3, 3]
    (tmp_path / "b.star").write_text(head + "9@a.mrc 0 3.0\n3@a.mrc 3 3.0\n")
    with pytest.raises(InputError, match=r"9@a\.mrc, but .* has 5 images"):
        open_tilt_series(tmp_path / "b.star")
    (tmp_path / "b.star").write_text(head + "1@none.mrc 0 3.0\n2@none.mrc 3 3.0\n")
    with pytest.raises(InputError, match=r"image file none\.mrc is not there"):
        open_tilt_series(tmp_path / "b.star")


def test_a_star_without_images_is_told():
    path = shared_data(
        *("metadata", "star", "relion5", "Tomograms", "job_tomo", "tilt_series", "13pf_MT.star")
    )
    with pytest.raises(InputError, match="lists movies; name the stack"):
        open_tilt_series(path)


def test_what_is_there_is_not_overwritten(tmp_path):
    write_tilt_series(small_series(), tmp_path / "a.mrc")
    (tmp_path / "a.mrc").unlink()
    with pytest.raises(InputError, match=r"a\.rawtlt exists already"):
        write_tilt_series(small_series(), tmp_path / "a.mrc")
    assert not (tmp_path / "a.mrc").exists()
    write_tilt_series(small_series(), tmp_path / "a.mrc", overwrite=True)
    assert (tmp_path / "a.mrc").exists()
