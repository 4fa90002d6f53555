"""MRC: every real file opens, every dialect means what it says, damage is told."""

import bz2
import gzip
import warnings

import mrcfile
import numpy as np
import pytest
import tifffile
from data.volume_files import real_files, write_raw
from helpers import shared_data

from tomodask.data import compressed
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError

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
