"""Write OME-Zarr 0.5: sharded, compressed, checksummed, with coarser levels, block by block."""

from __future__ import annotations

from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from dask.delayed import delayed
from zarr.codecs import BloscCodec, Crc32cCodec

from tomodask.data.blocks import block_corners, compute_blocks
from tomodask.data.statistics import Statistics
from tomodask.data.writing import no_space
from tomodask.errors import InputError

__all__ = ["COMPRESSIONS", "write_ome_zarr"]

COMPRESSIONS = ("zstd", "lz4", "none")
_SMALLEST = 64  # voxels: a level whose longest edge is this or less is the last


def write_ome_zarr(
    array: da.Array,
    part: Path,
    *,
    path: Path,
    voxel_size: float,
    chunk: int,
    shard: int,
    levels: int | None,
    compression: str,
    source: str,
    attributes: dict[str, Any],
) -> Statistics:
    """Write a lazy volume to the folder `part`; `path` is what messages call it.  Computes.

    The blocks of the array must be multiples of the shard: two writers in one shard lose data
    without an error.  Level k + 1 is the mean of 2×2×2 voxels of level k; at the border, the mean
    of what is there.  All levels are one graph, so that each voxel is read once, and a few blocks
    are in memory at a time.
    """
    group = zarr.create_group(zarr.storage.LocalStore(str(part)), zarr_format=3)
    paths = [str(level) for level in range(levels or _level_count(array.shape))]
    writes: list[Any] = []
    nbytes = array.nbytes
    for level in paths:
        if level != paths[0]:
            array = _halved(array, shard)
        _require_whole_shards(array, shard)
        target = group.create_array(
            level,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(chunk,) * 3,
            shards=(shard,) * 3 if shard > chunk else None,
            compressors=_codecs(compression, array.dtype),
            fill_value=0,
            dimension_names=("z", "y", "x"),
            config={"write_empty_chunks": True},  # so that a missing one is damage, and seen
        )
        writes.append(_writes(array, target, path, measured=level == paths[0]))
    parts = compute_blocks(
        [write for level_writes in writes for write in level_writes], label="convert", nbytes=nbytes
    )
    statistics = Statistics.of_all(part for part in parts if part is not None)
    statistics.require_finite(source)
    group.attrs.update(
        {
            "ome": _ome(paths, voxel_size, path.name.removesuffix(".zarr").removesuffix(".ome")),
            "tomodask": {**attributes, "complete": True},
        }
    )
    return statistics


def _require_whole_shards(array: da.Array, shard: int) -> None:
    for sizes in array.chunks:
        if any(size % shard for size in sizes[:-1]):
            raise AssertionError(f"blocks {array.chunks} are no multiples of the shard {shard}")


def _level_count(shape: tuple[int, ...]) -> int:
    count, longest = 1, max(shape)
    while longest > _SMALLEST:
        longest, count = ceil(longest / 2), count + 1
    return count


def _codecs(compression: str, dtype: np.dtype) -> list[Any]:
    """The checksum comes last: blosc alone decodes a damaged chunk without a word."""
    if compression == "none":
        return [Crc32cCodec()]
    blosc = BloscCodec(cname=compression, clevel=1, shuffle="shuffle", typesize=dtype.itemsize)
    return [blosc, Crc32cCodec()]


def _writes(array: da.Array, target: Any, path: Path, *, measured: bool) -> list[Any]:
    # Bound beforehand: delayed() would look for Dask collections within each argument.
    write = delayed(
        partial(
            _convert_block, target=target, path=str(path), needed=array.nbytes, measured=measured
        ),
        pure=False,
    )
    return [write(block, corner) for block, corner in block_corners(array)]


def _convert_block(
    block: np.ndarray,
    corner: tuple[int, ...],
    *,
    target: Any,
    path: str,
    needed: int,
    measured: bool,
) -> Statistics | None:
    region = tuple(
        slice(start, start + size) for start, size in zip(corner, block.shape, strict=True)
    )
    if not Path(target.store.root, target.path, "zarr.json").exists():
        return None  # another block failed, and what there was is being taken away
    try:
        target[region] = block
    except OSError as error:
        if (full := no_space(error, Path(path), needed)) is not None:
            raise full from None
        raise
    return Statistics.of_block(block, corner) if measured else None


def _halved(fine: da.Array, shard: int) -> da.Array:
    """The next level; its blocks are shards."""
    if any(size % 2 for sizes in fine.chunks for size in sizes[:-1]):
        fine = fine.rechunk((2 * shard,) * 3)  # an odd block would shift the pairs behind it
    coarse = fine.map_blocks(
        _mean_of_pairs,
        chunks=tuple(tuple(ceil(size / 2) for size in sizes) for sizes in fine.chunks),
        dtype=fine.dtype,
        meta=fine._meta,
    )
    return coarse.rechunk((shard,) * 3)


def _mean_of_pairs(block: np.ndarray) -> np.ndarray:
    """Mean of 2×2×2 voxels; at an odd end the mean of what is there."""
    kind = block.dtype
    mean: Any = block.astype(np.float64 if kind == np.float64 else np.float32)
    for axis in range(3):
        if mean.shape[axis] % 2:
            last = np.take(mean, [-1], axis=axis)
            mean = np.concatenate([mean, last], axis=axis)
        lines = np.moveaxis(mean, axis, 0)
        mean = np.moveaxis((lines[0::2] + lines[1::2]) / 2, 0, axis)
    if kind.kind in "iu":
        mean = np.rint(mean)
    return np.ascontiguousarray(mean.astype(kind))


def _ome(paths: list[str], voxel_size: float, name: str) -> dict[str, Any]:
    """The multiscales metadata; a level's translation is the middle of its first voxel."""
    datasets = []
    for level, path in enumerate(paths):
        step = 2**level
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [voxel_size * step] * 3}]
        if level:
            transforms.append(
                {"type": "translation", "translation": [voxel_size * (step - 1) / 2] * 3}
            )
        datasets.append({"path": path, "coordinateTransformations": transforms})
    axes = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    image = {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": "mean",
        "metadata": {"description": "mean of 2×2×2 voxels of the finer level"},
    }
    return {"version": "0.5", "multiscales": [image]}


def require_options(chunk: int, shard: int | None, levels: int | None, compression: str) -> int:
    """Check the options of `save_tomogram` for Zarr and give the shard's edge."""
    if chunk < 1:
        raise InputError(f"chunk must be at least 1 voxel, got {chunk}")
    if shard is None:
        shard = chunk * max(1, 128 // chunk)
    if shard < chunk or shard % chunk:
        raise InputError(f"shard must be a multiple of chunk, got {shard=}, {chunk=}")
    if levels is not None and levels < 1:
        raise InputError(f"levels must be at least 1, got {levels}")
    if compression not in COMPRESSIONS:
        raise InputError(f"compression must be one of {COMPRESSIONS}, got {compression!r}")
    return shard
