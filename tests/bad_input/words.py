"""Commands as they are typed, and what they say when they refuse: exit code 2, one sentence."""

import re

import mrcfile
import numpy as np
from helpers import tomodask

HERE = ("--scheduler", "synchronous")
TILTS = ("--tilt-range", "-60", "60")
COORDINATES = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnPixelSize")
SHAPE = (40, 48, 56)


def refused(*words):
    """What a command says when it refuses its input; progress lines and warnings left out."""
    code, out, err = tomodask(*words)
    return sentence(code, out, err)


def sentence(code, out, err):
    assert code == 2, (out, err)
    assert out == ""
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("tomodask: ")]
    assert len(said) == 1
    assert err.endswith(said[0] + "\n")
    before = [line for line in err.splitlines() if line != said[0]]
    assert all(
        re.match(r"(\w+: (started|stopped|done|\d+ %)|warning: |dashboard: )", b) for b in before
    )
    return said[0].removeprefix("tomodask: ")


def write_mrc(path, data, voxel_size=10.0):
    with mrcfile.new(path) as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = voxel_size
    return path


def write_star(path, columns, *rows):
    lines = ["data_particles", "", "loop_", *(f"_{c} #{i}" for i, c in enumerate(columns, 1))]
    path.write_text("\n".join([*lines, *(" ".join(map(str, row)) for row in rows), ""]))
    return path


def run_words(scene, output):
    return (
        *("run", scene / "tomogram.mrc", "--template", scene / "template.mrc"),
        *("--angular-step", 30, *TILTS, "-o", output, *HERE),
    )
