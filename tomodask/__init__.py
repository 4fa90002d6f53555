"""Cryo-electron tomography from tomogram to average, array-parallel on Dask and Zarr.

The public names, each loaded when it is first asked for, so that ``tomodask --help`` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tomodask.lazy import lazy_names

if TYPE_CHECKING:
    from tomodask.alignment.poses import align_subtomograms
    from tomodask.arrays.geometry import angular_distance, rotation_grid
    from tomodask.averaging.average import Average
    from tomodask.averaging.averages import average_classes, average_subtomograms
    from tomodask.averaging.cone_fsc import fsc_by_cone, resolution_by_direction
    from tomodask.averaging.corrected_fsc import corrected_fsc
    from tomodask.averaging.fsc import fsc, resolution_at
    from tomodask.averaging.local_resolution import local_resolution
    from tomodask.averaging.sharpening import b_factor, sharpen
    from tomodask.classification.clusters.averages import average_cluster
    from tomodask.classification.clusters.kmeans import KMeans
    from tomodask.classification.clusters.known import nearest_known
    from tomodask.classification.features.embedding import embed_subtomograms
    from tomodask.classification.features.maps import map_features
    from tomodask.classification.features.models import open_feature_model
    from tomodask.classification.features.neighbours import find_neighbours
    from tomodask.classification.features.rotation_invariant import RifSvm, RotationInvariant
    from tomodask.classification.features.selection import MapSelection, select_on_map
    from tomodask.classification.features.store import open_features, save_features
    from tomodask.classification.learning.explaining import explain_subtomograms
    from tomodask.classification.learning.predicting import classify_subtomograms, collect_classes
    from tomodask.classification.learning.pretraining import EncoderSettings, pretrain_encoder
    from tomodask.classification.learning.training import ClassifierSettings, train_classifier
    from tomodask.cluster import compute, connect
    from tomodask.data.class_averages import save_class_averages
    from tomodask.data.describe import describe
    from tomodask.data.image_table import read_image_table, write_image_table
    from tomodask.data.images import image_table, open_images, save_images
    from tomodask.data.particles import (
        orientations,
        read_particles,
        with_orientations,
        write_particles,
    )
    from tomodask.data.subtomograms import (
        extract_subtomograms,
        open_subtomograms,
        particle_table,
        save_subtomograms,
    )
    from tomodask.data.tilt_series import open_tilt_series, write_tilt_series
    from tomodask.data.tomograms import open_tomogram, save_tomogram
    from tomodask.errors import InputError
    from tomodask.nets.segmentation.architecture import Architecture
    from tomodask.nets.segmentation.model_file import PickingModel, read_model, write_model
    from tomodask.picking.blobs.finding import find_blobs
    from tomodask.picking.learning.training import EpochReport, TrainingSettings, train_picker
    from tomodask.picking.learning.view import watch_training
    from tomodask.picking.nms.centers import collect_centers, find_centers
    from tomodask.picking.scoring.scores import Scores, score_picks
    from tomodask.picking.segmentation.picks import pick_segmentation
    from tomodask.picking.segmentation.segmenting import (
        open_segmentation,
        save_segmentation,
        segment_tomogram,
    )
    from tomodask.picking.templates.matching import (
        match_template,
        open_scores,
        pick_particles,
        save_scores,
    )
    from tomodask.planar.aligned import transform_images
    from tomodask.planar.alignment2d import align_images
    from tomodask.planar.averages2d import ClassAverages, average_images
    from tomodask.planar.embedding import embed_images
    from tomodask.planar.projections import boxes_with_classes, project_subtomograms
    from tomodask.planar.round2d import Round2D, Settings2D
    from tomodask.planar.rounds2d import classify_images, rounds_of
    from tomodask.planar.sharing import class_stability
    from tomodask.planar.two_stage import TwoStageReduction
    from tomodask.project import (
        Averaging2D,
        Refinement,
        Run,
        Subdivision,
        average2d,
        open_average2d,
        open_subdivision,
        refine,
        run,
        subdivide,
    )
    from tomodask.reconstruction.tomogram import reconstruct, save_reconstruction
    from tomodask.simulation.boxes import simulate_subtomograms
    from tomodask.simulation.density import structure_density
    from tomodask.simulation.phantom import phantom_map, phantom_subtomograms, phantom_tomogram
    from tomodask.simulation.tomogram import Simulation, simulate
    from tomodask.simulation.views import phantom_images, phantom_views

_HOMES = {
    "averaging.average": ("Average",),
    "averaging.averages": ("average_classes", "average_subtomograms"),
    "averaging.cone_fsc": ("fsc_by_cone", "resolution_by_direction"),
    "averaging.corrected_fsc": ("corrected_fsc",),
    "averaging.fsc": ("fsc", "resolution_at"),
    "averaging.local_resolution": ("local_resolution",),
    "alignment.poses": ("align_subtomograms",),
    "averaging.sharpening": ("b_factor", "sharpen"),
    "arrays.geometry": ("angular_distance", "rotation_grid"),
    "classification.learning.predicting": ("classify_subtomograms", "collect_classes"),
    "classification.learning.pretraining": ("EncoderSettings", "pretrain_encoder"),
    "classification.learning.training": ("ClassifierSettings", "train_classifier"),
    "classification.clusters.averages": ("average_cluster",),
    "classification.clusters.known": ("nearest_known",),
    "classification.learning.explaining": ("explain_subtomograms",),
    "classification.features.selection": ("MapSelection", "select_on_map"),
    "classification.features.models": ("open_feature_model",),
    "classification.features.store": ("open_features", "save_features"),
    "classification.features.embedding": ("embed_subtomograms",),
    "classification.clusters.kmeans": ("KMeans",),
    "classification.features.maps": ("map_features",),
    "classification.features.neighbours": ("find_neighbours",),
    "classification.features.rotation_invariant": ("RifSvm", "RotationInvariant"),
    "cluster": ("compute", "connect"),
    "data.describe": ("describe",),
    "data.particles": (
        "orientations",
        "read_particles",
        "with_orientations",
        "write_particles",
    ),
    "data.subtomograms": (
        "extract_subtomograms",
        "open_subtomograms",
        "particle_table",
        "save_subtomograms",
    ),
    "data.tilt_series": ("open_tilt_series", "write_tilt_series"),
    "data.tomograms": ("open_tomogram", "save_tomogram"),
    "data.class_averages": ("save_class_averages",),
    "data.image_table": ("read_image_table", "write_image_table"),
    "data.images": ("image_table", "open_images", "save_images"),
    "planar.aligned": ("transform_images",),
    "planar.alignment2d": ("align_images",),
    "planar.averages2d": ("ClassAverages", "average_images"),
    "planar.embedding": ("embed_images",),
    "planar.projections": ("boxes_with_classes", "project_subtomograms"),
    "planar.round2d": ("Round2D", "Settings2D"),
    "planar.rounds2d": ("classify_images", "rounds_of"),
    "planar.sharing": ("class_stability",),
    "planar.two_stage": ("TwoStageReduction",),
    "simulation.views": ("phantom_images", "phantom_views"),
    "errors": ("InputError",),
    "nets.segmentation.architecture": ("Architecture",),
    "nets.segmentation.model_file": ("PickingModel", "read_model", "write_model"),
    "picking.blobs.finding": ("find_blobs",),
    "picking.nms.centers": ("collect_centers", "find_centers"),
    "picking.scoring.scores": ("Scores", "score_picks"),
    "picking.segmentation.segmenting": (
        "open_segmentation",
        "save_segmentation",
        "segment_tomogram",
    ),
    "picking.segmentation.picks": ("pick_segmentation",),
    "picking.templates.matching": (
        "match_template",
        "open_scores",
        "pick_particles",
        "save_scores",
    ),
    "picking.learning.training": ("EpochReport", "TrainingSettings", "train_picker"),
    "picking.learning.view": ("watch_training",),
    "project": (
        "Averaging2D",
        "Refinement",
        "Run",
        "Subdivision",
        "average2d",
        "open_average2d",
        "open_subdivision",
        "refine",
        "run",
        "subdivide",
    ),
    "reconstruction.tomogram": ("reconstruct", "save_reconstruction"),
    "simulation.boxes": ("simulate_subtomograms",),
    "simulation.density": ("structure_density",),
    "simulation.phantom": ("phantom_map", "phantom_subtomograms", "phantom_tomogram"),
    "simulation.tomogram": ("Simulation", "simulate"),
}

__all__ = [
    "Architecture",
    "Average",
    "Averaging2D",
    "ClassAverages",
    "ClassifierSettings",
    "EncoderSettings",
    "EpochReport",
    "InputError",
    "KMeans",
    "MapSelection",
    "PickingModel",
    "Refinement",
    "RifSvm",
    "RotationInvariant",
    "Round2D",
    "Run",
    "Scores",
    "Settings2D",
    "Simulation",
    "Subdivision",
    "TrainingSettings",
    "TwoStageReduction",
    "__version__",
    "align_images",
    "align_subtomograms",
    "angular_distance",
    "average2d",
    "average_classes",
    "average_cluster",
    "average_images",
    "average_subtomograms",
    "b_factor",
    "boxes_with_classes",
    "class_stability",
    "classify_images",
    "classify_subtomograms",
    "collect_centers",
    "collect_classes",
    "compute",
    "connect",
    "corrected_fsc",
    "describe",
    "embed_images",
    "embed_subtomograms",
    "explain_subtomograms",
    "extract_subtomograms",
    "find_blobs",
    "find_centers",
    "find_neighbours",
    "fsc",
    "fsc_by_cone",
    "image_table",
    "local_resolution",
    "map_features",
    "match_template",
    "nearest_known",
    "open_average2d",
    "open_feature_model",
    "open_features",
    "open_images",
    "open_scores",
    "open_segmentation",
    "open_subdivision",
    "open_subtomograms",
    "open_tilt_series",
    "open_tomogram",
    "orientations",
    "particle_table",
    "phantom_images",
    "phantom_map",
    "phantom_subtomograms",
    "phantom_tomogram",
    "phantom_views",
    "pick_particles",
    "pick_segmentation",
    "pretrain_encoder",
    "project_subtomograms",
    "read_image_table",
    "read_model",
    "read_particles",
    "reconstruct",
    "refine",
    "resolution_at",
    "resolution_by_direction",
    "rotation_grid",
    "rounds_of",
    "run",
    "save_class_averages",
    "save_features",
    "save_images",
    "save_reconstruction",
    "save_scores",
    "save_segmentation",
    "save_subtomograms",
    "save_tomogram",
    "score_picks",
    "segment_tomogram",
    "select_on_map",
    "sharpen",
    "simulate",
    "simulate_subtomograms",
    "structure_density",
    "subdivide",
    "train_classifier",
    "train_picker",
    "transform_images",
    "watch_training",
    "with_orientations",
    "write_image_table",
    "write_model",
    "write_particles",
    "write_tilt_series",
]


_get, _ = lazy_names(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tomodask")
    return _get(name)


def __dir__() -> list[str]:
    return __all__
