"""The report of a subdivision: a gallery of what its clusters are, whole while it works too."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from tomodask.data.run_folder import RunFolder
from tomodask.project.map_files import map_file
from tomodask.project.subdivision.job import cluster_name
from tomodask.project.subdivision.pictures import curve_drawing
from tomodask.report_page import (
    angstrom,
    duration,
    job_told,
    number_or_dash,
    page_template,
    seconds_of,
    write_page,
)
from tomodask.training.colors import class_color

__all__ = ["write_subdivision_report"]

_KINDS = 24  # kinds that the map has colours for
_CARDS = 200  # largest clusters with pictures: a page of thousands is too large to be looked at


def write_subdivision_report(folder: RunFolder) -> Path:
    """Write ``report.html`` into the folder of a subdivision whose clusters are found.

    The page holds its pictures itself and needs no network.  Of very many clusters it shows the
    largest; its table has all, with links to their pictures.
    """
    return write_page(folder.path, lambda: _page(folder))


def _page(folder: RunFolder) -> str:
    figures, at = folder.document["figures"], folder.path
    clusters, classes = pd.read_csv(at / "clusters.csv"), pd.read_csv(at / "classes.csv")
    told = {one["cluster"]: one for one in figures["clusters"].values()}
    known = _known(classes) if figures["known"] else []
    averaged = clusters[(clusters["classes"] > 0) & clusters["cluster"].isin(list(told))]
    largest = averaged.sort_values("particles", ascending=False, kind="stable")["cluster"]
    # The page leads to those that known structures were found in, however small.
    shown = {*largest.head(_CARDS), *(one["cluster"] for one in known)}
    cards = [
        _card(at, row, told[row["cluster"]], classes[classes["cluster"] == row["cluster"]])
        for row in _records(averaged)
        if row["cluster"] in shown
    ]
    finished = folder.finished("result") or "result" in figures
    seconds = seconds_of(folder)
    work = sum(one["seconds"] for one in told.values())
    return page_template("subdivision.html").render(
        **job_told(folder),
        cards=cards,
        finished=finished,
        kinds="kind" in clusters,
        averaged=len(averaged),
        of=f" of {len(averaged):,}" if len(cards) < len(averaged) else "",
        most=_CARDS,
        known=known,
        hands=_hands(classes, bool(figures["known"] and figures.get("mirrored"))),
        example=cards[0]["folder"] if cards else "cluster_000",
        sorts=_sorts(clusters, bool(figures["known"])),
        clusters=[
            {
                "cluster": row["cluster"],
                "link": _link(row, shown, told),
                "cells": _row(row),
            }
            for row in _records(clusters)
        ],
        worth=int((clusters["particles"] >= figures["least"]).sum()),
        best=angstrom(_least(classes["resolution_143"])),
        map=_map(at),
        aside=figures.get("aside", {"count": 0, "first": []}),
        times=[
            (what, duration(value))
            for what, value in (
                ("features", seconds.get("features")),
                ("clusters", seconds.get("clusters")),
                ("map", seconds.get("map")),
                ("averages, the clusters' own times added up", work),
            )
            if value
        ],
    )


def _sorts(clusters: pd.DataFrame, known: bool) -> list[tuple[str, str]]:
    """What cards can be put in order by: attribute and words."""
    out = [("size", "size"), ("resolution", "resolution"), ("radius", "radius")]
    if known:
        out += [("likeness", "likeness to a known structure"), ("nearest", "known structure")]
    if "kind" in clusters:
        out += [("purity", "purity"), ("kind", "kind")]
    return out


def _card(
    at: Path, row: dict[str, Any], told: dict[str, Any], classes: pd.DataFrame
) -> dict[str, Any]:
    """A cluster as the page shows it."""
    folder = at / cluster_name(row["cluster"])
    several = len(classes) > 1
    shown = []
    for one in _records(classes):
        c = int(one["class"])
        curve = pd.read_csv(folder / map_file(several, c, "fsc.csv"))
        picture = base64.b64encode((folder / f"class{c}.jpg").read_bytes()).decode("ascii")
        shown.append(
            {
                "number": c,
                "picture": Markup("data:image/jpeg;base64," + picture),
                "curve": curve_drawing(curve),
                "particles": f"{one['particles']:,}",
                "resolution": angstrom(one["resolution_143"]),
                "half": angstrom(one["resolution_5"]),
                "nearest": _nearest(one),
                "correlation": number_or_dash(one["correlation"], ".2f"),
                "discrepancy": angstrom(one["discrepancy"]),
            }
        )
    first = classes.iloc[0]
    return {
        "cluster": row["cluster"],
        "particles": f"{row['particles']:,}",
        "averaged": told["taken"] if told["taken"] < row["particles"] else 0,
        "kept": f"{100 * row['kept']:.0f} %",
        "kind": _text(row.get("kind")),
        "purity": number_or_dash(100 * row.get("purity", math.nan), ".0f"),
        "notes": told["notes"],
        "classes": shown,
        "keys": {
            "size": -row["particles"],
            "resolution": _key(first["resolution_143"]),
            "radius": _key(row["radius"]),
            "likeness": -_key(first["correlation"], 0.0),
            "purity": -_key(row.get("purity", math.nan), 0.0),
            "nearest": _text(first["nearest"]),
            "kind": _text(row.get("kind")),
        },
        "folder": folder.name,
    }


def _link(row: dict[str, Any], shown: Collection[int], told: Collection[int]) -> str:
    """Where a cluster is to be seen: on the page, else its picture; empty without an average."""
    if not row["classes"] or row["cluster"] not in told:
        return ""
    if row["cluster"] in shown:
        return f"#cluster-{row['cluster']}"
    return f"{cluster_name(row['cluster'])}/class1.jpg"


def _row(row: dict[str, Any]) -> list[str]:
    """A row of the table of all clusters, without their numbers."""
    cells = [f"{row['particles']:,}", number_or_dash(row["radius"], ".3g")]
    if "kind" in row:
        cells += [_text(row["kind"]), number_or_dash(100 * row["purity"], ".0f")]
    made = bool(row["classes"])
    cells += [
        f"{row['classes']}" if made else "–",
        f"{100 * row['kept']:.0f} %" if made else "–",
        angstrom(row["resolution_143"]) if made else "–",
        _nearest(row) or "–",
        _text(row["notes"]),
    ]
    return cells


def _known(classes: pd.DataFrame) -> list[dict[str, Any]]:
    """Of each known structure that some class is likest to, the class that agrees with it best."""
    found = classes[classes["nearest"].notna()]
    best = found.sort_values(["discrepancy", "correlation"], ascending=[True, False])
    rows = best.groupby("nearest", sort=False).head(1).to_dict("records")
    return [
        {
            "name": _nearest(row),
            "cluster": row["cluster"],
            "class": row["class"],
            "particles": f"{row['particles']:,}",
            "correlation": number_or_dash(row["correlation"], ".2f"),
            "discrepancy": angstrom(row["discrepancy"]),
            "resolution": angstrom(row["resolution_143"]),
            "clusters": int(
                (found["nearest"] == row["nearest"]).groupby(found["cluster"]).any().sum()
            ),
        }
        for row in rows
    ]


def _map(at: Path) -> dict[str, Any] | None:
    """The map's points for the page's script: places within 0 to 1, clusters, kinds."""
    if not (at / "map.csv").exists():
        return None
    plane = pd.read_csv(at / "map.csv", index_col="particle")
    columns = ("particle", "cluster", "kind")
    every = pd.read_csv(at / "particles.csv", index_col="particle", usecols=lambda c: c in columns)
    table = every.loc[plane.index]
    places = plane[["map_1", "map_2"]].to_numpy(float)
    low, span = places.min(0), np.ptp(places, axis=0).max() or 1.0
    scaled = (places - (low + np.ptp(places, axis=0) / 2)) / span + 0.5
    points: dict[str, Any] = {
        "x": np.round(scaled[:, 0], 4).tolist(),
        "y": np.round(1 - scaled[:, 1], 4).tolist(),
        "cluster": table["cluster"].tolist(),
    }
    names: list[str] = []
    if "kind" in table:
        counts = table["kind"].astype(str).value_counts()
        names = sorted(counts.index[:_KINDS])
        place = {name: n for n, name in enumerate(names)}
        points["kind"] = [place.get(str(one), -1) for one in table["kind"]]
    colors = ["#{:02x}{:02x}{:02x}".format(*class_color(n)) for n in range(_KINDS)]
    return {
        "points": Markup(json.dumps(points, separators=(",", ":"))),
        "colors": Markup(json.dumps(colors)),
        "kinds": list(zip(names, colors, strict=False)),
        "count": f"{len(plane):,}",
        "all": len(plane) == len(every),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _nearest(row: Mapping[Any, Any]) -> str:
    """The known structure that a class is likest to; empty where there is none."""
    return _text(row["nearest"]) + (", mirror image" if row["mirrored"] is True else "")


def _hands(classes: pd.DataFrame, asked: bool) -> tuple[int, int] | None:
    """How many classes are likest to a mirror image, and of how many, if that was asked for."""
    found = classes[classes["nearest"].notna()]
    return (int(found["mirrored"].astype(bool).sum()), len(found)) if asked else None


def _key(value: float | None, missing: float = 1e9) -> float:
    """Of sorting; what is not known comes last."""
    return missing if value is None or not math.isfinite(value) else float(value)


def _least(values: pd.Series) -> float | None:
    return float(values.min()) if len(values) else None
