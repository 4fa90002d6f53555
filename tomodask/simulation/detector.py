"""How a detector blurs the signal and colours the noise.

The modulation transfer function (MTF) is what is left of a signal's amplitude, the noise transfer
function (NTF) the amplitude of the noise relative to that of the electrons' own shot noise; the
detective quantum efficiency is DQE = MTF² / NTF² [1]_.

.. [1] McMullan, Faruqi and Henderson, Methods Enzymol. 579, 1 (2016),
   doi:10.1016/bs.mie.2016.05.056.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tomodask.arrays.backend import Array, namespace
from tomodask.errors import InputError

__all__ = ["Detector", "counting_detector", "ideal_detector", "read_detector", "sinc_detector"]

#: The corner of a square of frequencies lies beyond Nyquist's: tables reach to it.
_FREQUENCY = np.linspace(0.0, 0.75, 769)


@dataclass(frozen=True)
class Detector:
    """A detector as tables, linear in between, level beyond their end.

    Attributes
    ----------
    frequency : tuple of float
        Cycles per physical pixel, rising from 0.
    mtf : tuple of float
        What is left of the signal's amplitude, 1 at frequency 0.
    ntf : tuple of float
        Amplitude of the noise relative to the electrons' shot noise.
    pixel_size : float, optional
        Å that a physical pixel covers on the specimen.  None: as much as a pixel of the images.
        Images that are binned (Fourier-cropped) n times have pixels n times as large.
    """

    frequency: tuple[float, ...]
    mtf: tuple[float, ...]
    ntf: tuple[float, ...]
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        frequency = np.asarray(self.frequency)
        if not len(frequency) == len(self.mtf) == len(self.ntf) >= 2:
            raise InputError(
                "a detector needs tables of one length, at least 2, got "
                f"{len(frequency)} frequencies, {len(self.mtf)} of mtf, {len(self.ntf)} of ntf"
            )
        if not (np.isfinite(frequency).all() and (np.diff(frequency) > 0).all()):
            raise InputError("frequency of a detector must rise from row to row")
        for name, values in (("mtf", np.asarray(self.mtf)), ("ntf", np.asarray(self.ntf))):
            if not (np.isfinite(values).all() and (values >= 0).all() and values[0] > 0):
                raise InputError(
                    f"{name} of a detector must be above 0 at frequency 0 and nowhere negative"
                )
        if self.pixel_size is not None and not (
            math.isfinite(self.pixel_size) and self.pixel_size > 0
        ):
            raise InputError(f"pixel_size of a detector must be above 0 Å, got {self.pixel_size}")

    @property
    def dqe(self) -> tuple[float, ...]:
        """Detective quantum efficiency at the frequencies of the table."""
        mtf, ntf = np.asarray(self.mtf), np.asarray(self.ntf)
        return tuple(np.divide(mtf, ntf, out=np.zeros_like(mtf), where=ntf > 0) ** 2)

    @property
    def white(self) -> bool:
        """True where all frequencies of the noise are alike."""
        return len(set(self.ntf)) == 1

    def signal(self, k: Array, pixel_size: float) -> Array:
        """`mtf` at frequencies `k` (1/Å) of images with pixels of `pixel_size` Å."""
        return self._at(k, pixel_size, self.mtf)

    def noise(self, k: Array, pixel_size: float) -> Array:
        """`ntf` at frequencies `k` (1/Å) of images with pixels of `pixel_size` Å."""
        return self._at(k, pixel_size, self.ntf)

    def _at(self, k: Array, pixel_size: float, values: tuple[float, ...]) -> Array:
        xp = namespace(k)
        physical = self._physical(pixel_size)
        return xp.interp(k * physical, xp.asarray(self.frequency), xp.asarray(values))

    def _physical(self, pixel_size: float) -> float:
        if self.pixel_size is None:
            return pixel_size
        if pixel_size < self.pixel_size * (1 - 1e-3):
            raise InputError(
                f"pixels of {pixel_size:g} Å are finer than the detector's of {self.pixel_size:g} "
                "Å; give it the pixel size at this magnification"
            )
        return self.pixel_size


def ideal_detector() -> Detector:
    """Every electron counts where it fell: MTF, NTF and DQE are 1.

    Examples
    --------
    >>> set(ideal_detector().dqe) == {1.0}
    True
    """
    return Detector((0.0, 0.5), (1.0, 1.0), (1.0, 1.0))


def sinc_detector(*, pixel_size: float | None = None, shaped_noise: bool = False) -> Detector:
    """A detector whose square pixels do all the blurring: MTF = sinc(π ω / 2).

    ω is the frequency as a share of Nyquist's; this is the model in the simulations of many papers
    on classification.  With white noise it is the ideal counting detector, too.

    Parameters
    ----------
    pixel_size : float, optional
        Å; see `Detector`.
    shaped_noise : bool
        True: the noise passes the same MTF, as where noise is added before the detector (DQE 1).
        False: the noise is white (DQE = MTF²).

    Examples
    --------
    >>> detector = sinc_detector()
    >>> float(detector.signal(np.array([0.5]), 1.0)[0].round(4))  # 2 / π at Nyquist
    0.6366
    """
    mtf = np.sinc(_FREQUENCY)  # sin(πω/2) / (πω/2) with ω = 2 × cycles per pixel
    ntf = mtf if shaped_noise else np.ones_like(mtf)
    return Detector(tuple(_FREQUENCY), tuple(mtf), tuple(ntf), pixel_size)


def counting_detector(
    *,
    dqe_zero: float,
    dqe_nyquist: float,
    mtf_nyquist: float,
    pixel_size: float | None = None,
) -> Detector:
    """A direct electron detector by its three figures: MTF and DQE fall as Gaussians.

    ``MTF = mtf_nyquist ** ω²`` and ``DQE = dqe_zero · (dqe_nyquist / dqe_zero) ** ω²``, ω being the
    frequency as a share of Nyquist's.  The figures depend on the detector, voltage and dose rate;
    its maker publishes them.

    Parameters
    ----------
    dqe_zero, dqe_nyquist, mtf_nyquist : float
        Above 0, at most 1; `dqe_nyquist` at most `dqe_zero`.
    pixel_size : float, optional
        Å; see `Detector`.
    """
    given = {"dqe_zero": dqe_zero, "dqe_nyquist": dqe_nyquist, "mtf_nyquist": mtf_nyquist}
    for name, value in given.items():
        if not 0 < value <= 1:
            raise InputError(f"{name} must be above 0 and at most 1, got {value}")
    if dqe_nyquist > dqe_zero:
        raise InputError(f"dqe_nyquist must be at most dqe_zero, {dqe_zero:g}, got {dqe_nyquist:g}")
    share = (2 * _FREQUENCY) ** 2
    mtf = mtf_nyquist**share
    dqe = dqe_zero * (dqe_nyquist / dqe_zero) ** share
    ntf = mtf / np.sqrt(dqe)
    return Detector(tuple(_FREQUENCY), tuple(mtf), tuple(ntf), pixel_size)


def read_detector(path: str | Path, *, pixel_size: float | None = None) -> Detector:
    """Read the MTF of a detector from a STAR file of RELION; its noise is taken as white.

    Parameters
    ----------
    path : path
        Columns ``rlnResolutionInversePixel`` (cycles per physical pixel) and ``rlnMtfValue``.
    pixel_size : float, optional
        Å; see `Detector`.

    Raises
    ------
    InputError
        If the file cannot be read or lacks the columns.
    """
    from tomodask.data.star import read_blocks

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the STAR file with the detector's MTF")
    columns = ["rlnResolutionInversePixel", "rlnMtfValue"]
    for block in read_blocks(path).values():
        if isinstance(block, pd.DataFrame) and set(columns) <= set(block):
            try:
                table = block[columns].astype(float).sort_values(columns[0])
            except (TypeError, ValueError):
                raise InputError(f"{path}: {' and '.join(columns)} must be numbers") from None
            frequency, mtf = table.to_numpy().T
            try:
                white = Detector(tuple(frequency), tuple(mtf), (1.0,) * len(mtf))
                return replace(white, pixel_size=pixel_size)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
    raise InputError(f"{path} has no columns {' and '.join(columns)}: not an MTF of RELION")
