"""The Zarr store of features: written block by block, opened lazily.

::

    features.zarr/
      zarr.json                    attributes: tomodask = "features", version, voxel_size, …
      features/                    float32, (particle, feature), a block of particles a chunk
      fault/                       int8, (particle,)
      particle/, position_z/, …    one array a column, as in a store of subtomograms
"""

from __future__ import annotations

import logging
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from tomodask.classification.features import feature_array, set_aside
from tomodask.cluster import compute
from tomodask.data.subtomogram_store import read_column, write_column
from tomodask.data.writing import replacing
from tomodask.errors import InputError

__all__ = ["open_features", "save_features"]

_log = logging.getLogger(__name__)
_VERSION = 1
_MADE = ("features", "fault")
_NAMED_AT_MOST = 5


def save_features(features: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> None:
    """Write features to a Zarr store, block by block.  Computes.

    Particles without features are named in a warning.

    Parameters
    ----------
    features : Dataset
        From `embed_subtomograms`.
    path : str or Path
        The store, a folder, by custom ``….zarr``.
    overwrite : bool
        Whether a store of that name may be replaced; it stays until the new one is whole.

    Raises
    ------
    InputError
        If `features` is something else, `path` exists and may not be replaced, its folder does not
        exist, or the disk is full.
    """
    values = feature_array(features)
    if "fault" not in features or "particle" not in features.coords:
        raise InputError("features must be a Dataset from embed_subtomograms or open_features")
    path = Path(path).absolute()  # for workers, which may be in other folders
    block = max(values.chunks[0])  # chunks and blocks must fall together: two never share a file
    fault = features["fault"].data
    lazy = fault if isinstance(fault, da.Array) else da.from_array(np.asarray(fault), chunks=block)
    with replacing(path, overwrite=overwrite, needed=4 * values.size) as part:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        targets = [
            zarr.create_array(
                part,
                name=name,
                shape=shape,
                chunks=(block, *shape[1:]),
                dtype=kind,
                dimension_names=("particle", "feature")[: len(shape)],
                config={"write_empty_chunks": True},  # so that one that is missing is told
            )
            for name, shape, kind in (
                ("features", values.shape, "float32"),
                ("fault", values.shape[:1], "int8"),
            )
        ]
        names = [str(name) for name, one in features.coords.items() if one.dims == ("particle",)]
        for name in names:
            write_column(part, name, features[name].to_numpy())
        sources = [values.rechunk((block, -1)).astype(np.float32), lazy.rechunk(block)]
        compute(da.store(sources, targets, lock=False, compute=False), label="features")
        group.attrs.update(
            {**_plain(features), "tomodask": "features", "version": _VERSION, "columns": names}
        )
    _warn(open_features(path))


def _plain(features: xr.Dataset) -> dict[str, object]:
    return {
        str(k): v.item() if isinstance(v, np.generic) else v
        for k, v in features.attrs.items()
        if isinstance(v, str | int | float | np.generic)
    }


def _warn(features: xr.Dataset) -> None:
    aside = set_aside(features)
    if not len(aside):
        return
    named = [
        f"{image or particle} ({reason})"
        for particle, image, reason in aside.head(_NAMED_AT_MOST).to_numpy().tolist()
    ]
    more = len(aside) - len(named)
    _log.warning(
        "%d of %d particles have no features: %s%s",
        len(aside),
        features.sizes["particle"],
        ", ".join(named),
        f" and {more} more" if more else "",
    )


def open_features(path: str | Path) -> xr.Dataset:
    """Open a store of features lazily.

    Returns
    -------
    Dataset
        As `embed_subtomograms` makes it.

    Raises
    ------
    InputError
        If there is no such store, or it is damaged or of another version.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist; make it by save_features")
    try:
        group = zarr.open_group(path, mode="r")
        attrs = dict(group.attrs)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a store of features ({error})") from None
    if attrs.pop("tomodask", None) != "features":
        raise InputError(f"{path} is not a store of features; make one by save_features")
    if (version := attrs.pop("version", None)) != _VERSION:
        raise InputError(
            f"{path}: version {version} of the store is not known to this tomodask (it reads "
            f"version {_VERSION}); make the features again, or update tomodask"
        )
    try:
        made = {name: group[name] for name in _MADE}
        for name, array in made.items():
            if array.nchunks_initialized < array.nchunks:
                raise ValueError(f"blocks of {name} are missing")
        columns = {name: read_column(group[name]) for name in attrs.pop("columns")}
        data = {name: da.from_zarr(array, chunks=array.chunks) for name, array in made.items()}
        return xr.Dataset(
            {
                "features": (("particle", "feature"), data["features"]),
                "fault": ("particle", data["fault"]),
            },
            coords={name: ("particle", values) for name, values in columns.items()},
            attrs=attrs,
        )
    except (KeyError, ValueError, OSError, RuntimeError) as error:  # codecs raise the last
        raise InputError(f"{path}: the store is damaged ({error}); make it again") from None
