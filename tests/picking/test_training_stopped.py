"""A training that is stopped or fails leaves nothing that goes on."""

import time

import pytest
from helpers import ctrl_c_where_it_is_lost
from picking.balls import marked_balls as tomogram
from picking.test_training import quick, train

from tomodask.errors import InputError
from tomodask.nets.segmentation.trainer import Trainer
from tomodask.picking.learning.run import TrainingRun


def test_an_error_does_not_wait_for_what_was_to_be_made_ahead(monkeypatch):
    made = []

    def example(self, number):
        made.append(number)
        time.sleep(0.2)
        return self.training.example(*divmod(number, len(self.training)))

    def breaks(self, *batch):
        made.append("error")
        raise RuntimeError("out of order")

    monkeypatch.setattr(TrainingRun, "_example", example)
    monkeypatch.setattr(Trainer, "_step", breaks)
    volume, table = tomogram()
    with pytest.raises(RuntimeError, match="out of order") as kept:
        train(volume, table, settings=quick(examples=64, batch=8))
    assert len(made) - made.index("error") - 1 <= 4  # of sixteen that wait, those that were begun
    assert kept.value.__traceback__ is not None


def test_ctrl_c_is_not_lost_where_python_drops_it(monkeypatch):
    step, steps = Trainer._step, []

    def presses(self, *batch):
        steps.append(batch)
        ctrl_c_where_it_is_lost()
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "_step", presses)
    with pytest.raises(KeyboardInterrupt):
        train(*tomogram())
    assert len(steps) == 1


def test_what_the_folder_lacks_of_the_history_is_written_where_it_goes_on(tmp_path):
    """Stopped, or killed, between the state of an epoch and its pictures."""

    def stop(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    path, folder = tmp_path / "model.safetensors", tmp_path / "model.training"
    volume, table = tomogram()
    with pytest.raises(KeyboardInterrupt):
        train(volume, table, output=path, on_epoch=stop)
    assert not (folder / "history.csv").exists()
    train(volume, table, output=path, resume=True, on_epoch=None)
    told = (folder / "history.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in told] == ["epoch", "1", "2", "3"]
    (folder / "history.csv").unlink()
    (folder / "progress.png").unlink()
    train(volume, table, output=path, resume=True, on_epoch=None)  # no epoch is left to be shown
    assert (folder / "history.csv").read_text().splitlines() == told
    assert (folder / "progress.png").exists()


def test_a_model_without_its_state_is_not_trained_over(tmp_path, caplog):
    path = tmp_path / "model.safetensors"
    volume, table = tomogram()
    with caplog.at_level("INFO", logger="tomodask"):
        train(volume, table, output=path, settings=quick(epochs=1), resume=True)
    assert "no epoch is there to go on from; training begins" in caplog.text
    before = path.read_bytes()
    (tmp_path / "model.training" / "state.safetensors").unlink()
    with pytest.raises(InputError, match=r"not the state of its training .* --overwrite"):
        train(volume, table, output=path, settings=quick(epochs=1), resume=True)
    assert path.read_bytes() == before
