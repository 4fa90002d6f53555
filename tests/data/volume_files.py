"""Files of volumes: real ones, and an MRC written byte by byte."""

import os
from pathlib import Path

import numpy as np

from tomodask.data.mrc import header_dtype


def real_files(*suffixes):
    """Names of the files of the shared data; where it is missing, one that skips."""
    root = Path(os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[3] / "shared" / "data")
    found = sorted(p.relative_to(root) for p in root.rglob("*") if p.name.endswith(suffixes))
    return [str(p) for p in found if not p.name.endswith((".pdb.gz", ".cif.gz"))] or ["maps"]


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


# TIFF and EM


def stack(dtype="u1"):
    return np.random.default_rng(0).integers(0, 200, (7, 12, 10)).astype(dtype)
