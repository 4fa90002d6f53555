"""How far a trained network looks."""

from __future__ import annotations

import numpy as np

from tomodask.errors import InputError
from tomodask.nets.engines import EngineName
from tomodask.nets.segmentation.inference import open_engine
from tomodask.nets.segmentation.model_file import PickingModel

__all__ = ["measure_reach"]


def measure_reach(
    model: PickingModel,
    volume: np.ndarray,
    halos: tuple[int, ...] = (4, 8, 12, 16, 24, 32),
    *,
    engine: EngineName = "auto",
    threads: int = 1,
) -> tuple[tuple[int, float], ...]:
    """How much the faces of a tile change probabilities, by the distance from them.

    A tile is cut out of the middle of a volume, half as long along each axis; what the network
    gives in it is held against what it gives there in the whole volume.

    Parameters
    ----------
    model : PickingModel
    volume : array, shape (z, y, x)
        A crop as the network eats it (normalised), with particles; at least 64 voxels along each
        axis, better 128.  Cut to multiples of `Architecture.multiple`.
    halos : tuple of int
        Distances from the tile's faces, voxels.

    Returns
    -------
    tuple of (int, float)
        Each halo that leaves a core, and the 99.9 % quantile of the absolute difference over the
        4 voxels thick shell that begins there.

    Raises
    ------
    InputError
        If the volume is too small, or not finite.
    """
    multiple = model.architecture.multiple
    values = np.asarray(volume, np.float32)
    edges = [n // (4 * multiple) * 4 * multiple for n in values.shape]
    if values.ndim != 3 or min(edges) < 4 * multiple:
        raise InputError(
            f"volume must have at least {4 * multiple} voxels along z, y and x, got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError("volume has voxels that are NaN or infinite; replace them")
    whole = values[tuple(slice(0, n) for n in edges)]
    inner = tuple(slice(n // 4, 3 * n // 4) for n in edges)
    runner = open_engine(model, engine=engine, threads=threads)
    large = runner.infer(whole[None, None])[0][(slice(None), *inner)]
    small = runner.infer(whole[inner][None, None])[0]
    change = np.abs(large - small)
    lines = np.ix_(*(np.minimum(np.arange(n // 2), np.arange(n // 2)[::-1]) for n in edges))
    distance = np.minimum(np.minimum(lines[0], lines[1]), lines[2])  # 0 next to a face
    out = []
    for halo in halos:
        shell = (distance >= halo) & (distance < halo + 4)
        if shell.any():
            out.append((int(halo), float(np.quantile(change[:, shell], 0.999))))
    return tuple(out)
