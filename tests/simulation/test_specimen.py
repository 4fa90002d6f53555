"""Volumes of a packing: true places, exact truth, equal bits by any chunks, what is written."""

import dask
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import irregular_chunks, shared_data
from hypothesis import HealthCheck, given, settings
from scipy.ndimage import center_of_mass, map_coordinates
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.particles import orientations, read_particles, with_orientations
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.simulation.membranes import (
    GOLD_POTENTIAL,
    MEMBRANE_HALF_THICKNESS,
    bilayer_profile,
    ellipsoid_distance,
    place_beads,
    place_vesicles,
    vesicle_arrays,
)
from tomodask.simulation.packing import Packing, pack
from tomodask.simulation.phantom import phantom_map, phantom_particle
from tomodask.simulation.shapes import distance_at, particle_shape
from tomodask.simulation.specimen import (
    specimen_density,
    specimen_labels,
    specimen_occupancy,
    write_truth,
)

VOXEL = 10.0
SLAB = (64, 96, 100)


@pytest.fixture(scope="module")
def densities():
    return {
        "particle": phantom_map(voxel_size=5.0, box=80),
        "ring": phantom_map(voxel_size=5.0, box=81, kind="decoy"),
    }


@pytest.fixture(scope="module")
def packing(densities):
    """A crowd with a vesicle and beads, all that a specimen can hold."""
    shapes = {name: particle_shape(one, voxel_size=VOXEL) for name, one in densities.items()}
    vesicles = place_vesicles(
        SLAB, voxel_size=VOXEL, count=1, radius=(200, 240), elongation=1.1, seed=1
    )
    beads = place_beads(SLAB, voxel_size=VOXEL, count=3, vesicles=vesicles, seed=1)
    return pack(
        shapes, shape=SLAB, voxel_size=VOXEL, occupancy=0.25, vesicles=vesicles, beads=beads, seed=1
    )


@pytest.fixture(scope="module")
def whole(packing, densities):
    """Every volume, computed in one block."""
    chunks = {"chunks": -1}
    return {
        "density": specimen_density(packing, densities, **chunks).to_numpy(),
        "labels": specimen_labels(packing, **chunks).to_numpy(),
        "classes": specimen_labels(packing, classes=True, **chunks).to_numpy(),
        "occupancy": specimen_occupancy(packing, **chunks).to_numpy(),
    }


def alone(packing: Packing, rows, *, vesicles=False, beads=False) -> Packing:
    """The packing with some of its particles only."""
    return Packing(
        shape=packing.shape,
        voxel_size=packing.voxel_size,
        shapes=packing.shapes,
        particles=packing.particles.iloc[rows].reset_index(drop=True),
        vesicles=packing.vesicles if vesicles else packing.vesicles.iloc[:0],
        beads=packing.beads if beads else packing.beads.iloc[:0],
        trials=0,
    )


def one_at(shapes, place_zyx, turn, *, shape=(40, 40, 40), kind="particle") -> Packing:
    table = pd.DataFrame({"z": [0.0], "y": [0.0], "x": [0.0]})
    table[["z", "y", "x"]] = np.asarray(place_zyx)[None]
    table = with_orientations(table, turn).assign(
        kind=kind, **{"class": list(shapes).index(kind) + 1}
    )
    empty = pd.DataFrame(columns=["z", "y", "x"])
    return Packing(shape, VOXEL, shapes, table, empty, empty, 0)


@pytest.mark.parametrize(
    ("own", "box", "limit"),
    [(5.0, 80, 1e-3), (5.0, 81, 1e-3), (10.0, 40, 1e-2), (10.0, 41, 1.1e-2)],
)
def test_a_particle_is_drawn_as_its_gaussians_say(own, box, limit):
    """Against the exact density, in rms of it: the figures of docs/algorithms/packing.md."""
    density = phantom_map(voxel_size=own, box=box)
    shapes = {"particle": particle_shape(density, voxel_size=VOXEL)}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        turn, shift = Rotation.random(1, rng=rng), rng.uniform(-5, 5, 3)
        scene = one_at(shapes, 200 + shift, turn)
        drawn = specimen_density(scene, {"particle": density}).to_numpy()
        exact = phantom_particle().density(
            box=40, voxel_size=VOXEL, rotation=turn[0], shift_zyx=shift
        )
        assert np.sqrt(((drawn - exact) ** 2).mean() / (exact**2).mean()) < limit


@pytest.mark.parametrize("box", [80, 81])
def test_the_centre_of_mass_is_where_the_table_says(box):
    """The phantom's centre of mass is its centre; even and odd boxes, and what is labelled."""
    density = phantom_map(voxel_size=5.0, box=box)
    shapes = {"particle": particle_shape(density, voxel_size=VOXEL)}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        place = rng.uniform(170, 220, 3)
        scene = one_at(shapes, place, Rotation.random(1, rng=rng))
        found = np.array(center_of_mass(specimen_density(scene, {"particle": density}).to_numpy()))
        np.testing.assert_allclose(found, place / VOXEL, atol=0.02)
        body = np.array(center_of_mass(specimen_occupancy(scene).to_numpy()))
        np.testing.assert_allclose(body, place / VOXEL, atol=0.5)  # by volume, not by mass


def test_a_body_is_where_its_density_is():
    """The label map of a turned particle against its own density above the level."""
    density = phantom_map(voxel_size=5.0, box=80)
    shape = particle_shape(density, voxel_size=VOXEL)
    scene = one_at({"particle": shape}, [203.0, 198.0, 195.0], Rotation.from_rotvec([[1, 2, 0.5]]))
    drawn, marked = specimen_density(scene, {"particle": density}), specimen_labels(scene)
    dense = drawn.to_numpy() > shape.level
    both = (dense & (marked.to_numpy() == 1)).sum()
    assert 2 * both / (dense.sum() + (marked.to_numpy() == 1).sum()) > 0.95
    held = float(drawn.where(marked == 1).sum() / drawn.sum())
    assert 0.9 < held < 1.0
    assert float(specimen_occupancy(scene).sum()) * VOXEL**3 == pytest.approx(
        shape.volume, rel=0.02
    )


def test_particles_do_not_overlap(packing, whole):
    """Every particle has as many voxels in the crowd as alone: none lost one to another."""
    counts = np.bincount(whole["labels"].ravel(), minlength=len(packing.particles) + 5)
    total = np.zeros(SLAB, np.int32)
    for row in range(len(packing.particles)):
        own = specimen_labels(alone(packing, [row]), chunks=-1).to_numpy()
        assert counts[row + 1] == own.sum() > 0
        total += own
    solids = specimen_labels(alone(packing, [], vesicles=True, beads=True), chunks=-1).to_numpy()
    total += solids > 0
    assert total.max() == 1
    assert counts[1:].sum() == (solids > 0).sum() + (counts[1 : len(packing.particles) + 1]).sum()


def test_labels_number_the_table_and_classes_name_the_kinds(packing, whole):
    particles = len(packing.particles)
    kinds = np.concatenate([[0], packing.particles["class"], [3] * 3, [4]])
    np.testing.assert_array_equal(whole["classes"], kinds[whole["labels"]])
    assert packing.classes == {"particle": 1, "ring": 2, "bead": 3, "vesicle": 4}
    assert set(np.unique(whole["labels"])) == set(range(particles + 3 + 1 + 1))
    for number in range(3):
        where = np.array(center_of_mass(whole["labels"] == particles + 1 + number)) * VOXEL
        expected = packing.beads.loc[number, ["z", "y", "x"]].to_numpy(float)
        np.testing.assert_allclose(where, expected, atol=0.1 * VOXEL)
        volume = (whole["labels"] == particles + 1 + number).sum() * VOXEL**3
        assert volume == pytest.approx(np.pi / 6 * 100**3, rel=0.1)
    assert ((whole["occupancy"] >= 0.5) == (whole["labels"] > 0)).mean() > 0.999
    assert whole["occupancy"].min() == 0
    assert whole["occupancy"].max() == 1


def test_labels_against_a_slow_reference(packing, whole):
    """A few particles voxel by voxel, by NumPy alone."""
    grid = np.stack(np.indices(SLAB), -1) * VOXEL
    turns = matrices_zyx(orientations(packing.particles))
    for row in (0, len(packing.particles) - 1):
        one = packing.particles.iloc[row]
        shape = packing.shapes[one["kind"]]
        local = (grid - one[["z", "y", "x"]].to_numpy(float)) @ turns[row]
        at = np.moveaxis((local - shape.first_zyx) / VOXEL, -1, 0)
        distance = map_coordinates(shape.distance, at, order=1, mode="constant", cval=1e3)
        np.testing.assert_array_equal(whole["labels"] == row + 1, distance <= 0)


def test_membranes_and_beads_are_their_functions(packing, densities):
    """The profile by the distance of each voxel, in NumPy; and the gold's volume and volts."""
    scene = alone(packing, [], vesicles=True, beads=True)
    drawn = specimen_density(scene, densities, resolution=20.0).to_numpy()
    (center,), (matrix,), (axes,) = vesicle_arrays(packing.vesicles)
    rng = np.random.default_rng(0)
    voxels = np.argwhere(np.abs(drawn) > 0)[rng.integers(0, (np.abs(drawn) > 0).sum(), 3000)]
    blur = 20.0 / (np.pi * np.sqrt(2))
    beads = packing.beads[["z", "y", "x"]].to_numpy(float)
    for voxel in voxels:
        far = ellipsoid_distance(*((voxel * VOXEL - center) @ matrix), *axes)
        if np.linalg.norm(beads - voxel * VOXEL, axis=1).min() < 80:
            continue
        expected = bilayer_profile(np.array(far), blur=blur)
        assert drawn[tuple(voxel)] == pytest.approx(float(expected), abs=2e-3)
    only = specimen_density(alone(packing, [], beads=True), densities).to_numpy()
    assert only.max() == pytest.approx(GOLD_POTENTIAL, rel=1e-3)
    mass = only.sum() * VOXEL**3 / GOLD_POTENTIAL
    assert mass == pytest.approx(3 * np.pi / 6 * 100**3, rel=0.03)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chunks=irregular_chunks(SLAB), which=st.sampled_from(["density", "labels", "occupancy"]))
def test_chunks_do_not_change_a_bit(packing, densities, whole, chunks, which):
    make = {
        "density": lambda: specimen_density(packing, densities, chunks=chunks),
        "labels": lambda: specimen_labels(packing, chunks=chunks),
        "occupancy": lambda: specimen_occupancy(packing, chunks=chunks),
    }[which]
    volume = make()
    assert volume.chunks == chunks
    np.testing.assert_array_equal(volume.values, whole[which])


def test_volumes_are_lazy_tomograms(packing, densities, monkeypatch):
    import tomodask.simulation.specimen as module

    drawn = []
    original = module.density_block
    monkeypatch.setattr(
        module, "density_block", lambda *given: (drawn.append(given[1]), original(*given))
    )
    volume = specimen_density(packing, densities, chunks=(32, 48, 50))
    assert not drawn
    assert volume.dims == ("z", "y", "x")
    assert volume.attrs["voxel_size"] == VOXEL
    assert volume.dtype == np.float32
    assert volume.coords["x"].to_numpy()[-1] == (SLAB[2] - 1) * VOXEL
    with dask.config.set(scheduler="synchronous"):
        volume[:10, :10, :10].compute()
    assert len(drawn) == 1  # only the block that is asked for
    again = specimen_density(packing, densities, chunks=(32, 48, 50))
    assert again.data.name == volume.data.name


def test_memory_goes_with_the_block_not_the_volume(packing, densities):
    """A volume of 256 GB is laid out at once, and a corner of it is read."""
    large = Packing(
        (4000, 4000, 4000), VOXEL, packing.shapes, packing.particles, packing.vesicles,
        packing.beads, 0,
    )  # fmt: skip
    corner = specimen_density(large, densities)[: SLAB[0], : SLAB[1], : SLAB[2]]
    np.testing.assert_array_equal(
        corner.to_numpy(), specimen_density(packing, densities, chunks=-1).to_numpy()
    )


def test_truth_is_written_and_read_back(packing, whole, tmp_path):
    paths = write_truth(packing, tmp_path / "truth", chunks=(40, 50, 60))
    assert sorted(path.name for path in paths.values()) == [
        "beads.csv", "classes.csv", "classes.zarr", "labels.zarr", "occupancy.zarr",
        "particles.star", "vesicles.csv",
    ]  # fmt: skip
    table = read_particles(paths["particles"])
    np.testing.assert_allclose(
        table[["z", "y", "x"]], packing.particles[["z", "y", "x"]], atol=1e-6
    )
    turn = orientations(table).inv() * orientations(packing.particles)
    assert np.rad2deg(turn.magnitude()).max() < 1e-5
    assert table["kind"].tolist() == packing.particles["kind"].tolist()
    assert table["class"].tolist() == packing.particles["class"].tolist()
    for name, key in (("labels", "labels"), ("class_map", "classes"), ("occupancy", "occupancy")):
        volume = open_tomogram(paths[name])
        assert volume.attrs["voxel_size"] == VOXEL
        np.testing.assert_array_equal(volume.values, whole[key])
    beads = pd.read_csv(paths["beads"])
    np.testing.assert_allclose(beads["diameter"], 100)
    legend = pd.read_csv(paths["classes"]).set_index("kind")
    assert legend["class"].to_dict() == packing.classes
    assert legend["copies"].to_dict() == packing.counts | {"bead": 3, "vesicle": 1}
    with pytest.raises(InputError, match=r"particles\.star exists"):
        write_truth(packing, tmp_path / "truth")
    write_truth(packing, tmp_path / "truth", overwrite=True)


def test_bad_input(packing, densities):
    with pytest.raises(InputError, match="densities has none for 'ring'"):
        specimen_density(packing, {"particle": densities["particle"]})
    with pytest.raises(InputError, match="resolution must be above 0"):
        specimen_density(packing, densities, resolution=0)
    with pytest.raises(InputError, match="chunks="):
        specimen_labels(packing, chunks=(7, (3, 4), 5))
    broken = densities["ring"].copy(data=np.full(densities["ring"].shape, np.nan))
    with pytest.raises(InputError, match="NaN or infinite"):
        specimen_density(packing, densities | {"ring": broken})


def test_an_empty_specimen_is_empty(densities):
    shapes = {"ring": particle_shape(densities["ring"], voxel_size=VOXEL)}
    packing = pack(shapes, shape=(40, 40, 40), voxel_size=VOXEL, copies={"ring": 0})
    assert packing.occupancy == 0
    assert not specimen_density(packing, {}).to_numpy().any()
    assert not specimen_labels(packing).to_numpy().any()
    assert not specimen_occupancy(packing).to_numpy().any()


def test_real_maps_pack_and_keep_apart():
    """Structures of other shapes than the phantom: hollow, long, two discs."""
    names = ("3j9i", "4v94", "1qvr", "1bxn")
    densities = {name: open_tomogram(shared_data("maps", "10A", f"{name}.mrc")) for name in names}
    shapes = {name: particle_shape(one) for name, one in densities.items()}
    packing = pack(shapes, shape=(64, 160, 160), voxel_size=VOXEL, occupancy=0.4, seed=2)
    total = specimen_labels(packing, chunks=-1).to_numpy()
    counts = np.bincount(total.ravel(), minlength=len(packing.particles) + 1)
    for row in range(len(packing.particles)):
        own = specimen_labels(alone(packing, [row]), chunks=-1)
        assert int(own.sum()) == counts[row + 1] > 0
    volume = specimen_density(packing, densities, chunks=64)
    assert isinstance(volume, xr.DataArray)
    mass = sum(float(densities[kind].sum()) * count for kind, count in packing.counts.items())
    assert float(volume.sum(dtype=np.float64)) == pytest.approx(mass, rel=1e-3)


def test_labels_reach_as_far_as_they_say(packing, whole):
    """A membrane is marked to 24 Å on either side of its middle."""
    (center,), (matrix,), (axes,) = vesicle_arrays(packing.vesicles)
    mark = len(packing.particles) + len(packing.beads) + 1
    voxels = np.argwhere(whole["labels"] == mark)
    far = [abs(ellipsoid_distance(*((v * VOXEL - center) @ matrix), *axes)) for v in voxels]
    assert MEMBRANE_HALF_THICKNESS - 1 < max(far) <= MEMBRANE_HALF_THICKNESS + 0.5
    shape = packing.shapes["ring"]
    assert distance_at(
        shape.distance.ravel(), 0, np.array(shape.distance.shape), shape.first_zyx, VOXEL, 0, 90, 0
    ) < 0  # fmt: skip
