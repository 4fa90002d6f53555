"""Density of atoms: against sums written out, another program, maps of others."""

import math

import numpy as np
import pytest
from helpers import shared_data
from simulation.molecules import molecule

from tomodask.simulation.density import inner_contrast, structure_density
from tomodask.simulation.structures import (
    Structure,
    center_of_mass,
    read_structure,
)

# International Tables C, table 4.3.2.2, as printed there: a_i in Å, b_i in Å².
PRINTED = {
    "C": ((0.0893, 0.2563, 0.7570, 1.0487, 0.3575), (0.2465, 1.7100, 6.4094, 18.6113, 50.2523)),
    "O": ((0.0974, 0.2921, 0.6910, 0.6990, 0.2039), (0.2067, 1.3815, 4.6943, 12.7105, 32.4726)),
    "H": ((0.0349, 0.1201, 0.1970, 0.0573, 0.1195), (0.5347, 3.5867, 12.3471, 18.9525, 38.6269)),
}
PLANCK, MASS, CHARGE = 6.62607015e-34, 9.1093837e-31, 1.602176634e-19
VOLT = PLANCK**2 / (2 * math.pi * MASS * CHARGE) * 1e20  # V·Å² from V·m²


def gaussian_sum(structure, voxel_size, resolution, n):
    """The reference: each Gaussian of each atom drawn on the grid, in real space, in vacuum."""
    grid = (np.arange(n) - n // 2) * voxel_size
    out = np.zeros((n, n, n))
    placed = structure.positions_zyx - center_of_mass(structure)
    for place, symbol, hydrogens in zip(
        placed, structure.elements, structure.hydrogens, strict=True
    ):
        for which, times in ((symbol, 1.0), ("H", hydrogens)):
            for a, b in zip(*PRINTED[which], strict=True):
                # exp(-(b / 4 + resolution²) k²) is the transform of a Gaussian of this variance.
                variance = (b / 4 + resolution**2) / (2 * math.pi**2)
                rows = [np.exp(-((grid - at) ** 2) / (2 * variance)) for at in place]
                height = times * a * VOLT / (2 * math.pi * variance) ** 1.5
                out += height * rows[0][:, None, None] * rows[1][:, None] * rows[2]
    return out


def fourier_sum(structure, k_zyx, water):
    """The spectrum of atoms about their centre of mass, atom by atom: V·Å³ at k in 1/Å."""
    k2 = (k_zyx**2).sum(-1)
    out = np.zeros(len(k_zyx), complex)
    volumes = {"C": 16.44, "O": 9.13, "H": 5.15}
    placed = structure.positions_zyx - center_of_mass(structure)
    for place, symbol, hydrogens in zip(
        placed, structure.elements, structure.hydrogens, strict=True
    ):
        wave = np.exp(-2j * np.pi * k_zyx @ place)
        for which, times in ((symbol, 1.0), ("H", hydrogens)):
            factor = sum(a * np.exp(-b * k2 / 4) for a, b in zip(*PRINTED[which], strict=True))
            volume = volumes[which]
            displaced = volume * np.exp(-math.pi * volume ** (2 / 3) * k2)
            out += times * wave * (VOLT * factor - water * displaced)
    return out


def ice(density=0.94):
    """Volts of water of some density: molecules per Å³ times V·Å³ of each."""
    per_molecule = VOLT * (sum(PRINTED["O"][0]) + 2 * sum(PRINTED["H"][0]))
    return density * 6.02214076e23 / 18.015 / 1e24 * per_molecule


def spectrum(volume):
    """Spectrum about voxel n // 2, V·Å³, full, with the frequencies (n³, 3) in 1/Å."""
    values, voxel = volume.to_numpy().astype(np.float64), volume.attrs["voxel_size"]
    n = len(values)
    k = np.fft.fftfreq(n, voxel)
    at = np.stack(np.meshgrid(k, k, k, indexing="ij"), -1).reshape(-1, 3)
    half = np.exp(2j * np.pi * at.sum(1) * (n // 2) * voxel)
    return at, np.fft.fftn(values).ravel() * voxel**3 * half


@pytest.mark.parametrize("box", [32, 33])
def test_equals_a_sum_of_gaussians(box):
    """With a low-pass that leaves nothing at Nyquist's frequency, sampling loses nothing."""
    atoms = molecule(hydrogens=0.7)
    volume = structure_density(atoms, voxel_size=3.0, resolution=18.0, box=box, solvent=False)
    want = gaussian_sum(atoms, 3.0, 18.0, box)
    assert volume.dtype == np.float32
    np.testing.assert_allclose(volume, want, atol=1e-4 * want.max())


@pytest.mark.parametrize("box", [18, 19])
@pytest.mark.parametrize("solvent", [False, True, 1.1])
def test_spectrum_is_that_of_the_atoms(box, solvent):
    """Up to Nyquist's frequency, where the low-pass still leaves a third."""
    atoms = molecule(count=30, hydrogens=0.7)
    volume = structure_density(atoms, voxel_size=4.0, resolution=8.0, box=box, solvent=solvent)
    k, found = spectrum(volume)
    inside = (np.abs(k) < 0.1249).all(1)  # at Nyquist itself two frequencies are one
    water = ice(0.94) * solvent if isinstance(solvent, bool) else ice(solvent)
    want = fourier_sum(atoms, k, water) * np.exp(-(64 * (k**2).sum(1)))
    error = np.abs(found - want)[inside].max() / np.abs(want).max()
    assert error < 1e-4


def test_total_is_the_sum_of_the_factors_at_zero():
    atoms = molecule(count=50, elements=("C", "O"))
    carbons = int((atoms.elements == "C").sum())
    alone = carbons * sum(PRINTED["C"][0]) + (50 - carbons) * sum(PRINTED["O"][0])
    displaced = carbons * 16.44 + (50 - carbons) * 9.13
    for solvent, want in ((False, VOLT * alone), (True, VOLT * alone - ice() * displaced)):
        volume = structure_density(atoms, voxel_size=3.0, resolution=8.0, solvent=solvent)
        assert float(volume.sum(dtype=np.float64)) * 27 == pytest.approx(want, rel=1e-4)


def test_agrees_with_gemmi_on_groel():
    """gemmi draws each atom in real space, with the low-pass as a temperature factor 4 · R²."""
    gemmi = pytest.importorskip("gemmi")
    atoms = read_structure(shared_data("structures", "1mnf.pdb.gz"))
    resolution, voxel, n = 11.5, 2.0, 100
    model = gemmi.Model("1") if gemmi.__version__.startswith("0.6") else gemmi.Model(1)
    chain, residue = gemmi.Chain("A"), gemmi.Residue()
    residue.name = "ALL"
    middle = (n // 2) * voxel
    for place, symbol in zip(
        atoms.positions_zyx - center_of_mass(atoms), atoms.elements, strict=True
    ):
        atom = gemmi.Atom()
        atom.pos = gemmi.Position(*(place[::-1] + middle))
        atom.element, atom.b_iso, atom.occ = gemmi.Element(symbol), 4 * resolution**2, 1.0
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.unit_cell = gemmi.UnitCell(*(n * voxel,) * 3, 90, 90, 90)
    calculator.grid.set_size(n, n, n)
    calculator.cutoff = 1e-6
    calculator.put_model_density_on_grid(model)
    theirs = VOLT * np.array(calculator.grid, copy=False).transpose(2, 1, 0)
    bare = Structure("bare", atoms.elements, atoms.positions_zyx, np.zeros(len(atoms)))
    # The centre of mass is that of the atoms with their hydrogens: put the bare atoms there too.
    shift = center_of_mass(bare) - center_of_mass(atoms)
    ours = structure_density(bare, voxel_size=voxel, resolution=resolution, box=n, solvent=False)
    k = np.fft.fftfreq(n)
    turn = sum(
        (k * s / voxel).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, s in enumerate(shift)
    )
    moved = np.fft.ifftn(np.fft.fftn(ours.to_numpy()) * np.exp(-2j * np.pi * turn)).real
    np.testing.assert_allclose(moved, theirs, atol=1e-3 * theirs.max())


def test_a_shift_by_a_voxel_moves_by_a_voxel():
    """Two carbons, the heavy atom between them holds the centre; one steps out, one steps back."""

    def density(z):
        places = np.array([[0, 0, 0], [z, 3.0, 1.0], [-z, -3.0, -1.0]])
        atoms = Structure("three", np.array(["U", "C", "C"]), places, np.zeros(3))
        return structure_density(
            atoms, voxel_size=4.0, resolution=9.0, box=32, solvent=False
        ).to_numpy()

    middle = Structure("one", np.array(["U"]), np.zeros((1, 3)), np.zeros(1))
    heavy = structure_density(middle, voxel_size=4.0, resolution=9.0, box=32, solvent=False)
    before, after = (density(z) - heavy.to_numpy() for z in (12.0, 16.0))
    low, high = np.s_[:16], np.s_[17:]  # each half holds one of the two, 3 voxels and more away
    assert before.max() > 0.3
    both = slice(4, 28)
    for half, step in ((high, 1), (low, -1)):
        moved = np.roll(before, step, axis=0)
        # The tail of the other carbon is all that the halves do not share.
        np.testing.assert_allclose(after[half][..., both], moved[half][..., both], atol=0.03)
        assert np.unravel_index(after[half].argmax(), after[half].shape) == np.unravel_index(
            moved[half].argmax(), moved[half].shape
        )


@pytest.mark.parametrize("box", [40, 41])
def test_center_of_mass_is_on_the_middle_voxel(box):
    """One kind of atom, so that the centre of its density is that of its mass."""
    atoms = molecule(seed=3, count=40, elements=("C",))
    away = Structure(
        "away", atoms.elements, atoms.positions_zyx + np.array([70, -500, 31]), atoms.hydrogens
    )
    volume = structure_density(away, voxel_size=3.0, resolution=16.0, box=box).to_numpy()
    total = volume.sum(dtype=np.float64)
    for axis in range(3):
        rows = volume.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        assert rows @ np.arange(box) / total == pytest.approx(box // 2, abs=2e-3)


def test_a_finer_grid_holds_the_same_density():
    """Every second voxel of half the size: both are samples of one band-limited density."""
    atoms = molecule(count=40, hydrogens=0.5)
    coarse = structure_density(atoms, voxel_size=4.0, resolution=28.0, box=30).to_numpy()
    fine = structure_density(atoms, voxel_size=2.0, resolution=28.0, box=60).to_numpy()
    np.testing.assert_allclose(fine[::2, ::2, ::2], coarse, atol=1e-4 * coarse.max())


def test_a_point_of_the_default_box(tmp_path):
    """It is even, holds the atoms, and leaves the margin at each side."""
    atoms = molecule(count=40, spread=15.0)
    volume = structure_density(atoms, voxel_size=2.5, resolution=9.0)
    n = len(volume)
    reach = np.abs(atoms.positions_zyx - center_of_mass(atoms)).max()
    assert n % 2 == 0
    assert reach + 9.0 <= n / 2 * 2.5 <= reach + 9.0 + 5.0
    assert volume.shape == (n, n, n)
    assert volume.dims == ("z", "y", "x")
    assert volume.attrs == {"voxel_size": 2.5, "source": "molecule"}
    assert float(volume.x[1]) == 2.5
    border = np.abs(np.concatenate([volume[0].to_numpy().ravel(), volume[-1].to_numpy().ravel()]))
    assert border.max() < 0.02 * float(volume.max())


def test_protein_is_brighter_than_ice_and_rna_brighter_still():
    protein, rna = (
        inner_contrast(
            structure_density(
                shared_data("structures", name), voxel_size=5.0, resolution=10.0
            ).to_numpy()
        )
        for name in ("1mnf.pdb.gz", "4v4r_30S.pdb.gz")
    )
    assert 2.0 < protein < 3.5
    assert 1.1 * protein < rna < 1.5 * protein


def test_vacuum_around_gives_the_inner_potential():
    """Protein in vacuum: 7 to 9 V, neutral atoms superposed (Vulović et al. 2013)."""
    path = shared_data("structures", "3cf3.pdb.gz")
    volume = structure_density(path, voxel_size=5.0, resolution=10.0, solvent=False)
    assert 6.5 < inner_contrast(volume.to_numpy()) < 9.0


# --- against maps that others computed, aligned by our own alignment


def aligned(atoms, theirs, *, resolution=20.0):
    """Correlation up to `resolution`, after `align_subtomograms`; see `benchmarks/density.py`."""
    import dask
    import dask.array as da
    import pandas as pd

    from tomodask.alignment.poses import align_subtomograms
    from tomodask.data.particles import orientations
    from tomodask.data.subtomogram_table import subtomogram_dataset

    n, voxel = len(theirs), float(theirs.attrs["voxel_size"])
    how = {"voxel_size": voxel, "resolution": 10.0, "box": n}
    box = subtomogram_dataset(
        da.from_array(theirs.to_numpy()[None]),
        pd.DataFrame({"tomogram": ["map"]}),
        voxel_size=voxel,
        attrs={},
    )
    with dask.config.set(scheduler="sync"):
        pose = align_subtomograms(
            box,
            structure_density(atoms, **how),
            tilt_range=(-90, 90),
            angular_step=15.0,
            shift_range=30.0,
            resolution=resolution,
        ).compute()
    centered = (atoms.positions_zyx - center_of_mass(atoms))[:, ::-1]
    turned = orientations(pose)[0].apply(centered)[:, ::-1]
    ours = structure_density(
        Structure(atoms.name, atoms.elements, turned, atoms.hydrogens), **how
    ).to_numpy()
    k = np.fft.fftfreq(n, voxel)
    z, y, x = k[:, None, None], k[:, None], k
    shift = pose[["shift_z", "shift_y", "shift_x"]].to_numpy()[0]
    a = np.fft.fftn(ours) * np.exp(-2j * np.pi * (z * shift[0] + y * shift[1] + x * shift[2]))
    b = np.fft.fftn(theirs.to_numpy())
    band = (z**2 + y**2 + x**2 <= resolution**-2) & (z**2 + y**2 + x**2 > 0)
    power = (np.abs(a[band]) ** 2).sum() * (np.abs(b[band]) ** 2).sum()
    return float((a[band] * b[band].conj()).real.sum() / np.sqrt(power))


@pytest.mark.parametrize(
    ("model", "other", "box"),
    [
        ("3j9i.pdb.gz", "3j9i.mrc", 50),
        ("4v4r_30S.pdb.gz", "4v4r_30S.mrc", 60),
        ("4v5a_70S.cif.gz", "4v4r.mrc", 72),
    ],
)
def test_agrees_with_maps_of_others(model, other, box):
    """The 70S is another entry, in another state."""
    atoms = read_structure(shared_data("structures", model))
    theirs = structure_density(
        shared_data("maps", "10A", other), voxel_size=5.0, resolution=10.0, box=box
    )
    assert aligned(atoms, theirs) > 0.9
