"""Scores from feature maps, against module hooks and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nets import Net
from torch import Tensor, nn

import fxprune
from fxprune.scorers import ActivationEntropy, ActivationMean, APoZ, HRank, UnscorableError


def groups_of(model: nn.Module, x: Any) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, x))


def inputs_of(model: nn.Module, names: list[str], x: Tensor) -> dict[str, np.ndarray]:
    """What the named layers read, by forward hooks."""
    seen: dict[str, np.ndarray] = {}
    hooks = [
        model.get_submodule(n).register_forward_pre_hook(lambda m, a, n=n: seen.__setitem__(n, a[0].detach().numpy()))
        for n in names
    ]
    with torch.no_grad():
        model(x)
    for h in hooks:
        h.remove()
    return seen


def mean(maps: np.ndarray) -> float:
    return float(np.abs(maps).mean())


def alive(maps: np.ndarray) -> float:
    return float((maps != 0).mean())


def rank(maps: np.ndarray) -> float:
    return float(np.linalg.matrix_rank(maps).mean())


def entropy(maps: np.ndarray) -> float:
    counts, _ = np.histogram(maps.reshape(len(maps), -1).mean(1), bins=100)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


STATISTICS: list[tuple[Any, Callable[[np.ndarray], float]]] = [
    (ActivationMean(), mean),
    (APoZ(), alive),
    (HRank(), rank),
    (ActivationEntropy(), entropy),
]


def two_readers(m: Any, x: Tensor) -> Tensor:
    """A stream that a convolution and a shortcut read, after a norm and a ReLU."""
    x = m.n(m.a(x)).relu()
    return m.c(m.b(x).relu() + m.short(x))


def net() -> Net:
    parts = {"a": nn.Conv2d(3, 5, 3, padding=1), "n": nn.BatchNorm2d(5), "b": nn.Conv2d(5, 4, 3, padding=1)}
    model = Net(two_readers, {**parts, "short": nn.Conv2d(5, 4, 1), "c": nn.Conv2d(4, 2, 1)}).double().eval()
    nn.init.normal_(model.n.bias)
    return model


@pytest.mark.parametrize(("scorer", "statistic"), STATISTICS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("batches", [1, 2, 7])
def test_statistics_of_what_is_read(scorer: Any, statistic: Callable[[np.ndarray], float], batches: int) -> None:
    """However the data is cut into batches."""
    model, x = net(), torch.randn(7, 3, 6, 6, dtype=torch.float64)
    seen = inputs_of(model, ["b", "short", "c"], x)
    found = scorer(model, groups_of(model, x), x.chunk(batches))
    for group, readers in (("a", ["b", "short"]), ("b", ["c"])):
        for channel, score in enumerate(found[group].tolist()):
            expected = np.mean([statistic(seen[r][:, channel]) for r in readers])
            assert score == pytest.approx(float(expected), rel=1e-9), (group, channel)


@pytest.mark.parametrize(("scorer", "statistic"), STATISTICS, ids=lambda v: type(v).__name__)
def test_flattened_maps_are_maps(scorer: Any, statistic: Callable[[np.ndarray], float]) -> None:
    """A square map that a linear layer reads as columns."""
    parts = {"a": nn.Conv2d(3, 4, 3, padding=1), "fc": nn.Linear(4 * 36, 2)}
    model = Net(lambda m, x: m.fc(m.a(x).relu().flatten(1)), parts).double()
    x = torch.randn(9, 3, 6, 6, dtype=torch.float64)
    maps = inputs_of(model, ["fc"], x)["fc"].reshape(9, 4, 6, 6)
    found = scorer(model, groups_of(model, x), [x])["a"]
    assert found.tolist() == pytest.approx([statistic(maps[:, c]) for c in range(4)], rel=1e-9)


@pytest.mark.parametrize(("scorer", "statistic"), STATISTICS[:3], ids=lambda v: type(v).__name__)
def test_one_channel_of_every_group_of_a_grouped_layer(scorer: Any, statistic: Callable[[np.ndarray], float]) -> None:
    """Column i of the kernel reads channel i of each half."""
    parts = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 6, 3, groups=2), "c": nn.Conv2d(6, 2, 1)}
    model = Net(lambda m, x: m.c(m.b(m.a(x).relu())), parts).double()
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    groups = groups_of(model, x)
    maps = inputs_of(model, ["b"], x)["b"].reshape(5, 2, 4, 6, 6)
    (slot,) = groups["a"].consumers
    found = scorer(model, groups, [x])["a"]
    for position, channel in zip(slot.positions.tolist(), slot.channels.tolist(), strict=True):
        assert float(found[channel]) == pytest.approx(statistic(maps[:, :, position].reshape(10, 6, 6)), rel=1e-9)


def test_channels_that_no_layer_reads_are_seen_where_they_are_made() -> None:
    """Attention reads queries by a matrix product with keys."""
    parts = {"q": nn.Linear(4, 6), "k": nn.Linear(4, 6), "v": nn.Linear(4, 5), "out": nn.Linear(5, 2)}
    model = Net(lambda m, x: m.out((m.q(x) @ m.k(x).transpose(1, 2)).softmax(-1) @ m.v(x)), parts)
    x = torch.randn(3, 7, 4)
    groups = groups_of(model, x)
    assert not groups["q"].consumers
    expected = (model.q(x).abs().mean((0, 1)) + model.k(x).abs().mean((0, 1))).detach().double() / 2
    torch.testing.assert_close(ActivationMean()(model, groups, [x])["q"], expected)


def test_thresholds() -> None:
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.LeakyReLU(), nn.Linear(2, 1))
    net[0].weight.data = torch.tensor([[1.0], [-3.0]])
    groups, data = groups_of(net, torch.zeros(1, 1)), [torch.tensor([[4.0], [-4.0], [5.0], [-0.1]])]
    assert APoZ()(net, groups, data)["0"].tolist() == [1, 1]
    assert APoZ(threshold=0.5)(net, groups, data)["0"].tolist() == [0.5, 0.25]


def test_ranks_by_hand() -> None:
    """A constant map has rank 1, a product of ramps plus a constant rank 2, an empty one 0."""
    net = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 1, 1))
    net[0].weight.data = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]]).view(4, 2, 1, 1)
    ramp = torch.arange(1.0, 6)
    x = torch.stack([torch.ones(5, 5), ramp[:, None] * ramp])[None]
    assert HRank()(net, groups_of(net, x), [x])["0"].tolist() == [1, 1, 2, 0]


def test_entropies_of_many_samples() -> None:
    """Bins settle on the first 256 samples; what comes later counts in them."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1))
    net[0].weight.data = torch.tensor([[1.0], [0.0]])
    values = torch.cat([torch.linspace(0, 1, 256), torch.full((100,), 9.0), torch.full((50,), -9.0)])[:, None].double()
    groups = groups_of(net.double(), values[:1])
    found = ActivationEntropy(bins=10)(net, groups, values.split(50))["0"]
    counts, _ = np.histogram(values[:256].numpy(), bins=10)
    counts[-1] += 100
    counts[0] += 50
    p = counts[counts > 0] / counts.sum()
    assert found.tolist() == pytest.approx([-(p * np.log(p)).sum(), 0])


def test_without_data_the_inputs_are_seeded_noise() -> None:
    model = net()
    groups = groups_of(model, torch.zeros(4, 3, 6, 6, dtype=torch.float64))
    for kind in (ActivationMean, APoZ, HRank, ActivationEntropy):
        first, again, other = (kind(seed=s)(model, groups) for s in (0, 0, 1))
        assert all(torch.equal(first[n], again[n]) for n in first)
        assert kind is HRank or any(not torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize("kind", [ActivationMean, APoZ, HRank, ActivationEntropy])
def test_data_that_is_not_finite_gives_no_numbers(kind: Any) -> None:
    """NaN in, NaN out, so that the planner refuses it."""
    model, x = net(), torch.randn(3, 3, 6, 6, dtype=torch.float64)
    groups = groups_of(model, x)
    scores = kind()(model, groups, [x, x * torch.nan])
    with pytest.raises(fxprune.InputError, match="not finite"):
        fxprune.scorers.check_scores(scores, groups)


def test_channels_that_no_layer_makes_or_reads() -> None:
    model = Net(lambda m, x: x * m.scale, {"scale": nn.Parameter(torch.rand(6, 1, 1))})
    group = fxprune.Group("scale", 6, (fxprune.Slot("scale", 0, 6, np.arange(6), np.arange(6)),))
    groups = groups_of(model, torch.rand(1, 1, 4, 4)).subset([group])
    with pytest.raises(UnscorableError, match=r"makes or reads these channels in group scale; remedy: .*Fallback"):
        ActivationMean()(model, groups, [torch.rand(1, 1, 4, 4)])


def test_layers_that_run_in_training_only() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x).relu()
        return (m.b(x), m.aux2(m.aux1(x))) if m.training else m.b(x)

    parts = {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), "aux1": nn.Conv2d(6, 5, 1), "aux2": nn.Conv2d(5, 2, 1)}
    model, x = Net(forward, parts).eval(), (torch.randn(2, 3, 4, 4),)
    groups = groups_of(model, x)
    assert [g.name for g in groups] == ["a", "aux1"]
    with pytest.raises(UnscorableError, match="evaluation mode in group aux1;") as caught:
        ActivationMean()(model, groups, [x[0]])
    scores = fxprune.scorers.Fallback(ActivationMean(), fxprune.scorers.L2Norm())(model, groups, [x[0]])
    weights = fxprune.scorers.L2Norm()(model, groups)
    assert list(scores) == [g.name for g in groups]
    assert {n for n in scores if torch.equal(scores[n], weights[n])} == set(caught.value.groups)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: APoZ(threshold=-1), r"the threshold is not a number in \[0, inf\); seen: -1"),
        (lambda: APoZ(threshold=float("nan")), r"the threshold is not a number in \[0, inf\); seen: nan"),
        (lambda: ActivationEntropy(bins=1), "the number of bins must be an integer of at least 2; seen: 1"),
    ],
)
def test_options_out_of_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(fxprune.InputError, match=text):
        make()


def test_entropy_is_the_same_however_tokens_are_batched() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 4)).eval()
    x = torch.randn(64, 16, 8)
    groups = fxprune.find_groups(fxprune.trace(net, x[:1]))
    whole = ActivationEntropy()(net, groups, [x])["0"]
    for size in (5, 16, 30):
        torch.testing.assert_close(ActivationEntropy()(net, groups, x.split(size))["0"], whole, rtol=0, atol=1e-3)
