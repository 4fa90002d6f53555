"""Particle tables: one particle a row, read from and written to STAR, Dynamo and CSV.

The columns are those of docs/design.md: positions and shifts in Å along (z, y, x), orientations as
quaternions.  Other conventions (pixels, Euler angles, counting from 1) end at the file's border.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.data.columns import POSITION, QUATERNION, as_types, require_columns
from tomodask.data.dynamo import read_dynamo, write_dynamo
from tomodask.data.star import STYLES, read_star, write_star
from tomodask.data.writing import replacing
from tomodask.errors import InputError

__all__ = [
    "PARTICLE_SUFFIXES",
    "orientations",
    "read_particles",
    "with_orientations",
    "write_particles",
]

PARTICLE_SUFFIXES = (".star", ".tbl", ".csv")

Shape = tuple[int, int, int]
# From pandas 3 on, numbers are read exactly without asking, and asking is frowned upon.
_EXACT: Any = (
    {} if int(pd.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}
)


def orientations(table: pd.DataFrame) -> Rotation:
    """Orientations of the particles, reference → particle, acting on xyz column vectors.

    Parameters
    ----------
    table : DataFrame
        With the columns ``quat_x, quat_y, quat_z, quat_w``.

    Raises
    ------
    InputError
        If columns are missing, or a quaternion is not finite or zero.

    Examples
    --------
    >>> table = with_orientations(pd.DataFrame({"x": [1.0]}), Rotation.identity(1))
    >>> orientations(table).magnitude().tolist()
    [0.0]
    """
    require_columns(table, ("orientation",), "the particle table", rows=False)
    quaternions = table[list(QUATERNION)].to_numpy(float)
    bad = ~(np.linalg.norm(quaternions, axis=1) > 0)
    if bad.any():
        raise InputError(
            f"the particle table has no orientation in {bad.sum()} rows, the first is row "
            f"{int(np.argmax(bad))}; drop them or align them first"
        )
    return Rotation.from_quat(quaternions) if len(quaternions) else Rotation.identity(0)


def with_orientations(table: pd.DataFrame, rotation: Rotation) -> pd.DataFrame:
    """A copy of the table with other orientations.

    Parameters
    ----------
    table : DataFrame
    rotation : Rotation, one per row
        Reference → particle.  Its quaternions are stored with w ≥ 0.

    Raises
    ------
    ValueError
        If there is not one rotation per row.
    """
    quaternions = np.atleast_2d(rotation.as_quat(canonical=True)).reshape(-1, 4)
    if len(quaternions) != len(table):
        raise ValueError(f"need one rotation per row, got {len(quaternions)} for {len(table)} rows")
    return table.assign(**dict(zip(QUATERNION, quaternions.T, strict=True)))


def read_particles(
    path: str | os.PathLike[str],
    *,
    voxel_size: float | None = None,
    tomogram_shape: Shape | Mapping[str, Shape] | str | os.PathLike[str] | None = None,
    need: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a particle table.

    Parameters
    ----------
    path : path
        ``.star`` (RELION 3.1, 4, 5, Warp; also RELION 5's optimisation set), ``.tbl`` (Dynamo) or
        ``.csv`` (the columns of docs/design.md).
    voxel_size : float, optional
        Å: the voxel that coordinates count in, in place of what the file says; Dynamo's tables
        say nothing.
    tomogram_shape : tuple, mapping or path, optional
        Only for RELION 5, whose positions start at the tomogram's middle: (z, y, x) in voxels of
        `voxel_size`, the same by tomogram, or a ``tomograms.star``.  By default the one that the
        optimisation set beside the file names.
    need : sequence of str
        What must be there: ``"position"``, ``"orientation"``, ``"shift"``, ``"tilt_range"`` or
        names of columns; then the table must have rows, too.

    Returns
    -------
    DataFrame
        Columns as in docs/design.md, then what else the file has, under its own names.  ``attrs``:
        `source`, and where known `voxel_size` (Å, of the coordinates) and `optics`.

    Raises
    ------
    InputError
        If the file is missing, of another format, holds no particles, or lacks what is needed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path} is a folder")
    if voxel_size is not None and not (np.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(f"voxel_size must be above 0 Å, got {voxel_size}")
    suffix = path.suffix.lower()
    if suffix == ".star":
        table = read_star(path, voxel_size=voxel_size, tomogram_shape=tomogram_shape)
    elif suffix == ".tbl":
        table = read_dynamo(path, voxel_size=voxel_size)
    elif suffix == ".csv":
        table = _read_csv(path)
        if voxel_size is not None:
            table.attrs["voxel_size"] = voxel_size
    else:
        raise InputError(
            f"{path}: a particle table is one of {', '.join(PARTICLE_SUFFIXES)}, by its name"
        )
    table.attrs["source"] = str(path)
    require_columns(table, need, str(path))
    return table


def write_particles(
    table: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    voxel_size: float | None = None,
    tomogram_shape: Shape | Mapping[str, Shape] | str | os.PathLike[str] | None = None,
    style: str = "relion3.1",
    overwrite: bool = True,
) -> None:
    """Write a particle table; what is read back is equal to 10 digits.

    Parameters
    ----------
    table : DataFrame
        Columns as in docs/design.md; others are kept under their own names (not by Dynamo).
    path : path
        ``.star``, ``.tbl`` or ``.csv``.
    voxel_size : float, optional
        Å: the voxel that coordinates shall count in; by default that of the file the table was
        read from.  A STAR without positions and a CSV need none.
    tomogram_shape : tuple, mapping or path, optional
        As for `read_particles`; needed for RELION 5.
    style : {"relion3.1", "relion4", "relion5"}
        Of a STAR.
    overwrite : bool

    Raises
    ------
    InputError
        If `path` exists and may not be overwritten, the disk is full, or something is missing
        that the format needs.
    """
    path = Path(path)
    if style not in STYLES:
        raise InputError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    size = voxel_size if voxel_size is not None else table.attrs.get("voxel_size")
    if size is not None and not (np.isfinite(size) and size > 0):
        raise InputError(f"voxel_size must be above 0 Å, got {size}")
    suffix = path.suffix.lower()
    if suffix not in PARTICLE_SUFFIXES:
        raise InputError(f"{path}: written are {', '.join(PARTICLE_SUFFIXES)}; choose one")
    with replacing(path, overwrite=overwrite) as part:
        if suffix == ".star":
            write_star(table, part, voxel_size=size, tomogram_shape=tomogram_shape, style=style)
        elif suffix == ".tbl":
            write_dynamo(table, part, path=path, voxel_size=size)
        else:
            table.to_csv(part, index=False)  # pandas prints the shortest exact number


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(
            path,
            dtype={"tomogram": "str", "image": "str"},
            **_EXACT,
            skipinitialspace=True,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a CSV table that can be read ({error})") from None
    if not any(set(group) <= set(table) for group in (POSITION, QUATERNION, ("image",))):
        raise InputError(
            f"{path}: no particles; needs the columns z, y, x (Å), quat_x … quat_w or image, "
            f"found {', '.join(map(str, table)) or 'none'}"
        )
    return as_types(table, str(path))
