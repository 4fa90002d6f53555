"""Tables written in each format, by hand too, and compared."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from tomodask.arrays.geometry import angular_distance
from tomodask.data.particles import (
    orientations,
    read_particles,
    write_particles,
)

FORMATS = ["relion3.1", "relion4", "relion5", "tbl", "csv"]
SHAPE = (200, 400, 300)
SHARED = Path(os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[3] / "shared" / "data")


def written(table, folder, form, **kwargs):
    """Write in a format and read back; `kwargs` to both."""
    path = folder / f"table.{form if form in ('tbl', 'csv') else 'star'}"
    kwargs = {"voxel_size": 7.5} | kwargs
    if form == "relion5":
        kwargs["tomogram_shape"] = SHAPE
    style = {} if form in ("tbl", "csv") else {"style": form}
    write_particles(table, path, **kwargs, **style)
    return read_particles(path, **kwargs)


def assert_same(found, expected, *, angle=1e-4, length=1e-4):
    """Equal tables: orientations as rotations, numbers as precise as they are printed."""
    quaternions = [name for name in expected if name.startswith("quat_")]
    assert set(expected) <= set(found)
    assert len(found) == len(expected)
    if quaternions and len(expected):
        apart = angular_distance(orientations(found), orientations(expected))
        assert np.max(apart) <= angle
    for name in expected:
        if name in quaternions:
            continue
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=length)
        else:
            assert found[name].tolist() == expected[name].tolist(), name


# The conventions, by hand


def star(path, particles, optics=None, **kwargs):
    blocks = {"optics": pd.DataFrame(optics)} if optics else {}
    starfile.write({**blocks, "particles": pd.DataFrame(particles)}, path, overwrite=True, **kwargs)
    return path
