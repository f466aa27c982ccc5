"""Settings and models as plain data, so that searches can be compared."""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.analysis.groups import Groups
from fxprune.module.code_print import told
from fxprune.module.tensors import tensors_of


def describe(value: Any) -> Any:
    """A value as plain JSON data that is the same in every process: numbers, texts, names of functions and types.

    >>> from fxprune.planners import Constraints
    >>> describe({"round to": Constraints(8).round_to, "measure": len})
    {'round to': 8, 'measure': 'builtins.len'}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": _name(type(value)), **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, partial):
        return {"function": describe(value.func), "args": describe(value.args), "keywords": describe(value.keywords)}
    return _name(value) if hasattr(value, "__qualname__") else _name_of_object(value)


_Above = tuple[Any, ...]  # the functions and objects that are being described, so that none is described within itself


def _name(value: Any, above: _Above = ()) -> str:
    """The name of a function or type; of a function that is written in Python, also what tells it from a namesake, and
    of a method what its object holds.
    """
    name = f"{getattr(value, '__module__', type(value).__module__)}.{value.__qualname__}"  # a generator has none
    function, owner = getattr(value, "__func__", value), getattr(value, "__self__", None)
    if not isinstance(function, FunctionType):
        return name
    if owner is None or isinstance(owner, type | nn.Module):
        return f"{name} {_code_print(function, above)}"
    return f"{name} {_print((_code_print(function, above), _held(owner, above)))}"


def _name_of_object(value: Any, above: _Above = ()) -> str:
    """The name of an object's type; of one whose call is written in Python, as of a judge with settings of its own,
    also what tells it from others of its type.
    """
    call, name = getattr(type(value), "__call__", None), _name(type(value))  # noqa: B004, it is looked at, not called
    if not isinstance(call, FunctionType) or isinstance(value, nn.Module):
        return name
    return f"{name} {_print((_code_print(call, above), _held(value, above)))}"


def _held(value: Any, above: _Above) -> list[tuple[str, Any]]:
    """An object's attributes: numbers, texts and functions as they are, the types of all else.

    Left out is what its methods assign after `__init__`, as counters of calls: that is another in each run.
    """
    methods = [f for kind in type(value).__mro__ for name, f in vars(kind).items() if name != "__init__"]
    codes = [f.__code__ for f in methods if isinstance(f, FunctionType)]
    assigned = {i.argval for code in codes for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
    held = sorted(getattr(value, "__dict__", {}).items())
    return [(name, _plain(v, (*above, value))) for name, v in held if name not in assigned]


def _code_print(function: FunctionType, above: _Above) -> str:
    """8 hexadecimal digits that change with the code of a function, and with its defaults and the numbers, texts and
    functions that it takes from around it.
    """
    above = (*above, function)
    around = [_cell(c, above) for c in function.__closure__ or ()]
    defaults = _plain(function.__defaults__, above), _plain(function.__kwdefaults__, above)
    return _print((told(function.__code__), *defaults, around))


def _print(told: Any) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()[:8]


def _cell(cell: Any, above: _Above) -> Any:
    """What a function takes from around it; of a list or set only its type, for such functions note their calls in."""
    try:
        held = cell.cell_contents
    except ValueError:  # nothing has been put into it yet
        return None
    return _name(type(held)) if isinstance(held, list | set) else _plain(held, above)


def _plain(value: Any, above: _Above = ()) -> Any:
    """Numbers, texts, dataclasses and what is called and written in Python, also in tuples, lists, sets and mappings;
    of anything else its type.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if any(value is a for a in above):
        return "itself"
    if isinstance(value, tuple | list):
        return tuple(_plain(v, (*above, value)) for v in value)
    if isinstance(value, frozenset | set | dict):
        within = value.items() if isinstance(value, dict) else value
        return sorted(repr(_plain(v, (*above, value))) for v in within)
    if isinstance(value, partial):
        return _plain((value.func, value.args, value.keywords), above)
    if is_dataclass(value) and not isinstance(value, type):
        return _name(type(value)), _held(value, above)
    return _name(value, above) if hasattr(value, "__qualname__") else _name_of_object(value, above)


def channels_print(groups: Groups) -> str:
    """16 hexadecimal digits that change with what any channel of any group is: another choice of heads makes others."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(f"{group.name} {group.size} ".encode())
        for slot in group.slots:
            digest.update(f"{slot.tensor} {slot.dim} {slot.role} ".encode())
            digest.update(slot.positions.astype("<i8").tobytes() + slot.channels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any parameter or buffer: its name, type, shape or value."""
    digest = hashlib.sha256()
    for name, tensor in tensors_of(model).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()[:16]
