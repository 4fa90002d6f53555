"""Files of weights that may come from anywhere: read without running any code of theirs.

Safetensors: arrays, and a JSON text in the header.  Needs no PyTorch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tomodask.errors import InputError

__all__ = [
    "check_names",
    "check_weights",
    "digest_of",
    "is_number",
    "is_positive",
    "read_arrays",
    "read_header",
    "read_model_file",
    "replace_file",
    "told_of_training",
    "write_arrays",
]

Model = TypeVar("Model")

_HEADER = 16 << 20  # bytes of JSON at most
_MOST = 4 << 30  # bytes of a file at most: no network of this house has so many weights


def digest_of(told: Any, weights: Mapping[str, np.ndarray]) -> str:
    """A short text that changes with the description or any weight."""
    text = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name in sorted(weights):
        text.update(name.encode())
        text.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return text.hexdigest()[:32]


@contextlib.contextmanager
def replace_file(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` in one step if all goes well."""
    part = target.with_name(f"{target.name}.part")
    try:
        yield part
        os.replace(part, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_arrays(
    path: str | os.PathLike[str], kind: str, told: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write arrays and a description, in one step; `kind` names the format.

    Raises
    ------
    InputError
        If the name does not end with ``.safetensors``, or the file cannot be written.
    """
    from safetensors.numpy import save

    target = Path(path)
    if target.suffix.lower() != ".safetensors":
        raise InputError(f"a model file must end with .safetensors, got {str(path)!r}")
    plain = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    header = {
        "format": kind,
        "model": json.dumps(told, allow_nan=False),
        "digest": digest_of(None, plain),
    }
    with replace_file(target) as part:
        # Not save_file, whose files only their owner can read.
        part.write_bytes(save(plain, header))


def read_header(path: Path, kind: str, maker: str) -> dict[str, Any]:
    """The description of a model, from the head of its file.

    Parameters
    ----------
    path : Path
    kind : str
        The format it must have.
    maker : str
        The command that makes such files, for messages.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            text = file.read(length) if 2 <= length <= min(_HEADER, size - 8) else b""
    except FileNotFoundError:
        raise InputError(f"there is no model file {path}; `{maker}` makes one") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    # Only where no JSON follows: the length of a sound header may begin with the same bytes.
    if not text.startswith(b"{") and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise InputError(
            f"{path} is a pickle (a PyTorch checkpoint), which could run any code when it is "
            f"opened; give a model that `{maker}` wrote"
        )
    if size > _MOST:
        raise InputError(f"{path} has {size} bytes: no model of this kind is so large")
    wanted = f"{path} is not a model that `{maker}` wrote"
    try:
        known = json.loads(text)["__metadata__"]
        found = known.get("format")
        told = json.loads(known["model"]) if found == kind else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{wanted}, or it is damaged; copy or train it again") from None
    if not isinstance(told, dict):
        raise InputError(f"{wanted} (its format is {found!r}, not {kind!r})")
    return told


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file whose header `read_header` took.

    Raises
    ------
    InputError
        If the file is cut, or its weights are not those that were written: safetensors itself
        does not notice a changed byte.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told = (file.metadata() or {}).get("digest")
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}; copy or train it again") from error
    # Files of former versions have none.
    if told is not None and told != _digest_of_any(arrays):
        raise InputError(
            f"{path} is damaged: its weights are not those that were written; copy or train it "
            "again"
        )
    return arrays


def read_model_file(
    path: str | os.PathLike[str],
    kind: str,
    maker: str,
    make: Callable[[dict[str, Any], dict[str, np.ndarray]], Model],
) -> Model:
    """What `make` makes of the description and the weights of a file.

    Parameters
    ----------
    path : path
    kind, maker : str
        As of `read_header`.
    make : callable
        Gets the description, whose ``history`` and ``training`` are tables, and the weights.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, or does not hold what it says.
    """
    source = Path(path)
    told = read_header(source, kind, maker)
    weights = read_arrays(source)
    try:
        if not all(isinstance(row, dict) for row in (told["training"], *told["history"])):
            raise TypeError("history and training must be tables of names and values")
        return make(told, weights)
    except InputError as error:  # a ValueError too, so it comes first
        raise InputError(f"{source}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{source}: the description of the model is not complete ({error!r}); train it again"
        ) from error


def told_of_training(
    history: Sequence[Mapping[str, Any]], training: Mapping[str, Any]
) -> dict[str, Any]:
    """How a model came to be, as `read_model_file` expects it in a description."""
    return {"history": [dict(row) for row in history], "training": dict(training)}


def _digest_of_any(arrays: Mapping[str, np.ndarray]) -> str:
    """That of `digest_of`; empty for arrays of other types, which are refused later."""
    if any(values.dtype != np.float32 for values in arrays.values()):
        return ""
    return digest_of(None, arrays)


def check_weights(
    weights: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse arrays that are not of these names and shapes, float32 and finite."""
    if set(weights) != set(expected):
        odd = sorted(set(weights) ^ set(expected))
        raise InputError(
            f"the weights are not those of the network described beside them ({len(odd)} "
            f"names differ, the first is {odd[0]!r})"
        )
    for name, shape in expected.items():
        values = weights[name]
        if values.shape != shape or values.dtype != np.float32:
            raise InputError(
                f"weight {name!r} must be float32 of shape {shape}, got {values.dtype} of "
                f"{values.shape}"
            )
        if not np.isfinite(values).all():
            raise InputError(f"weight {name!r} holds NaN or infinite values")


def check_names(classes: Sequence[Any], count: int) -> None:
    """Refuse what is not `count` different names, one for each output."""
    if any(not isinstance(name, str) or not name for name in classes):
        raise InputError(f"classes must be names, got {classes!r}")
    if len(classes) != count or len(set(classes)) != count:
        raise InputError(
            f"classes must be {count} different names, one for each output, got {classes!r}"
        )


def is_number(value: Any) -> bool:
    """Whether a value, which may come from a file, is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    return is_number(value) and value > 0
