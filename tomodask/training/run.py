"""A training between two epochs, whatever is learned: how it goes on, and what it leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from tomodask.training.epoch import Epoch
from tomodask.training.keeping import Place, begun, digest_of_training, same_training, stopped_at
from tomodask.training.stopping import Stopping
from tomodask.training.view import TrainingView

__all__ = ["Run", "run_training"]

Report = TypeVar("Report", bound=Epoch)
Model = TypeVar("Model")


class Run(ABC, Generic[Report, Model]):
    """A training between two epochs.

    Each kind of training says what it does in an epoch, what model comes of it, and what it must
    know to go on.

    Parameters
    ----------
    settings : mapping
        As JSON knows them, with ``epochs``.  Those in `changeable` may be others where the training
        goes on.
    told, arrays : sequence
        What else must be the same: data and network, as JSON knows them and as arrays.
    write, read : callable
        Of the model file.

    Attributes
    ----------
    epochs : int
        All.
    identity : str
        Changes with any of what must be the same.
    history : list of dict
        A row an epoch that is done.
    stopping : Stopping
        Whether Ctrl-C was pressed.
    """

    #: Settings that may be others where it goes on: with less of them where the loss was no number.
    changeable: ClassVar[tuple[str, ...]] = ("learning_rate", "precision")
    #: What must be the same beside the settings, for messages.
    data_named: ClassVar[str]
    #: A setting that is a mapping itself, and is told by its parts.
    parts_named: ClassVar[str] = ""

    def __init__(
        self,
        settings: Mapping[str, Any],
        told: Sequence[Any],
        arrays: Sequence[np.ndarray],
        *,
        write: Callable[[Model, Path], None],
        read: Callable[[Path], Model],
    ) -> None:
        kept = {name: value for name, value in settings.items() if name not in self.changeable}
        self.identity = digest_of_training([kept, *told], arrays)
        self.epochs = int(settings["epochs"])
        self.history: list[dict[str, Any]] = []
        self.stopping = Stopping()
        self.write, self.read = write, read

    @abstractmethod
    def settings_told(self) -> dict[str, Any]:
        """All settings, as model file and state tell them."""

    def epochs_left(self) -> Iterable[int]:
        """Numbers of those to come, from 0; asked for the next one when the last is done."""
        return range(len(self.history), self.epochs)

    @abstractmethod
    def epoch(self, number: int) -> tuple[Report, bool]:
        """Do one; gives its report, and whether the model is now another one."""

    @abstractmethod
    def model(self) -> Model:
        """The one so far that is kept."""

    def last_model(self) -> Model:
        """The one at the end of all epochs."""
        return self.model()

    @abstractmethod
    def model_named(self, epochs: int) -> str:
        """What the model file holds after so many epochs, in words; empty: there is none."""

    @abstractmethod
    def save(self, path: Path, told: dict[str, Any]) -> None:
        """Write `told` and what the kind must know to go on."""

    @abstractmethod
    def load(self, path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Take up what `save` wrote, once `check` let it pass; gives `told`."""

    def take_up(self, place: Place) -> None:
        """Go on from a state that `put_down` left.

        Raises
        ------
        InputError
            If it is of another training, or damaged.
        """

        def same(told: dict[str, Any]) -> None:
            same_training(
                place,
                told,
                self.identity,
                self.settings_told(),
                data=self.data_named,
                parts=self.parts_named,
            )

        self.history = self.load(place.state, same)["history"]

    def put_down(self, place: Place) -> None:
        """Keep all that going on needs."""
        told = {
            "identity": self.identity,
            "settings": self.settings_told(),
            "history": self.history,
        }
        self.save(place.state, told)

    def to_the_end(self, place: Place | None, on_epoch: Callable[[Report], None]) -> Model:
        """All epochs that are left, and the model.

        Ctrl-C is heeded between two batches, a second one at once.

        Raises
        ------
        TrainingDivergedError
            If the loss is no number any more, with what was done and what is kept.
        """
        from tomodask.nets.training_step import TrainingDivergedError

        with self.stopping.heard():
            for number in self.epochs_left():
                try:
                    report, changed = self.epoch(number)
                except TrainingDivergedError as error:
                    kept = self.model_named(number)
                    raise TrainingDivergedError(
                        stopped_at(error, place, epoch=number, epochs=self.epochs, model=kept)
                    ) from error
                if place is not None:
                    self.put_down(place)
                    if changed:
                        self.write(self.model(), place.target)
                on_epoch(report)
            model = self.last_model()
            if place is None:
                return model
            self.write(model, place.target)
            return self.read(place.target)


def run_training(
    run: Run[Report, Model],
    place: Place | None,
    *,
    resume: bool,
    on_epoch: Callable[[Report], None] | None,
    watch: Callable[[Path | None], TrainingView],
) -> Model:
    """Train from the start, or from where a former training stopped, to the end.

    Parameters
    ----------
    run : Run
    place : Place, optional
        Where it is kept.  What lies there and may be dropped is dropped only now, when nothing
        speaks against the training any more.
    resume : bool
    on_epoch : callable, optional
        Gets the report of each epoch; by default what `watch` gives for the training's folder.
    watch : callable
    """
    with begun(place) as there:
        if place is not None and there and resume:
            run.take_up(place)
        if on_epoch is None:
            view = watch(None if place is None else place.folder)
            view.take_up(run.history)
            on_epoch = view
        return run.to_the_end(place, on_epoch)
