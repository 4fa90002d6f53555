"""A Zarr store that is filled tile by tile, so that a killed run goes on.

`finished` holds an element a tile, set after the tile's voxels are written.  The attribute
`fingerprint` says of which run the store is.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from dask.base import tokenize
from zarr.codecs import BloscCodec, Crc32cCodec

from tomodask.errors import InputError

__all__ = ["StoreKind", "codecs", "missing_tiles", "room_on_disk", "write_tile"]

_UNFINISHED = ".unfinished-layout"  # file in a store whose arrays are not all laid out


@dataclass(frozen=True)
class StoreKind:
    """What a store holds, for its attributes and for messages.

    Attributes
    ----------
    format : str
        The attribute by which a store is known.
    what : str
        "scores".
    command : str
        That makes one: "tomodask match".
    run : str
        How a run is called: "match".
    inputs : str
        What makes another run of it: "other tomogram, template or parameters".
    """

    format: str
    what: str
    command: str
    run: str
    inputs: str

    def open(self, path: Path, *, to_write: bool = False) -> zarr.Group:
        """The store; InputError where there is none of this kind."""
        way = "give another path" if to_write else f"make one with `{self.command}`"
        try:
            group = zarr.open_group(path, mode="r+")
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise InputError(f"{path} is no store of {self.what}: {way}") from error
        if group.attrs.get("format") != self.format or "finished" not in group:
            raise InputError(f"{path} is a Zarr store but not one of {self.what}: {way}")
        return group

    def open_whole(self, path: Path) -> zarr.Group:
        """The store, all of whose tiles are finished; else InputError."""
        group = self.open(path)
        missing, tiles = len(missing_tiles(group)), group["finished"].size
        if missing:
            raise InputError(
                f"{path} holds {tiles - missing} of {tiles} tiles: its run was interrupted; "
                f"run the same {self.run} again to finish it"
            )
        return group

    def open_or_create(
        self,
        path: Path,
        fingerprint: str,
        lay_out: Callable[[zarr.Group], None],
        *,
        resume: bool,
    ) -> zarr.Group:
        """The store of a run, begun anew where there is none or `resume` is False.

        Parameters
        ----------
        path : Path
        fingerprint : str
            Of the run; the store of another is refused.
        lay_out : callable
            Makes the arrays and attributes of a new store, `finished` and `fingerprint` among them.
        resume : bool
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, no store of {self.what}: give another path")
        used = path.exists() and any(path.iterdir())
        # A run killed before its store was laid out left this mark: only then begin anew.
        if used and not (path / _UNFINISHED).exists():
            group = self.open(path, to_write=True)  # drops nothing but a store of this kind
            if resume:
                if group.attrs["fingerprint"] != fingerprint:
                    raise InputError(
                        f"{path} holds the {self.what} of another run ({self.inputs}): give "
                        "another path, or replace it (resume=False, --overwrite)"
                    )
                return group
        return self._create(path, lay_out)

    def _create(self, path: Path, lay_out: Callable[[zarr.Group], None]) -> zarr.Group:
        path = path.resolve()  # a link stays one
        # Moved aside first: what a kill leaves of the old store is then not in the new one's place.
        aside = path.with_name(f".{path.name}.dropped")
        if aside.exists():
            shutil.rmtree(aside)
        if path.exists() and any(path.iterdir()):
            path.rename(aside)
            shutil.rmtree(aside)
        path.mkdir(parents=True, exist_ok=True)
        mark = path / _UNFINISHED
        mark.touch()
        group = zarr.open_group(path, mode="a", zarr_format=3)
        lay_out(group)
        mark.unlink()
        return group

    def lazy(self, path: Path, group: zarr.Group, name: str, *, called: str = "") -> da.Array:
        """An array of the store as a Dask array, a block a chunk."""
        array, called = group[name], called or name
        if (missing := array.nchunks - array.nchunks_initialized) > 0:
            raise InputError(
                f"{path}: {missing} of {array.nchunks} chunks of its {called} are missing; make "
                f"the {self.what} again, with --overwrite"
            )
        stored = _Stored(
            str(path), name, tuple(array.shape), array.dtype, array.ndim, called, self.what
        )
        key = f"open-{name}-{tokenize(stored, group.attrs['fingerprint'])}"
        meta = np.empty((0,) * array.ndim, array.dtype)
        return da.from_array(stored, chunks=array.chunks, name=key, meta=meta)


@dataclass(frozen=True)
class _Stored:
    """An array of a store; what cannot be read is told of as the input's fault."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    ndim: int
    called: str
    what: str

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read a part."""
        try:
            return np.asarray(zarr.open_group(self.path, mode="r")[self.name][index])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            where = ", ".join(f"{one.start}:{one.stop}" for one in index)
            raise InputError(
                f"{self.path}: the {self.called} of voxels {where} is damaged ({error}); make the "
                f"{self.what} again, with --overwrite"
            ) from error


def codecs() -> list[BloscCodec | Crc32cCodec]:
    """How chunks are stored; the checksum comes last, blosc alone decodes damage without a word."""
    return [BloscCodec(cname="zstd", clevel=1), Crc32cCodec()]


def missing_tiles(group: zarr.Group) -> list[tuple[int, ...]]:
    """Places of the tiles that are not marked as finished."""
    finished = group["finished"]
    missing = []
    for tile in np.ndindex(*finished.shape):
        try:
            done = bool(finished[tile])
        except Exception:  # a mark that a crash cut short
            done = False
        if not done:
            missing.append(tile)
    return missing


def write_tile(
    path: str, tile: tuple[int, ...], chunk: tuple[int, ...], values: dict[str, np.ndarray]
) -> None:
    """Store one tile, and mark it as finished once it is.

    Parameters
    ----------
    path : str
        The store.
    tile : tuple of int
        Its element of `finished`.
    chunk : tuple of int
        Edges of a tile, voxels: whole chunks, which no other tile writes.
    values : dict of array, shapes (…, z, y, x)
        By the names of the store's arrays.
    """
    group = zarr.open_group(path, mode="r+")
    for name, one in values.items():
        edges = zip(tile, chunk, one.shape[-3:], strict=True)
        group[name][(..., *(slice(t * c, t * c + n) for t, c, n in edges))] = one
    group["finished"][tile] = 1


@contextlib.contextmanager
def room_on_disk(path: Path) -> Iterator[None]:
    """Say in a sentence that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"no space left on the disk of {path}, or in its quota: free some and run the "
                "same again; finished tiles are kept"
            ) from error
        raise
