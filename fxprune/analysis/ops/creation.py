"""Ops that make a tensor from sizes. Each dim gets fresh labels: its length follows what it is combined with.

Where the values depend on the position (arange), the dim is fixed.
"""

from __future__ import annotations

from typing import Any

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import Call, Rule, fixed_result


def fresh(call: Call, *_: Any, **__: Any) -> list[Dim]:
    if any(n > 1 for n in call.shape):
        call.lab.suspect()
    return [call.lab.fresh(n) for n in call.shape]


def counted(call: Call, *args: Any, **kwargs: Any) -> Any:
    reason = f"values of {call.node.target} depend on the position"
    return fixed_result(call.lab, (*args, *kwargs.values()), call.shape, reason)


_FRESH = "empty empty_strided full ones rand randn zeros new_empty new_full new_ones new_zeros scalar_tensor".split()
_COUNTED = "arange linspace logspace eye tril triu tril_indices triu_indices randperm randint one_hot meshgrid".split()

RULES: dict[str, Rule] = {**dict.fromkeys(_FRESH, fresh), **dict.fromkeys(_COUNTED, counted)}
