"""Small sets of boxes with known poses, for the tests of alignment and averaging."""

import dask.array as da
import xarray as xr

from tomodask.simulation.phantom import phantom_map, phantom_subtomograms

VOXEL = 10.0


def boxes(count, *, box=32, snr=0.3, tilt_range=(-60.0, 60.0), shift_range=20.0, seed=0, chunks=1):
    """Dataset of `count` boxes without poses, its truth table and the reference."""
    volumes, truth = phantom_subtomograms(
        count,
        box=box,
        voxel_size=VOXEL,
        snr=snr,
        tilt_range=tilt_range,
        shift_range=shift_range,
        seed=seed,
    )
    dataset = dataset_of(volumes, truth, chunks=chunks)
    return dataset, truth, phantom_map(voxel_size=VOXEL, box=box)


def dataset_of(volumes, truth, *, chunks=1):
    size = volumes.shape[1:]
    return xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), da.from_array(volumes, (chunks, *size)))},
        coords={
            "particle": range(len(volumes)),
            "image": ("particle", [f"{i}@boxes" for i in range(len(volumes))]),
            "tilt_min": ("particle", truth["tilt_min"].to_numpy()),
            "tilt_max": ("particle", truth["tilt_max"].to_numpy()),
        },
        attrs={"voxel_size": VOXEL},
    )
