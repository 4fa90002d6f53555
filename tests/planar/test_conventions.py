"""What psi, mirror and shift mean, spelled out here, on all sides that read or write them.

Points are turned by hand: nothing of the library's own geometry is used, so that a sign changed in
one place, or in the one place that all of them share, is seen.
"""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tomodask.data.image_table import read_image_table, write_image_table
from tomodask.planar.aligned import transform_images
from tomodask.planar.alignment2d import align_images
from tomodask.planar.averages2d import average_images
from tomodask.planar.poses2d import Poses2D, orientations2d

PIXEL = 2.5
SIZE = 40
#: x, y, height of the dots of a reference that is like none of its own turns and mirror images.
DOTS = ((7.0, 1.0, 1.0), (-2.0, 6.0, 0.8), (-5.0, -3.0, 1.2), (1.0, -7.0, 0.5), (2.0, 2.0, 0.9))
#: psi in degrees, mirror, and where the particle's centre lies: x, y in pixels.
POSES = (
    (30.0, False, 1.5, -0.5), (30.0, True, 1.5, -0.5), (-100.0, False, -1.0, 1.0),
    (-100.0, True, -1.0, 1.0), (170.0, True, 0.0, 1.8), (75.0, False, -1.7, 0.0),
)  # fmt: skip


def drawn(psi=0.0, mirror=False, x=0.0, y=0.0):
    """RELION's psi: what lies at (x, y) of the reference lies at (cx + sy, -sx + cy)."""
    cos, sin = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
    axis = np.arange(SIZE) - SIZE // 2
    out = np.zeros((SIZE, SIZE))
    for dot_x, dot_y, height in DOTS:
        u = -dot_x if mirror else dot_x
        at_x, at_y = cos * u + sin * dot_y + x, -sin * u + cos * dot_y + y
        out += height * np.exp(-((axis[:, None] - at_y) ** 2 + (axis - at_x) ** 2) / (2 * 1.6**2))
    return out.astype(np.float32)


def images():
    stack = np.stack([drawn(*pose) for pose in POSES])
    return xr.DataArray(stack, dims=("image", "y", "x"), attrs={"pixel_size": PIXEL})


def by_hand():
    table = pd.DataFrame(POSES, columns=["psi", "mirror", "shift_x", "shift_y"])
    return table.assign(shift_x=table["shift_x"] * PIXEL, shift_y=table["shift_y"] * PIXEL)


def likeness(image):
    """Correlation with the reference within the particle's disc."""
    axis = np.arange(SIZE) - SIZE // 2
    disc = np.hypot(axis[:, None], axis) < 13
    return np.corrcoef(image[disc], drawn()[disc])[0, 1]


def test_the_search_finds_what_was_drawn():
    reference = xr.DataArray(drawn(), dims=("y", "x"), attrs={"pixel_size": PIXEL})
    found = align_images(images(), reference, radius=15 * PIXEL, shift_range=3 * PIXEL).compute()
    want = by_hand()
    assert found["mirror"].tolist() == want["mirror"].tolist()
    assert found["psi"].to_numpy() == pytest.approx(want["psi"].to_numpy(), abs=0.3)
    for name in ("shift_x", "shift_y"):
        assert found[name].to_numpy() == pytest.approx(want[name].to_numpy(), abs=0.05 * PIXEL)


def test_the_average_at_these_poses_is_the_reference():
    whole = average_images(images(), by_hand()).compute().averages[0]
    assert likeness(whole) > 0.999
    for one in transform_images(images(), by_hand()).to_numpy():
        assert likeness(one) > 0.998


def test_the_table_tells_relion_the_same(tmp_path):
    table = by_hand().assign(image=[f"{i + 1:06d}@stack.mrcs" for i in range(len(POSES))])
    table["class"], table["score"] = 1, 0.5
    write_image_table(table, tmp_path / "poses.star", pixel_size=PIXEL)
    text = (tmp_path / "poses.star").read_text()
    names = [line.split()[0] for line in text.splitlines() if line.startswith("_rln")]
    assert "_rlnAnglePsi" in names
    back = read_image_table(tmp_path / "poses.star")
    for name in ("psi", "shift_x", "shift_y"):
        assert back[name].to_numpy() == pytest.approx(table[name].to_numpy(), abs=1e-3)
    assert back["mirror"].tolist() == table["mirror"].tolist()
    assert likeness(average_images(images(), back.reset_index()).compute().averages[0]) > 0.999


def test_the_orientation_in_3d_shows_the_same():
    """The dots as a flat body: turned by the orientation, they lie where the image has them."""
    turn = orientations2d(Poses2D.of(by_hand())).as_matrix()
    for matrix, (psi, mirror, _, _) in zip(turn, POSES, strict=True):
        cos, sin = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
        for x, y, _ in DOTS:
            u = -x if mirror else x
            seen = matrix @ (x, y, 0.0)
            assert seen[:2] == pytest.approx([cos * u + sin * y, -sin * u + cos * y])
