"""Boxes of phantoms with and without symmetry, and their poses."""

import numpy as np
from alignment.scenes import VOXEL, boxes, dataset_of
from scipy.spatial.transform import Rotation

from tomodask.arrays.symmetry import symmetry_group
from tomodask.data.particles import orientations, with_orientations
from tomodask.simulation.phantom import phantom_particle

SHIFT = ["shift_z", "shift_y", "shift_x"]
FAST = {"angular_step": 30.0, "shift_range": 20.0}
N = 32


def symmetric_boxes(name, count, *, snr=0.3, seed=0):
    """Boxes of the phantom, symmetrised exactly, their truth and the reference."""
    phantom, group = phantom_particle(), symmetry_group(name)

    def density(pose=None, shift=(0.0, 0.0, 0.0)):
        pose = Rotation.identity() if pose is None else pose
        total = np.zeros((N,) * 3)
        for turn in group:
            total += phantom.density(
                box=N, voxel_size=VOXEL, rotation=pose * turn, shift_zyx=np.asarray(shift)
            )
        return (total / len(group)).astype(np.float32)

    _, truth, reference = boxes(count, seed=seed)
    rng = np.random.default_rng(seed)
    volumes = np.empty((count, N, N, N), np.float32)
    for i, turn in enumerate(orientations(truth)):
        clean = density(turn, truth.loc[i, SHIFT].to_numpy(float))
        volumes[i] = clean + rng.normal(size=clean.shape) * np.sqrt(clean.var() / snr)
    truth = truth.assign(tilt_min=-90.0, tilt_max=90.0)
    return dataset_of(volumes, truth), truth, reference.copy(data=density())


def moved(truth, degrees, angstrom, seed=0):
    """Poses that are so far off the truth."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(len(truth), 3))
    axes *= np.deg2rad(degrees) / np.linalg.norm(axes, axis=1, keepdims=True)
    out = with_orientations(truth, Rotation.from_rotvec(axes) * orientations(truth))
    out[SHIFT] += rng.choice([-1, 1], (len(truth), 3)) * angstrom
    return out


def quaternion(table):
    return [c for c in table if c.startswith("quat_")]
