"""Soft and sparse training: the terms against loops over channels, what they do in a training, what is zeroed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import fxprune
from fxprune.planners import Uniform
from fxprune.scorers import L2Norm
from fxprune.sparsity import BatchNormL1, GroupLasso, GrowingDecay, SoftPruning


class Residual(nn.Module):
    """A stream of 6 channels that two layers make and two read, and a branch of 4 with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.norm = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.head = nn.Conv2d(4, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.b(self.norm(self.a(x)).relu())).mean((2, 3)))


def made(seed: int = 0) -> tuple[Any, fxprune.Groups, Tensor]:
    torch.manual_seed(seed)
    model, x = Residual(), torch.randn(8, 2, 5, 5)
    return model, fxprune.find_groups(fxprune.trace(model, x[:1])), x


def channels(m: Any) -> dict[str, list[list[Tensor]]]:
    """All weights that belong to each channel, written out by hand."""
    stream = [
        [m.stem.weight[c], m.stem.bias[c], m.b.weight[c], m.b.bias[c], m.a.weight[:, c], m.head.weight[:, c]]
        for c in range(6)
    ]
    branch = [[m.a.weight[c], m.norm.weight[c], m.norm.bias[c], m.b.weight[:, c]] for c in range(4)]
    return {"stem": stream, "a": branch}


def test_group_lasso_is_the_sum_over_channels_written_out() -> None:
    model, groups, _ = made()
    expected = torch.zeros(())
    for several in channels(model).values():
        for weights in several:
            flat = torch.cat([w.flatten() for w in weights])
            expected = expected + len(flat) ** 0.5 * flat.norm()
    found = GroupLasso(groups, 0.3)(model)
    torch.testing.assert_close(found, 0.3 * expected)
    own = [p for p in model.parameters() if p is not model.head.bias]
    by_ours, by_hand = torch.autograd.grad(found, own), torch.autograd.grad(0.3 * expected, own)
    for a, b in zip(by_ours, by_hand, strict=True):
        torch.testing.assert_close(a, b)


def test_group_lasso_counts_all_weights_of_a_channel_behind_a_flatten() -> None:
    layers = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5, bias=False)
    net = nn.Sequential(*layers).double()
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8, dtype=torch.float64)))
    made, read = layers[0].weight, layers[3].weight.view(5, 4, 64)
    norms = (made.square().sum((1, 2, 3)) + read.square().sum((0, 2))).sqrt()
    term = GroupLasso(groups, 1.0)(net)
    assert term.dtype == torch.float64
    torch.testing.assert_close(term, (3 * 9 + 5 * 64) ** 0.5 * norms.sum())


def test_weights_that_are_zero_have_finite_gradients() -> None:
    model, groups, _ = made()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    GroupLasso(groups)(model).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p is not model.head.bias)


def test_batchnorm_scales() -> None:
    model, groups, _ = made()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    assert float(BatchNormL1(groups, 2.0)(model).detach()) == 7.0
    plain = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    without = fxprune.find_groups(fxprune.trace(plain, torch.zeros(1, 2)))
    with pytest.raises(fxprune.InputError, match="no batch norm scales a prunable channel"):
        BatchNormL1(without)


def test_growing_decay_grows_on_what_goes_alone_and_stops_at_its_limit() -> None:
    model, groups, _ = made()
    plan = groups.plan({"a": [0, 3]})
    decay = GrowingDecay(groups, plan, strength=0.1, limit=0.25)
    gone = sum(float(w.detach().square().sum()) for c in (1, 2) for w in channels(model)["a"][c])
    values = [float(decay(model).detach()) for _ in range(4)]
    np.testing.assert_allclose(values, [0.05 * gone, 0.1 * gone, 0.125 * gone, 0.125 * gone], rtol=1e-5)
    resumed = GrowingDecay(groups, plan, strength=0.1, limit=0.25, calls=1)
    assert float(resumed(model).detach()) == pytest.approx(0.1 * gone)
    decay(model).backward()
    assert model.stem.weight.grad is None or not model.stem.weight.grad.any()
    assert not model.a.weight.grad[[0, 3]].any()
    assert model.a.weight.grad[[1, 2]].all()
    with pytest.raises(fxprune.InputError, match="the plan removes nothing"):
        GrowingDecay(groups, groups.plan({}))


def test_soft_pruning_computes_what_the_pruned_network_computes() -> None:
    model, groups, x = made()
    model.eval()
    soft = SoftPruning(groups, Uniform(0.5))
    plan = soft(model)
    assert plan is soft.plan
    assert plan.kept_counts() == {"stem": 3, "a": 2}
    torch.testing.assert_close(fxprune.rewrite(model, plan)(x), model(x))
    kept = plan.groups["a"].kept
    gone = np.setdiff1d(np.arange(4), kept)
    assert not model.a.weight[gone].any()
    assert model.a.weight[kept].any()
    assert model.b.weight[plan.groups["stem"].kept][:, gone].any()  # what reads them stays


def test_what_was_zeroed_may_come_back() -> None:
    model, groups, _ = made()
    soft = SoftPruning(groups, Uniform(0.5))
    first = soft(model).groups["a"].kept
    with torch.no_grad():
        model.a.weight[np.setdiff1d(np.arange(4), first)] = 9.0
    assert set(soft(model).groups["a"].kept) == set(np.setdiff1d(np.arange(4), first))


def test_group_lasso_makes_channels_small_together() -> None:
    """A teacher of two features: with the term, more of the eight hidden channels end near zero than without."""
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    y = torch.stack([x[:, 0].relu(), x[:, 1].relu()], 1)

    def small(strength: float) -> int:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        groups = fxprune.find_groups(fxprune.trace(model, x[:1]))
        penalty, optimizer = GroupLasso(groups, strength), torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(300):
            optimizer.zero_grad()
            ((model(x) - y).square().mean() + penalty(model)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert float((model(x) - y).detach().square().mean()) < 0.05
        scores = L2Norm()(model, groups)["0"]
        return int((scores < 0.05 * scores.max()).sum())

    assert small(3e-3) >= 4 > small(0.0)


@pytest.mark.parametrize("kind", [GroupLasso, BatchNormL1])
def test_bad_settings(kind: Any) -> None:
    _, groups, _ = made()
    with pytest.raises(fxprune.InputError, match=r"strength or its limit is not a number in \[0, inf\); seen: -1"):
        kind(groups, -1)
    with pytest.raises(fxprune.InputError, match="no group to make sparse"):
        kind(groups.subset([]))


@pytest.mark.parametrize("kind", [GroupLasso, BatchNormL1, GrowingDecay, SoftPruning])
@pytest.mark.parametrize("given", ["cut", "another", "compiled"])
def test_a_model_that_the_groups_are_not_of_is_refused(kind: Any, given: str) -> None:
    """Rather than to leave out what has other names, or to fail inside of PyTorch."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 3, 8, 8)))
    plan = groups.plan({"0": [0, 1, 2]})
    more: list[Any] = [plan] if kind is GrowingDecay else [fxprune.planners.Uniform(0.5)] if kind is SoftPruning else []
    term = kind(groups, *more)
    term(model)
    other = {"cut": fxprune.rewrite(model, plan), "another": nn.Linear(2, 2), "compiled": torch.compile(model)}[given]
    with pytest.raises(
        fxprune.InputError, match="is compiled" if given == "compiled" else "the groups are of another model"
    ):
        term(other)


def test_a_plan_for_other_groups_is_refused() -> None:
    def of(width: int, **options: Any) -> tuple[nn.Module, fxprune.Groups, fxprune.Plan]:
        net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 4))
        groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 8)), **options)
        return net, groups, fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(net, groups))

    net, groups, _ = of(16)
    wider, fewer = of(32)[2], of(16, ignored=["0"])[2]
    with pytest.raises(fxprune.PlanError, match="for other groups; seen: 0 has 16 channels, not 32"):
        fxprune.sparsity.GrowingDecay(groups, wider)
    with pytest.raises(fxprune.PlanError, match="is not a plan; seen: NoneType"):
        fxprune.sparsity.SoftPruning(groups, lambda *_: None)(net)
    before = net[0].weight.clone()
    assert float(fxprune.sparsity.GrowingDecay(groups, fewer)(net).detach()) > 0
    fxprune.sparsity.SoftPruning(groups, lambda *_: fewer)(net)
    assert torch.equal(net[0].weight, before)


def test_a_planner_that_is_a_number_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    with pytest.raises(fxprune.InputError, match=r"the planner is not a function; seen: 0\.5"):
        SoftPruning(groups, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_are_a_length_times_a_direction_lose_the_length(norm: Any) -> None:
    """A direction of zeros is 0/0."""
    model, x = nn.Sequential(norm(nn.Linear(3, 8)), nn.ReLU(), norm(nn.Linear(8, 2))), torch.rand(4, 3)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    soft = SoftPruning(groups, Uniform(0.5))
    plan = soft(model)
    pruned = fxprune.rewrite(model, plan)(x)
    assert pruned.isfinite().all()
    torch.testing.assert_close(model(x), pruned)
    fxprune.mask(model, plan)
    torch.testing.assert_close(model(x), pruned)


class Onto(nn.Module):
    """A stream that a layer is added to, whose weight's length lies along another dim than what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)
        self.layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.layer(x))


def test_lengths_along_another_dim_make_no_channel_zero() -> None:
    model, x = Onto(), torch.rand(2, 2, 4, 4)
    plan = SoftPruning(fxprune.find_groups(fxprune.trace(model, x)), Uniform(0.5))(model)
    gone = np.setdiff1d(np.arange(8), plan.groups["stem"].kept)
    assert not model.layer(model.stem(x))[:, gone].any()
    assert model.layer(model.stem(x)).isfinite().all()


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm2d(12, affine=False), lambda: FrozenBatchNorm2d(12)])
def test_what_a_norm_without_a_scale_to_train_subtracts_and_adds_goes_as_well(norm: Any) -> None:
    model = nn.Sequential(nn.Conv2d(1, 12, 3), norm(), nn.ReLU(), nn.Conv2d(12, 4, 3)).eval()
    model[1].running_mean.fill_(-1.0)
    if isinstance(model[1], FrozenBatchNorm2d):
        model[1].bias.fill_(2.0)
    x = torch.rand(2, 1, 8, 8)
    plan = SoftPruning(fxprune.find_groups(fxprune.trace(model, x)), Uniform(0.5))(model)
    torch.testing.assert_close(model(x), fxprune.rewrite(model, plan)(x))
    assert model[1].running_var.all()
