"""Tensors in plain attributes: which are cut like buffers, and which stay what the code makes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from footprints import no_footprints
from oracle import check
from torch import Tensor, nn

import fxprune
from fxprune.module.tensors import tensors_of


class Positions(nn.Module):
    """Adds a table of positions, as sine and cosine tables often are kept."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 3)
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = self.b((h + self.table.to(h.device, dtype=h.dtype)).relu())
        return self.out(h.relu())  # type: ignore[no-any-return]


def table() -> Tensor:
    return torch.linspace(-1, 1, 40).reshape(5, 8)


def inputs(batch: int) -> tuple[Any, ...]:
    return (torch.randn(batch, 5, 6, generator=torch.Generator().manual_seed(1)),)


def positions() -> nn.Module:
    torch.manual_seed(0)
    return Positions(table()).eval()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_pruned_equals_masked(ratio: float) -> None:
    """Also after a round trip through the plan's file, in training, and in what it costs."""
    plan = check(positions, inputs, ratio)
    assert set(plan.kept_counts()) == {"a", "b"}
    assert plan.cuts()["table"].keys() == {1}


def test_the_table_loses_the_layers_channels() -> None:
    model = positions()
    groups = fxprune.find_groups(fxprune.trace(model, inputs(1)))
    plan = groups.plan({"a": [1, 4, 6]})
    with no_footprints(model, *inputs(1)):
        small = fxprune.rewrite(model, plan)
    assert torch.equal(small.table, table()[:, [1, 4, 6]])
    fxprune.rewrite(model, plan, inplace=True)
    assert torch.equal(model.table, small.table)
    torch.testing.assert_close(model(*inputs(2)), small(*inputs(2)), rtol=0, atol=0)


def test_repairs_files_and_steps(tmp_path: Path) -> None:
    model = positions()
    data = [torch.randn(32, 5, 6) for _ in range(4)]
    result = fxprune.prune(model, inputs(1), macs=0.5, data=data)
    result.save(tmp_path)
    again = fxprune.load(tmp_path, positions())
    torch.testing.assert_close(again(data[0]), result.model(data[0]), rtol=0, atol=0)
    stepwise = fxprune.prune(model, inputs(1), pruning_ratio=0.5, steps=2)
    assert stepwise.model.table.shape == (5, 4)
    pruner = fxprune.Gradual(model, inputs(1), epochs=[0, 1], pruning_ratio=0.5)
    assert [pruner.step(0), pruner.step(1)] == [True, True]
    assert model.table.shape == (5, 4)


def test_of_meta_tensors() -> None:
    with torch.device("meta"):
        groups = fxprune.find_groups(fxprune.trace(Positions(torch.zeros(5, 8)).eval(), inputs(1)))
    assert [(g.name, g.size) for g in groups] == [("a", 8), ("b", 12)]


class Cached(Positions):
    """Writes what it computes into the table, and reads that."""

    def forward(self, x: Tensor) -> Tensor:
        self.table[: x.shape[1]] = self.a(x[0])
        return self.out(self.b(self.table[: x.shape[1]].relu()).relu())  # type: ignore[no-any-return]


def test_a_cache_that_is_written_to_shrinks() -> None:
    torch.manual_seed(0)
    model = Cached(table()).eval()
    with no_footprints(model, *inputs(1)):
        result = fxprune.prune(model, inputs(1), 0.5)
    assert result.report.kept == {"a": 4, "b": 6}
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-6
    assert result.model.table.shape == (5, 4)


class Renewed(Positions):
    """Makes a longer table where one is needed, of the width that it knows."""

    def forward(self, x: Tensor) -> Tensor:
        if len(self.table) < x.shape[1]:
            self.table = torch.zeros(x.shape[1], 8)
        return super().forward(x)


class InAList(Positions):
    def __init__(self, table: Tensor) -> None:
        super().__init__(table)
        self.tables = [table.clone()]
        del self.table

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b((self.a(x) + self.tables[0]).relu()))  # type: ignore[no-any-return]


def with_history() -> Tensor:
    return nn.Parameter(table()) * 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: Renewed(table()),
        lambda: InAList(table()),
        lambda: Positions(with_history()),
        lambda: Positions(table().requires_grad_()),
    ],
    ids=["assigned by the forward", "in a list", "with a history", "with a gradient"],
)
def test_what_may_change_or_is_kept_elsewhere_holds_the_channels(build: Callable[[], nn.Module]) -> None:
    groups = fxprune.find_groups(fxprune.trace(build().eval(), inputs(1)))
    assert [g.name for g in groups] == ["b"]
    reasons = {d.reason for d in groups.fixed if d.tensor == "a.weight" and d.dim == 0}
    assert any("constant held by the model's code" in r for r in reasons)


def test_views_of_weights_follow_them() -> None:
    """A view has its owner's memory, and would be a tensor by itself after a cut."""
    model = positions()
    model.a.register_buffer("whole", table())
    model.table = model.a.whole[:]
    assert "table" not in tensors_of(model)
    assert "a.whole" in tensors_of(model)
    groups = fxprune.find_groups(fxprune.trace(model, inputs(1)))
    assert [g.name for g in groups] == ["b"]


def test_views_of_one_another_stay() -> None:
    """What is written to one shows in the other, which two smaller tensors would not do."""
    model = positions()
    model.a.first = model.table[:2]
    assert {n for n in tensors_of(model) if "table" in n or "first" in n} == set()
    assert [g.name for g in fxprune.find_groups(fxprune.trace(model, inputs(1)))] == ["b"]


def test_one_tensor_in_two_attributes_is_cut_once() -> None:
    class Twice(Positions):
        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.out(self.b((h + self.table + 0.5 * self.a.again).relu()).relu())  # type: ignore[no-any-return]

    model = Twice(table()).eval()
    model.a.again = model.table
    assert sum("table" in n or "again" in n for n in tensors_of(model)) == 1
    result = fxprune.prune(model, inputs(1), 0.5)
    assert result.report.kept["a"] == 4
    assert result.model.table is result.model.a.again


class Counting(nn.Module):
    """Keeps statistics that no weight has a part in."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        if buffer:
            self.register_buffer("seen", torch.zeros(2))
        else:
            self.seen = torch.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return self.b(self.a(x).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("buffer", [False, True])
def test_statistics_alone_are_no_group(buffer: bool) -> None:
    """A group of nothing but a buffer could not be scored, and would bring nothing."""
    model = Counting(buffer).eval()
    result = fxprune.prune(model, torch.randn(2, 6), 0.5)
    assert result.report.kept == {"a": 4}
    (reason,) = {d.reason for d in result.report.groups.fixed if d.tensor == "seen"}
    assert reason == "no parameter and no layer has these channels"
    assert model.seen.tolist() == [0, 0]
