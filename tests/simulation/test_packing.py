"""Packing: apart, inside, evenly turned, the same from a seed; and what lies there beforehand."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.simulation.collisions import bodies_of, collide
from tomodask.simulation.membranes import (
    MEMBRANE_HALF_THICKNESS,
    bilayer_profile,
    ellipsoid_distance,
    place_beads,
    place_vesicles,
    vesicle_arrays,
)
from tomodask.simulation.packing import pack
from tomodask.simulation.phantom import phantom_map
from tomodask.simulation.shapes import distance_at, particle_shape

VOXEL = 10.0
SLAB = (72, 128, 128)


@pytest.fixture(scope="module")
def shapes():
    return {
        "large": particle_shape(phantom_map()),
        "ring": particle_shape(phantom_map(kind="decoy")),
        "small": particle_shape(phantom_map(voxel_size=25.0, box=24).assign_attrs(voxel_size=10.0)),
    }


@pytest.fixture(scope="module")
def crowd(shapes):
    return pack(shapes, shape=SLAB, voxel_size=VOXEL, occupancy=0.3, seed=4)


def surface(packing, number):
    """Points of the surface of one particle, in Å of the slab."""
    row = packing.particles.iloc[number]
    matrix = matrices_zyx(orientations(packing.particles)[number])
    center = row[["z", "y", "x"]].to_numpy(float)
    return packing.shapes[row["kind"]].points_zyx @ matrix.T + center, center, matrix


def test_a_shape_is_a_distance_field(shapes):
    shape = shapes["large"]
    inside = shape.distance < 0
    assert shape.volume == pytest.approx(inside.sum() * VOXEL**3, rel=0.03)
    # Neighbours differ by their distance at most, and the surface lies where the field is zero.
    for axis in range(3):
        assert np.abs(np.diff(shape.distance, axis=axis)).max() <= VOXEL * 1.0001
    field, size = shape.distance.ravel(), np.array(shape.distance.shape)
    on = [distance_at(field, 0, size, shape.first_zyx, VOXEL, *p) for p in shape.points_zyx]
    assert np.abs(on).max() < 0.5 * VOXEL
    nodes = np.argwhere(np.isclose(np.abs(shape.distance), 2.5, atol=3)) * VOXEL + shape.first_zyx
    nearest = np.linalg.norm(nodes[:, None] - shape.points_zyx, axis=2).min(1)
    assert nearest.max() < 1.5 * VOXEL
    assert np.linalg.norm(shape.points_zyx, axis=1).max() <= shape.radius


@pytest.mark.parametrize("box", [40, 41])
def test_a_shape_is_about_the_middle_of_its_box(box):
    shape = particle_shape(phantom_map(box=box))
    size, field = np.array(shape.distance.shape), shape.distance.ravel()
    reference = particle_shape(phantom_map(box=40))
    for place in np.random.default_rng(0).uniform(-150, 150, (50, 3)):
        here = distance_at(field, 0, size, shape.first_zyx, VOXEL, *place)
        there = distance_at(
            reference.distance.ravel(), 0, np.array(reference.distance.shape),
            reference.first_zyx, VOXEL, *place,
        )  # fmt: skip
        assert here == pytest.approx(there, abs=0.2)


def test_beyond_its_field_the_distance_is_a_lower_bound(shapes):
    shape = shapes["ring"]
    field, size = shape.distance.ravel(), np.array(shape.distance.shape)
    nodes = np.argwhere(shape.distance < 0) * VOXEL + shape.first_zyx
    for place in np.random.default_rng(1).uniform(-400, 400, (200, 3)):
        told = distance_at(field, 0, size, shape.first_zyx, VOXEL, *place)
        true = np.linalg.norm(nodes - place, axis=1).min()
        assert told <= true + 1e-3
        if np.linalg.norm(place) > 250:  # and not a useless one
            assert told >= 0.7 * true - VOXEL


def test_no_two_bodies_are_nearer_than_the_gap(crowd):
    pieces = [surface(crowd, i) for i in range(len(crowd.particles))]
    kinds = crowd.particles["kind"].tolist()
    touched, least = 0, np.inf
    for i, (points, here, _) in enumerate(pieces):
        for j, (_, there, matrix) in enumerate(pieces):
            shape = crowd.shapes[kinds[j]]
            if (
                i == j
                or np.linalg.norm(here - there) > shape.radius + crowd.shapes[kinds[i]].radius
            ):
                continue
            touched += 1  # their bounding spheres overlap, the bodies must not
            field, size = shape.distance.ravel(), np.array(shape.distance.shape)
            local = (points - there) @ matrix
            least = min(
                least,
                min(distance_at(field, 0, size, shape.first_zyx, VOXEL, *p) for p in local),
            )
    assert touched > 20
    assert VOXEL - 1e-3 <= least < 1.5 * VOXEL


def test_the_collision_test_agrees_with_voxels(shapes):
    """Against the least distance between voxels of two bodies, at poses near to contact."""
    bodies = bodies_of({"ring": shapes["ring"], "small": shapes["small"]}, VOXEL)
    rng = np.random.default_rng(3)
    grids = {}
    for name in ("ring", "small"):
        shape = shapes[name]
        grids[name] = np.argwhere(shape.distance <= 0) * VOXEL + shape.first_zyx
    said, true = [], []
    for _ in range(300):
        turns = matrices_zyx(Rotation.random(2, rng=rng))
        place = rng.normal(size=3)
        place *= rng.uniform(0, 220) / np.linalg.norm(place)
        said.append(
            collide(
                0.0, 0.0, 0.0, turns[0], 0, np.array([0]), place[None], turns[1:], np.array([1]),
                VOXEL, bodies.spacing, bodies.fields, bodies.starts, bodies.sizes, bodies.firsts,
                bodies.points, bodies.ends, bodies.balls, bodies.ball_ends, bodies.radii,
            )
        )  # fmt: skip
        a, b = grids["ring"] @ turns[0].T, grids["small"] @ turns[1].T + place
        true.append(KDTree(a).query(b)[0].min())
    said, true = np.array(said), np.array(true)
    assert said[true < VOXEL].all()  # nearer than the gap by the middles of voxels: refused
    assert not said[true > 3.5 * VOXEL].any()  # clear by more than voxels can be wrong: taken
    assert 50 < said.sum() < 250


def test_all_are_wholly_inside(crowd):
    radii = crowd.particles["kind"].map({k: s.radius for k, s in crowd.shapes.items()}).to_numpy()
    centers = crowd.particles[["z", "y", "x"]].to_numpy()
    assert (centers - radii[:, None] >= 0).all()
    assert (centers + radii[:, None] <= (np.array(SLAB) - 1) * VOXEL).all()


def test_occupancy_is_what_was_asked_for(crowd, shapes):
    assert 0.3 <= crowd.occupancy < 0.33  # at most one more of each kind
    volumes = crowd.particles["kind"].map({k: s.volume for k, s in shapes.items()})
    assert crowd.molecular_occupancy == pytest.approx(volumes.sum() / (np.prod(SLAB) * VOXEL**3))
    assert len(set(crowd.counts.values())) == 1
    assert crowd.particles["class"].tolist() == [
        crowd.classes[kind] for kind in crowd.particles["kind"]
    ]
    twice = pack(
        shapes, shape=SLAB, voxel_size=VOXEL, occupancy=0.2, copies={"large": 1, "small": 6}
    )
    assert twice.counts["ring"] == 0
    assert twice.counts["small"] == pytest.approx(6 * twice.counts["large"], abs=6)
    exact = pack(shapes, shape=SLAB, voxel_size=VOXEL, copies={"ring": 3, "small": 5})
    assert exact.counts == {"large": 0, "ring": 3, "small": 5}


def test_orientations_are_uniform(shapes):
    """Of what was placed in a crowd: each axis of the particles points anywhere alike, [-1, 1]."""
    packing = pack(
        {"small": shapes["small"]}, shape=SLAB, voxel_size=VOXEL, copies={"small": 450}, seed=2
    )
    turns = orientations(packing.particles).as_matrix()
    for row in range(3):
        for column in range(3):
            assert kstest(turns[:, row, column], "uniform", args=(-1, 2)).pvalue > 1e-3
    angle = orientations(packing.particles).magnitude()
    assert kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-3


def test_a_seed_gives_equal_bytes(shapes):
    make = {"shape": SLAB, "voxel_size": VOXEL, "occupancy": 0.2}
    one, two = (pack(shapes, **make, seed=7) for _ in range(2))
    pd.testing.assert_frame_equal(one.particles, two.particles, check_exact=True)
    assert one.trials == two.trials
    other = pack(shapes, **make, seed=8)
    assert not np.array_equal(one.particles["z"], other.particles["z"])


def test_a_higher_occupancy_keeps_the_first_particles(shapes):
    """Places belong to the particle: the crowd of one kind grows, it is not dealt anew."""
    make = {"shape": SLAB, "voxel_size": VOXEL, "seed": 1}
    few = pack({"ring": shapes["ring"]}, **make, copies={"ring": 10}).particles
    many = pack({"ring": shapes["ring"]}, **make, copies={"ring": 20}).particles
    pd.testing.assert_frame_equal(few[["z", "y", "x"]], many[["z", "y", "x"]].head(10))


def test_out_of_reach_says_what_was_reached(shapes):
    with pytest.raises(InputError, match="out of reach") as caught:
        pack({"large": shapes["large"]}, shape=SLAB, voxel_size=VOXEL, occupancy=0.9, trials=2000)
    said = str(caught.value)
    placed, wanted = map(int, re.search(r"(\d+) of (\d+) particles found room", said).groups())
    reached = float(re.search(r"occupancy (0\.\d+) by bounding spheres", said).group(1))
    ball = 4 / 3 * math.pi * shapes["large"].radius ** 3
    assert 0 < placed < wanted
    assert reached == pytest.approx(placed * ball / (np.prod(SLAB) * VOXEL**3), abs=6e-4)
    assert "'large' stopped at" in said
    assert "Ask for less" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"occupancy": 1.2}, "occupancy must be above 0 and below 1, got 1.2"),
        ({"occupancy": None}, "give copies or occupancy"),
        ({"gap": 4.0}, r"gap must be at least one voxel \(10 Å\)"),
        ({"copies": {"rings": 3}}, "copies names 'rings', the kinds are large, ring, small"),
        ({"copies": {"ring": -3}}, "whole number from 0 on, got -3"),
        ({"copies": {"ring": 0}}, "copies are all 0"),
        ({"voxel_size": 8.0}, "is shaped for voxels of 10 Å, the slab has 8 Å"),
        ({"shape": (16, 128, 128)}, "does not fit into a slab of 16×128×128"),
        ({"trials": 0}, "trials must be at least 1"),
    ],
)
def test_bad_input(shapes, change, words):
    settings = {"shape": SLAB, "voxel_size": VOXEL, "occupancy": 0.1} | change
    with pytest.raises(InputError, match=words):
        pack(shapes, **settings)


def test_a_map_that_is_no_particle():
    flat = phantom_map()
    with pytest.raises(InputError, match="no voxel is above 0"):
        particle_shape(flat * -1)
    with pytest.raises(InputError, match="nothing is above level=1e"):
        particle_shape(flat, level=1e6)
    with pytest.raises(InputError, match="touches the border"):
        particle_shape(phantom_map(box=20))
    with pytest.raises(InputError, match="NaN or infinite"):
        particle_shape(flat.where(flat < float(flat.max())))


def test_particles_keep_clear_of_membranes_and_beads(shapes):
    vesicles = place_vesicles(
        SLAB, voxel_size=VOXEL, count=2, radius=(220, 280), elongation=1.15, seed=5
    )
    beads = place_beads(SLAB, voxel_size=VOXEL, count=12, vesicles=vesicles, seed=5)
    packing = pack(
        {"small": shapes["small"]}, shape=SLAB, voxel_size=VOXEL, copies={"small": 400},
        vesicles=vesicles, beads=beads, seed=3,
    )  # fmt: skip
    centers, matrices, axes = vesicle_arrays(packing.vesicles)
    spots = beads[["z", "y", "x"]].to_numpy()
    inside = 0
    near_shell = near_bead = np.inf
    for number in range(len(packing.particles)):
        points, middle, _ = surface(packing, number)
        near_bead = min(near_bead, np.linalg.norm(points[:, None] - spots, axis=2).min() - 50)
        for center, matrix, semi in zip(centers, matrices, axes, strict=True):
            local = (points - center) @ matrix
            near_shell = min(near_shell, min(abs(ellipsoid_distance(*p, *semi)) for p in local))
            inside += ellipsoid_distance(*((middle - center) @ matrix), *semi) < 0
    need = MEMBRANE_HALF_THICKNESS + VOXEL
    assert need <= near_shell < need + VOXEL
    assert VOXEL * 0.5 <= near_bead < 2 * VOXEL
    assert inside > 5  # vesicles are not left empty
    for center, matrix, semi in zip(centers, matrices, axes, strict=True):
        for spot in spots:
            clear = abs(ellipsoid_distance(*((spot - center) @ matrix), *semi)) - 50
            assert clear >= need
    apart = np.linalg.norm(spots[:, None] - spots, axis=2) + np.eye(len(spots)) * 1e6
    assert apart.min() >= 100 + VOXEL


def test_distance_from_an_ellipsoid_is_that_of_its_nearest_point():
    rng = np.random.default_rng(0)
    on = rng.normal(size=(400_000, 3))
    on *= np.array([300.0, 250.0, 180.0]) / np.linalg.norm(on, axis=1, keepdims=True)
    for place in [*rng.normal(size=(20, 3)) * 200, np.zeros(3), np.array([0, 0, 90.0])]:
        nearest = np.linalg.norm(on - place, axis=1).min()
        told = ellipsoid_distance(*place, 300.0, 250.0, 180.0)
        assert abs(told) == pytest.approx(nearest, abs=0.5)
        assert (told < 0) == (((place / [300, 250, 180]) ** 2).sum() < 1)
    assert ellipsoid_distance(0.0, 3.0, 4.0, 2.0, 2.0, 2.0) == 3.0


def test_a_bilayer_has_two_leaflets_and_keeps_its_mass_when_blurred():
    far = np.arange(-800, 801) * 0.1
    sharp, blurred = bilayer_profile(far), bilayer_profile(far, blur=6.0)
    tops = far[1:-1][(sharp[1:-1] > sharp[:-2]) & (sharp[1:-1] > sharp[2:])]
    assert 30 < np.ptp(tops) < 44
    assert sharp[np.abs(far) < 1].max() < 0.4 * sharp.max()
    assert blurred.sum() == pytest.approx(sharp.sum(), rel=1e-6)
    kernel = np.exp(-0.5 * (far / 6.0) ** 2)
    direct = np.convolve(sharp, kernel / kernel.sum(), "same")
    np.testing.assert_allclose(direct[200:-200], blurred[200:-200], atol=1e-4)


def test_vesicles_lie_inside_and_apart_or_say_why_not():
    table = place_vesicles(SLAB, voxel_size=VOXEL, count=4, radius=(150, 250), seed=1)
    places, radii = table[["z", "y", "x"]].to_numpy(), table["radius_z"].to_numpy()
    assert (places >= radii[:, None]).all()
    assert (places <= (np.array(SLAB) - 1) * VOXEL - radii[:, None]).all()
    apart = np.linalg.norm(places[:, None] - places, axis=2) - radii[:, None] - radii
    assert (apart + np.eye(4) * 1e6).min() >= 2 * MEMBRANE_HALF_THICKNESS
    with pytest.raises(InputError, match="vesicles fit into"):
        place_vesicles(SLAB, voxel_size=VOXEL, count=400, radius=(150, 250))
    with pytest.raises(InputError, match="Å across, the slab is"):
        place_vesicles(SLAB, voxel_size=VOXEL, count=1, radius=(900, 900))
    with pytest.raises(InputError, match="elongation"):
        place_vesicles(SLAB, voxel_size=VOXEL, count=1, radius=(200, 300), elongation=3)
    with pytest.raises(InputError, match="100 Å ≤ low ≤ high"):
        place_vesicles(SLAB, voxel_size=VOXEL, count=1, radius=(300, 200))
    with pytest.raises(InputError, match="diameter of beads must be above 0"):
        place_beads(SLAB, voxel_size=VOXEL, count=1, diameter=0)
