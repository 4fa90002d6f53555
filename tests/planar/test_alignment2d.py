"""Alignment in the plane: against brute force in real space, options of the search, RELION."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from planar.stacks import PIXEL, as_references, shown, stack, views

from tomodask.arrays.optics import ctf, image_frequencies
from tomodask.errors import InputError
from tomodask.planar.alignment2d import align_batch, align_images, plan_alignment2d
from tomodask.planar.image_optics import corrected, image_optics
from tomodask.planar.plan2d import shift_grid
from tomodask.planar.portable import align_portable
from tomodask.planar.poses2d import looked_up, rendered, wrapped


@pytest.mark.parametrize("shape", [(40, 40), (41, 41), (40, 45), (41, 38)])
def test_finds_known_poses(shape):
    """Odd and even sizes, mirrors, the sign of the angle, shifts with their fractions."""
    references = views(shape, 3, radius=12)
    images, truth, classes = shown(references, 30)
    plan = plan_alignment2d(references, radius=15, shift_range=3)
    found = align_batch(images, plan)
    assert (found["class"] == classes).all()
    assert (found["mirror"] == truth.mirror).all()
    assert np.abs(wrapped(found["psi"] - truth.psi)).max() < 0.3
    assert np.hypot(found["shift_y"] - truth.shift_y, found["shift_x"] - truth.shift_x).max() < 0.05
    assert found["score"].min() > 0.98
    assert (np.abs(found["score"]) <= 1).all()


def turned_references(references, angles, shifts, mirrors, disc):
    """Every reference at every pose of a grid, by a spline in real space, within the disc."""
    _, ny, nx = references.shape
    y, x = (part[disc] for part in np.indices((ny, nx)))
    y, x = y - ny // 2, x - nx // 2
    rows, poses = [], []
    for c, reference in enumerate(references):
        spline = ndi.spline_filter(reference, 5)
        for psi in angles:
            cos, sin = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
            for sy, sx in shifts:
                # image(q) = reference(M Rz(psi) (q - shift)), spelled out
                u = cos * (x - sx) - sin * (y - sy)
                v = sin * (x - sx) + cos * (y - sy)
                for mirror in mirrors:
                    at = (v + ny // 2, (-u if mirror else u) + nx // 2)
                    row = ndi.map_coordinates(spline, at, order=5, prefilter=False)
                    row = row - row.mean()
                    rows.append(row / np.linalg.norm(row))
                    poses.append((c + 1, psi, sy, sx, mirror))
    return np.array(rows), np.array(poses)


def test_against_brute_force_in_real_space():
    """50 noisy images: the best of all turns and shifts, done one by one on the pixels."""
    references = views((27, 27), 2, radius=9)
    images, truth, _ = shown(references, 50, noise=1.0, shift=1.8)
    radius = 10
    y, x = np.ogrid[:27, :27]
    disc = np.hypot(y - 13, x - 13) <= radius
    shifts, searched, _ = shift_grid(2.0, 1.0)
    rows, poses = turned_references(
        references, np.arange(0, 360, 6), shifts[:searched], (False, True), disc
    )
    data = images[:, disc] - images[:, disc].mean(axis=1, keepdims=True)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    score = data @ rows.T
    brute, top = poses[score.argmax(axis=1)], score.max(axis=1)
    found = align_batch(images, plan_alignment2d(references, radius=radius, shift_range=2))
    assert (found["class"] == brute[:, 0]).all()
    assert (found["mirror"] == brute[:, 4]).all()
    turn = np.abs(wrapped(found["psi"] - brute[:, 1]))
    move = np.hypot(found["shift_y"] - brute[:, 2], found["shift_x"] - brute[:, 3])
    assert turn.max() < 7
    assert move.max() < 1.2
    # Pixels and rings weigh the disc alike, to what a rim of pixels is of it.
    assert np.abs(found["score"] - top).max() < 0.06
    assert found["score"].mean() > top.mean()
    # And between the grid's points it comes nearer to the truth.
    error = np.abs(wrapped(found["psi"] - truth.psi))
    assert np.median(error) < np.median(np.abs(wrapped(brute[:, 1] - truth.psi)))


def test_the_score_is_the_correlation_at_the_pose():
    references = views((40, 40), 1, radius=12)
    images, _, _ = shown(references, 4, noise=0.7)
    found = align_batch(images, plan_alignment2d(references, radius=14, shift_range=3))
    y, x = np.ogrid[:40, :40]
    disc = np.hypot(y - 20, x - 20) <= 14
    for image, pose in zip(images, found, strict=True):
        at = {name: pose[name] for name in ("psi", "shift_y", "shift_x", "mirror")}
        model = rendered(references[0], **at)
        assert np.corrcoef(image[disc], model[disc])[0, 1] == pytest.approx(pose["score"], abs=0.03)


def test_lengths_are_in_angstrom():
    references = views((36, 36), 2, radius=11)
    images, _, _ = shown(references, 8)
    one = align_batch(images, plan_alignment2d(references, radius=13, shift_range=3))
    other = align_batch(
        images,
        plan_alignment2d(references, radius=13 * PIXEL, shift_range=3 * PIXEL, pixel_size=PIXEL),
    )
    np.testing.assert_allclose(other["shift_x"], PIXEL * one["shift_x"], rtol=1e-12)
    assert (other["psi"] == one["psi"]).all()


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("shift_range", [0.0, 0.6, 2.0])
def test_no_pose_lies_beyond_the_range(shift_range, portable):
    """Particles farther out are found at the range's end, and no range means no shift."""
    references = views((36, 36), 1, radius=10)
    images, truth, _ = shown(references, 12, shift=3.5)
    plan = plan_alignment2d(references, radius=13, shift_range=shift_range)
    found = (align_portable if portable else align_batch)(images, plan)
    away = np.hypot(found["shift_y"], found["shift_x"])
    assert away.max() <= shift_range + 1e-9
    far = np.hypot(truth.shift_y, truth.shift_x) > shift_range + 1
    assert far.any()
    assert away[far] == pytest.approx(shift_range, abs=0.1)


def test_a_reference_is_itself():
    references = views((30, 30), 3)
    found = align_batch(references, plan_alignment2d(references, radius=12, shift_range=1))
    assert found["class"].tolist() == [1, 2, 3]
    assert (found["score"] <= 1).all()
    assert found["score"] == pytest.approx(1.0, abs=1e-6)
    assert not found["mirror"].any()
    for name in ("psi", "shift_y", "shift_x"):
        assert np.abs(found[name]).max() < 5e-3


def test_radius_and_shift_may_reach_the_border():
    """The largest disc, moved as far as is allowed: beyond the border there is nothing."""
    for shape in ((24, 24), (25, 25), (24, 29)):
        references = views(shape, 2, radius=6)
        images, truth, classes = shown(references, 6, shift=4.5)
        most = (min(shape) - 1) // 2
        found = align_batch(images, plan_alignment2d(references, radius=most, shift_range=most))
        assert (found["class"] == classes).all()
        turn = np.abs(wrapped(found["psi"] - truth.psi))  # of particles of 6 pixels
        assert turn.max() < 4
        assert np.median(turn) < 1.6
        assert np.abs(found["shift_y"] - truth.shift_y).max() < 0.15
        assert found["score"].min() > 0.99


def test_a_plan_that_does_not_fit_into_memory_is_refused(monkeypatch):
    import psutil

    free = psutil.virtual_memory()._replace(available=500_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(InputError, match=r"2 references at 49 shifts .* are free; give a larger"):
        plan_alignment2d(views((40, 40), 2), radius=15, shift_range=4)
    plan_alignment2d(views((40, 40), 1), radius=5, shift_range=1)


def test_a_finer_and_a_coarser_grid_of_shifts():
    references = views((36, 36), 1, radius=11)
    images, truth, _ = shown(references, 12)
    for step in (0.5, 2.0):
        plan = plan_alignment2d(references, radius=13, shift_range=3, shift_step=step)
        found = align_batch(images, plan)
        error = np.hypot(found["shift_y"] - truth.shift_y, found["shift_x"] - truth.shift_x)
        assert error.max() < (0.05 if step < 1 else 0.3)


def test_without_mirror():
    references = views((36, 36), 2, radius=11)
    images, truth, classes = shown(references, 20, mirror=False)
    plan = plan_alignment2d(references, radius=13, shift_range=3, mirror=False)
    found = align_batch(images, plan)
    assert not found["mirror"].any()
    assert (found["class"] == classes).all()
    assert np.abs(wrapped(found["psi"] - truth.psi)).max() < 0.4


def test_every_class():
    """The best of the poses for all references is the pose for the best."""
    references = views((32, 32), 3, radius=10)
    images, _, classes = shown(references, 20, noise=0.5)
    images[7] = np.nan
    plan = plan_alignment2d(references, radius=11, shift_range=2)
    every, best = align_batch(images, plan, every_class=True), align_batch(images, plan)
    assert every.shape == (20, 3)
    assert (every["class"][np.arange(20) != 7] == [1, 2, 3]).all()
    good = np.delete(np.arange(20), 7)
    assert (every[good, best["class"][good] - 1] == best[good]).all()
    assert (best["class"][good] == classes[good]).all()
    assert np.isnan(every["score"][7]).all()
    # One reference alone gives what it gives beside others.
    alone = align_batch(images, plan_alignment2d(references[1:2], radius=11, shift_range=2))
    for name in ("psi", "shift_y", "score"):
        assert (alone[name][good] == every[name][good, 1]).all()


def test_many_references():
    """More than a vector of them."""
    references = views((32, 32), 19, radius=10)
    images, _, classes = shown(references, 30, noise=0.3)
    found = align_batch(images, plan_alignment2d(references, radius=11, shift_range=2))
    assert (found["class"] == classes).all()


def test_contrast_transfer():
    """Phases that the CTF turned over are turned back, and classes are found."""
    n = 48
    references = views((n, n), 2, radius=14, width=1.2)
    clean, truth, classes = shown(references, 24)
    rng = np.random.default_rng(5)
    defocus = rng.uniform(8000, 20000, 24)
    optics = {"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1}
    ky, kx = image_frequencies((n, n), PIXEL)
    images = np.empty_like(clean)
    for i, image in enumerate(clean):
        response = ctf(ky, kx, defocus_u=defocus[i], defocus_v=defocus[i], **optics)
        images[i] = np.fft.irfft2(np.fft.rfft2(image) * response, s=image.shape)
    images += 0.3 * rng.normal(size=images.shape).astype(np.float32)
    numbered = stack(images, **optics).assign_coords(defocus_u=("image", defocus))
    options = {"radius": 17 * PIXEL, "shift_range": 3 * PIXEL}
    found = {
        how: align_images(numbered, as_references(references), ctf=how, **options).compute()
        for how in (None, "flip", "multiply")
    }
    assert (found["multiply"]["class"] == classes).all()
    assert (found["flip"]["class"] == classes).all()
    for how in ("flip", "multiply"):
        assert found[how]["score"].mean() > found[None]["score"].mean() + 0.1
        assert np.abs(wrapped(found[how]["psi"] - truth.psi)).max() < 3
    with pytest.raises(InputError, match="no defocus_u"):
        align_images(stack(images, **optics), as_references(references), ctf="flip", **options)


def test_correction_of_one_image_does_not_see_the_others():
    images = np.random.default_rng(0).normal(size=(7, 30, 30)).astype(np.float32)
    many = stack(images, voltage=300.0, spherical_aberration=2.7, amplitude_contrast=0.1)
    many = many.assign_coords(defocus_u=("image", np.linspace(5000, 9000, 7)))
    optics = image_optics(many)
    whole = corrected(images, optics, "multiply")
    assert (corrected(images[3:4], optics[3:4], "multiply")[0] == whole[3]).all()


def test_a_constant_image_stays_one_and_a_wrong_defocus_is_named():
    options = {"radius": 9 * PIXEL, "shift_range": PIXEL, "ctf": "multiply"}
    optics = {"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1}
    images = np.random.default_rng(0).normal(size=(3, 24, 24)).astype(np.float32)
    images[1] = 1234.5
    many = stack(images, **optics).assign_coords(
        defocus_u=("image", np.full(3, 9000.0)), image=[40, 41, 42]
    )
    references = as_references(views((24, 24), 2, radius=7))
    found = align_images(many, references, **options).compute()
    assert found["reason"].tolist() == ["", "constant", ""]
    lacking = many.assign_coords(defocus_u=("image", [9000.0, 9000.0, np.nan]))
    with pytest.raises(InputError, match="defocus_u of image 42 is nan"):
        align_images(lacking, references, **options)


def test_whole_numbers_and_other_orders_in_memory():
    references = views((24, 24), 2, radius=7)
    images, _, _ = shown(references, 6)
    whole = np.round(100 * images).astype(np.int16)
    plan = plan_alignment2d(references, radius=9, shift_range=1)
    want = align_batch(whole.astype(np.float32), plan)
    assert (align_batch(whole, plan) == want).all()
    assert (align_batch(np.asfortranarray(whole), plan) == want).all()
    assert (align_batch(whole.astype(">f8"), plan) == want).all()


@pytest.mark.parametrize("shift_range", [0.0, 0.9, 1.0, 2.0, 3.7])
def test_grid_of_shifts(shift_range):
    shifts, searched, around = shift_grid(shift_range, 1.0)
    axis = np.arange(-5, 6)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = {
        (a, b) for a, b in zip(y.ravel(), x.ravel(), strict=True) if np.hypot(a, b) <= shift_range
    }
    assert {tuple(s) for s in shifts[:searched].astype(int)} == inside
    assert (shifts[0] == 0).all()
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for shift, nine in zip(shifts[:searched], around, strict=True):
        assert [tuple(s) for s in shifts[nine] - shift] == offsets


def test_what_relion_reads_of_a_table_is_the_pose(tmp_path):
    """Aligned, written as STAR, read by RELION's names, and drawn by RELION's own formulas."""
    import starfile

    from tomodask.data.image_table import write_image_table

    references = views((41, 41), 1, radius=12)
    images, _, _ = shown(references, 6)
    table = align_images(
        stack(images), as_references(references), radius=15 * PIXEL, shift_range=3 * PIXEL
    ).compute()
    assert table["mirror"].nunique() == 2
    names = [f"{i + 1:06d}@stack.mrcs" for i in range(len(table))]
    write_image_table(table.assign(image=names), tmp_path / "aligned.star", pixel_size=PIXEL)
    rows = starfile.read(tmp_path / "aligned.star")["particles"]
    y, x = np.indices((41, 41)) - 20
    for image, (_, row) in zip(images, rows.iterrows(), strict=True):
        # RELION moves an image by its origin, then looks the reference up at A⁻¹ of each pixel.
        x_moved = x + row["rlnOriginXAngst"] / PIXEL
        y_moved = y + row["rlnOriginYAngst"] / PIXEL
        a = np.deg2rad(row["rlnAnglePsi"])
        u, v = np.cos(a) * x_moved - np.sin(a) * y_moved, np.sin(a) * x_moved + np.cos(a) * y_moved
        if row["rlnAngleTilt"] == 180:  # half a turn about y
            u = -u
        drawn = looked_up(references[0], v, u)
        assert np.corrcoef(drawn.ravel(), image.ravel())[0, 1] > 0.995
