"""The choice between plans, against the divergences that are measured here."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.planners import AtBudget, ErrorCurves, NearestOutput, Uniform, nearest_output
from fxprune.planners.goals import Goals, Measures
from fxprune.scorers import JointElimination


def net(outputs: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, outputs)).double()


def data(count: int = 6) -> list[Tensor]:
    return [torch.randn(30, 6, dtype=torch.float64) for _ in range(count)]


def untreated(_model: nn.Module, small: nn.Module, _plan: fxprune.Plan, _data: Any) -> nn.Module:
    return small


@pytest.mark.parametrize("divergence", ["kl", "squared"])
def test_the_plan_of_smallest_divergence_on_held_back_batches(divergence: Any) -> None:
    torch.manual_seed(0)
    model, inputs = net(), data()
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    plans = [Uniform(0.5)(groups, fxprune.scorers.Random(seed)(model, groups)) for seed in range(5)]
    far = []
    for plan in plans:
        small, x = fxprune.rewrite(model, plan), torch.cat(inputs[1::2])
        with torch.no_grad():
            one, other = model(x), small(x)
        logs = one.log_softmax(1), other.log_softmax(1)
        kl = (logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()
        far.append(float(kl if divergence == "kl" else (one - other).square().mean()))
    chosen = nearest_output(model, plans, inputs, treat=untreated, divergence=divergence)
    assert chosen is plans[far.index(min(far))]


def test_repairs_see_the_other_batches_only() -> None:
    model, inputs = net(), data()
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    plan = Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    seen: list[Any] = []

    def noted(_model: nn.Module, small: nn.Module, _plan: fxprune.Plan, batches: Any) -> nn.Module:
        seen.extend(batches)
        return small

    assert nearest_output(model, [plan], iter(inputs), treat=noted) is plan
    assert [id(b) for b in seen] == [id(b) for b in inputs[::2]]


def test_the_original_runs_once_on_each_batch_for_all_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, runs = net(), data(), list[int]()
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    plans = [Uniform(0.5)(groups, fxprune.scorers.Random(seed)(model, groups)) for seed in range(5)]
    layer = nn.Linear.forward

    def counted(self: nn.Linear, x: Tensor) -> Tensor:
        runs.append(self.in_features)
        return layer(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    assert nearest_output(model, plans, inputs) in plans
    assert runs.count(16) == 6 + 1  # each batch once, and the trace
    assert runs.count(8) > 6


def test_a_model_that_is_not_finite_is_never_chosen() -> None:
    model, inputs = net(), data(2)
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    plans = [Uniform(r)(groups, fxprune.scorers.L2Norm()(model, groups)) for r in (0.2, 0.9)]

    def broken(_model: nn.Module, small: nn.Module, plan: fxprune.Plan, _batches: Any) -> nn.Module:
        if plan is plans[0]:
            nn.init.constant_(small[2].bias, float("nan"))
        return small

    assert nearest_output(model, plans, inputs, treat=broken) is plans[1]


def test_no_plan_is_chosen_where_no_output_is_finite() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    plans = [groups.plan({"0": range(n)}) for n in (3, 2)]
    x = torch.randn(8, 3)
    with pytest.raises(fxprune.InputError, match="no plan can be judged: outputs are not finite; seen: of 1 batches"):
        fxprune.planners.nearest_output(net, plans, [x, x * float("nan")])


def test_bad_input_is_refused() -> None:
    model, inputs = net(), data()
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    plan = Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    with pytest.raises(fxprune.InputError, match="no plan to choose from"):
        nearest_output(model, [], inputs)
    with pytest.raises(fxprune.InputError, match=r"needs two batches of data; seen: 1 batches"):
        nearest_output(model, [plan], inputs[:1])
    with pytest.raises(fxprune.InputError, match="divergence"):
        nearest_output(model, [plan], inputs, divergence="other")  # type: ignore[arg-type]


def always(kept: list[int]) -> Any:
    return lambda groups, _scores: groups.plan({"0": kept})


def test_a_planner_that_chooses_between_planners() -> None:
    torch.manual_seed(0)
    model, inputs = net(), data(2)
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    model[2].weight.data[:, :8] = 0  # so that the first half of the channels can go
    bad, good = always(list(range(8))), always(list(range(8, 16)))
    for both in ((bad, good), (good, bad)):
        assert NearestOutput(both, inputs, untreated)(groups, {}) == good(groups, {})
        whole = NearestOutput(both, [torch.cat(inputs)], untreated)  # one batch is judged by halves
        assert whole(groups, {}) == good(groups, {})
    assert NearestOutput((bad, good), [inputs[0][:1]], untreated)(groups, {}) == bad(groups, {})


def test_equal_plans_cost_no_repair() -> None:
    def fails(*_: Any) -> nn.Module:
        raise AssertionError

    model, inputs = net(), data(2)
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    plan = always([0, 1])
    assert NearestOutput((plan, plan), inputs, fails)(groups, {}) == plan(groups, {})
    with pytest.raises(fxprune.InputError, match="no planner to choose from"):
        NearestOutput((), inputs)


class TwoReaders(nn.Module):
    """A group that two layers read, and one that one layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 20), nn.Linear(20, 16), nn.Linear(20, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        return self.c(h) + 0.1 * self.d(self.b(h).tanh())


def test_candidates_are_one_ratio_and_curves_from_relative_to_measured_errors() -> None:
    torch.manual_seed(0)
    model, inputs = TwoReaders().double(), data()
    groups = fxprune.find_groups(fxprune.trace(model, inputs[0]))
    relative, measured = (JointElimination(errors=e)(model, groups, inputs) for e in ("relative", "measured"))
    measures = Measures(groups)
    uniform, first, _, last = Goals(macs=0.5).candidates(measures, {"macs": measures.whole("macs")})
    assert uniform(groups, measured) == AtBudget(Uniform, 0.5)(groups, measured)
    assert first(groups, measured) == ErrorCurves(0.5)(groups, relative)
    assert last(groups, measured) == ErrorCurves(0.5)(groups, measured)
    held = groups.holding({"b": "as an example"})  # planners are asked again where some groups must stay
    assert set(first(held, {"a": measured["a"]}).kept_counts()) == {"a"}
    assert len(Goals(pruning_ratio=0.5).candidates(measures, {})) == 1
