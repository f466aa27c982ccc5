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


class Tail(nn.Module):
    """Tokens behind the fifth get a learned vector: in an example of five there are none."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 12), nn.Linear(12, 4)
        self.t, self.in_place = nn.Parameter(torch.randn(16)), in_place

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        if self.in_place:
            q[:, 5:] += self.t
        else:
            q = torch.cat([q[:, :5], q[:, 5:] + self.t], 1)
        y: Tensor = self.out((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ self.v(x))
        return y


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_empty_for_the_example_takes_up_nothing(in_place: bool) -> None:
    model = Tail(in_place).eval()
    plan = fxprune.find_groups(fxprune.trace(model, torch.randn(2, 5, 8))).plan({"q": [0, 2, 5, 7]})
    assert {s.tensor for s in plan.scales} == {"k.weight", "k.bias"}
    small = fxprune.rewrite(model, plan)
    fxprune.mask(model, plan)
    x = torch.randn(2, 9, 8)
    torch.testing.assert_close(small(x), model(x))


class Compared(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.out, self.how = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 12, 1), nn.Conv2d(12, 4, 1), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.how == "if" and y.shape[1] > y.shape[2]:
            y = y * 2
        elif self.how == "min":
            y = y / min(y.shape[1], y.shape[2])
        z: Tensor = self.out(self.b(y))
        return z


@pytest.mark.parametrize("how", ["if", "min"])
def test_a_width_that_is_compared_with_a_size_of_the_input_stays(how: str) -> None:
    """What is smaller for the example is the larger one for other inputs."""
    groups = fxprune.find_groups(fxprune.trace(Compared(how).eval(), torch.randn(1, 3, 20, 20)))
    assert [g.name for g in groups] == ["b"]
    assert "compares this width with a size of the inputs" in str(groups.why("a"))


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


class Returned(WithPositions):
    """The products are an output as well: nothing may scale them."""

    def forward(self, x: Tensor) -> Any:
        q, k = self.q(x), self.k(x)
        products = q @ k.transpose(1, 2)
        return self.out((products * q.shape[-1] ** -0.5).softmax(-1) @ self.v(x)), products


def test_products_that_are_an_output_as_well_are_not_scaled() -> None:
    groups = fxprune.find_groups(fxprune.trace(Returned(7).eval(), torch.randn(2, 7, 8)))
    assert [g.name for g in groups] == ["v"]
