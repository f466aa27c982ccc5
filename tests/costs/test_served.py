"""Latency in engines: what is fitted, what is kept, and that the engines run the model."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.costs.latency import model as rooms
from fxprune.costs.latency import multiples, served
from fxprune.costs.latency.calls import calls_of
from fxprune.costs.latency.engines import compiled, engine_name, onnx_runtime
from fxprune.costs.latency.timer import median_by_turns
from fxprune.planners import Budget

FACTORS = {"convolution": 0.4, "addmm": 3.0, "mean": 1.0}  # what is not named is fused away
OVERHEAD = 2.0


class Shapes:
    """In place of a timer: a time that follows from the shapes."""

    def __init__(self, device: torch.device) -> None:
        pass

    def __call__(self, op: Any, args: Any, kwargs: Any) -> float | None:
        return float(
            sum(torch.Size(shape[:2]).numel() * (shape[-1] if len(shape) > 2 else 1) for shape in shapes(args))
        )


def shapes(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, tuple) and len(value) == 2 and hasattr(value[0], "is_weight"):
        return [value[1]]
    return [s for v in value for s in shapes(v)] if isinstance(value, (tuple, list)) else []


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 48, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)),
    ).eval()


def groups_of(model: nn.Module) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 3, 8, 8)))


known: dict[tuple[torch.Size, ...], float] = {}


def truth(model: nn.Module) -> float:
    """What the engine takes for a model, which follows from the shapes of its weights."""
    key = tuple(p.shape for p in model.parameters())
    if key not in known:
        known[key] = analysed(model)
    return known[key]


def analysed(model: nn.Module) -> float:
    timer, total = Shapes(torch.device("cpu")), OVERHEAD
    for call in calls_of(groups_of(model).analysis):
        args, kwargs = call.at([axis.full for axis in call.axes])
        total += FACTORS.get(call.op._opname, 0.0) * (timer(call.op, args, kwargs) or 0.0)
    return total


made: Counter[str] = Counter()


def engine(model: nn.Module, inputs: Any) -> Callable[[], float]:
    made["models"] += 1
    return partial(truth, model)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed."""
    made.clear()
    monkeypatch.setattr(rooms, "Timer", Shapes)
    monkeypatch.setattr(rooms, "by_turns", lambda models, *_: [[1.0], [1.0]])
    monkeypatch.setattr(served, "median_by_turns", lambda runs, *_, **__: [run() for run in runs])


def measured(model: nn.Module, path: Path) -> fxprune.latency.Latency:
    return fxprune.latency.measure(groups_of(model), path, rounds=1, progress=False, engine=engine)


def test_kinds_of_ops_are_fitted_to_whole_models(times: None, tmp_path: Path) -> None:
    """At widths of the grid, where times in PyTorch are exact."""
    model = net()
    groups, latency = groups_of(model), measured(model, tmp_path)
    for widths in ({}, {"0": 16}, {"3": 17}, {"0": 32, "3": 16}, {"0": 1, "3": 48}):
        small = fxprune.rewrite(model, groups.plan({name: range(n) for name, n in widths.items()}))
        assert latency(widths) == pytest.approx(truth(small), rel=0.03)


def test_an_engine_that_works_on_blocks(times: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the ends of blocks, a part of a block takes as long as the whole."""
    model = net()

    def whole_blocks(model: nn.Module) -> float:
        widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
        full = {"0": min(40, -(-widths[0] // 16) * 16), "3": min(48, -(-widths[1] // 16) * 16)}
        small = fxprune.rewrite(net(), groups_of(net()).plan({name: range(n) for name, n in full.items()}))
        return truth(small)

    monkeypatch.setattr(served, "median_by_turns", lambda runs, *_, **__: [whole_blocks(run.args[0]) for run in runs])
    groups, latency = groups_of(model), measured(model, tmp_path)
    for widths in ({"0": 20}, {"0": 17, "3": 33}, {"3": 20}, {"0": 32, "3": 32}):
        small = fxprune.rewrite(model, groups.plan({name: range(n) for name, n in widths.items()}))
        assert latency(widths) == pytest.approx(whole_blocks(small), rel=0.05)


def test_an_engine_with_a_quick_way_for_multiples(times: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions take five times as long where 4 does not divide a width."""
    model = net()

    def slow_else(model: nn.Module) -> float:
        timer, total = Shapes(torch.device("cpu")), truth(model)
        for call in calls_of(groups_of(model).analysis):
            if call.op._opname == "convolution" and any(axis.full % 4 for axis in call.axes):
                total += 1.6 * (timer(call.op, *call.at([axis.full for axis in call.axes])) or 0.0)
        return total

    monkeypatch.setattr(served, "median_by_turns", lambda runs, *_, **__: [slow_else(run.args[0]) for run in runs])
    groups, latency = groups_of(model), measured(model, tmp_path)
    for widths in ({"0": 20}, {"0": 21}, {"0": 32, "3": 33}, {"0": 31, "3": 44}, {"0": 24, "3": 28}):
        small = fxprune.rewrite(model, groups.plan({name: range(n) for name, n in widths.items()}))
        assert latency(widths) == pytest.approx(slow_else(small), rel=0.1)
    assert latency({"0": 33}) > latency({})
    counts = [latency.rising({"0": n}) for n in range(1, 41)]
    assert counts == sorted(counts)


def test_a_budget_in_an_engine(times: None, tmp_path: Path) -> None:
    model = net()
    groups, latency = groups_of(model), measured(model, tmp_path)
    plan = Budget(0.5, measure=latency, tolerance=0.05)(groups, fxprune.scorers.L1Norm()(model, groups))
    assert truth(fxprune.rewrite(model, plan)) / truth(model) == pytest.approx(0.5, abs=0.04)


def quick_if_whole(model: nn.Module) -> float:
    """A width that no other model has is quicker than all that they tell."""
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    return truth(model) * (1.0 if widths == [40, 48] else 1.3)


@pytest.mark.parametrize(("takes", "goal"), [(truth, 0.5), (quick_if_whole, 0.6)])
def test_planned_models_run_in_the_engine(
    times: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: Any, goal: float
) -> None:
    """What the fit does not know is found for the plan, and the report tells what was measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = net()
    options: Any = {"engine": lambda small, _: partial(takes, small), "round_to": 1}
    result = fxprune.prune(model, torch.zeros(1, 3, 8, 8), latency=goal, **options)
    assert result.report.latency is not None
    before, after = result.report.latency
    assert takes(result.model) / takes(model) == pytest.approx(goal, rel=0.06)
    assert after / before == pytest.approx(takes(result.model) / takes(model), rel=1e-6)
    assert "measured in <lambda>" in str(result.report)


def test_models_run_once(times: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an engine of fxprune's; in one of the caller's, whose code may be another now, each time."""
    measured(net(), tmp_path)
    measured(net(), tmp_path)
    assert made["models"] == 2 * 29
    monkeypatch.setattr(served, "engine_name", lambda _: "known")
    first = measured(net(), tmp_path)
    assert made["models"] == 3 * 29
    second = measured(net(), tmp_path)
    assert made["models"] == 3 * 29
    assert first.of() == second.of()
    assert fxprune.latency.measure(groups_of(net()), tmp_path, rounds=1, progress=False).of() == pytest.approx(1.0)


def test_an_engine_without_a_name_of_its_own_is_not_taken_for_another(times: None, tmp_path: Path) -> None:
    found = []
    for factor in (1.0, 2.0):

        def slower(model: nn.Module, inputs: Any, factor: float = factor) -> Callable[[], float]:
            return lambda: factor * truth(model)

        found.append(fxprune.latency.measure(groups_of(net()), tmp_path, rounds=1, progress=False, engine=slower).of())
    assert found[1] == pytest.approx(2 * found[0], rel=1e-3)


# Engines


def test_an_engine_that_gives_nothing_to_run_is_refused(times: None, tmp_path: Path) -> None:
    with pytest.raises(fxprune.InputError, match="the engine gave nothing to run; seen: NoneType"):
        fxprune.latency.measure(groups_of(net()), path=tmp_path, progress=False, engine=lambda model, inputs: None)


def test_onnx_runtime_runs_the_model() -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model, x = net(), torch.rand(2, 3, 8, 8)
    run = fxprune.latency.onnx_runtime(model, ((x,), {}))
    (found,) = run()  # type: ignore[misc, attr-defined]
    torch.testing.assert_close(torch.from_numpy(found), model(x))


def test_a_model_that_cannot_be_exported() -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")

    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(fxprune.InputError, match=r"torch.onnx refuses the model; seen: .*; remedy: measure\(groups\)"):
        fxprune.latency.onnx_runtime(Branch(), ((torch.rand(3),), {}))


def test_each_of_many_models_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beyond the eighth of a class, and none for any width."""
    graphs: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append([n for t in example if isinstance(t, torch.Tensor) for n in t.shape])
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    models = [nn.Sequential(nn.Linear(4, 3 + i), nn.ReLU(), nn.Linear(3 + i, 2)).eval() for i in range(9)]
    runs = [fxprune.latency.compiled(model, ((torch.ones(1, 4),), {})) for model in models]
    for model, run in zip(models, runs, strict=True):
        assert torch.equal(run(), model(torch.ones(1, 4)))  # type: ignore[arg-type]
    assert len(graphs) == 9
    assert all(type(n) is int for lengths in graphs for n in lengths)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_runs_the_model() -> None:
    model, x = net(), torch.rand(2, 3, 8, 8)
    run = fxprune.latency.compiled(model, ((x,), {}))
    torch.testing.assert_close(run(), model(x))


def test_a_pace_that_changes_between_turns_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first task's median, and of the others what they take as parts of it in the same turn."""
    pace, seen = iter([9.0, 9.0, *[1.0, 2.0, 4.0] * 40]), list[float]()

    def clock(task: Callable[[], float], device: torch.device, **_: Any) -> float:
        if task is tasks[0]:
            seen.append(next(pace))
        return seen[-1] * task()

    tasks: list[Callable[[], float]] = [lambda: 1e-2, lambda: 3e-2]
    monkeypatch.setattr("fxprune.costs.latency.timer.clock", clock)
    assert median_by_turns(tasks, torch.device("cpu"), 7) == pytest.approx([2e-2, 6e-2])
    assert len(seen) == 2 + 7
    assert median_by_turns([], torch.device("cpu"), 7) == []


# Multiples


@pytest.mark.parametrize(("block", "best"), [(1, 1), (4, 4), (8, 8), (16, 16), (32, 32)])
def test_widths_that_fill_blocks_are_free(block: int, best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that works on whole blocks."""

    def turns(runs: Sequence[Any], *_: Any, **__: Any) -> list[float]:
        return [float(-(-w // block)) ** 2 for w in range(33, 65)]

    monkeypatch.setattr(multiples, "median_by_turns", turns)
    costs = fxprune.latency.rounding_costs(lambda model, inputs: model.forward)
    assert [m for m, cost in costs.items() if cost <= 1] == [m for m in (4, 8, 16, 32) if m <= block]
    assert fxprune.latency.best_multiple(lambda model, inputs: model.forward) == best


def test_a_multiple_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each engine of fxprune's, and for each size; the caller's random numbers go on.

    What a function of the caller's does may change under its name, so it is measured each time.
    """
    made.clear()
    monkeypatch.setattr(multiples, "median_by_turns", lambda runs, *_, **__: [float(-(-w // 8)) for w in range(33, 65)])
    torch.manual_seed(5)
    for engine_, size, times in (
        (None, 4, 1),
        (None, 4, 1),
        (compiled, 4, 2),
        (compiled, 4, 2),
        (None, 8, 3),
        (engine, 4, 4),
        (engine, 4, 5),
    ):
        with monkeypatch.context() as counted:
            counted.setattr(multiples, "rounding_costs", lambda *a, **k: made.update("m") or {4: 1.0, 8: 0.9, 16: 1.1})
            counted.setattr(multiples, "MULTIPLES", (4, 8, 16))
            assert fxprune.latency.best_multiple(engine_, size=size, path=tmp_path) == 8
        assert made["m"] == times
    fxprune.latency.rounding_costs(size=4, runs=1)
    found = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(1))


def test_what_an_engine_waits_for_counts() -> None:
    """With one thread, fxprune's own engines are timed by the processor's time."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    groups = fxprune.find_groups(fxprune.trace(net, torch.rand(1, 4)))
    found = served.part_in_engine(groups, {"0": 2}, lambda model, _: lambda: time.sleep(1e-3 * model[0].out_features))
    assert 0.2 < found < 0.5  # 2 of 8 milliseconds, and what a sleep takes longer


def test_engines_of_ones_own_have_no_name() -> None:
    assert engine_name(engine) is None
    assert str(engine_name(onnx_runtime)).startswith("onnx_runtime 1.")


def test_onnx_runtime_refuses_a_type_in_our_words() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval().to(torch.bfloat16)
    with pytest.raises(fxprune.InputError, match=r"ONNX Runtime refuses the model.*float32"):
        onnx_runtime(net, ((torch.rand(1, 3, 8, 8, dtype=torch.bfloat16),), {}))
