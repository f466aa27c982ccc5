"""The table of ops: every op's `OpSpec`, those of PyTorch and those that are registered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import fx

from fxprune.analysis.labels.labels import Rule
from fxprune.analysis.ops import (
    addressed,
    contraction,
    creation,
    layout,
    norm,
    pick,
    pointwise,
    products,
    recurrent,
    reduction,
    spatial,
    spectral,
)
from fxprune.analysis.ops.spec import Move, OpSpec
from fxprune.errors import InputError

_FAMILIES = (
    *(pointwise, contraction, products, norm, reduction, spatial, spectral, recurrent),
    *(layout, pick, addressed, creation),
)
_OPS: dict[str, OpSpec] = {name: spec for family in _FAMILIES for name, spec in family.OPS.items()}
_FOUND: dict[Any, OpSpec | None] = {}

OPS: Mapping[str, OpSpec] = MappingProxyType(_OPS)


def register(name: str, spec: OpSpec) -> None:
    """Add an op to the table, or replace its entry; the next `find_groups` sees it.

    Args:
        name: as `torch.library` has it (`"mylib::lin"`), for all overloads of the op and its in-place form; PyTorch's
            own ops (`aten`) without a namespace.
        spec: what is known of the op; a ready one where the op behaves as another does (`ops.OPS["relu"]`).

    Raises:
        InputError: the name is not that of an op, or `spec` is not an `OpSpec`.

    >>> from fxprune import ops
    >>> ops.register("mylib::my_activation", ops.OPS["relu"])
    >>> ops.register("mylib::lin", ops.product("...i,oi->...o", bias=2))
    >>> ops.unregister("mylib::my_activation"), ops.unregister("mylib::lin")
    (None, None)
    """
    if not isinstance(name, str) or not name or "." in name:
        remedy = "give the name with its library and without an overload: 'mylib::lin'"
        raise InputError("the name is not that of an op", seen=repr(name), remedy=remedy)
    if not isinstance(spec, OpSpec):
        remedy = "give an OpSpec, ops.OPS['relu'] for an activation, ops.product('...i,oi->...o', bias=2) for a layer"
        raise InputError(
            "what is registered for an op is not an OpSpec", where=name, seen=type(spec).__name__, remedy=remedy
        )
    _OPS[name.removeprefix("aten::")] = spec
    _FOUND.clear()


def unregister(name: str) -> None:
    """Take an op's entry out of the table.

    Raises:
        InputError: the table has no such entry.
    """
    if name not in _OPS:
        raise InputError("the table of ops has no such entry", seen=repr(name), remedy="see fxprune.ops.OPS")
    del _OPS[name]
    _FOUND.clear()


def spec_of(op: Any) -> OpSpec | None:
    """What is known of an op, or None."""
    try:
        return _FOUND[op]  # an op is slow to hash
    except KeyError:
        found = _FOUND[op] = _find(op)
        return found


def spec_of_node(node: fx.Node) -> OpSpec | None:
    """What is known of a node's op; None where the node does not call an op."""
    return spec_of(node.target) if node.op == "call_function" else None


def moves(op: Any, *ways: Move) -> bool:
    """Whether an op does nothing but rearrange its arguments, in one of these ways."""
    spec = spec_of(op)
    return spec is not None and spec.move in ways


def stands_for(op: Any, recorded: Any) -> bool:
    """Whether one run may call `op` where another, of other widths, has called `recorded`.

    Reshapes stand for one another, and an alias for a slice: PyTorch makes it of a slice of all that there is.
    """
    if op is recorded or (moves(op, Move.RESHAPE) and moves(recorded, Move.RESHAPE)):
        return True
    return {getattr(called, "_opname", "") for called in (op, recorded)} == {"slice", "alias"}


def rule_of(op: Any) -> Rule | None:
    """What an op does to labels, or None."""
    spec = spec_of(op)
    return None if spec is None else spec.labels


def _find(op: Any) -> OpSpec | None:
    """The entry under the op's name, or, for an in-place form, under the name without the underscore."""
    if not hasattr(op, "_schema"):
        return None
    name = op._schema.name.removeprefix("aten::")
    return _OPS.get(name) or (_OPS.get(name.rstrip("_")) if name.endswith("_") else None)
