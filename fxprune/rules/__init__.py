"""What each ATen op does to channel labels: a table from op names to short functions.

A rule receives the `Call` (graph node, shape of the result, the labeller) and the op's arguments, tensors replaced by
their `Axes`; it equates or fixes what the op couples, and returns the dims of the result. This table is the only place
in fxprune that names ops. One entry serves all overloads of an op and its in-place form.

To support another op, add a function to the room it belongs to, or your own entry:

>>> from fxprune.rules import RULES, pointwise
>>> RULES["mylib::my_activation"] = pointwise.pointwise
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fxprune.labelling.labels import Rule
from fxprune.rules import contraction, creation, layout, norm, pick, pointwise, reduction, spatial

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **contraction.RULES,
    **norm.RULES,
    **reduction.RULES,
    **spatial.RULES,
    **layout.RULES,
    **pick.RULES,
    **creation.RULES,
}


def rule_of(op: Any) -> Rule | None:
    """The rule of an ATen op, or None."""
    return RULES.get(_name(op))


@cache
def _name(op: Any) -> str:
    name = op._schema.name.removeprefix("aten::")
    return name if name in RULES or not name.endswith("_") else name.rstrip("_")
