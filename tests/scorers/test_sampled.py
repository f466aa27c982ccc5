"""Sampled permutation, distances of feature maps, the scale of the norm behind: against enumeration and by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import CASES, Net
from scipy.spatial import distance
from torch import Tensor, nn

import fxprune
from fxprune.scorers import SampledPermutation, WeightPermutation
from fxprune.scorers.distances import cosine, squared, ssim


def groups_of(model: nn.Module, x: Any) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, x))


def by_hand_ssim(a: np.ndarray, b: np.ndarray, window: int = 7) -> float:
    """Wang et al.'s formula, window by window, for one map of any number of dims."""
    shape = tuple(min(window, n) for n in a.shape)
    axes = tuple(range(a.ndim, 2 * a.ndim))
    p, q = (np.lib.stride_tricks.sliding_window_view(t, shape) for t in (a, b))
    c1, c2 = (0.01 * np.ptp(a)) ** 2, (0.03 * np.ptp(a)) ** 2
    mp, mq = p.mean(axes), q.mean(axes)
    covariance = (p * q).mean(axes) - mp * mq
    values = (2 * mp * mq + c1) * (2 * covariance + c2)
    return float((values / ((mp**2 + mq**2 + c1) * (p.var(axes) + q.var(axes) + c2))).mean())


@pytest.mark.parametrize("shape", [(9,), (12, 9), (7, 7), (4, 5), (8, 3, 9)])
def test_ssim_is_the_formula(shape: tuple[int, ...]) -> None:
    a, b = torch.randn(2, 3, *shape, dtype=torch.float64) + 2, torch.randn(2, 3, *shape, dtype=torch.float64)
    found = ssim(a, a + 0.3 * b)
    for i, j in itertools.product(range(2), range(3)):
        expected = 1 - by_hand_ssim(a[i, j].numpy(), (a + 0.3 * b)[i, j].numpy())
        assert float(found[i, j]) == pytest.approx(expected, rel=1e-9)


def test_distances_of_equal_dead_and_opposite_maps() -> None:
    a = torch.randn(1, 4, 8, 8) + 100
    a[0, 1], a[0, 2] = 0, 5
    b = a.clone()
    b[0, 3] = 0
    for measure in (squared, cosine, ssim):
        found = measure(a, b)[0]
        assert found[:3].tolist() == pytest.approx([0, 0, 0], abs=1e-6)
        assert float(found[3]) > 0.9
    assert cosine(a, -a)[0].tolist() == pytest.approx([2, 0, 2, 2], abs=1e-6)


def test_cosine_is_scipys() -> None:
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    for i, j in itertools.product(range(2), range(3)):
        expected = distance.cosine(a[i, j].flatten(), b[i, j].flatten())
        assert float(cosine(a, b)[i, j]) == pytest.approx(expected, rel=1e-5)


def enumerated(layer: nn.Conv2d, x: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The mean over all orders of each kernel's weights of a distance summed over the samples."""
    before = F.conv2d(x, layer.weight)
    found = []
    for o, kernel in enumerate(layer.weight):
        flat = kernel.flatten()
        tried = torch.stack([flat[list(p)] for p in itertools.permutations(range(len(flat)))]).view(-1, *kernel.shape)
        after = F.conv2d(x, tried)
        found.append(measure(before[:, o : o + 1].expand_as(after), after).sum(0).mean())
    return torch.stack(found).detach()


def relative(before: Tensor, after: Tensor) -> Tensor:
    return squared(before, after) / before.square().sum((0, 2, 3))


@pytest.mark.parametrize(
    ("name", "measure"), [("squared", squared), ("relative", relative), ("cosine", cosine), ("ssim", ssim)]
)
def test_sampling_converges_to_the_enumeration(name: Any, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = nn.Sequential(nn.Conv2d(2, 5, (1, 2)), nn.ReLU(), nn.Conv2d(5, 2, 1)).double()
    x = torch.randn(3, 2, 9, 9, dtype=torch.float64) + 0.3
    expected = enumerated(net[0], x, measure)
    found = SampledPermutation(distance=name, samples=600)(net, groups_of(net, x), [x])["0"]
    torch.testing.assert_close(found, expected / expected.sum(), rtol=0.06, atol=0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("change", ["permute", "reinit"])
@pytest.mark.parametrize("name", ["squared", "relative"])
@pytest.mark.parametrize(
    "case", ["chain", "perceptron", "grouped_by_width", "depthwise", "transposed", "three_dimensional", "shared_module"]
)
def test_the_closed_form_is_the_limit(case: str, name: Any, change: Any) -> None:
    model = CASES[case].build().double()
    x = tuple(t.double() for t in CASES[case].inputs(4))
    groups = groups_of(model, x)
    exact = WeightPermutation(change, distance=name)(model, groups, [(x[0], 0)])
    sampled = SampledPermutation(change, name, samples=400)(model, groups, [(x[0], 0)])
    for g in groups:
        torch.testing.assert_close(sampled[g.name], exact[g.name], rtol=0.2, atol=0.01)


def test_relative_distances_by_enumeration() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, (1, 2)), nn.ReLU(), nn.Conv2d(5, 2, 1)).double()
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    groups = groups_of(net, x)
    expected = enumerated(net[0], x, relative)
    found = WeightPermutation(distance="relative")(net, groups, [x[:1], x[1:]])["0"]
    torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-9, atol=0)
    with torch.no_grad():
        net[0].weight[2] *= 100
    torch.testing.assert_close(WeightPermutation(distance="relative")(net, groups, [x])["0"], found)


def test_a_dead_kernel_has_no_relative_change() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.zeros_(net[0].weight[1])
    x = torch.randn(2, 3, 5, 5)
    for scorer in (WeightPermutation(distance="relative"), SampledPermutation(distance="relative")):
        scores = scorer(net, groups_of(net, x), [x])["0"]
        assert scores[1] == 0
        assert (scores[[0, 2, 3]] > 0.1).all()


def test_seeds() -> None:
    """The same seed gives the same draws, whatever else is scored; another seed others."""
    model, x = CASES["residual"].build(), CASES["residual"].inputs(4)[0]
    groups = groups_of(model, x)
    first = SampledPermutation(seed=3)(model, groups, [x])
    alone = SampledPermutation(seed=3)(model, groups.subset([groups["a"]]), [x])
    assert torch.equal(first["a"], alone["a"])
    assert not torch.equal(first["a"], SampledPermutation(seed=4)(model, groups, [x])["a"])


def normed(functional: bool) -> Net:
    """A layer and a batch norm behind it: a module, or a function on tensors of any name."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y = F.batch_norm(y, m.m, m.v, m.g, m.s, eps=0.1) if functional else m.n(y)
        return m.head(y.relu().mean((2, 3)))

    parts: dict[str, Any] = {"a": nn.Conv2d(2, 5, (1, 3)), "head": nn.Linear(5, 2)}
    gain, variance = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0]), torch.tensor([1.0, 4.0, 0.25, 2.0, 1.0])
    if functional:
        parts |= {"m": torch.zeros(5), "v": variance, "g": nn.Parameter(gain), "s": nn.Parameter(torch.zeros(5))}
    else:
        parts["n"] = nn.BatchNorm2d(5, eps=0.1)
        parts["n"].weight.data, parts["n"].running_var = gain, variance
    net = Net(forward, {k: v for k, v in parts.items() if not isinstance(v, Tensor) or isinstance(v, nn.Parameter)})
    for name in ("m", "v"):
        if functional:
            net.register_buffer(name, parts[name])
    return net.double().eval()


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("kind", [WeightPermutation, SampledPermutation])
def test_the_scale_of_the_norm_behind(kind: Any, functional: bool) -> None:
    net, x = normed(functional), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    groups = groups_of(net, x)
    plain, scaled = kind()(net, groups, [x])["a"], kind(scale="bn")(net, groups, [x])["a"]
    gain = torch.tensor([1.0, 4.0, 0.25, 9.0, 0.0]) / (torch.tensor([1.0, 4.0, 0.25, 2.0, 1.0]) + 0.1)
    expected = plain * gain
    torch.testing.assert_close(scaled, expected / expected.sum(), rtol=1e-6, atol=0)


def test_the_scaled_score_does_not_depend_on_the_weights_scale() -> None:
    """Weights times a, statistics to match: the model computes the same, and so it scores."""
    net, x = normed(False), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    net.n.eps = 1e-30  # some versions of PyTorch refuse 0
    groups = groups_of(net, x)
    before = WeightPermutation(scale="bn")(net, groups, [x])["a"]
    plain = WeightPermutation()(net, groups, [x])["a"]
    with torch.no_grad():
        net.a.weight[0] *= 50
        net.n.running_var[0] *= 2500
    torch.testing.assert_close(WeightPermutation(scale="bn")(net, groups, [x])["a"], before)
    assert not torch.allclose(WeightPermutation()(net, groups, [x])["a"], plain)


def test_a_norm_further_on_is_not_the_layers() -> None:
    """Behind a sum, the norm's variance is not that of one summand."""
    parts = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1), "n": nn.BatchNorm2d(4), "c": nn.Conv2d(4, 2, 1)}
    net = Net(lambda m, x: m.c(m.n(m.a(x) + m.b(x))), parts).eval()
    nn.init.uniform_(net.n.weight)
    x = torch.randn(2, 3, 4, 4)
    groups = groups_of(net, x)
    found = [WeightPermutation(scale=s)(net, groups, [x])["a"] for s in (None, "bn")]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (lambda: SampledPermutation("zero"), ("unknown change of a kernel", "seen: zero", "permute, reinit")),  # type: ignore[arg-type]
        (lambda: SampledPermutation(distance="l1"), ("unknown distance", "seen: l1", "cosine, ssim")),  # type: ignore[arg-type]
        (
            lambda: SampledPermutation(samples=0),
            ("the number of samples must be a positive integer", "seen: 0", "4 is usual"),
        ),
        (lambda: SampledPermutation(scale="bn", distance="ssim"), ("does not depend", "seen: ssim", "leave out scale")),
        (
            lambda: WeightPermutation(scale="bn", distance="relative"),
            ("does not depend", "seen: relative", "leave out scale"),
        ),
        (lambda: WeightPermutation(scale="gn"), ("unknown scale", "seen: gn", "bn")),  # type: ignore[arg-type]
        (lambda: WeightPermutation(distance="cosine"), ("unknown distance", "seen: cosine", "relative")),  # type: ignore[arg-type]
    ],
)
def test_options_out_of_range(make: Callable[[], Any], texts: tuple[str, ...]) -> None:
    with pytest.raises(fxprune.InputError) as caught:
        make()
    assert all(t in str(caught.value) for t in texts), caught.value


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (torch.rand(4, 3, 8, 8), ("the data is one batch", "seen: Tensor", "[batch]")),
        (5, ("cannot be iterated", "seen: int", "iterable of batches")),
        ([torch.rand(4, 5, 8, 8)], ("forward fails on the data", "in batch 1", "(4, 5, 8, 8)", "eval mode")),
        ([torch.rand(4, 3, 8, 8), "image.png"], ("without a tensor", "batch 2 of the data", "seen: image.png")),
        ([()], ("without a tensor", "batch 1")),
    ],
)
def test_unusable_data(data: Any, texts: tuple[str, ...]) -> None:
    model = CASES["residual"].build()
    groups = groups_of(model, CASES["residual"].inputs())
    with pytest.raises(fxprune.InputError) as caught:
        WeightPermutation()(model, groups, data)
    assert all(t in str(caught.value) for t in texts), caught.value


def test_half_precision_is_summed_in_single() -> None:
    """Sums of squares beyond the range of float16."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = 30 * torch.randn(2, 3, 20, 20)
    groups = groups_of(net, x)
    exact = WeightPermutation()(net, groups, [x])["0"]
    half = WeightPermutation()(net.to(torch.bfloat16), groups, [x.to(torch.bfloat16)])["0"]
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0)
