"""Which library does an array belong to?  The only file that names CuPy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage

__all__ = [
    "DEVICE",
    "Array",
    "fft",
    "is_cupy",
    "namespace",
    "ndimage",
    "of_worker",
    "on_device",
    "to_numpy",
]

#: Environment variable of a worker: "cuda" where kernels that can shall work on its GPU.
DEVICE = "TOMODASK_DEVICE"

Array = Any  # numpy.ndarray, cupy.ndarray or dask.array.Array


def is_cupy(array: Array) -> bool:
    """True for an array that lives on a GPU; imports nothing."""
    return type(array).__module__.partition(".")[0] == "cupy"


def namespace(array: Array) -> Any:
    """``numpy``, or ``cupy`` for an array that lives on a GPU."""
    if is_cupy(array):
        import cupy

        return cupy
    return np


def ndimage(array: Array) -> Any:
    """``scipy.ndimage``, or its twin in ``cupyx`` for an array that lives on a GPU."""
    if is_cupy(array):
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage
    return scipy.ndimage


def fft(array: Array) -> Any:
    """``scipy.fft`` (float32 stays float32), or its twin in ``cupyx``."""
    if is_cupy(array):
        import cupyx.scipy.fft

        return cupyx.scipy.fft
    return scipy.fft


def to_numpy(array: Array) -> np.ndarray:
    """The array in the memory of the CPU; a NumPy array is returned as it is."""
    return array.get() if is_cupy(array) else np.asarray(array)


def of_worker() -> Any | None:
    """``cupy`` where the worker is to use its GPU, else None.

    Examples
    --------
    >>> of_worker() is None
    True
    """
    if os.environ.get(DEVICE) != "cuda":
        return None
    import cupy

    return cupy


def on_device(kernel: Callable[[Array], Array], array: Array) -> Array:
    """A kernel's result for an array, worked out on the worker's GPU where it is to use one.

    A NumPy array is taken there and its result brought back; a CuPy array stays where it is.

    Examples
    --------
    >>> on_device(lambda a: a + 1, np.zeros(2))
    array([1., 1.])
    """
    if is_cupy(array) or os.environ.get(DEVICE) != "cuda":
        return kernel(array)
    import cupy

    return to_numpy(kernel(cupy.asarray(array)))
