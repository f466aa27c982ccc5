"""Continued: the groups of a model that was cut, as far as they are what the groups of its original leave.

What is cut in several steps shall be one plan for the original. So the choices that its analysis made hold for what is
left of it: a width that is split into heads and their width goes on to shrink by the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fxprune.analysis.groups import Groups, found_with
from fxprune.plan.composition import divided_otherwise
from fxprune.plan.plan import Plan
from fxprune.tracing.trace import trace

DIVIDED = "the steps before have divided it otherwise"


def groups_left(model: nn.Module, inputs: Any, original: Groups, plan: Plan, ignored: Sequence[str] = ()) -> Groups:
    """The groups of a cut model; those that are divided in another way than the original's are fixed.

    Args:
        model: what the plan leaves of the original.
        inputs: as for `fxprune.trace`.
        original: the groups of the original.
        plan: of the original.
        ignored: names of what must stay.
    """
    groups = found_with(trace(model, inputs), ignored, original.analysis.choices)
    return groups.holding(dict.fromkeys(divided_otherwise(plan, groups), DIVIDED))
