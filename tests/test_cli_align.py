"""``tomodask align`` with symmetry, references, local searches and masks."""

import numpy as np
import pandas as pd
import pytest
from alignment.scenes import VOXEL, boxes, dataset_of
from helpers import tomodask

from tomodask.arrays.geometry import angular_distance
from tomodask.data.particles import orientations, read_particles
from tomodask.data.subtomogram_store import save_subtomograms
from tomodask.data.tomograms import save_tomogram

HERE = ("--scheduler", "synchronous")
FAST = ("--angular-step", 30, "--shift-range", 20)
N = 32


def works(*words):
    code, out, err = tomodask(*words, *HERE)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A store of six boxes, the fifth of which holds NaN; the reference and its mirror image."""
    folder = tmp_path_factory.mktemp("align")
    dataset, truth, reference = boxes(6, snr=0.5)
    volumes = dataset["subtomogram"].to_numpy().copy()
    volumes[4] = np.nan
    save_subtomograms(dataset_of(volumes, truth), folder / "boxes.zarr")
    save_tomogram(reference, folder / "reference.mrc")
    other = reference.to_numpy().copy()
    other[:, :, 1:] = other[:, :, :0:-1]
    save_tomogram(reference.copy(data=other), folder / "mirror.mrc")
    axis = np.arange(N) - N // 2
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mask = np.clip((14.0 - r) / 3.0, 0, 1).astype(np.float32)
    save_tomogram(reference.copy(data=mask), folder / "mask.mrc")
    return folder, truth


def test_a_box_that_holds_nothing_is_told_of(scene, tmp_path):
    folder, truth = scene
    out = works(
        *("align", folder / "boxes.zarr", "--reference", folder / "reference.mrc", *FAST),
        *("-o", tmp_path / "poses.star"),
    )
    assert "poses.star: poses of 5 particles, median score 0." in out
    assert "set aside without a pose: 1: the box holds NaN or infinite voxels" in out
    table = read_particles(tmp_path / "poses.star")
    assert table["reason"].str.strip().ne("").tolist() == [False] * 4 + [True, False]
    assert table.loc[4, ["quat_x", "shift_x", "score"]].isna().all()
    good = table.drop(index=4)
    assert angular_distance(orientations(good), orientations(truth.drop(index=4))).max() < 4
    # and a local search from that table sets it aside again
    out = works(
        *("align", folder / "boxes.zarr", "--reference", folder / "reference.mrc"),
        *("--poses", tmp_path / "poses.star", "--local", 0, "--coarsest", 200),
        *("--mask", folder / "mask.mrc", "-o", tmp_path / "finer.star"),
    )
    assert "poses of 5 particles" in out
    finer = read_particles(tmp_path / "finer.star").drop(index=4)
    assert angular_distance(orientations(finer), orientations(good)).max() < 1.0


def test_several_references_are_classes(scene, tmp_path):
    folder, _ = scene
    out = works(
        *("align", folder / "boxes.zarr", "--reference", folder / "reference.mrc"),
        *("--reference", folder / "mirror.mrc", "--whiten", "--diameter", 260, *FAST),
        *("-o", tmp_path / "classes.star"),
    )
    assert f"classes: 5 {folder / 'reference.mrc'}, 0 {folder / 'mirror.mrc'}" in out
    table = read_particles(tmp_path / "classes.star")
    assert table["class"].tolist() == [1, 1, 1, 1, 0, 1]
    good = table.drop(index=4)
    assert (good["score_1"] > good["score_2"]).all()


def test_all_poses_and_what_the_reference_is_known_to(scene, tmp_path):
    folder, truth = scene
    frequency = np.arange(N // 2 + 1) / (N * VOXEL)
    curve = pd.DataFrame({"frequency": frequency, "correlation": np.linspace(1, 0, N // 2 + 1)})
    curve.to_csv(tmp_path / "fsc.csv", index=False)
    align = ("align", folder / "boxes.zarr", "--reference", folder / "reference.mrc", *FAST)
    out = works(
        *align, "--reference", folder / "mirror.mrc", "--fsc", tmp_path / "fsc.csv",
        *("--keep", "all", "-o", tmp_path / "all.star"),
    )  # fmt: skip
    assert "poses of 5 particles on each of 2 references" in out
    assert "classes" not in out
    assert "set aside without a pose: 1: the box holds NaN" in out
    table = read_particles(tmp_path / "all.star")
    assert table["class"].tolist() == [1, 2] * 4 + [0, 0] + [1, 2]
    first = table[table["class"] == 1].reset_index(drop=True)
    good = truth.drop(index=4).reset_index(drop=True)
    assert angular_distance(orientations(first), orientations(good)).max() < 5
    # the curve weighs: without it, scores are others
    works(*align, "-o", tmp_path / "plain.star")
    plain = read_particles(tmp_path / "plain.star").drop(index=4)["score"].to_numpy()
    assert (np.abs(plain - first["score"]) > 1e-3).all()
    pd.DataFrame({"resolution": [1.0]}).to_csv(tmp_path / "other.csv", index=False)
    (tmp_path / "bytes.csv").write_bytes(bytes(range(256)))
    for name, message in (
        ("other.csv", "has the columns resolution; a Fourier shell correlation has frequency"),
        ("bytes.csv", "is no table of a Fourier shell correlation"),
        ("missing.csv", "missing.csv: no such file"),
    ):
        code, _, err = tomodask(*align, "--fsc", tmp_path / name, "-o", tmp_path / "no.star", *HERE)
        assert (code, message in err) == (2, True), err
    assert not list(tmp_path.glob("no.star*"))


@pytest.mark.parametrize("method", ["mbgd", "lm"])
def test_methods_and_symmetry(scene, tmp_path, method):
    folder, _ = scene
    works(
        *("align", folder / "boxes.zarr", "--reference", folder / "reference.mrc", *FAST),
        *("--method", method, "--symmetry", "c2", "-o", tmp_path / "poses.star"),
    )
    found = orientations(read_particles(tmp_path / "poses.star").drop(index=4))
    assert len(found) == 5


def test_what_is_refused(scene, tmp_path):
    folder, _ = scene
    align = ("align", folder / "boxes.zarr", "--reference", folder / "reference.mrc")
    to = ("-o", tmp_path / "poses.star")
    for words, message in (
        (("--local", 5), "poses lack orientations"),
        (("--symmetry", "H3"), "symmetry must be C1"),
        (("--method", "newton"), "'newton' is not one of 'fourier', 'mbgd', 'lm'"),
        (("--mask", folder / "boxes.zarr" / "no.mrc"), "no such file"),
        (("--mask", folder / "mask.mrc", "--diameter", 200), "mask or diameter, one of them"),
        (("--coarsest", 10), "coarsest must be above the finest detail, 20 Å"),
        (("--resolution", 5 * VOXEL, "--coarsest", 40), "finest detail, 50 Å, got 40"),
    ):
        code, _, err = tomodask(*align, *words, *to, *HERE)
        assert (code, message in err) == (2, True), err
    assert not list(tmp_path.iterdir())
