"""Particle tables: what is written is read back, and what is no table is told."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import starfile
from data.star_files import FORMATS, SHAPE, assert_same, star, written
from hypothesis import HealthCheck, given, settings
from scipy.spatial.transform import Rotation

from tomodask.data.particles import (
    orientations,
    read_particles,
    with_orientations,
    write_particles,
)
from tomodask.errors import InputError


@st.composite
def tables(draw):
    """Tables with any of the columns; names as people give them."""
    count = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = draw(
        st.lists(
            st.sampled_from(["TS_01", "tomo 2", "lam3.mrc", "7"]), min_size=count, max_size=count
        )
    )
    table = pd.DataFrame({"tomogram": pd.Series(names, dtype="str")})
    table[["z", "y", "x"]] = rng.uniform(-500, 9000, (count, 3))
    parts = draw(st.sets(st.sampled_from(["pose", "shift", "score", "tilt", "counts", "image"])))
    if "pose" in parts:
        turns = Rotation.random(count, random_state=rng) if count else Rotation.identity(0)
        if draw(st.booleans()):  # gimbal lock: tilt 0 and 180
            turns = Rotation.from_euler("z", rng.uniform(0, 360, (count, 1)), degrees=True)
        table = with_orientations(table, turns)
    if "shift" in parts:
        table[["shift_z", "shift_y", "shift_x"]] = rng.normal(size=(count, 3)) * 20
    if "score" in parts:
        table["score"] = rng.normal(size=count) * 10.0 ** rng.integers(-6, 6, count)
    if "tilt" in parts:
        table["tilt_min"], table["tilt_max"] = (
            rng.uniform(-70, -40, count),
            rng.uniform(40, 70, count),
        )
    if "counts" in parts:
        table["class"] = rng.integers(1, 9, count)
        table["half"] = rng.integers(1, 3, count)
    if "image" in parts:
        table["image"] = pd.Series([f"{i}@boxes.zarr" for i in range(count)], dtype="str")
    return table


@given(
    table=tables(), form=st.sampled_from(FORMATS), voxel_size=st.sampled_from([1.0, 7.5, 13.481])
)
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_is_read_back(tmp_path, table, form, voxel_size):
    found = written(table, tmp_path, form, voxel_size=voxel_size)
    if form == "tbl":  # has no columns for these
        table = table.drop(columns=["half", "image"], errors="ignore")
    assert_same(found, table)
    if form != "tbl":
        assert list(found) == list(table) or set(found) == set(table)


def test_the_table_given_is_not_changed(tmp_path):
    table = pd.DataFrame({"tomogram": ["a"], "z": [1.0], "y": [2.0], "x": [3.0]})
    before = table.copy()
    write_particles(table, tmp_path / "a.star", voxel_size=2.0)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    "column", ["rlnLCCmax", "ptmLCCmax", "rlnAutopickFigureOfMerit", "rlnMaxValueProbDistribution"]
)
def test_names_of_the_score(tmp_path, column):
    path = star(tmp_path / "a.star", {"rlnImageName": ["a.mrc", "b.mrc"], column: [0.5, 0.25]})
    table = read_particles(path)
    assert table["score"].tolist() == [0.5, 0.25]
    again = written(table, tmp_path, "relion3.1", voxel_size=None)
    assert set(again) == set(table)
    assert starfile.read(tmp_path / "table.star")["rlnLCCmax"].tolist() == [0.5, 0.25]


# Third parties, real files


def test_starfile_reads_what_is_written(tmp_path):
    table = with_orientations(
        pd.DataFrame({"tomogram": ["TS 1", "TS_2"], "z": [10.0, 20.0], "y": 5.0, "x": 2.5,
                      "score": [0.5, 1e-7], "tilt_min": -60.0, "tilt_max": 50.0, "half": [1, 2]}),
        Rotation.from_euler("ZYZ", [[10, 20, 30], [40, 50, 60]], degrees=True).inv(),
    )  # fmt: skip
    write_particles(table, tmp_path / "a.star", voxel_size=2.5)
    blocks = starfile.read(tmp_path / "a.star")
    assert list(blocks) == ["optics", "particles"]
    assert blocks["optics"]["rlnImagePixelSize"].tolist() == [2.5]
    particles = blocks["particles"]
    assert particles["rlnMicrographName"].tolist() == ["TS 1", "TS_2"]
    assert particles["rlnCoordinateZ"].tolist() == [4.0, 8.0]
    assert particles["rlnLCCmax"].tolist() == [0.5, 1e-7]
    assert particles["tomodaskTiltMax"].tolist() == [50.0, 50.0]
    np.testing.assert_allclose(
        particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]], [[10, 20, 30], [40, 50, 60]]
    )


# What is wrong


@pytest.mark.parametrize(
    ("columns", "need", "message"),
    [
        (["rlnImageName"], ("position",), r"position needs the columns z, y, x \(in a STAR rln"),
        (["rlnImageName"], ("orientation",), r"orientation needs the columns quat_x.*rlnAngleRot"),
        (["rlnImageName"], ("score",), r"no column score \(in a STAR rlnLCCmax\); found image"),
        (["rlnImageName"], ("tilt_range",), r"tilt_range needs the columns tilt_min, tilt_max"),
        (["rlnCoordinateX", "rlnFoo"], (), r"no particles in data_p.*found rlnCoordinateX, rlnFoo"),
    ],
)  # fmt: skip
def test_missing_columns_are_named(tmp_path, columns, need, message):
    path = star(tmp_path / "a.star", {name: [1.0] for name in columns})
    with pytest.raises(InputError, match=rf"a\.star: {message}"):
        read_particles(path, need=need)


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_table_is_read_unless_particles_are_needed(tmp_path, form):
    table = with_orientations(
        pd.DataFrame({"tomogram": pd.Series([], dtype="str"), "z": [], "y": [], "x": []}),
        Rotation.identity(0),
    )
    found = written(table, tmp_path, form)
    assert found.empty
    assert {"z", "y", "x", "quat_w"} <= set(found)
    kwargs = {"tomogram_shape": SHAPE} if form == "relion5" else {}
    with pytest.raises(InputError, match="holds no particles; pick again"):
        read_particles(
            tmp_path / f"table.{form if form in ('tbl', 'csv') else 'star'}",
            voxel_size=7.5, need=("position",), **kwargs,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.star", "", r"a\.star is empty"),
        ("a.star", "only text\n", r"a\.star has no data block"),
        (
            "a.star",
            "data_\n\nloop_\n_rlnCoordinateX #1\n1 2 3\n4 5\n",
            r"a\.star is not a STAR file",
        ),
        ("a.tbl", "1 2 3\n", "at least 26 .* found 3"),
        ("a.tbl", "x " * 35, "holds numbers only"),
        ("a.csv", "", r"a\.csv is not a CSV table"),
        ("a.csv", "z,y,x\n1,2,3\n1,b,3\n", r"a\.csv: y must be a number, got 'b' in row 2"),
        ("a.csv", "z,y,x,class\n1,2,3,ring\n", r"got 'ring' in row 1; names .* a column kind"),
        ("a.csv", "foo,bar\n1,2\n", "no particles; needs the columns z, y, x .* found foo, bar"),
        ("a.txt", "", r"a particle table is one of \.star, \.tbl, \.csv"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_particles(tmp_path / name, voxel_size=1.0)


def test_no_file_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.star: no such file"):
        read_particles(tmp_path / "none.star")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("a.star", {}, "voxel_size is needed to write positions into a STAR"),
        ("a.star", {"voxel_size": 0.0}, "voxel_size must be above 0 Å, got 0.0"),
        ("a.star", {"voxel_size": 1.0, "style": "relion2"}, "style must be one of .*'relion2'"),
        ("a.star", {"voxel_size": 1.0, "style": "relion5"}, "so its size is needed"),
        ("a.tbl", {}, "Dynamo counts in voxels; pass voxel_size="),
        ("a.txt", {}, r"written are \.star, \.tbl, \.csv"),
        ("old.csv", {"overwrite": False}, r"old\.csv exists already"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, kwargs, message):
    (tmp_path / "old.csv").write_text("")
    table = pd.DataFrame({"z": [1.0], "y": [1.0], "x": [1.0]})
    with pytest.raises(InputError, match=message):
        write_particles(table, tmp_path / name, **kwargs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.csv"]


def test_text_that_a_star_cannot_keep(tmp_path):
    table = pd.DataFrame({"image": ["box #1.mrc"]})
    with pytest.raises(InputError, match=r"column rlnImageName: 'box #1\.mrc' holds a quote, #"):
        write_particles(table, tmp_path / "a.star")


def test_orientations_must_be_there():
    with pytest.raises(InputError, match="orientation needs the columns quat_x"):
        orientations(pd.DataFrame({"x": [1.0]}))
    table = pd.DataFrame({f"quat_{axis}": [1.0, np.nan, 0.0] for axis in "xyzw"})
    with pytest.raises(InputError, match="no orientation in 2 rows, the first is row 1"):
        orientations(table)
    with pytest.raises(ValueError, match="one rotation per row, got 2 for 3"):
        with_orientations(table, Rotation.identity(2))
