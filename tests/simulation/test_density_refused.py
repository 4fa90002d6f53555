"""Maps in place of atoms, what is refused, and the command."""

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import shared_data
from simulation.molecules import molecule

import tomodask.simulation.density as module
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.simulation.density import inner_contrast, structure_density
from tomodask.simulation.structures import (
    Structure,
    molecular_weight,
    read_structure,
)

# --- maps in place of atoms


def box_map(tmp_path, *, voxel=5.0, shape=(40, 44, 48), at=(18, 24, 21), value=7.0, rest=-2.0):
    """A smooth ball of some scale on some background, off the centre; its file and radius."""
    import xarray as xr

    z, y, x = np.indices(shape)
    far = np.sqrt((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2) * voxel
    values = rest + value / (1 + np.exp((far - 50.0) / 4.0))
    volume = xr.DataArray(
        values.astype(np.float32), dims=("z", "y", "x"), attrs={"voxel_size": voxel}
    )
    save_tomogram(volume, tmp_path / "ball.mrc", overwrite=True)
    return tmp_path / "ball.mrc"


@pytest.mark.parametrize(("voxel_size", "box"), [(5.0, 40), (4.0, 45), (8.0, 24), (5.0, None)])
def test_a_map_is_centered_and_scaled(tmp_path, voxel_size, box):
    path = box_map(tmp_path)
    volume = structure_density(path, voxel_size=voxel_size, resolution=16.0, box=box, contrast=3.0)
    values = volume.to_numpy()
    n = box or len(values)
    assert values.shape == (n, n, n)
    middle = values[(slice(n // 2 - 1, n // 2 + 2),) * 3]
    given = open_tomogram(path).to_numpy() + 2.0
    plateau = 3.0 * 7.0 / inner_contrast(given)  # the mean is that with the soft edge
    np.testing.assert_allclose(middle, plateau, rtol=0.02)
    assert np.abs(values[0]).max() < 0.06
    for axis in range(3):
        rows = values.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        assert rows @ np.arange(n) / rows.sum() == pytest.approx(n // 2, abs=0.05)


def test_a_map_is_scaled_to_a_mass(tmp_path):
    path = box_map(tmp_path)
    volume = structure_density(path, voxel_size=5.0, resolution=12.0, mass=100.0)
    assert float(volume.sum(dtype=float)) * 5.0**3 == pytest.approx(402_000.0, rel=0.01)
    with pytest.raises(InputError, match="mass must be above 0 kDa, got 0"):
        structure_density(path, voxel_size=5.0, resolution=12.0, mass=0.0)
    atom = Structure("carbon", np.array(["C"]), np.zeros((1, 3)), np.zeros(1))
    with pytest.raises(InputError, match="mass is for maps; carbon is an atomic model"):
        structure_density(atom, voxel_size=5.0, resolution=12.0, mass=1.0)


@pytest.mark.parametrize("name", ["1mnf", "1s3x"])
def test_a_kilodalton_of_protein_has_the_potential_that_maps_are_scaled_to(name):
    path = shared_data("structures", f"{name}.pdb.gz")
    volume = structure_density(path, voxel_size=5.0, resolution=15.0)
    total = float(volume.sum(dtype=float)) * 5.0**3
    assert total / (molecular_weight(read_structure(path)) / 1e3) == pytest.approx(4020, rel=0.01)


def test_bad_maps_are_refused(tmp_path):
    path = box_map(tmp_path, value=-7.0)
    with pytest.raises(InputError, match="nothing in the map is above its border"):
        structure_density(path, voxel_size=5.0, resolution=10.0)
    path = box_map(tmp_path)
    import mrcfile

    with mrcfile.open(path, "r+") as file:
        file.voxel_size = 0.0
    with pytest.raises(InputError, match="does not say its voxel size"):
        structure_density(path, voxel_size=5.0, resolution=10.0)
    path = box_map(tmp_path)
    with pytest.raises(InputError, match=r"too small for .*ball.mrc"):
        structure_density(path, voxel_size=5.0, resolution=10.0, box=16)
    with pytest.raises(InputError, match="assembly '1' cannot be built of a map"):
        structure_density(path, voxel_size=5.0, resolution=10.0, assembly="1")
    with pytest.raises(InputError, match="contrast must be above 0 V, got -1"):
        structure_density(path, voxel_size=5.0, resolution=10.0, contrast=-1.0)


# --- what is refused


def test_a_structure_larger_than_its_box_is_refused_and_the_box_that_holds_it_does():
    atoms = molecule(count=40, spread=15.0)
    with pytest.raises(InputError, match=r"box of 16 voxels \(48 Å\) is too small for molecule"):
        structure_density(atoms, voxel_size=3.0, resolution=9.0, box=16)
    with pytest.raises(InputError) as error:
        structure_density(atoms, voxel_size=3.0, resolution=9.0, box=16)
    box = int(str(error.value).rpartition("box=")[2].split()[0])
    assert structure_density(atoms, voxel_size=3.0, resolution=9.0, box=box).shape == (box,) * 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": 5.0}, r"at least 2 voxels, 6 Å at a voxel size of 3 Å, got 5"),
        ({"resolution": float("nan")}, "at least 2 voxels"),
        ({"voxel_size": 0.0}, "voxel_size must be above 0 Å, got 0"),
        ({"box": 3}, "box must be a whole number of 6 to 1024 voxels, got 3"),
        ({"box": 40.5}, "box must be a whole number"),
        ({"solvent": -1.0}, r"solvent must be 0 to 2 g/cm³ \(ice: 0.94\), got -1"),
        ({"assembly": "1"}, "assembly '1' can be built from a file only"),
        ({"voxel_size": 0.01}, "more than 1024; give larger voxels"),
    ],
)
def test_bad_parameters_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        structure_density(molecule(), **{"voxel_size": 3.0, "resolution": 9.0} | given)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a structure is one of \.pdb, .* or a map"):
        structure_density(tmp_path / "picks.star", voxel_size=3.0, resolution=9.0)
    with pytest.raises(InputError, match="no such file"):
        structure_density(tmp_path / "none.mrc", voxel_size=3.0, resolution=9.0)


def test_an_unknown_element_and_no_atoms_are_refused():
    odd = Structure("odd", np.array(["QQ"]), np.zeros((1, 3)), np.zeros(1))
    with pytest.raises(InputError, match="element 'QQ' has no tabulated scattering factor"):
        structure_density(odd, voxel_size=3.0, resolution=9.0)
    none = Structure("none", np.empty(0, "<U2"), np.empty((0, 3)), np.empty(0))
    with pytest.raises(InputError, match="none: the structure holds no atoms"):
        structure_density(none, voxel_size=3.0, resolution=9.0)


# --- the command


@pytest.fixture
def run():
    from tomodask.cli.density import density

    def invoke(*arguments):
        return CliRunner().invoke(density, [str(a) for a in arguments], catch_exceptions=False)

    return invoke


def pdb(path):
    rows = [
        f"ATOM  {i:5d}  CA  ALA A{i:4d}    {5.0 * i:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00           C"
        for i in range(1, 9)
    ]
    path.write_text("\n".join([*rows, "END", ""]))
    return path


def test_command_writes_the_map(run, tmp_path):
    model, out = pdb(tmp_path / "rod.pdb"), tmp_path / "rod.mrc"
    result = run(model, "--voxel-size", 3, "--resolution", 9, "--box", 24, "-o", out)
    assert result.exit_code == 0
    assert "rod: 8 atoms and 16 hydrogens, 0.1 kDa" in result.output
    assert f"{out}: 24×24×24 voxels of 3 Å" in result.output
    want = structure_density(model, voxel_size=3.0, resolution=9.0, box=24)
    np.testing.assert_array_equal(open_tomogram(out), want)
    assert open_tomogram(out).attrs["voxel_size"] == 3.0


def test_command_takes_maps_and_vacuum(run, tmp_path):
    model, vacuum = pdb(tmp_path / "rod.pdb"), tmp_path / "vacuum.zarr"
    how = ("--voxel-size", 3, "--resolution", 9)
    assert run(model, *how, "--no-solvent", "-o", vacuum).exit_code == 0
    want = structure_density(model, voxel_size=3.0, resolution=9.0, solvent=False)
    np.testing.assert_array_equal(open_tomogram(vacuum), want)
    result = run(vacuum, "--voxel-size", 4, "--resolution", 12, "-o", tmp_path / "again.mrc")
    assert "a map, scaled to a mean inner contrast of 2.5 V" in result.output


def test_command_refuses_before_the_work(run, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the density was computed")

    monkeypatch.setattr(module, "structure_density", never)
    model, out = pdb(tmp_path / "rod.pdb"), tmp_path / "there.mrc"
    out.write_bytes(b"")
    how = ("--voxel-size", 3, "--resolution", 9)
    with pytest.raises(InputError, match="exists already"):
        run(model, *how, "-o", out)
    with pytest.raises(InputError, match="must end with"):
        run(model, *how, "-o", tmp_path / "rod.txt")
