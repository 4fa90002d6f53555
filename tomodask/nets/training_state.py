"""What a training puts down and takes up again: weights, an optimiser's moments, a few numbers.

One safetensors file, replaced in one step.  Reading it runs no code of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomodask.errors import InputError
from tomodask.nets.weights_file import replace_file

__all__ = [
    "load_training",
    "of_kind",
    "restore_weights",
    "save_training",
    "seed_of_step",
    "weights_of",
]

_TRACKED = "num_batches_tracked"  # counts batches for averages that are not used here
_PLAIN = (int, float, str, tuple, list)


def weights_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """A network's state, float32 arrays, copied."""
    return {
        name: _array(values)
        for name, values in network.state_dict().items()
        if not name.endswith(_TRACKED)
    }


def restore_weights(network: torch.nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Give a network the state that `weights_of` gave."""
    state = {name: torch.from_numpy(values.copy()) for name, values in weights.items()}
    for name in network.state_dict():
        if name.endswith(_TRACKED):
            state[name] = torch.zeros((), dtype=torch.long)
    network.load_state_dict(state)


def save_training(
    path: Path,
    kind: str,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    told: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    more: Mapping[str, Any],
) -> None:
    """Write all that training needs to go on, in one step.

    Parameters
    ----------
    path : Path
    kind : str
        The format, by its name.
    network, optimizer : Module, Optimizer
        Their weights and moments are written.
    told : mapping
        What the caller of the trainer wants back; JSON.
    arrays, more : mapping
        What the trainer knows beside: arrays, named ``kind/name``, and what JSON can tell.
    """
    moments, groups = _moments_of(optimizer)
    both = {f"weight/{k}": v for k, v in weights_of(network).items()}
    both |= {f"moment/{k}": v for k, v in moments.items()}
    _write_state(path, kind, {**both, **arrays}, {**more, "groups": groups, "told": told})


def load_training(
    path: Path,
    kind: str,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None] = lambda told: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """Take up what `save_training` put down; gives `told`, `arrays` and `more`.

    `check` gets `told` before anything is taken: it may refuse the state of another training.

    Raises
    ------
    InputError
        If the file is damaged, or of another kind.
    """
    state, arrays = _read_state(path, kind)
    told: dict[str, Any] = state["told"]
    check(told)
    restore_weights(network, of_kind("weight", arrays))
    _restore_moments(optimizer, of_kind("moment", arrays), state["groups"])
    return told, arrays, state


def _moments_of(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """An optimiser's running sums as arrays, and its settings as JSON knows them."""
    told = optimizer.state_dict()
    arrays = {
        f"{number}/{key}": _array(value)
        for number, state in told["state"].items()
        for key, value in state.items()
        if value is not None
    }
    groups = [
        {k: v for k, v in group.items() if isinstance(v, _PLAIN)} for group in told["param_groups"]
    ]
    return arrays, groups


def _restore_moments(
    optimizer: torch.optim.Optimizer,
    arrays: Mapping[str, np.ndarray],
    groups: list[dict[str, Any]],
) -> None:
    """Give an optimiser what `_moments_of` gave."""
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, values in arrays.items():
        number, key = name.split("/")
        moments.setdefault(int(number), {})[key] = torch.from_numpy(values.copy())
    template = optimizer.state_dict()["param_groups"]
    full = [{**old, **new} for old, new in zip(template, groups, strict=True)]
    for group in full:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": moments, "param_groups": full})


def _write_state(
    path: Path, kind: str, arrays: Mapping[str, np.ndarray], told: Mapping[str, Any]
) -> None:
    """Write arrays and what JSON can tell, in one step; `kind` names the format."""
    from safetensors.numpy import save_file

    header = {"format": kind, "state": json.dumps(told)}
    with replace_file(path) as part:
        save_file(dict(arrays), part, header)


def _read_state(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `_write_state` wrote: what was told, and the arrays.

    Raises
    ------
    InputError
        If the file is damaged, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != kind:
                raise InputError(
                    f"{path} is not a state of this kind of training: choose another name, or "
                    "start anew (overwrite=True, --overwrite)"
                )
            state = json.loads(header["state"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state["told"]
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged: {error}; remove it and train from the start"
        ) from error
    return state, arrays


def of_kind(kind: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those whose names begin with ``kind/``, without it."""
    return {k[len(kind) + 1 :]: v for k, v in arrays.items() if k.startswith(f"{kind}/")}


def seed_of_step(seed: int, step: int) -> int:
    """Of the random numbers that a step draws: the same where a training goes on."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _array(values: torch.Tensor) -> np.ndarray:
    return np.array(values.detach().cpu().contiguous().numpy(), np.float32)
