"""Atomic models: what is read, what is built, and what is refused."""

import gzip

import numpy as np
import pytest
from helpers import shared_data

from tomodask.errors import InputError
from tomodask.simulation.structures import (
    center_of_mass,
    is_structure,
    molecular_weight,
    read_structure,
)

ALANINE = [("N", "N", (0, 0, 0)), ("CA", "C", (1.5, 0, 0)), ("C", "C", (2, 1.4, 0)),
           ("O", "O", (1.2, 2.3, 0)), ("CB", "C", (2, -0.8, 1.2))]  # fmt: skip


def atom(serial, name, element, xyz, *, residue="ALA", number=1, chain="A", alt=" ", occupancy=1.0):
    """A line of a PDB file."""
    x, y, z = xyz
    return (
        f"ATOM  {serial:5d}  {name:<3}{alt}{residue:>3} {chain}{number:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{0:6.2f}          {element:>2}"
    )


def alanines(count=1, chain="A", shift=(0.0, 0.0, 0.0)):
    """A chain of `count` alanines."""
    return [
        atom(1 + 5 * i + j, name, element, np.add(xyz, shift) + np.array([3.8 * i, 0, 0]),
             number=i + 1, chain=chain)
        for i in range(count)
        for j, (name, element, xyz) in enumerate(ALANINE)
    ]  # fmt: skip


def biomt(number, matrix, vector):
    return [
        f"REMARK 350   BIOMT{row + 1}{number:4d}"
        + "".join(f"{value:10.6f}" for value in matrix[row])
        + f"{vector[row]:15.5f}"
        for row in range(3)
    ]


def write(path, lines):
    text = "\n".join([*lines, "END", ""])
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


MMCIF = """data_pair
loop_
_pdbx_struct_assembly.id
_pdbx_struct_assembly.details
both one
one  one
loop_
_pdbx_struct_assembly_gen.assembly_id
_pdbx_struct_assembly_gen.oper_expression
_pdbx_struct_assembly_gen.asym_id_list
both 1,2 A
one  1   A
loop_
_pdbx_struct_oper_list.id
_pdbx_struct_oper_list.type
_pdbx_struct_oper_list.matrix[1][1]
_pdbx_struct_oper_list.matrix[1][2]
_pdbx_struct_oper_list.matrix[1][3]
_pdbx_struct_oper_list.vector[1]
_pdbx_struct_oper_list.matrix[2][1]
_pdbx_struct_oper_list.matrix[2][2]
_pdbx_struct_oper_list.matrix[2][3]
_pdbx_struct_oper_list.vector[2]
_pdbx_struct_oper_list.matrix[3][1]
_pdbx_struct_oper_list.matrix[3][2]
_pdbx_struct_oper_list.matrix[3][3]
_pdbx_struct_oper_list.vector[3]
1 identity 1 0 0 0  0 1 0 0  0 0 1 0
2 point    -1 0 0 0  0 -1 0 0  0 0 1 20
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
ATOM 1 ZN ZN . ZN A 1 1.0 2.0 3.0 1
ATOM 2 S  SD . XYZ A 2 5.0 2.0 4.0 1
"""


def test_places_and_elements_are_those_of_the_file(tmp_path):
    found = read_structure(write(tmp_path / "one.pdb", alanines(2)))
    assert found.name == "one"
    assert found.elements.tolist() == ["N", "C", "C", "O", "C"] * 2
    np.testing.assert_array_equal(found.positions_zyx[4], [1.2, -0.8, 2.0])
    assert found.positions_zyx.dtype == np.float64


def test_hydrogens_of_a_chain_are_spread_over_its_atoms(tmp_path):
    """Alanine has 7, and gives 2 to the water that it loses in a chain."""
    found = read_structure(write(tmp_path / "chain.pdb", alanines(3)))
    np.testing.assert_allclose(found.hydrogens, 1.0)  # 5 over 5 atoms
    want = 3 * (3 * 12.0107 + 14.0067 + 15.9994 + 5 * 1.00794)
    assert molecular_weight(found) == pytest.approx(want, rel=1e-6)


def test_hydrogens_that_are_there_are_not_counted_twice(tmp_path):
    shown = [atom(20 + i, f"H{i}", "H", (5, i, 0)) for i in range(3)]
    shown.append(atom(30, "D", "D", (6, 0, 0)))  # deuterium is one too
    found = read_structure(write(tmp_path / "some.pdb", alanines(1) + shown))
    assert found.hydrogens.sum() + (found.elements == "H").sum() == pytest.approx(5)
    assert (found.hydrogens[found.elements == "H"] == 0).all()


def test_a_trace_of_single_atoms_stays_a_trace(tmp_path):
    """All 15 hydrogens of lysine on one atom would make a lump."""
    lines = [atom(i, "CA", "C", (3.8 * i, 0, 0), residue="LYS", number=i) for i in range(1, 5)]
    assert read_structure(write(tmp_path / "trace.pdb", lines)).hydrogens.max() == 2.0


def test_waters_are_left_out_and_ions_stay(tmp_path):
    lines = [
        *alanines(1),
        atom(9, "O", "O", (9, 9, 9), residue="HOH", number=2).replace("ATOM  ", "HETATM"),
        atom(10, "MG", "MG", (8, 8, 8), residue="MG", number=3).replace("ATOM  ", "HETATM"),
    ]
    found = read_structure(write(tmp_path / "wet.pdb", lines))
    assert found.elements.tolist() == ["N", "C", "C", "O", "C", "MG"]


def test_of_alternatives_the_likeliest_is_kept(tmp_path):
    lines = [
        atom(1, "CA", "C", (0, 0, 0)),
        atom(2, "CB", "C", (1, 0, 0), alt="A", occupancy=0.4),
        atom(3, "CB", "C", (2, 0, 0), alt="B", occupancy=0.6),
        # Two kinds of residue at one place.
        atom(4, "OG", "O", (3, 0, 0), residue="SER", number=2, alt="A", occupancy=0.7),
        atom(5, "SG", "S", (4, 0, 0), residue="CYS", number=2, alt="B", occupancy=0.3),
    ]
    found = read_structure(write(tmp_path / "alternatives.pdb", lines))
    assert found.positions_zyx[:, 2].tolist() == [0, 2, 3]


def test_packed_and_plain_files_are_equal(tmp_path):
    plain = read_structure(write(tmp_path / "a.pdb", alanines(2)))
    packed = read_structure(write(tmp_path / "a.pdb.gz", alanines(2)))
    np.testing.assert_array_equal(plain.positions_zyx, packed.positions_zyx)
    assert packed.name == "a"


TWOFOLD = np.diag([-1.0, -1.0, 1.0])


def dimer(listing):
    """Remarks of an assembly of two copies of the chains in `listing`."""
    return [
        "REMARK 350 BIOMOLECULE: 1",
        *listing,
        *biomt(1, np.eye(3), (0, 0, 0)),
        *biomt(2, TWOFOLD, (30.0, 0, 0)),
    ]


def test_the_first_assembly_is_built(tmp_path):
    remarks = dimer(["REMARK 350 APPLY THE FOLLOWING TO CHAINS: A"])
    path = write(tmp_path / "dimer.pdb", remarks + alanines(2) + alanines(1, "B", (0, 15, 0)))
    found = read_structure(path)
    assert (len(found), found.assembly) == (20, "1")  # chain B is no part of it
    x = found.positions_zyx[:, 2]
    np.testing.assert_allclose(x[10:], 30 - x[:10], atol=1e-9)
    assert len(read_structure(path, assembly="deposited")) == 15


def test_lists_of_chains_may_go_on_in_the_next_line(tmp_path):
    """As in 1MNF, where gemmi's reader sees 9 of the 28 chains."""
    remarks = dimer(["REMARK 350 APPLY THE FOLLOWING TO CHAINS: A,", "REMARK 350 B"])
    path = write(tmp_path / "old.pdb", remarks + alanines(2) + alanines(1, "B", (0, 15, 0)))
    assert len(read_structure(path)) == 30


def test_a_complete_file_is_not_doubled(tmp_path):
    """Copies written out by another program, the remark still there."""
    remarks = dimer(["REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B"])
    there = alanines(3)
    copy = [
        line[:21] + "B" + line[22:30] + f"{30 - float(line[30:38]):8.3f}"
        f"{-float(line[38:46]):8.3f}" + line[46:]
        for line in there
    ]
    found = read_structure(write(tmp_path / "complete.pdb", remarks + there + copy))
    assert (len(found), found.assembly) == (30, "deposited")


def test_models_side_by_side_are_one_assembly(tmp_path):
    lines = ["MODEL        1", *alanines(4), "ENDMDL", "MODEL        2",
             *alanines(4, shift=(0, 25, 0)), "ENDMDL"]  # fmt: skip
    assert len(read_structure(write(tmp_path / "a.pdb1", lines))) == 40


def test_of_an_ensemble_the_first_model_is_read(tmp_path):
    lines = ["MODEL        1", *alanines(4), "ENDMDL", "MODEL        2",
             *alanines(4, shift=(0.3, 0.2, 0)), "ENDMDL"]  # fmt: skip
    found = read_structure(write(tmp_path / "nmr.pdb", lines))
    assert len(found) == 20
    assert found.positions_zyx[0].tolist() == [0, 0, 0]


def test_operators_are_multiplied(tmp_path):
    """As in viruses: (P)(1,2) is P after each of 1 and 2."""
    path = tmp_path / "product.cif"
    path.write_text(MMCIF.replace("both 1,2 A", "both (2)(1-2) A"))
    found = read_structure(path)
    np.testing.assert_allclose(found.positions_zyx[[0, 2]], [[23, -2, -1], [43, 2, 1]])


def test_an_operator_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "pair.cif"
    path.write_text(MMCIF.replace("both 1,2 A", "both 1,9 A"))
    with pytest.raises(InputError, match="built by the operator '9', which the file does not give"):
        read_structure(path)


def test_assemblies_of_mmcif(tmp_path):
    path = tmp_path / "pair.cif"
    path.write_text(MMCIF)
    found = read_structure(path)
    assert (found.assembly, found.elements.tolist()) == ("both", ["ZN", "S", "ZN", "S"])
    np.testing.assert_allclose(found.positions_zyx[2], [23, -2, -1])
    assert len(read_structure(path, assembly="one")) == 2


@pytest.mark.parametrize(
    ("name", "atoms", "kilodalton", "assembly"),
    [
        ("1bxn.pdb.gz", 36288, 516, "1"),  # 16 chains, 8 of them in the file
        ("1mnf.pdb.gz", 55552, 795, "1"),  # all 28 chains
        ("1qvr.pdb.gz", 38992, 563, "1"),
        ("3cf3.pdb.gz", 34278, 490, "1"),
        ("3h84.pdb.gz", 10162, 145, "1"),
        ("3j9i.pdb.gz", 46228, 659, "1"),
        ("1gru_assembly.pdb.gz", 58688, 841, "deposited"),
    ],
)
def test_deposited_entries(name, atoms, kilodalton, assembly):
    """Masses by the sequences: Rubisco 8 × (50.5 + 13.5), GroEL 14 × 57, 20S 14 × (25.8 + 22.3)."""
    found = read_structure(shared_data("structures", name))
    assert len(found) == atoms
    assert molecular_weight(found) / 1e3 == pytest.approx(kilodalton, abs=1)
    assert found.assembly == assembly


def test_center_of_mass_of_a_ring_is_on_its_axis():
    """The two rings of GroEL: each chain's image by the axis is another chain."""
    found = read_structure(shared_data("structures", "1mnf.pdb.gz"))
    far = np.linalg.norm(found.positions_zyx - center_of_mass(found), axis=1)
    first, *others = (far[i : i + 3000].mean() for i in range(0, 14 * 3968, 3968))
    assert np.ptp([first, *others]) < 1.0


def test_what_is_a_structure():
    assert [is_structure(name) for name in ("a.PDB", "a.ent.gz", "a.cif", "a.pdb2.gz")] == [
        True
    ] * 4
    assert not any(is_structure(name) for name in ("a.mrc", "a.map.gz", "pdb", "a.pdbx"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"", r"a\.xyz: an atomic model is one of \.pdb, .*rename or convert"),
        ("a.pdb", b"", r"a\.pdb: the model is empty"),
        ("a.cif", b"data_x\n_cell.length_a 1\n", r"a\.cif: the model is empty"),
        ("a.cif", b"", r"a\.cif: the model is empty"),
        ("a.cif", b"data_x\nloop_\n_a.b\n_a.c\n1 2 3\n", r"a\.cif: cannot be read as mmCIF"),
        ("a.pdb.gz", b"ATOM", r"a\.pdb\.gz: damaged or not packed by gzip"),
        ("a.pdb", b"ATOM      1  CA  ALA A   1      87.584 109", r"a\.pdb: cannot be read as PDB"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_structure(path)


def test_a_file_cut_short_is_refused(tmp_path):
    whole = gzip.compress("\n".join(alanines(50)).encode())
    path = tmp_path / "half.pdb.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.pdb\.gz: damaged"):
        read_structure(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_structure(tmp_path / "none.pdb")
    with pytest.raises(InputError, match="is a folder"):
        read_structure(tmp_path)


def test_water_alone_is_an_empty_model(tmp_path):
    line = atom(1, "O", "O", (1, 1, 1), residue="HOH").replace("ATOM  ", "HETATM")
    with pytest.raises(InputError, match="the model is empty"):
        read_structure(write(tmp_path / "sea.pdb", [line]))


@pytest.mark.parametrize("symbol", ["X", "QQ"])
def test_an_unknown_element_is_named(tmp_path, symbol):
    lines = [*alanines(1), atom(9, "UNK", symbol, (1, 1, 1), residue="LIG", number=7, chain="B")]
    with pytest.raises(InputError, match="atom UNK of residue LIG 7 in chain B has an unknown"):
        read_structure(write(tmp_path / "unknown.pdb", lines))


def test_an_element_outside_the_table_is_named(tmp_path):
    lines = [*alanines(1), atom(9, "ES", "ES", (1, 1, 1), residue="ES", number=7)]
    with pytest.raises(InputError, match="atom ES of residue ES 7 in chain A is of element Es"):
        read_structure(write(tmp_path / "rare.pdb", lines))


def test_a_place_that_is_no_number_is_refused(tmp_path):
    path = tmp_path / "nan.cif"
    path.write_text(MMCIF.replace("5.0 2.0 4.0", "5.0 ? 4.0"))
    with pytest.raises(InputError, match="1 atoms have no numbers as coordinates"):
        read_structure(path)


def test_an_unknown_assembly_is_refused(tmp_path):
    path = tmp_path / "pair.cif"
    path.write_text(MMCIF)
    with pytest.raises(InputError, match=r"assembly 'three' .* it is one of both, one, deposited"):
        read_structure(path, assembly="three")


def test_an_assembly_of_chains_that_are_not_there_is_refused(tmp_path):
    remarks = dimer(["REMARK 350 APPLY THE FOLLOWING TO CHAINS: Q"])
    with pytest.raises(InputError, match="names chains that the file does not have"):
        read_structure(write(tmp_path / "renamed.pdb", remarks + alanines(1)))
