"""What each image's microscope did to it: the contrast transfer function of every image."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import dask.array as da
import numpy as np
import scipy.fft
import xarray as xr

from tomodask.arrays.backend import to_numpy
from tomodask.arrays.optics import ctf, image_frequencies
from tomodask.errors import InputError
from tomodask.planar.numbering import image_numbers

__all__ = [
    "Correction",
    "ImageOptics",
    "check_correction",
    "corrected",
    "corrected_images",
    "image_optics",
]

#: Images times their CTF (a matched filter), or times its sign.
Correction = Literal["multiply", "flip"]


@dataclass(frozen=True)
class ImageOptics:
    """Optics of many images; each array has shape (images,).

    Attributes
    ----------
    defocus_u, defocus_v : array
        Å, positive = underfocus.
    defocus_angle, phase_shift : array
        Degrees.
    voltage : array
        kV.
    spherical_aberration : array
        mm.
    amplitude_contrast : array
        0 to 1.
    pixel_size : float
        Å.
    """

    defocus_u: np.ndarray
    defocus_v: np.ndarray
    defocus_angle: np.ndarray
    phase_shift: np.ndarray
    voltage: np.ndarray
    spherical_aberration: np.ndarray
    amplitude_contrast: np.ndarray
    pixel_size: float

    def __getitem__(self, rows: slice | np.ndarray) -> ImageOptics:
        names = [one.name for one in fields(self) if one.name != "pixel_size"]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def ctf(self, number: int, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        """CTF of one image, positive at low frequencies; frequencies in 1/Å, broadcastable."""
        values = ctf(
            ky,
            kx,
            voltage=float(self.voltage[number]),
            spherical_aberration=float(self.spherical_aberration[number]),
            amplitude_contrast=float(self.amplitude_contrast[number]),
            defocus_u=float(self.defocus_u[number]),
            defocus_v=float(self.defocus_v[number]),
            defocus_angle=float(self.defocus_angle[number]),
            phase_shift=float(self.phase_shift[number]),
        )
        return np.asarray(values, np.float32)

    def response(self, number: int, size: int, correction: Correction) -> np.ndarray:
        """What the spectrum (``rfft2``) of one image is multiplied by; float32."""
        values = self.ctf(number, *image_frequencies((size, size), self.pixel_size))
        return values if correction == "multiply" else np.where(values < 0, -1, 1).astype("f4")


def check_correction(correction: str | None) -> None:
    """Refuse what is none of the corrections.

    Raises
    ------
    InputError
    """
    if correction not in (None, "multiply", "flip"):
        raise InputError(f"ctf must be 'multiply', 'flip' or None, got {correction!r}")


def image_optics(images: xr.DataArray) -> ImageOptics:
    """The optics that images carry: coords along ``image``, or one value for all in the attrs.

    Names are those of a tilt series: ``defocus_u``, ``defocus_v``, ``defocus_angle``,
    ``phase_shift``, ``voltage``, ``spherical_aberration``, ``amplitude_contrast``.  Without
    ``defocus_v`` the defocus is round; without ``phase_shift`` there is no phase plate.

    Raises
    ------
    InputError
        If one that is needed is missing, or not finite for an image.
    """
    count = images.sizes["image"]

    def of(name: str, default: np.ndarray | float | None = None) -> np.ndarray:
        value = images.coords[name].to_numpy() if name in images.coords else images.attrs.get(name)
        value = default if value is None else value
        if value is None:
            raise InputError(
                f"images carry no {name}, which a correction of the CTF needs; give it as a "
                "coordinate along image or in attrs, or leave ctf out"
            )
        values = np.broadcast_to(np.asarray(value, np.float64), (count,))
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise InputError(
                f"{name} of image {image_numbers(images)[wrong[0]]} is {values[wrong[0]]}; "
                "give a number, or leave the image out"
            )
        return values

    u = of("defocus_u")
    return ImageOptics(
        u,
        of("defocus_v", u),
        of("defocus_angle", 0.0),
        of("phase_shift", 0.0),
        of("voltage"),
        of("spherical_aberration"),
        of("amplitude_contrast"),
        float(images.attrs["pixel_size"]),
    )


def corrected(images: np.ndarray, optics: ImageOptics, correction: Correction) -> np.ndarray:
    """Images of a batch times their CTF, or times its sign.

    Parameters
    ----------
    images : array, shape (count, n, n)
    optics : ImageOptics
        Of each.
    correction : {"multiply", "flip"}

    Returns
    -------
    array of float32, shape (count, n, n)
        An image that is not finite stays so.
    """
    n = images.shape[-1]
    out = np.empty(images.shape, np.float32)
    # One by one: a transform's bits do not hang on the batch.
    for i, image in enumerate(to_numpy(images)):
        if image.min() == image.max():  # a constant image stays one, to be set aside as such
            out[i] = image
            continue
        spectrum = scipy.fft.rfft2(np.ascontiguousarray(image, np.float32))
        out[i] = scipy.fft.irfft2(spectrum * optics.response(i, n, correction), s=(n, n))
    return out


def corrected_images(images: xr.DataArray, correction: Correction | None) -> xr.DataArray:
    """Images ready to be aligned to references that know no CTF, lazily.

    Times the CTF, an image's correlation with a reference is that of the image with the reference
    as the microscope would show it: a matched filter.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
    correction : {"multiply", "flip"}, optional
        Without it the images are returned as they are.

    Raises
    ------
    InputError
        If the optics are missing, see `image_optics`.
    """
    check_correction(correction)
    if correction is None:
        return images
    optics = image_optics(images)
    if not isinstance(images.data, da.Array):
        return images.copy(data=corrected(images.data, optics, correction))
    lazy = images.data.rechunk({1: -1, 2: -1})
    place = da.arange(len(lazy), chunks=(lazy.chunks[0],)).reshape(-1, 1, 1)
    data = da.map_blocks(
        _corrected_block,
        lazy,
        place,
        optics=optics,
        correction=correction,
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    return images.copy(data=data)


def _corrected_block(
    images: np.ndarray, place: np.ndarray, *, optics: ImageOptics, correction: Correction
) -> np.ndarray:
    return corrected(images, optics[place.ravel()], correction)
