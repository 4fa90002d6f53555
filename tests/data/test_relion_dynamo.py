"""What other programs mean: RELION 3 to 5, Dynamo, and every real file."""

import numpy as np
import pandas as pd
import pytest
import starfile
from data.star_files import FORMATS, SHAPE, SHARED, assert_same, star, written
from helpers import shared_data
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import angular_distance
from tomodask.data.particles import (
    orientations,
    read_particles,
    write_particles,
)
from tomodask.errors import InputError

STARS = sorted(str(p.relative_to(SHARED)) for p in SHARED.rglob("*.star")) or ["metadata"]


def test_relion_3(tmp_path):
    path = star(
        tmp_path / "a.star",
        {
            "rlnMicrographName": ["TS_01"], "rlnCoordinateX": [10.0], "rlnCoordinateY": [20.0],
            "rlnCoordinateZ": [30.0], "rlnOriginXAngst": [1.0], "rlnOriginYAngst": [2.0],
            "rlnOriginZAngst": [3.0], "rlnAngleRot": [90.0], "rlnAngleTilt": [0.0],
            "rlnAnglePsi": [0.0], "rlnRandomSubset": [2], "rlnClassNumber": [4],
            "rlnImageName": ["000007@boxes.mrcs"], "rlnLCCmax": [0.25], "rlnOpticsGroup": [1],
            "rlnDefocusU": [12345.6],
        },
        {"rlnOpticsGroup": [1], "rlnImagePixelSize": [4.0], "rlnVoltage": [300.0]},
    )  # fmt: skip
    row = read_particles(path).iloc[0]
    assert (row["z"], row["y"], row["x"]) == (120.0, 80.0, 40.0)
    assert (row["shift_z"], row["shift_y"], row["shift_x"]) == (-3.0, -2.0, -1.0)
    turned = orientations(read_particles(path)).apply([1.0, 0.0, 0.0])
    np.testing.assert_allclose(turned, [[0.0, -1.0, 0.0]], atol=1e-12)
    assert (row["half"], row["class"], row["score"]) == (2, 4, 0.25)
    assert (row["tomogram"], row["image"]) == ("TS_01", "000007@boxes.mrcs")
    assert row["rlnDefocusU"] == 12345.6
    assert read_particles(path).attrs["voxel_size"] == 4.0


def test_before_3_1_origins_count_in_pixels(tmp_path):
    path = star(
        tmp_path / "a.star",
        {**{f"rlnCoordinate{a}": [10.0] for a in "XYZ"}, **{f"rlnOrigin{a}": [2.0] for a in "XYZ"},
         "rlnDetectorPixelSize": [5.0], "rlnMagnification": [10000.0]},
    )  # fmt: skip
    row = read_particles(path).iloc[0]
    assert (row["x"], row["shift_x"]) == (50.0, -10.0)


def test_each_optics_group_has_its_pixel(tmp_path):
    path = star(
        tmp_path / "a.star",
        {**{f"rlnCoordinate{a}": [10.0, 10.0] for a in "XYZ"}, "rlnOpticsGroup": [2, 1]},
        {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [4.0, 8.0], "rlnVoltage": [300.0, 200.0]},
    )
    table = read_particles(path)
    assert table["x"].tolist() == [80.0, 40.0]
    write_particles(table, tmp_path / "b.star", voxel_size=None)
    again = starfile.read(tmp_path / "b.star", always_dict=True)
    assert again["optics"]["rlnVoltage"].tolist() == [300.0, 200.0]
    assert_same(read_particles(tmp_path / "b.star"), table)


def test_relion_4_counts_in_pixels_of_the_tilt_series(tmp_path):
    path = star(
        tmp_path / "a.star",
        {
            **{f"rlnCoordinate{a}": [10.0] for a in "XYZ"},
            "rlnOpticsGroup": [1],
            "rlnTomoName": ["TS"],
        },
        {"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [1.5], "rlnImagePixelSize": [6.0]},
    )
    table = read_particles(path)
    assert table["x"].tolist() == [15.0]
    for size in (None, 6.0):  # the tilt series' pixel stays, whatever the tomogram's
        write_particles(table, tmp_path / "b.star", style="relion4", voxel_size=size)
        assert starfile.read(tmp_path / "b.star")["particles"]["rlnCoordinateX"].iloc[0] == 10.0
        assert read_particles(tmp_path / "b.star")["x"].tolist() == [15.0]


def test_subtomogram_and_particle_angles_are_one(tmp_path):
    """RELION: A = A_subtomogram · A_particle; position = coordinate − A_subtomogram · origin."""
    names = ("Rot", "Tilt", "Psi")
    subtomogram, particle, origin = (30.0, 50.0, -70.0), (10.0, -20.0, 40.0), (1.0, 2.0, 3.0)
    angles = {
        **{f"rlnTomoSubtomogram{n}": [v] for n, v in zip(names, subtomogram, strict=True)},
        **{f"rlnAngle{n}": [v] for n, v in zip(names, particle, strict=True)},
        **{f"rlnOrigin{a}Angst": [v] for a, v in zip("XYZ", origin, strict=True)},
        **{f"rlnCoordinate{a}": [100.0] for a in "XYZ"},
    }  # fmt: skip
    table = read_particles(star(tmp_path / "a.star", angles), voxel_size=1.0)
    matrix_s, matrix_p = (euler_matrix(*np.deg2rad(a)) for a in (subtomogram, particle))
    np.testing.assert_allclose(orientations(table).as_matrix()[0], matrix_s @ matrix_p, atol=1e-6)
    shift = table[["shift_x", "shift_y", "shift_z"]].to_numpy()[0]
    np.testing.assert_allclose(shift, -matrix_s @ origin, atol=1e-6)
    assert not any(name.startswith("rlnTomoSubtomogram") for name in table)
    assert_same(written(table, tmp_path, "relion4", voxel_size=1.0), table)


@pytest.mark.parametrize("missing", ["rlnTomoSubtomogramTilt", "rlnAngleTilt"])
def test_a_row_without_an_angle_has_no_orientation(tmp_path, missing):
    names = ("Rot", "Tilt", "Psi")
    columns = {
        f"{what}{n}": [10.0, 20.0] for what in ("rlnTomoSubtomogram", "rlnAngle") for n in names
    }
    columns |= {f"rlnCoordinate{a}": [100.0, 100.0] for a in "XYZ"}
    whole = read_particles(star(tmp_path / "a.star", columns), voxel_size=1.0)
    columns[missing] = [10.0, np.nan]
    table = read_particles(star(tmp_path / "b.star", columns), voxel_size=1.0)
    turn = [name for name in table if name.startswith("quat_")]
    assert table.loc[1, turn].isna().all()
    np.testing.assert_array_equal(table.loc[0, turn], whole.loc[0, turn])


def euler_matrix(rot, tilt, psi):
    """Reference: RELION's Euler_angles2matrix, term by term."""
    ca, cb, cg = np.cos([rot, tilt, psi])
    sa, sb, sg = np.sin([rot, tilt, psi])
    return np.array([
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ])  # fmt: skip


def test_relion_5_counts_from_the_middle(tmp_path):
    path = star(
        tmp_path / "a.star",
        {
            "rlnTomoName": ["A", "B"],
            **{f"rlnCenteredCoordinate{a}Angst": [0.0, 1.0] for a in "XYZ"},
        },
    )
    with pytest.raises(InputError, match=r"so its size is needed; pass tomogram_shape=\(z, y, x\)"):
        read_particles(path)
    with pytest.raises(InputError, match="voxel_size is needed, too"):
        read_particles(path, tomogram_shape=(10, 20, 30))
    table = read_particles(path, tomogram_shape=(10, 20, 31), voxel_size=2.0)
    assert table[["z", "y", "x"]].to_numpy().tolist() == [[10.0, 20.0, 31.0], [11.0, 21.0, 32.0]]
    each = {"A": (10, 20, 30), "B": (20, 20, 20)}
    table = read_particles(path, tomogram_shape=each, voxel_size=2.0)
    assert table["x"].tolist() == [30.0, 21.0]
    with pytest.raises(InputError, match="size of the tomogram B is not known, only of A"):
        read_particles(path, tomogram_shape={"A": (10, 20, 30)}, voxel_size=2.0)


def test_relion_5_finds_the_tomograms_by_the_optimisation_set():
    folder = shared_data("metadata", "star", "relion5")
    picks = read_particles(folder / "Picks" / "job_picks" / "particles.star")
    # 84 × 136 × 44 voxels of 10.52 Å, by tomograms.star
    assert picks["x"].iloc[0] == pytest.approx(-176.94 + 84 * 10.52 / 2)
    assert picks["y"].iloc[0] == pytest.approx(765.48005 + 136 * 10.52 / 2)
    assert picks["z"].iloc[0] == pytest.approx(11.16 + 44 * 10.52 / 2)
    same = read_particles(folder / "Picks" / "job_picks" / "optimisation_set.star")
    pd.testing.assert_frame_equal(picks, same)
    refined = read_particles(folder / "Refine3D" / "job_refine" / "run_it050_data.star")
    assert refined["shift_x"].iloc[0] == pytest.approx(2.41904)
    assert refined["half"].tolist() == [1, 2, 1, 1, 1]
    by_hand = read_particles(
        folder / "Refine3D" / "job_refine" / "run_it050_data.star",
        tomogram_shape=folder / "Tomograms" / "job_tomo" / "tomograms.star",
    )
    pd.testing.assert_frame_equal(by_hand, refined)


def test_dynamo_counts_from_one(tmp_path):
    row = np.zeros(35)
    row[[3, 4, 5]] = 0.5, -0.5, 1.0
    row[[6, 7, 8]] = 90.0, 0.0, 0.0
    row[[9, 12, 13, 14, 19, 21]] = 0.3, 1, -60, 57, 4, 2
    row[[23, 24, 25]] = 1.0, 11.0, 21.0
    path = tmp_path / "a.tbl"
    path.write_text(" ".join(map(str, row)) + "\n")
    with pytest.raises(InputError, match=r"a\.tbl: a Dynamo table counts in voxels.*voxel_size="):
        read_particles(path)
    table = read_particles(path, voxel_size=10.0)
    first = table.iloc[0]
    assert (first["x"], first["y"], first["z"]) == (0.0, 100.0, 200.0)  # the first voxel is 0 Å
    assert (first["shift_x"], first["shift_y"], first["shift_z"]) == (5.0, -5.0, 10.0)
    assert (first["score"], first["tilt_min"], first["tilt_max"]) == (0.3, -60.0, 57.0)
    assert (first["tomogram"], first["class"]) == ("4", 2)
    expected = Rotation.from_euler("zxz", [90, 0, 0], degrees=True).inv()
    assert angular_distance(orientations(table)[0], expected) < 1e-9


def test_dynamo_keeps_names_beside_the_table(tmp_path):
    table = pd.DataFrame({"tomogram": ["b", "a", "b"], "z": 1.0, "y": 2.0, "x": [3.0, 4.0, 5.0]})
    write_particles(table, tmp_path / "a.tbl", voxel_size=1.0)
    assert (tmp_path / "a.doc").read_text() == "1 b\n2 a\n"
    assert np.loadtxt(tmp_path / "a.tbl")[:, 19].tolist() == [1, 2, 1]
    assert read_particles(tmp_path / "a.tbl", voxel_size=1.0)["tomogram"].tolist() == [
        "b",
        "a",
        "b",
    ]


NOT_PARTICLES = {
    "no particles in data_": {
        "basic_double_quote", "basic_single_quote", "default_pipeline", "empty_loop",
        "loop_double_quote", "loop_double_quote__a03363d5", "loop_single_quote",
        "loop_single_quote__5e6523b4", "postprocess", "job", "13pf_MT", "14pf_MT", "tomograms",
        "test_overwrite_backup", "test_string_double_quote", "test_string_single_quote",
        "two_basic_blocks", "two_single_line_loop_blocks",
    },
    "blocks hold particles": {
        "rln3.1_data_style", "rln3.1_data_style__1e12ee49", "single_line_end_of_multiblock",
        "single_line_middle_of_multiblock",
    },
    "names Refine3D/job_refine/run_it040_data.star": {"run_it040_optimisation_set"},
}  # fmt: skip
NO_PIXEL_SIZE = {
    "chlamy_ps2",
    "single_line_end_of_multiblock__8b81d074", "single_line_end_of_multiblock__a3511f08",
    "single_line_middle_of_multiblock__02ed5281", "single_line_middle_of_multiblock__18bb5b75",
}  # fmt: skip
COUNTS = {
    "chlamy_ps2": 3111, "one_loop": 16, "relion3.1_particles": 57, "warp_example": 1399,
    "particles": 5, "optimisation_set": 5, "run_it050_data": 5, "run_it050_optimisation_set": 5,
}  # fmt: skip


@pytest.mark.parametrize("name", STARS)
def test_every_real_star_opens_or_says_why_not(tmp_path, name):
    path = shared_data(name)
    for message, stems in NOT_PARTICLES.items():
        if path.stem in stems:
            with pytest.raises(InputError, match=rf"{path.name}.*{message}"):
                read_particles(path, voxel_size=10.0)
            return
    if path.stem in NO_PIXEL_SIZE:
        with pytest.raises(InputError, match=r"does not say their size.*pass voxel_size="):
            read_particles(path)
        table = read_particles(path, voxel_size=10.0)
    else:
        table = read_particles(path)
    assert len(table) == COUNTS.get(path.stem, 1)
    shapes = {str(tomogram): SHAPE for tomogram in set(table["tomogram"])}
    for form in FORMATS:
        target = tmp_path / f"a.{form if form in ('tbl', 'csv') else 'star'}"
        style = form if form.startswith("relion") else "relion4"
        write_particles(table, target, style=style, voxel_size=8.0, tomogram_shape=shapes)
        found = read_particles(
            target, tomogram_shape=shapes, voxel_size=8.0 if form in ("tbl", "relion5") else None
        )
        expected = table
        if form == "tbl":
            known = {"tomogram", "z", "y", "x", "score", "class"}
            expected = table[[c for c in table if c in known or c.startswith(("shift", "quat"))]]
        assert_same(found, expected)


@pytest.mark.parametrize(("name", "count"), [("dynamo2warp", 4934), ("t_double", 300)])
def test_every_real_dynamo_table_opens(tmp_path, name, count):
    path = shared_data("metadata", "dynamo", f"{name}.tbl")
    table = read_particles(path, voxel_size=10.0, need=("position", "orientation", "tilt_range"))
    assert len(table) == count
    write_particles(table, tmp_path / "a.tbl", voxel_size=10.0)
    theirs, ours = np.loadtxt(path), np.loadtxt(tmp_path / "a.tbl")
    kept = [i for i in range(35) if i not in (6, 7, 8)]  # angles: the same turn, other numbers
    np.testing.assert_allclose(ours[:, kept], theirs[:, kept], rtol=1e-8, atol=1e-8)
    for form in ("relion3.1", "relion5", "csv"):
        assert_same(written(table, tmp_path, form, voxel_size=10.0), table)
