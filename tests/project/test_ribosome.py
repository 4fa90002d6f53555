"""A real ribosome map, planted at known poses, comes back from `tomodask.run` at those poses.

Real is the map; the tomogram is made here, by SciPy's splines and NumPy's FFT and not by the
project's own sampling: noise white, wedge ±60°.  SNR is that of docs/design.md: the variance of a
noise-free box over that of the noise before the wedge.
"""

import mrcfile
import numpy as np
import pytest
import scipy.ndimage
from helpers import shared_data
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

import tomodask
from tomodask.data.particles import orientations, read_particles

VOXEL = 15.47026  # Å: two of the map's
BOX = 28  # voxels: the run's boxes, and the box of which the SNR speaks
TILTS = (-60.0, 60.0)


def fine_map(path):
    """The map about its centre, sampled twice as finely: a spline then errs by little.

    Detail beyond the tomogram's Nyquist frequency is taken out first, as by a detector.
    """
    with mrcfile.open(path) as file:
        values, size = file.data.astype(np.float64), float(file.voxel_size.x)
    n = values.shape[0]
    spectrum = np.fft.fftshift(np.fft.fftn(values))
    k = np.fft.fftshift(np.fft.fftfreq(n))
    spectrum *= np.linalg.norm(np.stack(np.meshgrid(k, k, k)), axis=0) < 0.5 * size / VOXEL
    spectrum = np.pad(spectrum, n // 2)
    fine = np.fft.ifftn(np.fft.ifftshift(spectrum)).real * 8
    return fine, size / 2, 2 * (n // 2)  # the centre, voxel n // 2, stays where it was


def planted(path, poses, shape, box=BOX):
    """Sum of the map at each pose: (z, y, x) of its centre in voxels, and its rotation."""
    fine, size, centre = fine_map(path)
    coefficients = scipy.ndimage.spline_filter(fine)
    out = np.zeros(shape)
    for position, rotation in poses:
        corner = np.rint(position).astype(int) - box // 2
        z, y, x = np.meshgrid(*(np.arange(c, c + box) for c in corner), indexing="ij")
        away = np.stack([x - position[2], y - position[1], z - position[0]], -1) * VOXEL
        own = rotation.inv().apply(away.reshape(-1, 3)) / size + centre
        values = scipy.ndimage.map_coordinates(coefficients, own[:, ::-1].T, prefilter=False)
        here = tuple(slice(c, c + box) for c in corner)
        out[here] += values.reshape((box,) * 3)
    return out


def noisy(clean, deviation, rng):
    """White noise added, then all that no tilt measured taken out."""
    volume = clean + rng.normal(scale=deviation, size=clean.shape)
    kz, _, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in clean.shape), indexing="ij")
    seen = np.abs(kz) <= np.abs(kx) * np.tan(np.deg2rad(TILTS[1])) + 1e-9
    return np.fft.ifftn(np.fft.fftn(volume) * seen).real.astype(np.float32)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """(path of the map, path of the tomogram, true positions in Å, true rotations)."""
    path = shared_data("maps", "Cytoribo_box72.mrc")
    rng = np.random.default_rng(3)
    # 2 x 2 x 4 cells, and in each a ribosome somewhere about the middle.
    cells = np.stack(np.meshgrid(*(np.arange(n) for n in (2, 2, 4)), indexing="ij"), -1)
    positions = 30 * cells.reshape(-1, 3) + 18 + rng.uniform(-2, 2, (16, 3))
    rotations = Rotation.random(16, rng=rng)
    shape = (66, 66, 126)
    clean = planted(path, list(zip(positions, rotations, strict=True)), shape)
    alone = planted(path, [((BOX // 2,) * 3, Rotation.identity())], (BOX,) * 3)
    volume = noisy(clean, alone.std() / np.sqrt(0.1), rng)
    tomogram = tmp_path_factory.mktemp("ribosomes") / "ribosomes.mrc"
    with mrcfile.new(tomogram) as file:  # by a third party, as tomograms come
        file.set_data(volume)
        file.set_volume()
        file.voxel_size = VOXEL
    return path, tomogram, positions * VOXEL, rotations


def test_map_is_bright_on_an_even_background():
    """What the scene rests on: protein positive, no density at the box's border."""
    with mrcfile.open(shared_data("maps", "Cytoribo_box72.mrc")) as file:
        values = file.data.astype(float)
    middle = values[27:48, 27:48, 27:48]
    border = np.concatenate([values.take((0, -1), axis).ravel() for axis in range(3)])
    assert middle.mean() > 20 * np.abs(border).max() > 0


def test_ribosomes_come_back_at_their_poses(scene, tmp_path):
    path, tomogram, true_positions, true_rotations = scene
    result = tomodask.run(
        tomogram,
        template=path,
        resample_template=True,
        output=tmp_path / "run",
        tilt_range=TILTS,
        diameter=300.0,
        box=BOX,
        angular_step=20.0,
        scheduler="synchronous",
    )
    poses = read_particles(result.poses)
    found = poses[["z", "y", "x"]].to_numpy() + poses[["shift_z", "shift_y", "shift_x"]].to_numpy()
    distance, nearest = cKDTree(true_positions).query(found)
    off = distance / VOXEL
    error = tomodask.angular_distance(orientations(poses), true_rotations[nearest])
    print(f"{len(poses)} picks, {np.sort(off).round(2)} voxels, {np.sort(error).round(2)} degrees")
    # Recall 1 and precision 1: each true one found once, and nothing else.
    assert sorted(nearest) == list(range(16))
    assert off.max() < 0.5
    assert np.median(error) < 3
    assert error.max() < 8
