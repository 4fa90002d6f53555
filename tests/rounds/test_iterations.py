"""Rounds: halves that stay apart, what comes next and when it ends."""

import math

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.scenes import boxes
from dask.utils import key_split
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.arrays.symmetry import symmetry_group
from tomodask.data.particles import with_orientations
from tomodask.data.subtomograms import open_subtomograms, save_subtomograms
from tomodask.errors import InputError
from tomodask.rounds.half_sets import half_sets
from tomodask.rounds.iterations import (
    Finished,
    RefinementPlan,
    Search,
    align_halves,
    best_round,
    next_search,
    pose_changes,
    start_reference,
)

PLAN = RefinementPlan(
    box=32, voxel_size=10.0, diameter=260.0, start_resolution=60.0, finest=22.0,
    angular_step=30.0, symmetry="C1", iterations=20,
)  # fmt: skip
POSE = ["quat_x", "quat_y", "quat_z", "quat_w", "shift_z", "shift_y", "shift_x", "score"]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def rounds(*told):
    """A history of (resolution, settled, local or not, turned)."""
    out = []
    for number, (resolution, settled, local, turned) in enumerate(told, 1):
        search = Search(number, 30.0, 30.0, 30.0 if local else None)
        out.append(
            Finished(search, resolution, resolution * 1.3, turned, 1.0, settled, math.nan, 0.5)
        )
    return out


@settings(deadline=None)
@given(count=st.integers(4, 60), seed=st.integers(0, 5))
def test_halves_by_particle_are_equal_and_drawn_once(count, seed):
    table = pd.DataFrame(index=range(count))
    half = half_sets(table, seed=seed)
    sizes = np.bincount(half)[1:]
    assert abs(sizes[0] - sizes[1]) <= 1
    np.testing.assert_array_equal(half, half_sets(table, seed=seed))


@settings(deadline=None)
@given(names=st.lists(st.sampled_from("abcde"), min_size=8, max_size=60))
def test_halves_by_tomogram_tear_none_apart(names):
    table = pd.DataFrame({"tomogram": names})
    sizes = table["tomogram"].value_counts()
    # No division does better than the largest tomogram against all others.
    if len(sizes) < 2 or len(names) - sizes.iloc[0] < 2:
        with pytest.raises(InputError, match=r"halv|half"):
            half_sets(table, by="tomogram")
        return
    half = pd.Series(half_sets(table, by="tomogram"))
    assert len(set(zip(names, half, strict=True))) == len(sizes)
    assert abs((half == 1).sum() - (half == 2).sum()) <= sizes.iloc[0]


def test_halves_that_the_table_carries_are_kept():
    table = pd.DataFrame({"half": [2, 2, 1, 1, 1]})
    assert half_sets(table, seed=3).tolist() == [2, 2, 1, 1, 1]
    with pytest.raises(InputError, match="must hold 1 and 2, got"):
        half_sets(pd.DataFrame({"half": [0, 1, 0, 1]}))
    with pytest.raises(InputError, match="each half needs at least two particles, got 1 and 3"):
        half_sets(pd.DataFrame({"half": [1, 2, 2, 2]}))
    with pytest.raises(InputError, match="each half needs at least two particles"):
        half_sets(pd.DataFrame(index=range(3)))


def test_one_half_knows_nothing_of_the_other():
    """Other boxes and another reference in half 2 leave every bit of half 1 as it is."""
    dataset, _, reference = boxes(8)
    other, _, _ = boxes(8, seed=50)
    half = np.array([1, 2, 1, 2, 2, 1, 2, 1])
    low = start_reference(np.asarray(reference), PLAN)
    mixed = dataset.copy()
    values = dataset["subtomogram"].to_numpy().copy()
    values[half == 2] = other["subtomogram"].to_numpy()[half == 2]
    mixed["subtomogram"] = (("particle", "z", "y", "x"), values)
    search = Search(1, 40.0, 30.0, None)
    one = align_halves(dataset, half, (low, low), search, PLAN).compute()
    two = align_halves(mixed, half, (low, low[::-1].copy()), search, PLAN).compute()
    assert one["half"].tolist() == half.tolist()
    assert one.index.tolist() == list(range(8))
    pd.testing.assert_frame_equal(
        one.loc[half == 1, POSE], two.loc[half == 1, POSE], check_exact=True
    )
    assert (one.loc[half == 2, "score"] != two.loc[half == 2, "score"]).all()


def test_each_half_reads_its_own_boxes(tmp_path):
    """In the tasks that search them: none is read for both, none waits in memory for the other."""
    dataset, _, reference = boxes(60)
    save_subtomograms(dataset, tmp_path / "boxes.zarr")
    stored = open_subtomograms(tmp_path / "boxes.zarr")
    half = np.random.default_rng(0).permutation(60) % 2 + 1
    low = start_reference(np.asarray(reference), PLAN)
    (ready,) = dask.optimize(
        align_halves(stored, half, (low, low), Search(1, 60.0, 40.0, None), PLAN)
    )
    graph = dict(ready.__dask_graph__())
    named = [key_split(key) for key in graph]
    assert {name: named.count(name) for name in set(named)} == {
        "search": 4, "refine": 4, "best": 2, "plan": 2, "settings": 2, "pose_table": 2,
        "together": 1,
    }  # fmt: skip
    found = ready.compute()
    want = align_halves(dataset, half, (low, low), Search(1, 60.0, 40.0, None), PLAN).compute()
    pd.testing.assert_frame_equal(found[POSE], want[POSE], check_exact=True)


def test_rounds_do_not_name_those_set_aside_each_time(caplog):
    dataset, _, reference = boxes(6)
    values = dataset["subtomogram"].to_numpy().copy()
    values[3] = 0.0
    dataset["subtomogram"] = (("particle", "z", "y", "x"), values)
    low = start_reference(np.asarray(reference), PLAN)
    half = np.array([1, 2] * 3)
    search = Search(1, 60.0, 40.0, None)
    found = align_halves(dataset, half, (low, low), search, PLAN).compute()
    assert found["reason"].fillna("").ne("").tolist() == [False] * 3 + [True] + [False] * 2
    assert "set aside" not in caplog.text


def test_rows_of_several_references_stay_with_their_particle():
    dataset, _, reference = boxes(5)
    volume = start_reference(np.asarray(reference), PLAN)
    half = np.array([2, 1, 1, 2, 1])
    pair = [volume, volume[::-1].copy()]
    found = align_halves(
        dataset, half, [pair, pair], Search(1, 60.0, 40.0, None), PLAN, keep="all"
    ).compute()
    assert found.index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found["class"].tolist() == [1, 2] * 5
    assert found["half"].tolist() == np.repeat(half, 2).tolist()
    assert found["image"].tolist() == [f"{i}@boxes" for i in np.repeat(range(5), 2)]


def test_the_first_round_searches_all_rotations_at_the_start():
    assert next_search([], PLAN) == Search(1, 60.0, 30.0, None)
    assert next_search([], PLAN, before=3).iteration == 4


def test_the_band_ends_a_shell_beyond_the_halves_agreement():
    search = next_search(rounds((32.0, math.nan, False, math.nan)), PLAN)
    assert search.local is None
    assert 320.0 / search.resolution == pytest.approx(320.0 / 32.0 + 1)
    assert next_search(rounds((20.0, 0.1, False, 30.0)), PLAN).resolution == PLAN.finest
    assert next_search(rounds((math.inf, 0.1, False, 30.0)), PLAN).resolution == 60.0
    assert next_search(rounds((100.0, 0.1, False, 30.0)), PLAN).resolution == 60.0


def test_search_turns_local_when_poses_settle_or_nothing_improves():
    restless = [(40.0, math.nan, False, math.nan), (35.0, 0.5, False, 20.0)]
    assert next_search(rounds(*restless), PLAN).local is None
    settled = [restless[0], (35.0, 0.95, False, 2.0)]
    assert next_search(rounds(*settled), PLAN).local == PLAN.angular_step
    idle = [(40.0, math.nan, False, math.nan), (40.0, 0.5, False, 9.0), (41.0, 0.5, False, 9.0)]
    assert next_search(rounds(*idle), PLAN).local == PLAN.angular_step


def test_it_ends_when_nothing_improves_and_poses_are_still():
    begun = [(40.0, math.nan, False, math.nan), (30.0, 0.95, False, 1.0), (28.0, 1.0, True, 0.5)]
    assert next_search(rounds(*begun), PLAN) is not None
    still = [*begun, (27.9, 1.0, True, 0.1)]
    assert next_search(rounds(*still), PLAN) is not None  # one round without a gain
    assert next_search(rounds(*still, (28.1, 1.0, True, 0.1)), PLAN) is None
    moving = [*still, (28.1, 1.0, True, 9.0)]
    assert next_search(rounds(*moving), PLAN) is not None
    moving += [(28.1, 1.0, True, 9.0)] * 2
    assert next_search(rounds(*moving), PLAN) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(15, 100) | st.just(math.inf), st.floats(0, 1), st.booleans(),
            st.floats(0, 30),
        ),
        min_size=1, max_size=25,
    )
)  # fmt: skip
def test_whatever_happened_the_next_round_is_a_search_or_none(told):
    history = rounds(*told)
    search = next_search(history, PLAN)
    if search is None:
        assert len(history) >= PLAN.iterations or history[-1].search.local is not None
    else:
        assert PLAN.finest <= search.resolution <= PLAN.start_resolution
        assert search.iteration == len(history) + 1 <= PLAN.iterations
    assert history[best_round(history)].resolution_143 <= 1.01 * min(
        one.resolution_143 for one in history
    )


def test_of_equally_fine_rounds_the_last_is_the_result():
    told = [(30.0, 1.0, False, 1.0), (25.0, 1.0, False, 1.0), (25.1, 1.0, True, 1.0)]
    assert best_round(rounds(*told, (27.0, 1.0, True, 1.0))) == 2


@pytest.mark.parametrize("symmetry", ["C1", "C7", "D2"])
def test_equivalent_poses_did_not_change(symmetry):
    rng = np.random.default_rng(0)
    turns = Rotation.random(6, rng=rng)
    shifts = pd.DataFrame(rng.normal(size=(6, 3)), columns=["shift_z", "shift_y", "shift_x"])
    group = symmetry_group(symmetry)
    before = with_orientations(shifts, turns)
    moved = shifts.add([3.0, 0.0, 4.0])
    small = Rotation.from_rotvec([0, 0, 5.0], degrees=True)
    after = with_orientations(moved, turns * group[len(group) - 1] * small)
    after.loc[2, "quat_x"] = np.nan
    angle, way = pose_changes(before, after, symmetry)
    np.testing.assert_allclose(np.delete(angle, 2), 5.0, atol=1e-6)
    np.testing.assert_allclose(np.delete(way, 2), 5.0)
    assert np.isnan(angle[2])
    assert np.isnan(way[2])
