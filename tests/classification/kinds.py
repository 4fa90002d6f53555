"""Boxes of two kinds that a network tells apart in a few steps: a blob in noise, and noise."""

import dask.array as da
import numpy as np
import pandas as pd

from tomodask.data.subtomogram_table import subtomogram_dataset

EDGE = 24
KINDS = ("blob", "no particle")


def two_kinds(count=24, *, chunks=7, seed=0, height=2.0):
    """Boxes, every other one a blob, and the table of their labels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((EDGE,) * 3) - EDGE // 2
    blob = height * (z**2 + y**2 + x**2 < 36)
    values = rng.normal(size=(count, EDGE, EDGE, EDGE)).astype(np.float32)
    values[::2] += blob
    labels = pd.DataFrame({"particle": np.arange(count), "kind": np.resize(KINDS, count)})
    return boxes_of(values, chunks=chunks), labels


def boxes_of(values, *, chunks=7, **columns):
    table = pd.DataFrame({"tomogram": "TS_01", **columns}, index=pd.RangeIndex(len(values)))
    boxes = da.from_array(values, chunks=(chunks, -1, -1, -1))
    return subtomogram_dataset(boxes, table, voxel_size=10.0, attrs={})
