"""Small sets of two kinds of particles, for the tests of classes and refinement."""

import dask.array as da
import numpy as np
import scipy.fft
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import wedge
from tomodask.data.particles import with_orientations
from tomodask.simulation.phantom import phantom_particle

VOXEL = 10.0


def mixture(count, *, box=32, snr=0.1, kinds=("particle", "decoy"), shift_range=20.0, seed=0):
    """Boxes of `count` of each kind, shuffled; the kinds, and the true poses."""
    seen = wedge((box,) * 3, (-60.0, 60.0))
    volumes, names, turns, shifts = [], [], [], []
    for k, kind in enumerate(kinds):
        phantom = phantom_particle(kind)
        for i in range(count):
            rng = np.random.default_rng([seed, k, i])
            turn, shift = Rotation.random(rng=rng), rng.uniform(-shift_range, shift_range, 3)
            clean = phantom.density(box=box, voxel_size=VOXEL, rotation=turn, shift_zyx=shift)
            noise = rng.standard_normal(clean.shape, dtype=np.float32)
            noisy = clean - clean.mean() + noise * (clean.std() / np.sqrt(snr))
            volumes.append(scipy.fft.irfftn(scipy.fft.rfftn(noisy) * seen, s=clean.shape))
            names.append(kind)
            turns.append(turn)
            shifts.append(shift)
    order = np.random.default_rng([seed, 9]).permutation(len(names))
    volumes = np.asarray(volumes, np.float32)[order]
    table = {"shift_z": 0, "shift_y": 1, "shift_x": 2}
    dataset = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), da.from_array(volumes, (8, *[box] * 3)))},
        coords={
            "particle": np.arange(len(names)),
            "image": ("particle", [f"{i}@boxes" for i in range(len(names))]),
            "tilt_min": ("particle", np.full(len(names), -60.0)),
            "tilt_max": ("particle", np.full(len(names), 60.0)),
        },
        attrs={"voxel_size": VOXEL},
    )
    frame = dataset["particle"].to_dataframe()[[]]
    for name, axis in table.items():
        frame[name] = np.asarray(shifts)[order, axis]
    truth = with_orientations(frame, Rotation.concatenate(turns)[order])
    return dataset, np.asarray(names)[order], truth
