"""Mean and spread of a volume, whatever its chunks, and voxels that are no numbers."""

import dask
import hypothesis.strategies as st
import numpy as np
import pytest
from data.volumes import noise, tomogram, with_holes
from helpers import irregular_chunks
from hypothesis import given, settings

from tomodask.data.statistics import Statistics, check_finite, volume_statistics
from tomodask.errors import InputError

# What is in the voxels


@given(data=st.data(), shape=st.tuples(*[st.integers(1, 12)] * 3))
@settings(deadline=None, max_examples=50)
def test_statistics_whatever_the_chunks(data, shape):
    values = noise(shape, np.float32, seed=1) + 1000  # a large mean: sums of squares would cancel
    for place in data.draw(
        st.lists(st.tuples(*[st.integers(0, n - 1) for n in shape]), max_size=3)
    ):
        values[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    volume = tomogram(values, chunks=data.draw(irregular_chunks(shape)))
    with dask.config.set(scheduler="sync"):
        found = volume_statistics(volume)
    finite = np.isfinite(values)
    assert found.nonfinite == (~finite).sum()
    assert found.first == (tuple(np.argwhere(~finite)[0].tolist()) if found.nonfinite else None)
    assert found.count == finite.sum()
    if found.count:
        assert found.minimum == values[finite].min()
        assert found.maximum == values[finite].max()
        assert found.mean == pytest.approx(values[finite].mean(dtype=float), rel=1e-12)
        assert found.std == pytest.approx(values[finite].std(dtype=float), rel=1e-9)


def test_statistics_of_nothing():
    assert Statistics().std == 0.0
    assert Statistics().merge(Statistics()).count == 0


def test_check_finite():
    check_finite(tomogram(noise((4, 4, 4))))
    check_finite(tomogram(np.ones((4, 4, 4), np.int16)))
    with pytest.raises(InputError, match=r"^template: 2 voxels"):
        check_finite(tomogram(with_holes()), name="template")
