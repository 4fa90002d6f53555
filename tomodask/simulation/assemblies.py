"""Biological assemblies: chains copied by operators, as PDB and mmCIF files tell of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

__all__ = ["Atoms", "Generator", "assembled", "joined", "mmcif_assemblies", "pdb_assemblies"]


@dataclass(frozen=True)
class Atoms:
    """Atoms of one model, before assemblies; `chains` are what assemblies select by."""

    elements: np.ndarray
    positions_xyz: np.ndarray
    hydrogens: np.ndarray
    chains: np.ndarray
    subchains: np.ndarray


@dataclass(frozen=True)
class Generator:
    """Some chains, and the operators (matrix, vector; x, y, z) that copy them."""

    chains: frozenset[str]
    operators: tuple[tuple[np.ndarray, np.ndarray], ...]


def joined(models: list[Atoms]) -> Atoms:
    """Return the atoms of all models, one after the other."""
    return Atoms(
        np.concatenate([model.elements for model in models]),
        np.concatenate([model.positions_xyz for model in models]),
        np.concatenate([model.hydrogens for model in models]),
        np.concatenate([model.chains for model in models]),
        np.concatenate([model.subchains for model in models]),
    )


def assembled(atoms: Atoms, generators: list[Generator], is_pdb: bool) -> Atoms:
    """Copy chains by the operators of an assembly."""
    copies = []
    for generator in generators:
        of = atoms.chains if is_pdb else atoms.subchains
        rows = np.isin(of, list(generator.chains))
        for matrix, vector in generator.operators:
            copies.append(
                Atoms(
                    atoms.elements[rows],
                    atoms.positions_xyz[rows] @ matrix.T + vector,
                    atoms.hydrogens[rows],
                    atoms.chains[rows],
                    atoms.subchains[rows],
                )
            )
    return joined(copies)


def mmcif_assemblies(block: Any) -> dict[str, list[Generator]]:
    """Return the assemblies of an mmCIF file, by name, in the order of the file.

    gemmi reads them too, but none where an optional column is missing.
    """
    axes = "123"
    columns = [
        f"{what}[{row}]" + (f"[{column}]" if column else "")
        for row in axes
        for what, column in (*(("matrix", column) for column in axes), ("vector", ""))
    ]
    operators = {}
    for row in block.find("_pdbx_struct_oper_list.", ["id", *columns]):
        numbers = np.array([float(row[i]) for i in range(1, 13)]).reshape(3, 4)
        operators[row.str(0)] = numbers[:, :3], numbers[:, 3]
    out: dict[str, list[Generator]] = {}
    wanted = ["assembly_id", "oper_expression", "asym_id_list"]
    for row in block.find("_pdbx_struct_assembly_gen.", wanted):
        copies = [
            reduce(_after, (operators[name] for name in names))
            for names in product(*_operator_names(row.str(1)))
        ]
        chains = frozenset(row.str(2).replace(" ", "").split(","))
        out.setdefault(row.str(0), []).append(Generator(chains, tuple(copies)))
    return out


def _operator_names(expression: str) -> list[list[str]]:
    """Names of operators by the groups of an expression, the first of which is applied last.

    Examples
    --------
    >>> _operator_names("1,5"), _operator_names("(P)(1-3,7)")
    ([['1', '5']], [['P'], ['1', '2', '3', '7']])
    """
    out = []
    for group in re.findall(r"\(([^)]*)\)", expression) or [expression]:
        names: list[str] = []
        for item in group.replace(" ", "").split(","):
            first, dash, last = item.partition("-")
            many = dash and first.isdigit() and last.isdigit()
            names += map(str, range(int(first), int(last) + 1)) if many else [item]
        out.append(names)
    return out


def _after(
    second: tuple[np.ndarray, np.ndarray], first: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    return second[0] @ first[0], second[0] @ first[1] + second[1]


def pdb_assemblies(remarks: list[str]) -> dict[str, list[Generator]]:
    """Return the assemblies of a PDB file's REMARK 350, by name, in the order of the file.

    gemmi reads them too, but drops chains of lists that go on without the words "AND CHAINS:", as
    entries of before 2006 have them; GroEL (1MNF) would lose 19 of its 28 chains.
    """
    out: dict[str, list[Generator]] = {}
    names: list[str] = []
    chains: set[str] = set()
    rows: list[list[float]] = []
    listing = False

    def close() -> None:
        """Keep what was read of the last list of chains."""
        operators = tuple(
            (np.array(rows[i : i + 3])[:, :3], np.array(rows[i : i + 3])[:, 3])
            for i in range(0, len(rows) - 2, 3)
        )
        if chains and operators:
            for name in names:
                out.setdefault(name, []).append(Generator(frozenset(chains), operators))
        chains.clear()
        rows.clear()

    for remark in remarks:
        if not remark.startswith("REMARK 350"):
            continue
        line = remark[10:].strip()
        if line.startswith("BIOMOLECULE:"):
            close()
            listing = False
            names = line.partition(":")[2].replace(",", " ").split()
        elif "CHAINS:" in line:
            if line.startswith("APPLY"):
                close()
            chains.update(line.partition(":")[2].replace(",", " ").split())
            listing = True
        elif line.startswith("BIOMT"):
            listing = False
            try:
                rows.append([float(number) for number in line.split()[2:6]])
            except ValueError:
                continue
        elif listing and line and ":" not in line:
            chains.update(line.replace(",", " ").split())
    close()
    return out
