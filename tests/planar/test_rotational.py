"""The products, transforms and maxima of the search: against plain sums, one profile at a time."""

import numpy as np
import pytest

from tomodask.arrays.lane_fourier import positions, wave_table
from tomodask.planar.polar import polar_grid
from tomodask.planar.rotational import COLUMNS, empty_tiles, search_lanes


def random_series(count, grid, seed):
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(count, grid.size)) + 1j * rng.normal(size=(count, grid.size))
    out[:, : grid.starts[1]].imag = 0
    return out.astype(np.complex64)


def tiles(columns):
    out = empty_tiles(*columns.shape)
    for column, values in enumerate(columns):
        out[column // COLUMNS, :, column % COLUMNS] = np.stack([values.real, values.imag], axis=1)
    return out.ravel()


def profiles(x, y, grid):
    """Correlation over all angles by definition: with y as it is, and mirrored."""
    n = grid.angles
    theta = 2 * np.pi * np.arange(n) / n
    straight, mirrored = np.zeros(n), np.zeros(n)
    for m in range(grid.frequencies):
        part = slice(grid.starts[m], grid.starts[m + 1])
        wave = (1 if m == 0 else 2) * np.exp(1j * m * theta)
        straight += ((x[part] * y[part].conj()).sum() * wave).real
        mirrored += (-1) ** m * ((x[part] * y[part]).sum() * wave).real
    return straight, mirrored


@pytest.mark.parametrize(("references", "shifts", "radius"), [(3, 5, 5), (1, 1, 2), (2, 3, 11)])
@pytest.mark.parametrize("mirror", [True, False])
def test_against_plain_sums(references, shifts, radius, mirror):
    grid = polar_grid(radius)
    x, y = random_series(16, grid, 0), random_series(references * shifts, grid, 1)
    packed = np.stack([x.T.real, x.T.imag], axis=1).astype(np.float32).ravel()
    score = np.zeros((references, 16), np.float32)
    shift, place = np.zeros((references, 16), np.int32), np.zeros((references, 16), np.int32)
    search_lanes(
        packed, tiles(y), references * shifts, shifts, grid.starts, grid.angles,
        wave_table(grid.angles), mirror, np.ones(4 * grid.angles * 32, np.float32),
        np.zeros(32, np.float32), score, shift, place,
    )  # fmt: skip
    where = positions(grid.angles)
    for lane in range(16):
        for reference in range(references):
            found = []
            for s in range(shifts):
                both = profiles(x[lane], y[reference * shifts + s], grid)
                for flip in range(2 if mirror else 1):
                    sample = int(both[flip].argmax())
                    found.append((both[flip].max(), s, where[sample] + flip * grid.angles))
            top, s, at = max(found)
            assert score[reference, lane] == pytest.approx(top, rel=1e-4)
            assert (shift[reference, lane], place[reference, lane]) == (s, at)
