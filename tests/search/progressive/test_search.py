"""Progressive pruning: what it selects, that errors are made up for, the family of checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from search_toys import Wide, jitter, perceptron, widths_of
from torch import Tensor, nn

import fxprune
from fxprune.planners import AtBudget, Constraints, Uniform
from fxprune.scorers import L2Norm
from fxprune.search import Progressive, restore

DATA = [torch.linspace(-1, 1, 240).mul(40).sin().view(60, 4)]


def descend(evaluate: Any, *widths: int, tune: Any = None, folder: Any = None, **settings: Any) -> Any:
    model, groups, _ = perceptron(*widths)
    search = Progressive(**{"progress": False, "refit": None, **settings})
    return search(model, groups, evaluate, scorer=L2Norm(), tune=tune, folder=folder), model, groups


def test_the_groups_that_it_hurts_least_go_first() -> None:
    """Each channel of group 1 counts ten times as much as one of the others."""
    found, *_ = descend(lambda m: float(np.dot(widths_of(m), [1, 10, 2])), 40, 40, 40, keep=0.5, top=0.3)
    assert [s.pruned for s in found.history[:5]] == [("0",)] * 5
    assert found.plan.kept_counts()["1"] == 40
    assert found.plan.kept_counts()["0"] < found.plan.kept_counts()["2"]


def test_several_groups_go_in_execution_order() -> None:
    found, *_ = descend(lambda m: -float(np.dot(widths_of(m), [1, 3, 2, 4])), 20, 20, 20, 20, keep=0.6, top=0.5)
    assert found.history[0].pruned == ("1", "3")
    assert found.history[0].counts == {"0": 20, "1": 19, "2": 20, "3": 19}


def test_of_equals_those_go_that_save_most() -> None:
    found, *_ = descend(lambda m: 1.0, 10, 40, 10, keep=0.9, top=0.3, step=0.1)
    assert found.history[0].pruned == ("1",)


@pytest.mark.parametrize("target", [0.8, 0.5, 0.2])
@pytest.mark.parametrize("of", ["macs", "parameters"])
def test_ends_just_below_the_target(target: float, of: Any) -> None:
    found, _, groups = descend(lambda m: float(widths_of(m)[0]), 60, 50, keep=target, measure=of, step=0.3)
    full, last = getattr(fxprune.cost(groups), of), getattr(found.history[-1].cost, of)
    assert target * full - 70 < last <= target * full
    assert found.history[-1].cost == fxprune.cost(groups, found.plan)
    assert all(getattr(s.cost, of) > target * full for s in found.history[:-1])
    assert widths_of(found.model) == list(found.plan.kept_counts().values())


def test_two_groups_meet_a_target_that_none_comes_near_to_alone() -> None:
    found, _, groups = descend(lambda m: float(np.dot(widths_of(m), [1, 2, 3])), 5, 8, 8, keep=0.3, step=0.3, top=0.3)
    target = 0.3 * fxprune.cost(groups).macs

    def near(counts: dict[str, int]) -> bool:
        plan = groups.plan({name: range(count) for name, count in counts.items()})
        return 0.995 * target <= fxprune.cost(groups, plan).macs <= target * (1 + 1e-12)

    before, last = found.history[-2:]
    assert [len(before.pruned), len(last.pruned)] == [1, 2]
    assert near(last.counts)
    smaller = [{**before.counts, name: n} for name, count in before.counts.items() for n in range(1, count)]
    assert [counts for counts in smaller if near(counts)] == []


def test_one_search_meets_several_budgets() -> None:
    """Each budget is met as exactly as by a search of its own, and until it is met both do the same."""
    found, _, groups = descend(lambda m: float(widths_of(m)[0]), 60, 50, keep=0.2, on_the_way=(0.5, 0.33), step=0.1)
    full = fxprune.cost(groups).macs
    for part in (0.5, 0.33, 0.2):
        first = next(i for i, s in enumerate(found.history) if s.cost.macs <= part * full)
        assert found.history[first].cost.macs > part * full - 63  # the price of a channel
        if part == 0.5:
            alone, *_ = descend(lambda m: float(widths_of(m)[0]), 60, 50, keep=0.5, step=0.1)
            assert [s.counts for s in alone.history] == [s.counts for s in found.history[: first + 1]]
    with pytest.raises(fxprune.InputError, match="the part of the original's cost that may stay is not a number"):
        Progressive(0.2, on_the_way=(1.5,))


def test_nothing_to_do() -> None:
    found, model, _ = descend(lambda m: 1.0, 10, 10, keep=1.0)
    assert found.model is model
    assert found.history == ()


def test_each_attempt_removes_a_part_of_one_group_and_obeys_the_constraints() -> None:
    seen: list[list[int]] = []
    rules = Constraints(round_to=4, minimum={"1": 8}, ignored=("2.bias",))
    found, *_ = descend(
        lambda m: (seen.append(widths_of(m)), 1.0)[1], 20, 20, 20, keep=0.45, step=0.1, constraints=rules
    )
    assert seen[:3] == [[20, 20, 20], [16, 20, 20], [20, 16, 20]]
    assert all(a % 4 == b % 4 == 0 and b >= 8 and c == 20 for a, b, c in seen)
    assert found.plan.kept_counts()["2"] == 20


def test_channels_are_those_of_the_original() -> None:
    """Scores are taken anew on a smaller model, and its channels are found again in the original."""
    model, groups, _ = perceptron(30, 20)

    def first_weight(m: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Tensor]:
        tensors = dict(m.named_parameters())
        return {g.name: tensors[f"{g.name}.weight"][:, 0].detach().abs().double() for g in groups}

    search = Progressive(0.3, refit=None, progress=False)
    found = search(model, groups, lambda m: 1.0, scorer=first_weight)
    for name, group in found.plan.groups.items():
        order = model.get_parameter(f"{name}.weight")[:, 0].detach().abs().argsort(descending=True)
        assert group.kept.tolist() == sorted(order[: len(group.kept)].tolist())
    expected = fxprune.rewrite(model, found.plan)
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), expected.parameters(), strict=True))


def closeness(model: nn.Module, original: nn.Module) -> float:
    with torch.no_grad():
        return -float((model(DATA[0]) - original(DATA[0])).square().mean())


def test_errors_are_made_up_for_and_progressive_beats_one_shot() -> None:
    """With LASSO and least squares, a linear net of rank 4 stays what it was; without, it does not."""
    torch.manual_seed(0)
    model = Wide()
    groups = fxprune.find_groups(fxprune.trace(model, DATA[0]))
    exact = Progressive(0.4, step=0.2, progress=False)(model, groups, lambda m: closeness(m, model), data=DATA)
    plain = Progressive(0.4, step=0.2, progress=False, refit=None)(
        model, groups, lambda m: closeness(m, model), data=DATA
    )
    once = AtBudget(Uniform, 0.4)(groups, L2Norm()(model, groups))
    assert exact.history[-1].fitness == pytest.approx(closeness(exact.model, model))
    assert closeness(exact.model, model) > -1e-3
    assert closeness(plain.model, model) < 10 * closeness(exact.model, model)
    assert closeness(fxprune.rewrite(model, once), model) < closeness(plain.model, model)


def test_samplers_let_a_branch_drop_what_it_reads() -> None:
    torch.manual_seed(0)
    model = fxprune.add_samplers(Wide(), ["a"])
    groups = fxprune.find_groups(fxprune.trace(model, DATA[0]))
    found = Progressive(0.7, step=0.2, progress=False)(model, groups, lambda m: closeness(m, model), data=DATA)
    sampled = next(name for name in found.plan.kept_counts() if name.startswith("a.sampled"))
    assert found.plan.kept_counts()[sampled] < 24
    assert found.model.a.in_features == found.plan.kept_counts()[sampled]
    assert closeness(found.model, model) > -1e-3


def test_every_iteration_is_a_usable_model(tmp_path: Path) -> None:
    found, model, _ = descend(
        lambda m: float(sum(widths_of(m))), 40, 40, keep=0.3, tune=jitter, folder=tmp_path, step=0.1
    )
    assert len(found.history) > 4
    for step in found.history:
        small = restore(model, tmp_path / "checkpoints" / f"{step.key}.safetensors")
        assert widths_of(small) == list(step.counts.values())
        assert fxprune.cost(fxprune.find_groups(fxprune.trace(small, DATA[0][:1]))) == step.cost
    assert [s.cost.macs for s in found.history] == sorted((s.cost.macs for s in found.history), reverse=True)
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(found.history)


def test_only_iterations_are_tuned() -> None:
    tuned: list[list[int]] = []
    found, *_ = descend(lambda m: 1.0, 20, 20, keep=0.5, tune=lambda m: tuned.append(widths_of(m)))
    assert tuned == [list(s.counts.values()) for s in found.history]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"keep": 0.0}, "the part of the original's cost that may stay is not a number"),
        ({"step": 0.0}, r"step is not a number in \(0, 1\]; seen: 0.0"),
        ({"top": 1.5}, r"top is not a number in \(0, 1\]; seen: 1.5"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], text: str) -> None:
    with pytest.raises(fxprune.InputError, match=text):
        Progressive(**values)


def test_a_refit_without_data() -> None:
    model, groups, _ = perceptron(10, 10)
    with pytest.raises(fxprune.InputError, match=r"no data for its refits; remedy: search\(..., data=batches\), or"):
        Progressive(progress=False)(model, groups, lambda m: 1.0)


def test_a_target_out_of_reach() -> None:
    with pytest.raises(fxprune.InputError, match="the target cannot be reached; seen: the smallest widths cost"):
        descend(lambda m: 1.0, 10, 10, keep=0.2, constraints=Constraints(minimum=8))


def test_a_part_of_the_groups_is_no_group_more_by_rounding() -> None:
    """0.28 of 25 groups are 7; as floating point has it, a bit more."""
    found, *_ = descend(lambda m: -float(sum(widths_of(m))), *([4] * 25), keep=0.7, top=0.28)
    assert len(found.history[0].pruned) == 7
