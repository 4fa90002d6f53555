"""Scoring: the rules of SHREC 2021 against a slow reference, by hand, and on bad input."""

import itertools

import click.testing
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.cli.scoring import score as score_command
from tomodask.data.particles import write_particles
from tomodask.data.tomograms import save_tomogram
from tomodask.errors import InputError
from tomodask.picking.scoring.pairing import matched_pairs
from tomodask.picking.scoring.scores import CLASSIFICATION, LOCALISATION, MEAN, score_picks


def table(rows, columns="z y x kind score tomogram"):
    rows = list(rows)
    names = columns.split()[: len(rows[0])] if rows else columns.split()[:3]
    out = pd.DataFrame(rows, columns=names)
    return out.astype(dict.fromkeys("zyx", float))


def greedy(picks, truth, radius):
    """One to one from the nearest pair on, written out."""
    pairs = [
        (float(np.linalg.norm(p - t)), i, j)
        for (i, p), (j, t) in itertools.product(enumerate(picks), enumerate(truth))
    ]
    out, gone_picks, gone_truth = [], set(), set()
    for far, i, j in sorted(pairs):
        if far <= radius[j] and i not in gone_picks and j not in gone_truth:
            out.append((i, j))
            gone_picks.add(i)
            gone_truth.add(j)
    return out, sorted(p for p in pairs if p[0] <= radius[p[2]])


def reference(picks, truth, reach, classes):
    """(TP, FP, FN, double) of all and of each class, counted pick by pick."""
    places = [one[["z", "y", "x"]].to_numpy() for one in (picks, truth)]
    matched, near = greedy(*places, [reach] * len(truth))
    matched = dict(matched)
    counts = {name: dict.fromkeys(("TP", "FP", "double"), 0) for name in [LOCALISATION, *classes]}
    for i in range(len(picks)):
        own = picks["kind"][i]
        candidates = [j for _, pick, j in near if pick == i]
        if i in matched:
            counts[LOCALISATION]["TP"] += 1
            counts[own]["TP" if truth["kind"][matched[i]] == own else "FP"] += 1
        elif candidates:
            counts[LOCALISATION]["double"] += 1
            counts[own]["double" if truth["kind"][candidates[0]] == own else "FP"] += 1
        else:
            counts[LOCALISATION]["FP"] += 1
            counts[own]["FP"] += 1
    for name, one in counts.items():
        there = len(truth) if name == LOCALISATION else (truth["kind"] == name).sum()
        one["FN"] = there - one["TP"]
    return counts


# Places on a coarse grid: many distances are equal.
grid = st.lists(st.tuples(*[st.integers(0, 4)] * 3, st.sampled_from("ab")), max_size=14)


@settings(max_examples=40, deadline=None)
@given(
    grid, grid.filter(lambda rows: {r[3] for r in rows} == {"a", "b"}), st.sampled_from([1, 1.5])
)
def test_counts_are_those_of_the_slow_reference(found, true, reach):
    picks = table(found) if found else table([(0, 0, 0, "a")]).iloc[:0]
    truth = table(true)
    scores = score_picks(picks, truth, radius=reach)
    want = reference(picks, truth, reach, "ab")
    for name, counts in want.items():
        row = scores.table.loc[name]
        assert {key: row[key] for key in counts} == counts, name
        assert row["TP"] + row["FP"] + row["double"] == row["picks"]
    sums = scores.table.loc[["a", "b"], ["TP", "FP", "FN", "double"]].sum()
    assert (scores.table.loc[CLASSIFICATION, sums.index] == sums).all()
    assert scores.confusion.to_numpy().sum() == len(truth) + want[LOCALISATION]["FP"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 30))
def test_pairs_are_those_of_the_pass_from_nearest_to_farthest(seed, n, m):
    rng = np.random.default_rng(seed)
    picks, truth = rng.integers(0, 6, (n, 3)), rng.integers(0, 6, (m, 3))
    radius = rng.uniform(0.5, 3, m)
    rows, true, far = matched_pairs(picks, truth, radius)
    want, _ = greedy(picks, truth, radius)
    assert list(zip(rows.tolist(), true.tolist(), strict=True)) == want
    np.testing.assert_array_equal(far, np.linalg.norm(picks[rows] - truth[true], axis=1))


def test_the_order_of_rows_changes_nothing():
    rng = np.random.default_rng(1)
    truth = table([(*p, "ab"[i % 2]) for i, p in enumerate(rng.uniform(0, 300, (60, 3)))])
    picks = table(
        [(*p, "ab"[i % 3 > 0], s) for i, (*p, s) in enumerate(rng.uniform(0, 300, (90, 4)))]
    )
    first = score_picks(picks, truth, radius=40.0)
    again = score_picks(picks.sample(frac=1, random_state=0), truth[::-1], radius=40.0)
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.curve, again.curve)
    pd.testing.assert_frame_equal(first.confusion, again.confusion)


# Three particles: one found twice, one found as another class, one missed; one pick on nothing.
TRUTH = table([(0, 0, 0, "a"), (0, 0, 200, "b"), (0, 0, 400, "a")])
PICKS = table(
    [(0, 0, 30, "a", 0.9), (0, 0, -10, "a", 0.5), (0, 0, 203, "a", 0.7), (0, 200, 0, "b", 0.6)]
)


def test_figures_by_hand():
    scores = score_picks(PICKS, TRUTH, radius=50.0, voxel_size=10.0, beta=2.0)
    whole = scores.table.loc[LOCALISATION]
    assert whole[["particles", "picks", "TP", "FP", "FN", "double", "multiple"]].tolist() == [
        3, 4, 2, 1, 1, 1, 1,
    ]  # fmt: skip
    assert whole["distance"] == pytest.approx((10 + 3) / 2)  # the nearer of the double hit counts
    assert whole["distance_voxels"] == pytest.approx(0.65)
    assert (scores.precision, scores.recall) == (2 / 4, 2 / 3)
    assert scores.f1 == pytest.approx(2 / (1 / scores.precision + 1 / scores.recall))
    assert whole["f_beta"] == pytest.approx(5 * 0.5 * (2 / 3) / (4 * 0.5 + 2 / 3))
    assert scores.picks["verdict"].tolist() == ["double", "true", "true", "false"]
    assert scores.picks["particle"].tolist() == [0, 0, 1, -1]
    assert scores.particles["pick"].tolist() == [1, 2, -1]
    a, b = scores.table.loc["a"], scores.table.loc["b"]
    assert a[["TP", "FP", "FN", "double"]].tolist() == [1, 1, 1, 1]
    assert b[["TP", "FP", "FN", "double"]].tolist() == [0, 1, 1, 0]
    # SHREC leaves double hits and picks on nothing out: two a are called a, one of them is b.
    assert a["shrec_precision"] == 1 / 2
    assert scores.table.loc[MEAN, "f1"] == pytest.approx((a["f1"] + b["f1"]) / 2)
    assert b["f1"] == 0
    assert scores.confusion.to_dict("list") == {
        "a": [1, 1, 0], "b": [0, 0, 1], "(missed)": [1, 0, 0],
    }  # fmt: skip
    assert "AD (Å)" in str(scores)
    assert LOCALISATION in str(scores)


def test_curve_is_the_score_of_the_picks_above_each_threshold():
    rng = np.random.default_rng(3)
    truth = table([(*p, "ab"[i % 2]) for i, p in enumerate(rng.uniform(0, 200, (40, 3)))])
    picks = table(
        [
            (*p, "ab"[i % 3 > 0], round(s / 200, 1))
            for i, (*p, s) in enumerate(rng.uniform(0, 200, (60, 4)))
        ]
    )
    scores = score_picks(picks, truth, radius=30.0, ignore=[])
    for name in (LOCALISATION, "a", "b"):
        curve = scores.curve[scores.curve["class"] == name]
        assert curve["threshold"].tolist() == sorted(set(picks["score"]), reverse=True)
        assert (np.diff(curve["picks"]) >= 0).all()
        for row in curve.itertuples():
            part = score_picks(picks[picks["score"] >= row.threshold], truth, radius=30.0).table
            if name in part.index:
                assert (part.loc[name, "TP"], part.loc[name, "picks"]) == (row.TP, row.picks)
    whole = scores.curve[scores.curve["class"] == LOCALISATION]
    steps = np.diff(whole["recall"], prepend=0) * whole["precision"]
    assert scores.table.loc[LOCALISATION, "area"] == pytest.approx(steps.sum())
    assert score_picks(picks.drop(columns="score"), truth, radius=30.0).curve is None


def test_perfect_picks_have_an_area_of_one_and_picks_below_it_change_nothing():
    good = TRUTH.assign(score=[0.9, 0.8, 0.7])
    bad = table([(900, 0, x, "a", 0.1) for x in (0, 300)])
    scores = score_picks(pd.concat([good, bad]), TRUTH, radius=50.0)
    assert scores.table.loc[LOCALISATION, "area"] == 1
    assert scores.f1 == pytest.approx(2 * 3 / (5 + 3))


def test_many_thresholds_are_thinned_to_256():
    picks = table([(0, 0, 500 * i, "a", i / 1000) for i in range(1000)])
    curve = score_picks(picks, picks.drop(columns="score"), radius=5.0).curve
    curve = curve[curve["class"] == LOCALISATION]
    assert len(curve) == 256
    assert curve["picks"].iloc[-1] == 1000


def labels(shape=(20, 20, 60), chunks=None):
    """Two cubes, 1 and 2, and a bead, 3."""
    out = np.zeros(shape, np.int32)
    for number, x in ((1, 5), (2, 25), (3, 45)):
        out[8:13, 8:13, x : x + 5] = number
    data = out if chunks is None else da.from_array(out, chunks)
    return xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": 10.0})


CUBES = table([(100, 100, 70, "a"), (100, 100, 270, "b")])


@pytest.mark.parametrize("chunks", [None, (7, 20, 11)])
def test_a_pick_belongs_to_the_particle_whose_voxels_it_lies_in(chunks):
    rows = [
        (100, 100, 70),  # the middle of the first
        (120, 120, 50),  # its corner: a double hit
        (100, 100, 299),  # beside the second: particles are wider by a voxel
        (100, 100, 320),  # too far from it
        (100, 100, 470),  # in the bead, which the truth does not list
        (100, 100, 9990),  # outside
    ]
    scores = score_picks(table(rows), CUBES, occupancy=labels(chunks=chunks))
    assert scores.picks["verdict"].tolist() == ["true", "double", "true", *["false"] * 3]
    assert scores.picks["particle"].tolist() == [0, 0, 1, -1, -1, -1]
    assert scores.outside == 1
    assert scores.table.loc[LOCALISATION, "distance"] == pytest.approx((0 + 29) / 2)
    assert scores.table.loc[LOCALISATION, "distance_voxels"] == pytest.approx(1.45)
    assert "1 picks lie outside" in str(scores)


def test_hollow_particles_are_told(caplog):
    volume = labels()
    score_picks(table([(100, 100, 70)]), CUBES, occupancy=volume)
    assert not caplog.text
    volume[8:13, 8:13, 5:10] = 0
    scores = score_picks(table([(100, 100, 70)]), CUBES, occupancy=volume)
    assert scores.picks["verdict"].tolist() == ["false"]
    assert "1 of 2 particles have their centre in no voxel of their own" in caplog.text


def test_a_pick_outside_is_moved_to_the_nearest_voxel_as_in_shrec():
    volume = labels()
    volume[0, 8:13, 5:10] = 1
    scores = score_picks(table([(-30, 100, 70)]), CUBES, occupancy=volume)
    assert scores.picks["verdict"].tolist() == ["true"]
    assert scores.outside == 1


def test_of_two_neighbours_the_particle_with_the_nearer_centre():
    volume = labels()
    volume[:] = 1
    volume[:, :, :9], volume[:, :, 9] = 2, 0  # a gap of one voxel
    truth = table([(100, 100, 500, "a"), (100, 100, 50, "b")])
    scores = score_picks(table([(100, 100, 90)]), truth, occupancy=volume)
    assert scores.picks["particle"].tolist() == [1]


def test_labels_follow_their_column():
    truth = CUBES.assign(label=[2, 1])
    scores = score_picks(table([(100, 100, 70)]), truth, occupancy=labels())
    assert scores.picks["particle"].tolist() == [1]


def test_other_classes_are_false_and_ignored_ones_are_left_out():
    picks = table([(*TRUTH.loc[i, ["z", "y", "x"]], "a") for i in (0, 1)])
    chosen = score_picks(picks, TRUTH, radius=50.0, classes=["a"])
    assert chosen.picks["verdict"].tolist() == ["true", "false"]
    assert chosen.table.loc[LOCALISATION, "particles"] == 2
    ignored = score_picks(picks, TRUTH, radius=50.0, ignore=["b"])
    assert ignored.picks["verdict"].tolist() == ["true", "ignored"]
    assert ignored.table.loc[LOCALISATION, ["picks", "particles"]].tolist() == [1, 2]
    assert ignored.precision == 1
    assert "b" not in ignored.table.index
    assert "1 picks were left out" in str(ignored)


def test_ignored_particles_leave_the_curve_too():
    picks = table([(0, 0, 0, "a", 0.5), (0, 0, 200, "b", 0.9), (0, 0, 230, "b", 0.8)])
    curve = score_picks(picks, TRUTH, radius=50.0, ignore=["b"]).curve
    curve = curve[curve["class"] == LOCALISATION]
    assert curve["picks"].tolist() == [0, 0, 1]
    assert curve["TP"].tolist() == [0, 0, 1]


def test_radius_by_class_and_from_the_truth():
    far = table([(0, 0, 60), (0, 0, 260)])
    scores = score_picks(far, TRUTH, radius={"a": 70.0, "b": 50.0})
    assert scores.picks["verdict"].tolist() == ["true", "false"]
    for column, factor in (("radius", 1), ("diameter", 2)):
        truth = TRUTH.assign(**{column: [factor * r for r in (50.0, 70.0, 50.0)]})
        assert score_picks(far, truth).picks["verdict"].tolist() == ["false", "true"]


def test_each_tomogram_is_scored_on_its_own(caplog):
    truth = pd.concat([TRUTH.assign(tomogram="one"), TRUTH.assign(tomogram="two")])
    picks = table([(0, 0, 0), (0, 0, 0), (0, 0, 0)]).assign(tomogram=["one", "two", "three"])
    scores = score_picks(picks, truth, radius=50.0)
    assert scores.picks["verdict"].tolist() == ["true", "true", "ignored"]
    assert scores.particles["pick"].tolist() == [0, -1, -1, 1, -1, -1]
    assert "three" in caplog.text
    maps = {"one": labels(), "two": labels()}
    cubes = pd.concat([CUBES.assign(tomogram="one"), CUBES.assign(tomogram="two")])
    picks = table([(100, 100, 270)]).assign(tomogram="two")
    assert score_picks(picks, cubes, occupancy=maps).picks["particle"].tolist() == [3]
    with pytest.raises(InputError, match="one map and the truth is of 2 tomograms"):
        score_picks(picks, cubes, occupancy=labels())
    with pytest.raises(InputError, match="no map of 'two'"):
        score_picks(picks, cubes, occupancy={"one": labels()})


def test_tomograms_named_by_long_numbers_stay_apart():
    truth = pd.DataFrame({"z": [0.0, 0], "y": [0.0, 0], "x": [0.0, 500], "tomogram": 20260101})
    truth.loc[1, "tomogram"] = 20260102
    picks = truth.assign(tomogram=truth["tomogram"].to_numpy()[::-1])
    assert score_picks(picks, truth, radius=10.0).table["TP"].iloc[0] == 0
    assert score_picks(truth, truth, radius=10.0).table["TP"].iloc[0] == 2


def test_classes_are_names_or_numbers():
    truth = TRUTH.assign(**{"class": [7, 3, 7]})
    numbers = PICKS.drop(columns="kind").assign(**{"class": [7, 7, 7, 3]})
    names = PICKS.rename(columns={"kind": "class"})
    want = score_picks(PICKS, TRUTH, radius=50.0).table
    for picks in (numbers, names, PICKS):
        got = score_picks(picks, truth, radius=50.0).table
        pd.testing.assert_frame_equal(got.sort_index(), want.sort_index())
    assert list(score_picks(PICKS, truth, radius=50.0).table.index[1:3]) == ["b", "a"]  # by number


def test_without_classes_only_localisation_is_scored(caplog):
    for picks, truth in (
        (PICKS.drop(columns="kind"), TRUTH),
        (PICKS, TRUTH.drop(columns="kind")),
        (PICKS.assign(kind="ribosome"), TRUTH),
    ):
        scores = score_picks(picks, truth, radius=50.0)
        assert list(scores.table.index) == [LOCALISATION]
        assert scores.confusion is None
    assert "only localisation" in caplog.text


def test_shifts_are_part_of_the_place():
    moved = PICKS.assign(x=PICKS["x"] - 1000, shift_z=0.0, shift_y=0.0, shift_x=1000.0)
    want = score_picks(PICKS, TRUTH, radius=50.0).table
    pd.testing.assert_frame_equal(score_picks(moved, TRUTH, radius=50.0).table, want)


def test_nothing_picked_and_nothing_there():
    none = score_picks(PICKS.iloc[:0], TRUTH, radius=50.0)
    assert none.table.loc[LOCALISATION, ["TP", "FP", "FN"]].tolist() == [0, 0, 3]
    assert (none.recall, none.f1) == (0, 0)
    assert np.isnan(none.precision)
    empty = score_picks(PICKS, TRUTH.iloc[:0], radius=50.0)
    assert empty.table.loc[LOCALISATION, "FP"] == 4
    assert np.isnan(empty.recall)
    assert "–" in str(empty)


def many(scale=1.0):
    rng = np.random.default_rng(0)
    return table([tuple(scale * p) for p in rng.uniform(0, 4000, (50, 3))])


@pytest.mark.parametrize(
    ("picks", "options", "message"),
    [
        (many(0.1), {"voxel_size": 10.0}, "picks are in voxels and the truth is in Å"),
        (many(10.0), {"voxel_size": 10.0}, "picks are in Å and the truth is in voxels"),
        (many(20.0), {}, "other units"),
        (many().drop(columns="y"), {}, "picks: position needs the column y"),
        (many().assign(z=np.nan), {}, "50 rows have no finite position"),
        (many(), {"radius": -1.0}, "radius must be above 0 Å, got -1"),
        (many(), {"radius": None}, "radius is needed"),
        (many(), {"radius": 5.0, "occupancy": labels()}, "two rules"),
        (many(), {"beta": 0.0}, "beta must be above 0"),
        (many(), {"voxel_size": 0.0}, "voxel_size must be above 0"),
        (many(), {"classes": ["a"]}, "the truth has no 'a'; it has no classes"),
        (many(), {"radius": None, "occupancy": labels().drop_attrs()}, "with a voxel size"),
    ],
)
def test_bad_input_is_told(picks, options, message):
    with pytest.raises(InputError, match=message):
        score_picks(picks, many(), **{"radius": 30.0, **options})


def test_a_map_of_shares_is_refused():
    shares = labels().copy(data=labels().to_numpy() * np.float32(0.5))
    with pytest.raises(InputError, match=r"holds shares such as 0\.5; give the label map"):
        score_picks(table([(100, 100, 70)]), CUBES, occupancy=shares)


def test_other_names_of_tomograms_are_refused_or_told(caplog):
    one, two = TRUTH.assign(tomogram="one"), TRUTH.assign(tomogram="two")
    assert score_picks(one, two, radius=50.0).f1 == 1
    assert "tomogram one is taken for two" in caplog.text
    assert score_picks(TRUTH, two, radius=50.0).f1 == 1
    with pytest.raises(InputError, match="no tomogram in common"):
        score_picks(TRUTH, pd.concat([one, two]), radius=50.0)


def test_the_command_prints_and_writes(tmp_path):
    write_particles(PICKS, tmp_path / "picks.star", voxel_size=10.0)
    write_particles(TRUTH, tmp_path / "truth.star", voxel_size=10.0)
    pd.DataFrame({"kind": ["a", "b"], "radius": [50.0, 50.0]}).to_csv(tmp_path / "classes.csv")
    outputs = {name: tmp_path / f"{name}.csv" for name in ("confusion", "curve", "verdicts")}
    arguments = [str(tmp_path / "picks.star"), str(tmp_path / "truth.star")]
    arguments += ["-o", str(tmp_path / "scores.csv")]
    for name, path in outputs.items():
        arguments += [f"--{name}", str(path)]
    run = click.testing.CliRunner().invoke(score_command, arguments, catch_exceptions=False)
    assert run.exit_code == 0
    want = score_picks(PICKS, TRUTH, radius=50.0, voxel_size=10.0)
    assert run.output == f"{want}\n"
    written = pd.read_csv(tmp_path / "scores.csv", index_col="class")
    assert written.loc["a", ["TP", "FP", "FN", "double"]].tolist() == [1, 1, 1, 1]
    assert pd.read_csv(outputs["verdicts"])["verdict"].tolist() == want.picks["verdict"].tolist()
    assert len(pd.read_csv(outputs["curve"])) == len(want.curve)
    assert pd.read_csv(outputs["confusion"], index_col="class").shape == want.confusion.shape


def test_the_command_matches_by_maps(tmp_path):
    write_particles(table([(100, 100, 70)]), tmp_path / "picks.star", voxel_size=10.0)
    write_particles(CUBES, tmp_path / "truth.star", voxel_size=10.0)
    save_tomogram(labels(), tmp_path / "labels.zarr", levels=1)
    for occupancy in ("", "test="):
        arguments = [str(tmp_path / "picks.star"), str(tmp_path / "truth.star"), "--occupancy"]
        arguments += [f"{occupancy}{tmp_path / 'labels.zarr'}"]
        run = click.testing.CliRunner().invoke(score_command, arguments)
        assert (run.exit_code == 0) == (not occupancy), run.output  # no tomogram is called test
