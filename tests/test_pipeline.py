"""`fxprune.prune`: goals, data, steps, the smallest model that is good enough, and mistakes."""

import functools
import itertools
import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import StorageError


class Net(nn.Module):
    """Two convolutions in a row, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.bn, self.c, self.head = nn.BatchNorm2d(32), nn.Conv2d(32, 24, 3, padding=1), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.bn(self.b(self.a(x).relu())).relu()).relu().mean((2, 3)))


X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def parts(result: fxprune.Result[Any]) -> tuple[float, float]:
    before, after = result.report.before, result.report.after
    return after.macs / before.macs, after.parameters / before.parameters


def true_cost(model: nn.Module) -> fxprune.Cost:
    return fxprune.cost(fxprune.find_groups(fxprune.trace(model, X)))


# Goals


@pytest.mark.parametrize("goal", [{"macs": 0.4}, {"parameters": 0.4}, {"macs": 0.4, "parameters": 0.3}])
def test_budgets_are_met_and_used(net: Net, goal: dict[str, float]) -> None:
    result = fxprune.prune(net, X, **goal)
    found = dict(zip(("macs", "parameters"), parts(result), strict=True))
    assert all(found[name] <= limit for name, limit in goal.items())
    assert max(found[name] / limit for name, limit in goal.items()) > 0.9
    assert result.report.after == true_cost(result.model)


def test_a_budget_above_one_is_absolute(net: Net) -> None:
    whole = true_cost(net).macs
    assert parts(fxprune.prune(net, X, macs=whole // 2)) == parts(fxprune.prune(net, X, macs=0.5))
    with pytest.warns(UserWarning, match="nothing was removed: the model as it is meets macs="):
        assert parts(fxprune.prune(net, X, macs=2 * whole)) == (1.0, 1.0)


def _as_predicted(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[dict[str, int]], float]) -> None:
    """Models take in an engine what is predicted."""
    part = lambda groups, counts, engine: seconds(counts) / seconds({})  # noqa: E731
    monkeypatch.setattr("fxprune.planners.measures.part_in_engine", part)


def test_a_latency_is_a_goal(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that takes a millisecond for each channel stands for measured times."""

    def milliseconds(counts: dict[str, int]) -> float:
        return 1e-3 * sum({"a": 16, "b": 32, "c": 24, **counts}.values())

    engines: list[Any] = []

    def measure(groups: Any, progress: bool, engine: Any) -> Any:
        engines.append(engine)
        return milliseconds

    monkeypatch.setattr("fxprune.planners.measures.measure", measure)
    _as_predicted(monkeypatch, milliseconds)
    for goal, engine in ((0.5, None), (36, fxprune.latency.onnx_runtime)):
        result = fxprune.prune(net, X, latency=goal, engine=engine, round_to=1)
        assert sum(result.plan.kept_counts().values()) == 36
        assert result.report.latency == (72.0, 36.0)
        told = "as predicted" if engine is None else "measured in onnx_runtime"
        assert f"72.00 ms ->     36.00 ms (50.0 %), {told}" in str(result.report)
        assert engines.pop() is engine
    assert fxprune.prune(net, X, macs=0.5).report.latency is None


@pytest.mark.parametrize("took", [lambda part: 0.2 + 0.8 * part, lambda part: 0.9, lambda part: part**2])
def test_a_plan_runs_where_it_is_served(took: Any, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget holds for what is measured; where no width meets it, what was measured is told."""

    def milliseconds(counts: dict[str, int]) -> float:
        return 1e-3 * sum({"a": 16, "b": 32, "c": 24, **counts}.values())

    ran: list[int] = []

    def part_in_engine(groups: Any, counts: dict[str, int], engine: Any) -> float:
        ran.append(sum(counts.values()))
        return took(ran[-1] / 72)

    monkeypatch.setattr("fxprune.planners.measures.measure", lambda groups, **_: milliseconds)
    monkeypatch.setattr("fxprune.planners.measures.part_in_engine", part_in_engine)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the allowed widths leave")
        result = fxprune.prune(net, X, latency=0.5, engine=fxprune.latency.onnx_runtime, round_to=1)
    stay = sum(result.plan.kept_counts().values())
    assert ran[-1] == stay
    assert len(ran) <= 6
    assert result.report.latency == pytest.approx((72, 72 * took(stay / 72)))
    assert took(stay / 72) == pytest.approx(0.5, rel=0.05) or took(0) == 0.9


def test_a_multiple_that_is_measured(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the engine that is named, on the model's device, in its type."""

    def best(engine: Any, device: torch.device, dtype: torch.dtype) -> int:
        assert (device, dtype) == (torch.device("cpu"), torch.float32)
        return 8 if engine is fxprune.latency.compiled else 4

    monkeypatch.setattr("fxprune.planners.goals.best_multiple", best)
    found = fxprune.prune(net, X, 0.4, round_to="auto", engine=fxprune.latency.compiled)
    assert found.plan.kept_counts() == fxprune.prune(net, X, 0.4, round_to=8).plan.kept_counts()
    found = fxprune.prune(net, X, 0.6, round_to="auto", steps=2)
    assert all(width % 4 == 0 for width in found.plan.kept_counts().values())


@pytest.mark.filterwarnings("ignore:the allowed widths leave")
def test_a_latency_in_an_engine_takes_the_multiple_that_is_free_there(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two budgets for the same engine, the one that names no multiple of its own has it measured."""
    monkeypatch.setattr("fxprune.planners.goals.best_multiple", lambda engine, device, dtype: 4)

    def milliseconds(counts: dict[str, int]) -> float:
        return 1e-3 * sum({"a": 16, "b": 32, "c": 24, **counts}.values())

    monkeypatch.setattr("fxprune.planners.measures.measure", lambda groups, **_: milliseconds)
    _as_predicted(monkeypatch, milliseconds)
    found = {
        multiple: fxprune.prune(net, X, latency=0.6, engine=fxprune.latency.compiled, round_to=multiple)
        for multiple in (None, 4, 1)
    }
    assert found[None].plan.kept_counts() == found[4].plan.kept_counts() != found[1].plan.kept_counts()
    assert fxprune.prune(net, X, latency=0.6).plan.kept_counts() == found[1].plan.kept_counts()


def test_ratios(net: Net) -> None:
    assert fxprune.prune(net, X, 0.5).plan.kept_counts() == {"a": 8, "b": 16, "c": 12}
    assert fxprune.prune(net, X, pruning_ratio={"b": 0.75}).plan.kept_counts() == {"a": 16, "b": 8, "c": 24}
    assert fxprune.prune(net, X, 0.4, round_to=8).plan.kept_counts() == {"a": 16, "b": 24, "c": 16}


def test_widths_are_multiples_with_a_budget(net: Net) -> None:
    with pytest.warns(UserWarning, match="of the budget unused"):  # the steps are coarse for so small a network
        kept = fxprune.prune(net, X, macs=0.5, round_to=8).plan.kept_counts()
    assert all(count % 8 == 0 for count in kept.values())


@pytest.mark.parametrize("way", [lambda net: ["he*"], lambda net: [net.head], lambda net: net.head.weight])
def test_ignored_takes_names_and_objects(net: Net, way: Callable[[Net], Any]) -> None:
    assert fxprune.prune(net, X, 0.5, ignored=way(net)).plan.kept_counts() == {"a": 8, "b": 16}


@pytest.mark.parametrize("way", [lambda net: "c", lambda net: [net.c], lambda net: ["c.weight"]])
def test_only_what_is_named_loses_channels(net: Net, way: Callable[[Net], Any]) -> None:
    small = fxprune.prune(net, X, 0.5, only=way(net)).model
    assert (small.a.out_channels, small.b.out_channels, small.c.out_channels) == (16, 32, 12)


# Data


def teacher(count: int = 4, seed: int = 1, size: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, 3, 8, 8, generator=generator) for _ in range(count)]


FEW = teacher(1)
"""For tests that ask for no quality of the repair."""


def error(net: nn.Module, small: nn.Module) -> float:
    x = teacher(1, seed=9)[0]
    with torch.no_grad():
        return float((net(x) - small.eval()(x)).square().mean() / net(x).var())


def test_the_report_names_what_no_repair_fits() -> None:
    norm = torch.nn.utils.parametrizations.weight_norm
    layers = norm(nn.Conv2d(3, 12, 3)), nn.ReLU(), norm(nn.Conv2d(12, 12, 3)), nn.ReLU(), nn.Conv2d(12, 4, 1)
    with pytest.warns(UserWarning, match=r"1 of 2 groups are read by computed weights, which no repair fits: 0\.param"):
        report = str(fxprune.prune(nn.Sequential(*layers).eval(), X, macs=0.5, data=FEW).report)
    assert "layers repaired on the data" in report
    with pytest.warns(UserWarning, match="1 of 1 groups are read by computed weights"):
        report = str(fxprune.prune(nn.Sequential(*layers[:3]).eval(), X, macs=0.5, data=FEW).report)
    assert report.endswith("no layer was repaired")
    attention = nn.Sequential(nn.Linear(8, 16), fxprune.untie_attention(nn.TransformerEncoderLayer(16, 2, 32)))
    report = str(fxprune.prune(attention.eval(), X[0, 0][None], macs=0.5, data=[teacher()[0][:, 0]] * 2).report)
    assert "which no repair fits" not in report


def test_repair_does_without_the_callers_autocast(net: Net) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = fxprune.prune(net, X, macs=0.4, data=teacher(1, size=128))
    assert error(net, result.model) < 0.2 * error(net, fxprune.rewrite(net, result.plan))


class Autocast(Net):
    """As accelerate and the trainer of transformers make of a model; and what it must not do inside."""

    casts = False

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x.bfloat16() if self.casts else x).float()


def test_repair_does_without_the_models_own_autocast() -> None:
    """Layers read cast copies of their weights there: nothing was repaired, and the report said that it was."""
    torch.manual_seed(0)
    net = Autocast().eval()
    plain = Net().eval()
    plain.load_state_dict(net.state_dict())
    options: dict[str, Any] = {"scorer": fxprune.scorers.L2Norm(), "data": teacher(1, size=128)}
    found, wanted = (fxprune.prune(m, X, 0.4, **options) for m in (net, plain))
    assert found.plan == wanted.plan
    assert error(plain, wanted.model) < 0.2 * error(plain, fxprune.rewrite(plain, wanted.plan))
    for name in ("b", "c", "head"):
        torch.testing.assert_close(getattr(found.model, name).weight, getattr(wanted.model, name).weight)
    assert not torch.is_autocast_enabled("cpu")


def test_a_model_that_needs_its_autocast_is_refused() -> None:
    net = Autocast().eval()
    net.casts = True
    with pytest.raises(fxprune.InputError, match=r"fails without the autocast that it enters.*leave all casts in it"):
        fxprune.prune(net, X, macs=0.4, data=teacher(1, size=128))
    net.casts = False
    with pytest.raises(fxprune.InputError, match="the model's forward fails on the data in batch 2 of the data"):
        fxprune.prune(net, X, macs=0.4, data=[X, torch.rand(2, 4, 8, 8)])


def test_goals_are_checked_before_an_iterator_is_read(net: Net) -> None:
    data = iter(teacher())
    with pytest.raises(fxprune.InputError, match="two kinds of goals"):
        fxprune.prune(net, X, 0.5, macs=0.5, data=data)
    assert len(list(data)) == len(teacher())


def test_data_repair_the_model(net: Net) -> None:
    bare = fxprune.prune(net, X, macs=0.4)
    assert "without data" in str(bare.report)
    repaired = fxprune.prune(net, X, macs=0.4, data=teacher())
    assert "layers repaired on the data" in str(repaired.report)
    assert error(net, repaired.model) < 0.2 * error(net, bare.model)
    cut_only = fxprune.prune(net, X, macs=0.4, data=teacher(), repair=False)
    assert torch.equal(cut_only.model.c.bias, fxprune.rewrite(net, cut_only.plan).c.bias)


def uneven() -> nn.Sequential:
    """Eleven channels that nobody reads in the first layer, none in the second: one ratio for both is wrong."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))
    net[2].weight.data[:, :11] = 0
    return net


def test_with_data_a_budget_is_reached_by_the_better_of_two_plans() -> None:
    data = [torch.randn(64, 8) for _ in range(4)]
    net = uneven()
    found = fxprune.prune(net, data[0], macs=0.6, data=data)
    assert found.plan.kept_counts()["0"] <= 12 < 16 <= found.plan.kept_counts()["2"]
    assert found.report.after.macs <= 0.6 * found.report.before.macs
    both = fxprune.prune(net, data[0], macs=0.6, parameters=0.5, data=data)
    assert both.report.after.parameters <= 0.5 * both.report.before.parameters
    assert both.report.after.macs <= 0.6 * both.report.before.macs
    cut_only = fxprune.prune(net, data[0], macs=0.6, data=data, repair=False)
    assert cut_only.plan.kept_counts()["2"] >= 16
    own = fxprune.prune(net, data[0], macs=0.6, data=data, scorer=fxprune.scorers.JointElimination())
    assert own.plan != found.plan  # a scorer of the caller's need not give errors


@pytest.mark.parametrize("form", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_model_that_holds_a_sparse_matrix(form: str) -> None:
    class Graph(nn.Module):
        """Layers in front of a product with the nodes' neighbours."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(8, 64), nn.Linear(64, 48), nn.Linear(48, 4)
            self.register_buffer("adjacency", getattr((torch.rand(50, 50) > 0.8).float(), form)())

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(self.adjacency, self.third(self.second(self.first(x).relu()).relu()))

    torch.manual_seed(0)
    data = [torch.randn(50, 8) for _ in range(4)]
    found = fxprune.prune(Graph(), data[0], pruning_ratio=0.5, data=data)
    assert found.report.deviation is not None
    assert found.report.deviation <= 1e-6
    assert found.plan.kept_counts() == {"first": 32, "second": 24}


@functools.cache
def without_form() -> fxprune.Result[Net]:
    """What comes of plain batches, which batches of all other forms are compared with."""
    torch.manual_seed(0)
    return fxprune.prune(Net().eval(), X, pruning_ratio=0.4, data=teacher(2))


@pytest.mark.parametrize(
    ("wrap", "unpack"),
    [
        (lambda x: (x, torch.zeros(len(x))), None),
        (lambda x: {"image": x, "label": torch.zeros(len(x))}, lambda batch: batch["image"]),
        (lambda x: {"image": x, "label": 0}, lambda batch: (batch["image"], batch["label"])),
        (lambda x: {"x": x, "label": torch.zeros(len(x))}, None),
    ],
)
def test_batches_of_other_forms(net: Net, wrap: Callable[[Tensor], Any], unpack: Any) -> None:
    expected = without_form()
    found = fxprune.prune(net, X, pruning_ratio=0.4, data=[wrap(x) for x in teacher(2)], unpack=unpack)
    assert found.plan == expected.plan
    assert torch.equal(found.model.head.weight, expected.model.head.weight)


def test_a_generator_is_enough(net: Net) -> None:
    found = fxprune.prune(net, X, macs=0.4, data=(x for x in teacher(2)))
    assert found.plan == fxprune.prune(net, X, macs=0.4, data=teacher(2)).plan


@pytest.mark.filterwarnings("ignore:the allowed widths leave")
def test_only_so_many_samples_are_read() -> None:
    layers = nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    net, x, read = nn.Sequential(*layers), torch.rand(64, 4), list[int]()

    class Endless:
        def __iter__(self) -> Any:
            for i in range(10**6):
                read.append(i)
                yield x

    fxprune.prune(net, x, macs=0.4, data=Endless())
    assert max(read) == 1024 // 64 - 1
    read.clear()
    fxprune.prune(net, x, macs=0.4, data=fxprune.Batches(Endless(), samples=100))
    assert max(read) == 1


# Steps


def test_steps_compose_into_one_plan(net: Net) -> None:
    tuned: list[int] = []

    def tune(small: Net) -> None:
        tuned.append(small.b.out_channels)
        with torch.no_grad():
            small.head.bias += 1

    result = fxprune.prune(net, X, macs=0.3, steps=3, tune=tune)
    assert len(tuned) == 3
    assert tuned == sorted(tuned, reverse=True)
    assert 0.25 < parts(result)[0] <= 0.3
    assert result.report.after == true_cost(result.model)
    torch.testing.assert_close(result.model.head.bias, net.head.bias + 3)
    cut = fxprune.rewrite(net, result.plan)
    assert torch.equal(cut.b.weight, result.model.b.weight)


def test_a_ratio_that_removes_nothing_says_so(net: Net) -> None:
    with pytest.warns(UserWarning, match="nothing was removed") as told:
        report = fxprune.prune(net, X, 0.5, round_to=64).report
    assert "pruning_ratio=0.5 with round_to=64 leaves widths of 16, 24, 32 whole; give a larger ratio or a smaller" in (
        str(report)
    )
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=r"={'a': 0.01} leaves widths of 16 whole; give a larger ratio$"):
        fxprune.prune(net, X, {"a": 0.01}, steps=2)
    assert "nothing was removed" not in str(fxprune.prune(net, X, 0.0).report)  # as it was asked for


def test_a_budget_that_is_met_already_says_so(net: Net) -> None:
    with pytest.warns(
        UserWarning, match=r"nothing was removed: the model as it is meets macs=1e\+09 and parameters=5e"
    ):
        report = fxprune.prune(net, X, macs=1e9, parameters=5e8).report
    assert "nothing was removed" in str(report)
    assert "nothing was removed" not in str(fxprune.prune(net, X, macs=1).report)  # as it was asked for


def test_steps_that_have_nothing_left_to_do_hide_no_proof(net: Net) -> None:
    result = fxprune.prune(net, X, 0.5, steps=4, round_to=8, verify=True)
    assert result.plan.cuts()
    assert "nothing is pruned" not in str(result.report)
    assert result.report.deviation is not None


def test_ratios_in_steps_multiply(net: Net) -> None:
    assert fxprune.prune(net, X, 0.75, steps=2).plan.kept_counts() == {"a": 4, "b": 8, "c": 6}


def row(width: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2 * width, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    )


@pytest.mark.one_in(2)
@pytest.mark.parametrize("steps", [2, 4, 9, 40])
@pytest.mark.parametrize(
    ("goal", "width"),
    [
        ({"pruning_ratio": 0.5}, 16),
        ({"pruning_ratio": 0.5, "round_to": 8}, 32),
        ({"pruning_ratio": {"0": 0.75, "2": 0.1}}, 16),
        ({"macs": 0.5, "round_to": 8}, 32),
        ({"parameters": 0.3}, 16),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:the allowed widths leave")
def test_steps_end_where_one_cut_does(goal: dict[str, Any], width: int, steps: int) -> None:
    torch.manual_seed(0)
    model, image, seen = row(width), torch.rand(1, 3, 8, 8), []
    at_once = fxprune.prune(model, image, **goal)

    def tune(small: Any) -> None:
        seen.append((small[0].out_channels, small[2].out_channels))

    result = fxprune.prune(model, image, steps=steps, tune=tune, verify=steps < 9, **goal)
    assert result.report.kept == at_once.report.kept
    assert len(seen) == steps
    assert all(after <= before for one, two in itertools.pairwise(seen) for before, after in zip(one, two, strict=True))
    assert len(set(seen)) >= min(steps, 3)  # the cuts are spread


# The smallest model that is good enough


def test_the_smallest_model_that_loses_no_more(net: Net) -> None:
    def evaluate(model: Net) -> float:
        return 1.0 if model.b.out_channels >= 20 else 0.5

    result = fxprune.prune(net, X, evaluate=evaluate, max_drop=0.1)
    assert 20 <= result.model.b.out_channels < 26
    assert len(result.report.history) > 3
    with pytest.warns(UserWarning, match="nothing was removed: no candidate was smaller and lost at most 0 of 32"):
        none = fxprune.prune(net, X, evaluate=lambda model: float(model.b.out_channels), max_drop=0.0)
    assert none.model.b.out_channels == 32


def test_candidates_are_repaired_and_tuned(net: Net) -> None:
    seen: list[bool] = []

    def tune(small: Net) -> None:
        small.tuned = True

    def evaluate(model: Net) -> float:
        seen.append(getattr(model, "tuned", False))
        return -error(net, model)

    result = fxprune.prune(net, X, evaluate=evaluate, max_drop=0.05, data=teacher(1, size=128), tune=tune)
    assert seen[0] is False
    assert all(seen[1:])
    assert error(net, result.model) <= 0.05
    assert parts(result)[0] < 0.8


def test_models_are_judged_and_returned_in_the_modes_of_the_original(net: Net) -> None:
    net.eval()
    net.head.train()  # modes may be mixed
    seen = []

    def evaluate(model: Net) -> float:
        seen.append((model.training, model.a.training, model.head.training))
        model.train()
        return 1.0

    def tune(small: Net) -> None:
        assert not small.training
        small.train()

    found = fxprune.prune(net, X, evaluate=evaluate, max_drop=0.5, tune=tune).model
    assert len(seen) > 2
    for model in (found, fxprune.prune(net, X, 0.5, tune=tune, steps=2).model, net):
        seen.append((model.training, model.a.training, model.head.training))
    assert set(seen) == {(False, False, True)}


def test_an_interrupted_search_goes_on_from_its_folder(net: Net, tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(model: Net) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return -error(net, model)

    def search() -> fxprune.Result[Net]:
        return fxprune.prune(net, X, evaluate=evaluate, max_drop=0.05, data=FEW, folder=tmp_path)

    with pytest.raises(KeyboardInterrupt, match=re.escape(f"the best so far are in {tmp_path}")):
        search()
    resumed = search()
    first_run = 3
    assert len(calls) - 4 == len(resumed.report.history) + 1 - first_run  # the original is evaluated as well
    calls[:] = [1] * 4
    whole = fxprune.prune(net, X, evaluate=evaluate, max_drop=0.05, data=FEW)
    assert whole.plan.kept_counts() == resumed.plan.kept_counts()
    assert all(map(torch.equal, whole.model.state_dict().values(), resumed.model.state_dict().values()))


def test_a_folder_is_of_one_search(net: Net, tmp_path: Path) -> None:
    def evaluate(model: Net) -> float:
        return -error(net, model)

    for repair, told in ((True, None), (False, "repair")):
        context = nullcontext() if told is None else pytest.raises(fxprune.InputError, match=told)
        with context:
            fxprune.prune(net, X, evaluate=evaluate, max_drop=0.05, data=FEW, repair=repair, folder=tmp_path / "runs")
    with pytest.raises(fxprune.InputError, match="folder= is for searches"):
        fxprune.prune(net, X, 0.5, folder=tmp_path)


# Mistakes


def test_a_number_that_was_meant_as_a_percentage(net: Net) -> None:
    told = r"the budget cannot be reached; seen: macs=50, where one channel of each group costs [\d,]+; remedy: "
    for data in (None, teacher()):
        with pytest.raises(fxprune.InputError, match=told + "a larger number; .* and macs=0.5 keeps half"):
            fxprune.prune(net, X, macs=50, data=data)


def test_numbers_of_numpy(net: Net) -> None:
    assert parts(fxprune.prune(net, X, macs=np.float32(0.5))) == parts(fxprune.prune(net, X, macs=0.5))


def test_places_that_cannot_be_written(net: Net, tmp_path: Path) -> None:
    """The error names the file or folder that was wanted; what else lies there stays as it is."""
    result = fxprune.prune(net, X, 0.5)
    (tmp_path / "taken").write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    for path, where in (("taken/small", "taken/small"), ("folder.safetensors", "folder.safetensors")):
        with pytest.raises(StorageError, match=rf"in \S*{where}; seen: \w+: .*; remedy: move what has this name"):
            result.save(tmp_path / path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.safetensors", "taken"]


def test_a_scorer_that_leaves_groups_out(net: Net) -> None:
    with pytest.raises(fxprune.InputError, match="a group has no scores in a; remedy: score all groups"):
        fxprune.prune(net, X, 0.5, scorer=lambda model, groups, data: {})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "no goal is given; remedy: give macs=0.5, parameters=0.5, latency=0.5 (what stays), pruning_ratio=0.5"),
        ({"macs": 0.5, "pruning_ratio": 0.5}, "two kinds of goals; seen: macs=0.5 and pruning_ratio=0.5"),
        ({"macs": 0.5, "planner": fxprune.planners.Uniform(0.5)}, "goals that exclude each other; seen: macs="),
        ({"planner": 0.5}, "the planner is not a function; seen: 0.5; remedy: give an object such as"),
        ({"planner": fxprune.planners.Uniform}, "the planner is a class; seen: Uniform; remedy: give an instance"),
        ({"pruning_ratio": 0.5, "scorer": "l1"}, "give an object such as fxprune.scorers.L1Norm()"),
        ({"pruning_ratio": 0.5, "scorer": fxprune.scorers.L2Norm}, "the scorer is a class; seen: L2Norm; remedy"),
        ({"pruning_ratio": 50}, "the pruning ratio is not a number in [0, 1); seen: 50; remedy: give 0.5 for 50 %"),
        ({"pruning_ratio": {"a": 1.5}}, "the pruning ratio is not a number in [0, 1); seen: 1.5"),
        ({"pruning_ratio": {}}, "pruning_ratio names nothing; seen: {}; remedy: give {name or pattern"),
        ({"pruning_ratio": "half"}, "the pruning ratio is not a number in [0, 1); seen: 'half'"),
        ({"macs": 0}, "macs out of range; seen: 0; remedy: give what may stay"),
        (
            {"latency": -1},
            "latency out of range; seen: -1; remedy: give what may stay: a part of",
        ),
        ({"macs": True}, "macs out of range; seen: True"),
        ({"macs": 10**5000}, "macs out of range; seen: an integer of 16610 bits"),
        ({"pruning_ratio": 10**400}, "the pruning ratio is not a number in [0, 1); seen: an integer of 1329 bits"),
        ({"macs": 0.5, "round_to": 0}, "round_to must be a positive integer"),
        ({"macs": 0.5, "round_to": True}, "round_to must be a positive integer; seen: True"),
        ({"macs": 0.5, "round_to": "8"}, "round_to must be a positive integer; seen: '8'; remedy: 8 or 16 are usual"),
        ({"macs": 0.5, "engine": len}, "engine= has nothing to measure; seen: len; remedy: give it with latency= or"),
        (
            {"latency": 0.5, "engine": "onnx"},
            "the engine is not a function; seen: 'onnx'; remedy: give fxprune.latency.",
        ),
        ({"planner": fxprune.planners.Uniform(0.5), "round_to": "auto"}, "round_to= does not reach a planner of yours"),
        ({"macs": 0.5, "steps": 0}, "steps must be a positive integer; seen: 0"),
        ({"planner": fxprune.planners.Uniform(0.5), "steps": 2}, "steps= needs a goal that can be parted"),
        ({"planner": fxprune.planners.Uniform(0.5), "round_to": 8}, "round_to= does not reach a planner of yours"),
        ({"max_drop": 0.1}, "evaluate= and max_drop= need each other"),
        ({"max_drop": -1, "evaluate": len}, "max_drop is not a number in [0, inf); seen: -1"),
        ({"macs": 0.5, "max_drop": 0.1, "evaluate": len}, "goals that exclude each other"),
        ({"macs": 0.5, "tune": 3}, "tune is not a function; seen: 3"),
        ({"macs": 0.5, "data": X}, "the data is one batch; seen: Tensor; remedy: give a list of batches"),
        ({"macs": 0.5, "data": 3}, "the data cannot be iterated; seen: int"),
        ({"macs": 0.5, "data": [X], "unpack": 3}, "unpack is not a function; seen: 3"),
        ({"macs": 0.5, "ignored": [3]}, "this names no part of the model; seen: int"),
        ({"macs": 0.5, "ignored": nn.Linear(1, 1)}, "seen: Linear of another model"),
        (
            {"macs": 0.5, "only": "nobody"},
            "no prunable group has the name or pattern; seen: nobody; remedy: groups: a, b",
        ),
    ],
)
def test_mistakes_are_told_before_anything_runs(net: Net, arguments: dict[str, Any], told: str) -> None:
    ran: list[int] = []
    if "only" not in arguments:
        net.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(fxprune.InputError, match=re.escape(told)):
        fxprune.prune(net, X, **arguments)
    assert not ran


def test_swapped_arguments(net: Net) -> None:
    with pytest.raises(fxprune.InputError, match="model and example inputs are swapped"):
        fxprune.prune(X, net, 0.5)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("evaluate", "max_drop", "told"),
    [
        (lambda m: 0.9 if m[0].out_channels == 8 else 0.1, 0.01, "nothing was removed: no candidate was smaller"),
        (lambda m: 0.9 if m[0].out_channels == 8 else float("nan"), 0.01, "evaluate gave NaN for"),
        (lambda m: 0.9, 5, "a loss of 5 also allows for a value of 0, since the original's value is 0.9"),
    ],
)
def test_what_may_surprise_of_a_search(evaluate: Any, max_drop: float, told: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.warns(UserWarning, match=told):
        result = fxprune.prune(net, torch.zeros(1, 3, 8, 8), evaluate=evaluate, max_drop=max_drop)
    assert any(told in line for line in result.report.warnings())


def test_a_loss_may_be_below_zero() -> None:
    """`evaluate` may be a negative loss: 0 says nothing there."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    loss = lambda m: -1.0 / m[0].out_channels  # noqa: E731
    result = fxprune.prune(net, torch.zeros(1, 3, 8, 8), evaluate=loss, max_drop=0.2)
    assert result.plan.cuts()
    assert not result.report.warnings()


def test_a_truth_value_is_no_loss() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(fxprune.InputError, match="max_drop is not a number"):
        fxprune.prune(net, torch.zeros(1, 3, 8, 8), evaluate=lambda m: 1.0, max_drop=True)


def test_a_failure_of_a_later_step_names_it() -> None:
    class Failing(fxprune.scorers.L2Norm):
        def __call__(self, model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, torch.Tensor]:
            return {name: t / (len(t) == 16) * t for name, t in super().__call__(model, groups).items()}

    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 10, 3))
    with pytest.raises(fxprune.InputError, match=r"step 2 of 2 fails; seen: .*; remedy: .*fewer steps"):
        fxprune.prune(net, torch.rand(2, 3, 16, 16), macs=0.4, steps=2, scorer=Failing())
