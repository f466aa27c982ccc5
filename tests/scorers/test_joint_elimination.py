"""Joint elimination against numpy's least squares: every prefix, every choice, and all subsets of few channels."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES
from torch import Tensor, nn

import fxprune
from fxprune.module.batches import batches
from fxprune.module.dispatch import DispatchMode
from fxprune.reconstruction import replay
from fxprune.scorers import ErrorCurve, JointElimination, PerWeight, joint_elimination, output_errors
from fxprune.statistics.gram import elimination, removal, solve
from fxprune.statistics.gram.channels import owners
from fxprune.statistics.gram.collect import ENOUGH, Sampling, readings
from fxprune.statistics.gram.elimination import Problem, eliminate, entries_of
from fxprune.statistics.gram.patches import draw, inputs_at
from fxprune.statistics.gram.sums import Gram
from fxprune.statistics.observe import Contraction, observing

READ = "residual concat dense grouped_by_width flatten_7x7 one_dimensional two_inputs perceptron transposed"
Arrays = list[tuple[Any, Any, Any]]


def rows_of(model: nn.Module, x: Any, group: fxprune.Group) -> Arrays:
    """For each reader and convolution group: patches, targets, and the channel of each column."""
    found: Arrays = []
    slots = {s.tensor: s for s in group.consumers}

    def look(seen: Contraction) -> None:
        patches = torch.cat(list(inputs_at(seen, draw(seen, len(x[0]), None, torch.Generator()))))
        owner = owners(seen, slots[seen.name], group.size)
        made = torch.einsum("rgn,gon->rgo", patches, seen.kernels())
        energy = (made - made.mean(0)).square().sum().sqrt()
        found.extend(
            ((patches[:, g]).numpy(), (made[:, g] / energy).numpy(), owner[g].numpy()) for g in range(seen.groups)
        )

    with observing(model, set(slots), look) as run:
        for batch in batches(model, [(x,)] if len(x) > 1 else [x]):
            run(batch)
    return found


def loss(arrays: Arrays, gone: Any) -> float:
    """The squared error of numpy's least squares, with an intercept, on the columns that stay."""
    total = 0.0
    for patches, targets, owner in arrays:
        stays = np.column_stack([patches[:, ~np.isin(owner, gone)], np.ones(len(patches))])
        fitted = stays @ np.linalg.lstsq(stays, targets, rcond=None)[0]
        total += float(((targets - fitted) ** 2).sum())
    return total


@pytest.mark.parametrize("name", READ.split())
def test_every_prefix_is_greedy_and_its_error_that_of_least_squares(name: str) -> None:
    case = CASES[name]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(80 if name in ("flatten_7x7", "perceptron", "two_inputs") else 12))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    curves = JointElimination(None, ridge=1e-11).curves(model, groups, [(x,)] if len(x) > 1 else [x])
    for g in groups:
        arrays, curve = rows_of(model, x, g), curves[g.name]
        gone = [curve.order[:j] for j in range(g.size + 1)]
        np.testing.assert_allclose(curve.errors, [loss(arrays, r) for r in gone], rtol=1e-4, atol=1e-6)
        for j in range(0, g.size, max(1, g.size // 4)):
            best = min(loss(arrays, [*gone[j], i]) for i in range(g.size) if i not in gone[j])
            assert curve.errors[j + 1] <= best * (1 + 1e-4) + 1e-6


def problem(channels: int, size: int, seed: int = 0, rows: int = 300, outputs: int = 5) -> tuple[Arrays, Problem]:
    """Correlated patches of one layer."""
    n, rng = channels * size, np.random.default_rng(seed)
    x = rng.normal(size=(rows, n)) @ (np.eye(n) + rng.normal(size=(n, n)) / n**0.5)
    w, owner = rng.normal(size=(outputs, n)), np.repeat(np.arange(channels), size)
    y = x @ w.T
    y = (y - y.mean(0)) / np.sqrt(((y - y.mean(0)) ** 2).sum())
    gram = Gram.of(torch.from_numpy(x)[:, None])
    entries = entries_of(torch.from_numpy(owner)[None], channels)
    assert entries is not None
    return [(x, y, owner)], Problem.of(gram, torch.from_numpy(w)[None], entries, 1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_near_the_best_of_all_subsets(seed: int) -> None:
    """All subsets of 9 channels: never better than the best of a size, and within a quarter of it."""
    arrays, made = problem(9, 2, seed)
    errors = eliminate([made], 9)[1].tolist()
    for j in range(1, 10):
        best = min(loss(arrays, list(r)) for r in combinations(range(9), j))
        assert best * (1 - 1e-6) <= errors[j - 1] <= 1.25 * best


def test_the_first_choice_of_two_readers_is_the_best_of_both() -> None:
    (one, a), (other, b) = problem(6, 3, 1), problem(6, 1, 2)
    order, errors = eliminate([a, b], 6)
    losses = [loss(one + other, [i]) for i in range(6)]
    assert int(order[0]) == int(np.argmin(losses))
    np.testing.assert_allclose(errors[0], min(losses), rtol=1e-6)


@pytest.mark.parametrize("at_once", [2, 3, 7, 40])
def test_several_at_once_give_exact_errors_that_are_little_larger(at_once: int) -> None:
    arrays, made = problem(40, 3, rows=600)
    order, errors = eliminate([made], 40, at_once)
    alone = eliminate([made], 40, 1)[1]
    assert sorted(order.tolist()) == list(range(40))
    for j in (1, 5, 17, 30, 40):
        np.testing.assert_allclose(errors[j - 1], loss(arrays, order[:j].numpy()), rtol=1e-6)
    if at_once < 8:
        assert float(errors[19]) <= 1.05 * float(alone[19])


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("outputs", [5, 400])
def test_removals_that_are_noted_and_carried_out_together_give_what_each_alone_does(
    monkeypatch: pytest.MonkeyPatch, size: int, outputs: int
) -> None:
    """Also of more outputs than weights, of which fewer stand for all; the errors are those of least squares."""
    arrays, made = problem(180 // size, size, rows=600, outputs=outputs)
    order, errors = eliminate([made], 180 // size)
    monkeypatch.setattr(removal, "DELAYED", 1)
    alone = eliminate([replace(made, short=None)], 180 // size)
    assert torch.equal(order, alone[0])
    torch.testing.assert_close(errors, alone[1], rtol=1e-9, atol=0)
    for j in (1, 20, 50):
        np.testing.assert_allclose(errors[j - 1], loss(arrays, order[:j].numpy()), rtol=1e-4)


def test_errors_in_float32_are_those_in_float64_to_the_last_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of channels that are nearly mixtures of few."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 100)) @ rng.normal(size=(100, 300)) + 0.02 * rng.normal(size=(900, 300))
    gram = Gram.of(torch.from_numpy(x)[:, None])
    made = Problem.of(gram, torch.from_numpy(rng.normal(size=(1, 80, 300))), torch.arange(300).view(1, 300, 1), 1e-2)
    order, errors = eliminate([made], 300)
    monkeypatch.setattr(Problem, "inverse", lambda q: solve.inverse(q.s, q.rho(), narrow=True))
    narrow = eliminate([made], 300)
    torch.testing.assert_close(narrow[1], errors, rtol=1e-5, atol=0)
    assert int((narrow[0] != order).sum()) <= 10


def test_a_reader_that_loses_outputs_with_its_channels_sets_no_problem() -> None:
    """Each channel is a convolution group of its own, whose outputs go with it."""
    assert entries_of(torch.arange(3)[:, None].expand(-1, 4), 3) is None


def test_groups_that_no_layer_reads_are_refused_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs(12)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    first, *others = list(groups)
    unread = replace(first, slots=tuple(s for s in first.slots if s.role != "consumer"))
    monkeypatch.setattr(joint_elimination, "readings", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(fxprune.scorers.UnscorableError, match="reads these channels") as refused:
        JointElimination()(model, groups.subset([unread, *others]), [x[0]])
    assert refused.value.groups == (first.name,)


def test_a_group_whose_reader_loses_outputs_is_refused_before_channels_are_eliminated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs(12)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    last = list(groups)[-1]
    assert [g.size for g in groups].count(last.size) == 1 < len(groups)

    def of_others(owner: Tensor, channels: int) -> Tensor | None:
        return None if channels == last.size else entries_of(owner, channels)

    monkeypatch.setattr(joint_elimination, "entries_of", of_others)
    monkeypatch.setattr(joint_elimination, "eliminate", lambda *_: pytest.fail("it eliminates"))
    with pytest.raises(fxprune.scorers.UnscorableError):
        JointElimination()(model, groups, [x[0]])


def test_scores_follow_the_curve_at_every_width() -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs(12)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    curves, scores = JointElimination().curves(model, groups, [x[0]]), JointElimination()(model, groups, [x[0]])
    fxprune.scorers.check_scores(scores, groups)
    for g in groups:
        assert scores[g.name].argsort().tolist() == curves[g.name].order.tolist()
        np.testing.assert_allclose(scores[g.name].sort().values, curves[g.name].errors[1:], rtol=1e-3, atol=1e-5)
        assert curves[g.name].at(g.size) == 0
        assert curves[g.name].at(0) == pytest.approx(len(g.consumers), rel=3e-2)


def test_curves_of_other_scores_add_up() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0])
    curve = ErrorCurve.of_scores(scores)
    assert curve.order.tolist() == [1, 0, 2]
    np.testing.assert_allclose(curve.errors, [0, 0, 1.5 / 4.5, 1])
    assert ErrorCurve.of_scores(torch.zeros(2)).errors.tolist() == [0, 0, 0]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(fxprune.InputError, match="positions must be a positive integer"):
        JointElimination(0)
    for ridge in (0.0, -1.0, float("nan")):
        with pytest.raises(
            fxprune.InputError, match=r"ridge is not a number in \(0, inf\); seen: .*; remedy: give a pos"
        ):
            JointElimination(ridge=ridge)
    for count in (0, -1, 1.5):
        with pytest.raises(fxprune.InputError, match="at_once must be a positive integer"):
            JointElimination(at_once=count)  # type: ignore[arg-type]
    for rows in (0, -3.0, float("inf"), "20"):
        with pytest.raises(fxprune.InputError, match="rows out of range"):
            PerWeight(rows)  # type: ignore[arg-type]


def counted(data: Any, images: int, layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Positions of each image."""
    found: list[Tensor] = []
    choose = Sampling(PerWeight(20)).over(data).start()
    x = torch.randn(images, *shape)
    with observing(nn.Sequential(layer), {"0.weight"}, lambda seen: found.append(choose(seen, images))) as run:
        for batch in batches(layer, [x]):
            run(batch)
    assert found[0].shape[0] == images
    return found[0].shape[1]


def test_rows_suit_the_kernel_and_the_number_of_images() -> None:
    """A kernel of 27 weights wants 540 rows; one of 3 weights, 60."""
    wide, narrow = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)
    assert counted([0] * 5, 4, wide, (3, 22, 22)) == 27  # 20 images
    assert counted([0] * 5, 4, narrow, (3, 22, 22)) == 3
    assert counted(iter([]), 4, wide, (3, 22, 22)) == 135  # as if there were no other batch
    assert counted([0], 2, wide, (3, 12, 12)) == 100  # there are no more


def test_a_loader_over_a_stream_does_not_tell_its_length() -> None:
    """Its `len` raises, as that of a loader over an `IterableDataset` without one does."""

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(torch.randn(8, 6))

    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    assert Sampling(PerWeight(20)).over(loader).batches == 1
    assert Sampling(PerWeight(20)).over(None).batches == 1
    assert Sampling(PerWeight(20)).over([0, 0, 0]).batches == 3
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 6)))
    fxprune.scorers.check_scores(JointElimination()(net, groups, loader), groups)


def test_errors_are_measured_on_rows_that_no_fit_has_seen() -> None:
    """Three inputs for a layer of 40 weights: its own rows say that nearly all can go, other rows do not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 5)).double()
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 6, dtype=torch.float64)))
    few = [torch.randn(3, 6, dtype=torch.float64) for _ in range(2)]
    own = JointElimination(ridge=1e-8).curves(model, groups, [torch.cat(few)])["0"]
    held = JointElimination(ridge=1e-8).curves(model, groups, few)["0"]
    assert own.order.tolist() == held.order.tolist()
    assert own.at(kept=20) < 1e-5 < 0.02 < held.at(kept=20)
    assert (np.diff(held.errors) >= 0).all()
    assert held.errors[0] == 0


def test_wide_kernels_lose_the_same_channels_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 64, 1), nn.ReLU(), nn.Conv2d(64, 3, (4, 4)))  # 1,024 weights a kernel
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 2, 6, 6)))
    data = [torch.randn(60, 2, 6, 6) for _ in range(2)]
    found = JointElimination().curves(model, groups, data)["0"]
    reader, parts = readings(model, groups, data, Sampling(ENOUGH), parts=2)["0"][0]
    cuts = {"0": ([(reader, parts[0])], torch.tensor([3, 5]))}
    moved = output_errors.measured(model, groups, data, cuts)["0"]
    for room in (elimination, solve, output_errors):
        monkeypatch.setattr(room, "WIDE", 10**6)
    exact = JointElimination(at_once=1).curves(model, groups, data)["0"]
    assert moved == pytest.approx(output_errors.measured(model, groups, data, cuts)["0"], rel=1e-3)
    assert found.order.tolist() == exact.order.tolist()
    np.testing.assert_allclose(found.errors[5:], exact.errors[5:], rtol=0.15)  # judged by one half, not both


def test_measured_errors_are_how_far_outputs_move_when_a_group_alone_is_cut() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)
    net = nn.Sequential(*layers).double()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    data = [torch.randn(20, 6, dtype=torch.float64) for _ in range(6)]
    groups = fxprune.find_groups(fxprune.trace(net, data[0]))
    curve = JointElimination(None, errors="measured").curves(net, groups, data)["0"]
    relative = JointElimination(None).curves(net, groups, data)["0"]
    assert curve.order.tolist() == relative.order.tolist()
    gone = 1 + int(np.abs(relative.errors[1:] - 0.05).argmin())
    kept = np.sort(curve.order[gone:])
    with torch.no_grad():
        x, y = (f(torch.cat(data[::2])).numpy() for f in (net[:2], net[:3]))
        x, y, w = x[:, kept], y - y.mean(0), net[2].weight.numpy()[:, kept]
        centred = x - x.mean(0)
        size, spread = (w**2).sum(0), (centred**2).sum(0)
        mean = (size * spread).mean()
        rho = (0.1 * mean / np.maximum(size, 0.1 * mean / spread)) ** 0.5
        stacked = np.vstack([centred, np.diag(rho)]), np.vstack([y, rho[:, None] * w.T])
        fit = np.linalg.lstsq(*stacked, rcond=None)[0]
        bias = net[:3](torch.cat(data[::2])).numpy().mean(0) - x.mean(0) @ fit
        unseen = torch.cat(data[1::2])
        hidden = torch.from_numpy(net[:2](unseen).numpy()[:, kept] @ fit + bias)
        logs = net(unseen).log_softmax(1), net[3:](hidden).log_softmax(1)
        expected = float((logs[0].exp() * (logs[0] - logs[1])).sum(1).mean())
    np.testing.assert_allclose(curve.errors[gone], expected, rtol=1e-6)
    np.testing.assert_allclose(curve.errors * relative.errors[gone], relative.errors * expected, rtol=1e-6)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())


class Blocks(nn.Module):
    """Convolutions, and a stream that the first and the last one read."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.one, self.two, self.last = (
            nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, 8), (8, 6), (6, 8), (8, 4))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x).relu()
        x = x + self.two(self.one(x).relu())
        return self.last(x).relu().mean((2, 3))


class Convolutions(DispatchMode):
    """Counts the convolutions that are computed."""

    count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "convolution" in str(op)
        return op(*args, **(kwargs or {}))


def test_what_comes_before_a_group_is_not_computed_again_to_measure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, data = nn.Sequential(Blocks(), nn.Linear(4, 5)), [torch.randn(8, 2, 6, 6) for _ in range(2)]
    groups = fxprune.find_groups(fxprune.trace(net, data[0]))
    found = readings(net, groups, data, Sampling(None), parts=2)
    cuts = {g.name: ([(r, parts[0]) for r, parts in found[g.name]], torch.tensor([1, 2])) for g in groups}
    alone = {name: output_errors.measured(net, groups, data, {name: cut})[name] for name, cut in cuts.items()}
    with Convolutions() as plain:
        whole = output_errors.measured(net, groups, data, cuts)
    monkeypatch.setattr(replay, "WORTH", 0)
    monkeypatch.setattr(replay, "SMALL", 8)
    with Convolutions() as replayed:
        again = output_errors.measured(net, groups, data, cuts)
    assert len(cuts) == 3
    assert whole == again == pytest.approx(alone, rel=1e-6)
    assert plain.count - replayed.count == 1 + 2  # before the stream's first reader, and before the second group's


def test_errors_that_cannot_be_measured_stay_relative() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 6)))
    for data in (None, [torch.randn(40, 6)]):
        one, other = (JointElimination(errors=e).curves(net, groups, data)["0"] for e in ("measured", "relative"))
        np.testing.assert_array_equal(one.errors, other.errors)
    with pytest.raises(fxprune.InputError, match="read only once"):
        JointElimination(errors="measured").curves(net, groups, iter([torch.randn(40, 6)] * 2))


def test_a_generator_is_refused_where_the_data_are_read_twice() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    data = (torch.randn(8, 3) for _ in range(2))
    with pytest.raises(fxprune.InputError, match="the data can be read only once"):
        JointElimination(errors="auto")(net, groups, data)


class Concatenated(nn.Module):
    """A layer that reads two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.q = nn.Conv2d(3, 32, 3), nn.Conv2d(3, 64, 3), nn.Conv2d(96, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.q(torch.cat([self.a(x).relu(), self.b(x).relu()], 1)).mean((2, 3))  # type: ignore[no-any-return]


def test_without_a_group_a_reader_has_what_it_reads_besides() -> None:
    """The end of a curve is the error without the group, on held-back rows as on all: not all that the reader gives."""
    torch.manual_seed(0)
    net, x = Concatenated().eval(), torch.randn(256, 3, 8, 8)
    groups = fxprune.find_groups(fxprune.trace(net, x[:1]))
    scorer = fxprune.scorers.JointElimination(positions=None)
    at_once, apart = (scorer.curves(net, groups, data)["a"] for data in ([x], [x[:128], x[128:]]))
    assert at_once.at(0) < 0.2  # of the layer's output: most comes from the other group
    for kept in (0, 1, 3, 6):
        assert apart.at(kept) == pytest.approx(at_once.at(kept), rel=0.1)
