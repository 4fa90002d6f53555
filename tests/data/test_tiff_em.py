"""TIFF and EM: sizes, types and byte orders mean what they say, damage is told."""

import gzip

import numpy as np
import pytest
import tifffile
from data.volume_files import stack

from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError


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
