"""A model that shrinks while it trains: when, to what, and what follows it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import fxprune
from fxprune.errors import InputError
from fxprune.training import gradual, optimizers

pytestmark = pytest.mark.filterwarnings("ignore:the allowed widths leave")  # the nets are small
X = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.AdamW(p, 0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
}


def net() -> nn.Sequential:
    """Without a norm: removed channels that are zero take no part in training."""
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


# When, and to what


def test_parts_go_before_the_epochs_given() -> None:
    model = net()
    pruner = fxprune.Gradual(model, X, epochs=[1, 3], macs=0.25)
    full = fxprune.cost(fxprune.find_groups(fxprune.trace(model, X))).macs
    seen = [(pruner.step(epoch), model[0].out_channels) for epoch in range(5)]
    assert [cut for cut, _ in seen] == [False, True, False, True, False]
    assert seen[0][1] == 12 > seen[1][1] == seen[2][1] > seen[3][1] == seen[4][1]
    macs = fxprune.cost(fxprune.find_groups(fxprune.trace(model, X))).macs
    assert 0.2 * full < macs <= 0.25 * full
    report = pruner.result.report
    assert (report.before.macs, report.after.macs) == (full, macs)


@pytest.mark.parametrize(
    "goal", [{"pruning_ratio": 0.5}, {"pruning_ratio": 0.5, "round_to": 4}, {"macs": 0.5}], ids=str
)
def test_many_cuts_end_where_one_does(goal: dict[str, Any]) -> None:
    model = net()
    at_once = fxprune.prune(model, X, **goal)
    pruner = fxprune.Gradual(model, X, epochs=range(10), verify=False, **goal)
    pruner.step(4)
    rest = net()  # and a checkpoint half-way changes nothing
    rest_of = fxprune.Gradual(rest, X, epochs=range(10), verify=False, **goal)
    rest_of.load_state_dict(pruner.state_dict())
    rest.load_state_dict(model.state_dict())
    for one in (pruner, rest_of):
        one.step(9)
        assert one.result.report.kept == at_once.report.kept


def test_epochs_that_were_left_out_are_caught_up_on() -> None:
    by_steps, at_once = net(), net()
    at_once.load_state_dict(by_steps.state_dict())
    first, second = (fxprune.Gradual(m, X, epochs=[0, 1], pruning_ratio=0.75) for m in (by_steps, at_once))
    assert [first.step(0), first.step(1)] == [True, True]
    assert repr(second) == "Gradual(Sequential; 0 of 2 cuts made)"
    assert repr(first).startswith("Gradual(Sequential; 2 of 2 cuts made; Report(")
    assert second.step(7)
    assert second.plan == first.plan
    assert by_steps[0].out_channels == 3


def test_the_plan_is_one_for_the_original() -> None:
    model = net()
    original = copy.deepcopy(model)
    pruner = fxprune.Gradual(model, X, epochs=range(3), macs=0.3)
    pruner.step(np.int64(2))  # as of a schedule in an array
    assert pruner.plan is not None
    again = fxprune.rewrite(original, pruner.plan)
    assert torch.equal(again(X), model(X))


@pytest.mark.parametrize("goal", [{"pruning_ratio": 0.5}, {"macs": 0.4}])
def test_one_cut_is_what_prune_does(goal: dict[str, float]) -> None:
    model, data = net(), list(X.chunk(4))
    expected = fxprune.prune(model, X, data=data, **goal)  # type: ignore[arg-type]
    pruner = fxprune.Gradual(model, X, epochs=[0], data=data, **goal)
    pruner.step(0)
    assert torch.equal(model(X), expected.model(X))
    assert "layers repaired" in str(pruner.result.report)


def test_data_that_can_be_read_once_serve_all_cuts() -> None:
    model, average = net(), net()
    batches = ({"image": part} for part in X.chunk(2))
    options = {"data": batches, "unpack": lambda batch: batch["image"]}
    pruner = fxprune.Gradual(model, X, epochs=[0, 1], ema=average, pruning_ratio=0.75, **options)
    assert [pruner.step(0), pruner.step(1)] == [True, True]
    assert average(X).shape == model(X).shape


# What follows


def kept_of(plan: fxprune.Plan, tensor: str) -> dict[int, Any]:
    """Which indices of each dim stay, of a net whose slots are whole dims but for the flattened one."""
    kept: dict[int, Any] = {}
    for group in plan.groups.values():
        for slot in group.slots:
            if slot.tensor == tensor:
                gone = slot.positions[~np.isin(slot.channels, group.kept)]
                kept[slot.dim] = np.setdiff1d(np.arange(slot.length), gone)
    return kept


def at(tensor: torch.Tensor, kept: dict[int, Any]) -> torch.Tensor:
    return tensor[np.ix_(*[kept.get(d, np.arange(n)) for d, n in enumerate(tensor.shape)])]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_in_the_masked_model(kind: str) -> None:
    """The full model, whose removed channels are zero in weights and state, makes the same steps."""
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, 3)
    full = copy.deepcopy(model)
    masked = OPTIMIZERS[kind](full.parameters())
    masked.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, pruning_ratio=0.5)
    pruner.step(0)
    assert pruner.plan is not None
    kept = {name: kept_of(pruner.plan, name) for name, _ in full.named_parameters()}
    for name, parameter in full.named_parameters():
        for tensor in [parameter.data, *(t for t in masked.state[parameter].values() if t.shape == parameter.shape)]:
            stays = torch.zeros_like(tensor, dtype=torch.bool)
            stays[np.ix_(*[kept[name].get(d, np.arange(n)) for d, n in enumerate(tensor.shape)])] = True
            tensor[~stays] = 0
    train(model, optimizer, 3)
    train(full, masked, 3)
    for (name, cut), whole in zip(model.named_parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(cut, at(whole, kept[name]), msg=name)
    assert all(p is q for p, q in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))
    assert len(optimizer.state) == len(list(model.parameters()))


def test_parameter_groups_keep_their_settings() -> None:
    model = net()
    rates = [{"params": [p], "lr": 0.1 * i} for i, p in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(rates)
    fxprune.Gradual(model, X, epochs=[0], optimizer=[optimizer], macs=0.5).step(0)
    found = [(group["params"], group["lr"]) for group in optimizer.param_groups]
    for i, (parameter, (params, rate)) in enumerate(zip(model.parameters(), found, strict=True)):
        assert params[0] is parameter
        assert rate == 0.1 * i


def test_state_that_lies_otherwise_begins_anew() -> None:
    model = net()
    optimizer = torch.optim.Adafactor(model.parameters())
    train(model, optimizer)
    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, macs=0.5)
    with pytest.warns(UserWarning, match="Adafactor begins anew for 3 parameters, such as 0.weight"):
        pruner.step(0)
    train(model, optimizer)
    assert optimizer.state[model[0].weight]["step"] == 2


def test_an_optimizer_whose_state_spans_all_parameters_begins_anew() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=2)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = model(X).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, macs=0.5)
    with pytest.warns(UserWarning, match="LBFGS begins anew: its state spans all parameters"):
        pruner.step(0)
    optimizer.step(loss)  # numbers of the old parameters would be refused here
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def test_an_optimizer_inside_the_optimizer_follows() -> None:
    class Outer(torch.optim.Optimizer):
        """As sharpness-aware ones: the inner one takes the steps."""

        def __init__(self, inner: torch.optim.Optimizer) -> None:
            super().__init__(inner.param_groups, {})
            self.inner, self.param_groups = inner, inner.param_groups

        def step(self, closure: Any = None) -> Any:
            self.inner.step()

    model = net()
    outer = Outer(torch.optim.Adam(model.parameters(), 0.01))
    train(model, outer)
    fxprune.Gradual(model, X, epochs=[0], optimizer=outer, macs=0.5).step(0)
    assert {id(p) for p in outer.inner.state} == {id(p) for p in model.parameters()}
    assert all(outer.inner.state[p]["exp_avg"].shape == p.shape for p in model.parameters())


def test_a_goal_that_removes_nothing_is_told_at_the_last_cut() -> None:
    pruner = fxprune.Gradual(net(), X, epochs=[0, 1], pruning_ratio=0.01)
    pruner.step(0)
    with pytest.warns(UserWarning, match=r"nothing was removed: pruning_ratio=0.01 leaves widths of 12, 16 whole"):
        pruner.step(1)
    assert "nothing was removed" in str(pruner.result.report)


def test_the_proof_is_of_the_last_cut_that_removed_something() -> None:
    pruner = fxprune.Gradual(net(), X, epochs=[0, 1, 2], pruning_ratio=0.1)
    for epoch in range(3):
        pruner.step(epoch)
    assert pruner.plan is not None
    assert pruner.plan.cuts()
    assert "nothing is pruned" not in str(pruner.result.report)


@pytest.mark.parametrize(("average", "text"), [("itself", "is the model itself"), ("other", "is of another model")])
def test_an_average_of_something_else_is_refused_at_once(average: str, text: str) -> None:
    model = net()
    with pytest.raises(InputError, match=text):
        fxprune.Gradual(model, X, epochs=[3], ema=model if average == "itself" else nn.Linear(2, 2), macs=0.5)


def test_averages_follow() -> None:
    model = net()
    average = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    train(model, optimizer)
    average.update_parameters(model)
    expected = copy.deepcopy(average.module)
    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, ema=average, macs=0.5)
    pruner.step(0)
    assert pruner.plan is not None
    assert torch.equal(average(X), fxprune.rewrite(expected, pruner.plan)(X))
    train(model, optimizer)
    average.update_parameters(model)


def test_an_average_is_repaired_as_the_model_is() -> None:
    model = net()
    average = copy.deepcopy(model)
    pruner = fxprune.Gradual(model, X, epochs=[0], ema=average, macs=0.5, data=[X])
    pruner.step(0)
    torch.testing.assert_close(average(X), model(X))


def test_a_run_that_was_left_goes_on_as_if_it_was_not() -> None:
    def run(model: nn.Module, epochs: range, left: Any = None) -> tuple[nn.Module, Any]:
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        pruner = fxprune.Gradual(model, X, epochs=[0, 2], optimizer=optimizer, macs=0.4)
        if left:
            pruner.load_state_dict(left[0])
            model.load_state_dict(left[1])
            optimizer.load_state_dict(left[2])
        for epoch in epochs:
            pruner.step(epoch)
            train(model, optimizer)
        return model, copy.deepcopy((pruner.state_dict(), model.state_dict(), optimizer.state_dict()))

    start = net()
    whole, _ = run(copy.deepcopy(start), range(4))
    _, left = run(copy.deepcopy(start), range(2))
    again, _ = run(copy.deepcopy(start), range(2, 4), left)
    assert torch.equal(again(X), whole(X))


def test_the_report_of_a_state_that_was_loaded_knows_of_the_data() -> None:
    first = fxprune.Gradual(net(), X, epochs=[0], data=[X], macs=0.4)
    first.step(0)
    again = fxprune.Gradual(net(), X, epochs=[0], data=[X], macs=0.4)
    again.load_state_dict(first.state_dict())
    assert "layers repaired on the data" in str(again.result.report)


def test_widths_that_a_backbone_states_follow() -> None:
    model = net()
    model.feature_info = [{"module": "2", "num_chs": 16}]  # type: ignore[assignment]
    fxprune.Gradual(model, X, epochs=[0], pruning_ratio=0.5).step(0)
    assert model.feature_info == [{"module": "2", "num_chs": 8}]


# What is refused


def test_nothing_changes_if_a_cut_fails() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    def scorer(*_: Any) -> Any:
        raise RuntimeError("none today")

    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, macs=0.5, scorer=scorer)
    with pytest.raises(RuntimeError, match="none today"):
        pruner.step(0)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before)
    assert pruner.plan is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"epochs": []}, "epochs are none; seen: []; remedy: give the epochs"),
        ({"epochs": 3}, "epochs are none; seen: 3"),
        ({"macs": None}, "no goal is given"),
        ({"step": 2}, "unknown option; seen: step; remedy: one of macs, parameters"),
        ({"macs": 0}, "macs out of range"),
        ({"optimizer": 1}, "what is given is not of type Optimizer; seen: int"),
        ({"optimizer": torch.optim.SGD(net().parameters())}, "the optimizer holds no parameter of the model"),
        ({"model": 3}, "the model is not of type Module"),
    ],
)
def test_errors(arguments: dict[str, Any], text: str) -> None:
    given = {"model": net(), "example_inputs": X, "epochs": [0], "macs": 0.5} | arguments
    with pytest.raises(InputError) as error:
        fxprune.Gradual(**given)
    assert text in str(error.value)


def test_a_compiled_model_is_refused() -> None:
    with pytest.raises(InputError, match="the model is compiled"):
        fxprune.Gradual(torch.compile(net()), X, epochs=[0], macs=0.5)


def test_results_and_states_come_in_their_turn() -> None:
    pruner = fxprune.Gradual(net(), X, epochs=[1], macs=0.5)
    with pytest.raises(InputError, match="nothing was cut yet"):
        _ = pruner.result
    with pytest.raises(InputError, match="the epoch is not of type Integral; seen: str"):
        pruner.step("last")  # type: ignore[arg-type]
    pruner.step(1)
    with pytest.raises(InputError, match="the model was cut already"):
        pruner.load_state_dict(pruner.state_dict())


def test_a_state_whose_goal_no_epoch_is_left_for_is_refused() -> None:
    pruner = fxprune.Gradual(net(), X, epochs=[0, 1, 2], macs=0.4)
    pruner.step(0)
    state = pruner.state_dict()
    with pytest.raises(
        InputError, match=r"no epoch is left .*; seen: 1 of 3 cuts made, 1 epochs; remedy: give at least 2"
    ):
        fxprune.Gradual(net(), X, epochs=[0], macs=0.4).load_state_dict(state)
    again = fxprune.Gradual(net(), X, epochs=[0, 5], macs=0.4)
    again.load_state_dict(state)
    again.step(5)
    assert again.result.report.after.macs <= 0.4 * again.result.report.before.macs
    for wrong in (None, {}, {"plan": ""}):
        with pytest.raises(InputError, match="this is no state of a pruner"):
            fxprune.Gradual(net(), X, epochs=[0], macs=0.4).load_state_dict(wrong)  # type: ignore[arg-type]


# Whole or not at all


def interrupted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Ctrl-C the second time that a cut comes to a function."""
    module = optimizers if name == "_follow" else gradual
    function, calls = getattr(module, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)


@pytest.mark.parametrize("name", ["_follow", "spread", "rewrite", "take_values"])
def test_a_cut_that_is_interrupted_has_not_been_made(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = net()
    several = [torch.optim.Adam(model[i].parameters()) for i in (0, 2)]
    average = AveragedModel(model)
    for optimizer in several:
        train(model, optimizer)
    before = copy.deepcopy((model.state_dict(), average.state_dict(), [o.state_dict() for o in several]))
    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=several, ema=average, macs=0.5, verify=False)
    with monkeypatch.context() as patch:
        interrupted(patch, name)
        with pytest.raises(KeyboardInterrupt):
            pruner.step(0)
    assert (pruner.plan, pruner.cuts) == (None, 0)
    after = (model.state_dict(), average.state_dict(), [o.state_dict() for o in several])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert pruner.step(0)  # and can be made
    train(model, several[0])
    assert {id(p) for o in several for g in o.param_groups for p in g["params"]} < {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    "change", [{"whole": 5}, {"whole": {"macs": "x"}}, {"done": -3}, {"done": 99}, {"done": "x"}, {"plan": 7}], ids=str
)
def test_a_state_that_is_none_changes_nothing(change: dict[str, Any]) -> None:
    first, model = fxprune.Gradual(net(), X, epochs=[0, 1], macs=0.5), net()
    first.step(0)
    pruner = fxprune.Gradual(model, X, epochs=[0, 1], macs=0.5)
    with pytest.raises(InputError, match="this is no state of a pruner"):
        pruner.load_state_dict({**first.state_dict(), **change})
    assert (model[0].out_channels, pruner.plan, pruner.cuts) == (12, None, 0)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))


def test_a_resumed_run_knows_its_groups_by_what_may_shrink(tmp_path: Path) -> None:
    x = torch.rand(1, 1, 8, 8)
    goal: dict[str, Any] = {"epochs": [0, 1], "macs": 0.7, "only": ["0"]}
    first, again = small_net(), small_net()
    begun, resumed = fxprune.Gradual(first, x, **goal), fxprune.Gradual(again, x, **goal)
    begun.step(0)
    resumed.load_state_dict(begun.state_dict())
    again.load_state_dict(first.state_dict())
    resumed.step(1)
    assert [g.name for g in resumed.result.report.groups] == ["0"]
    resumed.result.save(tmp_path / "small")
    assert "1 of 1 groups pruned" in str(resumed.result.report)


def test_random_data_as_prune_takes_them() -> None:
    model = small_net()
    pruner = fxprune.Gradual(model, torch.rand(1, 1, 8, 8), epochs=[0], macs=0.5, data="random")
    pruner.step(0)
    assert pruner.result.report.random
    assert pruner.result.plan == fxprune.prune(small_net(), torch.rand(1, 1, 8, 8), macs=0.5, data="random").plan


@pytest.mark.parametrize("kind", ["gradient", "accumulated"])
def test_hooks_of_parameters_that_are_cut_are_told_of(kind: str) -> None:
    model = small_net()
    hook: Any = lambda _: None  # noqa: E731
    if kind == "gradient":
        model[2].weight.register_hook(hook)
    else:
        model[2].weight.register_post_accumulate_grad_hook(hook)
    model[4].bias.register_hook(hook)  # which is not cut
    pruner = fxprune.Gradual(model, torch.rand(1, 1, 8, 8), epochs=[0], pruning_ratio=0.5)
    with pytest.warns(UserWarning, match=r"1 parameters that are cut have hooks, such as 2\.weight"):
        pruner.step(0)
