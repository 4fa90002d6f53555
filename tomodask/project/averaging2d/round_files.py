"""The folder of a round of 2D averaging: all that the next one needs, and what a person looks at.

``state.npz`` holds the round to the last bit; the stacks and tables beside it are for other
programs.  No pickles: a folder of others can be read without running what they wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomodask.averaging.fsc import resolution_at
from tomodask.data.class_averages import class_table, save_class_averages, write_class_table
from tomodask.data.writing import replacing
from tomodask.planar.round2d import Round2D

__all__ = ["STATE", "read_round2d", "resolutions_of", "write_averages", "write_round2d"]

STATE = "state.npz"
_ARRAYS = ("references", "averages", "halves")
_NUMBERS = ("number", "settled", "pixel_size")
_TABLES = ("table", "frc", "history")


def write_round2d(at: Path, state: Round2D) -> None:
    """Write a round into its folder; the state last."""
    at.mkdir(exist_ok=True)
    for leftover in at.glob(".*.part"):  # of one that was killed
        leftover.unlink()
    write_averages(at, state)
    content: dict[str, Any] = {name: getattr(state, name) for name in _ARRAYS}
    content |= {name: np.asarray(getattr(state, name)) for name in _NUMBERS}
    for name in _TABLES:
        content |= _columns(name, getattr(state, name))
    content["table/index"] = state.table.index.to_numpy()
    with replacing(at / STATE, overwrite=True) as part, part.open("wb") as file:
        np.savez(file, **content)


def read_round2d(at: Path) -> Round2D:
    """The round that a folder holds, equal to what was written."""
    with np.load(at / STATE, allow_pickle=False) as content:
        table = _table("table", content)
        table.index = pd.Index(content["table/index"], name="image")
        return Round2D(
            number=int(content["number"]),
            references=content["references"],
            averages=content["averages"],
            halves=content["halves"],
            table=table,
            frc=_table("frc", content),
            history=_table("history", content),
            settled=bool(content["settled"]),
            pixel_size=float(content["pixel_size"]),
        )


def write_averages(at: Path, state: Round2D, *, zarr: bool = False) -> None:
    """Averages, halves, table of classes and FRC, for people and other programs."""
    classes = class_table(state.counts.tolist(), resolutions_of(state))
    stacks = {"averages": state.averages, "half1": state.halves[0], "half2": state.halves[1]}
    for name, stack in stacks.items():
        save_class_averages(stack, at / f"{name}.mrcs", pixel_size=state.pixel_size, overwrite=True)
    if zarr:
        save_class_averages(
            state.averages,
            at / "averages.zarr",
            pixel_size=state.pixel_size,
            table=classes,
            overwrite=True,
        )
    write_class_table(classes, at / "classes.star")
    write_class_table(classes, at / "classes.csv")
    with replacing(at / "frc.csv", overwrite=True) as part:
        state.frc.to_csv(part, index=False)


def resolutions_of(state: Round2D, threshold: float = 0.143) -> list[float]:
    """Resolution of each class by the FRC of its halves, Å; infinite where not reached."""
    found = dict.fromkeys(range(1, len(state.counts) + 1), np.inf)
    for label in found:
        curve = state.frc[state.frc["class"] == label]
        if len(curve) and np.isfinite(curve["correlation"]).all():
            found[label] = resolution_at(curve, threshold)
    return list(found.values())


def _columns(prefix: str, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns as arrays; text as codes and what they stand for, -1 for none."""
    out: dict[str, np.ndarray] = {f"{prefix}/names": np.array([str(c) for c in table], dtype=str)}
    for name in table:
        values = table[name].to_numpy()
        if getattr(values, "dtype", np.dtype(object)).kind in "biuf":
            out[f"{prefix}/{name}"] = values
        else:
            codes, known = pd.factorize(table[name].astype(object).to_numpy())
            out[f"{prefix}/{name}/codes"] = codes.astype(np.int64)
            out[f"{prefix}/{name}/known"] = np.array([str(one) for one in known], dtype=str)
    return out


def _table(prefix: str, content: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name in content[f"{prefix}/names"].tolist():
        if f"{prefix}/{name}" in content:
            columns[name] = content[f"{prefix}/{name}"]
        else:
            known = np.array([*content[f"{prefix}/{name}/known"].tolist(), None], dtype=object)
            columns[name] = known[content[f"{prefix}/{name}/codes"]]
    return pd.DataFrame(columns)
