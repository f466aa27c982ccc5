"""Assignments to a tensor's `data`, by which encoders follow others (He et al., Momentum Contrast, 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fxprune


def encoder() -> nn.Sequential:
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers)


class Momentum(nn.Module):
    """One encoder follows the other."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = encoder(), encoder()

    def follow(self) -> None:
        for p, q in zip(self.key.parameters(), self.query.parameters(), strict=True):
            p.data = p.data * 0.9 + q.data * 0.1

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        given: Tensor = self.query(x)
        with torch.no_grad():
            self.follow()
            wanted = self.key(y)
        return (given * wanted).sum(1)


class InTraining(Momentum):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y) if self.training else self.query(x)


def pruned(model: nn.Module, *inputs: Any) -> Any:
    before = {name: t.clone() for name, t in model.state_dict().items()}
    result = fxprune.prune(model, inputs, 0.5)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert fxprune.verify(model, result.plan, inputs) < 1e-9
    return result


def test_both_encoders_lose_the_same_channels() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 2, 3, 8, 8).unbind()
    result = pruned(Momentum().eval(), x, y)
    assert result.plan.kept_counts() == {"query.0": 8, "query.2": 6}
    small = result.model
    assert [small.key[0].out_channels, small.key[2].out_channels] == [8, 6]
    before = small.key[0].weight.clone()
    small(x, y)
    assert torch.allclose(small.key[0].weight, 0.9 * before + 0.1 * small.query[0].weight)


def test_what_training_alone_assigns() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 2, 3, 8, 8).unbind()
    result = pruned(InTraining().eval(), x, y)
    assert result.plan.kept_counts()["query.0"] == 8
    assert result.model.train()(x, y).shape == (2,)


class Einsum(Momentum):
    """Its product is one that the probe looks at, for sizes are given there."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            self.follow()
        return torch.einsum("nc,nc->n", self.query(x), self.key(y).detach())


def test_the_check_of_widths_runs_the_assignment_as_it_was_recorded() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 2, 3, 8, 8).unbind()
    assert pruned(Einsum().eval(), x, y).plan.kept_counts() == {"key.0": 8, "key.2": 6}
