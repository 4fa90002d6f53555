"""From atoms to the electrostatic potential that an electron feels, on voxels, above that of ice.

An atom's potential is the Fourier transform of its electron scattering factor, tabulated as five
Gaussians for neutral atoms [1]_.  From it the solvent that the atom takes the place of is taken
away: a Gaussian of the atom's volume [2]_ [3]_ times the mean potential of the solvent.  Atoms of
one element differ by their places only, so their spectrum is a sum over points, times a function
of |k|: the points are spread onto a grid twice as fine, whose spectrum, divided by that of the
spreading kernel and cut to the voxels' band, is that sum (error about 1e-5).  No atom is drawn,
none is cut off, and none is moved to the next voxel.

.. [1] Peng, Ren, Dudarev & Whelan, Acta Cryst. A52, 257 (1996); International Tables for
   Crystallography C, table 4.3.2.2 (0 to 2 Å⁻¹), as gemmi holds it.
.. [2] Fraser, MacRae & Suzuki, J. Appl. Cryst. 11, 693 (1978).
.. [3] Svergun, Barberato & Koch, J. Appl. Cryst. 28, 768 (1995): CRYSOL.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import xarray as xr

from tomodask.arrays.gridding import WIDTH, kernel_transform, spread
from tomodask.arrays.resampling import fitted
from tomodask.data.resample import resample_map
from tomodask.data.tomograms import open_tomogram, tomogram_format
from tomodask.data.volumes import UnknownVoxelSizeError
from tomodask.errors import InputError
from tomodask.simulation.structures import (
    STRUCTURE_SUFFIXES,
    Structure,
    center_of_mass,
    is_structure,
    read_structure,
)

__all__ = ["AMORPHOUS_ICE", "inner_contrast", "structure_density"]

#: Density of amorphous ice, g/cm³.
AMORPHOUS_ICE = 0.94
#: h² / (2π m e), V·Å²: from a scattering factor in Å to a potential in V·Å³.
_POTENTIAL = 47.87801
#: V Å³ above ice of a kDa of protein: that of 1mnf, 1u6g, 1s3x and 3gl1, alike to 0.5 %.
_PER_KILODALTON = 4020.0
_AVOGADRO = 0.602214  # molecules per Å³ in a mole per cm³
_WATER = 18.015  # g / mol

# What an atom takes of the solvent's room, Å³ [2, 3]; other elements by their van der Waals radius.
_VOLUMES = {"H": 5.15, "C": 16.44, "N": 2.49, "O": 9.13, "P": 5.73, "S": 19.86}
_MOST = 1024  # voxels along the edge of a box


def structure_density(
    structure: Structure | xr.DataArray | str | os.PathLike[str],
    *,
    voxel_size: float,
    resolution: float,
    box: int | None = None,
    solvent: float | bool = True,
    assembly: str | None = None,
    contrast: float = 2.5,
    mass: float | None = None,
) -> xr.DataArray:
    """Electrostatic potential of a structure above that of the solvent, on a cubic grid.

    The voxels are samples of the true potential, cut to their band: up to Nyquist's frequency the
    spectrum is that of the atoms, where they are.  Computed at once, in memory.

    Parameters
    ----------
    structure : Structure, path or DataArray
        Atoms, or a file of them (see `read_structure`); or a map (see `open_tomogram`) in which
        density is positive.  A map is resampled, its border taken as 0, and scaled.
    voxel_size : float
        Å.
    resolution : float
        Å; a Gaussian low-pass that leaves 1/e at this resolution: ``exp(-(resolution · k)²)``, as
        molmap of Chimera does.  At least 2 voxels.  To a map it comes on top of its own.
    box : int, optional
        Voxels along each edge; by default the smallest even one with a margin of `resolution`.
    solvent : float or bool
        Density of the surrounding water, g/cm³; True is amorphous ice (0.94), False or 0 vacuum.
        A map has lost its solvent already.
    assembly : str, optional
        As in `read_structure`; of a file of atoms only.
    contrast : float
        Volts: what the mean of a map's inside becomes, see `inner_contrast`.
    mass : float, optional
        kDa of protein that a map shows: it is scaled to the potential of so much protein in ice,
        and `contrast` has no say.  For maps that were sharpened, whose peaks are too high.

    Returns
    -------
    DataArray of float32, dims (z, y, x)
        Volts.  The centre of mass lies on voxel ``box // 2``.  attrs ``voxel_size``, ``source``.

    Raises
    ------
    InputError
        If the file cannot be read, a length is out of range, the resolution is finer than 2
        voxels, or the structure does not fit into `box` with half of `resolution` around it; the
        message says which box would hold it.

    Examples
    --------
    >>> carbon = Structure("carbon", np.array(["C"]), np.zeros((1, 3)), np.zeros(1))
    >>> volume = structure_density(carbon, voxel_size=2.0, resolution=6.0, solvent=False)
    >>> volume.shape, round(float(volume.sum()) * 2.0**3, 1)  # 47.878 V·Å² × f(0) = 2.5088 Å
    ((8, 8, 8), 120.1)
    """
    _check(voxel_size, resolution, box)
    water = _solvent_potential(solvent)
    if not isinstance(structure, (Structure, xr.DataArray)):
        structure = _opened(Path(structure), assembly)
    elif assembly is not None:
        raise InputError(f"assembly {assembly!r} can be built from a file only; pass its path")
    if isinstance(structure, xr.DataArray):
        if not contrast > 0:
            raise InputError(f"contrast must be above 0 V, got {contrast}")
        if mass is not None and not mass > 0:
            raise InputError(f"mass must be above 0 kDa, got {mass}")
        values = _map_density(structure, voxel_size, resolution, box, contrast, mass)
        name = str(structure.name or "map")
        source = str(structure.attrs.get("source") or name)
    elif mass is not None:
        raise InputError(
            f"mass is for maps; {structure.name} is an atomic model and has that of its atoms"
        )
    else:
        values = _atom_density(structure, voxel_size, resolution, box, water)
        name, source = structure.name, structure.source or structure.name
    coords = {axis: np.arange(len(values)) * voxel_size for axis in "zyx"}
    return xr.DataArray(
        values,
        dims=("z", "y", "x"),
        coords=coords,
        name=name,
        attrs={"voxel_size": float(voxel_size), "source": source},
    )


def inner_contrast(values: np.ndarray) -> float:
    """Mean of a map's inside: of the voxels above half of the 99.9th percentile."""
    inside = values[values > _threshold(values)]
    return float(inside.mean(dtype=np.float64)) if inside.size else 0.0


def _threshold(values: np.ndarray) -> float:
    return 0.5 * float(np.percentile(values, 99.9))


def _check(voxel_size: float, resolution: float, box: int | None) -> None:
    if not (np.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(f"voxel_size must be above 0 Å, got {voxel_size}")
    if not (np.isfinite(resolution) and resolution >= 2 * voxel_size * (1 - 1e-6)):
        raise InputError(
            f"resolution must be at least 2 voxels, {2 * voxel_size:g} Å at a voxel size of "
            f"{voxel_size:g} Å, got {resolution:g}; give a coarser one or smaller voxels"
        )
    if box is not None and (box != int(box) or not WIDTH <= box <= _MOST):
        raise InputError(f"box must be a whole number of {WIDTH} to {_MOST} voxels, got {box}")


def _opened(path: Path, assembly: str | None) -> Structure | xr.DataArray:
    """Return what is in a file of atoms or in a map."""
    if is_structure(path):
        return read_structure(path, assembly=assembly)
    if tomogram_format(path) is None:
        raise InputError(
            f"{path}: a structure is one of {', '.join(STRUCTURE_SUFFIXES)} (also .gz), or a map "
            "(.mrc, .map …), by its name; rename or convert it"
        )
    if assembly is not None:
        raise InputError(f"assembly {assembly!r} cannot be built of a map, {path}; leave it out")
    try:
        return open_tomogram(path)
    except UnknownVoxelSizeError:
        raise InputError(
            f"{path}: the map does not say its voxel size, and none is asked for here that is not "
            "of the result; write a map that does (tomodask convert … --voxel-size …)"
        ) from None


def _solvent_potential(solvent: float | bool) -> float:
    """Mean potential of water of a density in g/cm³, V: that of its neutral atoms."""
    density = AMORPHOUS_ICE * solvent if isinstance(solvent, bool) else float(solvent)
    if not 0 <= density <= 2:
        raise InputError(f"solvent must be 0 to 2 g/cm³ (ice: {AMORPHOUS_ICE}), got {solvent}")
    import gemmi

    factor = sum(gemmi.Element("O").c4322.a) + 2 * sum(gemmi.Element("H").c4322.a)
    return _POTENTIAL * factor * density * _AVOGADRO / _WATER


def _potential(symbol: str, k2: np.ndarray, water: float) -> np.ndarray:
    """Spectrum of one atom in the solvent, V·Å³, at squared frequencies in 1/Å²."""
    import gemmi

    element = gemmi.Element(symbol)
    table = None if element.atomic_number == 0 else element.c4322
    if table is None:
        raise InputError(f"element {symbol!r} has no tabulated scattering factor; leave it out")
    a, b = np.array(table.a), np.array(table.b)
    # The table's variable is sin θ / λ = k / 2.
    factor = (a * np.exp(-b / 4 * k2[..., None])).sum(-1)
    volume = _VOLUMES.get(symbol, 4 / 3 * math.pi * element.vdw_r**3)
    displaced = volume * np.exp(-math.pi * volume ** (2 / 3) * k2)
    return np.asarray(_POTENTIAL * factor - water * displaced)


def _atom_density(
    structure: Structure, voxel_size: float, resolution: float, box: int | None, water: float
) -> np.ndarray:
    """See `structure_density`; float32, shape (box, box, box)."""
    if not len(structure):
        raise InputError(f"{structure.source or structure.name}: the structure holds no atoms")
    offsets = (structure.positions_zyx - center_of_mass(structure)) / voxel_size
    source = structure.source or structure.name
    n = _fitting_box(offsets.min(), offsets.max(), voxel_size, resolution, box, source)

    spectrum = np.zeros((n, n, n // 2 + 1), np.complex64)
    axes = np.fft.fftfreq(n, 1 / n), np.fft.rfftfreq(n, 1 / n)
    z, y, x = (np.rint(axis).astype(np.int32) ** 2 for axis in (axes[0], axes[0], axes[1]))
    square = z[:, None, None] + y[:, None] + x  # |k|² in whole steps: radial functions are tables
    k2 = np.arange(int(square.max()) + 1) / (n * voxel_size) ** 2
    low_pass = np.exp(-(resolution**2) * k2) / voxel_size**3
    fine = 2 * (offsets + n // 2)  # on the twice oversampled grid
    for symbol, rows, weights in _by_element(structure):
        grid = spread(fine[rows], weights, (2 * n,) * 3)
        part = _low_frequencies(grid, n)
        part *= (_potential(symbol, k2, water) * low_pass).astype(np.float32)[square]
        spectrum += part
    del part, grid
    for axis, whole in enumerate((axes[0], axes[0], axes[1])):
        undo = (1 / kernel_transform(whole / (2 * n))).astype(np.float32)
        spectrum *= undo.reshape([-1 if i == axis else 1 for i in range(3)])
    return np.asarray(scipy.fft.irfftn(spectrum, s=(n,) * 3), np.float32)


def _by_element(structure: Structure) -> list[tuple[str, np.ndarray | slice, np.ndarray]]:
    """Yield each element with the rows of its atoms and their weights; hydrogens with all rows."""
    out: list[tuple[str, Any, np.ndarray]] = []
    hydrogens = structure.hydrogens + (structure.elements == "H")
    for symbol in np.unique(structure.elements):
        if symbol != "H":
            rows = np.flatnonzero(structure.elements == symbol)
            out.append((str(symbol), rows, np.ones(len(rows))))
    if hydrogens.any():
        rows = np.flatnonzero(hydrogens)
        out.append(("H", rows, hydrogens[rows]))
    return out


def _low_frequencies(grid: np.ndarray, n: int) -> np.ndarray:
    """``rfftn`` of a twice oversampled grid, cut to the frequencies of n voxels.

    Transforms only what is kept, plane by plane.  The two Nyquist frequencies of an even n
    become one, their mean.
    """
    half = n // 2 + 1
    out = np.empty((2 * n, n, half), np.complex64)
    step = max(1, 2**22 // grid[0].size)  # planes that stay in the cache
    for first in range(0, 2 * n, step):
        rows = scipy.fft.rfft(grid[first : first + step], axis=2)[..., :half]
        out[first : first + step] = _cut(scipy.fft.fft(rows, axis=1), n, axis=1)
    return _cut(scipy.fft.fft(out, axis=0, overwrite_x=True), n, axis=0)


def _cut(spectrum: np.ndarray, n: int, *, axis: int) -> np.ndarray:
    moved = np.moveaxis(spectrum, axis, 0)
    middle = (n + 1) // 2
    out = np.concatenate([moved[:middle], moved[len(moved) - n + middle :]])
    if n % 2 == 0:
        out[middle] = (moved[middle] + moved[-middle]) / 2
    return np.moveaxis(out, 0, axis)


def _fitting_box(
    low: float, high: float, voxel_size: float, resolution: float, box: int | None, source: str
) -> int:
    """Edge of the box, voxels; `low` and `high` are the particle's ends, in voxels from its centre.

    By default `resolution` is left around the atoms, where their tails fall below 1e-6; half of it
    is the least, where they fall to a tenth.
    """

    def smallest(margin: float) -> int:
        # Voxels -n // 2 … n // 2 - 1 about the centre.
        return 2 * math.ceil(max(-low, high + 1) + margin / voxel_size - 1e-6)

    roomy, least = smallest(resolution), smallest(resolution / 2)
    if box is None:
        wanted = max(roomy, 2 * math.ceil(WIDTH / 2))
    else:
        wanted = int(box)
        if wanted < least - 1:  # an odd box has its centre in the middle
            raise InputError(
                f"box of {box} voxels ({box * voxel_size:g} Å) is too small for {source}, which "
                f"spans {(high - low) * voxel_size:.0f} Å; box={roomy} holds it"
            )
    if wanted > _MOST:
        raise InputError(
            f"{source} needs a box of {wanted} voxels at a voxel size of {voxel_size:g} Å, more "
            f"than {_MOST}; give larger voxels"
        )
    return wanted


def _map_density(
    volume: xr.DataArray,
    voxel_size: float,
    resolution: float,
    box: int | None,
    contrast: float,
    mass: float | None,
) -> np.ndarray:
    """A map of unknown scale as volts above the solvent; see `structure_density`."""
    source = str(volume.attrs.get("source") or volume.name or "the map")
    values = np.asarray(volume.to_numpy(), np.float32)
    faces = [np.take(values, (0, -1), axis=axis).ravel() for axis in range(3)]
    values = values - np.median(np.concatenate(faces))
    if not _threshold(values) > 0:
        raise InputError(
            f"{source}: nothing in the map is above its border; density must be positive: turn "
            "its contrast over"
        )
    # Before it is resampled: the scale of a map is one at all voxel sizes and resolutions.
    scale = contrast / inner_contrast(values)
    if mass is not None:
        total = values.sum(dtype=np.float64) * float(volume.attrs["voxel_size"]) ** 3
        if not total > 0:
            raise InputError(f"{source}: the map's sum is not above 0, mass cannot scale it")
        scale = mass * _PER_KILODALTON / total
    scaled = volume.copy(data=values * np.float32(scale))
    fine = resample_map(scaled, voxel_size=voxel_size).to_numpy()
    inside = np.argwhere(fine > _threshold(fine))
    weights = fine[tuple(inside.T)].astype(np.float64)
    center = weights @ inside / weights.sum()
    reach = inside - center
    n = _fitting_box(reach.min(), reach.max(), voxel_size, resolution, box, source)

    size = max(n, *fine.shape)
    size += size % 2 != n % 2  # so that both centres are voxels of one parity
    shift = np.array(fine.shape) // 2 - center
    spectrum = scipy.fft.rfftn(fitted(fine, size))
    k = np.fft.fftfreq(size)
    for axis, whole in enumerate((k, k, np.fft.rfftfreq(size))):
        factor = np.exp(-2j * np.pi * whole * shift[axis] - (resolution / voxel_size * whole) ** 2)
        spectrum *= factor.astype(np.complex64).reshape([-1 if i == axis else 1 for i in range(3)])
    return fitted(scipy.fft.irfftn(spectrum, s=(size,) * 3), n)
