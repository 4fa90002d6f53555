"""``tomodask average`` and ``fsc``: what they print and write, and what they refuse."""

import mrcfile
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from alignment.scenes import VOXEL, boxes
from click.testing import CliRunner

from tomodask.arrays.sampling import soft_sphere
from tomodask.cli import main
from tomodask.cli.failures import failure
from tomodask.cli.resolution import fsc
from tomodask.data.particles import write_particles
from tomodask.data.subtomograms import save_subtomograms
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError

HERE = ("--scheduler", "synchronous")
BOX = 32


def run(command, *words):
    result = CliRunner().invoke(command, [str(word) for word in words])
    if isinstance(result.exception, InputError):  # the group would say it in one sentence
        return failure(result.exception)[0], result.stdout, failure(result.exception)[1]
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Boxes, two of which hold nothing, their poses, a mask, and their average."""
    folder = tmp_path_factory.mktemp("average")
    dataset, truth, _ = boxes(16, box=BOX, snr=1.0)
    volumes = dataset["subtomogram"].to_numpy().copy()
    volumes[3, 0, 0, 0], volumes[8] = np.nan, 0.0
    save_subtomograms(
        dataset.assign(subtomogram=(dataset["subtomogram"].dims, volumes)).drop_vars("image"),
        folder / "boxes.zarr",
    )
    table = truth.assign(z=0.0, y=0.0, x=0.0, image=[f"{i}@boxes.zarr" for i in range(16)])
    write_particles(table, folder / "poses.star", voxel_size=VOXEL)
    mask = xr.DataArray(soft_sphere(BOX, 12), dims=("z", "y", "x"), attrs={"voxel_size": VOXEL})
    save_tomogram(mask, folder / "mask.mrc")
    code, out, err = run(
        main,
        *("average", folder / "boxes.zarr", "--poses", folder / "poses.star"),
        *("-o", folder / "out", "--symmetry", "c2", "--mask", folder / "mask.mrc"),
        *("--sharpen", 500, "--local-resolution", *HERE),
    )
    assert code == 0, err
    return folder, out, err


def test_everything_is_told_and_written(scene):
    folder, out, err = scene
    lines = out.splitlines()
    assert "average of 7 + 7 particles, symmetry C2" in lines[0]
    assert lines[1].startswith("resolution: ")
    assert lines[1].endswith("corrected for the mask")
    assert lines[2].startswith("anisotropy: ")
    assert "boxes set aside: 2 (set_aside.csv)" in out
    assert "sharpened: B 500 Å² to" in out
    assert "its box holds NaN" in err
    assert "its box holds one value only" in err
    for name in ("average", "half1", "half2", "sharpened", "local_resolution"):
        assert mrcfile.validate(folder / "out" / f"{name}.mrc")
        assert open_tomogram(folder / "out" / f"{name}.mrc").attrs["voxel_size"] == VOXEL
    curve = pd.read_csv(folder / "out" / "fsc.csv")
    known = ["frequency", "resolution", "unmasked", "masked", "randomised", "correlation"]
    assert list(curve) == known
    assert list(pd.read_csv(folder / "out" / "ssnr.csv")) == [
        "frequency", "resolution", "ssnr", "noise",
    ]  # fmt: skip
    assert pd.read_csv(folder / "out" / "directions.csv")["direction"].nunique() == 13
    assert pd.read_csv(folder / "out" / "set_aside.csv")["particle"].tolist() == [3, 8]


def test_fsc_of_two_files_is_that_of_the_average(scene, tmp_path):
    folder, out, _ = scene
    halves = (folder / "out" / "half1.mrc", folder / "out" / "half2.mrc")
    code, told, err = run(
        fsc,
        *(*halves, "--mask", folder / "mask.mrc", "-o", tmp_path / "fsc.csv"),
        *("--by-direction", tmp_path / "cones.csv", "--local-resolution", tmp_path / "local.mrc"),
        *("--window", 120),
    )
    assert code == 0, err
    assert told.splitlines()[:2] == out.splitlines()[1:3]
    assert (tmp_path / "fsc.csv").read_text() == (folder / "out" / "fsc.csv").read_text()
    assert "local resolution in a window of 120 Å" in told
    assert mrcfile.validate(tmp_path / "local.mrc")
    code, told, _ = run(fsc, *halves)
    assert code == 0
    assert "corrected" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--symmetry", "Q3"), "symmetry must be C1 … C99"),
        (("--sharpen", "much"), "neither a number of Å² nor auto"),
        (("--diameter", -3), "diameter must be above 0"),
        (("--mask", "small.mrc"), "mask has (8, 8, 8) voxels"),
        (("--mask", "mask.mrc", "--diameter", 100), "not both"),
        (("--seed", -1), "--seed"),
    ],
)
def test_what_is_refused_before_any_work(scene, tmp_path, words, said):
    folder, _, _ = scene
    small = xr.DataArray(np.ones((8, 8, 8)), dims=("z", "y", "x"), attrs={"voxel_size": VOXEL})
    save_tomogram(small, folder / "small.mrc", overwrite=True)
    words = [folder / word if str(word).endswith(".mrc") else word for word in words]
    code, _, err = run(
        main,
        *("average", folder / "boxes.zarr", "--poses", folder / "poses.star"),
        *("-o", tmp_path / "out", *words, *HERE),
    )
    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()


def test_fsc_refuses(scene, tmp_path):
    folder, _, _ = scene
    halves = (folder / "out" / "half1.mrc", folder / "out" / "half2.mrc")
    for words, said in (
        (("--window", 50), "give --local-resolution MAP too"),
        (("-o", tmp_path / "fsc.txt"), "must end with .csv"),
        (("-o", folder / "out" / "fsc.csv"), "add --overwrite"),
    ):
        code, _, err = run(fsc, *halves, *words)
        assert code == 2
        assert said in err
    code, _, err = run(fsc, halves[0], folder / "small.mrc")
    assert code == 2
    assert "two cubic maps of one size" in err


def test_no_table_of_another_average_is_replaced_unasked(scene, tmp_path):
    folder, _, _ = scene
    (tmp_path / "set_aside.csv").write_text("particle,reason\n7,of another\n")
    words = ("average", folder / "boxes.zarr", "--poses", folder / "poses.star", "-o", tmp_path)
    code, _, err = run(main, *words, *HERE)
    assert code == 2
    assert "set_aside.csv exists already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["set_aside.csv"]


@pytest.mark.parametrize(
    "name", ["directions.csv", "ssnr.csv", "sharpened.mrc", "local_resolution.mrc"]
)
def test_nothing_of_another_average_is_replaced_unasked_or_left_behind(scene, tmp_path, name):
    folder, _, _ = scene
    (tmp_path / name).write_text("of another")
    words = ("average", folder / "boxes.zarr", "--poses", folder / "poses.star", "-o", tmp_path)
    code, _, err = run(main, *words, *HERE)
    assert code == 2
    assert f"{name} exists already; choose another folder or add --overwrite" in err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    code, _, err = run(main, *words, "--overwrite", *HERE)
    assert code == 0, err
    left = tmp_path / name
    assert not left.exists() or left.read_text() != "of another"
    assert left.exists() == name.endswith(".csv")  # maps that were not asked for are gone
