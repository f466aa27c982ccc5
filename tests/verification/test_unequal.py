"""What the comparison must not call equal."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
import torch
from nets import TrainingHead

import fxprune
from fxprune.verification.compare import are_equal, deviation


@pytest.mark.parametrize("name", ["", "layer"])
def test_nan_in_one_model_alone_is_infinitely_far(name: Any) -> None:
    numbers, broken = torch.tensor([1.0, 2.0]), torch.tensor([1.0, nan])
    assert deviation([(name, numbers)], [(name, broken)]) == inf
    assert deviation([(name, broken)], [(name, numbers)]) == inf


def test_infinities_are_not_equal_to_the_last_bit() -> None:
    """In float32 what overflows looks alike, whatever it was made of."""
    both = [("", torch.tensor([1.0, inf]))]
    assert not are_equal(both, both, (), {})


def test_a_pruned_model_that_fails_in_training_mode_alone_is_found() -> None:
    torch.manual_seed(0)
    model, x = TrainingHead().eval(), torch.randn(3, 4)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"a": [0, 2, 5]})
    assert fxprune.verify(model, plan, x) < 1e-6
    group = plan.groups["a"]
    cut_less = replace(group, slots=tuple(s for s in group.slots if not s.tensor.startswith("aux")))
    assert fxprune.verify(model, replace(plan, groups={"a": cut_less}), x) == inf


def test_wrong_channels_in_training_mode_alone_are_found() -> None:
    torch.manual_seed(0)
    model, x = TrainingHead().eval(), torch.randn(3, 4)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"a": [0, 2, 5]})
    group = plan.groups["a"]
    wrong = tuple(
        replace(s, channels=s.channels[::-1].copy()) if s.tensor.startswith("aux") else s for s in group.slots
    )
    assert fxprune.verify(model, replace(plan, groups={"a": replace(group, slots=wrong)}), x) > 1e-3
