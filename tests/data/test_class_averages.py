"""Tables of 2D classes."""

import numpy as np
import pandas as pd
import pytest

from tomodask.data.class_averages import class_table, read_class_table, write_class_table


@pytest.mark.parametrize("suffix", [".star", ".csv"])
def test_a_table_of_classes_comes_back(tmp_path, suffix):
    table = class_table([30, 10, 0], [12.5, np.inf, np.inf])
    write_class_table(table, tmp_path / f"classes{suffix}")
    pd.testing.assert_frame_equal(read_class_table(tmp_path / f"classes{suffix}"), table)
