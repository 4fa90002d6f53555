"""Weights by spatial frequency: noise that is not white, and what a reference is known to.

Where the noise has the amplitude σ(k), the likelihood of a pose is that of white noise once data
and model are divided by it.  Where the reference is itself an average of noisy particles, its
halves' correlation FSC(k) says how far it can be trusted: C = √(2 FSC / (1 + FSC)) is the expected
correlation of the average with the truth [1]_, and C² times the reference its best guess at it.
Data and model are multiplied by

    u(k) = C(k) / σ(k),

so that their product carries C² / σ²: the data divided by the noise's power, held against the best
guess.  As u depends on the length of k alone it turns with nothing: it is multiplied once into the
reference's spectrum.

The noise is measured where there is no particle: in the boxes outside of a sphere.

.. [1] Rosenthal & Henderson, J. Mol. Biol. 333, 721 (2003), doi:10.1016/j.jmb.2003.07.013.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from tomodask.alignment.checks import at_scale, box_fault
from tomodask.alignment.measurement import Measurement
from tomodask.arrays.sampling import Spectrum, half_sphere, soft_sphere, spectrum_at
from tomodask.arrays.threads import one_thread_each
from tomodask.errors import InputError

__all__ = [
    "ShellPower",
    "known_by_shell",
    "merge_power",
    "noise_frequencies",
    "noise_power",
    "shell_weights",
    "weighted",
]

#: Powers are summed in whole numbers of this part of a box's mean.
_UNIT = 2.0**-32
_LARGEST = 2.0**10  # times the mean; no shell of a box counts for more
#: A shell with less of the mean power than this was not measured: it is left out.
_LEAST = 1e-6
_FSC_END = 0.143


@dataclass(frozen=True)
class ShellPower:
    """Power of the noise by shell, summed over boxes; adding two is associative, to the last bit.

    Attributes
    ----------
    sums : array of int64, shape (shells,)
        In units of 2⁻³² of each box's mean power: whole numbers add up to the same in any order,
        so that batches and workers do not change a pose.
    boxes : int
    """

    sums: np.ndarray
    boxes: int

    def merge(self, other: ShellPower) -> ShellPower:
        """The sums over both sets of boxes."""
        return ShellPower(self.sums + other.sums, self.boxes + other.boxes)

    def amplitude(self) -> np.ndarray:
        """Of the noise in each shell, in units of its root mean square; 0 where none was seen."""
        power: np.ndarray = self.sums * (_UNIT / max(self.boxes, 1))
        return np.asarray(np.sqrt(np.where(power > _LEAST, power, 0.0)))


def noise_frequencies(measurement: Measurement, *, box: int, voxel_size: float) -> np.ndarray:
    """The measured frequencies that noise is looked at: float32, shape (count, 3)."""
    k = half_sphere(box // 2 - 1)
    return np.asarray(k[measurement.weights(k, box=box, voxel_size=voxel_size) != 0])


def noise_power(boxes: np.ndarray, *, frequencies: np.ndarray, radius: float) -> list[ShellPower]:
    """Power of the noise in a batch of boxes (the task ``noise``).

    Parameters
    ----------
    boxes : array, shape (count, n, n, n)
        Those that `box_fault` finds fault with are left out.
    frequencies : array, shape (count, 3)
        Of `noise_frequencies`.
    radius : float
        Of the sphere that holds the particle, voxels; what lies outside of it is looked at.
    """
    n = boxes.shape[-1]
    shell = np.rint(np.linalg.norm(frequencies, axis=1)).astype(np.intp)
    seen = np.maximum(np.bincount(shell, minlength=n // 2), 1)
    outside = 1 - soft_sphere(n, radius)
    total = ShellPower(np.zeros(n // 2, np.int64), 0)
    with one_thread_each():
        for box in np.asarray(boxes, np.float32):
            if box_fault(box):
                continue
            box = at_scale(box)
            level = np.float32((box * outside).sum(dtype=np.float64) / outside.sum(dtype=float))
            values = spectrum_at((box - level) * outside, frequencies)
            power = np.abs(values).astype(np.float64) ** 2
            mean = power.mean() or 1.0
            relative = np.bincount(shell, power, minlength=n // 2) / seen / mean
            whole = np.rint(np.minimum(relative, _LARGEST) / _UNIT).astype(np.int64)
            total = total.merge(ShellPower(whole, 1))
    return [total]


def merge_power(parts: Any) -> ShellPower:
    """The step of the tree."""
    total: ShellPower = reduce(ShellPower.merge, parts)
    return total


def known_by_shell(curve: pd.DataFrame, *, box: int, voxel_size: float) -> np.ndarray:
    """C = √(2 FSC / (1 + FSC)) by shell of a box; 0 from where the FSC falls below 0.143, or ends.

    Parameters
    ----------
    curve : DataFrame
        Of `tomodask.fsc`: ``frequency`` (1/Å) and ``correlation``; of a box of any size.
    box : int
        Edge, voxels.
    voxel_size : float
        Å.

    Returns
    -------
    array of float64, shape (box // 2 + 1,)

    Raises
    ------
    InputError
        If it is no such curve, or below 0.143 from the first shell on.
    """
    if not isinstance(curve, pd.DataFrame) or not {"frequency", "correlation"} <= set(curve):
        raise InputError(
            "fsc must be a table with the columns frequency and correlation, as tomodask.fsc gives "
            f"it, got {type(curve).__name__}"
        )
    frequency = curve["frequency"].to_numpy(float)
    correlation = curve["correlation"].to_numpy(float)
    at = np.arange(box // 2 + 1) / (box * voxel_size)
    value = np.interp(at, frequency, correlation)
    value[at > (1 + 1e-6) * frequency.max(initial=0)] = 0.0  # finer than the curve tells of
    value[0] = 1.0
    below = np.flatnonzero(~(value >= _FSC_END))
    if len(below) and below[0] <= 1:
        raise InputError(
            f"fsc is {value[1]:.2f} in the first shell: such a reference is known to nothing; "
            "leave fsc out, or take another reference"
        )
    value[below[0] if len(below) else len(value) :] = 0
    return np.asarray(np.sqrt(2 * value / (1 + value)))


def shell_weights(
    box: int, *, noise: ShellPower | None, known: np.ndarray | None
) -> np.ndarray | None:
    """The weights u by shell, shape (box // 2 + 1,); None where nothing is known: all are 1.

    Nor is the noise known where every box is set aside: there is nothing to weigh.

    Raises
    ------
    InputError
        If boxes hold no noise to be measured.
    """
    if noise is None and known is None:
        return None
    out = np.ones(box // 2 + 1)
    if noise is not None and noise.boxes:
        amplitude = noise.amplitude()
        if not amplitude.any():
            raise InputError("whiten found no box that holds noise; align without it")
        inverse = np.divide(1, amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
        # The mean of a box is no data, and beyond the last shell none is looked at.
        out[1 : len(inverse)], out[0], out[len(inverse) :] = inverse[1:], inverse[1], 0.0
    return out if known is None else out * known


def weighted(spectrum: Spectrum, shells: np.ndarray) -> Spectrum:
    """The spectrum times its shells' weights, linear between shells."""
    before = spectrum.values  # noqa: PD011
    m = before.shape[2] - 1
    axis = np.arange(-m, m + 1) ** 2
    radius = np.sqrt(axis[:, None, None] + axis[:, None] + axis[m:]) / spectrum.padding
    values = before * np.interp(radius, np.arange(len(shells)), shells)
    return replace(spectrum, values=values.astype(np.complex64))
