"""Work goes to a worker's GPU where it is told to; a stand-in for CuPy shows the way."""

import sys
import types

import numpy as np
import pytest

from tomodask.arrays.backend import DEVICE, is_cupy, on_device


class OnCard(np.ndarray):
    """Counts as CuPy's by its module."""

    def get(self):
        return np.asarray(self).view(np.ndarray)


OnCard.__module__ = "cupy"


@pytest.fixture
def card(monkeypatch):
    fake = types.ModuleType("cupy")
    fake.asarray = lambda array: np.asarray(array).view(OnCard)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setenv(DEVICE, "cuda")


def test_there_and_back(card):
    seen = []

    def kernel(array):
        seen.append(is_cupy(array))
        return array * 2

    out = on_device(kernel, np.arange(3.0))
    assert seen == [True]
    assert type(out) is np.ndarray
    assert out.tolist() == [0.0, 2.0, 4.0]


def test_what_is_there_stays_there(card):
    out = on_device(lambda array: array + 1, np.arange(2.0).view(OnCard))
    assert is_cupy(out)


def test_without_a_word_work_stays_on_the_processor(monkeypatch):
    monkeypatch.delenv(DEVICE, raising=False)
    array = np.arange(3.0)
    assert on_device(lambda it: it, array) is array
