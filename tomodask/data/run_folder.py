"""The folder of a run: which job it is of, and which of its stages are finished.

``run.json`` says both.  It is written aside and renamed, so it is always whole; a stage is entered
there after its results bear their final names.  A stage that a kill cut off is simply not there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tomodask.data.writing import full_disk, no_space
from tomodask.errors import InputError

__all__ = ["RunFolder", "held"]

_log = logging.getLogger(__name__)
_FORMAT = "tomodask-run-1"
_MARK = "run.json"
_PACKAGES = (
    "tomodask",
    "numpy",
    "scipy",
    "numba",
    "dask",
    "distributed",
    "zarr",
    "xarray",
    "openvino",
)


class RunFolder:
    """A run's folder, locked against a second run while it is open.

    Parameters
    ----------
    path : Path
    document : dict
        The content of ``run.json``.
    """

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document
        self.worked = False  # whether a stage was begun since the folder was opened

    @classmethod
    def read(cls, path: str | Path) -> RunFolder:
        """A folder as it is, to look at.

        Raises
        ------
        InputError
            If it is not a run's folder.
        """
        mark = Path(path, _MARK)
        try:
            text = mark.read_text(encoding="utf-8")
            # Earlier versions wrote Infinity, which is no JSON, for what was not reached.
            document = json.loads(text, parse_constant=lambda _: None)
        except FileNotFoundError:
            raise InputError(
                f"{path} is no folder of a run: it has no {_MARK}; make one by tomodask run"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{mark} cannot be read ({error}); run again elsewhere") from None
        if document.get("format") != _FORMAT:
            raise InputError(
                f"{mark} is of the format {document.get('format')!r}, this tomodask reads "
                f"{_FORMAT}; choose another folder"
            )
        return cls(Path(path), document)

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls,
        path: Path,
        *,
        stages: Sequence[str],
        parameters: Mapping[str, tuple[str, Any]],
        command: str,
        overwrite: bool = False,
        keep: Mapping[str, Sequence[str]] | None = None,
        later: Sequence[str] = (),
    ) -> Iterator[RunFolder]:
        """Begin a run in a folder, or go on with the same one.

        Parameters
        ----------
        path : Path
            Made where it is not there.
        stages : sequence of str
            All stages, in their order.
        parameters : mapping
            Name → (first stage that it has a say in, value).  Values are what JSON can hold.
        command : str
            Kept for the report.
        overwrite : bool
            Drop what a run left in the folder, and begin anew.
        keep : mapping, optional
            Stages, the first ones, that are not dropped where they would come out the same, each
            with the names of its figures.
        later : sequence of str
            Parameters that earlier versions did not note: where one is not there, it is taken for
            unchanged.

        Raises
        ------
        InputError
            If the folder holds something else, a run with other parameters of which a stage that
            they have a say in was begun, or a run that goes on at this moment.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; name a folder for the output")
        if path.is_dir() and any(path.iterdir()) and not (path / _MARK).exists():
            kept = {".lock"}
            if {entry.name for entry in path.iterdir()} - kept:
                raise InputError(
                    f"{path} holds files that are not of a run; choose an empty or new folder"
                )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be made ({error.strerror}); choose another") from None
        with held(path):
            if overwrite and (path / _MARK).exists():
                there = cls.read(path)
                known = there._known_of(parameters, later)
                lasting = there._lasting(tuple(keep or ()), stages, known)
                there._clear({one: (keep or {})[one] for one in lasting})
            if (path / _MARK).exists():
                folder = cls.read(path)
                folder._check(stages, folder._known_of(parameters, later))
                before, now = folder.document["versions"].get("tomodask"), _versions()["tomodask"]
                if before != now:
                    _log.warning("%s was begun by tomodask %s, %s goes on there", path, before, now)
            else:
                folder = cls(
                    path, {"format": _FORMAT, "begun": _now(), "stages": {}, "figures": {}}
                )
            folder.document |= {
                "parameters": {name: value for name, (_, value) in parameters.items()},
                "command": command,
                "machine": _machine(),
                "versions": _versions(),
                "sessions": folder.document.get("sessions", 0) + 1,
            }
            for leftover in (
                *path.glob(".*.part"),
                *path.glob(".*.old"),
            ):  # of a run that was killed
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            folder.save()
            yield folder

    def _known_of(
        self, parameters: Mapping[str, tuple[str, Any]], later: Sequence[str]
    ) -> dict[str, tuple[str, Any]]:
        """The parameters without those of `later` that were not noted here."""
        there = self.document["parameters"]
        return {n: one for n, one in parameters.items() if n not in later or n in there}

    def _check(self, stages: Sequence[str], parameters: Mapping[str, tuple[str, Any]]) -> None:
        """Refuse parameters that would have changed what is there already."""
        order = list(stages)
        kept = [s for s in order if self._left_something(s)]
        begun = order.index(kept[-1]) if kept else -1
        # Of a run of another kind, by a model or by a template, its own stages are in the way.
        other = [s for s in self.document.get("began", {}) if s not in order]
        foreign = any(self._left_something(stage) for stage in other)
        there = self.document["parameters"]
        differing = [
            f"{name} is {_shown(there.get(name))} there and {_shown(value)} here"
            for name, (stage, value) in parameters.items()
            if json.loads(json.dumps(value)) != there.get(name)
            and (foreign or order.index(stage) <= begun)
        ]
        if differing:
            raise InputError(
                f"{self.path} holds another run: {'; '.join(differing)}; choose another output "
                "folder, or overwrite this one (overwrite=True, --overwrite)"
            )

    def _lasting(
        self,
        keep: Sequence[str],
        stages: Sequence[str],
        parameters: Mapping[str, tuple[str, Any]],
    ) -> list[str]:
        """Of the stages `keep`, those that are finished and that no parameter has changed."""
        order, there = list(stages), self.document["parameters"]
        changed = [
            order.index(stage)
            for name, (stage, value) in parameters.items()
            if json.loads(json.dumps(value)) != there.get(name)
        ]
        first = min(changed, default=len(order))
        return [one for one in keep if order.index(one) < first and self.finished(one)]

    def _clear(self, kept: Mapping[str, Sequence[str]]) -> None:
        """Remove what the run made, but for the stages `kept`, and nothing else.

        Parameters
        ----------
        kept : mapping
            Stage → names of its figures.
        """
        began = self.document.get("began", {})
        for name in (one for stage in began if stage not in kept for one in began[stage]):
            for made in (self.path / name, self.path / f"{name}.part"):
                if made.is_dir():
                    shutil.rmtree(made)
                else:
                    made.unlink(missing_ok=True)
        if not kept:
            (self.path / _MARK).unlink()
            return
        figures, lasting = self.document["figures"], [n for names in kept.values() for n in names]
        self.document["figures"] = {name: figures[name] for name in lasting if name in figures}
        for part in ("stages", "began", "spent"):
            there = self.document.get(part, {})
            self.document[part] = {one: there[one] for one in kept if one in there}
        self.save()

    def save(self) -> None:
        """Write ``run.json``."""
        mark = self.path / _MARK
        aside = mark.with_name(f".{_MARK}.{os.getpid()}.part")
        try:
            with aside.open("w", encoding="utf-8") as file:
                json.dump(self.document, file, indent=1, ensure_ascii=False, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(mark)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if no_space(error, mark) is not None:
                raise InputError(
                    f"{full_disk(mark)}".replace(", nothing was left behind", "")
                    + "; the same command then goes on where it stopped"
                ) from None
            raise

    def finished(self, stage: str) -> bool:
        """Whether a stage is done and its outputs are still there."""
        entry = self.document["stages"].get(stage)
        return entry is not None and all((self.path / name).exists() for name in entry["outputs"])

    @contextlib.contextmanager
    def stage(self, name: str, outputs: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Do a stage: time it, and enter it as finished when the block ends without an error.

        Yields the figures of the run, to add to.
        """
        document = self.document
        document.setdefault("began", {})[name] = list(outputs)
        document["stages"].pop(name, None)  # of an earlier time: a kill may follow at any moment
        self.worked = True
        self.save()
        begin, done = time.perf_counter(), False
        before = float(document.get("spent", {}).get(name, 0.0))
        try:
            yield document["figures"]
            done = True
        finally:
            spent = before + time.perf_counter() - begin
            document.setdefault("spent", {})[name] = round(spent, 3)
            if done:
                document["stages"][name] = {
                    "outputs": list(outputs),
                    "seconds": round(spent, 3),
                    "finished": _now(),
                }
                self.save()
            else:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    self.save()

    def _left_something(self, stage: str) -> bool:
        """Whether a stage left results, whole or in part.

        One that failed without any, as picking above too high a threshold does, may be tried again
        with other parameters: what comes out is what a fresh run would give.
        """
        outputs = self.document.get("began", {}).get(stage, [])
        return any((self.path / name).exists() for name in outputs)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of it even where the process is killed."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path}: another run works in this folder at this moment; wait for it, or choose "
                "another output folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, list | tuple):
        return " ".join(f"{v:g}" if isinstance(v, int | float) else _shown(v) for v in value)
    return str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> dict[str, Any]:
    import psutil

    return {
        "system": platform.platform(terse=True),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
