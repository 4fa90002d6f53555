"""What is undone in an aligned image: the phases that its lens turned over, damage, or both."""

from __future__ import annotations

from dataclasses import dataclass
from math import tan
from typing import Any

import numpy as np
import xarray as xr

from tomodask.arrays.optics import (
    ctf,
    defocus_step,
    delocalisation,
    dose_attenuation,
    filter_across,
)
from tomodask.data.tilt_series_array import (
    transforms,
)
from tomodask.errors import InputError

__all__ = ["Lens", "lenses_of"]


_SMEAR = 24  # pixels that a filter for damage alone reaches


@dataclass(frozen=True)
class Lens:
    """What is undone in one aligned image: phases, damage or both.

    Attributes
    ----------
    pixel_size : float
        Å, of the aligned image.
    slope : float
        Å of defocus per Å along x: ``−handedness · tan θ``.
    flip : bool
        Turn over what the lens turned over.
    exposures : (float, float) or None
        Before and during the image, e/Å²: weight with what damage left.
    """

    pixel_size: float
    slope: float
    flip: bool
    voltage: float
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift: float = 0.0
    defocus_u: float = 0.0
    defocus_v: float = 0.0
    defocus_angle: float = 0.0
    exposures: tuple[float, float] | None = None

    def respond(self, ky: Any, kx: Any, change: float) -> Any:
        """Response at frequencies (1/Å) where the defocus differs by `change` (Å)."""
        out = np.ones(np.broadcast_shapes(ky.shape, kx.shape))
        if self.flip:
            lens = ctf(
                ky,
                kx,
                voltage=self.voltage,
                spherical_aberration=self.spherical_aberration,
                amplitude_contrast=self.amplitude_contrast,
                defocus_u=self.defocus_u + change,
                defocus_v=self.defocus_v + change,
                defocus_angle=self.defocus_angle,
                phase_shift=self.phase_shift,
            )
            out = np.where(lens < 0, -1.0, 1.0)
        if self.exposures is not None:
            before, during = self.exposures
            out = out * dose_attenuation(
                np.hypot(ky, kx), pre_exposure=before, exposure=during, voltage=self.voltage
            )
        return out

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Filter an aligned image."""
        reach, step, slope = _SMEAR * self.pixel_size, 1.0, 0.0
        if self.flip:
            slope = self.slope
            farthest = abs(slope) * image.shape[1] / 2 * self.pixel_size
            most = max(abs(self.defocus_u), abs(self.defocus_v)) + farthest
            reach = max(
                reach,
                delocalisation(
                    self.pixel_size,
                    voltage=self.voltage,
                    spherical_aberration=self.spherical_aberration,
                    defocus=most,
                ),
            )
            step = defocus_step(self.pixel_size, self.voltage)
        return np.asarray(
            filter_across(
                image,
                self.respond,
                pixel_size=self.pixel_size,
                slope=slope,
                step=step,
                reach=min(reach, max(image.shape) * self.pixel_size),
                gather=True,
            )
        )


def lenses_of(
    series: xr.DataArray, factor: float, method: str, dose_weight: bool
) -> list[Lens | None]:
    """What is undone in each image; errors where the series does not say what that needs."""
    if method not in ("none", "flip"):
        raise InputError(f"ctf must be none or flip, got {method!r}")
    if method == "none" and not dose_weight:
        return [None] * len(series)
    where = str(series.attrs.get("source") or series.name or "the tilt series")
    for name, wanted in (("phase_flipped", method == "flip"), ("dose_weighted", dose_weight)):
        if wanted and series.attrs.get(name):
            raise InputError(f"{where} is {name.replace('_', ' ')} already; do it once")

    def column(name: str, need: str, way_out: str) -> np.ndarray:
        if name not in series.coords:
            raise InputError(f"{need} needs {name} of each image, which {where} lacks; {way_out}")
        return np.asarray(series.coords[name], float)

    each: dict[str, np.ndarray] = {}
    if method == "flip":
        each["defocus_u"] = column("defocus_u", "ctf='flip'", "give defocus=… (--defocus)")
    voltage = series.attrs.get("voltage")
    if voltage is None:
        raise InputError(
            f"ctf and dose_weight need the voltage, which {where} lacks; give voltage=… (--voltage)"
        )
    common: dict[str, Any] = {
        "pixel_size": float(series.attrs["pixel_size"]) * factor,
        "voltage": float(voltage),
        "flip": method == "flip",
    }
    transform = transforms(series)
    if method == "flip":
        each["defocus_v"] = np.asarray(series.coords.get("defocus_v", each["defocus_u"]), float)
        angle = np.asarray(series.coords.get("defocus_angle", np.zeros(len(series))), float)
        if transform is not None:
            angle = angle + np.rad2deg(np.arctan2(transform[:, 1, 0], transform[:, 0, 0]))
        each["defocus_angle"] = angle
        for key in ("spherical_aberration", "amplitude_contrast"):
            if series.attrs.get(key) is None:
                raise InputError(f"ctf='flip' needs {key}, which {where} lacks; give {key}=…")
            common[key] = float(series.attrs[key])
        common["phase_shift"] = float(series.attrs.get("phase_shift") or 0.0)
    handedness = float(series.attrs.get("handedness", -1))
    exposures: list[tuple[float, float] | None] = [None] * len(series)
    if dose_weight:
        way_out = "give an .mdoc that has the doses"
        before = column("pre_exposure", "dose_weight", way_out)
        during = np.asarray(series.coords.get("exposure", np.zeros(len(series))), float)
        exposures = list(zip(before.tolist(), during.tolist(), strict=True))
    return [
        Lens(
            **common,
            **dict[str, Any]({key: float(values[number]) for key, values in each.items()}),
            slope=-handedness * tan(np.deg2rad(float(theta))),
            exposures=exposures[number],
        )
        for number, theta in enumerate(np.asarray(series["angle"]))
    ]
