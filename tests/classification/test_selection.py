"""Particles chosen by name, and by a line drawn on a map, as a notebook's front end tells of it."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tomodask.classification.features.selection import map_table, particles_named, select_on_map
from tomodask.errors import InputError


def features(count=30):
    values = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    values[: count // 2] += 9
    values[3] = np.nan
    fault = np.zeros(count, np.int8)
    fault[3] = 1
    return xr.Dataset(
        {"features": (("particle", "feature"), values), "fault": ("particle", fault)},
        coords={
            "particle": np.arange(100, 100 + count),
            "position_z": ("particle", np.arange(count) * 10.0),
            "kind": ("particle", np.where(np.arange(count) < count // 2, "b", "a").astype(object)),
            "image": ("particle", [f"{i}@boxes.zarr" for i in range(count)]),
        },
        attrs={"voxel_size": 10.0},
    )


def test_particles_are_named_by_number_or_by_the_end_of_their_image():
    made = features(12)
    assert particles_named(made, ["101", " 103", "11@boxes.zarr"]) == [101, 103, 111]
    with pytest.raises(InputError, match=r"2 images end with '1@boxes\.zarr'"):
        particles_named(made, ["1@boxes.zarr"])
    with pytest.raises(InputError, match="no image ends with '7@c'; give a particle's number, 100"):
        particles_named(made, ["7@c"])
    with pytest.raises(InputError, match="no particle '7'; give a particle's number, 100 to 111"):
        particles_named(made, ["7"])
    with pytest.raises(InputError, match="numbered 100 to 111"):
        particles_named(made.drop_vars("image"), ["7"])


def test_a_map_has_the_table_of_its_particles():
    made = features()
    places = pd.DataFrame({"map_1": [1.0, 2], "map_2": [3.0, 4]}, index=[104, 101])
    table = map_table(made, places)
    assert table["z"].tolist() == [40.0, 10.0]
    assert table["map_2"].tolist() == [3.0, 4.0]
    assert table.index.tolist() == [104, 101]
    with pytest.raises(InputError, match="particle 7 of places"):
        map_table(made, places.set_axis([104, 7]))
    with pytest.raises(InputError, match="must have map_1"):
        map_table(made, places[["map_1"]])


def drawn(figure, inside, event="plotly_selected"):
    """What the front end sends when a line is drawn: points by group and place in it."""
    told = {"trace_indexes": [], "point_indexes": [], "xs": [], "ys": []}
    for number, trace in enumerate(figure.data):
        for place, name in enumerate(trace.customdata):
            if name in inside:
                told["trace_indexes"].append(number)
                told["point_indexes"].append(place)
                told["xs"].append(float(trace.x[place]))
                told["ys"].append(float(trace.y[place]))
    line = {"type": "lasso", "selector_state": {"xs": [0.0], "ys": [0.0]}}
    selector = None if event == "plotly_deselect" else line
    figure._js2py_pointsCallback = {
        "event_type": event, "points": told, "selector": selector, "device_state": None,
    }  # fmt: skip


def test_a_line_on_the_map_gives_the_table_of_those_within():
    pytest.importorskip("plotly")
    pytest.importorskip("anywidget")
    heard = []
    chosen = select_on_map(features(), on_change=heard.append)
    assert [trace.name for trace in chosen.figure.data] == ["a", "b"]
    assert all(trace.type == "scattergl" for trace in chosen.figure.data)
    assert sum(len(trace.x) for trace in chosen.figure.data) == 29  # one has no features
    assert chosen.figure.layout.dragmode == "lasso"
    assert not len(chosen.table)
    drawn(chosen.figure, {120, 101, 105})
    assert chosen.particles.tolist() == [101, 105, 120]
    assert chosen.table["kind"].tolist() == ["b", "b", "a"]
    assert "map_1" not in chosen.table
    assert len(heard) == 1
    assert heard[0].equals(chosen.table)
    assert chosen._told.value == "3 of 29 particles chosen"
    drawn(chosen.figure, {121})
    assert chosen.particles.tolist() == [121]
    drawn(chosen.figure, set(), event="plotly_deselect")
    assert not len(chosen.table)
    assert chosen._told.value == "0 of 29 particles chosen"
    assert "application/vnd.jupyter.widget-view+json" in chosen._repr_mimebundle_()


def test_tables_are_coloured_by_any_column():
    pytest.importorskip("plotly")
    pytest.importorskip("anywidget")
    table = pd.DataFrame(
        {"map_1": [0.0, 1, 2, 3], "map_2": [0.0, 1, 0, 1], "cluster": [10, 2, -1, 2], "z": 5.0}
    )
    chosen = select_on_map(table)
    assert [trace.name for trace in chosen.figure.data] == ["-1", "2", "10"]
    drawn(chosen.figure, {1, 2, 3})
    assert chosen.table["cluster"].tolist() == [2, -1, 2]
    assert len(select_on_map(table.drop(columns="cluster")).figure.data) == 1
    with pytest.raises(InputError, match="by must be a column"):
        select_on_map(table, by="shape")
    with pytest.raises(InputError, match="must have map_1 and map_2"):
        select_on_map(table[["cluster"]])
    with pytest.raises(InputError, match="the map is empty"):
        select_on_map(table[:0])


@pytest.mark.parametrize("absent", ["plotly", "anywidget"])
def test_what_is_not_installed_is_told(absent, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError, match=r"not installed: pip install 'tomodask\[notebook\]'"):
        select_on_map(features())
