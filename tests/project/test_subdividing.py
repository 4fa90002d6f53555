"""Subdivision as a job: a mixture comes back, and killed at any moment it ends with the same."""

import re
from types import SimpleNamespace

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import killed_at
from rounds.mixtures import VOXEL, mixture
from scipy.spatial.transform import Rotation

from tomodask.classification.clusters.tables import members
from tomodask.data.particles import read_particles
from tomodask.data.run_folder import RunFolder
from tomodask.data.subtomograms import open_subtomograms, save_subtomograms
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.project.embedding import save_embedding
from tomodask.project.subdivision import report as subdivision_report
from tomodask.project.subdivision import steps as subdivision_steps
from tomodask.project.subdivision.files import read_clusters
from tomodask.project.subdivision.subdividing import open_subdivision, subdivide
from tomodask.simulation.phantom import phantom_particle

SETTINGS = {
    "model": "rotation-invariant", "clusters": 3, "least": 8, "most": 10, "classes": 1,
    "iterations": 1, "diameter": 280.0, "angular_step": 40.0, "map_particles": 24,
}  # fmt: skip


def known_map(kind, path):
    """A structure in other voxels and another box than the particles."""
    still = {"rotation": Rotation.identity(), "shift_zyx": np.zeros(3)}
    values = phantom_particle(kind).density(box=40, voxel_size=8.0, **still)
    volume = xr.DataArray(values.astype("f4"), dims=("z", "y", "x"), attrs={"voxel_size": 8.0})
    save_tomogram(volume, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Boxes of two kinds, one of them with a hole; their labels; the structures."""
    folder = tmp_path_factory.mktemp("input")
    boxes, kinds, _ = mixture(13, snr=2.0, shift_range=0.0)
    values = boxes["subtomogram"].to_numpy().copy()
    values[5, 3, 3, 3] = np.nan
    boxes = boxes.assign(subtomogram=(boxes["subtomogram"].dims, values)).drop_vars("image")
    boxes = boxes.assign_coords({f"position_{a}": ("particle", np.full(26, 500.0)) for a in "zyx"})
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes, folder / "boxes.zarr")
    labels = pd.DataFrame({"particle": np.arange(26), "kind": kinds}).drop(index=[0])
    labels.to_csv(folder / "labels.csv", index=False)
    for kind in ("particle", "decoy"):
        known_map(kind, folder / f"{kind}.mrc")
    return folder, kinds


def divided(files, output, **changes):
    folder, _ = files
    given = {
        **SETTINGS,
        "labels": folder / "labels.csv",
        "known": [folder / "particle.mrc", folder / "decoy.mrc"],
        "scheduler": "synchronous",
    }
    return subdivide(folder / "boxes.zarr", output=output, **(given | changes))


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    return divided(files, tmp_path_factory.mktemp("run") / "out")


def content(path):
    """Of a file; the first line of a STAR tells the time."""
    found = path.read_bytes()
    return found.partition(b"\n")[2] if path.suffix == ".star" else found


def results(output):
    """All that must not depend on how the work went; the report and run.json tell of times."""
    return {
        path.relative_to(output).as_posix(): content(path)
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "report.html", ".lock")
    }


def test_each_kind_comes_back(files, finished):
    folder, kinds = files
    table = finished.clusters
    assert table["particles"].sum() == 25
    assert (table["particles"].diff().dropna() <= 0).all()
    made = table[table["classes"] > 0]
    assert set(made["kind"]) == {"particle", "decoy"}
    assert (made["nearest"] == made["kind"]).all()
    assert (made["discrepancy"] < 70).all()
    assert (made["averaged"] <= 10).all()
    particles = read_particles(finished.particles)
    assert particles["cluster"].iloc[5] == -1  # the hole
    assert np.isnan(particles["distance"].iloc[5])
    assert particles["kind"].iloc[0] == "no label"
    assert particles["kind"].iloc[1:].tolist() == kinds[1:].tolist()
    for row in made.to_dict("records"):
        average = open_tomogram(finished.output / row["average"])
        assert average.shape == (32, 32, 32)
        assert average.attrs["voxel_size"] == VOXEL
        at = finished.output / f"cluster_{row['cluster']:03d}"
        poses = read_particles(at / "poses.star", need=("orientation",))
        assert len(poses) == row["averaged"]
        assert set(poses["cluster"]) == {row["cluster"]}
        mine = open_subtomograms(at / "particles.star")  # what refine takes
        assert mine.sizes["particle"] == row["particles"]
        rows = np.flatnonzero(particles["cluster"] == row["cluster"])
        first = open_subtomograms(folder / "boxes.zarr")["subtomogram"][rows[0]]
        np.testing.assert_array_equal(mine["subtomogram"][0], first)


def test_members_are_those_nearest_to_the_centre(files, finished):
    clusters, distances = read_clusters(finished.output / "clusters.npz")
    rows = members(None, clusters, 0, most=10, distances=distances)
    poses = read_particles(finished.output / "cluster_000" / "poses.star")
    names = [int(image.partition("@")[0]) for image in poses["image"]]
    assert sorted(names) == rows.tolist()


DIVIDES = """
    from pathlib import Path
    import sys
    from tomodask.project.subdivision.subdividing import subdivide
    folder, output = map(Path, sys.argv[1:])
    subdivide(folder / "boxes.zarr", output=output, labels=folder / "labels.csv",
              known=[folder / "particle.mrc", folder / "decoy.mrc"], scheduler="synchronous",
              **SETTINGS)
"""


def test_killed_again_and_again_it_ends_with_the_same_bytes(files, finished, tmp_path):
    folder, _ = files
    moments = (
        ("features.zarr", "before"),
        ("cluster_001/poses.star", "after"),
        ("out/classes.csv", "after"),
    )
    script = DIVIDES.replace("SETTINGS", repr(SETTINGS))
    killed_at(script, [folder, tmp_path / "out"], moments)
    result = divided(files, tmp_path / "out")
    assert results(result.output) == results(finished.output)
    assert not [p for p in result.output.rglob(".*") if p.name != ".lock"]


def test_what_is_there_is_not_made_again(files, finished, tmp_path, monkeypatch, caplog):
    import shutil

    out = shutil.copytree(finished.output, tmp_path / "out")
    before = results(out)

    def never(*_, **__):
        raise AssertionError("made again")

    for name in ("save_features", "subdivide_features", "average_members"):
        monkeypatch.setattr(subdivision_steps, name, never)
    divided(files, out)
    assert results(out) == before
    fewer = divided(files, out, known=[])  # known maps may be asked for at any time
    assert fewer.classes["nearest"].isna().all()
    with caplog.at_level("WARNING", logger="tomodask"):
        dark = divided(files, out, invert=True)
    assert "what averages show is bright, what known maps show is dark" in caplog.text
    assert (dark.classes["correlation"] < finished.classes["correlation"] - 0.2).all()
    caplog.clear()
    divided(files, out)
    assert not caplog.text
    assert results(out) == before
    with pytest.raises(InputError, match="least is 8 there and 9 here"):
        divided(files, out, least=9)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subdivision_steps, "average_members", stop)
    with pytest.raises(KeyboardInterrupt):  # features and clusters stay, averages are made anew
        divided(files, out, least=9, overwrite=True)
    assert not (out / "cluster_000" / "average.mrc").exists()
    assert (out / "clusters.npz").read_bytes() == before["clusters.npz"]


def test_known_maps_beside_the_middle_lose_nothing_and_hands_are_told(
    files, finished, tmp_path, caplog
):
    import shutil

    folder, _ = files
    out = shutil.copytree(finished.output, tmp_path / "out")
    straight = open_tomogram(folder / "particle.mrc").to_numpy()
    mirrored = np.roll(straight[::-1], 1, axis=0)
    # 40 voxels of 8 Å are as wide as the boxes: cut as it lies, it would lose half of itself.
    beside = np.pad(mirrored, ((0, 0), (0, 0), (0, 24)))
    volume = xr.DataArray(beside, dims=("z", "y", "x"), attrs={"voxel_size": 8.0})
    with caplog.at_level("INFO", logger="tomodask"):
        result = divided(
            files, out, known=[volume.rename("beside"), folder / "decoy.mrc"], mirrored=True
        )
    assert "known map beside: 40×40×64 voxels of 8 Å made 32³ of 10 Å" in caplog.text
    assert not finished.classes["mirrored"].any()
    for table, plain in (
        (result.classes, finished.classes),
        (result.clusters, finished.clusters),
    ):
        ours, theirs = (one[one["nearest"].notna()] for one in (table, plain))
        there = theirs["nearest"] == "particle"
        assert there.any()
        assert (ours["nearest"] == theirs["nearest"].replace("particle", "beside")).all()
        np.testing.assert_array_equal(ours["mirrored"][there].astype(bool), True)
        np.testing.assert_allclose(
            ours["correlation"][there], theirs["correlation"][there], atol=0.01
        )
    page = result.report.read_text()
    assert "beside, mirror image" in page
    assert f"of {len(result.classes)} classes are likelier a mirror image" in page


def test_after_overwriting_all_is_as_if_it_were_made_at_once(files, finished, tmp_path):
    """What small clusters of before hold, and what is told of kept stages, must not stay as it was.

    The folder of a cluster without an average was once taken for the new one's, and what had been
    set aside was forgotten with the other figures.
    """
    out = tmp_path / "out"
    few = {"classes": 1, "known": [], "map_particles": 0}
    divided(files, out, **few, clusters=6, least=10)
    again = divided(files, out, **few, clusters=5, least=10, overwrite=True)
    fresh = divided(files, tmp_path / "fresh", **few, clusters=5, least=10)
    assert results(out) == results(fresh.output)
    assert again.clusters["particles"].min() < 10  # else nothing is shown
    divided(files, out, **few, clusters=5, least=9, overwrite=True)
    assert "1 of 26 particles have no features" in (out / "report.html").read_text()


def test_other_kinds_reach_all_tables(files, finished, tmp_path):
    import shutil

    _, kinds = files
    out = shutil.copytree(finished.output, tmp_path / "out")
    others = pd.DataFrame({"particle": np.arange(26), "kind": np.char.upper(kinds.astype(str))})
    divided(files, out, labels=others)
    tables = "particles.star", "centred.star"
    for path in (*(out / name for name in tables), *out.glob("cluster_*/particles.star")):
        assert set(read_particles(path)["kind"]) <= {"PARTICLE", "DECOY"}
    divided(files, out, labels=None)
    for path in (*(out / name for name in tables), *out.glob("cluster_*/particles.star")):
        assert "kind" not in read_particles(path)


def test_features_may_be_given_and_workers_change_no_bit(files, finished, tmp_path):
    folder, _ = files
    with dask.config.set(scheduler="synchronous"):
        store = tmp_path / "features.zarr"
        save_embedding(folder / "boxes.zarr", store, model="rotation-invariant")
        there = save_embedding(folder / "boxes.zarr", store, model="rotation-invariant")
        assert there.sizes["particle"] == 26
    result = divided(files, tmp_path / "out", features=store, scheduler=None, workers=2)
    assert result.features == store
    wanted = {k: v for k, v in results(finished.output).items() if "features.zarr" not in k}
    assert results(result.output) == wanted


def test_a_subdivision_is_looked_at_while_it_works(files, tmp_path, monkeypatch):
    made = []

    def stop(told):
        made.append(told)
        if len(made) == 2:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(subdivision_steps, "line_of_cluster", stop)
    monkeypatch.setattr(subdivision_steps, "_PATIENCE", 0.0)
    with pytest.raises(KeyboardInterrupt):
        divided(files, tmp_path / "out", known=[])
    so_far = open_subdivision(tmp_path / "out")
    assert (so_far.clusters["classes"] > 0).sum() == 1
    page = so_far.report.read_text()
    assert "still at work" in page
    assert "http-equiv" in page
    with pytest.raises(InputError, match="no folder of a run"):
        open_subdivision(tmp_path)


def test_reports_take_a_tenth_of_the_time_at_most(monkeypatch):
    """Of thousands of clusters a page takes longer to write than the pause was between two."""
    now, written = [0.0], []

    def write(folder):
        written.append(now[0])
        now[0] += 30.0

    monkeypatch.setattr(subdivision_steps.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(subdivision_steps, "write_subdivision_report", write)
    monkeypatch.setattr(subdivision_steps.Subdividing, "_tables", lambda *_: None)
    work = subdivision_steps.Subdividing(SimpleNamespace(document={"figures": {}}), None)
    for _ in range(1000):
        now[0] += 1.0
        work._report_at_times(None, None)
    assert written == [21.0, 352.0, 683.0, 1014.0]


def test_the_page_holds_all_and_needs_no_network(finished):
    page = finished.report.read_text()
    assert "still at work" not in page
    assert page.count("data:image/jpeg") == len(finished.classes)
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert page.count('class="card"') == (finished.clusters["classes"] > 0).sum()
    assert "1 of 26 particles have no features" in page
    assert "Known structures" in page


def test_bad_input_is_refused_before_any_work(files, tmp_path):
    folder, _ = files
    out = tmp_path / "out"
    bad = (
        ({"clusters": 27}, "at most the number of particles, 26, got 27"),
        ({"diameter": 400.0}, "diameter must be"),
        ({"model": "rotation"}, "is no file"),
        ({"model": 3}, "must be a model file"),
        ({"known": [folder / "particle.mrc"] * 2}, "names of their own"),
        ({"features": folder / "boxes.zarr"}, "not a store of features"),
        ({"classes": 0}, "classes must be"),
        ({"most": 7}, "most must be"),
        ({"map_particles": -1}, "map_particles must be"),
        ({"map_method": "pca"}, "map_method must be one of tsne, umap, got 'pca'"),
    )
    for change, message in bad:
        with pytest.raises(InputError, match=message):
            divided(files, out, **change)
    assert not out.exists()
    with dask.config.set(scheduler="synchronous"):
        boxes = open_subtomograms(folder / "boxes.zarr")
        store = tmp_path / "features.zarr"
        some = boxes.isel(particle=slice(0, 20))
        save_embedding(some, store, model="rotation-invariant")
    with pytest.raises(InputError, match="features of other boxes"):
        divided(files, out, features=store)


def test_of_very_many_clusters_the_page_shows_the_largest(finished, tmp_path, monkeypatch):
    folder = RunFolder.read(finished.output)
    made = finished.clusters[finished.clusters["classes"] > 0]
    assert "more are in the" not in finished.report.read_text()
    assert len(made) == 2
    monkeypatch.setattr(subdivision_report, "_CARDS", 1)
    page = subdivision_report._page(folder)  # known structures are found in both
    assert page.count('class="card"') == 2
    folder.document["figures"]["known"] = []
    page = subdivision_report._page(folder)
    assert page.count('class="card"') == 1
    assert 'id="cluster-0"' in page
    assert "1 of 2 averaged clusters are shown here: the 1 largest. 1 more are in the" in page
    assert '<a href="#all">' in page
    assert page.count('<tr id="row-') == len(finished.clusters)
    first, other = made["cluster"]
    assert f'<a href="#cluster-{first}">' in page
    (link,) = re.findall(rf'<a href="(.*?)">{other}</a>', page)
    assert (finished.output / link).is_file()  # the picture that the page leaves out
