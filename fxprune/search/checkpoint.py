"""Checkpoints: a candidate's plan and weights in one safetensors file."""

from __future__ import annotations

import os
from typing import TypeVar

from torch import nn

from fxprune.rewriting.pruned_file import load, plan_of, save

__all__ = ["plan_of", "restore", "save"]

M = TypeVar("M", bound=nn.Module)


def restore(model: M, path: str | os.PathLike[str]) -> M:
    """The smaller model of a checkpoint; the same as `fxprune.load(path, model)`.

    Args:
        model: the full-size model; untouched.
        path: a checkpoint of a search, such as `best.safetensors` in its directory.

    Raises:
        InputError: there is no such file, or it is damaged or of another kind.
        PlanError: it is of another model.
    """
    return load(path, model)
