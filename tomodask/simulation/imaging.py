"""Projections as an electron microscope sees them: the images of a tilt series.

`simulate_tilt_series` makes images of what `project_volume` gave.  Each image is

    contrast = −2 · phase ⊛ (ctf · radiation damage · detector's MTF)  +  noise ⊛ NTF

with the phase in rad (weak-phase approximation).  The defocus follows the height of the tilted slab
across the image, and in steps through its thickness where that is more than the depth of field.

What is random belongs to the tilt's place in the order of acquisition, never to a task.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.arrays.backend import Array, namespace
from tomodask.data.tilt_series_array import as_tilt_series
from tomodask.errors import InputError
from tomodask.simulation.detector import Detector, ideal_detector
from tomodask.simulation.microscope import Beads, Microscope, Motion
from tomodask.simulation.projections import (
    checked_angles,
    checked_volume,
    depth_slabs,
    project_volume,
)
from tomodask.simulation.tilt_image import (
    MOTION_STREAM,
    Tilt,
    clean_image,
    clear_of,
    counted_image,
    noisy_image,
    undone,
)

__all__ = [
    "signal_variance",
    "simulate_tilt_series",
]


def simulate_tilt_series(
    projections: xr.DataArray,
    *,
    scheme: pd.DataFrame,
    microscope: Microscope,
    detector: Detector | None = None,
    motion: Motion | None = None,
    snr: float | None = None,
    shot_noise: bool = False,
    variance: float | None = None,
    beads: Beads | None = None,
    damage: bool = True,
    seed: int = 0,
) -> xr.DataArray:
    """Image a volume, or its projections, as a tilt series.  Builds a graph.

    Parameters
    ----------
    projections : DataArray, dims (tilt, y, x) or (slab, tilt, y, x); or a volume (z, y, x)
        From `project_volume`, or the same opened from a store.  A volume is projected first, in as
        many slabs as `depth_slabs` says.
    scheme : DataFrame
        From `tilt_scheme`, or read from a real series: ``angle``, ``order`` and, where known,
        ``exposure`` and ``pre_exposure`` (e/Å²), with which high frequencies fade.  Columns
        ``defocus_u``, ``defocus_v`` (Å) and ``defocus_angle`` (degrees) go before what the
        microscope says.
    microscope : Microscope
    detector : Detector, optional
        By default ideal.
    motion : Motion, optional
        Moves the specimen from tilt to tilt; the transforms of the result undo it.
    snr : float, optional
        Variance of the noise-free images (all tilts, all pixels that are not `beads`) over the
        variance of the normally distributed noise that is added.
    shot_noise : bool
        Count electrons instead: on average the exposure of a tilt times the area of a pixel,
        Poisson distributed.  Values are counts over their mean, less 1.
        With neither of the two the images are free of noise.
    variance : float, optional
        What `signal_variance` gave for the same images.  Without it the graph looks at all images
        before it adds noise to the first, and holds the projections in memory meanwhile.
    beads : Beads, optional
    damage : bool
        False: nothing fades, and the result has no ``pre_exposure`` by which one might weight.
    seed : int
        The same seed gives the same bytes.

    Returns
    -------
    DataArray of float32, dims (tilt, y, x)
        Contrast, protein dark, each noise-free image of mean 0; a chunk an image.  coords along
        tilt: ``angle``, ``order``, ``exposure``, ``pre_exposure``, ``defocus_u``, ``defocus_v``,
        ``defocus_angle`` and the transforms that undo `motion`
        (`tomodask.data.tilt_series_array`), as far as they are known.

    Raises
    ------
    InputError
        If the angles of scheme and projections differ, a value is out of its range, or the scheme
        has no exposure for shot noise.
    """
    if snr is not None and not (snr > 0 and math.isfinite(snr)):
        raise InputError(f"snr must be above 0, got {snr}; leave it out for images without noise")
    if snr is not None and shot_noise:
        raise InputError("snr and shot_noise exclude each other: one of them sets the noise")
    if shot_noise and "exposure" not in scheme:
        raise InputError(
            "shot_noise needs the column exposure (e/Å²) in scheme; tilt_scheme(dose=…) gives it"
        )
    if variance is not None and not (variance > 0 and math.isfinite(variance)):
        raise InputError(f"variance must be above 0, got {variance}")
    if not damage:
        scheme = scheme.drop(columns="pre_exposure", errors="ignore")
    data, tilts = _prepared(projections, scheme, microscope, detector, motion, seed)
    power: Any = np.float64(variance) if variance is not None else np.float64(0)
    if snr is not None and variance is None:
        power = _moments(data, tilts, _bead_offsets(projections, beads))
    images = da.blockwise(
        partial(_image_block, tilts=tilts, snr=snr, shot_noise=shot_noise),
        "tyx",
        data,
        "styx",
        da.arange(len(tilts), chunks=1),
        "t",
        power,
        "" if isinstance(power, da.Array) else None,
        concatenate=True,
        dtype=np.float32,
        meta=data._meta.reshape((0, 0, 0)).astype(np.float32),
    )
    return _series(images, projections, scheme, microscope, motion, tilts)


def signal_variance(
    projections: xr.DataArray,
    *,
    scheme: pd.DataFrame,
    microscope: Microscope,
    detector: Detector | None = None,
    motion: Motion | None = None,
    beads: Beads | None = None,
    damage: bool = True,
    seed: int = 0,
) -> da.Array:
    """Variance of the noise-free images that `simulate_tilt_series` makes of the same parameters.

    Returns
    -------
    Dask array without axes, float64
        To compute it takes the images one by one.  Their sums are merged in the order of the
        tilts: the same number whatever the workers.
    """
    if not damage:
        scheme = scheme.drop(columns="pre_exposure", errors="ignore")
    data, tilts = _prepared(projections, scheme, microscope, detector, motion, seed)
    return _moments(data, tilts, _bead_offsets(projections, beads))


def _image_block(
    block: Array,
    index: np.ndarray,
    variance: np.ndarray,
    *,
    tilts: list[Tilt],
    snr: float | None,
    shot_noise: bool,
) -> Array:
    """One image; `block` is its projection, shape (slabs, 1, y, x)."""
    tilt = tilts[int(index[0])]
    projections = block[:, 0]
    if snr is not None:
        image = noisy_image(projections, tilt, sigma=math.sqrt(float(variance) / snr))
    elif shot_noise:
        image = counted_image(projections, tilt)
    else:
        image = clean_image(projections, tilt)
    return image[None]


def _moments_block(
    block: Array, index: np.ndarray, *, tilts: list[Tilt], beads: tuple[np.ndarray, float] | None
) -> np.ndarray:
    """Number, sum and sum of squares of the pixels that count, of one noise-free image."""
    tilt = tilts[int(index[0])]
    image = clean_image(block[:, 0], tilt).astype(np.float64)
    xp = namespace(image)
    keep = xp.asarray(clear_of(beads, tilt, image.shape), dtype=np.float64)
    sums = [float(keep.sum()), float((image * keep).sum()), float((image**2 * keep).sum())]
    return np.array([sums])


def _merged(moments: np.ndarray) -> np.ndarray:
    """The variance over all images; each sum is exact, so that no order can matter."""
    count, total, squares = (math.fsum(column) for column in moments.T)
    if not count:
        raise InputError(
            "beads cover all pixels of all tilts: nothing is left to set the noise by; ask for "
            "fewer, or for shot noise"
        )
    variance = squares / count - (total / count) ** 2
    if not variance > 0:
        raise InputError("the noise-free images are empty: there is no signal to set the noise by")
    return np.float64(variance)  # type: ignore[return-value]


def _moments(data: da.Array, tilts: list[Tilt], beads: tuple[np.ndarray, float] | None) -> da.Array:
    """The variance of the noise-free images, as an array without axes."""
    each = da.blockwise(
        partial(_moments_block, tilts=tilts, beads=beads),
        "tk",
        data,
        "styx",
        da.arange(len(tilts), chunks=1),
        "t",
        new_axes={"k": 3},
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    return each.rechunk(-1, method="tasks").map_blocks(
        _merged, drop_axis=[0, 1], dtype=np.float64, meta=np.float64(0)
    )


def _bead_offsets(
    projections: xr.DataArray, beads: Beads | None
) -> tuple[np.ndarray, float] | None:
    """Beads from the volume's centre and their radius, in pixels."""
    if beads is None or not len(beads.positions_zyx):
        return None
    if projections.dims == ("z", "y", "x"):
        shape, pixel = projections.shape, float(projections.attrs["voxel_size"])
    elif "volume_shape" in projections.attrs:
        shape, pixel = projections.attrs["volume_shape"], float(projections.attrs["pixel_size"])
    else:
        raise InputError(
            "beads need to know the volume that was projected: projections lack the attribute "
            "volume_shape (z, y, x), voxels"
        )
    center = np.array([n // 2 for n in shape])
    return np.asarray(beads.positions_zyx) / pixel - center, 0.5 * beads.diameter / pixel


def _prepared(
    projections: xr.DataArray,
    scheme: pd.DataFrame,
    microscope: Microscope,
    detector: Detector | None,
    motion: Motion | None,
    seed: int,
) -> tuple[da.Array, list[Tilt]]:
    """Checked: projections (slab, tilt, y, x), a chunk a tilt, and what each image depends on."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed must be a whole number, at least 0, got {seed!r}")
    angles, orders = _checked_scheme(scheme)
    if projections.dims == ("z", "y", "x"):
        voxel_size = checked_volume(projections)
        slabs = depth_slabs(
            projections.shape[0] * voxel_size,
            pixel_size=voxel_size,
            angles=angles,
            microscope=microscope,
        )
        projections = project_volume(projections, angles, slabs=slabs)
    pixel = _checked_projections(projections, angles)
    data = projections.data
    data = data if isinstance(data, da.Array) else da.from_array(data)
    heights: tuple[float, ...] = (0.0,)
    if projections.dims[0] == "slab":
        heights = tuple(map(float, projections["height"].to_numpy()))
    else:
        data = data[None]
    detector = detector or ideal_detector()
    detector.signal(np.zeros(1), pixel)  # refuses a pixel size before any graph
    tilts = []
    columns = set(scheme.columns)
    for i, (angle, order) in enumerate(zip(angles, orders, strict=True)):
        row = scheme.iloc[i]
        shift, rotation = _drawn(motion, seed, order, pixel)
        u, v, azimuth = _defocus(row, columns, microscope)
        tilts.append(
            Tilt(
                angle=float(angle),
                order=int(order),
                exposure=float(row["exposure"]) if "exposure" in columns else None,
                pre_exposure=float(row["pre_exposure"]) if "pre_exposure" in columns else None,
                defocus_u=u,
                defocus_v=v,
                defocus_angle=azimuth,
                heights=heights,
                shift=shift,
                rotation=rotation,
                pixel_size=pixel,
                seed=int(seed),
                microscope=microscope,
                detector=detector,
            )
        )
    return data.rechunk((-1, 1, -1, -1), method="tasks"), tilts


def _drawn(
    motion: Motion | None, seed: int, order: int, pixel_size: float
) -> tuple[tuple[float, float], float]:
    """Shift (x, y) in pixels and rotation in degrees of a tilt."""
    if motion is None:
        return (0.0, 0.0), 0.0
    rng = np.random.default_rng([seed, MOTION_STREAM, order])
    x, y = rng.normal(size=2) * (motion.shift / pixel_size)
    return (float(x), float(y)), float(rng.normal() * motion.rotation)


def _defocus(
    row: pd.Series, columns: set[str], microscope: Microscope
) -> tuple[float, float, float]:
    """Defocus U and V and the angle of U of a tilt."""
    u, v, azimuth = microscope.focus.values()
    if "defocus_u" in columns:
        u = float(row["defocus_u"])
        v = float(row["defocus_v"]) if "defocus_v" in columns else u
        azimuth = float(row["defocus_angle"]) if "defocus_angle" in columns else 0.0
    return u, v, azimuth


def _series(
    images: da.Array,
    projections: xr.DataArray,
    scheme: pd.DataFrame,
    microscope: Microscope,
    motion: Motion | None,
    tilts: list[Tilt],
) -> xr.DataArray:
    """The images with all that is known of them."""
    attrs: dict[str, Any] = {
        "source": str(projections.attrs.get("source", "")),
        "voltage": microscope.voltage,
        "tilt_axis": 0.0,
        "handedness": microscope.handedness,
    }
    names = ["order", *(name for name in ("exposure", "pre_exposure") if name in scheme)]
    if microscope.ctf:
        attrs["spherical_aberration"] = microscope.spherical_aberration
        attrs["amplitude_contrast"] = microscope.amplitude_contrast
        attrs["phase_shift"] = microscope.phase_shift
        names += ["defocus_u", "defocus_v", "defocus_angle"]
    size = projections.sizes["x"], projections.sizes["y"]
    moved = motion is not None and (motion.shift > 0 or motion.rotation > 0)
    return as_tilt_series(
        images,
        angle=[tilt.angle for tilt in tilts],
        pixel_size=tilts[0].pixel_size,
        name=str(projections.name or "tilt_series"),
        columns={name: [getattr(tilt, name) for tilt in tilts] for name in names},
        transform=np.stack([undone(tilt.affine, size) for tilt in tilts]) if moved else None,
        attrs=attrs,
    )


def _checked_scheme(scheme: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Angles and orders of a scheme."""
    for name in ("angle", "order"):
        if name not in scheme:
            raise InputError(
                f"scheme needs the columns angle and order, got {', '.join(scheme.columns)}; "
                "tilt_scheme makes one"
            )
    angles = checked_angles(scheme["angle"])
    orders = scheme["order"].to_numpy()
    if orders.dtype.kind not in "iu" or orders.min() < 0 or len(set(orders)) != len(orders):
        raise InputError("order of scheme must be whole numbers from 0 on, each only once")
    for name in ("exposure", "pre_exposure"):
        if name not in scheme:
            continue
        values = scheme[name].to_numpy(np.float64)
        wrong = ~np.isfinite(values) | (values < 0) | ((values == 0) & (name == "exposure"))
        if wrong.any():
            least = "above 0" if name == "exposure" else "at least 0"
            raise InputError(f"{name} of scheme must be {least} e/Å², got {values[wrong][0]:g}")
    return angles, orders


def _checked_projections(projections: xr.DataArray, angles: np.ndarray) -> float:
    if projections.dims not in (("tilt", "y", "x"), ("slab", "tilt", "y", "x")):
        raise InputError(
            "projections must have the dims (tilt, y, x) or (slab, tilt, y, x), or be a volume "
            f"(z, y, x); got {projections.dims}"
        )
    if projections.dims[0] == "slab" and "height" not in projections.coords:
        raise InputError("projections of several slabs need the coordinate height (Å) along slab")
    if len(angles) != projections.sizes["tilt"]:
        raise InputError(
            f"scheme has {len(angles)} tilts and projections have {projections.sizes['tilt']}; "
            "give the scheme they were projected with"
        )
    if "angle" in projections.coords:
        theirs = projections["angle"].to_numpy()
        wrong = np.abs(theirs - angles) > 1e-3
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"angles of scheme and projections differ: tilt {i} is at {angles[i]:g} and "
                f"{theirs[i]:g} degrees; give the scheme they were projected with"
            )
    pixel = float(projections.attrs.get("pixel_size", 0.0))
    if not (pixel > 0 and math.isfinite(pixel)):
        raise InputError(
            "projections need the attribute pixel_size, Å, above 0; "
            f"got {projections.attrs.get('pixel_size')}"
        )
    return pixel
