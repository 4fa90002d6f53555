"""``tomodask reconstruct``: files beside the stack are used and told, and what is wrong is."""

import mrcfile
import numpy as np
import pytest
from click.testing import CliRunner
from reconstruction.scenes import blobs, series_of

from tomodask.cli.reconstruction import reconstruct as command
from tomodask.data.tilt_series import open_tilt_series, write_tilt_series
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.reconstruction.tomogram import reconstruct

TILTS = np.arange(-60.0, 61.0, 10.0)
HERE = ("--scheduler", "synchronous")


@pytest.fixture
def stack(tmp_path):
    volume = blobs((20, 24, 32), [(3, 4, -8), (-4, -6, 9)])
    known = {"columns": {"exposure": np.full(13, 3.0), "pre_exposure": 3.0 * np.arange(13)}}
    write_tilt_series(series_of(volume, TILTS, **known), tmp_path / "TS.mrc")
    return tmp_path / "TS.mrc"


def run(*words):
    result = CliRunner().invoke(command, [str(word) for word in (*words, *HERE)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_files_beside_are_used_and_told(stack):
    out = stack.with_name("a.zarr")
    told, log = run(stack, "--thickness", 100, "-o", out)
    assert "beside it lie and are used --tilts TS.rawtlt" in log
    assert told == f"{out}: 20×24×32 voxels of 5 Å from 13 images\n"
    series = open_tilt_series(stack, tilts=stack.with_suffix(".rawtlt"))
    np.testing.assert_array_equal(open_tomogram(out), reconstruct(series, thickness=100.0))


def test_a_star_tells_all_and_options_reach_the_work(stack):
    out = stack.with_name("a.mrc")
    _, log = run(
        *(stack.with_suffix(".star"), "--thickness", 100, "--bin", 2, "--invert", "-o", out),
        *("--defocus", 30000, "--ctf", "flip", "--dose-weight", "--voltage", 200),
    )
    assert "voltage" not in log
    assert "spherical aberration 2.7 is assumed" in log
    series = open_tilt_series(
        stack.with_suffix(".star"), defocus=30000.0, voltage=200.0,
        spherical_aberration=2.7, amplitude_contrast=0.1,
    )  # fmt: skip
    wanted = reconstruct(series, thickness=100.0, bin=2, invert=True, ctf="flip", dose_weight=True)
    np.testing.assert_array_equal(open_tomogram(out), wanted)


def test_a_defocus_goes_with_the_tomogram_though_phases_are_not_flipped(stack):
    out = stack.with_name("a.zarr")
    _, log = run(stack, "--thickness", 100, "--defocus", 30000, "-o", out)
    for usual in ("voltage 300", "spherical aberration 2.7", "amplitude contrast 0.1"):
        assert f"{usual} is assumed" in log
    record = open_tomogram(out).attrs["tilt_series"]
    assert record["defocus_u"] == [30000.0] * 13
    assert (record["voltage"], record["phase_flipped"]) == (300.0, False)


def test_a_dose_needs_the_voltage_alone(stack):
    out = stack.with_name("a.mrc")
    _, log = run(stack.with_suffix(".star"), "--thickness", 100, "--dose-weight", "-o", out)
    assert "voltage 300 is assumed" in log
    assert "aberration" not in log


def test_sirt_tells_its_residuals(stack):
    told, _ = run(
        *(stack, "--thickness", 100, "--method", "sirt", "--iterations", 3),
        *("-o", stack.with_name("a.zarr")),
    )
    shares = told.splitlines()[0].partition("step by step: ")[2].split(", ")
    assert len(shares) == 4
    assert [float(one) for one in shares] == sorted(map(float, shares), reverse=True)


def test_angles_that_do_not_match_end_with_both_counts(stack):
    tilts = stack.with_name("b.tlt")
    tilts.write_text("-3\n0\n3\n")
    with pytest.raises(InputError, match=r"b\.tlt has 3 tilt angles, but .*TS\.mrc has 13 images"):
        run(stack, "--tilts", tilts, "--thickness", 100, "-o", stack.with_name("a.zarr"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-o", "a.png"), "must end with"),
        (("-o", "nowhere/a.mrc"), "folder .* does not exist"),
        (("-o", "TS.mrc", "--overwrite"), "is an input too"),
        (("-o", "a.mrc", "--defocus", "none.txt", "--ctf", "flip"), r"none\.txt: cannot be read"),
        (("-o", "a.mrc", "--ctf", "flip"), "needs defocus_u"),
        (("-o", "a.mrc", "--bin", "2", "--voxel-size", "20"), "bin and voxel_size are both"),
        (("-o", "a.mrc", "--handedness", "1", "--voltage", "0"), "voltage must be 1 to 3000"),
    ],
)
def test_what_is_wrong_is_told(stack, monkeypatch, words, told):
    monkeypatch.chdir(stack.parent)
    with pytest.raises(InputError, match=told):
        run(stack.name, "--thickness", 100, *words)
    with mrcfile.open(stack) as kept:
        assert kept.data.shape == (13, 24, 32)


def test_a_stack_alone_asks_for_angles(stack):
    stack.with_suffix(".rawtlt").unlink()
    with pytest.raises(InputError, match="tilt angles are unknown; give tilts"):
        run(stack, "--thickness", 100, "-o", stack.with_name("a.zarr"))
