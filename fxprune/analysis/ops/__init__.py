"""What each ATen op does to channel labels: a table from op names to short functions.

A rule receives the `Call` (graph node, shape of the result, the labeller) and the op's arguments, tensors replaced by
their `Axes`; it equates or fixes what the op couples, and returns the dims of the result: a list with one dim for each
length of `call.shape`, or a list of such lists if the op has several results. One entry serves all overloads of an op
and its in-place form. What ops do to labels stands here alone; other rooms name a few ops for what they do to zeros,
scalars, shapes or time.

To support another op, take a rule that is there, or write one; a test may do both:

>>> from fxprune.analysis.ops import RULES, pointwise
>>> RULES["mylib::my_activation"] = pointwise.pointwise
>>> def gate(call, x, weight):
...     "x of shape (batch, channels, ...) times one weight a channel; returns the product and the mean over channels."
...     channels = call.lab.unite(x, 1, weight, 0)
...     call.lab.mix(x[1])
...     return [[x[0], channels, *x.dims()[2:]], [x[0], *x.dims()[2:]]]
>>> RULES["mylib::gate"] = gate
>>> del RULES["mylib::my_activation"], RULES["mylib::gate"]
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fxprune.analysis.labels.labels import Rule
from fxprune.analysis.ops import contraction, creation, layout, norm, pick, pointwise, reduction, spatial

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
