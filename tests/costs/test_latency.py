"""Latency: which calls are measured at which widths, what is kept on disk, and what is predicted from it."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from nets import CASES
from torch import Tensor, nn

import fxprune
from fxprune.costs.latency import Latency, measure, prediction
from fxprune.costs.latency import model as rooms
from fxprune.costs.latency.calls import calls_of
from fxprune.costs.latency.grid import grid, rising
from fxprune.costs.latency.table import LatencyTable, Setting
from fxprune.costs.latency.timer import Timer
from fxprune.planners import AtBudget, Budget, Uniform


class Staircase:
    """In place of a timer: a time that follows from the shapes, in blocks of 16 channels, and counts its calls."""

    calls: ClassVar[Counter[str]] = Counter()
    stop_after: ClassVar[int | None] = None

    def __init__(self, device: torch.device) -> None:
        pass

    def __call__(self, op: Any, args: Any, kwargs: Any) -> float | None:
        if self.stop_after is not None and sum(self.calls.values()) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls[op._opname] += 1
        return 1e-6 * sum(seconds(shape) for shape in shapes(args))


def seconds(shape: tuple[int, ...]) -> float:
    blocks = [-(-n // 16) for n in shape[:2]]
    return float(np.prod(blocks) * np.prod(shape[2:]))


def shapes(value: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(value, tuple) and len(value) == 2 and hasattr(value[0], "is_weight"):
        yield value[1]
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from shapes(v)


@pytest.fixture
def staircase(monkeypatch: pytest.MonkeyPatch) -> type[Staircase]:
    """Nothing is really timed; whole models take what their ops take."""
    Staircase.calls, Staircase.stop_after = Counter(), None
    monkeypatch.setattr(rooms, "Timer", Staircase)
    monkeypatch.setattr(rooms, "by_turns", lambda models, *_: [[1.0], [1.0]])
    return Staircase


def plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 48, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)),
    ).eval()


def groups_of(net: nn.Module, example: Any = None) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8) if example is None else example))


def measured(net: nn.Module, path: Path, example: Any = None, **options: Any) -> Latency:
    return measure(groups_of(net, example), path, progress=False, **{"rounds": 1} | options)


# What is kept on disk


def test_a_table_is_read_again(staircase: type[Staircase], tmp_path: Path) -> None:
    first = measured(plain(), tmp_path)
    count = sum(staircase.calls.values())
    assert count
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    second = measured(plain(), tmp_path)
    assert sum(staircase.calls.values()) == count
    assert file.read_bytes() == before
    for kept in (1, 7, 16, 33, 40):
        assert first({"0": kept}) == second({"0": kept})


def test_more_rounds_measure_again(staircase: type[Staircase], tmp_path: Path) -> None:
    measured(plain(), tmp_path)
    count = sum(staircase.calls.values())
    measured(plain(), tmp_path, rounds=3)
    assert sum(staircase.calls.values()) == 3 * count


def test_equal_calls_are_measured_once(staircase: type[Staircase], tmp_path: Path) -> None:
    """Three blocks of one shape take no more measurements than one."""
    counts = []
    for repeats in (1, 3):
        blocks = [m for _ in range(repeats) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
        net = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Conv2d(8, 3, 1)).eval()
        staircase.calls.clear()
        latency = measured(net, tmp_path / str(repeats))
        counts.append(sum(staircase.calls.values()))
        assert len(latency.ops) == 2 + 2 * repeats
    assert counts[0] == counts[1]


def test_the_setting_names_the_file(staircase: type[Staircase], tmp_path: Path) -> None:
    measured(plain(), tmp_path)
    measured(plain().double(), tmp_path, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    torch.set_num_threads(2)
    try:
        measured(plain(), tmp_path)
    finally:
        torch.set_num_threads(1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3
    assert [("threads-1" in n, "float32" in n) for n in names] == [(True, True), (True, False), (False, True)]
    setting = json.loads((tmp_path / names[0]).read_text())
    assert setting["pytorch"] == torch.__version__
    assert setting["device"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"samples": {}}', '{"samples": {"a": ["x"]}}', '{"samples": {"a": 3}}', "\x00\xff"]
)
def test_a_damaged_table(content: str, staircase: type[Staircase], tmp_path: Path) -> None:
    measured(plain(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    with pytest.raises(fxprune.InputError, match=r"a damaged latency table in .*\.json; seen: .*; remedy: delete") as e:
        measured(plain(), tmp_path)
    assert str(file) in str(e.value)
    assert file.read_text() == content


def test_a_table_of_another_setting(staircase: type[Staircase], tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    measured(plain(), file)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]
    with pytest.raises(fxprune.InputError, match=r"of another setting in .*mine\.json; seen: .*float32; remedy: .*dir"):
        measured(plain().double(), file, torch.zeros(1, 3, 8, 8, dtype=torch.float64))


def test_an_interrupt_keeps_what_was_measured(staircase: type[Staircase], tmp_path: Path) -> None:
    staircase.stop_after = 11
    with pytest.raises(KeyboardInterrupt):
        measured(plain(), tmp_path)
    (file,) = tmp_path.iterdir()
    assert len(json.loads(file.read_text())["samples"]) == 11
    staircase.stop_after = None
    resumed = measured(plain(), tmp_path)
    total = sum(staircase.calls.values())
    staircase.calls.clear()
    undisturbed = measured(plain(), tmp_path / "other")
    assert sum(staircase.calls.values()) == total
    assert resumed.of() == undisturbed.of()


def test_two_processes_share_a_table(staircase: type[Staircase], tmp_path: Path) -> None:
    """What one has measured while another ran is in the file when both are done."""
    setting = Setting.present(torch.device("cpu"), torch.float32)
    one, other = LatencyTable(tmp_path, setting), LatencyTable(tmp_path, setting)
    one.add("a", 1.0)
    other.add("b", 2.0)
    one.save()
    other.save()
    assert LatencyTable(tmp_path, setting).samples == {"a": [1.0], "b": [2.0]}


def test_the_median_counts(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path, Setting.present(torch.device("cpu"), torch.float32))
    for seconds in (5.0, 1.0, None, 2.0):
        table.add("a", seconds)
    table.add("b", None)
    assert table.seconds("a") == 2.0
    assert table.seconds("b") is None


def test_the_default_place(staircase: type[Staircase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measure(groups_of(plain()), rounds=1, progress=False)
    assert len(list((tmp_path / "fxprune" / "latency").glob("*.json"))) == 1


# What is predicted


def whole(net: nn.Module, counts: dict[str, int]) -> float:
    """What the staircase says of all calls of a cut model, by tracing it."""
    groups = groups_of(net)
    small = fxprune.rewrite(net, groups.plan({n: range(k) for n, k in counts.items()}))
    timer = Staircase(torch.device("cpu"))
    total = 0.0
    for call in calls_of(groups_of(small).analysis):
        args, kwargs = call.at([axis.full for axis in call.axes])
        total += timer(call.op, args, kwargs) or 0.0
    return total


def test_predictions_are_the_sum_of_the_ops(staircase: type[Staircase], tmp_path: Path) -> None:
    """At widths of the grid; the scale is what the whole model takes over what its ops do."""
    net = plain()
    latency = measured(net, tmp_path)
    assert latency.of() == pytest.approx(1.0)
    full = whole(net, {})
    for a, b in product((1, 16, 17, 32, 33, 40), (1, 16, 17, 33, 48)):
        assert latency({"0": a, "3": b}) == pytest.approx(whole(net, {"0": a, "3": b}) / full)


def test_many_plans_at_once_take_what_each_takes(
    staircase: type[Staircase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latency = measured(plain(), tmp_path)
    a, b = (c.ravel() for c in np.meshgrid(np.arange(1, 41), np.arange(1, 49)))
    for block in (prediction._BLOCK, 64):  # at once, and in hundreds of parts
        monkeypatch.setattr(prediction, "_BLOCK", block)
        wanted = [latency({"0": int(x), "3": int(y)}) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(latency.many({"0": a, "3": b}), wanted, rtol=1e-12)
        np.testing.assert_allclose(latency.many({"3": b[:3]}), [latency({"3": int(y)}) for y in b[:3]], rtol=1e-12)
    with pytest.raises(fxprune.InputError, match="no such group; seen: nobody"):
        latency.many({"nobody": a})


@pytest.mark.filterwarnings("ignore:the allowed widths leave")
def test_a_budget_of_predicted_latency_looks_at_many_plans_at_once(
    staircase: type[Staircase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And plans what it plans for the same function of one plan."""
    net = plain()
    groups, latency = groups_of(net), measured(net, tmp_path)
    scores = fxprune.scorers.L1Norm()(net, groups)
    wanted = Budget(0.6, measure=lambda counts: latency(counts))(groups, scores)
    monkeypatch.setattr(Latency, "__call__", None)
    assert Budget(0.6, measure=latency)(groups, scores) == wanted


def test_predictions_that_are_no_times_are_refused(
    staircase: type[Staircase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = plain()
    groups, latency = groups_of(net), measured(net, tmp_path)
    monkeypatch.setattr(Latency, "many", lambda self, counts: np.full(len(counts["0"]), np.nan))
    with pytest.raises(fxprune.InputError, match="the measured cost is no number; seen: nan for"):
        Budget(0.6, measure=latency)(groups, fxprune.scorers.L1Norm()(net, groups))


def test_plans_and_kinds_of_ops(staircase: type[Staircase], tmp_path: Path) -> None:
    net = plain()
    groups, latency = groups_of(net), measured(net, tmp_path)
    plan = groups.plan({"0": range(17), "3": range(30)})
    assert latency.of(plan) == latency({"0": 17, "3": 30}) < latency.of()
    assert sum(latency.by_op(plan).values()) == pytest.approx(latency.of(plan))
    assert set(latency.by_op()) == {"", "convolution", "native_batch_norm", "relu", "mean", "addmm"}


def test_rising_latencies_never_fall(
    tmp_path: Path, staircase: type[Staircase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the times do: here they are random."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Staircase, "__call__", lambda self, op, args, kwargs: float(rng.uniform()))
    latency = measured(plain(), tmp_path)
    grown = [[latency.rising({"0": a, "3": b}) for b in range(1, 49)] for a in range(1, 41)]
    assert (np.diff(grown, axis=0) >= -1e-15).all()
    assert (np.diff(grown, axis=1) >= -1e-15).all()
    assert latency.rising({}) == pytest.approx(latency.of())
    assert any(latency({"0": a}) > latency({"0": a + 1}) for a in range(1, 40))


def test_rising() -> None:
    assert rising(np.array([[3.0, 1.0, 2.0], [1.0, 4.0, 0.0]])).tolist() == [[1.5, 1.5, 1.5], [1.5, 2.0, 2.0]]


@pytest.mark.parametrize("part", [0.45, 0.6, 0.8])
def test_planners_spend_a_part_of_the_latency(part: float, staircase: type[Staircase], tmp_path: Path) -> None:
    net = plain()
    groups, latency = groups_of(net), measured(net, tmp_path)
    scores = fxprune.scorers.L1Norm()(net, groups)
    for of in (latency, latency.rising):
        for planner in (Budget(part, measure=of, tolerance=0.2), AtBudget(Uniform, part, measure=of, tolerance=0.2)):
            spent = of(planner(groups, scores).kept_counts()) / of({})
            assert 0.8 * part <= spent <= part + 1e-9


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_planners_cope_with_latencies_that_fall(part: float, tmp_path: Path, staircase: Any, monkeypatch: Any) -> None:
    """A device that takes half as long for whole blocks of channels, and otherwise is linear."""

    def blocks(self: Staircase, op: Any, args: Any, kwargs: Any) -> float:
        sizes = [n for shape in shapes(args) for n in shape[:2]]
        return float(sum(sizes)) * (0.5 if all(n % 16 == 0 for n in sizes if n > 16) else 1.0)

    monkeypatch.setattr(Staircase, "__call__", blocks)
    widths = [3, 64, 96, 128, 10]
    net = nn.Sequential(*[nn.Conv2d(a, b, 1) for a, b in pairwise(widths)])
    groups, latency = groups_of(net), measured(net, tmp_path)
    scores = fxprune.scorers.Random()(net, groups)
    for planner in (
        Budget(part, measure=latency, tolerance=0.05),
        AtBudget(Uniform, part, measure=latency, tolerance=0.05),
    ):
        plan = planner(groups, scores)
        assert 0.95 * part <= latency.of(plan) / latency.of() <= part + 1e-9


def test_progressive_pruning_to_a_latency(staircase: type[Staircase], tmp_path: Path) -> None:
    net = plain()
    groups, latency = groups_of(net), measured(net, tmp_path)
    search = fxprune.search.Progressive(0.6, measure=latency, step=0.25, top=1.0, refit=None, progress=False)
    found = search(net, groups, lambda model: 1.0, scorer=fxprune.scorers.L1Norm())
    assert latency(found.plan.kept_counts()) <= 0.6 * latency({}) * (1 + 1e-9)


def test_unknown_groups_are_refused(staircase: type[Staircase], tmp_path: Path) -> None:
    with pytest.raises(fxprune.InputError, match="no such group; seen: nobody"):
        measured(plain(), tmp_path)({"nobody": 3})


# Which calls, at which widths


@pytest.mark.parametrize("name", CASES)
def test_every_call_runs_by_itself(name: str, timer: Timer) -> None:
    """At its full width, at its least, and at one between, on real tensors."""
    refused = []
    for call in calls_of(CASES[name].analysed().analysis):
        for part in (0.0, 0.5, 1.0):
            point = [at[round(part * (len(at) - 1))] for at in grid(call)]
            if timer(call.op, *call.at(point)) is None:
                refused.append(f"{call.op} at {point}")
    assert refused == []


@pytest.fixture(scope="module")
def timer() -> Timer:
    """Runs each call once."""
    timer = Timer(torch.device("cpu"))
    timer.runs = (0, 1, 1)
    return timer


def shapes_at(net: nn.Module, example: Any, counts: dict[str, int]) -> list[list[tuple[int, ...]]]:
    """Shapes of the operands of each call of a net that was cut, and of the recorded calls for the same widths."""
    groups = groups_of(net, example)
    index = {g.name: i for i, g in enumerate(groups.analysis.groups)}
    kept = {index[n]: k for n, k in counts.items()}
    found = []
    for call in calls_of(groups.analysis):
        at = [w.base + sum(n * kept.get(g, groups.analysis.groups[g].size) for g, n in w.channels) for w in call.axes]
        found.append(list(shapes(call.at(at)[0])))
    return found


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        *(("concat", 3), ("dense", 2), ("depthwise", 3), ("grouped_by_groups", 1), ("grouped_by_width", 1)),
        *(("transposed_grouped", 1), ("shuffle_unit", 2), ("flatten_7x7", 2), ("layer_norm", 3)),
    ],
)
def test_shapes_are_those_of_the_cut_model(name: str, kept: int) -> None:
    net, example = CASES[name].build(), CASES[name].inputs()
    groups = groups_of(net, example)
    counts = groups.in_step({g.name: min(kept, g.size) for g in groups})
    small = fxprune.rewrite(net, groups.plan({n: range(k) for n, k in counts.items()}))
    assert shapes_at(net, example, counts) == shapes_at(small, example, {})


def test_an_op_that_refuses_to_run_by_itself(staircase: type[Staircase], tmp_path: Path, monkeypatch: Any) -> None:
    """It is counted, and the scale makes up for it; at widths that it refuses, its time is in proportion."""

    def refuses(self: Staircase, op: Any, args: Any, kwargs: Any) -> float | None:
        if op._opname == "native_batch_norm":
            return None
        return 1.0 if op._opname != "relu" or args[0][1][1] >= 40 else None

    monkeypatch.setattr(Staircase, "__call__", refuses)
    latency = measured(plain(), tmp_path)
    assert latency.unmeasured == {"aten.native_batch_norm.default": 1}
    assert latency.of() == pytest.approx(1.0)
    relu = {kept: latency.by_op(latency_plan(kept))["relu"] / latency.scale for kept in (10, 40)}
    assert relu[40] - relu[10] == pytest.approx(30 / 40)
    again = measured(plain(), tmp_path)
    assert again.unmeasured == latency.unmeasured


def latency_plan(kept: int) -> fxprune.Plan:
    return groups_of(plain()).plan({"0": range(kept)})


def test_real_times(tmp_path: Path) -> None:
    """A net of one heavy layer; a smaller one is quicker, as predicted and as measured, and nothing is left changed."""
    net = nn.Sequential(nn.Conv2d(16, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 16, 3, padding=1)).train()
    state, seed = {n: t.clone() for n, t in net.state_dict().items()}, torch.get_rng_state()
    groups = groups_of(net, torch.zeros(1, 16, 24, 24))
    latency = measure(groups, tmp_path, rounds=1, progress=False)
    small = fxprune.rewrite(net, groups.plan({"0": range(16)}))
    full, less = (min(s) for s in fxprune.latency.by_turns([net, small], torch.zeros(1, 16, 24, 24), 5))
    assert latency.unmeasured == {}
    assert latency({"0": 16}) < 0.7 * latency.of()
    assert less < 0.7 * full
    assert 0.2 < latency.of() / full < 5
    assert net.training
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    assert torch.equal(seed, torch.get_rng_state())


def test_many_widths_shrink_in_step() -> None:
    """A concatenation of three parts is measured along their sum."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Conv2d(3, n, 1) for n in (8, 16, 24)])
            self.last = nn.Conv2d(48, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.cat([part(x) for part in self.parts], 1))

    calls = {call.op._opname: call for call in calls_of(groups_of(Three()).analysis)}
    cat = calls["cat"]
    assert [w.full for w in cat.widths] == [8, 16, 24]
    assert [w.full for w in cat.axes] == [48]
    assert list(shapes(cat.at([24])[0])) == [(1, 4, 8, 8), (1, 8, 8, 8), (1, 12, 8, 8)]


def test_channels_last_tensors_are_measured_as_such() -> None:
    net = plain().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = torch.zeros(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    first = next(calls_of(groups_of(net, example).analysis))
    assert [operand.channels_last for operand in first.args[:2]] == [True, True]
    assert not next(calls_of(groups_of(plain()).analysis)).args[0].channels_last


@pytest.mark.parametrize("rounds", [0, -1])
def test_rounds_out_of_range(rounds: int, tmp_path: Path) -> None:
    with pytest.raises(fxprune.InputError, match=f"rounds out of range; seen: {rounds}; remedy: .* at least 1"):
        measured(plain(), tmp_path, rounds=rounds)


def test_models_without_data(tmp_path: Path) -> None:
    with pytest.raises(fxprune.InputError, match="a model on meta tensors takes no time; remedy: give it data"):
        measured(plain().to("meta"), tmp_path, torch.zeros(1, 3, 8, 8, device="meta"))


def test_nothing_to_prune(tmp_path: Path) -> None:
    latency = measured(nn.Linear(3, 2), tmp_path, torch.zeros(1, 3))
    assert latency({}) == latency.of() > 0


def test_timed_forwards_are_not_watched_and_what_the_model_writes_to_is_put_back() -> None:
    class Writing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.data.mul_(2)
            watched.put(torch._C._len_torch_dispatch_stack() > 0)
            return super().forward(x)

    net, watched = Writing(3, 2), SimpleQueue[bool]()  # what lists in a closure hold is put back
    before = net.weight.clone()
    fxprune.latency.by_turns([net], torch.rand(1, 3), runs=3)
    assert [watched.get() for _ in range(watched.qsize())] == [True, True, False, False, False]
    assert torch.equal(net.weight, before)


def test_a_model_whose_code_is_another_is_measured_again(tmp_path: Path) -> None:
    """Two classes of one name, with the same ops: what Python does in between is part of the latency."""

    def made(pause: float) -> nn.Module:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

            def slow(self) -> float:
                return sum(i**0.5 for i in range(200_000))

            def quick(self) -> float:
                return 0.0

            if pause:
                quick = slow

            def forward(self, x: Tensor) -> Tensor:
                self.quick()
                return self.b(self.a(x).relu())

        return Net().eval()

    def seconds(pause: float) -> float:
        groups = fxprune.find_groups(fxprune.trace(made(pause), torch.rand(1, 4)))
        return fxprune.latency.measure(groups, tmp_path, rounds=1, progress=False).of()

    assert seconds(1) > 10 * seconds(0)


def test_multiples_are_measured_in_the_models_type(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("fxprune.planners.goals.best_multiple", lambda *_, dtype, **__: asked.append(dtype) or 4)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval().to(torch.bfloat16)
    x = torch.rand(1, 3, 8, 8, dtype=torch.bfloat16)
    assert fxprune.prune(net, x, 0.4, round_to="auto").plan.kept_counts() == {"0": 12}
    assert asked == [torch.bfloat16]


def test_a_folder_may_end_as_a_table_does(tmp_path: Path) -> None:
    (folder := tmp_path / "tables.json").mkdir()
    assert fxprune.latency.best_multiple(size=4, path=folder) in (1, 4, 8, 16, 32)
    assert list(folder.iterdir())
