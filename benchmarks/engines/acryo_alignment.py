"""acryo (https://pypi.org/project/acryo) as two engines of `alignment_peers.py`.

Boxes go through its `ExtractedSubvolumeLoader`, which turns each to the pose known so far and
aligns it to the templates of a model; the model of a round, its templates turned, is made once.
"""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
from acryo.alignment import PCCAlignment, ZNCCAlignment
from acryo.loader import ExtractedSubvolumeLoader
from acryo.molecules import Molecules
from acryo.tilt import single_axis
from scipy.spatial.transform import Rotation

# Largest angle and step about each axis, degrees: (2·30/10 + 1)³ + 2·5³ = 593 rotations.
NEAR_ROUNDS = ((30.0, 10.0), (5.0, 2.5), (1.25, 0.625))
# From 30° apart, all of them, to 0.625°: 551 + 4·125 = 1,051 rotations.
GLOBAL_ROUNDS = (None, (15.0, 7.5), (5.0, 2.5), (1.25, 0.625))


def _spread(step):
    """Rotations about `step` degrees apart: a super-Fibonacci spiral (Alexa 2022)."""
    count = round(8 * np.pi**2 / np.deg2rad(step) ** 3)
    s = np.arange(count) + 0.5
    r, rest = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    return Rotation.from_quat(
        np.stack([r * np.sin(a), r * np.cos(a), rest * np.sin(b), rest * np.cos(b)], axis=1)
    )


def _sphere(n, *, edge=3.0):
    """A soft sphere that touches the box."""
    axis = np.arange(n) - n / 2 + 0.5
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return np.clip((n / 2 - 1 - r) / edge, 0, 1).astype(np.float32)


def _engine(kind, rounds, *, is_global):
    def prepare(reference, tilt_range, shift_range):
        dask.config.set(scheduler="synchronous")
        n = reference.shape[0]
        mask, tilt = _sphere(n), single_axis(tilt_range, "y")
        models = [
            kind(reference, mask, rotations=_spread(30.0) if one is None else one, tilt=tilt)
            for one in rounds
        ]
        for model in models:
            model._get_template_and_mask_input()  # turned now and kept: set-up, not a particle's
        # Later rounds start from the shift found: a voxel and a half is far enough.
        reaches = [shift_range + 0.5] + [1.5] * (len(rounds) - 1)

        def align(boxes, near):
            # Its axes are (z, y, x) and its centre lies at (n - 1) / 2, half a voxel before ours.
            turn = Rotation.identity(len(boxes)) if is_global else _swapped(near)
            half = np.full(3, 0.5 if n % 2 == 0 else 0.0)
            index = {"subvolume_index": np.arange(len(boxes))}
            loader = ExtractedSubvolumeLoader(
                da.from_array(boxes, chunks=(1, n, n, n)),
                Molecules(half - turn.apply(half), turn, features=index),
                tilt_model=tilt,
                extracted_molecules=Molecules(
                    np.zeros((len(boxes), 3)), Rotation.identity(len(boxes)), features=index
                ),
            )
            for model, reach in zip(models, reaches):  # noqa: B905 - an older Python may run this
                loader = loader.align(
                    reference,
                    mask=mask,
                    max_shifts=reach,
                    alignment_model=lambda *_, model=model, **__: model,
                )
            found = loader.molecules
            shifts = found.pos + found.rotator.apply(half) - half
            return _swapped(found.rotator), shifts

        return align

    return prepare


def _swapped(rotation):
    """The same turn in (x, y, z) where it was in (z, y, x), and back."""
    return Rotation.from_matrix(rotation.as_matrix()[:, ::-1, ::-1])


ENGINES = {
    "acryo ZNCC, within 30°": _engine(ZNCCAlignment, NEAR_ROUNDS, is_global=False),
    "acryo PCC, global": _engine(PCCAlignment, GLOBAL_ROUNDS, is_global=True),
}
