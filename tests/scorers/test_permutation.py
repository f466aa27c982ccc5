"""Weight-permutation importance: the closed form against full enumeration, or Monte Carlo where that is too long."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import CASES, Net
from torch import Tensor, nn

import fxprune
from fxprune.scorers import WeightPermutation

Responses = Callable[[Tensor], Tensor]  # kernels (k, n) → responses (batch, k, positions)


def kernels_of(layer: Any, x: Tensor) -> list[tuple[Tensor, Responses]]:
    """Each output channel's kernel, flat, and the function from kernels to responses without bias on its inputs."""
    if isinstance(layer, nn.Linear):
        rows = x.flatten(0, -2)
        return [(w.flatten(), lambda k: (rows @ k.T).T[None]) for w in layer.weight]
    g = layer.groups
    run = getattr(
        F, f"conv_transpose{layer.weight.dim() - 2}d" if layer.transposed else f"conv{layer.weight.dim() - 2}d"
    )
    zeros = getattr(layer, "padding_mode", "zeros") == "zeros"
    padding = layer.padding if zeros else 0
    x = x if zeros else F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    options: dict[str, Any] = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation}
    if layer.transposed:
        options["output_padding"] = layer.output_padding
    found: list[tuple[Tensor, Responses]] = []
    for o in range(layer.out_channels):
        group, inner = divmod(o, layer.out_channels // g)
        n_in = layer.in_channels // g
        mine = slice(group * n_in, (group + 1) * n_in)
        kernel = layer.weight[mine, inner] if layer.transposed else layer.weight[o]

        def responses(k: Tensor, part: Tensor = x[:, mine], shape: Any = kernel.shape) -> Tensor:
            weights = k.reshape(-1, *shape)
            return run(part, weights.transpose(0, 1) if layer.transposed else weights, **options).flatten(2)

        found.append((kernel.flatten(), responses))
    return found


def all_orders(n: int) -> Tensor:
    return torch.tensor(list(itertools.permutations(range(n))))


def by_trial(layer: Any, x: Tensor, orders: Callable[[int], Tensor]) -> Tensor:
    """Mean over `orders` of the squared change of each channel's response."""
    found = []
    for kernel, responses in kernels_of(layer, x):
        tried = kernel[orders(len(kernel))]
        change = responses(tried) - responses(kernel[None])
        found.append(change.square().sum((0, 2)).mean())
    return torch.stack(found)


def expected_scores(
    model: nn.Sequential | Net, groups: fxprune.Groups, x: Any, measure: Callable[[Any, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Mean over producers of each channel's share; `measure` gives the importance of a layer's output channels."""
    seen: dict[str, Tensor] = {}
    hooks = [
        m.register_forward_pre_hook(lambda m, a, n=n: seen.__setitem__(n, a[0])) for n, m in model.named_modules() if n
    ]
    with torch.no_grad():
        model(x)
        for h in hooks:
            h.remove()
        return {
            g.name: torch.stack([_share(model, s, g.size, seen, measure) for s in g.producers]).mean(0) for g in groups
        }


def _share(
    model: nn.Module, slot: fxprune.Slot, size: int, seen: dict[str, Tensor], measure: Callable[[Any, Tensor], Tensor]
) -> Tensor:
    name = slot.tensor.removesuffix(".weight")
    values = measure(model.get_submodule(name), seen[name])
    total = torch.zeros(size, dtype=torch.float64)
    for position, channel in zip(slot.positions.tolist(), slot.channels.tolist(), strict=True):
        total[channel] += values[position] if len(slot.positions) == len(values) else _row(values, slot, position)
    return total / total.sum()


def _row(values: Tensor, slot: fxprune.Slot, position: int) -> Tensor:
    """A grouped transposed kernel's second dim holds one position for all groups, its first one for a whole group."""
    return (
        values.reshape(-1, slot.length)[:, position] if slot.dim else values.reshape(slot.length, -1)[position]
    ).sum()


LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "1x1": ((5, 4, 4), lambda: nn.Conv2d(5, 4, 1)),
    "kernel": ((1, 6, 6), lambda: nn.Conv2d(1, 4, (2, 3))),
    "stride": ((2, 7, 7), lambda: nn.Conv2d(2, 4, (1, 3), stride=2)),
    "padding": ((3, 5, 5), lambda: nn.Conv2d(3, 4, (2, 1), padding=(1, 2))),
    "reflect": ((2, 5, 5), lambda: nn.Conv2d(2, 4, (1, 3), padding=(0, 2), padding_mode="reflect")),
    "replicate": ((2, 5), lambda: nn.Conv1d(2, 4, 3, padding=1, padding_mode="replicate")),
    "circular": ((1, 4, 4, 5), lambda: nn.Conv3d(1, 4, (3, 1, 2), padding=1, padding_mode="circular")),
    "same": ((2, 6, 6), lambda: nn.Conv2d(2, 4, (1, 3), padding="same")),
    "dilation": ((2, 8, 8), lambda: nn.Conv2d(2, 4, (3, 1), dilation=2, padding=1)),
    "no bias": ((3, 5, 5), lambda: nn.Conv2d(3, 4, (1, 2), bias=False)),
    "seven weights": ((7, 3, 3), lambda: nn.Conv2d(7, 3, 1)),
    "groups": ((4, 5, 5), lambda: nn.Conv2d(4, 6, (1, 3), groups=2)),
    "depthwise with multiplier": ((3, 5, 5), lambda: nn.Conv2d(3, 9, (2, 3), groups=3)),
    "1-d": ((2, 9), lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1)),
    "3-d": ((1, 4, 5, 5), lambda: nn.Conv3d(1, 4, (1, 2, 3), padding=1)),
    "transposed": ((3, 4, 4), lambda: nn.ConvTranspose2d(3, 4, (1, 2), stride=2)),
    "transposed, padding": ((2, 4, 4), lambda: nn.ConvTranspose2d(2, 4, (1, 3), stride=2, padding=1, output_padding=1)),
    "transposed, dilation": ((2, 5), lambda: nn.ConvTranspose1d(2, 4, 3, dilation=2)),
    "transposed, groups": ((4, 4, 4), lambda: nn.ConvTranspose2d(4, 6, (1, 3), stride=2, groups=2)),
    "transposed, 3-d": ((1, 2, 3, 3), lambda: nn.ConvTranspose3d(1, 4, (1, 3, 2), stride=2, padding=(0, 1, 0))),
    "linear": ((6,), lambda: nn.Linear(6, 5)),
    "linear on tokens": ((4, 5), lambda: nn.Linear(5, 4)),
}


def net_of(make: Callable[[], nn.Module], shape: tuple[int, ...], stem: bool = False) -> tuple[nn.Sequential, Tensor]:
    """The layer under test, then a linear reader of its channels; in float64."""
    layer = make()
    parts = [layer] if not stem else [nn.Conv2d(3, shape[0], 1), nn.ReLU(), layer]
    x = torch.randn(2, *((3, *shape[1:]) if stem else shape), dtype=torch.float64) + 0.3
    body = nn.Sequential(*parts).double()
    return nn.Sequential(*parts, nn.Tanh(), nn.Flatten(), nn.Linear(body(x)[0].numel(), 2)).double(), x


def scores_of(model: nn.Module, x: Any, **options: Any) -> tuple[fxprune.Groups, dict[str, Tensor]]:
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert len(groups)
    return groups, WeightPermutation(**options)(model, groups, [x])


@pytest.mark.parametrize(("shape", "make"), LAYERS.values(), ids=LAYERS)
def test_closed_form_is_the_mean_over_all_permutations(shape: tuple[int, ...], make: Callable[[], nn.Module]) -> None:
    model, x = net_of(make, shape)
    groups, scores = scores_of(model, x)
    expected = expected_scores(model, groups, x, lambda layer, x: by_trial(layer, x, all_orders))
    for g in groups:
        torch.testing.assert_close(scores[g.name], expected[g.name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
def test_depthwise(transposed: bool) -> None:
    """Two producers: the convolution before and the depthwise one; a channel's score is the mean of its shares."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model, x = net_of(lambda: kind(4, 4, (2, 3), groups=4), (4, 5, 5), stem=True)
    groups, scores = scores_of(model, x)
    assert [len(g.producers) for g in groups] == [2]
    expected = expected_scores(model, groups, x, lambda layer, x: by_trial(layer, x, all_orders))
    torch.testing.assert_close(scores["0"], expected["0"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "orientation", ["x @ w", "(w @ x.T).T", "x @ w.T + b", "x @ w.t()", "x @ w.transpose(0, 1)", "b + x @ w"]
)
def test_products_written_out(orientation: str) -> None:
    """A weight on either side of a product, turned or not, is a linear layer."""
    w, b = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    turned = orientation in ("x @ w", "b + x @ w")

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(w.T.clone() if turned else w.clone()), nn.Parameter(b.clone())
            self.out = nn.Linear(5, 2, dtype=torch.float64)

        def forward(self, x: Tensor) -> Any:
            if orientation == "b + x @ w":
                return self.out(torch.addmm(self.b, x, self.w).tanh())
            return self.out(eval(orientation, {"x": x, "w": self.w, "b": self.b}).tanh())

    x = torch.randn(6, 4, dtype=torch.float64)
    _, scores = scores_of(Product(), x)
    layer = nn.Linear(4, 5, dtype=torch.float64)
    layer.weight.data.copy_(w)
    expected = by_trial(layer, x, all_orders)
    torch.testing.assert_close(scores["w"], expected / expected.sum(), rtol=1e-9, atol=0)


def test_a_depthwise_transposed_kernel_with_several_channels_each() -> None:
    """All channels that one slice of the weight makes are one channel of the group."""
    model, x = net_of(lambda: nn.ConvTranspose2d(3, 6, (2, 3), groups=3), (3, 4, 4), stem=True)
    groups, scores = scores_of(model, x)
    expected = expected_scores(model, groups, x, lambda layer, x: by_trial(layer, x, all_orders))
    for g in groups:
        torch.testing.assert_close(scores[g.name], expected[g.name], rtol=1e-9, atol=1e-12)


def sampled(count: int) -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda n: torch.rand(count, n, generator=generator).argsort(1)


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((3, 6, 6), lambda: nn.Conv2d(3, 6, 3, padding=1)),
        ((8, 6, 6), lambda: nn.Conv2d(8, 6, 3, stride=2, groups=2)),
        ((4, 4, 4), lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)),
        ((2, 4, 4, 4), lambda: nn.Conv3d(2, 6, 2)),
        ((20,), lambda: nn.Linear(20, 6)),
    ],
)
def test_closed_form_is_the_limit_of_sampling(shape: tuple[int, ...], make: Callable[[], nn.Module]) -> None:
    model, x = net_of(make, shape)
    groups, scores = scores_of(model, x)
    expected = expected_scores(model, groups, x, lambda layer, x: by_trial(layer, x, sampled(3000)))
    for g in groups:
        torch.testing.assert_close(scores[g.name], expected[g.name], rtol=0.05, atol=0)


@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_a_constant_kernel_scores_zero(constant: float) -> None:
    model, x = net_of(LAYERS["padding"][1], LAYERS["padding"][0])
    nn.init.constant_(model[0].weight[2], constant)
    _, scores = scores_of(model, x)
    assert float(scores["0"][2]) == pytest.approx(0, abs=1e-12)
    assert float(scores["0"][[0, 1, 3]].min()) > 1e-3


def test_scores_are_shares_and_do_not_depend_on_the_bias() -> None:
    model, x = net_of(LAYERS["kernel"][1], LAYERS["kernel"][0])
    _, before = scores_of(model, x)
    nn.init.normal_(model[0].bias, std=10)
    _, after = scores_of(model, x)
    assert float(before["0"].sum()) == pytest.approx(1)
    assert before["0"].dtype == torch.float64
    torch.testing.assert_close(before["0"], after["0"], rtol=1e-9, atol=0)


def squared(layer: Any, x: Tensor) -> Tensor:
    return torch.stack([r(k[None]).square().sum() for k, r in kernels_of(layer, x)])


def variance(layer: Any, x: Tensor) -> Tensor:
    return torch.stack([(r(k[None]) - r(k[None]).mean()).square().sum() for k, r in kernels_of(layer, x)])


def redrawn(layer: Any, x: Tensor) -> Tensor:
    """Kernels drawn anew, many times, from PyTorch's default distribution."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for kernel, responses in kernels_of(layer, x):
        n = len(kernel)
        fresh = (2 * torch.rand(4000, n, generator=generator, dtype=torch.float64) - 1) / n**0.5
        found.append((responses(fresh) - responses(kernel[None])).square().sum((0, 2)).mean())
    return torch.stack(found)


@pytest.mark.parametrize("name", ["padding", "groups", "transposed, groups", "linear", "linear on tokens", "3-d"])
@pytest.mark.parametrize(
    ("change", "measure", "rtol"), [("zero", squared, 1e-9), ("absorb", variance, 1e-9), ("reinit", redrawn, 0.05)]
)
def test_other_changes(name: str, change: Any, measure: Callable[[Any, Tensor], Tensor], rtol: float) -> None:
    shape, make = LAYERS[name]
    model, x = net_of(make, shape)
    groups, scores = scores_of(model, x, change=change)
    expected = expected_scores(model, groups, x, measure)
    for g in groups:
        torch.testing.assert_close(scores[g.name], expected[g.name], rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", ["padding", "1x1", "stride", "transposed", "linear", "3-d"])
def test_zero_and_reinit_rank_the_same(name: str) -> None:
    """What reinit adds is the same for all kernels that see the same input."""
    shape, make = LAYERS[name]
    model, x = net_of(make, shape)
    zero, reinit = (scores_of(model, x, change=c)[1]["0"] for c in ("zero", "reinit"))
    assert zero.argsort().tolist() == reinit.argsort().tolist()
    assert not torch.allclose(zero, reinit)


@pytest.mark.parametrize("change", ["permute", "reinit", "zero", "absorb"])
@pytest.mark.parametrize("name", ["residual", "dense", "shared_module", "functional_convolution", "perceptron"])
def test_several_batches_are_one_batch(name: str, change: Any) -> None:
    case = CASES[name]
    model = case.build().double()
    (x,) = (t.double() for t in case.inputs(6))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    scorer = WeightPermutation(change)
    whole = scorer(model, groups, [x])
    for batches in ([x[:4], x[4:]], [(x[:1], torch.zeros(1)), (x[1:], torch.zeros(5))], [[x[:3], 0], [x[3:], 1]]):
        parts = scorer(model, groups, iter(batches))
        for g in groups:
            torch.testing.assert_close(parts[g.name], whole[g.name], rtol=1e-9, atol=1e-12)


def test_without_data_the_inputs_are_seeded_noise() -> None:
    case = CASES["residual"]
    model = case.build()
    groups = fxprune.find_groups(fxprune.trace(model, case.inputs(4)))
    first, again, other = (WeightPermutation(seed=s)(model, groups) for s in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_the_mode_of_the_model_does_not_matter() -> None:
    case = CASES["dropout"]
    model = case.build()
    groups = fxprune.find_groups(fxprune.trace(model, case.inputs(4)))
    evaluated = WeightPermutation()(model, groups, [case.inputs(4)])
    trained = WeightPermutation()(model.train(), groups, [case.inputs(4)])
    assert all(torch.equal(evaluated[n], trained[n]) for n in evaluated)


def test_scale_of_one_layer_does_not_drown_another() -> None:
    """Shares, not sums: multiplying one producer's weights leaves the group's scores as they are."""
    case = CASES["two_inputs"]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(4))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    before = WeightPermutation()(model, groups, [{"x": x[0], "y": x[1]}])
    with torch.no_grad():
        model.a.weight.mul_(1000)
        model.a.bias.mul_(1000)
    after = WeightPermutation()(model, groups, [{"x": x[0], "y": x[1]}])
    torch.testing.assert_close(before["a"], after["a"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("name", ["residual", "depthwise", "transposed_grouped", "flatten_7x7", "perceptron"])
def test_single_precision_is_enough(name: str, offset: float) -> None:
    """Also for inputs whose mean is far larger than their spread, where sums of squares cancel."""
    case = CASES[name]
    model, (x,) = case.build(), case.inputs(8)
    x = x + offset
    groups = fxprune.find_groups(fxprune.trace(model, x))
    single = WeightPermutation()(model, groups, [x])
    double = WeightPermutation()(model.double(), groups, [x.double()])
    for g in groups:
        torch.testing.assert_close(single[g.name], double[g.name], rtol=1e-3, atol=1e-6)


def test_constant_inputs_and_kernels_give_no_negative_scores() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.full((2, 3, 9, 9), 0.7)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert (WeightPermutation()(model, groups, [x])["0"] >= 0).all()
    nn.init.constant_(model[0].weight, 0.3)
    x = torch.randn(2, 3, 9, 9) + 5
    assert (WeightPermutation()(model, groups, [x])["0"] >= 0).all()


def test_memory_formats_are_alike() -> None:
    case = CASES["residual"]
    model, (x,) = case.build(), case.inputs(6)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plain = WeightPermutation()(model, groups, [x])
    last = WeightPermutation()(
        model.to(memory_format=torch.channels_last), groups, [x.to(memory_format=torch.channels_last)]
    )
    for g in groups:
        torch.testing.assert_close(last[g.name], plain[g.name], rtol=1e-5, atol=0)


def test_noise_fed_to_each_layer_tells_the_weights_variance() -> None:
    """Of independent inputs G = N·I, so that D is N·Σ (w - w̄)² and as much again: shares are those of the variances."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1))
    data = [torch.full((400, 3, 8, 8), 7.0)]  # which says nothing
    groups = fxprune.find_groups(fxprune.trace(net, data[0][:1]))
    found = WeightPermutation(inputs="noise")(net, groups, data)
    for name, layer in (("0", net[0]), ("2", net[2])):
        variance = layer.weight.detach().flatten(1).double().var(1)
        torch.testing.assert_close(found[name], variance / variance.sum(), atol=0.01, rtol=0.05)
    again = WeightPermutation(inputs="noise", seed=1)(net, groups, data)
    assert not torch.equal(found["0"], again["0"])
