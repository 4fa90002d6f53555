"""Images (y, x) in files of any kind: stacks of MRC, HDF5 and Zarr, read by the number of an image.

A reader is a small frozen dataclass: it pickles, holds no open file and no pixels, and reads the
images it is asked for.  So a task opens its file itself, on whichever worker it runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tomodask.data.mrc import MrcReader, open_mrc
from tomodask.data.sources import file_state
from tomodask.errors import InputError

__all__ = [
    "HDF5_SUFFIXES",
    "STACK_SUFFIXES",
    "ImageReader",
    "is_image_file",
    "open_image_file",
]

STACK_SUFFIXES = (".mrcs", ".mrc", ".st", ".map", ".ali")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_PACKED = (".gz", ".bz2")
_SIZE_NAMES = ("pixel_size", "EMAN.apix_x", "MDF.apix_x", "apix", "apix_x")


class ImageReader(Protocol):
    """Images of one size in one file."""

    @property
    def count(self) -> int:
        """Of the images."""

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels of one along (y, x)."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images by number, from 0: float32, shape (len(rows), y, x)."""


@dataclass(frozen=True)
class MrcImages:
    """The sections of an MRC file."""

    reader: MrcReader

    @property
    def count(self) -> int:
        """Of the images."""
        return self.reader.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels of one along (y, x)."""
        return self.reader.shape[1], self.reader.shape[2]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images by number, from 0."""
        index: Any = (_slice_or_rows(rows), slice(None), slice(None))
        return np.asarray(self.reader[index], np.float32)


@dataclass(frozen=True)
class ZarrImages:
    """A Zarr array (image, y, x)."""

    store: str
    name: str
    count: int
    shape: tuple[int, int]
    state: str

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images by number, from 0."""
        import zarr

        array: Any = _opened(lambda: zarr.open_array(self.store, path=self.name, mode="r"), self)
        run = _slice_or_rows(rows)
        try:
            read = array[run] if isinstance(run, slice) else array.get_orthogonal_selection((run,))
        except ValueError as error:  # a checksum that does not fit
            raise InputError(f"{self.store}: damaged ({error}); copy or make it again") from None
        return np.asarray(read, np.float32)


@dataclass(frozen=True)
class Hdf5Images:
    """One dataset (image, y, x) of an HDF5 file, or one dataset (y, x) for each image."""

    path: str
    names: tuple[str, ...]
    count: int
    shape: tuple[int, int]
    state: str

    @property
    def store(self) -> str:
        """The file, for messages."""
        return self.path

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images by number, from 0."""
        with _opened(lambda: _h5py(self.path).File(self.path, "r"), self) as file:
            if len(self.names) == self.count and file[self.names[0]].ndim == 2:
                return np.stack([np.asarray(file[self.names[r]], np.float32) for r in rows])
            data = file[self.names[0]]
            run = _slice_or_rows(rows)
            if isinstance(run, slice):
                return np.asarray(data[run], np.float32)
            order, back = np.unique(rows, return_inverse=True)  # h5py wants them rising, once each
            return np.asarray(data[order], np.float32)[back]


def is_image_file(path: Path) -> bool:
    """Whether a name is that of a stack that `open_image_file` knows."""
    inner = path.with_suffix("") if path.suffix.lower() in _PACKED else path
    return path.suffix.lower() in (*HDF5_SUFFIXES, ".zarr") or (
        inner.suffix.lower() in STACK_SUFFIXES
    )


def open_image_file(
    path: Path, *, dataset: str | None, pixel_size: float | None = None
) -> tuple[ImageReader, float | None]:
    """A stack's reader and pixel size (Å; None where the file does not say).

    Parameters
    ----------
    path : Path
        Absolute.
    dataset : str, optional
        Of several in an HDF5 file or Zarr store.
    pixel_size : float, optional
        Å, where it is known: then what an MRC header says of it is not looked at.

    Raises
    ------
    InputError
        If the file is missing, damaged, holds no images, or pixels that are not square.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix == ".zarr" or path.is_dir():
        return _open_zarr(path, dataset)
    if suffix in HDF5_SUFFIXES:
        return _open_hdf5(path, dataset)
    if not is_image_file(path):
        raise InputError(
            f"{path}: images come as an MRC stack ({', '.join(STACK_SUFFIXES)}), a STAR that lists "
            f"them, HDF5 ({', '.join(HDF5_SUFFIXES)}) or a Zarr store, by the name; rename it"
        )
    reader, sizes, _, _ = open_mrc(path)
    size = _square(path, sizes[1], sizes[2]) if pixel_size is None else pixel_size
    return MrcImages(reader), size


def _square(path: Path, high: float | None, wide: float | None) -> float | None:
    """The size of a pixel; what old headers leave out is None."""
    if not high or not wide or not (math.isfinite(high) and math.isfinite(wide)):
        return None
    if abs(high - wide) > 1e-3 * wide:
        raise InputError(
            f"{path}: pixels of {wide:g} × {high:g} Å (x, y) are not square; resample the images, "
            "or pass the right size (pixel_size=…, --pixel-size)"
        )
    return float(wide)


def _open_zarr(path: Path, dataset: str | None) -> tuple[ImageReader, float | None]:
    import zarr

    try:
        root = zarr.open(str(path), mode="r")
    except Exception as error:  # zarr raises what its stores stumble over
        raise InputError(f"{path} is no Zarr store that can be read ({error})") from None
    if isinstance(root, zarr.Array):
        found, sizes = {"": root.shape}, _size_in(dict(root.attrs))
    else:
        found = {name: one.shape for name, one in root.arrays()}
        sizes = _size_in(dict(root.attrs))
    name = _one_stack(path, found, dataset)
    array: Any = root if name == "" else root[name]
    size = sizes or _size_in(dict(array.attrs))
    count, high, wide = array.shape
    reader = ZarrImages(str(path), name, count, (high, wide), file_state(path))
    return reader, size


def _open_hdf5(path: Path, dataset: str | None) -> tuple[ImageReader, float | None]:
    h5py = _h5py(str(path))
    found: dict[str, tuple[int, ...]] = {}
    with _hdf5_file(h5py, path) as file:
        eman = file.get("MDF/images")
        if eman is not None and dataset is None:
            numbers = sorted((n for n in eman if n.isdecimal()), key=int)
            names = tuple(f"MDF/images/{n}/image" for n in numbers if "image" in eman[n])
            shapes = {file[name].shape for name in names}
            if len(names) > 1 or (names and len(next(iter(shapes))) == 2):
                if len(shapes) > 1:
                    raise InputError(
                        f"{path}: images of unequal size ({_listed(shapes)} pixels); cut or pad "
                        "them to one"
                    )
                attrs = dict(eman[numbers[0]].attrs) | dict(eman.attrs)
                high, wide = next(iter(shapes))
                one = Hdf5Images(str(path), names, len(names), (high, wide), file_state(path))
                return one, _size_in(attrs)

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = tuple(item.shape)

        file.visititems(note)
        name = _one_stack(path, found, dataset)
        data = file[name]
        size = _size_in(dict(data.attrs)) or _size_in(dict(data.parent.attrs))
        size = size or _size_in(dict(file.attrs))
        count, high, wide = data.shape
        return Hdf5Images(str(path), (name,), count, (high, wide), file_state(path)), size


def _hdf5_file(h5py: Any, path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is no HDF5 file that can be read ({error})") from None


def _one_stack(path: Path, found: dict[str, tuple[int, ...]], dataset: str | None) -> str:
    """The one array with three axes, or the one that was asked for."""
    stacks = [name for name, shape in found.items() if len(shape) == 3 and 0 not in shape]
    if dataset is not None:
        wanted = dataset.strip("/")
        if wanted not in stacks:
            raise InputError(
                f"dataset must be an array (image, y, x) of {path}: {', '.join(stacks) or 'none'}; "
                f"got {dataset!r}"
            )
        return wanted
    for own in ("", "image", "images", "data"):
        if own in stacks:
            return own
    if len(stacks) != 1:
        raise InputError(
            f"{path} holds {'several stacks' if stacks else 'no array'} (image, y, x)"
            + (f": {', '.join(stacks)}; say which (dataset=…)" if stacks else "")
        )
    return stacks[0]


def _size_in(attrs: dict[str, Any]) -> float | None:
    for name in _SIZE_NAMES:
        if name in attrs:
            value = float(np.asarray(attrs[name]).reshape(-1)[0])
            if math.isfinite(value) and value > 0:
                return value
    return None


def _h5py(path: str) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path}: HDF5 needs h5py, which is not installed; pip install 'tomodask[planar]', "
            "or convert the images to an MRC stack"
        ) from None
    return h5py


def _opened(open_it: Any, reader: Any) -> Any:
    """Open a file again in a task; one that was changed since is not silently read."""
    try:
        if file_state(Path(reader.store)) != reader.state:
            raise InputError(
                f"{reader.store}: was written to since it was opened; open it again, and let "
                "nothing write to it meanwhile"
            )
        return open_it()
    except (OSError, KeyError) as error:
        raise InputError(
            f"{reader.store}: cannot be read any more ({error}); was it moved or written to?"
        ) from None


def _slice_or_rows(rows: np.ndarray) -> Any:
    """A slice where the numbers are a run: then nothing is gathered."""
    rows = np.asarray(rows)
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _listed(shapes: set[Any] | Sequence[Any]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in sorted(shapes))
