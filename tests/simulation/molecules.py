"""Molecules drawn at random."""

import numpy as np

from tomodask.simulation.structures import (
    Structure,
)


def molecule(seed=0, count=12, spread=6.0, elements=("C", "O"), hydrogens=0.0):
    rng = np.random.default_rng(seed)
    return Structure(
        "molecule",
        rng.choice(np.array(elements, "<U2"), count),
        rng.normal(size=(count, 3)) * spread,
        np.full(count, float(hydrogens)),
    )
