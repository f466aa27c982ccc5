"""What the comparison must not call equal."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import Shuffled, TrainingHead
from torch import nn

import fxprune
from fxprune.verification import judgement
from fxprune.verification.compare import are_close, are_equal, deviation


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


class _Gated(nn.Module):
    """Maps of one position, whose sigmoids end in another place of the tensor when channels go."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 1)
        self.excite = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, 8, 3)

    def forward(self, x: Any) -> Any:
        x = self.conv(x).relu()
        gate = F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.last(x * self.excite(gate).sigmoid())


def _shuffled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 24, 3), Shuffled(24), Shuffled(24), nn.Conv2d(24, 4, 1))


@pytest.mark.parametrize("make", [lambda: _Gated(24), _shuffled], ids=["gated", "shuffled"])
def test_models_that_round_in_another_way_need_no_float64(make: Any, monkeypatch: Any) -> None:
    """Where functions end at another number, or sums have another order, float32 shows as much."""
    monkeypatch.setattr(judgement, "_judged_on", lambda *_: pytest.fail("float32 did not do"))
    for seed in range(3):
        torch.manual_seed(seed)
        fxprune.prune(make().eval(), torch.randn(2, 3, 12, 12), pruning_ratio=0.5)


def test_a_number_is_close_only_within_its_own_last_bits() -> None:
    numbers = torch.tensor([1e6, 1e-3])
    assert are_close(numbers, numbers * (1 + 2e-7))
    assert not are_close(numbers, numbers + torch.tensor([0.0, 1e-8]))
    assert not are_close(numbers, numbers[:1])
    assert not are_close(numbers, torch.tensor([inf, 1e-3]))
