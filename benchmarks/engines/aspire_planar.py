"""ASPIRE (https://pypi.org/project/aspire) as an engine of `planar.py`, with its own Python.

Its `BFTAverager2D` is the aligner nearest to ours: references moved by a grid of shifts, polar
Fourier transforms, one transform over the angle.  Images are given twice, once as mirrored.

    python aspire_planar.py INPUT.npz OUTPUT.npz

INPUT holds `images` (n, y, x), `references` (k, y, x) and `reach`, the range of shifts in pixels;
OUTPUT holds `seconds`, and of each reference and image `score`, `psi` and `mirror`.
"""

import sys
import time

import numpy as np


def main() -> None:
    from aspire.basis import FFBBasis2D
    from aspire.classification.averager2d import BFTAverager2D
    from aspire.source import ArrayImageSource

    with np.load(sys.argv[1]) as given:
        images, references = given["images"], given["references"]
        reach = int(given["reach"])
    count, size = len(images), images.shape[-1]
    source = ArrayImageSource(
        np.concatenate([references, images]).astype(np.float32), pixel_size=1.0
    )
    basis = FFBBasis2D(size, dtype=np.float32)
    # 256 angles, as ours; ASPIRE's radii are of Fourier space. Small batches are its fastest.
    averager = BFTAverager2D(basis, source, n_angles=256, radius=reach, sub_pixel=1, batch_size=1)
    both = np.concatenate([np.arange(count), np.arange(count)]) + len(references)
    classes = np.stack([np.concatenate([[k], both]) for k in range(len(references))])
    flips = np.zeros(classes.shape, bool)
    flips[:, 1 + count :] = True
    averager.align(classes[:1, :3], flips[:1, :3])  # plans and tables once
    start = time.perf_counter()
    rotations, _, dots = averager.align(classes, flips)
    seconds = time.perf_counter() - start
    dots = dots[:, 1:].reshape(len(references), 2, count)
    rotations = rotations[:, 1:].reshape(len(references), 2, count)
    mirror = dots.argmax(axis=1)
    chosen = mirror[:, None]
    np.savez(
        sys.argv[2],
        seconds=seconds,
        shifts=len(averager._shift_search_grid(size, reach, roll_zero=True, sub_pixel=1)),
        score=np.take_along_axis(dots, chosen, axis=1)[:, 0],
        psi=np.rad2deg(np.take_along_axis(rotations, chosen, axis=1)[:, 0]),
        mirror=mirror,
    )


if __name__ == "__main__":
    main()
