"""Tables of a subdivision: a row a cluster, and a row a class of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tomodask.project.map_files import map_file
from tomodask.project.subdivision.job import cluster_name

__all__ = ["class_rows", "cluster_rows"]

_LIKEST = ("nearest", "mirrored", "correlation", "discrepancy")


def class_rows(told: Mapping[str, Any], nearest: Mapping[str, Any]) -> pd.DataFrame:
    """A row a class of each cluster: ``cluster``, ``class``, ``particles``, ``share``,
    ``resolution_143``, ``resolution_5`` (Å, infinite if not reached), with known maps ``nearest``,
    ``mirrored`` (whether its mirror image), ``correlation`` and ``discrepancy`` (Å), and
    ``average``, the file.
    """
    rows = []
    for name, one in sorted(told.items(), key=lambda item: item[1]["cluster"]):
        several = len(one["classes"]) > 1
        for c, figures in one["classes"].items():
            like = nearest.get(name, {}).get("classes", {}).get(c, [])
            rows.append(
                {
                    "cluster": one["cluster"],
                    "class": int(c),
                    "particles": figures["particles"],
                    "share": figures["share"],
                    "resolution_143": _or_infinity(figures["resolution_143"]),
                    "resolution_5": _or_infinity(figures["resolution_5"]),
                    **_likest(like),
                    "average": f"{name}/{map_file(several, int(c), 'average.mrc')}",
                }
            )
    columns = ["cluster", "class", "particles", "share", "resolution_143", "resolution_5",
               *_LIKEST, "average"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def cluster_rows(
    table: pd.DataFrame, told: Mapping[str, Any], nearest: Mapping[str, Any]
) -> pd.DataFrame:
    """A row a cluster: what `cluster_table` says, and its largest class.

    Parameters
    ----------
    table : DataFrame
        From `cluster_table`.
    told, nearest : mapping
        What is known of averaged clusters, and of the known maps that they are like.

    Returns
    -------
    DataFrame
        `table`, ``averaged`` (particles that were), ``kept`` (those in the largest class, as a
        share of them), then as `class_rows`, ``classes`` (how many) and ``notes``.
    """
    classes = class_rows(told, nearest).groupby("cluster", sort=False).head(1).set_index("cluster")
    out = table.copy()
    names = [cluster_name(c) for c in out["cluster"]]
    out["averaged"] = [told.get(name, {}).get("taken", 0) for name in names]
    taken = out["averaged"].where(out["averaged"] > 0)
    first = classes.reindex(out["cluster"])
    out["kept"] = (first["particles"].to_numpy(float) / taken).to_numpy()
    for name in ("resolution_143", "resolution_5", *_LIKEST):
        out[name] = first[name].to_numpy()
    out["classes"] = [len(told.get(name, {}).get("classes", ())) for name in names]
    out["average"] = first["average"].to_numpy()
    out["notes"] = ["; ".join(told.get(name, {}).get("notes", ())) for name in names]
    return out


def _likest(like: list[dict[str, Any]]) -> dict[str, Any]:
    if not like:
        return dict(zip(_LIKEST, (None, None, math.nan, math.nan), strict=True))
    best = like[0]
    return {
        "nearest": best["name"],
        "mirrored": best["mirrored"],
        "correlation": best["correlation"],
        "discrepancy": _or_infinity(best["discrepancy"]),
    }


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
