"""Wrapped models are refused with the remedy; a model that was compiled in place is not run compiled."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import CASES
from oracle import ROUNDING
from torch import nn

import fxprune

CASE = CASES["residual"]
USES: dict[str, Callable[[Any, fxprune.Plan, Any], Any]] = {
    "trace": lambda model, plan, x: fxprune.trace(model, x),
    "prune": lambda model, plan, x: fxprune.prune(model, x, pruning_ratio=0.5),
    "verify": lambda model, plan, x: fxprune.verify(model, plan, x),
    "rewrite": lambda model, plan, x: fxprune.rewrite(model, plan),
    "mask": lambda model, plan, x: fxprune.mask(model, plan),
}


def planned() -> tuple[nn.Module, fxprune.Plan, Any]:
    model, x = CASE.build(), CASE.inputs(2)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    return model, groups.plan({groups[0].name: range(2)}), x


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_compiled_models_are_refused(use: Callable[[Any, fxprune.Plan, Any], Any]) -> None:
    model, plan, x = planned()
    with pytest.raises(fxprune.InputError, match=r"compiled in OptimizedModule; .* remedy: give model\._orig_mod"):
        use(torch.compile(model), plan, x)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_wrappers_of_devices_are_refused_without_devices(use: Callable[[Any, fxprune.Plan, Any], Any]) -> None:
    model, plan, x = planned()
    with pytest.raises(fxprune.InputError, match=r"devices in DataParallel; .* remedy: give model\.module"):
        use(nn.DataParallel(model), plan, x)


def test_the_remedy_names_the_part_that_is_wrapped() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.DataParallel(nn.Linear(8, 4)))
    with pytest.raises(fxprune.InputError, match=r"remedy: put 1\.module in the place of 1, and wrap the smaller"):
        fxprune.trace(model, torch.rand(1, 4))


def test_a_model_that_was_compiled_in_place() -> None:
    model, plan, x = planned()

    def never(*_: Any, **__: Any) -> Any:
        pytest.fail("the compiled call was used")

    model._compiled_call_impl = never
    assert fxprune.verify(model, plan, x) <= ROUNDING
    deviation = fxprune.prune(model, x, pruning_ratio=0.5).report.deviation
    assert deviation is not None
    assert deviation <= ROUNDING
    assert model._compiled_call_impl is never
