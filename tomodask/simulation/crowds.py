"""Boxes cut from crowded tomograms: each particle with the neighbours that it has in a cell.

Tomogram after tomogram is packed, imaged and reconstructed, and boxes are cut where the particles
are, until there are enough of each kind.  Packing is drawn at once, all else when it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.data.extraction import extract_subtomograms
from tomodask.data.subtomogram_table import batch_size
from tomodask.errors import InputError
from tomodask.reconstruction.tomogram import reconstruct
from tomodask.simulation.imaging import simulate_tilt_series
from tomodask.simulation.packing import Packing, pack
from tomodask.simulation.projections import project_volume
from tomodask.simulation.protocols import Protocol
from tomodask.simulation.shapes import particle_shape
from tomodask.simulation.specimen import specimen_density

__all__ = ["crowded_subtomograms"]

_EACH = 8  # copies of each kind that a tomogram is laid out for


def crowded_subtomograms(
    densities: Mapping[str, xr.DataArray], how: Protocol, *, name: str, seed: int
) -> xr.Dataset:
    """Boxes around particles of crowded tomograms, see `simulate_subtomograms`.

    Parameters
    ----------
    densities : mapping
        Name of each kind → its density in volts, at half the voxel size.
    how : Protocol
        With `crowding`: the share of the slab that bounding spheres fill.
    name : str
        Of the set; tomograms are named NAME-000, NAME-001, …
    seed : int

    Raises
    ------
    InputError
        If particles of some kind do not fit, or the crowding is out of reach.
    """
    size, box = how.voxel_size, how.box
    shapes = {kind: particle_shape(one, voxel_size=size) for kind, one in densities.items()}
    assert how.crowding is not None
    thick = max(2 * math.ceil(max(one.radius for one in shapes.values()) / size) + 8, 2 * box)
    balls = sum(4 / 3 * math.pi * one.radius**3 for one in shapes.values()) * _EACH
    # A border of half a box is cut off: its boxes would reach out of the tomogram.
    edge = math.ceil(math.sqrt(balls / how.crowding / (thick * size) / size**2)) + box
    shape = (thick + thick % 2, edge + edge % 2, edge + edge % 2)
    wanted = dict.fromkeys(shapes, how.count)
    parts = []
    for number, packing in enumerate(_packings(shapes, shape, how, name, seed)):
        picks = _whole_boxes(packing, box, wanted)
        if len(picks):
            parts.append(_boxes(packing, picks, densities, how, _seed(seed, number)))
        if not any(wanted.values()):
            break
        if number >= 20 + 4 * how.count:
            short = min(wanted, key=lambda kind: -wanted[kind])
            raise InputError(
                f"{number + 1} tomograms at crowding {how.crowding:g} gave only "
                f"{how.count - wanted[short]} of {how.count} boxes of {short!r}; ask for less "
                "crowding or a smaller box"
            )
    together = xr.concat(
        parts, dim="particle", combine_attrs="drop", coords="different", compat="equals",
        join="outer",
    )  # fmt: skip
    records = {key: one for part in parts for key, one in part.attrs["tilt_series"].items()}
    together.attrs = {"voxel_size": size, "tilt_series": records, "seed": seed}
    together = together.assign_coords(particle=np.arange(together.sizes["particle"]))
    batch = batch_size(together.sizes["particle"], box)
    together["subtomogram"].data = together["subtomogram"].data.rechunk((batch, -1, -1, -1))
    return together


def _seed(seed: int, number: int) -> int:
    """A seed for each tomogram, from that of the set."""
    return int(np.random.default_rng([seed, number]).integers(2**31))


def _packings(
    shapes: Mapping[str, object],
    shape: tuple[int, int, int],
    how: Protocol,
    name: str,
    seed: int,
) -> Iterator[Packing]:
    number = 0
    while True:
        yield pack(
            shapes,  # type: ignore[arg-type]
            shape=shape,
            voxel_size=how.voxel_size,
            occupancy=how.crowding,
            name=f"{name}-{number:03d}",
            seed=_seed(seed, number),
        )
        number += 1


def _whole_boxes(packing: Packing, box: int, wanted: dict[str, int]) -> pd.DataFrame:
    """Particles whose boxes lie whole inside along y and x, as many as are still `wanted`."""
    table, size = packing.particles, packing.voxel_size
    _, ny, nx = packing.shape
    at = np.rint(table[["y", "x"]].to_numpy(float) / size)
    inside = ((at >= box // 2) & (at + box - box // 2 <= (ny, nx))).all(1)
    kinds = [str(kind) for kind in table["kind"]]
    keep = np.zeros(len(table), bool)
    for row in np.flatnonzero(inside):
        if wanted[kinds[row]]:
            wanted[kinds[row]] -= 1
            keep[row] = True
    return table[keep]


def _boxes(
    packing: Packing,
    picks: pd.DataFrame,
    densities: Mapping[str, xr.DataArray],
    how: Protocol,
    seed: int,
) -> xr.Dataset:
    """The boxes of one tomogram, in the order of `picks`."""
    name = str(picks["tomogram"].iloc[0])
    volume = specimen_density(packing, densities, resolution=how.resolution)
    # As in a simulated tomogram, the slab goes on at its mean beyond its borders.
    volume = volume.copy(data=volume.data - volume.data.mean(dtype=np.float64).astype(np.float32))
    scheme = pd.DataFrame({"angle": how.angles, "order": np.arange(len(how.angles))})
    series = simulate_tilt_series(
        project_volume(volume, how.angles),
        scheme=scheme,
        microscope=how.microscope,
        detector=how.detector,
        snr=None if math.isinf(how.snr) else how.snr,
        seed=seed,
    )
    # Half a box of ice above and below, so that no box reaches out of the tomogram.
    higher = 2 * (how.box // 2 + 1)
    tomogram = reconstruct(
        series,
        thickness=(packing.shape[0] + higher) * how.voxel_size,
        ctf="flip" if how.phase_flip and how.microscope.ctf else "none",
        invert=True,
    ).rename(name)
    lifted = picks.assign(z=picks["z"] + higher / 2 * how.voxel_size)
    return extract_subtomograms(tomogram, lifted, box=how.box).sortby("particle")
