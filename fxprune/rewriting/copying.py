"""Copies of models, and what to do where there can be none."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.module.isolation import set_modes
from fxprune.module.saved_state import PLAIN, VIEWS, viewed
from fxprune.module.structural_copy import StructuralCopy
from fxprune.module.tensors import walk
from fxprune.rewriting.closures import bind_to_copies

M = TypeVar("M", bound=nn.Module)


def copied(model: M, memo: dict[int, Any] | None = None) -> M:
    """A copy of a model; what is in `memo` stands for the copies of what has these ids.

    Tensors that an earlier forward has computed and left in the model, which PyTorch refuses to copy, are copied as
    constants, and scripted functions, which it refuses as well, are shared, as functions are; views of dicts, which
    Python refuses to copy, are made of the copied dicts.

    Raises:
        InputError: it holds what cannot be copied.
    """
    with torch.inference_mode(False):  # tensors made in inference mode could not be trained
        made = _copied(model, memo or {})
    _carry_over(model, made)
    return made


def _carry_over(model: nn.Module, made: nn.Module) -> None:
    """What code has noted on parameters, such as that none of them decays: PyTorch's copies lack it."""
    noted = [(path, key, p) for path, m in walk(model) for key, p in m._parameters.items() if p is not None and vars(p)]
    copies = dict(walk(made)) if noted else {}
    for path, key, parameter in noted:
        new = copies[path]._parameters.get(key) if path in copies else None
        if new is not None and new is not parameter:
            plain = {name: value for name, value in vars(parameter).items() if _is_plain(value)}
            vars(new).update({name: copy.deepcopy(value) for name, value in plain.items() if name not in vars(new)})


def _is_plain(value: Any) -> bool:
    """Whether it holds numbers and names alone, and so refers to nothing else."""
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _copied(model: M, memo: dict[int, Any]) -> M:
    try:
        return _deepcopy(model, dict(memo))
    except Exception:  # whatever a class of somebody's own has against it
        copies, views = _refused(model)
        memo = {**copies, **memo}
        try:
            if not copies and not views:
                raise
            return _deepcopy(model, dict(memo), views)
        except Exception as left:
            where = next(_uncopied(model, memo | {id(v): v for v in views}), None)
            if where is None:  # such as memory that did not suffice
                raise
            remedy, seen = "take it off the module before, and put it back afterwards", str(left)
            raise InputError("a module holds what cannot be copied", where=where, seen=seen, remedy=remedy) from left


def _deepcopy(model: M, memo: dict[int, Any], views: Iterable[Any] = ()) -> M:
    """What `copy.deepcopy` makes; most modules without its detours, which take most of its time."""
    plain = [(m, state) for _, m in walk(model) if (state := _plain_state(m)) is not None]
    made = [memo.setdefault(id(m), object.__new__(type(m))) for m, _ in plain]
    for view in views:
        memo[id(view)] = VIEWS[type(view)](copy.deepcopy(viewed(view), memo))
    for module, (_, state) in zip(made, plain, strict=True):
        module.__setstate__({key: _of_attribute(value, memo) for key, value in state.items()})
    whole = copy.deepcopy(model, memo)
    memo.pop(id(memo), None)  # where `deepcopy` keeps the originals alive
    bind_to_copies(memo)
    set_modes(whole, {path: module.training for path, module in walk(model)})  # GraphModules forget theirs
    return whole


def _plain_state(module: nn.Module) -> dict[str, Any] | None:
    """What a copy of a module is made from; None where its class says in another way how it is copied."""
    kind = type(module)
    if hasattr(kind, "__deepcopy__") or kind in copyreg.dispatch_table:
        return None
    how: Any = module.__reduce_ex__(_PROTOCOL)
    new, state = how[:2] == (_NEW, (kind,)) and kind.__new__ is object.__new__, how[2:3]
    return state[0] if new and state and type(state[0]) is dict and not any(how[3:]) else None


_PROTOCOL = 4  # of pickle, which `copy.deepcopy` asks for
_NEW = vars(copyreg)["__newobj__"]


def _of_attribute(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in PLAIN:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in (dict, OrderedDict, list, set) and not value:  # a module has a dozen, of hooks
        made = memo[id(value)] = kind()
        return made
    if kind is dict and all(type(key) is str for key in value):
        made = memo[id(value)] = {}
        made.update({key: _of_attribute(v, memo) for key, v in value.items()})
        return made
    return copy.deepcopy(value, memo)


def _refused(model: nn.Module) -> tuple[dict[int, Any], list[Any]]:
    """What modules hold that `copy.deepcopy` refuses: tensors with a history, sparse ones in rows or columns, and
    scripted functions, as what stands for their copies by the originals' `id`, and views.
    """
    structure = StructuralCopy()
    structure.of(model)
    held = structure.originals
    with torch.no_grad():
        tensors = (t for t in (*held, *model.buffers()) if isinstance(t, torch.Tensor))
        computed = {id(t): t.detach().clone() for t in tensors if not t.is_leaf or t.layout not in _COPIED}
    scripted = {id(f): f for f in held if isinstance(f, torch.jit.ScriptFunction)}
    return computed | scripted, [value for value in held if type(value) in VIEWS]


_COPIED = (torch.strided, torch.sparse_coo)


def _uncopied(model: nn.Module, memo: dict[int, Any]) -> Iterator[str]:
    """The attributes that cannot be copied, such as locks, files and generators."""
    memo = {id(m): m for _, m in walk(model)} | memo
    for path, module in walk(model):
        for name, value in vars(module).items():
            try:
                copy.deepcopy(None if name in _REGISTRIES else value, dict(memo))
            except Exception:  # whatever a class of somebody's own has against it
                yield f"{path}.{name}".lstrip(".")


_REGISTRIES = ("_parameters", "_buffers", "_modules")
