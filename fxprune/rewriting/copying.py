"""Copies of models, and what to do where there can be none."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.module.isolation import walk
from fxprune.module.saved_state import Saved
from fxprune.rewriting.closures import bind_to_copies

M = TypeVar("M", bound=nn.Module)


def copied(model: M, memo: dict[int, Any] | None = None) -> M:
    """A copy of a model; what is in `memo` stands for the copies of what has these ids.

    Tensors that an earlier forward has computed and left in the model, which PyTorch refuses to copy, are copied as
    constants.

    Raises:
        InputError: it holds what cannot be copied.
    """
    memo = _empty_registries(model) | (memo or {})
    try:
        try:
            return _deepcopy(model, dict(memo))
        except RuntimeError:
            computed = _computed(model)
            if not computed:
                raise
        return _deepcopy(model, {**computed, **memo})
    except TypeError as error:
        raise InputError(
            "a module holds what cannot be copied",
            where=next(_uncopied(model), type(model).__name__),
            seen=str(error),
            remedy="take it off the module before, and put it back afterwards",
        ) from error


def _empty_registries(model: nn.Module) -> dict[int, Any]:
    """Copies of the dozen empty dicts of hooks that a module has, by the originals' `id`; `deepcopy` is slow there."""
    held = (value for _, module in walk(model) for value in vars(module).values())
    return {id(v): OrderedDict() for v in held if type(v) is OrderedDict and not v}


def _deepcopy(model: M, memo: dict[int, Any]) -> M:
    made = copy.deepcopy(model, memo)
    memo.pop(id(memo), None)  # where `deepcopy` keeps the originals alive
    bind_to_copies(memo)
    return made


def _computed(model: nn.Module) -> dict[int, torch.Tensor]:
    """Copies of the tensors with a history that modules hold in attributes, by the originals' `id`."""
    seen = set[int]()
    held = (t for _, module in walk(model) for t in Saved.of(module, seen).tensors)
    with torch.no_grad():
        return {id(t): t.detach().clone() for t in held if not t.is_leaf}


def _uncopied(model: nn.Module) -> Iterator[str]:
    """The attributes that cannot be copied, such as locks, files and generators."""
    for path, module in walk(model):
        for name, value in vars(module).items():
            try:
                copy.deepcopy(None if name == "_modules" else value)
            except TypeError:
                yield f"{path}.{name}".lstrip(".")
            except RuntimeError:  # a computed tensor
                continue
