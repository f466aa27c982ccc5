"""Checkpoints: a plan and the weights of the model that it makes, in one safetensors file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fxprune.errors import InputError, PlanError
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import rewrite
from fxprune.storage.files import write_whole

M = TypeVar("M", bound=nn.Module)


def save(path: Path, model: nn.Module, plan: Plan) -> None:
    """Write a cut model's `state_dict` and its plan; the file is whole or not there."""
    # Cloned, because the format refuses tensors that share memory.
    state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    write_whole(path, safetensors.torch.save(state, {"plan": plan.to_json()}))


def restore(model: M, path: str | os.PathLike[str]) -> M:
    """The smaller model of a checkpoint.

    Args:
        model: the full-size model; untouched.
        path: a checkpoint of a search, such as `best.safetensors` in its directory.

    Returns:
        A new model: `model` cut by the checkpoint's plan, with the checkpoint's weights and buffers.

    Raises:
        InputError: no such file, or it is damaged or of another kind.
        PlanError: it is of another model.
    """
    small = rewrite(model, plan_of(path))
    try:
        small.load_state_dict(safetensors.torch.load_file(path))
    except RuntimeError as error:
        seen = str(error).splitlines()[-1].strip()[:200]
        raise PlanError("the checkpoint is of another model", where=str(path), seen=seen) from error
    return small


def plan_of(path: str | os.PathLike[str]) -> Plan:
    """The plan of a checkpoint.

    Raises:
        InputError: no such file, or it is damaged or of another kind.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {})["plan"]
    except (OSError, SafetensorError, KeyError) as error:
        seen = f"{type(error).__name__}: {error}"
        remedy = "give a checkpoint that a search wrote"
        raise InputError("not a checkpoint", where=str(Path(path)), seen=seen, remedy=remedy) from error
    return Plan.from_json(text, str(path))
