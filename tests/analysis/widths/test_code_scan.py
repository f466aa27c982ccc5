"""Widths that code reads: it checks them, takes branches by them, or computes with them."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import ROUNDING
from torch import Tensor, nn

import fxprune
from fxprune.analysis.grouping.balance import analyse
from fxprune.analysis.widths.equations import gather
from fxprune.analysis.widths.forms import Forms
from fxprune.analysis.widths.polynomials import Parts

Run = Callable[[Any, Tensor], Tensor]
X = torch.rand(1, 3, 8, 8)


class Two(nn.Module):
    """Two layers and some code around them."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.a, self.b, self.c, self.width, self.run = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(8, 4, 1),
            8,
            run,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, self.a(x))


def checked(m: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == m.width
    return m.b(x)  # type: ignore[no-any-return]


def refused(m: Any, x: Tensor) -> Tensor:
    if x.size(1) != 8:
        raise ValueError("8 channels, please")
    return m.b(x)  # type: ignore[no-any-return]


def branched(m: Any, x: Tensor) -> Tensor:
    return m.b(x).relu() if x.shape[1] > 7 else m.b(x).sigmoid()  # type: ignore[no-any-return]


def another_number(m: Any, x: Tensor) -> Tensor:
    return m.b(x) * 2 if x.shape[1] > 7 else m.b(x) * 3  # type: ignore[no-any-return]


def mean_by_hand(m: Any, x: Tensor) -> Tensor:
    return m.b(x * torch.sigmoid(x.sum(1, keepdim=True) / x.shape[1]))  # type: ignore[no-any-return]


def added(m: Any, x: Tensor) -> Tensor:
    return m.b(x) + x.shape[1] ** 0.5  # type: ignore[no-any-return]


def bound(m: Any, x: Tensor) -> Tensor:
    return m.b(x).clamp(max=x.shape[1] / 100)  # type: ignore[no-any-return]


def keyword(m: Any, x: Tensor) -> Tensor:
    y = m.b(x)
    return torch.add(y, y, alpha=x.shape[1])


def filled(m: Any, x: Tensor) -> Tensor:
    return m.b(x) * torch.full((1,), float(x.shape[1]))  # type: ignore[no-any-return]


def counted(m: Any, x: Tensor) -> Tensor:
    return m.c(x) * torch.arange(x.shape[1] // 2).view(1, -1, 1, 1)  # type: ignore[no-any-return]


FIXED = [refused, branched, another_number, mean_by_hand, added, bound, keyword, filled, counted]


@pytest.mark.parametrize("run", FIXED, ids=lambda f: f.__name__)
def test_what_cannot_follow_is_fixed_with_the_reason(run: Run) -> None:
    model = Two(run).eval()
    groups = fxprune.find_groups(fxprune.trace(model, X))
    assert not len(groups)
    fixed = next(f for f in groups.fixed if (f.tensor, f.dim) == ("a.weight", 0))
    assert fixed.reason.startswith("the model's code")
    assert fixed.where.startswith("test_code_scan.py:")


def scaled(m: Any, x: Tensor) -> Tensor:
    return m.b(x * x.shape[1])  # type: ignore[no-any-return]


def scaled_by_a_root(m: Any, x: Tensor) -> Tensor:
    return m.b(x * x.shape[1] ** -0.5)  # type: ignore[no-any-return]


@pytest.mark.parametrize("run", [checked, scaled, scaled_by_a_root], ids=lambda f: f.__name__)
def test_what_can_follow_is_mended_or_folded(run: Run) -> None:
    model = Two(run).eval()
    groups = fxprune.find_groups(fxprune.trace(model, X))
    assert [(g.name, g.size) for g in groups] == [("a", 8)]
    plan = groups.plan({"a": [1, 2, 5]})
    assert fxprune.verify(model, plan, X) <= ROUNDING
    small = fxprune.rewrite(model, plan)
    assert small.width == (3 if run is checked else 8)
    assert len(plan.scales) == (0 if run is checked else 2)


def plain(m: Any, x: Tensor) -> Tensor:
    return m.b(x.relu())  # type: ignore[no-any-return]


def helper(x: Tensor) -> int:
    return x.shape[1]


def by_a_helper(m: Any, x: Tensor) -> Tensor:
    return m.b(x) * helper(x)  # type: ignore[no-any-return]


@functools.wraps(plain)
def decorated(m: Any, x: Tensor) -> Tensor:
    def inner(y: Tensor) -> Tensor:
        return y * y.size(1)

    return plain(m, inner(x))


class Skip(nn.Module):
    """A leaf that does nothing here; only a function that it names, and that does not run, reads a size."""

    def forward(self, x: Tensor) -> Tensor:
        return by_a_helper(self, x) if self.training else x


@pytest.mark.parametrize(
    ("model", "sees"),
    [
        (Two(plain), False),
        (Two(checked), True),
        (Two(by_a_helper), True),
        (Two(decorated), True),
        (nn.Sequential(nn.Conv2d(3, 8, 1), Skip(), nn.Conv2d(8, 4, 1)), False),
        (torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1))), False),
    ],
)
def test_which_code_sees_widths(model: nn.Module, sees: bool) -> None:
    analysis = analyse(fxprune.trace(model, X))
    assert gather(Forms(analysis, Parts(analysis), {})).sighted is sees


class Convolution(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, groups=4)


class Groups(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 4, self.weight, self.bias)


class Layer(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (8,), self.weight, self.bias)


class RootMeanSquare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (8,))


@pytest.mark.parametrize("layer", [Convolution(8, 8, 1, groups=4), Groups(4, 8)], ids=lambda m: type(m).__name__)
def test_literals_in_subclasses_of_layers_are_mended(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 4, 1)).eval()
    groups = fxprune.find_groups(fxprune.trace(model, X))
    plan = groups.plan({"0": [0, 2]})
    assert fxprune.verify(model, plan, X) <= ROUNDING
    assert fxprune.rewrite(model, plan)(X).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("layer", [Layer(8), RootMeanSquare()], ids=lambda m: type(m).__name__)
def test_shapes_of_norms_as_literals_are_mended(layer: nn.Module) -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 3)), torch.rand(2, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("0", 8)]
    small = fxprune.rewrite(model, groups.plan({"0": [1, 4, 6]}))
    hidden = model[0](x)[:, [1, 4, 6]]
    if isinstance(layer, nn.LayerNorm):
        expected = F.layer_norm(hidden, (3,), layer.weight[[1, 4, 6]], layer.bias[[1, 4, 6]])
    else:
        expected = F.rms_norm(hidden, (3,))
    torch.testing.assert_close(small(x), F.linear(expected, model[2].weight[:, [1, 4, 6]], model[2].bias))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_without_weights_know_their_new_width(norm: Any) -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), norm(8, elementwise_affine=False), nn.Linear(8, 3)), torch.rand(2, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert groups["0"].mixed_by
    plan = fxprune.Plan.from_json(groups.plan({"0": [1, 4, 6]}).to_json())
    small = fxprune.rewrite(model, plan)
    assert small[1].normalized_shape == (3,)
    first = model[0](x)[:, [1, 4, 6]]
    expected = model[2].weight[:, [1, 4, 6]] @ norm(3, elementwise_affine=False)(first).t() + model[2].bias[:, None]
    torch.testing.assert_close(small(x), expected.t())


def test_a_module_that_refuses_for_another_reason_ends_the_search() -> None:
    """An LSTM with projections counts its own parameters; nothing that the code holds explains the refusal."""

    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Linear(5, 8), nn.Linear(4, 3)
            self.lstm = nn.LSTM(8, 6, batch_first=True, proj_size=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.lstm(self.before(x))[0])  # type: ignore[no-any-return]

    model, x = Projected().eval(), torch.rand(2, 4, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert fxprune.verify(model, plan, x) <= ROUNDING


def not_a_number(m: Any, x: Tensor) -> Tensor:
    return m.b(torch.where(x > 0, x, x * float("nan")).nan_to_num()) + x.shape[0]  # type: ignore[no-any-return]


def of_another_sign(m: Any, x: Tensor) -> Tensor:
    return m.b(x) * (x.shape[1] - 7)  # type: ignore[no-any-return]


def of_nothing(m: Any, x: Tensor) -> Tensor:
    return m.b(x) * (x.shape[1] - 3)  # type: ignore[no-any-return]


def test_scalars_that_no_power_explains() -> None:
    assert [g.name for g in fxprune.find_groups(fxprune.trace(Two(not_a_number).eval(), X))] == ["a"]
    assert not len(fxprune.find_groups(fxprune.trace(Two(of_another_sign).eval(), X)))
    assert not len(fxprune.find_groups(fxprune.trace(Two(of_nothing).eval(), X)))
