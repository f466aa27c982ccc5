"""Scorers made of scorers, and Torch-Pruning's importances as scorers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
import torchvision
from nets import CASES, Net
from scipy.stats import rankdata
from torch import Tensor, nn

import fxprune
from fxprune.scorers import (
    ActivationMean,
    BatchNormScale,
    Fallback,
    L1Norm,
    L2Norm,
    Normalised,
    OverMembers,
    Random,
    SeedAverage,
    TorchPruning,
    UnscorableError,
    WeightedSum,
    WeightPermutation,
)


def groups_of(model: nn.Module, x: Any) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, x))


@pytest.fixture
def net() -> Net:
    return CASES["residual"].build()


@pytest.fixture
def groups(net: Net) -> fxprune.Groups:
    return groups_of(net, CASES["residual"].inputs())


def given(values: dict[str, Tensor]) -> fxprune.scorers.Scorer:
    """A scorer that gives these values, or the same ones to all groups under the name ''."""
    return lambda model, groups, data=None: {g.name: values.get(g.name, values.get("", Tensor())) for g in groups}


VALUES = {"stem": torch.arange(8.0).double(), "a": torch.tensor([2.0, 2, 5, 0, 1, 2]).double()}


def test_normalised(net: Net, groups: fxprune.Groups) -> None:
    found = {by: Normalised(given(VALUES), by)(net, groups) for by in ("sum", "mean", "max", "rank")}  # type: ignore[arg-type]
    for name, v in VALUES.items():
        assert found["sum"][name].tolist() == pytest.approx((v / v.sum()).tolist())
        assert found["mean"][name].tolist() == pytest.approx((v / v.mean()).tolist())
        assert found["max"][name].tolist() == pytest.approx((v / v.max()).tolist())
        assert found["rank"][name].tolist() == pytest.approx((rankdata(v) / len(v)).tolist())
    assert found["rank"]["a"].tolist() == pytest.approx([4 / 6, 4 / 6, 1, 1 / 6, 2 / 6, 4 / 6])


def test_normalised_zeros_are_alike(net: Net, groups: fxprune.Groups) -> None:
    zeros = {n: v * 0 for n, v in VALUES.items()}
    for by, each in (("sum", 1 / 6), ("mean", 1.0), ("max", 1.0), ("rank", 3.5 / 6)):
        assert Normalised(given(zeros), by)(net, groups)["a"].tolist() == pytest.approx([each] * 6)  # type: ignore[arg-type]


def test_negative_scores_can_only_be_ranked(net: Net, groups: fxprune.Groups) -> None:
    scorer = given({n: v - 1 for n, v in VALUES.items()})
    Normalised(scorer, "rank")(net, groups)
    with pytest.raises(
        fxprune.InputError, match="at least zero to be normalised in stem; seen: -1; remedy: normalise by rank"
    ):
        Normalised(scorer)(net, groups)


def test_weighted_sum(net: Net, groups: fxprune.Groups) -> None:
    ones = given({n: torch.ones_like(v) for n, v in VALUES.items()})
    found = WeightedSum(((given(VALUES), 2.0), (ones, -0.5)))(net, groups)
    assert found["a"].tolist() == [3.5, 3.5, 9.5, -0.5, 1.5, 3.5]


def test_seed_average(net: Net, groups: fxprune.Groups) -> None:
    found = SeedAverage(Random(seed=4), 3)(net, groups)
    for name in found:
        expected = sum(Random(seed=s)(net, groups)[name] for s in (4, 5, 6)) / 3
        torch.testing.assert_close(found[name], expected)


def test_seed_average_of_noise_inputs_converges(net: Net, groups: fxprune.Groups) -> None:
    """Two disjoint sets of seeds agree better than two seeds."""
    x = torch.randn(64, 3, 8, 8)
    groups = groups_of(net, x)
    one, two = (WeightPermutation(seed=s)(net, groups)["a"] for s in (0, 100))
    many, others = (SeedAverage(WeightPermutation(seed=s), 8)(net, groups)["a"] for s in (0, 100))
    assert (many - others).norm() < (one - two).norm()


def test_over_members_calls_once_with_one_member_each(net: Net, groups: fxprune.Groups) -> None:
    asked: list[list[str]] = []

    def spy(model: nn.Module, parts: fxprune.Groups, data: Any = None) -> dict[str, Tensor]:
        asked.append([f"{s.tensor} {s.role}" for g in parts for s in g.slots])
        assert all(len(g.slots) == 1 and parts[g.name] is g for g in parts)
        return {g.name: torch.full((g.size,), float(i)).double() for i, g in enumerate(parts)}

    found = OverMembers(spy)(net, groups)
    (members,) = asked
    assert {m.split()[1] for m in members} == {"producer", "consumer"}
    assert sorted(members) == sorted(f"{s.tensor} {s.role}" for g in groups for s in (*g.producers, *g.consumers))
    assert {n: tuple(s.shape) for n, s in found.items()} == {g.name: (g.size,) for g in groups}


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("members", ["layers", "producers", "consumers"])
def test_over_members(net: Net, groups: fxprune.Groups, members: Any, reduce: Any) -> None:
    found = OverMembers(L1Norm(), members, reduce)(net, groups)
    tensors = dict(net.named_parameters())
    roles = {"layers": ("producer", "consumer"), "producers": ("producer",), "consumers": ("consumer",)}[members]
    for g in groups:
        parts = []
        for s in (s for s in g.slots if s.role in roles):
            sums, part = tensors[s.tensor].detach().abs().movedim(s.dim, 0).flatten(1).sum(1), torch.zeros(g.size)
            for position, channel in zip(s.positions.tolist(), s.channels.tolist(), strict=True):
                part[channel] += sums[position]
            parts.append(part)
        stacked = torch.stack(parts).double()
        expected = stacked.mean(0) if reduce == "mean" else stacked.amax(0)
        torch.testing.assert_close(found[g.name], expected, rtol=1e-6, atol=0)


def test_members_of_activations_are_what_each_layer_reads(net: Net) -> None:
    x = torch.randn(5, 3, 8, 8)
    groups = groups_of(net, x)
    whole = ActivationMean()(net, groups, [x])
    over = OverMembers(ActivationMean(), "consumers")(net, groups, [x])
    for name in whole:
        torch.testing.assert_close(over[name], whole[name])


def test_groups_without_such_members() -> None:
    model = Net(lambda m, x: m.b(x * m.scale), {"scale": nn.Parameter(torch.rand(6, 1, 1)), "b": nn.Conv2d(6, 2, 1)})
    groups = groups_of(model, torch.rand(1, 1, 4, 4))
    with pytest.raises(UnscorableError, match="no convolution or linear layer makes these channels in group scale"):
        OverMembers(L1Norm(), "producers")(model, groups)
    assert (OverMembers(L1Norm())(model, groups)["scale"] > 0).all()


def half_normed() -> tuple[Net, fxprune.Groups]:
    parts = {"a": nn.Conv2d(3, 4, 1), "n": nn.BatchNorm2d(4), "b": nn.Conv2d(4, 5, 1), "c": nn.Conv2d(5, 2, 1)}
    model = Net(lambda m, x: m.c(m.b(m.n(m.a(x)).relu()).relu()), parts).eval()
    return model, groups_of(model, torch.rand(1, 3, 4, 4))


def test_fallback_asks_the_second_for_what_the_first_refuses() -> None:
    model, groups = half_normed()
    found = Fallback(BatchNormScale(), L2Norm())(model, groups)
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [1, 1, 1, 1]
    assert torch.equal(found["b"], L2Norm()(model, groups)["b"])
    with pytest.raises(UnscorableError, match="in group b"):
        Fallback(BatchNormScale(), BatchNormScale())(model, groups)


def test_fallback_passes_on_other_errors_and_foreign_refusals() -> None:
    model, groups = half_normed()

    def fails(*_: Any) -> Any:
        raise fxprune.InputError("no such data")

    with pytest.raises(fxprune.InputError, match="no such data"):
        Fallback(fails, L2Norm())(model, groups)
    with pytest.raises(UnscorableError, match=r"in group b: b.weight\[dim 0\]"):
        Fallback(OverMembers(BatchNormScale(), "producers"), L2Norm())(model, groups.subset([groups["b"]]))


def test_refusals_of_many_groups_are_short() -> None:
    error = UnscorableError("nothing to go by", [f"layer{i}" for i in range(20)])
    assert str(error).startswith("nothing to go by in group layer0, ")
    assert "layer7 and 12 more; remedy" in str(error)
    assert len(error.groups) == 20


@pytest.mark.parametrize(
    "scorer",
    [
        WeightedSum(((L2Norm(), 1.0), (ActivationMean(), 1.0))),
        SeedAverage(WeightPermutation(), 2),
        Fallback(ActivationMean(), L2Norm()),
    ],
)
def test_data_that_is_used_up_by_the_first_scorer(net: Net, groups: fxprune.Groups, scorer: Any) -> None:
    data = iter([torch.randn(2, 3, 8, 8)])
    with pytest.raises(
        fxprune.InputError, match="iterated only once, for several scorers; seen: list_iterator; remedy: give a list"
    ):
        scorer(net, groups, data)
    assert len(list(data)) == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Normalised(L2Norm(), "min"),
            "unknown way to normalise; seen: min; remedy: one of sum, mean, max, rank",
        ),  # type: ignore[arg-type]
        (lambda: WeightedSum(()), "a weighted sum of nothing"),
        (lambda: WeightedSum({L2Norm(): 1.0}), "a weighted sum of no pairs"),  # type: ignore[arg-type]
        (lambda: WeightedSum(((L2Norm, 1.0),)), r"no scorer; seen: L2Norm; remedy: give an instance: L2Norm\(\)"),
        (lambda: Normalised("L2Norm"), "no scorer; seen: 'L2Norm'"),  # type: ignore[arg-type]
        (lambda: OverMembers(L2Norm), "no scorer; seen: L2Norm"),
        (lambda: Fallback(Normalised, L2Norm()), "no scorer; seen: Normalised"),
        (lambda: SeedAverage(L2Norm()), "no field `seed`; seen: L2Norm"),
        (
            lambda: SeedAverage(Normalised(Random())),
            "no field `seed`; seen: Normalised; remedy: .*combinators go around",
        ),
        (lambda: SeedAverage(Random(), 0), "the number of seeds must be a positive integer; seen: 0"),
        (lambda: OverMembers(L2Norm(), "norms"), "unknown choice of members; seen: norms"),  # type: ignore[arg-type]
        (lambda: OverMembers(L2Norm(), reduce="min"), "unknown reduction; seen: min"),  # type: ignore[arg-type]
    ],
)
def test_options_out_of_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(fxprune.InputError, match=text):
        make()


# Torch-Pruning


IMPORTANCES = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "magnitude of the first": lambda: tp.importance.GroupMagnitudeImportance(
        p=1, group_reduction="first", normalizer=None
    ),
    "batch norm": lambda: tp.importance.BNScaleImportance(),
    "LAMP": lambda: tp.importance.LAMPImportance(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", IMPORTANCES.values(), ids=IMPORTANCES)
def test_an_importance_says_of_our_groups_what_it_says_of_the_peers_own(make: Callable[[], Any]) -> None:
    model = torchvision.models.resnet18(num_classes=10).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight)
    x = torch.randn(1, 3, 64, 64)
    found = TorchPruning(make())(model, groups_of(model, x))
    graph = tp.DependencyGraph().build_dependency(model, (x,), verbose=False)
    for name, scores in found.items():
        layer: Any = model.get_submodule(name)
        theirs = make()(graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels))))
        # The peer's group meets its members in another order: "first" is the same, sums are rounded differently.
        torch.testing.assert_close(scores, theirs.double(), rtol=1e-4, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_importances_that_need_gradients_find_the_models_own(net: Net, groups: fxprune.Groups) -> None:
    x = torch.randn(4, 3, 8, 8)
    net(x).square().sum().backward()
    before = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    scores = TorchPruning(tp.importance.GroupTaylorImportance(group_reduction="first", normalizer=None))(net, groups)
    weight = net.a.weight
    expected = (weight * weight.grad).abs().flatten(1).sum(1).double()
    torch.testing.assert_close(scores["a"], expected.detach(), rtol=1e-5, atol=1e-9)
    hessian = tp.importance.GroupHessianImportance()
    hessian.accumulate_grad(net)
    TorchPruning(hessian)(net, groups)  # writes into the gradients
    assert all(torch.equal(p.grad, before[n]) for n, p in net.named_parameters() if n in before)


def test_what_the_peer_cannot_score(monkeypatch: pytest.MonkeyPatch) -> None:
    net = CASES["residual"].build()
    groups = groups_of(net, CASES["residual"].inputs())
    with pytest.raises(UnscorableError, match="says nothing of these channels in group stem, a"):
        TorchPruning(lambda group: None)(net, groups)
    with pytest.raises(fxprune.InputError, match=r"not one number a channel in a; seen: \(2, 6\), not \(6,\)"):
        TorchPruning(lambda group: torch.zeros(2, 6))(net, groups)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(fxprune.InputError, match=r"torch_pruning cannot be imported; .*pip install 'fxprune\[peer\]'"):
        TorchPruning(lambda group: None)(net, groups)
