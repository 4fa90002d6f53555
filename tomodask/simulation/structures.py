"""Atomic models: PDB and mmCIF files, as the atoms of one biological assembly."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.errors import InputError
from tomodask.simulation.assemblies import (
    Atoms,
    Generator,
    assembled,
    joined,
    mmcif_assemblies,
    pdb_assemblies,
)

__all__ = [
    "STRUCTURE_SUFFIXES",
    "Structure",
    "center_of_mass",
    "is_structure",
    "molecular_weight",
    "read_structure",
]

#: Of files that `read_structure` reads, also with ``.gz``; ``.pdb1`` … are assemblies.
STRUCTURE_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")

#: In place of an assembly's name: the coordinates as the file holds them.
_DEPOSITED = "deposited"
_LOST_WATER = 2  # hydrogens that a residue gives up when it joins its chain


@dataclass(frozen=True, eq=False)
class Structure:
    """The atoms of a molecule or complex.

    Attributes
    ----------
    name : str
        Of the file, without suffixes.
    elements : array of str, shape (n,)
        Symbols as in the periodic table, in capitals.
    positions_zyx : array of float64, shape (n, 3)
        Å, in the frame of the file.
    hydrogens : array of float64, shape (n,)
        Hydrogens that are not among the atoms, to be counted at the place of each atom.
    source : str
        Path of the file.
    assembly : str
        Which biological assembly was built; "deposited" where the file was taken as it is.
    """

    name: str
    elements: np.ndarray
    positions_zyx: np.ndarray
    hydrogens: np.ndarray
    source: str = ""
    assembly: str = _DEPOSITED

    def __len__(self) -> int:
        return len(self.elements)


def is_structure(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an atomic model, by its name.

    Examples
    --------
    >>> is_structure("4v5a.cif.gz"), is_structure("1bxn.pdb1"), is_structure("a.mrc.gz")
    (True, True, False)
    """
    return _suffix(Path(path)) in STRUCTURE_SUFFIXES


def read_structure(path: str | os.PathLike[str], *, assembly: str | None = None) -> Structure:
    """Read an atomic model and build its biological assembly.

    Waters are left out; of alternative locations the one with the highest occupancy is kept, and
    counts in full.  Hydrogens that a residue should have and the file does not show are counted
    at its other atoms, evenly.

    Parameters
    ----------
    path : path
        PDB (``.pdb``, ``.ent``, ``.pdb1`` …) or mmCIF (``.cif``, ``.mmcif``), also ``.gz``.
    assembly : str, optional
        Name of the assembly to build, mostly "1", "2" …; "deposited" takes the coordinates as
        they are.  By default the first that the file describes, and the coordinates as they are
        where it describes none, or where its copies are in the file already.  Of several models
        the first is read, unless they lie side by side: then they are the parts of one assembly.

    Returns
    -------
    Structure

    Raises
    ------
    InputError
        If the file is missing, damaged, of an unknown format or without atoms; if an atom's
        element is unknown or its place no number; if there is no such assembly.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: is a folder")
    if not is_structure(path):
        raise InputError(
            f"{path}: an atomic model is one of {', '.join(STRUCTURE_SUFFIXES)} (also .gz), by its "
            "name; rename or convert it"
        )
    is_pdb = _suffix(path) in (".pdb", ".ent")
    text = _text(path)
    try:
        entry, assemblies = _read_pdb(text) if is_pdb else _read_mmcif(text)
        if len(entry):
            entry.setup_entities()
    except KeyError as error:
        raise InputError(
            f"{path}: an assembly is built by the operator {error}, which the file does not give; "
            "add it to _pdbx_struct_oper_list, or leave the assemblies out"
        ) from None
    except (RuntimeError, ValueError, IndexError) as error:
        what = " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be read as {'PDB' if is_pdb else 'mmCIF'} ({what}); "
            "fetch it again, or repair that line"
        ) from None

    models = [_atoms(model, path) for model in entry]
    models = [model for model in models if len(model.elements)]
    if not models:
        raise InputError(
            f"{path}: the model is empty, the file holds no atoms other than water; "
            "name a file with atoms"
        )
    parts = _side_by_side(models)
    assemblies = {} if parts else assemblies
    wanted = next(iter(assemblies), _DEPOSITED) if assembly is None else assembly
    if wanted != _DEPOSITED and wanted not in assemblies:
        there = ", ".join([*assemblies, _DEPOSITED])
        raise InputError(
            f"assembly {wanted!r} is not described in {path}; it is one of {there}"
            + (" (its models are the parts of an assembly already)" if parts else "")
        )
    atoms = joined(models) if parts else models[0]
    built = atoms if wanted == _DEPOSITED else assembled(atoms, assemblies[wanted], is_pdb)
    if not len(built.elements):
        raise InputError(
            f"{path}: assembly {wanted!r} names chains that the file does not have; "
            f"assembly {_DEPOSITED!r} takes the file as it is"
        )
    if len(built.elements) > len(atoms.elements) and _doubled(built):
        built, wanted = atoms, _DEPOSITED  # the copies are in the file already
    return Structure(
        name=_name(path),
        elements=built.elements,
        positions_zyx=np.ascontiguousarray(built.positions_xyz[:, ::-1]),
        hydrogens=built.hydrogens,
        source=str(path),
        assembly=wanted,
    )


def molecular_weight(structure: Structure) -> float:
    """Mass of a structure with all its hydrogens, in dalton."""
    return float(_masses(structure).sum())


def center_of_mass(structure: Structure) -> np.ndarray:
    """Centre of mass of a structure, (z, y, x), Å."""
    masses = _masses(structure)
    return np.asarray(masses @ structure.positions_zyx / masses.sum())


def _masses(structure: Structure) -> np.ndarray:
    """Mass of each atom with the hydrogens counted at it, dalton, shape (n,)."""
    import gemmi

    names, which = np.unique(structure.elements, return_inverse=True)
    weights = np.array([gemmi.Element(str(name)).weight for name in names])
    return np.asarray(weights[which] + gemmi.Element("H").weight * structure.hydrogens)


def _suffix(path: Path) -> str:
    """Suffix that tells the format; that of ``.pdb1`` and so on is ``.pdb``."""
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    return ".pdb" if suffix.startswith(".pdb") and suffix[4:].isdigit() else suffix


def _name(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.stem


def _text(path: Path) -> str:
    """Return what is in the file, unpacked.

    By Python's gzip, which holds the checksum against the content: a half file is no structure.
    """
    packed = path.suffix.lower() == ".gz"
    content = path.read_bytes()
    if packed:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path}: damaged or not packed by gzip ({error}); fetch it again"
            ) from None
    return content.decode("utf-8", "replace")


def _read_pdb(text: str) -> tuple[Any, dict[str, list[Generator]]]:
    """Return gemmi's structure and the assemblies."""
    import gemmi

    entry = gemmi.read_pdb_string(text)
    return entry, pdb_assemblies(entry.raw_remarks)


def _read_mmcif(text: str) -> tuple[Any, dict[str, list[Generator]]]:
    """Return gemmi's structure of the first block that has atoms, or an empty one."""
    import gemmi

    for block in gemmi.cif.read_string(text):
        entry = gemmi.make_structure_from_block(block)
        if len(entry):
            return entry, mmcif_assemblies(block)
    return gemmi.Structure(), {}


def _atoms(model: Any, path: Path) -> Atoms:
    """Return the atoms of a model without waters and alternatives, with missing hydrogens."""
    import gemmi

    polymer = gemmi.EntityType.Polymer
    tabulated: dict[str, tuple[bool, int]] = {}
    numbers: list[int] = []
    places: list[list[float]] = []
    hydrogens: list[float] = []
    chains: list[str] = []
    subchains: list[str] = []
    symbols = {0: ""}
    for chain in model:
        for residue, atoms in _one_conformer(chain):
            if residue.name not in tabulated:
                info = gemmi.find_tabulated_residue(residue.name)
                tabulated[residue.name] = (
                    info.found() and info.is_water(),
                    info.hydrogen_count if info.found() else 0,
                )
            water, missing = tabulated[residue.name]
            if water:
                continue
            if residue.entity_type == polymer:
                missing -= _LOST_WATER
            first = len(numbers)
            for atom in atoms:
                element = atom.element
                number = element.atomic_number
                if number not in symbols:
                    symbols[number] = element.name.upper()
                    if element.c4322 is None:
                        raise InputError(
                            f"{_named(path, atom, residue, chain)} is of element {element.name}, "
                            "which has no tabulated scattering factor; remove the atom"
                        )
                elif number == 0:
                    raise InputError(
                        f"{_named(path, atom, residue, chain)} has an unknown element; give its "
                        "symbol (PDB columns 77-78, mmCIF type_symbol) or remove the atom"
                    )
                numbers.append(number)
                places.append(atom.pos.tolist())
            kept = numbers[first:]
            shown = kept.count(1)
            heavy = len(kept) - shown
            # No residue has more than two hydrogens an atom: a trace of CA atoms stays a trace.
            each = min(max(missing - shown, 0) / heavy, 2.0) if heavy else 0.0
            hydrogens += [0.0 if number == 1 else each for number in kept]
            chains += [chain.name] * len(kept)
            subchains += [residue.subchain] * len(kept)
    positions = np.array(places, np.float64).reshape(-1, 3)
    if not np.isfinite(positions).all():
        raise InputError(
            f"{path}: {(~np.isfinite(positions)).any(1).sum()} atoms have no numbers as "
            "coordinates; repair or remove them"
        )
    return Atoms(
        np.array([symbols[number] for number in numbers], "<U2"),
        positions,
        np.array(hydrogens, np.float64),
        np.array(chains, str),
        np.array(subchains, str),
    )


def _named(path: Path, atom: Any, residue: Any, chain: Any) -> str:
    return (
        f"{path}: atom {atom.name} of residue {residue.name} {residue.seqid} in chain {chain.name}"
    )


def _one_conformer(chain: Any) -> list[tuple[Any, list[Any]]]:
    """Return residues with their atoms, of alternatives the one with the highest occupancy.

    Alternatives are told apart by their letter; a place may also hold two kinds of residue.
    """
    out: list[tuple[Any, list[Any]]] = []
    rivals: dict[str, list[int]] = defaultdict(list)  # place in the chain: rows of `out`
    for residue in chain:
        atoms = list(residue)
        occupancy: dict[str, float] = defaultdict(float)
        for atom in atoms:
            if atom.altloc != "\0":
                occupancy[atom.altloc] += atom.occ
        if occupancy:
            best = max(sorted(occupancy), key=occupancy.__getitem__)
            if len(atoms) == sum(atom.altloc != "\0" for atom in atoms):
                rivals[str(residue.seqid)].append(len(out))
            atoms = [atom for atom in atoms if atom.altloc in ("\0", best)]
        out.append((residue, atoms))
    lost = set()
    for rows in rivals.values():
        best_row = max(rows, key=lambda row: max(atom.occ for atom in out[row][1]))
        lost |= set(rows) - {best_row}
    return [one for row, one in enumerate(out) if row not in lost]


def _side_by_side(models: list[Atoms]) -> bool:
    """Whether models are parts of one assembly: those of an ensemble lie in each other."""
    from scipy.spatial import cKDTree

    if len(models) < 2:
        return False
    first, second = (model.positions_xyz[model.elements != "H"] for model in models[:2])
    if not (len(first) and len(second)):
        return False
    near, _ = cKDTree(first).query(second, distance_upper_bound=1.0)
    return bool(np.isfinite(near).mean() < 0.02)


def _doubled(atoms: Atoms) -> bool:
    """Whether most atoms lie upon another one."""
    from scipy.spatial import cKDTree

    some = atoms.positions_xyz[:: max(1, len(atoms.positions_xyz) // 2000)]
    distance, _ = cKDTree(atoms.positions_xyz).query(some, k=2)
    return bool(np.median(distance[:, 1]) < 0.5)
