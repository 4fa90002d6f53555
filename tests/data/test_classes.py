"""Names of classes, as tables of many origins have them."""

import numpy as np
import pandas as pd
import pytest

from tomodask.data.classes import class_names, names_in


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ({"z": [1.0, 2.0]}, ["particle", "particle"]),
        ({"class": [2.0, 1.0]}, ["2", "1"]),
        ({"class": [2.5, np.nan]}, ["2.5", "particle"]),
        ({"class": ["ribosome", " gold "]}, ["ribosome", "gold"]),
        ({"kind": ["a", "b"], "class": [2, 1]}, ["a", "b"]),
        ({"kind": ["a", None], "class": [2, 1]}, ["a", "1"]),
        ({"kind": [np.nan, ""], "class": [np.nan, 3.0]}, ["particle", "3"]),
        ({"kind": pd.Categorical(["a", None])}, ["a", "particle"]),
        ({"z": []}, []),
        ({"class": []}, []),
    ],
)
def test_an_empty_cell_leaves_it_to_the_next_column(table, names):
    assert class_names(pd.DataFrame(table)).tolist() == names


def test_rows_keep_their_index():
    table = pd.DataFrame({"kind": ["a", "b"], "z": [1.0, 2.0]}, index=[7, 3])
    assert class_names(table)[3] == "b"


def test_long_numbers_stay_apart():
    assert names_in(pd.Series([20260101, 20260102])).tolist() == ["20260101", "20260102"]
    assert names_in(pd.Series([20260101.0, np.inf])).tolist() == ["20260101", "inf"]
