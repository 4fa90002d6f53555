"""Labels find their boxes, by whatever the table knows; what does not go together is told."""

import logging

import dask
import numpy as np
import pandas as pd
import pytest
from classification.kinds import boxes_of, two_kinds

from tomodask.classification.learning.class_labels import (
    Labelled,
    class_weights,
    labelled_boxes,
    split_labels,
)
from tomodask.data.particles import write_particles
from tomodask.data.subtomograms import open_subtomograms, particle_table, save_subtomograms
from tomodask.errors import InputError


def placed(count=6):
    rng = np.random.default_rng(1)
    places = {axis: rng.uniform(0, 1000, count).round(1) for axis in "zyx"}
    kinds = np.resize(["a", "b"], count)
    values = np.zeros((count, 4, 4, 4), np.float32)
    return boxes_of(values, **places), pd.DataFrame({"tomogram": "TS_01", **places, "kind": kinds})


def test_by_number_and_numbers_need_not_count_from_zero():
    boxes, labels = two_kinds(6)
    some = boxes.isel(particle=[1, 4, 5])
    found = labelled_boxes(some, labels)
    assert found.rows.tolist() == [0, 1, 2]
    assert [found.classes[n] for n in found.numbers] == ["no particle", "blob", "no particle"]
    assert found.counts == {"blob": 1, "no particle": 2}


@pytest.mark.parametrize("suffix", [".star", ".csv"])
def test_by_the_name_of_the_box_wherever_the_store_lies(tmp_path, suffix, monkeypatch):
    boxes, labels = two_kinds(6)
    store = tmp_path / "boxes.zarr"
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes, store)
    opened = open_subtomograms(store)
    table = particle_table(opened).assign(kind=labels["kind"]).drop(index=2).iloc[::-1]
    write_particles(table, tmp_path / f"labels{suffix}")
    monkeypatch.chdir(tmp_path)
    for one in (opened, open_subtomograms("boxes.zarr")):
        found = labelled_boxes(one, tmp_path / f"labels{suffix}")
        assert found.rows.tolist() == [0, 1, 3, 4, 5]
        assert found.numbers.tolist() == [0, 1, 1, 0, 1]


def test_by_place_shifts_included():
    boxes, table = placed()
    moved = table.assign(x=table["x"] - 7, shift_x=7.5, shift_y=0.0, shift_z=-0.5)
    far = table.iloc[:1].assign(x=5000.0)
    found = labelled_boxes(boxes, pd.concat([moved, far]))
    assert found.rows.tolist() == list(range(6))
    assert found.numbers.tolist() == [0, 1] * 3
    with pytest.raises(InputError, match=r"no row is of these boxes, by place"):
        labelled_boxes(boxes, table.assign(tomogram="TS_02"))


def test_numbers_of_classes_and_zero_is_none(caplog):
    boxes, _ = two_kinds(6)
    table = pd.DataFrame({"particle": range(6), "class": [2, 10, 2, 0, 10, 2]})
    with caplog.at_level(logging.INFO, "tomodask"):
        found = labelled_boxes(boxes, table)
    assert found.classes == ("2", "10")
    assert found.rows.tolist() == [0, 1, 2, 4, 5]
    assert "1 of 6 boxes have no label: they are left out" in caplog.text


def test_a_column_of_text_is_not_changed(tmp_path):
    boxes, _ = two_kinds(4)
    path = tmp_path / "labels.csv"
    path.write_text("particle,kind\n0,007\n1, NAD kinase\n2,007\n3,\n")
    found = labelled_boxes(boxes, path)
    assert found.classes == ("007", "NAD kinase")
    assert found.rows.tolist() == [0, 1, 2]


def test_labels_of_boxes_that_are_not_there_are_told(caplog):
    boxes, labels = two_kinds(6)
    more = pd.DataFrame({"particle": [70, 71], "kind": "blob"})
    with caplog.at_level(logging.WARNING, "tomodask"):
        found = labelled_boxes(boxes, pd.concat([labels, more]))
    assert len(found.rows) == 6
    assert "2 of 8 labels are of boxes that are not there: 70, 71" in caplog.text


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"particle": [90], "kind": ["a"]}, "no row is of these boxes, by particle; the first box"),
        ({"kind": ["a"]}, r"does not say which boxes its 1 rows are of.*needs a column particle"),
        ({"particle": [0]}, "neither a column kind .* nor class"),
        ({"particle": [0, 1], "kind": ["", None]}, "no row has a class"),
        ({"particle": [0, 0], "kind": ["a", "b"]}, r"box 0 has two labels \(a, b\)"),
    ],
)
def test_tables_that_do_not_go_with_the_boxes(table, told):
    boxes, _ = two_kinds(4)
    with pytest.raises(InputError, match=told):
        labelled_boxes(boxes, pd.DataFrame(table))


def test_files_that_are_none(tmp_path):
    boxes, _ = two_kinds(4)
    with pytest.raises(InputError, match="no such file"):
        labelled_boxes(boxes, tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("")
    with pytest.raises(InputError, match="not a CSV table that can be read"):
        labelled_boxes(boxes, tmp_path / "labels.csv")
    (tmp_path / "labels.txt").write_text("x")
    with pytest.raises(InputError, match="particle table is one of"):
        labelled_boxes(boxes, tmp_path / "labels.txt")


def test_the_same_label_twice_is_one_and_classes_are_chosen():
    boxes, labels = two_kinds(6)
    found = labelled_boxes(boxes, pd.concat([labels, labels.iloc[:2]]))
    assert len(found.rows) == 6
    some = labelled_boxes(boxes, labels, classes=["no particle", "blob"])
    assert some.classes == ("no particle", "blob")
    assert labelled_boxes(boxes, labels, classes=["blob"]).rows.tolist() == [0, 2, 4]
    with pytest.raises(InputError, match="no box is of 'ribosome'; it has 'blob', 'no particle'"):
        labelled_boxes(boxes, labels, classes=["ribosome"])


def of(*counts):
    numbers = np.repeat(np.arange(len(counts)), counts)
    names = tuple("abcdef"[: len(counts)])
    return Labelled(np.arange(len(numbers)), numbers, names)


def test_each_class_is_parted_by_itself():
    labelled = of(100, 10, 3)
    one = split_labels(labelled, validation=0.2, test=0.3, seed=4)
    parts = (one.training, one.validation, one.test)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(113))
    counts = [np.bincount(labelled.numbers[part], minlength=3).tolist() for part in parts]
    assert counts == [[50, 5, 2], [20, 2, 1], [30, 3, 0]]
    again = split_labels(labelled, validation=0.2, test=0.3, seed=4)
    assert np.array_equal(one.training, again.training)
    other = split_labels(labelled, validation=0.2, test=0.3, seed=5)
    assert not np.array_equal(one.training, other.training)


def test_what_cannot_be_parted(caplog):
    with pytest.raises(InputError, match=r"one class only \(a\).*needs two; label.*no particle"):
        split_labels(of(9), validation=0.2)
    with pytest.raises(
        InputError, match=r"at least 3 boxes.*but b has 2: label more, join it.*--class 'a' --class"
    ):
        split_labels(of(9, 2, 9), validation=0.2)
    with caplog.at_level(logging.WARNING, "tomodask"):
        split_labels(of(20, 5), validation=0.2)
    assert "classes of fewer than 10 boxes: b (5)" in caplog.text


def test_classes_count_alike_but_no_box_more_than_ten_times():
    numbers = np.repeat([0, 1, 2], [400, 100, 2])
    weights = np.array(class_weights(numbers, 3))
    counts = np.bincount(numbers)
    assert (weights * counts)[0] == pytest.approx((weights * counts)[1])
    assert weights[2] == pytest.approx(10 * weights[0])
    assert weights[numbers].mean() == pytest.approx(1)
    assert class_weights(np.repeat([0, 1, 2], 7), 3) == (1.0, 1.0, 1.0)
