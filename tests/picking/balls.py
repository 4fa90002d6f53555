"""Dark balls of two sizes in noise, and the table that marks them."""

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

SIZE = 10.0  # Å


def marked_balls(name="tomo", shape=(32, 64, 64), count=14, seed=0, chunks=17):
    """A lazy tomogram and its table; the kinds are `small` and `large`, in turn."""
    rng = np.random.default_rng(seed)
    centers = np.stack([rng.uniform(6, n - 6, count) for n in shape], 1)
    grid = np.indices(shape)
    values = rng.normal(size=shape)
    for number, center in enumerate(centers):
        distance = np.sqrt(((grid - center[:, None, None, None]) ** 2).sum(0))
        values -= 4 * (distance < (3 if number % 2 else 5))
    volume = xr.DataArray(
        da.from_array(values.astype(np.float32), chunks=chunks),
        dims=("z", "y", "x"),
        name=name,
        attrs={"voxel_size": SIZE},
    )
    table = pd.DataFrame(centers * SIZE, columns=["z", "y", "x"])
    table.insert(0, "tomogram", name)
    table["kind"] = ["small" if n % 2 else "large" for n in range(count)]
    return volume, table
