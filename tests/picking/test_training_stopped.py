"""A training that is stopped or fails leaves nothing that goes on."""

import time

import pytest
from helpers import ctrl_c_where_it_is_lost
from picking.balls import marked_balls as tomogram
from picking.test_training import quick, train

from tomodask.nets.trainer import Trainer
from tomodask.picking.training_run import TrainingRun


def test_an_error_does_not_wait_for_what_was_to_be_made_ahead(monkeypatch):
    made = []

    def example(self, number):
        made.append(number)
        time.sleep(0.02)
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
