"""Sums over turned subtomograms, exact: no order, batch or tree changes their last bit.

Floating point sums depend on their order.  Here each addend is rounded to a whole multiple of a
unit that depends on nothing but the particle's own size and the number of addends of the whole job,
and whole numbers are added (64 bit, whose sums are exact and associative).  Particles of very
unequal size, of tomograms of unequal scale, have units of their own, a power of 16 apart, and sums
of their own, which come together at the very end.  With 10⁶ particles an addend keeps at least 38
bits below the largest that its unit allows, with 10³ at least 48: more than the single precision of
the boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tomodask.alignment.checks import FAULTS, box_fault
from tomodask.arrays.fourier import measured
from tomodask.arrays.sampling import cut_out, half_sphere, padded_spectrum, soft_sphere
from tomodask.arrays.turned_samples import sample_words
from tomodask.averaging.adding import add_turned

__all__ = [
    "AMOUNT_UNIT",
    "Bin",
    "Entries",
    "HalfSums",
    "Totals",
    "average",
    "bits_for",
    "wedge_plane",
]

#: Amounts of soft assignments are whole multiples of this.
AMOUNT_UNIT = 2.0**-20


@dataclass(frozen=True)
class Entries:
    """Rows of poses to be added, of the boxes of one batch.

    Attributes
    ----------
    box : array of intp, shape (rows,)
        Which box of the batch; ascending.
    matrices : array, shape (rows, 3, 3)
        Reference → particle, acting on (z, y, x) columns.
    shifts_zyx : array, shape (rows, 3)
        Of the particles from the boxes' centres, voxels.
    slot : array of intp, shape (rows,)
        Which sum it goes to: 2 · class + half.
    amount : array of float64, shape (rows,)
        0 to 1, how much of the particle is of that class.
    kind : array of intp, shape (rows,)
        Which of the lookups is the particle's.
    identities : array of int64, names : array of str, shape (rows,)
        What a box that cannot be averaged is called by.
    """

    box: np.ndarray
    matrices: np.ndarray
    shifts_zyx: np.ndarray
    slot: np.ndarray
    amount: np.ndarray
    kind: np.ndarray
    identities: np.ndarray
    names: np.ndarray


@dataclass(frozen=True)
class Bin:
    """Sums of addends of one unit, whole numbers.

    Attributes
    ----------
    data : array of int64, shape (slots, count, 2)
        Σ amount · w · F, real and imaginary part.
    weight : array of int64, shape (slots, count)
        Σ amount · w².
    radial : array of int64, shape (slots, 2, shells)
        Σ amount · |F|² and Σ (amount · w)² over the frequencies of a shell with weight.
    """

    data: np.ndarray
    weight: np.ndarray
    radial: np.ndarray

    def merge(self, other: Bin) -> Bin:
        """The sums over both sets of addends."""
        return Bin(self.data + other.data, self.weight + other.weight, self.radial + other.radial)


@dataclass(frozen=True)
class Totals:
    """`HalfSums` as floating point numbers.

    Attributes
    ----------
    data : array of complex128, shape (slots, count)
    weight : array of float64, shape (slots, count)
    power, spread, count : array of float64, shape (slots, shells)
        Sums over the frequencies of a shell: of amount · |F|², of (amount · w)², of amount.
    """

    data: np.ndarray
    weight: np.ndarray
    power: np.ndarray
    spread: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class HalfSums:
    """Sums over particles; a slot is a half of a class.  Adding two is associative, exactly.

    Attributes
    ----------
    bits : int
        Of an addend; the rest of 62 is for their number.
    bins : dict
        By the binary exponents of the largest data and the largest weight of a particle.
    count : array of int64, shape (slots, shells)
        Frequencies that were added up, in `AMOUNT_UNIT`.
    particles : array of int64, shape (slots,)
    amount : array of int64, shape (slots,)
        Sum of the particles' amounts, in `AMOUNT_UNIT`.
    set_aside : tuple of (int, str, str)
        Particle, image and reason of each box that could not be added.
    """

    bits: int
    bins: dict[tuple[int, int], Bin]
    count: np.ndarray
    particles: np.ndarray
    amount: np.ndarray
    set_aside: tuple[tuple[int, str, str], ...] = field(default=())

    def merge(self, other: HalfSums) -> HalfSums:
        """The sums over both sets of particles."""
        if self.bits != other.bits:
            raise ValueError(f"sums of {self.bits} and {other.bits} bits do not add up")
        bins = dict(self.bins)
        for key, one in other.bins.items():
            bins[key] = bins[key].merge(one) if key in bins else one
        return HalfSums(
            self.bits,
            bins,
            self.count + other.count,
            self.particles + other.particles,
            self.amount + other.amount,
            tuple(sorted(self.set_aside + other.set_aside)),
        )

    def totals(self) -> Totals:
        """All units together; zeros where nothing was added."""
        slots, shells = self.count.shape
        spare = _spare(shells)
        total: Totals | None = None
        for e_data, e_weight in sorted(self.bins):
            one = self.bins[e_data, e_weight]
            parts = np.ldexp(one.data.astype(np.float64), e_data - self.bits)
            part = Totals(
                parts[..., 0] + 1j * parts[..., 1],
                np.ldexp(one.weight.astype(np.float64), e_weight - self.bits),
                np.ldexp(one.radial[:, 0].astype(np.float64), 2 * e_data + spare - self.bits),
                np.ldexp(one.radial[:, 1].astype(np.float64), e_weight + spare - self.bits),
                self.count * AMOUNT_UNIT,
            )
            total = part if total is None else Totals(
                total.data + part.data,
                total.weight + part.weight,
                total.power + part.power,
                total.spread + part.spread,
                part.count,
            )  # fmt: skip
        if total is None:
            raise ValueError(f"nothing was added to {slots} sums")
        return total


def average(
    boxes: np.ndarray,
    entries: Entries,
    lookups: Sequence[np.ndarray],
    cosets: np.ndarray,
    *,
    slots: int,
    bits: int,
) -> list[HalfSums]:
    """Sums over a batch of boxes (the task ``average``); each box is looked at once.

    Parameters
    ----------
    boxes : array, shape (count, n, n, n)
    entries : Entries
    lookups : list of array
        What was measured: `wedge_plane`, or `Measurement.volume`.
    cosets : array, shape (cosets, 3, 3)
        Turns of the reference at which each particle is added, on (z, y, x) columns; see
        `tomodask.averaging.symmetrising`.
    slots : int
        Twice the number of classes.
    bits : int
        As of `HalfSums`.
    """
    n = boxes.shape[-1]
    frequencies = half_sphere(n / 2 - 0.5)
    shells = np.rint(np.linalg.norm(frequencies, axis=1)).astype(np.intp)
    size = n // 2 + 1
    # What lies outside the inscribed sphere would come back at the opposite face when turned.
    sphere = soft_sphere(n, n / 2 - 2, edge=2.0)
    largest = [float(np.abs(one).max()) for one in lookups]
    bins: dict[tuple[int, int], Bin] = {}
    count = np.zeros((slots, size), np.int64)
    particles, amount = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
    set_aside = []
    starts = np.flatnonzero(np.diff(entries.box, prepend=-1))
    for rows in np.split(np.arange(len(entries.box)), starts[1:]):
        if not len(rows):
            continue
        box = np.asarray(boxes[entries.box[rows[0]]], np.float32)
        reason = _reason(box)
        if reason:
            first = rows[0]
            set_aside.append((int(entries.identities[first]), str(entries.names[first]), reason))
            continue
        spectrum = padded_spectrum(cut_out(box, sphere), radius=n / 2 - 0.5)
        top = max(float(spectrum.values.view(np.float32).max()),
                  -float(spectrum.values.view(np.float32).min()))  # fmt: skip
        if top == 0:
            first = rows[0]
            reason = "its box holds one value only within its sphere"
            set_aside.append((int(entries.identities[first]), str(entries.names[first]), reason))
            continue
        words = sample_words(spectrum)
        for i in rows:
            lookup, most = lookups[entries.kind[i]], max(largest[entries.kind[i]], 1.0)
            key = _exponent(math.sqrt(2) * top * most), _exponent(most**2)
            if key not in bins:
                bins[key] = Bin(
                    np.zeros((slots, len(frequencies), 2), np.int64),
                    np.zeros((slots, len(frequencies)), np.int64),
                    np.zeros((slots, 2, size), np.int64),
                )
            whole = round(entries.amount[i] / AMOUNT_UNIT)
            slot, share = entries.slot[i], whole * AMOUNT_UNIT
            one = bins[key]
            spare = _spare(size)
            for matrix in entries.matrices[i] @ cosets:
                radial = np.zeros((3, size))
                back = matrix[::-1, ::-1].T  # particle → reference, xyz
                add_turned(
                    *words,
                    frequencies,
                    shells,
                    back.astype(np.float32),
                    -(back @ entries.shifts_zyx[i][::-1]).astype(np.float32),
                    n,
                    lookup,
                    share * 2.0 ** (bits - key[0]),
                    share * 2.0 ** (bits - key[1]),
                    one.data[slot],
                    one.weight[slot],
                    radial,
                )
                units = 2 * key[0] + spare - bits, key[1] + spare - bits
                one.radial[slot, 0] += _whole(share * radial[0], units[0])
                one.radial[slot, 1] += _whole(share**2 * radial[1], units[1])
                count[slot] += whole * radial[2].astype(np.int64)
            particles[slot] += whole > 0
            amount[slot] += whole
    return [HalfSums(bits, bins, count, particles, amount, tuple(sorted(set_aside)))]


def bits_for(addends: int) -> int:
    """Bits that an addend may have, so that sums of as many fit 62."""
    return 62 - math.ceil(math.log2(max(addends, 2)))


def _reason(box: np.ndarray) -> str:
    """Why a box cannot be averaged; empty where it can."""
    return FAULTS[box_fault(box)].replace("the box", "its box", 1)


def _exponent(value: float) -> int:
    """The multiple of 4 whose power of two is the next above `value`."""
    return 4 * math.ceil(math.log2(value) / 4)


def _spare(shells: int) -> int:
    """Bits for the number of frequencies that a shell adds up."""
    return math.ceil(math.log2(4 * math.pi * shells**2))


def _whole(values: np.ndarray, unit: int) -> np.ndarray:
    return np.asarray(np.rint(np.ldexp(values, -unit)), np.int64)


def wedge_plane(n: int, tilt_range: tuple[float, float]) -> np.ndarray:
    """1 where a box's Fourier voxels (z, x) were measured; z from -m to m, x from 0, with a rim."""
    m = n // 2 + 2
    z, x = np.arange(-m, m + 1)[:, None], np.arange(m + 1)
    return np.asarray(measured(z, x, tilt_range), np.float32)
