"""A subdivision: features → clusters → averages, in a folder that can be killed and goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from tomodask.cluster import connect
from tomodask.data.job_boxes import LATER
from tomodask.data.run_folder import RunFolder
from tomodask.errors import InputError
from tomodask.project.as_typed import as_typed
from tomodask.project.subdivision.files import CENTRED
from tomodask.project.subdivision.job import checked_subdivision
from tomodask.project.subdivision.steps import Subdividing

__all__ = ["Subdivision", "open_subdivision", "subdivide"]


@dataclass(frozen=True)
class Subdivision:
    """What a subdivision made.

    Attributes
    ----------
    output : Path
        The folder.
    features, particles, report : Path
        The store of features; the table of all boxes, with ``cluster`` (from 0, the largest; −1
        where one was set aside) and ``distance`` to its centre (STAR; a CSV lies beside it); the
        gallery.
    centred : Path, optional
        The table of all boxes, each led by its shift to the middle of its average
        (`tomodask.classification.clusters.centring`): to be cut out again, and divided again.
        None as long as averages are missing, or if the boxes do not say where they lie.
    clusters : DataFrame
        A row a cluster: ``cluster``, ``particles``, ``radius``; where kinds are known ``kind``, the
        most frequent, and ``purity``, its share; ``averaged`` (particles that were), ``kept`` (the
        share of them in the largest class), ``resolution_143`` and ``resolution_5`` of that class
        (Å, infinite if not reached), the known map ``nearest`` to it, whether ``mirrored``, with
        ``correlation`` and ``discrepancy`` (Å), ``classes`` (how many), ``average`` (its file) and
        ``notes``.
    classes : DataFrame
        The same, a row a class of each cluster.
    """

    output: Path
    features: Path
    particles: Path
    report: Path
    centred: Path | None
    clusters: pd.DataFrame = field(repr=False)
    classes: pd.DataFrame = field(repr=False)

    @property
    def map(self) -> pd.DataFrame:
        """The particles on the map of the features: their table, with ``map_1`` and ``map_2``.

        `tomodask.select_on_map` takes it.

        Raises
        ------
        InputError
            If no map was asked for (``map_particles=0``), or what draws it is not installed.
        """
        path = self.output / "map.csv"
        if not path.exists():
            raise InputError(
                f"{self.output} has no map of the features; ask for one (map_particles=5000, --map "
                "5000; it needs scikit-learn: pip install 'tomodask[planar]')"
            )
        places = pd.read_csv(path, index_col="particle")
        table = pd.read_csv(self.output / "particles.csv", index_col="particle")
        return table.loc[places.index].join(places)

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the clusters as a table, and where the gallery is."""
        import html

        told = self.clusters.drop(columns=["notes", "average"]).to_html(index=False, na_rep="–")
        return f"{told}<p>Gallery: <code>{html.escape(str(self.report))}</code></p>"


def subdivide(
    subtomograms: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.Dataset,
    *,
    output: str | os.PathLike[str],
    model: Any,
    features: str | os.PathLike[str] | None = None,
    clusters: int = 100,
    least: int = 20,
    most: int = 300,
    classes: int = 3,
    iterations: int = 5,
    diameter: float | None = None,
    start_resolution: float = 60.0,
    resolution: float | None = None,
    angular_step: float = 20.0,
    tilt_range: tuple[float, float] | None = None,
    voxel_size: float | None = None,
    labels: str | os.PathLike[str] | pd.DataFrame | None = None,
    known: Sequence[str | os.PathLike[str] | xr.DataArray] = (),
    invert: bool = False,
    mirrored: bool = False,
    method: str = "minibatch",
    precision: str = "float32",
    batch: int = 16,
    map_particles: int = 5000,
    map_method: str = "tsne",
    seed: int = 0,
    overwrite: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    config: str | Path | None = None,
    command: str | None = None,
) -> Subdivision:
    """Divide boxes that nobody labelled by what a network sees in them, and average each part.

    Features of all boxes fall into many clusters (k-means); each cluster is sorted into classes
    and averaged without a reference; averages may be compared with known structures.  All that is
    finished is kept in `output`: the same call goes on where an earlier one stopped, however it
    ended, and ends with the same result to the last bit.  With `overwrite` and other clusters,
    features and clusters that would come out the same are kept.

    Parameters
    ----------
    subtomograms : path, list of paths or Dataset
        What `open_subtomograms` takes or gives.
    output : path
        The folder; made where it is not there.
    model : path, BoxModel or object with ``predict_features``
        What makes features; ``"rotation-invariant"`` needs no training.  See
        `tomodask.classification.features.models.open_feature_model`.
    features : path, optional
        A store of the features of these boxes by this model, which are not made again.
    clusters : int
        More, by far, than structures are expected.
    least, most : int
        Clusters of fewer particles are not averaged; of larger ones those nearest to the centre.
    classes : int
        That a cluster is sorted into, at most.
    iterations : int
        Rounds of its alignment.
    diameter : float, optional
        Of the soft sphere about a particle, Å; by default the largest that the box holds.
    start_resolution : float
        Of the first maps, Å: all that halves share.
    resolution : float, optional
        No round aligns by finer detail, Å; by default two voxels.
    angular_step : float
        Of searches over all rotations, degrees.
    tilt_range : (float, float), optional
        Degrees, in place of what the boxes carry.
    voxel_size : float, optional
        Å; in place of what the boxes' files say.
    labels : path or DataFrame, optional
        A table whose ``kind`` or ``class`` says what a person or a program took some boxes for
        (`labelled_boxes`): clusters are told by their most frequent one.  By default what the boxes
        carry.
    known : sequence of path or DataArray
        Maps that averages are compared with; centred, and brought to the boxes' voxel size and
        edge (`tomodask.classification.clusters.known.known_maps`).
    invert : bool
        Take their negative: density bright, boxes dark.
    mirrored : bool
        Compare with their mirror images, too, and tell of the likelier: where the sense of the tilt
        axis is not sure, neither is the hand of the boxes.
    method : {"minibatch", "exact"}
        Of `KMeans`.
    precision, batch
        Of the network, as of `tomodask.project.embedding.save_embedding`.
    map_particles : int
        On the map of the features in the report, at most; 0 for no map.
    map_method : {"tsne", "umap"}
        How they are laid out; UMAP needs umap-learn.
    seed : int
    overwrite : bool
        Drop another subdivision in the folder.
    scheduler, workers, memory, config
        Where the work runs, see `connect`.
    command : str, optional
        What the report says was called.

    Returns
    -------
    Subdivision

    Raises
    ------
    InputError
        If an input is wrong, or the folder holds another job.  What is finished is kept.
    """
    if command is None:
        command = _command(locals())
    output = Path(output)
    job = checked_subdivision(
        subtomograms,
        output=output,
        model=model,
        features=features,
        precision=precision,
        batch=batch,
        clusters=clusters,
        method=method,
        least=least,
        most=most,
        diameter=diameter,
        classes=classes,
        iterations=iterations,
        start_resolution=start_resolution,
        resolution=resolution,
        angular_step=angular_step,
        tilt_range=tilt_range,
        voxel_size=voxel_size,
        labels=labels,
        known=known,
        invert=invert,
        mirrored=mirrored,
        map_particles=map_particles,
        map_method=map_method,
        seed=seed,
    )
    with RunFolder.opened(
        output,
        stages=job.stages,
        parameters=job.parameters,
        command=command,
        overwrite=overwrite,
        keep={"features": (), "clusters": ("aside", "kinds"), "map": ("mapped",)},
        later=LATER,
    ) as folder:
        folder.document["figures"] |= job.figures()
        subdividing = Subdividing(folder, job)
        if not subdividing.finished():
            with connect(scheduler, workers=workers, memory=memory, config=config):
                subdividing.do_all()
        folder.save()
        return _result(folder)


def open_subdivision(output: str | os.PathLike[str]) -> Subdivision:
    """What a subdivision has made so far: one that is done, was stopped, or is still at work.

    Raises
    ------
    InputError
        If the folder is none of a subdivision, or nothing of it is there to see.
    """
    folder = RunFolder.read(Path(output))
    if not (folder.path / "clusters.csv").exists():
        raise InputError(
            f"{output}: no subdivision has averages there; wait for the first, or begin one with "
            "tomodask subdivide"
        )
    return _result(folder)


def _result(folder: RunFolder) -> Subdivision:
    at = folder.path
    return Subdivision(
        output=at,
        features=Path(folder.document["figures"].get("features") or at / "features.zarr"),
        particles=at / "particles.star",
        report=at / "report.html",
        centred=at / CENTRED if folder.finished("result") and (at / CENTRED).exists() else None,
        clusters=pd.read_csv(at / "clusters.csv"),
        classes=pd.read_csv(at / "classes.csv"),
    )


def _command(given: Mapping[str, Any]) -> str:
    return as_typed(
        "subdivide",
        subdivide,
        given,
        first=["model"],
        options={"map_particles": "--map"},
        repeated=["known"],
    )
