"""The state of an unfinished training run on disk, so that it can go on where it was cut off."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from zoo.errors import ZooError
from zoo.files import write
from zoo.progress import EpochLog

Run = Mapping[str, Any]
"""Plain data that tells one run from another."""


def keep(path: Path, run: Run, logs: list[EpochLog], model: nn.Module, optimizer: Optimizer) -> None:
    """Write what ``pick_up`` needs."""
    state = {
        "run": dict(run),
        "logs": [asdict(log) for log in logs],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    file = io.BytesIO()
    torch.save(state, file)
    write(path, file.getvalue())


def pick_up(path: Path, run: Run, model: nn.Module, optimizer: Optimizer) -> list[EpochLog]:
    """Put ``model`` and ``optimizer`` into the state at ``path``; returns its finished epochs, [] if no file.

    Raises:
        ZooError: the file is damaged or belongs to another run.
    """
    if not path.exists():
        return []
    state = _read(path, model)
    if state["run"] != dict(run):
        raise ZooError(f"{path}: is of a run with {state['run']}, not {dict(run)}; delete it to start over")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return [EpochLog(**log) for log in state["logs"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ZooError(f"{path}: is of another network ({error}); delete it to start over") from error


def _read(path: Path, model: nn.Module) -> dict[str, Any]:
    where = next(model.parameters()).device
    try:
        state = torch.load(path, map_location=where, weights_only=True)
        return {key: state[key] for key in ("run", "logs", "model", "optimizer")}
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ZooError(f"{path}: not a whole training state ({error}); delete it to start over") from error
