"""Subtomograms seen from above: projections, or central slabs, along the beam.

A pick that is no particle (a piece of carbon, a lump of gold, an empty box) shows at a glance in
two dimensions.  The Fourier transform of a projection along z is the plane kz = 0, which a tilt
series with a view at 0° has measured: no missing wedge disturbs it.  A slab leaves out what lies
above and below the particle.
"""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.data.images import image_table, images_array
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError

__all__ = ["PLANAR_NAMES", "boxes_with_classes", "project_subtomograms"]

#: Of a pose in the plane, what a table of 3D particles calls it: its own shift is another.
PLANAR_NAMES = {
    "psi": "planar_psi",
    "shift_y": "planar_shift_y",
    "shift_x": "planar_shift_x",
    "mirror": "planar_mirror",
}


def project_subtomograms(
    subtomograms: xr.Dataset, *, thickness: float | None = None
) -> xr.DataArray:
    """Project boxes along z, lazily: images whose classes tell particles from what is none.

    Parameters
    ----------
    subtomograms : Dataset, dims (particle, z, y, x)
        Of `open_subtomograms` or `extract_subtomograms`.
    thickness : float, optional
        Of the slab about the middle that is projected, Å; by default the whole box.

    Returns
    -------
    DataArray, dims (image, y, x)
        float32, the mean along z.  Only the names of the boxes, their halves and the number of the
        particle go with them: `boxes_with_classes` brings the result back to the particles.

    Raises
    ------
    InputError
        If it is no Dataset of subtomograms, or the slab leaves the box.
    """
    table = particle_table(subtomograms)
    boxes = subtomograms["subtomogram"]
    if len(table) == 0:
        raise InputError("subtomograms hold no box; pick again, e.g. with a lower threshold")
    depth = boxes.sizes["z"]
    size = float(subtomograms.attrs["voxel_size"])
    count = depth if thickness is None else round(thickness / size)
    if not 1 <= count <= depth:
        raise InputError(
            f"thickness must be within one voxel and the box, {size:g} to {depth * size:g} Å, got "
            f"{thickness:g}"
        )
    first = depth // 2 - count // 2
    data: Any = boxes.data[:, first : first + count]
    if isinstance(data, da.Array):
        data = data.rechunk({1: -1, 2: -1, 3: -1})
        images = data.map_blocks(
            _project, dtype=np.float32, drop_axis=1, meta=np.empty((0, 0, 0), np.float32)
        )
    else:
        images = _project(np.asarray(data))
    columns = {name: table[name].to_numpy() for name in ("image", "half") if name in table}
    columns["particle"] = table.index.to_numpy()
    return images_array(
        images,
        pd.DataFrame(columns),
        pixel_size=size,
        attrs={"source": _source(subtomograms), "projected": "z"},
    )


def boxes_with_classes(subtomograms: xr.Dataset, result: pd.DataFrame) -> pd.DataFrame:
    """The particle table with what the classification of its projections found.

    Parameters
    ----------
    subtomograms : Dataset
        That `project_subtomograms` was given.
    result : DataFrame
        Of its images, one row each in their order: ``class``, ``psi``, ``score`` …

    Returns
    -------
    DataFrame
        The columns of the particle table, with ``class``, ``score``, ``half`` and ``reason`` of the
        result; the pose in the plane as ``planar_psi`` (degrees), ``planar_shift_y``,
        ``planar_shift_x`` (Å) and ``planar_mirror``.

    Raises
    ------
    InputError
        If there is not one row a particle.
    """
    table = particle_table(subtomograms)
    if len(table) != len(result):
        raise InputError(f"need one row a particle, got {len(result)} for {len(table)} particles")
    found = {}
    for name in ("class", "score", "half", "reason", *PLANAR_NAMES):
        if name in result:
            found[PLANAR_NAMES.get(name, name)] = result[name].to_numpy()
    # The name of a class was that of another classification.
    table = table.drop(columns=["kind"], errors="ignore").assign(**found)
    table.attrs["voxel_size"] = float(subtomograms.attrs["voxel_size"])
    return table


def is_projection(images: xr.DataArray) -> bool:
    """Whether images are of `project_subtomograms`."""
    return "projected" in images.attrs and "particle" in image_table(images)


def _project(boxes: np.ndarray) -> np.ndarray:
    """Mean along z, in double precision: that of float32 would depend on the layout."""
    return np.asarray(boxes.mean(axis=1, dtype=np.float64), np.float32)


def _source(subtomograms: xr.Dataset) -> str:
    attrs = subtomograms.attrs
    return str(attrs.get("store") or attrs.get("source") or "in memory")
