"""Training from marked particles: resumable to the bit, and what is refused with which words."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from picking.balls import SIZE
from picking.balls import marked_balls as tomogram

from tomodask.data.particles import write_particles
from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.model_file import read_model
from tomodask.picking.learning.data import read_marked
from tomodask.picking.learning.training import TrainingSettings, train_picker

NET = Architecture(channels=(4, 6), coordinates="border", border=4)
QUICK = {
    "architecture": NET,
    "crop": 24,
    "jitter": 4,
    "epochs": 3,
    "examples": 16,
    "batch": 4,
    "learning_rate": 1e-2,
    "seed": 5,
}


def quick(**changes):
    return TrainingSettings(**{**QUICK, **changes})


def silent(report):
    pass


def train(volume, table, **options):
    return train_picker(
        volume, table, **{"diameter": 80.0, "settings": quick(), "on_epoch": silent, **options}
    )


def same(one, other):
    return one.digest == other.digest and [r["loss"] for r in one.history] == [
        r["loss"] for r in other.history
    ]


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    volume, table = tomogram()
    seen = []
    whole = train(volume, table, on_epoch=seen.append)
    assert [report.epoch for report in seen] == [1, 2, 3]
    assert seen[0].image.shape == seen[0].label.shape == (24, 24)
    assert seen[0].prediction.shape == (2, 24, 24)

    def stop(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    path = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(volume, table, output=path, on_epoch=stop)
    assert read_model(path).history[-1]["epoch"] <= 2  # the best one so far
    rest = []
    model = train(volume, table, output=path, resume=True, on_epoch=rest.append)
    assert [report.epoch for report in rest] == [3]
    assert same(model, whole)
    assert same(read_model(path), whole)
    again = train(volume, table, output=path, resume=True)  # nothing is left to do
    assert same(again, whole)


def test_chunks_change_nothing():
    one = train(*tomogram(chunks=(32, 64, 64)), settings=quick(epochs=1))
    other = train(*tomogram(chunks=((5, 27), (40, 24), (1, 63))), settings=quick(epochs=1))
    assert one.digest == other.digest


def test_it_learns():
    """Balls this dark are found by a network of 2,000 weights after a hundred steps."""
    volume, table = tomogram(shape=(40, 80, 80), count=24, seed=2)
    model = train(
        volume,
        table.drop(columns="kind"),
        settings=quick(epochs=8, examples=32, validation=0.25),
    )
    assert model.classes == ("particle",)
    assert max(row["f1"] for row in model.history) > 0.7
    assert model.halo in dict(model.reach)


def test_a_model_says_what_it_was_trained_on(tmp_path):
    volume, table = tomogram()
    path = tmp_path / "model.safetensors"
    train(volume, table, output=path, diameter={"small": 70.0, "large": 100.0})
    model = read_model(path)
    assert model.classes == ("large", "small")
    assert model.diameters == (100.0, 70.0)
    assert model.voxel_size == SIZE
    assert model.training["data"][0]["particles"] == {"large": 7, "small": 7}
    assert model.training["settings"]["crop"] == 24
    assert {"tomodask", "torch", "python"} <= set(model.training["versions"])
    assert (tmp_path / "model.training" / "state.safetensors").exists()


def test_another_training_is_not_gone_on_with(tmp_path):
    volume, table = tomogram()
    path = tmp_path / "model.safetensors"
    train(volume, table, output=path, settings=quick(epochs=1))
    with pytest.raises(InputError, match=r"exists already.*resume.*overwrite"):
        train(volume, table, output=path)
    with pytest.raises(InputError, match=r"another training .epochs was 1, is 2"):
        train(volume, table, output=path, settings=quick(epochs=2), resume=True)
    moved = table.assign(x=table["x"] + 1.0)
    with pytest.raises(InputError, match=r"another training .other tomograms"):
        train(volume, moved, output=path, settings=quick(epochs=1), resume=True)
    assert train(volume, table, output=path, overwrite=True).history[-1]["epoch"] == 3


@pytest.mark.parametrize("channels", [(4, 7), (4,)])
def test_the_state_of_another_network_is_told(tmp_path, channels):
    volume, table = tomogram()
    path = tmp_path / "model.safetensors"
    train(volume, table, output=path, settings=quick(epochs=1))
    other = quick(epochs=1, architecture=Architecture(channels=channels, border=4))
    with pytest.raises(InputError, match=r"another training .channels was"):
        train(volume, table, output=path, settings=other, resume=True)


def test_what_is_there_is_dropped_only_for_a_training_that_can_begin(tmp_path):
    volume, table = tomogram()
    path = tmp_path / "model.safetensors"
    train(volume, table, output=path, settings=quick(epochs=1))
    before = path.read_bytes()
    with pytest.raises(InputError, match="room in a crop"):
        train(volume, table, output=path, settings=quick(label_diameter=23), overwrite=True)
    assert path.read_bytes() == before
    assert (tmp_path / "model.training" / "state.safetensors").exists()


def test_a_deep_network_of_a_thin_tomogram_gets_its_reach():
    volume, table = tomogram()
    deep = quick(
        architecture=Architecture(channels=(2,) * 6), crop=64, epochs=1, examples=2, batch=1
    )
    assert train(volume, table, settings=deep).reach


def test_a_loss_that_is_no_number_keeps_the_last_state(tmp_path, monkeypatch):
    import tomodask.nets.segmentation.trainer as module

    volume, table = tomogram()
    path = tmp_path / "model.safetensors"
    right, calls = module.dice_loss, []

    def breaks(*arguments, **options):
        calls.append(1)
        loss = right(*arguments, **options)
        return loss * float("nan") if len(calls) == 6 else loss

    with monkeypatch.context() as patch:
        patch.setattr(module, "dice_loss", breaks)
        with pytest.raises(
            InputError, match=r"epoch 2 of 3: the loss became nan in step 2.*lower learning_rate"
        ) as told:
            train(volume, table, output=path)
    assert "keeps the state after epoch 1" in str(told.value)
    assert len(read_model(path).history) == 1
    whole = train(volume, table)
    assert same(train(volume, table, output=path, resume=True), whole)


def test_unsigned_voxels_are_inverted_too():
    volume, table = tomogram()
    steps = (20 * (volume + 9)).clip(0, 255).astype(np.uint8)
    settings = quick(epochs=1, invert=True)
    one = train(steps, table, settings=settings)
    assert one.digest == train(steps.astype(np.float32), table, settings=settings).digest


def test_inverted_tomograms_give_the_same_network():
    volume, table = tomogram()
    one = train(volume, table, settings=quick(epochs=1))
    other = train(volume.copy(data=-volume.data), table, settings=quick(epochs=1, invert=True))
    assert other.invert
    assert all(np.array_equal(one.weights[k], other.weights[k]) for k in one.weights)


@pytest.mark.parametrize(
    ("diameter", "told"),
    [
        (500.0, r"50\.0 voxels.*made for 7 to 25.*bin the tomograms by 3, to 30 Å \(.*to 30"),
        (40.0, r"4\.0 voxels.*made for 7 to 25.*4\.0 times as small, 2\.5 Å"),
        ({"large": 100.0}, "none given for 'small'"),
        (
            {"large": 100.0, "small": 80.0, "smal": 80.0},
            "no particle in picks is of 'smal'; it has 'large', 'small'",
        ),
        (-1.0, "above 0 Å"),
        (float("nan"), "above 0 Å"),
    ],
)
def test_diameters_that_do_not_fit(diameter, told):
    volume, table = tomogram()
    with pytest.raises(InputError, match=told):
        read_marked(volume, table, diameter=diameter)


def test_voxels_taken_for_angstrom_are_told(caplog):
    volume, table = tomogram()
    read_marked(volume, table, diameter=100.0)
    assert not caplog.text
    voxels = table.assign(**{axis: table[axis] / 10 for axis in "zyx"})
    read_marked(volume, voxels, diameter=100.0)
    assert "positions are in Å: if these are voxels, multiply them by 10" in caplog.text


def test_a_table_of_another_tomogram_is_told(caplog):
    volume, table = tomogram()
    read_marked(volume, table.assign(tomogram="other"), diameter=100.0)
    assert f"tomogram other is taken for {volume.name}" in caplog.text


def test_any_size_may_be_asked_for():
    volume, table = tomogram()
    assert read_marked(volume, table, diameter=40.0, any_size=True).diameters == (40.0, 40.0)


def test_classes_are_those_of_the_table():
    volume, table = tomogram()
    marked = read_marked(volume, table, diameter=80.0, classes=["small"])
    assert marked.classes == ("small",)
    assert marked.count == 7
    with pytest.raises(InputError, match="'ribosome'; it has 'large', 'small'"):
        read_marked(volume, table, diameter=80.0, classes=["ribosome"])


def test_tables_that_do_not_fit():
    volume, table = tomogram()
    with pytest.raises(InputError, match="holds no particle"):
        read_marked(volume, table.iloc[:0], diameter=80.0)
    with pytest.raises(InputError, match=r"2 particles in tomo; training needs 4"):
        read_marked(volume, table.iloc[:2], diameter=80.0)
    with pytest.raises(InputError, match=r"lie outside.*another voxel size"):
        read_marked(volume, table.assign(x=table["x"] * 10), diameter=80.0)
    other, more = tomogram("second", seed=1)
    both = pd.concat([table, more])
    assert read_marked([volume, other], both, diameter=80.0).count == 28
    with pytest.raises(InputError, match="no column tomogram"):
        read_marked([volume, other], both.drop(columns="tomogram"), diameter=80.0)
    with pytest.raises(InputError, match="no particle is of tomogram 'second'"):
        read_marked([volume, other], table, diameter=80.0)
    with pytest.raises(InputError, match="different names"):
        read_marked([volume, volume], table, diameter=80.0)
    with pytest.raises(InputError, match="voxel sizes from 10 to 20"):
        read_marked([volume, other.assign_attrs(voxel_size=20.0)], both, diameter=80.0)


def test_positions_are_counted_in_the_tomograms_own_voxels():
    volume, table = tomogram()
    other, more = tomogram("second", seed=1)
    size = 1.009 * SIZE
    more[["z", "y", "x"]] *= size / SIZE
    other = other.assign_attrs(voxel_size=size)
    want = read_marked([volume, tomogram("second", seed=1)[0]], pd.concat([table, tomogram(
        "second", seed=1)[1]]), diameter=80.0).centers  # fmt: skip
    got = read_marked([volume, other], pd.concat([table, more]), diameter=80.0).centers
    for a, b in zip(got, want, strict=True):
        assert np.allclose(a, b, atol=1e-9)


def test_shifts_are_part_of_the_place():
    volume, table = tomogram()
    moved = table.assign(z=table["z"] - 7.0, shift_z=7.0, shift_y=0.0, shift_x=0.0)
    want, got = (read_marked(volume, one, diameter=80.0).centers[0] for one in (table, moved))
    assert np.allclose(got, want)


@pytest.mark.parametrize("style", ["relion3.1", "relion4", "relion5"])
def test_star_files_of_any_style(tmp_path, style):
    volume, table = tomogram()
    path = tmp_path / "picks.star"
    write_particles(table, path, voxel_size=SIZE, tomogram_shape=volume.shape, style=style)
    marked = read_marked(volume, path, diameter=80.0)
    assert np.allclose(marked.centers[0], table[["z", "y", "x"]] / SIZE, atol=1e-6)


def test_a_class_named_twice_is_one():
    volume, table = tomogram()
    assert read_marked(volume, table, diameter=80.0, classes=["small"] * 2).classes == ("small",)


def test_a_table_without_positions():
    volume, table = tomogram()
    with pytest.raises(InputError, match="position needs the column z"):
        read_marked(volume, table.drop(columns="z"), diameter=80.0)


def test_tomograms_that_do_not_fit():
    volume, table = tomogram()
    holes = volume.copy(data=da.where(volume.data > 3.5, np.nan, volume.data))
    with pytest.raises(InputError, match="NaN or infinite"):
        train(holes, table)
    with pytest.raises(InputError, match="nothing to learn"):
        train(volume.copy(data=da.ones_like(volume.data)), table)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"crop": 25}, "crop must be 16 to 512 voxels, a multiple of 2, got 25"),
        ({"crop": 32, "architecture": Architecture(channels=(2,) * 6)}, "crop must be 64 to 512"),
        ({"label_diameter": 2}, "label_diameter must be 3"),
        ({"batch": 0}, "batch"),
        ({"background": 1.0}, "background"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"precision": "float16"}, "precision"),
        ({"jitter": -1}, "jitter"),
    ],
)
def test_settings_that_do_not_fit(changes, told):
    with pytest.raises(InputError, match=told):
        quick(**changes)


def test_output_must_be_a_model_file(tmp_path):
    volume, table = tomogram()
    with pytest.raises(InputError, match=r"must end with \.safetensors"):
        train(volume, table, output=tmp_path / "model.pt")
    with pytest.raises(InputError, match="does not exist; make it first"):
        train(volume, table, output=tmp_path / "nowhere" / "model.safetensors")


def test_going_on_with_a_lower_learning_rate(tmp_path):
    """What the error about a loss that is no number advises."""
    volume, table = tomogram()
    path = tmp_path / "model.safetensors"

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(volume, table, output=path, on_epoch=stop)
    model = train(volume, table, output=path, resume=True, settings=quick(learning_rate=1e-3))
    whole = train(volume, table)
    rates = [[row["learning_rate"] for row in one.history] for one in (whole, model)]
    assert rates[1][0] == rates[0][0]
    assert rates[1][1:] == pytest.approx([rate / 10 for rate in rates[0][1:]])


def test_a_label_for_each_class():
    volume, table = tomogram()
    model = train(volume, table, settings=quick(epochs=1, label_diameter=(9, 5)))
    assert model.label_diameter == (9, 5)
    with pytest.raises(InputError, match=r"one for each of the 2 classes .large, small., got"):
        train(volume, table, settings=quick(label_diameter=(9, 5, 3)))


def test_the_threshold_is_the_best_on_held_out_particles():
    volume, table = tomogram(shape=(40, 80, 80), count=24, seed=2)
    seen = []
    model = train(volume, table, on_epoch=seen.append, settings=quick(epochs=2, entropy=4.0))
    kept = next(r for r in seen if r.epoch == model.training["kept_epoch"])
    assert model.threshold == kept.threshold
    assert model.history[-1]["threshold"] in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
