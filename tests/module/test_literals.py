"""Widths that stand as literals in a module's code: the module becomes a GraphModule with other literals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxprune
from fxprune.module.literals import NoGraphError, literals, with_literals


class Pad(nn.Module):
    """An option-A shortcut: every second pixel, and new channels of zeros on both sides."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.short = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1), Pad()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))) + self.short(x))


class Net(nn.Module):
    """A view with a literal size behind an option-A block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), Shortcut()
        self.last, self.fc = nn.Conv2d(16, 24, 1), nn.Linear(24 * 16, 2)
        self.note = "kept"

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.block(F.relu(self.stem(x))))
        return self.fc(F.dropout(x.view(-1, 24 * 16), 0.5, training=False))


class Halves(nn.Module):
    """A slice with literal bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 12), nn.Linear(5, 3), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y[:, :5]) + self.c(y[:, 5:12])


class Flag(nn.Module):
    """Depends on its mode: no graph stands for both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.a(x).view(-1, 32), 0.5, self.training))


class Optional(Flag):
    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        return self.b(self.a(x).view(-1, 32))


class Branch(Flag):
    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.a(x) if x.shape[1] == 3 and x.sum() is not None else x).view(-1, 32))


class Unused(Flag):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, 32))


def plan_of(model: nn.Module, x: Tensor, ratio: float = 0.5, **options: Any) -> fxprune.Plan:
    groups = fxprune.find_groups(fxprune.trace(model, x), **options)
    return fxprune.planners.Uniform(ratio)(groups, fxprune.scorers.Random(3)(model, groups))


X = torch.rand(2, 3, 8, 8)


def test_views_and_pads_with_literal_sizes_are_pruned() -> None:
    model = Net()
    plan = plan_of(model, X)
    assert plan.kept_counts() == {"stem": 4, "block.a": 8, "block.b": 4, "last": 12}
    small = fxprune.rewrite(model, plan)
    assert isinstance(small, fx.GraphModule)
    assert isinstance(small.block.short, fx.GraphModule)
    assert isinstance(small.block, Shortcut)
    assert sum(literals(small.block.short)[f"pad[1][{i}]"] for i in (4, 5)) == 4
    assert literals(small)["view[2]"] == 12 * 16
    assert fxprune.verify(model, plan, X) < 1e-9
    assert small.note == "kept"
    assert isinstance(model, Net)


def test_the_rewritten_model_is_an_ordinary_one() -> None:
    model = Net()
    plan = fxprune.Plan.from_json(plan_of(model, X).to_json())
    small = fxprune.rewrite(model, plan)
    assert list(small.state_dict()) == list(model.state_dict())
    fresh = fxprune.rewrite(Net(), plan)
    fresh.load_state_dict(small.state_dict())
    for other in (fresh, copy.deepcopy(small), torch.export.export(small.eval(), (X,)).module()):
        assert torch.equal(other(X), small(X))
    assert small(torch.rand(5, 3, 8, 8)).shape == (5, 2)
    assert small.train().block.short.training
    again = plan_of(small, X)
    assert fxprune.verify(small, again, X) < 1e-9
    assert again.kept_counts()["last"] == 6


def test_bounds_of_slices_follow() -> None:
    model, x = Halves(), torch.rand(3, 4)
    plan = plan_of(model, x, 0.4)
    small = fxprune.rewrite(model, plan)
    assert literals(small) == {"getitem[1][1][1]": 3, "getitem_1[1][1][0]": 3, "getitem_1[1][1][1]": 12}
    assert (small.b.in_features, small.c.in_features) == (3, 5)
    assert fxprune.verify(model, plan, x) < 1e-9


def test_code_can_be_left_as_it_is() -> None:
    model = Net()
    groups = fxprune.find_groups(fxprune.trace(model, X), rewrite_code=False)
    assert [g.name for g in groups] == ["block.a"]
    assert any("code is left as it is" in f.reason for f in groups.fixed)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Flag, "forward depends on the training mode"),
        (Optional, "forward has the optional argument scale"),
        (Unused, "forward does not use spare.weight"),
    ],
)
def test_what_no_graph_stands_for_is_fixed_with_the_reason(kind: type[Flag], reason: str) -> None:
    model, x = kind(), torch.rand(1, 3, 2, 2)
    with pytest.raises(NoGraphError, match=reason):
        literals(model)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert not len(groups)
    assert any(reason in f.reason and "view" in f.where for f in groups.fixed)


def test_control_flow_has_no_graph() -> None:
    with pytest.raises(NoGraphError, match="control flow"):
        literals(Branch())
    model = Halves()
    model.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(NoGraphError, match="set on the instance"):
        literals(model)


def test_finding_literals_leaves_no_trace() -> None:
    model = Net().train()
    before = copy.copy(model.__dict__)
    literals(model)
    assert model.__dict__ == before


def test_a_literal_that_is_not_there_is_refused() -> None:
    with pytest.raises(KeyError):
        with_literals(Net(), {"view[7]": 3})
    plan = plan_of(Net(), X)
    other = Net()
    other.block.short = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(fxprune.PlanError, match=r"no width pad\[1\]\[4\] in 'block.short'"):
        fxprune.rewrite(other, plan)


def test_a_root_module_cannot_change_its_class_in_place() -> None:
    model = Net()
    plan = plan_of(model, X)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(fxprune.PlanError, match=r"cannot be changed in place.*view\[2\].*rewrite_code=False"):
        fxprune.rewrite(model, plan, inplace=True)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_inner_module_changes_in_place() -> None:
    model = nn.Sequential(Shortcut(), nn.Conv2d(16, 2, 1))
    x = torch.rand(2, 8, 8, 8)
    plan = plan_of(model, x)
    expected = fxprune.rewrite(model, plan)(x)
    assert fxprune.rewrite(model, plan, inplace=True) is model
    assert torch.equal(model(x), expected)
