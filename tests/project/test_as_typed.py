"""The command line that a report tells for a call from Python."""

import numpy as np
import pytest
import xarray as xr

from tomodask.project.as_typed import as_typed


def job(inputs, *, output, maps=None, mirror=True, merge=0.97, step=20.0, tilt=None, command=None):
    """A job with one parameter of each kind."""


def told(inputs="boxes.star", **changes):
    given = {
        "inputs": inputs, "output": "out", "maps": None, "mirror": True, "merge": 0.97,
        "step": 20.0, "tilt": None, "command": None, "a_local": object(),
    }  # fmt: skip
    return as_typed(
        "job",
        job,
        {**given, **changes},
        options={"maps": "--map"},
        off={"mirror": "--no-mirror"},
        without={"merge": "0"},
        repeated=["maps"],
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"command": "anything"}, ""),
        ({"step": 15.0}, " --step 15"),
        ({"tilt": (-60.0, 60.0)}, " --tilt -60 60"),
        ({"maps": ["a.mrc", "b c.mrc"]}, " --map a.mrc --map 'b c.mrc'"),
        ({"mirror": False}, " --no-mirror"),
        ({"merge": None}, " --merge 0"),
        ({"step": None}, ""),
        ({"maps": [xr.DataArray(np.zeros(3))]}, " --map IN_MEMORY"),
    ],
)
def test_what_is_not_as_by_default_is_told(changes, words):
    assert told(**changes) == f"tomodask job boxes.star -o out{words}"


def test_inputs_are_told_by_their_files():
    assert told(["a.mrc", "b.mrc"]) == "tomodask job a.mrc b.mrc -o out"
    cut_out = xr.Dataset(attrs={"source": "/data/tomogram.zarr", "store": "/data/boxes.zarr"})
    assert told(cut_out) == "tomodask job /data/boxes.zarr -o out"
    assert told(xr.Dataset(attrs={"source": "/data/boxes"})) == "tomodask job /data/boxes -o out"
    assert told(xr.Dataset()) == "tomodask job IN_MEMORY -o out"
