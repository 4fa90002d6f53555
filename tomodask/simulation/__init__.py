"""Simulated tomograms and boxes, with their exact truth: structure, specimen, microscope, tomogram.

Each name is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tomodask.lazy import lazy_names

if TYPE_CHECKING:
    from tomodask.simulation.boxes import simulate_subtomograms
    from tomodask.simulation.density import structure_density
    from tomodask.simulation.detector import (
        Detector,
        counting_detector,
        ideal_detector,
        read_detector,
        sinc_detector,
    )
    from tomodask.simulation.imaging import signal_variance, simulate_tilt_series
    from tomodask.simulation.membranes import place_beads, place_vesicles
    from tomodask.simulation.microscope import Beads, Microscope, Motion
    from tomodask.simulation.packing import Packing, pack
    from tomodask.simulation.projections import project_volume
    from tomodask.simulation.protocols import PROTOCOLS, Protocol
    from tomodask.simulation.settings import SimulationSettings, read_settings
    from tomodask.simulation.shapes import Shape, particle_shape
    from tomodask.simulation.specimen import (
        specimen_density,
        specimen_labels,
        specimen_occupancy,
        write_truth,
    )
    from tomodask.simulation.structures import Structure, read_structure
    from tomodask.simulation.tilt_schemes import tilt_scheme
    from tomodask.simulation.tomogram import Simulation, simulate

_HOMES = {
    "boxes": ("simulate_subtomograms",),
    "density": ("structure_density",),
    "detector": (
        "Detector",
        "counting_detector",
        "ideal_detector",
        "read_detector",
        "sinc_detector",
    ),
    "imaging": ("signal_variance", "simulate_tilt_series"),
    "membranes": ("place_beads", "place_vesicles"),
    "microscope": ("Beads", "Microscope", "Motion"),
    "packing": ("Packing", "pack"),
    "projections": ("project_volume",),
    "protocols": ("PROTOCOLS", "Protocol"),
    "settings": ("SimulationSettings", "read_settings"),
    "shapes": ("Shape", "particle_shape"),
    "specimen": ("specimen_density", "specimen_labels", "specimen_occupancy", "write_truth"),
    "structures": ("Structure", "read_structure"),
    "tilt_schemes": ("tilt_scheme",),
    "tomogram": ("Simulation", "simulate"),
}

__all__ = [
    "PROTOCOLS",
    "Beads",
    "Detector",
    "Microscope",
    "Motion",
    "Packing",
    "Protocol",
    "Shape",
    "Simulation",
    "SimulationSettings",
    "Structure",
    "counting_detector",
    "ideal_detector",
    "pack",
    "particle_shape",
    "place_beads",
    "place_vesicles",
    "project_volume",
    "read_detector",
    "read_settings",
    "read_structure",
    "signal_variance",
    "simulate",
    "simulate_subtomograms",
    "simulate_tilt_series",
    "sinc_detector",
    "specimen_density",
    "specimen_labels",
    "specimen_occupancy",
    "structure_density",
    "tilt_scheme",
    "write_truth",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
