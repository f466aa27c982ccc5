"""A scale that follows a width, of a product of which one layer has made both factors: it takes up the root."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Correlation(nn.Module):
    """All pairs of positions in two images, as in RAFT; one encoder for both, or two."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.f, self.out = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(64, 2, 1)
        self.g = self.f if shared else nn.Conv2d(3, 12, 3, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.f(x), self.g(y)
        n, d, h, w = a.shape
        c = a.view(n, d, h * w).transpose(1, 2) @ b.view(n, d, h * w)
        z: Tensor = self.out(c.view(n, h * w, h, w) / torch.sqrt(torch.tensor(d).float()))
        return z


class OneProjection(nn.Module):
    """Attention whose queries are its keys."""

    def __init__(self, elsewhere: bool) -> None:
        super().__init__()
        self.qk, self.v, self.out, self.elsewhere = nn.Linear(8, 16), nn.Linear(8, 12), nn.Linear(12, 4), elsewhere
        self.also = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        q = self.qk(x)
        weights = (q @ q.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)
        y = self.out(weights @ self.v(x))
        return (y, self.also(q.mean(1))) if self.elsewhere else y


@pytest.mark.parametrize("shared", [True, False])
def test_one_encoder_for_two_images(shared: bool) -> None:
    model, x = Correlation(shared).eval(), (torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16))
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert result.model.f.out_channels == 6
    # Scaled by the fourth root of 6 / 12 in each of two factors that one layer makes, else by its root in one of them.
    kept = model.f.weight[result.plan.groups["f"].kept.tolist()]
    torch.testing.assert_close(result.model.f.weight, kept * 0.5 ** (0.25 if shared else 0.5))
    masked = Correlation(shared).eval()
    masked.load_state_dict(model.state_dict())
    fxprune.mask(masked, result.plan)
    torch.testing.assert_close(result.model(*x), masked(*x))


class WithPositions(nn.Module):
    """Learned positions are added to the queries; an example reads some of them."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 12), nn.Linear(12, 4)
        self.positions = nn.Parameter(torch.randn(rows, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x) + self.positions[: x.shape[1]], self.k(x)
        y: Tensor = self.out((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ self.v(x))
        return y


@pytest.mark.parametrize("rows", [7, 20])
def test_a_table_takes_up_a_scale_as_a_whole_or_not_at_all(rows: int) -> None:
    model, x = WithPositions(rows).eval(), torch.randn(2, 7, 8)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"q": [0, 2, 5, 7]})
    assert ("positions" in [s.tensor for s in plan.scales]) == (rows == 7)
    assert fxprune.verify(model, plan, x) < 1e-12
    if rows == 20:
        assert fxprune.verify(model, plan, torch.randn(2, 15, 8)) < 1e-12


def test_queries_that_are_the_keys() -> None:
    model, x = OneProjection(elsewhere=False).eval(), torch.randn(2, 5, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"qk": [0, 2, 5, 7]})
    assert fxprune.verify(model, plan, x) < 1e-12
    small = fxprune.rewrite(model, plan)
    torch.testing.assert_close(small.qk.bias, model.qk.bias[[0, 2, 5, 7]] / math.sqrt(2))


def test_what_else_reads_them_must_not_be_scaled() -> None:
    groups = fxprune.find_groups(fxprune.trace(OneProjection(elsewhere=True).eval(), torch.randn(2, 5, 8)))
    assert "v" in [g.name for g in groups]
    assert "qk" not in [g.name for g in groups]
    assert "the model's code holds this width: scalar" in str(groups.why("qk"))
