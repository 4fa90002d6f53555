"""Volumes of whatever format: what cannot be opened, and units."""

import dask
import numpy as np
import pytest
from data.volume_files import write_raw

from tomodask.data.tomograms import open_tomogram
from tomodask.data.units import angstroms
from tomodask.errors import InputError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.mrc", "no such file"),
        ("a.png", "a tomogram is one of"),
        ("plain.zarr", "no Zarr store"),
    ],
)
def test_no_tomogram_there(tmp_path, name, message):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "plain.zarr").mkdir()
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        open_tomogram(tmp_path / name)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_voxel_size_must_be_positive(tmp_path, value):
    path = write_raw(tmp_path / "a.mrc", np.zeros((2, 3, 5), "f4"))
    with pytest.raises(InputError, match="voxel_size must be above 0 Å"):
        open_tomogram(path, voxel_size=value)


def test_a_file_that_went_away_is_told(tmp_path):
    path = write_raw(tmp_path / "a.mrc", np.zeros((2, 3, 5), "f4"))
    volume = open_tomogram(path)
    path.unlink()
    with (
        pytest.raises(InputError, match=r"a\.mrc: no such file"),
        dask.config.set(scheduler="sync"),
    ):
        volume.compute()


def test_units():
    assert [angstroms(u) for u in ("nanometer", "Å", "µm", "\\u00B5m", "inch", "micron")] == [
        10.0, 1.0, 1e4, 1e4, 2.54e8, 1e4,
    ]  # fmt: skip
    assert angstroms("pixel") is None
