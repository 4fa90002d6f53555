"""STAR files of RELION 3.1, 4 and 5 and of Warp: particles in pixels or centred Å, Euler angles.

What a file says becomes the columns of docs/design.md; all else is kept under its own name.

* position: ``rlnCoordinateX`` × pixel size, or ``rlnCenteredCoordinateXAngst`` + half the
  tomogram's extent (RELION 5 divides by two without rounding);
* shift: − ``rlnOriginXAngst`` (or − ``rlnOriginX`` × pixel size, before 3.1);
* orientation: ``rlnAngleRot, rlnAngleTilt, rlnAnglePsi``.  Where ``rlnTomoSubtomogramRot`` … are
  there too, orientation = subtomogram · angles and shift = − subtomogram · origin, as RELION's
  ``ParticleSet`` does; the two become one and only ``rlnAngleRot`` … are written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import reduce
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import relion_from_rotation, rotation_from_relion
from tomodask.data.columns import POSITION, QUATERNION, SHIFT, as_types, converted
from tomodask.data.relion_optics import Optics, pixel_sizes
from tomodask.data.relion_tomograms import centre_offsets, optimisation_set, set_beside
from tomodask.errors import InputError

__all__ = ["SCORE_COLUMNS", "STYLES", "printed_block", "read_blocks", "read_star", "write_star"]

STYLES = ("relion3.1", "relion4", "relion5")
SCORE_COLUMNS = (
    "rlnLCCmax",
    "ptmLCCmax",
    "rlnAutopickFigureOfMerit",
    "rlnMaxValueProbDistribution",
)
_COORDINATE = tuple(f"rlnCoordinate{axis}" for axis in "ZYX")
_CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX")
_ORIGIN_ANGST = tuple(f"rlnOrigin{axis}Angst" for axis in "ZYX")
_ORIGIN = tuple(f"rlnOrigin{axis}" for axis in "ZYX")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
_PLAIN = {
    "image": "rlnImageName",
    "tilt_min": "tomodaskTiltMin",
    "tilt_max": "tomodaskTiltMax",
    "half": "rlnRandomSubset",
    "class": "rlnClassNumber",
}
_TEXT = [
    "rlnTomoName", "rlnMicrographName", "rlnImageName", "rlnCtfImage", "rlnTomoParticleName",
    "rlnOpticsGroupName", "rlnReconstructImageName", "rlnTomoParticlesFile", "rlnTomoTomogramsFile",
]  # fmt: skip
_DIGITS = 10
_NOT_IN_STAR = re.compile(r"[\"'#\n\r\t]")

Blocks = dict[str, Any]


def read_star(path: Path, *, voxel_size: float | None, tomogram_shape: Any) -> pd.DataFrame:
    """The particles of a STAR file; parameters as of `read_particles`."""
    blocks = read_blocks(path)
    if (found := optimisation_set(path, blocks)) is not None:
        particles_file, tomograms_file = found
        shape = tomogram_shape if tomogram_shape is not None else tomograms_file
        return read_star(particles_file, voxel_size=voxel_size, tomogram_shape=shape)
    particles = _particle_block(path, blocks)
    optics = Optics.of_blocks(blocks)
    pixel = pixel_sizes(particles, optics, voxel_size)
    table = pd.DataFrame(index=particles.index)
    used: set[str] = set()

    def take(columns: tuple[str, ...]) -> np.ndarray | None:
        if not set(columns) <= set(particles):
            return None
        used.update(columns)
        try:
            return np.asarray(particles[list(columns)].to_numpy(float))
        except ValueError as error:
            raise InputError(f"{path}: {', '.join(columns)} must be numbers ({error})") from None

    for name in ("rlnTomoName", "rlnMicrographName"):
        if name in particles and "tomogram" not in table:
            table["tomogram"] = particles[name].astype("str")
            used.add(name)
    coordinate, centred = take(_COORDINATE), take(_CENTRED)
    origin_angst, origin_pixels = take(_ORIGIN_ANGST), take(_ORIGIN)
    if pixel is None and (coordinate is not None or origin_pixels is not None) and centred is None:
        raise InputError(
            f"{path}: coordinates count in pixels and the file does not say their size "
            "(rlnImagePixelSize, rlnPixelSize …); pass voxel_size=… (--voxel-size on the command "
            "line) in Å"
        )
    if centred is not None:
        shape = tomogram_shape if tomogram_shape is not None else set_beside(path, read_blocks)
        position = centred + _centres(path, table, shape, voxel_size)
    elif coordinate is not None and pixel is not None:
        position = coordinate * pixel[:, None]
    else:
        position = None
    if position is not None:
        table[list(POSITION)] = position
    angles, subtomogram = take(_ANGLES), take(_SUBTOMOGRAM)
    shift = None
    if origin_angst is not None:
        shift = -origin_angst
    elif origin_pixels is not None and pixel is not None:
        shift = -origin_pixels * pixel[:, None]
    if len(particles):
        turns = [one for one in (subtomogram, angles) if one is not None]
        if turns:
            table[list(QUATERNION)] = converted(np.hstack(turns), _quaternions, 4)
        if subtomogram is not None and shift is not None:
            shift = converted(np.hstack([subtomogram, shift[:, ::-1]]), _turned, 3)[:, ::-1]
    elif angles is not None or subtomogram is not None:
        table[list(QUATERNION)] = np.zeros((0, 4))
    if shift is not None:
        table[list(SHIFT)] = shift
    score = next((name for name in SCORE_COLUMNS if name in particles), None)
    if score is not None:
        table["score"] = particles[score]
        if score == SCORE_COLUMNS[0]:
            used.add(score)  # the others say more than "score": kept under their names, too
    for ours, theirs in _PLAIN.items():
        if theirs in particles:
            table[ours] = particles[theirs]
            used.add(theirs)
    if optics.is_single(particles):
        used.add("rlnOpticsGroup")  # says nothing; is written again with the optics
    rest = particles[[name for name in particles if name not in used]]
    table = as_types(pd.concat([table, rest], axis=1).reset_index(drop=True))
    if pixel is not None and len(pixel):
        table.attrs["voxel_size"] = float(pixel[0])
    elif voxel_size is not None:
        table.attrs["voxel_size"] = voxel_size
    if optics.rows:
        table.attrs["optics"] = optics.rows
    return table


def _quaternions(angles: np.ndarray) -> np.ndarray:
    """Of RELION's angles, three a turn: the turns one after another, the last first."""
    turns = [rotation_from_relion(angles[:, i : i + 3]) for i in range(0, angles.shape[1], 3)]
    return np.asarray(reduce(mul, turns).as_quat(canonical=True))


def _turned(values: np.ndarray) -> np.ndarray:
    """Vectors (columns 3 to 5; x, y, z) turned by RELION's angles (columns 0 to 2)."""
    return np.asarray(rotation_from_relion(values[:, :3]).apply(values[:, 3:]))


def write_star(
    table: pd.DataFrame, part: Path, *, voxel_size: float | None, tomogram_shape: Any, style: str
) -> None:
    """Write a STAR file to `part`; parameters as of `write_particles`."""
    has_position = set(POSITION) <= set(table)
    if has_position and voxel_size is None:
        raise InputError(
            "voxel_size is needed to write positions into a STAR, which counts in voxels; "
            "pass voxel_size=… (--voxel-size on the command line) in Å"
        )
    columns: dict[str, Any] = {}
    if "tomogram" in table:
        name = "rlnMicrographName" if style == "relion3.1" else "rlnTomoName"
        columns[name] = table["tomogram"].astype("str")
    optics = Optics.to_write(table, voxel_size, style)
    if has_position and voxel_size is not None:
        position = table[list(POSITION)].to_numpy(float)
        if style == "relion5":
            shape = tomogram_shape
            values = position - _centres(Path("the STAR"), table, shape, voxel_size)
            names = _CENTRED
        else:
            values = position / optics.per_particle(table, voxel_size)[:, None]
            names = _COORDINATE
        columns.update(zip(names[::-1], values.T[::-1], strict=True))
    if set(QUATERNION) <= set(table):
        quaternions = table[list(QUATERNION)].to_numpy(float)
        angles = converted(
            quaternions, lambda known: relion_from_rotation(Rotation.from_quat(known)), 3
        )
        columns.update(zip(_ANGLES, angles.T, strict=True))
    if set(SHIFT) <= set(table):
        columns.update(
            zip(_ORIGIN_ANGST[::-1], -table[list(SHIFT[::-1])].to_numpy(float).T, strict=True)
        )
    if "score" in table:
        columns[SCORE_COLUMNS[0]] = table["score"]
    for ours, theirs in _PLAIN.items():
        if ours in table:
            columns[theirs] = table[ours]
    ours_all = {"tomogram", *POSITION, *SHIFT, *QUATERNION, "score", *_PLAIN}
    rest = [name for name in table if name not in ours_all and name not in columns]
    columns.update({str(name): table[name] for name in rest})
    if optics.rows:
        columns["rlnOpticsGroup"] = optics.groups(table)
    particles = pd.DataFrame(
        {name: np.asarray(values) for name, values in columns.items()}, index=range(len(table))
    )
    blocks: Blocks = {"optics": printed_block(pd.DataFrame(optics.rows))} if optics.rows else {}
    starfile.write(
        {**blocks, "particles": printed_block(particles)},
        part,
        sep="\t",
        na_rep="nan",
        overwrite=True,
    )
    if not part.exists():  # starfile adds .star to a name without it
        part.with_suffix(part.suffix + ".star").rename(part)


def read_blocks(path: Path) -> Blocks:
    """The data blocks of a STAR file by name; loops are DataFrames, single values dicts."""
    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=_TEXT)
    except Exception as error:  # the parser raises whatever it stumbles over
        raise InputError(
            f"{path} is not a STAR file that can be read ({type(error).__name__}: {error})"
        ) from None
    if not blocks:
        state = "is empty" if path.stat().st_size == 0 else "has no data block"
        raise InputError(f"{path} {state}: not a STAR file")
    return dict(blocks)


def _particle_block(path: Path, blocks: Blocks) -> pd.DataFrame:
    """The one block that lists particles."""
    groups = (_COORDINATE, _CENTRED, _ANGLES, ("rlnImageName",))
    candidates = {
        name: block
        for name, block in blocks.items()
        if isinstance(block, pd.DataFrame) and any(set(group) <= set(block) for group in groups)
    }
    if "particles" in candidates:
        return pd.DataFrame(candidates["particles"])
    if len(candidates) == 1:
        return pd.DataFrame(next(iter(candidates.values())))
    if candidates:
        raise InputError(
            f"{path}: {len(candidates)} blocks hold particles ({', '.join(candidates)}) and none "
            "is called data_particles; keep one of them"
        )
    loops = {name: block for name, block in blocks.items() if isinstance(block, pd.DataFrame)}
    best = max(
        loops.values(), key=lambda block: sum("oordinate" in str(name) for name in block),
        default=pd.DataFrame(),
    )  # fmt: skip
    found = ", ".join(map(str, list(best)[:12])) or "no table"
    listed = ", ".join(f"data_{name}" for name in blocks)
    raise InputError(
        f"{path}: no particles in {listed}; needs the columns rlnCoordinateX, Y, Z, "
        "rlnCenteredCoordinateXAngst, Y, Z, rlnAngleRot, Tilt, Psi or rlnImageName, "
        f"found {found}"
    )


def _centres(
    path: Path,
    table: pd.DataFrame,
    shape: tuple[int, int, int] | Mapping[str, Any] | str | os.PathLike[str] | None,
    voxel_size: float | None,
) -> np.ndarray:
    """Middle of each particle's tomogram in Å, shape (n, 3) or (3,)."""
    names = table["tomogram"].tolist() if "tomogram" in table else None
    return centre_offsets(path, names, shape, voxel_size, read_blocks)


def printed_block(block: pd.DataFrame) -> pd.DataFrame:
    """Floats as text of ten digits that reads as a float; text checked for what STAR lacks."""
    out = {}
    for name, values in block.items():
        if values.dtype.kind == "f":
            out[name] = [_number(value) for value in values]
            continue
        if values.dtype.kind not in "iub":
            for value in values:
                if isinstance(value, str) and _NOT_IN_STAR.search(value):
                    raise InputError(
                        f"column {name}: {value!r} holds a quote, #, tab or new line, which a "
                        "STAR file cannot keep; rename it or write .csv"
                    )
        out[name] = list(values)
    return pd.DataFrame(out, columns=list(block), dtype=object)


def _number(value: float) -> str:
    text = f"{value:.{_DIGITS}g}"
    return text if any(mark in text for mark in ".en") else text + ".0"
