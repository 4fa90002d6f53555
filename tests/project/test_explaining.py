"""Explanations: evidence is that of the network, whatever the blocks; files lie where boxes do."""

import dask
import dask.array as da
import mrcfile
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

from tomodask.classification.learning.explaining import explain_subtomograms
from tomodask.cli import main
from tomodask.data.subtomograms import save_subtomograms
from tomodask.errors import InputError
from tomodask.project.explaining import evidence_picture, explain

torch = pytest.importorskip("torch")

from tomodask.nets.boxes.encoder import Encoder  # noqa: E402
from tomodask.nets.boxes.gradcam import grad_cam  # noqa: E402
from tomodask.nets.boxes.inference import open_predictor  # noqa: E402
from tomodask.nets.boxes.model_file import BoxModel, write_box_model  # noqa: E402
from tomodask.nets.boxes.networks import build_encoder  # noqa: E402
from tomodask.nets.boxes.normalisation import normalised  # noqa: E402

CLASSES = ("ring", "rod", "none")


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def model():
    encoder = Encoder("rb3d", 24, 3)
    network = build_encoder(encoder, seed=1)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return BoxModel(encoder, weights, voxel_size=10.0, classes=CLASSES, invert=True)


def boxes(count=5, chunks=2):
    values = np.random.default_rng(0).normal(size=(count, 24, 24, 24)).astype(np.float32)
    values[1, 2, 3, 4] = np.nan
    return xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), da.from_array(values, (chunks, -1, 9, -1)))},
        coords={
            "particle": np.arange(10, 10 + count),
            "image": ("particle", [f"{i}@boxes.zarr" for i in range(count)]),
            "class": ("particle", np.ones(count, int)),
            "position_z": ("particle", np.full(count, 400.0)),
            "position_y": ("particle", np.full(count, 300.0)),
            "position_x": ("particle", 200.0 + np.arange(count)),
        },
        attrs={"voxel_size": 10.0},
    )


def test_evidence_is_the_networks_whatever_the_blocks(model):
    made = boxes()
    found = explain_subtomograms(made, model=model).compute()
    assert found["explained"].to_numpy()[1] == -1
    assert np.isnan(found["evidence"].to_numpy()[1]).all()
    sound = [0, 2, 3, 4]
    values = made["subtomogram"].to_numpy()[sound]
    chances = open_predictor(model).predict_probabilities(values)
    np.testing.assert_array_equal(found["probability"].to_numpy()[sound], chances.astype("f4"))
    network = build_encoder(model.encoder, seed=1)
    wanted = grad_cam(network, normalised(values, invert=True), chances.argmax(1))
    np.testing.assert_array_equal(found["evidence"].to_numpy()[sound], wanted)
    assert found["evidence"].attrs == {}
    assert found.attrs["voxel_size"] == 10.0
    for other in (boxes(chunks=1), boxes(chunks=5)):
        xr.testing.assert_equal(explain_subtomograms(other, model=model).compute(), found)
    asked = explain_subtomograms(made, model=model, target="rod").compute()
    assert asked["explained"].to_numpy().tolist() == [1, -1, 1, 1, 1]
    np.testing.assert_array_equal(
        asked["evidence"].to_numpy()[0], grad_cam(network, normalised(values[:1], invert=True),
                                              np.array([1]))[0]
    )  # fmt: skip


def test_files_lie_where_the_boxes_do(model, tmp_path):
    store, file = tmp_path / "boxes.zarr", tmp_path / "model.safetensors"
    save_subtomograms(boxes().drop_vars(["image", "class"]), store)
    write_box_model(model, file)
    command = ["explain", str(store), "--model", str(file), "-o", str(tmp_path / "out")]
    ended = CliRunner().invoke(main, [*command, "--particles", "13", "--least-sure", "2"])
    assert ended.exit_code == 0, ended.output
    table = pd.read_csv(tmp_path / "out" / "explained.csv", index_col="particle")
    assert table.index[0] == 13
    assert len(table) in (2, 3)
    assert 11 not in table.index  # it holds NaN
    assert np.allclose(table[[f"probability_{name}" for name in CLASSES]].sum(axis=1), 1)
    for name in ("particle_13.mrc", "particle_13_box.mrc"):
        with mrcfile.open(tmp_path / "out" / name) as written:
            assert written.data.shape == (24, 24, 24)
            assert float(written.voxel_size.x) == pytest.approx(10.0)
            corner = [float(written.header.origin[axis]) for axis in "zyx"]
            assert corner == [400.0 - 120, 300.0 - 120, 203.0 - 120]
    with mrcfile.open(tmp_path / "out" / "particle_13_box.mrc") as written:
        np.testing.assert_array_equal(written.data, boxes()["subtomogram"][3])
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg") == len(table)
    again = CliRunner().invoke(main, [*command, "--particles", "13"])
    assert again.exit_code == 2
    assert "exists already" in again.output + str(getattr(again, "stderr", ""))
    one = explain(store, output=tmp_path / "out", model=model, particles=[13], target="rod",
                  overwrite=True)  # fmt: skip
    assert one["explained"].tolist() == ["rod"]
    left = sorted(path.name for path in (tmp_path / "out").glob("*.mrc"))
    assert left == ["particle_13.mrc", "particle_13_box.mrc"]  # none of the former call's


def test_the_picture_shows_where_the_evidence_is():
    box, evidence = np.zeros((20, 20, 20), "f4"), np.zeros((20, 20, 20), "f4")
    box[10] = np.random.default_rng(0).normal(size=(20, 20))
    evidence[10, 16, 3] = 1.0
    picture = evidence_picture(box, evidence)
    assert picture.shape == (458, 458, 3)
    colour = np.ptp(picture.astype(int), axis=2)
    assert colour[:304].max() == 0  # the box alone is grey
    rows, columns = np.nonzero(colour[308:, :150] > 60)
    assert 15 < rows.mean() < 45  # y 16 of 20, the first row uppermost
    assert 10 < columns.mean() < 40


def test_bad_input_is_refused(model, tmp_path):
    with pytest.raises(InputError, match=r"class 'sphere' .* it knows ring, rod, none"):
        explain_subtomograms(boxes(), model=model, target="sphere")
    with pytest.raises(InputError, match="voxels of 12 Å"):
        explain_subtomograms(boxes().assign_attrs(voxel_size=12.0), model=model)
    with pytest.raises(InputError, match="24×24×20"):
        explain_subtomograms(boxes().isel(x=slice(0, 20)), model=model)
    encoder = BoxModel(model.encoder, model.weights, voxel_size=10.0)
    with pytest.raises(InputError, match="knows no classes: there is nothing to explain"):
        explain_subtomograms(boxes(), model=encoder)
    with pytest.raises(InputError, match="hold NaN or one value"):
        explain(boxes(), output=tmp_path / "out", model=model, particles=[11])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="there is no particle '7'; give a particle's number"):
        explain(boxes(), output=tmp_path / "out", model=model, particles=[7])
    with pytest.raises(InputError, match="most_sure must be"):
        explain(boxes(), output=tmp_path / "out", model=model, most_sure=-1)
