"""Scores from weights alone, against loops written out, scikit-learn and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES, Net
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn

import fxprune
from fxprune.scorers import LAMP, NISP, BatchNormScale, GeometricMedian, L1Norm, L2Norm, Random, UnscorableError


def groups_of(model: nn.Module, x: Any) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, x))


def owned(model: nn.Module, group: fxprune.Group, channel: int) -> Tensor:
    """All producers' weights of one channel, side by side, element by element."""
    tensors = dict(model.named_parameters())
    parts = []
    for s in group.producers:
        for position, owner in zip(s.positions.tolist(), s.channels.tolist(), strict=True):
            if owner == channel:
                parts.append(tensors[s.tensor].detach().select(s.dim, position).flatten())
    return torch.cat(parts).double()


NETS = ("residual", "projection_shortcut", "concat", "depthwise", "grouped_by_width", "transposed", "perceptron")


@pytest.mark.parametrize("name", [*NETS, "flatten_7x7", "tied_parameter", "transposed_grouped", "one_dimensional"])
def test_norms(name: str) -> None:
    model, groups = CASES[name].build(), CASES[name].analysed()
    l1, l2 = L1Norm()(model, groups), L2Norm()(model, groups)
    for g in groups:
        weights = [owned(model, g, c) for c in range(g.size)]
        torch.testing.assert_close(l1[g.name], torch.stack([w.abs().sum() for w in weights]), rtol=1e-6, atol=0)
        torch.testing.assert_close(l2[g.name], torch.stack([w.norm() for w in weights]), rtol=1e-6, atol=0)


def test_norms_of_channels_that_no_layer_makes() -> None:
    """All parameters that a channel has stand for it."""
    parts = {"scale": nn.Parameter(torch.randn(6, 1, 1)), "shift": nn.Parameter(torch.randn(6, 1, 1))}
    model = Net(lambda m, x: m.b(x * m.scale + m.shift), {**parts, "b": nn.Conv2d(6, 2, 1)})
    groups = groups_of(model, torch.rand(1, 1, 4, 4))
    expected = model.scale.abs().flatten() + model.shift.abs().flatten() + model.b.weight.abs().sum((0, 2, 3))
    torch.testing.assert_close(L1Norm()(model, groups)["scale"], expected.double().detach())


def test_norms_of_half_precision() -> None:
    """Sums of squares beyond the range and below the precision of float16."""
    model = nn.Sequential(nn.Linear(5000, 4, bias=False), nn.Linear(4, 1))
    nn.init.normal_(model[0].weight, std=20)
    groups = groups_of(model, torch.zeros(1, 5000))
    exact = L2Norm()(model, groups)["0"]
    torch.testing.assert_close(L2Norm()(model.half(), groups)["0"], exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_geometric_median_is_the_sum_of_pairwise_distances(name: str) -> None:
    model, groups = CASES[name].build(), CASES[name].analysed()
    found = GeometricMedian()(model, groups)
    for g in groups:
        vectors = torch.stack([owned(model, g, c) for c in range(g.size)]).numpy()
        expected = pairwise_distances(vectors).sum(1)
        np.testing.assert_allclose(found[g.name].numpy(), expected, rtol=1e-6)


def test_geometric_median_finds_the_redundant_channel() -> None:
    """The mean of the others, whatever its norm, goes first."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    weight = model[0].weight.data
    weight[:4] = torch.tensor([[9.0, 8, 8], [10, 8, 8], [9, 9, 8], [10, 9, 9]])
    weight[4] = weight[:4].mean(0)
    groups = groups_of(model, torch.zeros(1, 3))
    assert int(GeometricMedian()(model, groups)["0"].argmin()) == 4
    assert int(L2Norm()(model, groups)["0"].argmin()) != 4


@pytest.mark.parametrize("name", NETS)
def test_lamp_is_the_formula(name: str) -> None:
    model, groups = CASES[name].build(), CASES[name].analysed()
    squares = {n: s.square() for n, s in L2Norm()(model, groups).items()}
    for n, found in LAMP()(model, groups).items():
        expected = [float(u / squares[n][squares[n] >= u].sum()) for u in squares[n]]
        assert found.tolist() == pytest.approx(expected, rel=1e-6)
        assert float(found.max()) == pytest.approx(1)


def test_lamp_keeps_equals_equal_and_zeros_zero() -> None:
    model = nn.Sequential(nn.Linear(1, 5, bias=False), nn.Linear(5, 1))
    groups = groups_of(model, torch.zeros(1, 1))
    model[0].weight.data = torch.tensor([[2.0], [0.0], [-2.0], [1.0], [1.0]])
    assert LAMP()(model, groups)["0"].tolist() == pytest.approx([0.5, 0, 0.5, 0.1, 0.1])
    nn.init.zeros_(model[0].weight)
    assert LAMP()(model, groups)["0"].tolist() == [0] * 5


def test_batch_norm_scales_of_all_norms_of_a_channel() -> None:
    parts = {"a": nn.Conv2d(3, 4, 1), "n": nn.BatchNorm2d(4), "p": nn.BatchNorm2d(4), "c": nn.Conv2d(4, 2, 1)}
    model = Net(lambda m, x: m.c(m.p(m.n(m.a(x)).relu())), parts).eval()
    for norm in (model.n, model.p):
        nn.init.normal_(norm.weight)
    found = BatchNormScale()(model, groups_of(model, torch.zeros(1, 3, 4, 4)))["a"]
    torch.testing.assert_close(found, (model.n.weight.abs() + model.p.weight.abs()).detach().double() / 2)


def test_other_norms_are_no_batch_norms() -> None:
    """A GroupNorm's scale does not count, nor does a batch norm without one."""
    for norm in (nn.GroupNorm(1, 4), nn.BatchNorm2d(4, affine=False), nn.Identity()):
        parts = {"a": nn.Conv2d(3, 4, 1), "n": norm, "c": nn.Conv2d(4, 2, 1)}
        model = Net(lambda m, x: m.c(m.n(m.a(x)).relu()), parts).eval()
        groups = groups_of(model, torch.zeros(1, 3, 4, 4))
        with pytest.raises(
            UnscorableError, match=r"no batch norm scales these channels in group a; remedy: .*Fallback"
        ):
            BatchNormScale()(model, groups)


def test_random_scores_of_a_group_depend_on_seed_and_name_only() -> None:
    model, groups = CASES["residual"].build(), CASES["residual"].analysed()
    first = Random(1)(model, groups)
    assert torch.equal(first["a"], Random(1)(model, groups.subset([groups["a"]]))["a"])
    assert not torch.equal(first["a"], Random(2)(model, groups)["a"])
    assert not torch.equal(first["a"], first["stem"][:6])
    assert all(0 <= float(s.min()) <= float(s.max()) < 1 for s in first.values())


class Positive(nn.Module):
    """A network with absolute weights, without biases and activations: its gradient is what NISP propagates."""

    def __init__(self, run: Callable[..., Tensor], **widths: tuple[int, int]) -> None:
        super().__init__()
        self.run, self.gates = run, {}
        for name, (a, b) in widths.items():
            self.add_module(name, nn.Conv2d(a, b, 1))

    def of(self, name: str, x: Tensor) -> Tensor:
        """The absolute layer, with a gate on each channel that it makes."""
        layer = self.get_submodule(name)
        y = nn.functional.conv2d(x, layer.weight.detach().abs())
        return y if name not in self.gates else y * self.gates[name][:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(lambda name, x: self.get_submodule(name)(x).relu(), x)


def nested(layer: Callable[[str, Tensor], Tensor], x: Tensor) -> Tensor:
    """A stream with two branches, one in the other."""
    x = layer("stem", x)
    x = x + layer("b", layer("a", x))
    return layer("head", x + layer("d", layer("c", x)))


WIDTHS = {"stem": (3, 5), "a": (5, 4), "b": (4, 5), "c": (5, 6), "d": (6, 5), "head": (5, 2)}


def test_nisp_is_the_gradient_of_the_absolute_network() -> None:
    """Importance of what a group makes first: the outputs' derivative by a gate there, at unit activations."""
    model = Positive(nested, **WIDTHS).double()
    groups = groups_of(model, torch.rand(1, 3, 1, 1, dtype=torch.float64))
    found = NISP()(model, groups)
    assert set(found) == {"stem", "a", "c"}
    for name in found:
        size = groups[name].size
        # Additive gates read the importance itself: d outputs / d (activation of channel i).
        offset = torch.zeros(size, 1, 1, dtype=torch.float64, requires_grad=True)

        def gated(layer: str, x: Tensor, at: str = name, offset: Tensor = offset) -> Tensor:
            return model.of(layer, x) + (offset if layer == at else 0)

        (importance,) = torch.autograd.grad(nested(gated, torch.ones(1, 3, 1, 1).double()).sum(), offset)
        expected = importance.flatten() / importance.sum()
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=0)


def test_nisp_counts_the_norm_behind_and_the_columns_of_a_flattened_map() -> None:
    parts = {"a": nn.Conv2d(1, 3, 1), "b": nn.Conv2d(3, 2, 1), "n": nn.BatchNorm2d(2), "fc": nn.Linear(8, 2)}
    model = Net(lambda m, x: m.fc(m.n(m.b(m.a(x))).flatten(1)), parts).eval()
    nn.init.uniform_(model.n.weight)
    nn.init.uniform_(model.n.running_var)
    found = NISP()(model, groups_of(model, torch.zeros(1, 1, 2, 2)))
    last = model.fc.weight.detach().abs().double().sum(0).view(2, 4).sum(1)
    gain = model.n.weight.detach().double().abs() / (model.n.running_var.double() + model.n.eps).sqrt()
    first = (model.b.weight.detach().double().abs().flatten(1) * (last * gain)[:, None]).sum(0)
    torch.testing.assert_close(found["b"], last / last.sum())
    torch.testing.assert_close(found["a"], first / first.sum())


def test_nisp_passes_a_depthwise_layer() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 3, 1))
    found = NISP()(model, groups_of(model, torch.zeros(1, 2, 5, 5)))["0"]
    expected = model[2].weight.detach().double().abs().sum((0, 2, 3)) * model[1].weight.detach().double().abs().sum(
        (1, 2, 3)
    )
    torch.testing.assert_close(found, expected / expected.sum())


def test_nisp_of_a_deep_net_stays_finite() -> None:
    """Importances grow by a factor of a thousand a layer."""
    layers = [nn.Linear(8, 8, bias=False) for _ in range(150)]
    for layer in layers:
        nn.init.uniform_(layer.weight, 100, 200)
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    for scores in NISP()(model, groups_of(model, torch.zeros(1, 8))).values():
        assert scores.isfinite().all()
        assert 0.05 < float(scores.min()) < float(scores.max()) < 0.25


def test_lamp_of_a_weight_that_is_no_number_is_none_either() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].weight.data[1, 0] = float("nan")  # type: ignore[index]
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    assert fxprune.scorers.LAMP()(net, groups)["0"].isnan().any()
