"""Formats of volumes: every real file opens, every dialect means what it says, damage is told."""

import bz2
import gzip
import os
import shutil
import warnings
from pathlib import Path

import cloudpickle
import dask
import dask.array as da
import google_crc32c
import mrcfile
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from distributed import Client
from helpers import shared_data

from tomodask.data import compressed
from tomodask.data.mrc import header_dtype
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.data.units import angstroms
from tomodask.errors import InputError


def real_files(*suffixes):
    """Names of the files of the shared data; where it is missing, one that skips."""
    root = Path(os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[3] / "shared" / "data")
    found = sorted(p.relative_to(root) for p in root.rglob("*") if p.name.endswith(suffixes))
    return [str(p) for p in found if not p.name.endswith((".pdb.gz", ".cif.gz"))] or ["maps"]


# What is wrong with the headers of some, and is set right by voxel_size
UNUSABLE = {
    "EMD-3001.map": "voxels are not cubic",
    "EMD-3001.map.bz2": "voxels are not cubic",
    "emd_3001.map.gz": "voxels are not cubic",
    "TS_001.st": "voxel size is 0 Å in the header",
}


@pytest.mark.parametrize("name", real_files(".mrc", ".map", ".gz", ".bz2", ".st", ".tif"))
def test_every_real_volume_opens_and_is_read_back_equal(tmp_path, name):
    path = shared_data(name)
    if path.name in UNUSABLE:
        with pytest.raises(InputError, match=UNUSABLE[path.name] + ".*voxel_size="):
            open_tomogram(path)
        volume = open_tomogram(path, voxel_size=5.0)
    else:
        volume = open_tomogram(path)
    expected = tifffile.imread(path) if path.suffix == ".tif" else by_mrcfile(path)
    np.testing.assert_array_equal(volume.values, expected)
    for target in (tmp_path / "a.mrc", tmp_path / "a.zarr"):
        save_tomogram(volume, target)
        back = open_tomogram(target)
        np.testing.assert_array_equal(back.values, volume.values)
        assert back.attrs["voxel_size"] == volume.attrs["voxel_size"]


def by_mrcfile(path):
    """The same by another reader: header and voxels of mrcfile, axes by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(path, permissive=True) as mrc:
            data = mrc.data if mrc.data.ndim == 3 else mrc.data[None]
            stored = {int(mrc.header.mapc): 2, int(mrc.header.mapr): 1, int(mrc.header.maps): 0}
            return np.array(data.transpose(stored[3], stored[2], stored[1]))


@pytest.mark.parametrize(
    ("name", "voxel_size", "shape"),
    [
        ("maps/Cytoribo_box72.mrc", 7.73513, (74, 74, 74)),
        ("maps/ribo-16Apx.mrc", 16.0, (48, 48, 48)),
        ("maps/float16.mrc", 3.59531, (1, 64, 64)),
        ("tomograms/13pf_MT.tif", 10.52, (36, 206, 94)),
        ("tomograms/beta-tubulin.mrc", 5.144, (20, 20, 20)),
    ],
)
def test_voxel_sizes_of_real_files(name, voxel_size, shape):
    volume = open_tomogram(shared_data(name))
    assert volume.attrs["voxel_size"] == voxel_size
    assert volume.shape == shape


# MRC


def write_raw(path, values, *, order="<", mode=None, extended=b"", **fields):
    """An MRC file byte by byte, as any program might have written it."""
    modes = {"i1": 0, "u1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}
    header = np.zeros((), header_dtype(order))
    header["shape_xyz"] = header["sampling_xyz"] = values.shape[::-1]
    header["mode"] = modes[values.dtype.str[1:]] if mode is None else mode
    header["cell_xyz"] = np.array(values.shape[::-1]) * 4.0
    header["map_crs"] = (1, 2, 3)
    header["extended"] = len(extended)
    header["map"] = b"MAP "
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(
        header.tobytes() + extended + values.astype(values.dtype.newbyteorder(order)).tobytes()
    )
    return path


@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extended", [b"", b"x" * 160])
def test_modes_byte_orders_and_extended_headers(tmp_path, dtype, order, extended):
    values = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype(dtype)
    path = write_raw(tmp_path / "a.rec", values, order=order, extended=extended)
    volume = open_tomogram(path, chunks=2)
    assert volume.dtype == np.dtype(dtype)
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.values, values)
    assert volume.attrs["voxel_size"] == 4.0


@pytest.mark.parametrize(
    ("stamp", "flags", "dtype"),
    [(0, 0, "int8"), (1146047817, 1, "int8"), (1146047817, 0, "uint8"), (1146047817, 4, "uint8")],
)
def test_bytes_are_signed_unless_imod_says_otherwise(tmp_path, stamp, flags, dtype):
    values = np.array([[[0, 127, 128, 255]]], np.uint8)
    path = write_raw(tmp_path / "a.mrc", values, imod_stamp=stamp, imod_flags=flags)
    volume = open_tomogram(path)
    assert volume.dtype == dtype
    np.testing.assert_array_equal(volume.values, values.view(dtype))


@pytest.mark.parametrize(
    "map_crs", [(1, 2, 3), (3, 1, 2), (2, 1, 3), (3, 2, 1), (2, 3, 1), (0, 0, 0)]
)
def test_order_of_the_axes(tmp_path, map_crs):
    """A voxel lies where mapc, mapr, maps say: reference voxel by voxel."""
    stored = np.arange(2 * 3 * 4, dtype="f4").reshape(2, 3, 4)
    columns, rows, sections = (axis or n for n, axis in enumerate(map_crs, start=1))
    size = {sections: 2, rows: 3, columns: 4}  # of x (1), y (2), z (3)
    sampling = [size[1], size[2], size[3]]
    path = write_raw(
        tmp_path / "a.map", stored, map_crs=map_crs, sampling_xyz=sampling,
        cell_xyz=np.array(sampling) * 2.5,
    )  # fmt: skip
    volume = open_tomogram(path, chunks=2)
    assert volume.shape == (size[3], size[2], size[1])
    assert volume.attrs["voxel_size"] == 2.5
    values = volume.values
    for place, value in np.ndenumerate(stored):
        at = dict(zip((sections, rows, columns), place, strict=True))
        assert values[at[3], at[2], at[1]] == value


@pytest.mark.parametrize("opener", [gzip.open, bz2.open])
def test_packed_files_are_unpacked_once_as_a_stream(tmp_path, opener, monkeypatch):
    monkeypatch.setattr(compressed.tempfile, "gettempdir", lambda: str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype("f4")
    plain = write_raw(tmp_path / "TS_01.mrc", values)
    packed = tmp_path / ("TS_01.mrc" + (".gz" if opener is gzip.open else ".bz2"))
    with opener(packed, "wb") as file:
        file.write(plain.read_bytes())
    volume = open_tomogram(packed, chunks=3)
    np.testing.assert_array_equal(volume.values, values)
    assert volume.name == "TS_01"
    (copy,) = (tmp_path / "scratch").rglob("*.mrc")
    first = copy.stat().st_mtime_ns
    np.testing.assert_array_equal(open_tomogram(packed).values, values)
    assert copy.stat().st_mtime_ns == first
    copy.unlink()  # a worker on another machine has none, and makes its own
    np.testing.assert_array_equal(volume.values, values)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"", r"a\.mrc is empty"),
        (lambda raw: raw[:500], r"a\.mrc ends within the header \(500 of 1024 bytes\)"),
        (
            lambda raw: raw[:-1],
            r"a\.mrc is truncated: 5×3×2 voxels of mode 2 need 1144 bytes.* 1143",
        ),
        (lambda raw: raw + b"more", r"longer than its header says.*need 1144 bytes.* has 1148"),
        (lambda raw: b"\0" * 2000, r"a\.mrc is not an MRC file"),
        (lambda raw: b"# a text\n" * 300, r"a\.mrc is not an MRC file"),
    ],
)
def test_damaged_mrc(tmp_path, damage, message):
    path = write_raw(tmp_path / "a.mrc", np.zeros((2, 3, 5), "f4"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        open_tomogram(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"cell_xyz": (0, 0, 0)},
            r"voxel size is 0, 0, 0 Å .*pass the right one in Å \(voxel_size=",
        ),
        ({"cell_xyz": (20, 12, 9)}, r"not cubic \(z 4\.5, y 4, x 4 Å\); .*voxel_size="),
        ({"sampling_xyz": (0, 0, 0)}, "voxel size is 0"),
        ({"mode": 4}, r"MRC mode 4 \(complex 32-bit floats\)"),
        ({"map_crs": (1, 1, 3)}, r"axes \(1, 1, 3\)"),
    ],
)
def test_headers_that_cannot_be_meant(tmp_path, fields, message):
    path = write_raw(tmp_path / "a.mrc", np.zeros((2, 3, 5), "f4"), **fields)
    with pytest.raises(InputError, match=message):
        open_tomogram(path)


def test_rounding_in_the_header_is_no_anisotropy(tmp_path):
    values = np.zeros((30, 40, 50), "f4")
    path = write_raw(tmp_path / "a.mrc", values, cell_xyz=(50 * 13.48, 40 * 13.4801, 30 * 13.4799))
    assert open_tomogram(path).attrs["voxel_size"] == pytest.approx(13.48)


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_damaged_packed_file(tmp_path, suffix):
    plain = write_raw(
        tmp_path / "a.mrc", np.random.default_rng(0).normal(size=(9, 9, 9)).astype("f4")
    )
    pack = gzip.compress if suffix == ".gz" else bz2.compress
    packed = pack(plain.read_bytes())
    path = tmp_path / f"a.mrc{suffix}"
    for raw in (packed[: len(packed) // 2], b"no such format"):
        path.write_bytes(raw)
        with pytest.raises(InputError, match=rf"a\.mrc\{suffix}: .*copy it again"):
            open_tomogram(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.mrc", "no such file"),
        ("a.png", "a tomogram is one of"),
        ("plain.zarr", "no Zarr store"),
    ],
)
def test_no_tomogram_there(tmp_path, name, message):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "plain.zarr").mkdir()
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        open_tomogram(tmp_path / name)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_voxel_size_must_be_positive(tmp_path, value):
    path = write_raw(tmp_path / "a.mrc", np.zeros((2, 3, 5), "f4"))
    with pytest.raises(InputError, match="voxel_size must be above 0 Å"):
        open_tomogram(path, voxel_size=value)


# TIFF and EM


def stack(dtype="u1"):
    return np.random.default_rng(0).integers(0, 200, (7, 12, 10)).astype(dtype)


@pytest.mark.parametrize(
    ("kwargs", "voxel_size"),
    [
        (
            {"imagej": True, "resolution": (1 / 1.2, 1 / 1.2),
             "metadata": {"unit": "nm", "spacing": 1.2, "axes": "ZYX"}},
            12.0,
        ),
        (
            {"imagej": True, "resolution": (500, 500),
             "metadata": {"unit": "um", "spacing": 0.002, "axes": "ZYX"}},
            20.0,
        ),
        (
            {"ome": True, "metadata": {
                "axes": "ZYX", "PhysicalSizeX": 8.5, "PhysicalSizeXUnit": "Å",
                "PhysicalSizeY": 8.5, "PhysicalSizeYUnit": "Å",
                "PhysicalSizeZ": 0.85, "PhysicalSizeZUnit": "nm"}},
            8.5,
        ),
        ({"resolution": (1e7, 1e7), "resolutionunit": "CENTIMETER"}, 10.0),
        ({"resolution": (1e7, 1e7), "resolutionunit": "CENTIMETER", "compression": "zlib"}, 10.0),
    ],
)  # fmt: skip
def test_voxel_size_of_a_tiff(tmp_path, kwargs, voxel_size):
    path = tmp_path / ("a.ome.tif" if kwargs.get("ome") else "a.tif")
    tifffile.imwrite(path, stack(), photometric="minisblack", **kwargs)
    volume = open_tomogram(path)
    np.testing.assert_array_equal(volume.values, stack())
    assert volume.attrs["voxel_size"] == voxel_size
    assert volume.name == "a"
    np.testing.assert_array_equal(volume.data[2:5, 3:9, 1:2].compute(), stack()[2:5, 3:9, 1:2])


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_types_of_a_tiff(tmp_path, dtype, byteorder, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stack(dtype), byteorder=byteorder, compression=compression, photometric="minisblack"
    )
    with pytest.raises(InputError, match=r"a\.tif: the file does not say its voxel size; pass"):
        open_tomogram(path)
    volume = open_tomogram(path, voxel_size=3.0)
    assert volume.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.values, stack(dtype))


def test_a_screen_resolution_is_no_voxel_size(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack(),
        photometric="minisblack",
        resolution=(72, 72),
        resolutionunit="INCH",
    )
    with pytest.raises(InputError, match="does not say its voxel size"):
        open_tomogram(tmp_path / "a.tif")


def test_damaged_tiff(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"no tiff at all")
    with pytest.raises(InputError, match=r"a\.tif is not a TIFF file"):
        open_tomogram(path)
    tifffile.imwrite(path, np.zeros((4, 8, 8, 3), "u1"), photometric="rgb")
    with pytest.raises(InputError, match=r"a\.tif: holds the axes"):
        open_tomogram(path, voxel_size=1.0)
    tifffile.imwrite(path, stack("f4"), compression="zlib", photometric="minisblack")
    volume = open_tomogram(path, voxel_size=1.0)
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[3].dataoffsets[0]
    raw[at : at + 60] = b"\xff" * 60
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.tif: planes 0 to 7 cannot be read"):
        volume.compute(scheduler="sync")


def write_em(path, values, *, machine=6, pixel=0):
    kinds = {"i1": 1, "i2": 2, "i4": 4, "f4": 5, "f8": 9}
    order = ">" if machine in (0, 3, 5) else "<"
    header = bytearray(512)
    header[0], header[3] = machine, kinds[values.dtype.str[1:]]
    header[4:16] = np.array(values.shape[::-1], order + "i4").tobytes()
    header[120:124] = np.array([pixel], order + "i4").tobytes()
    path.write_bytes(bytes(header) + values.astype(values.dtype.newbyteorder(order)).tobytes())
    return path


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("machine", [6, 5])
def test_em(tmp_path, dtype, machine):
    path = write_em(tmp_path / "a.em", stack(dtype), machine=machine, pixel=1348)
    volume = open_tomogram(path, chunks=4)
    np.testing.assert_array_equal(volume.values, stack(dtype))
    assert volume.attrs["voxel_size"] == 13.48
    (tmp_path / "a.em.gz").write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(open_tomogram(tmp_path / "a.em.gz").values, stack(dtype))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"", "is empty"),
        (lambda raw: raw[:100], "ends within the header"),
        (lambda raw: raw[:-1], "header says 10×12×7 voxels of 4 bytes, that is 3872 bytes.*3871"),
        (lambda raw: raw[:3] + b"\x08" + raw[4:], "EM data type 8"),
        (lambda raw: raw, "does not say its voxel size"),
    ],
)
def test_damaged_em(tmp_path, damage, message):
    path = write_em(tmp_path / "a.em", stack("f4"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        open_tomogram(path)


# OME-Zarr


def write_ome(path, values, *, version, axes, units, scale, global_scale=None, chunks=None):
    group = zarr.create_group(str(path), zarr_format=2 if version == "0.4" else 3)
    array = group.create_array(
        "s0", shape=values.shape, dtype=values.dtype, chunks=chunks or values.shape
    )
    array[...] = values
    image = {
        "axes": [
            {"name": axis, **({"unit": unit} if unit else {})}
            for axis, unit in zip(axes, units, strict=True)
        ],
        "datasets": [
            {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    if global_scale:
        image["coordinateTransformations"] = [{"type": "scale", "scale": global_scale}]
    if version == "0.4":
        group.attrs["multiscales"] = [image | {"version": version}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "units", "scale", "voxel_size"),
    [
        ("zyx", ["angstrom"] * 3, [7.5] * 3, 7.5),
        ("zyx", ["nanometer"] * 3, [1.348] * 3, 13.48),
        ("zyx", ["micrometer"] * 3, [0.001] * 3, 10.0),
        ("czyx", [None, *["nanometer"] * 3], [1.0, 2.0, 2.0, 2.0], 20.0),
        ("tczyx", ["second", None, *["angstrom"] * 3], [1.0, 1.0, 4.0, 4.0, 4.0], 4.0),
    ],
)
def test_ome_zarr_of_others(tmp_path, version, axes, units, scale, voxel_size):
    values = stack("i2")
    path = write_ome(
        tmp_path / "a.ome.zarr", values.reshape((1,) * (len(axes) - 3) + values.shape),
        version=version, axes=axes, units=units, scale=scale,
    )  # fmt: skip
    volume = open_tomogram(path, chunks=5)
    np.testing.assert_array_equal(volume.values, values)
    assert volume.attrs["voxel_size"] == voxel_size
    assert volume.name == "a"


def test_the_transform_of_the_image_counts_too(tmp_path):
    path = write_ome(
        tmp_path / "a.zarr", stack(), version="0.4", axes="zyx", units=["nanometer"] * 3,
        scale=[2.0] * 3, global_scale=[0.5] * 3,
    )  # fmt: skip
    assert open_tomogram(path).attrs["voxel_size"] == 10.0


def test_written_by_ngff_zarr(tmp_path):
    """What a third party writes is read, with its units."""
    ngff_zarr = pytest.importorskip("ngff_zarr")
    image = ngff_zarr.to_ngff_image(
        stack("f4"), dims=["z", "y", "x"], scale=dict.fromkeys("zyx", 1.5),
        axes_units=dict.fromkeys("zyx", "nanometer"),
    )  # fmt: skip
    ngff_zarr.to_ngff_zarr(
        str(tmp_path / "a.zarr"), ngff_zarr.to_multiscales(image, scale_factors=[])
    )
    volume = open_tomogram(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.values, stack("f4"))
    assert volume.attrs["voxel_size"] == 15.0


@pytest.mark.parametrize(
    ("axes", "units", "scale", "shape", "message"),
    [
        ("xyz", ["angstrom"] * 3, [1] * 3, (7, 12, 10), r"the axes are \['x', 'y', 'z'\]"),
        (
            "czyx",
            [None, *["angstrom"] * 3],
            [1] * 4,
            (2, 7, 6, 10),
            "one channel and one time point",
        ),
        ("zyx", [None] * 3, [1] * 3, (7, 12, 10), "does not say its voxel size"),
        ("zyx", ["angstrom"] * 3, [0] * 3, (7, 12, 10), "voxel size is 0"),
        ("zyx", ["nanometer"] * 3, [2, 1, 1], (7, 12, 10), r"not cubic \(z 20, y 10, x 10 Å\)"),
    ],
)
def test_ome_zarr_that_is_no_tomogram(tmp_path, axes, units, scale, shape, message):
    path = write_ome(
        tmp_path / "a.zarr", np.resize(stack(), shape), version="0.5", axes=axes, units=units,
        scale=scale,
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        open_tomogram(path)


def test_a_group_without_an_image(tmp_path):
    zarr.create_group(str(tmp_path / "a.zarr"))
    with pytest.raises(InputError, match="no multiscales in its attributes"):
        open_tomogram(tmp_path / "a.zarr")


def test_a_bare_array_opens_with_a_voxel_size(tmp_path):
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(7, 12, 10), chunks=(4, 4, 4), dtype="u1"
    )
    array[:] = stack()
    with pytest.raises(InputError, match="does not say its voxel size"):
        open_tomogram(tmp_path / "a.zarr")
    np.testing.assert_array_equal(
        open_tomogram(tmp_path / "a.zarr", voxel_size=1.0).values, stack()
    )


@pytest.fixture
def store(tmp_path):
    """A store of 2×2×2 shards of 2×2×2 chunks."""
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype("f4")
    volume = xr.DataArray(da.from_array(values), dims=("z", "y", "x"), attrs={"voxel_size": 1.0})
    save_tomogram(volume, tmp_path / "TS_01.zarr", chunk=4, shard=8)
    return tmp_path / "TS_01.zarr"


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


def forget(path, number, chunks=8):
    """Take a chunk out of the index of a shard, as a writer would that left it out."""
    raw = bytearray(path.read_bytes())
    at = len(raw) - 16 * chunks - 4
    raw[at + 16 * number : at + 16 * number + 16] = b"\xff" * 16
    raw[-4:] = np.array(google_crc32c.value(bytes(raw[at:-4])), "<u4").tobytes()
    path.write_bytes(raw)


SHARD = r"the shard c/1/0/1 .*is damaged|the shard c/1/0/1 is damaged"
DAMAGES = {
    "missing": (lambda shard: shard.unlink(), "the chunk c/1/0/1 is missing"),
    "cut": (lambda shard: shard.write_bytes(shard.read_bytes()[:-40]), SHARD),
    "empty": (lambda shard: shard.write_bytes(b""), SHARD),
    "voxels": (lambda shard: flip(shard, 100), SHARD),
    "index": (lambda shard: flip(shard, -20), SHARD),
    "chunk": (lambda shard: forget(shard, 3), "a chunk of the shard c/1/0/1 is missing"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_told(store, damage):
    break_it, message = DAMAGES[damage]
    break_it(store / "0" / "c" / "1" / "0" / "1")
    volume = open_tomogram(store)
    said = rf"TS_01\.zarr, level 0: (?:{message}).*make the store again"
    with pytest.raises(InputError, match=said) as caught:
        volume.compute(scheduler="sync")
    assert str(cloudpickle.loads(cloudpickle.dumps(caught.value))) == str(caught.value)
    open_tomogram(store, chunks=8).data[:8].compute()  # the rest is readable


def test_damage_is_told_from_other_workers(store):
    (store / "0" / "c" / "0" / "0" / "0").unlink()
    with (
        Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client,
        pytest.raises(InputError, match="the chunk c/0/0/0 is missing"),
    ):
        client.compute(open_tomogram(store).data.sum()).result()


def test_a_missing_level_is_told(store):
    shutil.rmtree(store / "0")
    with pytest.raises(InputError, match=r"TS_01\.zarr: the level 0 is missing"):
        open_tomogram(store)


def test_chunks_of_zeros_are_written_too(tmp_path):
    """Else a missing one could not be told from an empty one."""
    volume = xr.DataArray(
        np.zeros((8, 8, 8), "f4"), dims=("z", "y", "x"), attrs={"voxel_size": 1.0}
    )
    save_tomogram(volume, tmp_path / "a.zarr", chunk=4, shard=4)
    assert len([p for p in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if p.is_file()]) == 8
    assert not open_tomogram(tmp_path / "a.zarr").values.any()


def test_stores_of_others_may_leave_out_empty_chunks(tmp_path):
    path = write_ome(
        tmp_path / "a.zarr", np.zeros((8, 8, 8), "f4"), version="0.5", axes="zyx",
        units=["angstrom"] * 3, scale=[1.0] * 3, chunks=(4, 4, 4),
    )  # fmt: skip
    assert not list((path / "s0").glob("c"))
    assert not open_tomogram(path).values.any()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_chunks_that_others_left_out_or_lost_are_counted_once(tmp_path, version, caplog):
    path = write_ome(
        tmp_path / "a.zarr", np.ones((1, 8, 8, 12), "f4"), version=version, axes="czyx",
        units=[None, *["angstrom"] * 3], scale=[1.0] * 4, chunks=(1, 4, 4, 4),
    )  # fmt: skip
    open_tomogram(path)
    assert not caplog.text
    for key in ("0.0.0.1", "0.1.1.2") if version == "0.4" else ("c/0/0/0/1", "c/0/1/1/2"):
        (path / "s0" / key).unlink()
    os.utime(next(f for f in (path / "s0").iterdir() if f.name in ("zarr.json", ".zarray")))
    for _ in range(2):
        assert open_tomogram(path).values.sum() == 8 * 8 * 12 - 2 * 4**3
    assert caplog.text.count("a.zarr, level s0: 2 of 12 chunks are absent and are read as 0") == 1


def test_chunks_of_a_store_are_its_shards(store):
    assert open_tomogram(store).data.chunksize == (16, 16, 16)  # 8 shards, about 128 voxels at most
    assert open_tomogram(store, chunks=8).data.chunksize == (8, 8, 8)
    with pytest.raises(InputError, match=r"chunks=.* do not fit"):
        open_tomogram(store, chunks=(3, 3))


def test_a_file_that_went_away_is_told(tmp_path):
    path = write_raw(tmp_path / "a.mrc", np.zeros((2, 3, 5), "f4"))
    volume = open_tomogram(path)
    path.unlink()
    with (
        pytest.raises(InputError, match=r"a\.mrc: no such file"),
        dask.config.set(scheduler="sync"),
    ):
        volume.compute()


def test_units():
    assert [angstroms(u) for u in ("nanometer", "Å", "µm", "\\u00B5m", "inch", "micron")] == [
        10.0, 1.0, 1e4, 1e4, 2.54e8, 1e4,
    ]  # fmt: skip
    assert angstroms("pixel") is None
