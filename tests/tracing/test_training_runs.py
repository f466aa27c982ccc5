"""What a model does in training mode alone is recorded as well, so that its pruned copy can be trained."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import fxprune
from fxprune.tracing.training_runs import asks_for_mode


class Codebook(nn.Module):
    """A vector quantiser, whose codes follow the data by a buffer that evaluation does not read (VQ-VAE)."""

    def __init__(self, update: Callable[[Codebook, Tensor], Any]) -> None:
        super().__init__()
        self.before, self.codes, self.after = nn.Linear(5, 8), nn.Embedding(6, 8), nn.Linear(8, 3)
        self.codes.weight.requires_grad = False
        self.register_buffer("sums", self.codes.weight.data.clone())
        self.update = update

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        nearest = torch.cdist(h, self.codes.weight).argmin(1)
        codes = self.codes(nearest)
        if self.training:
            with torch.no_grad():
                self.update(self, F.one_hot(nearest, 6).float().t() @ h)
        result: Tensor = self.after(h + (codes - h).detach())
        return result


def by_data(book: Codebook, sums: Tensor) -> None:
    book.sums.data.mul_(0.9).add_(torch.mul(sums, 0.1))
    book.codes.weight.data.copy_(book.sums / 2)


def in_place(book: Codebook, sums: Tensor) -> None:
    book.sums.lerp_(sums, 0.1)
    book.codes.weight.copy_(book.sums)


@pytest.mark.parametrize("update", [by_data, in_place])
def test_a_buffer_that_training_alone_reads_is_cut_with_what_it_follows(update: Any) -> None:
    torch.manual_seed(0)
    result = fxprune.prune(Codebook(update), torch.randn(7, 5), pruning_ratio=0.5)
    assert result.model.sums.shape == result.model.codes.weight.shape == (6, 4)
    before = result.model.sums.clone()
    result.model.train()(torch.randn(7, 5)).sum().backward()
    assert result.model.sums.shape == (6, 4)
    assert not torch.equal(result.model.sums, before)


class Layers(nn.Module):
    """Three layers; training mode has no tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)


class Feature(Layers):
    """Gives a feature in training mode alone."""

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        y = self.third(self.second(h).relu())
        return (y, h) if self.training else y


class Halves(Layers):
    """Sets channel i against channel i + 4 in training mode alone, by a number in its code."""

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        if self.training:
            h = h.view(-1, 2, 4).softmax(1).flatten(1)
        return self.third(self.second(h).relu())


def test_outputs_in_training_mode_keep_their_widths() -> None:
    result = fxprune.prune(Feature(), torch.randn(7, 5), pruning_ratio=0.5)
    assert [p.shape for p in result.model.parameters() if p.dim() == 2] == [(8, 5), (3, 8), (3, 3)]
    assert result.model.train()(torch.randn(7, 5))[1].shape == (7, 8)


def test_channels_that_meet_in_training_mode_go_together() -> None:
    result = fxprune.prune(Halves(), torch.randn(7, 5), pruning_ratio=0.5)
    assert result.model.first.out_features == 4
    kept = result.plan.cuts()["first.weight"][0]
    assert sorted(set(kept % 4)) == sorted(kept[: len(kept) // 2] % 4)
    result.model.train()(torch.randn(7, 5)).sum().backward()


class Dropping(nn.Module):
    """All kinds of noise that training adds, and statistics of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.norm, self.dropout, self.depth = nn.BatchNorm1d(8), nn.Dropout(0.5), StochasticDepth(0.5, "row")

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = self.layers
        x = x + self.depth(self.norm(a(x)))
        x = x + F.dropout(b(x), 0.5, self.training)
        x = x + self.dropout(c(x))
        kept = torch.rand(len(x), 1) < 0.5 if self.training else torch.ones(len(x), 1)
        return x + d(x) * kept.to(x.dtype)


def test_noise_is_not_recorded() -> None:
    model = Dropping()
    assert asks_for_mode(model)
    graph = fxprune.trace(model, torch.randn(7, 8))
    assert not any(n.meta.get("extra") for n in graph.fx.nodes)
    assert any(n.meta.get("extra") for n in fxprune.trace(Feature(), torch.randn(7, 5)).fx.nodes)


def _wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def run(*args: Any) -> Any:
        return function(*args)

    return run


class ByProperty(nn.Linear):
    @property
    def scale(self) -> float:
        return 2.0 if self.training else 1.0


class ByDecorated(nn.Linear):
    @_wrapped
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class ByNested(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        def run() -> Tensor:
            return x if self.training else -x

        return run()


@pytest.mark.parametrize("kind", [ByProperty, ByDecorated, ByNested])
def test_code_that_asks_for_the_mode_is_found(kind: Any) -> None:
    assert asks_for_mode(nn.Sequential(nn.ReLU(), kind(2, 2)))


def test_pytorchs_own_code_is_known() -> None:
    assert not asks_for_mode(nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), StochasticDepth(0.1, "row")))


class Routed(nn.Module):
    """Experts of which evaluation runs those that the data choose, and training all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, 8)) for n in (4, 6, 10))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        weights = self.gate(h.mean(0)).softmax(0)
        if self.training:
            h = h + sum(weight * expert(h) for weight, expert in zip(weights, self.experts, strict=True))
        else:
            chosen = int(weights.argmax())
            h = h + weights[chosen] * self.experts[chosen](h)
        y: Tensor = self.head(h)
        return y


def test_experts_that_the_example_does_not_reach_are_cut_as_training_tells() -> None:
    torch.manual_seed(0)
    model, x = Routed(), torch.randn(7, 5)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert [e[0].weight.shape for e in result.model.experts] == [(2, 4), (3, 4), (5, 4)]
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.stem.weight.grad is None
    result.model.train()(x).sum().backward()


class Prototypes(nn.Module):
    """A mean for each class, which training moves where the class occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("means", torch.zeros(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        y: Tensor = self.second(h)
        if self.training:
            with torch.no_grad():
                for k in range(3):
                    chosen = y.argmax(1) == k
                    if chosen.any():
                        self.means[k] = 0.9 * self.means[k] + 0.1 * h[chosen].mean(0)
        return y


def test_training_that_follows_its_data_is_recorded_on_the_example() -> None:
    torch.manual_seed(0)
    model, x = Prototypes(), torch.randn(7, 5)
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert result.model.means.shape == (3, 4)
    assert not model.means.any()
    result.model.train()(x)
    assert result.model.means.any()


class Switch(nn.Module):
    """Each sample goes to the expert that its own features choose; few samples do not reach all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        weights, chosen = self.gate(h).softmax(-1).max(-1)
        out = torch.zeros_like(h)
        for k, expert in enumerate(self.experts):
            mine = chosen == k
            if mine.any():
                out[mine] = expert(h[mine]) * weights[mine, None]
        y: Tensor = self.head(h + out)
        return y


@pytest.mark.parametrize("seed", [0, 3, 10, 11])  # of each, other numbers lead to other experts
def test_a_report_tells_that_the_example_does_not_reach_all_experts(seed: int) -> None:
    torch.manual_seed(seed)
    few, many = torch.randn(1, 5), torch.randn(200, 5)
    model = Switch()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = fxprune.prune(model, few, pruning_ratio=0.5)
    assert result.model(many).shape == (200, 3)
    said = " ".join(str(w.message) for w in told)
    assert "other inputs reach layers that these do not; give some that reach all, such as experts." in said
    assert "6 modules or parameters are not reached by the example inputs" in said
    result = fxprune.prune(model, many, pruning_ratio=0.5)
    assert "not reached" not in str(result.report)
    assert [e[0].weight.shape for e in result.model.experts] == [(6, 4)] * 4


def zeroed(x: Tensor, module: nn.Module) -> Tensor:
    return torch.cat([x[:, :8] * 0, x[:, 8:]], 1) if module.training else x


def shaken(m: Any, x: Tensor) -> Tensor:
    part = torch.rand(x.shape[0], 16, 1, 1) if m.training else 0.5
    return part * x + (1 - part) * F.gelu(x)


def viewed(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    if m.training:
        return x.view(b, m.width, h * w).softmax(2).view(b, m.width, h, w)
    return x.view(b, c, h * w).softmax(2).view(b, c, h, w)


def scaled(m: Any, x: Tensor) -> Tensor:
    if m.training:
        return torch.cat([x[:, :8] * 0, x[:, 8:]], 1)
    return torch.cat([x[:, :8] * 0.5, x[:, 8:]], 1)


IN_TRAINING: dict[str, Any] = {
    "a function asks for the mode": lambda m, x: zeroed(x, m),
    "noise of a width": lambda m, x: x + 0.1 * torch.randn(m.width, 1, 1) if m.training else x,
    "factors of a width": shaken,
    "the same ops elsewhere": viewed,
    "the same ops of another line": scaled,
}


class OfTwoModes(nn.Module):
    def __init__(self, middle: Any) -> None:
        super().__init__()
        self.middle, self.width = middle, 16
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Linear(24, 5)

    def mid(self, x: Tensor) -> Tensor:
        return self.middle(self, x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.mid(self.a(x).relu())).relu().mean((2, 3)))  # type: ignore[no-any-return]


class AsksItself(OfTwoModes):
    """Names the mode, as the functions here do for their own."""

    def mid(self, x: Tensor) -> Tensor:
        return self.middle(self, x) if self.training in (True, False) else x  # type: ignore[no-any-return]


@pytest.mark.parametrize("middle", IN_TRAINING.values(), ids=IN_TRAINING)
def test_widths_of_training_mode_alone_are_known(middle: Any) -> None:
    torch.manual_seed(0)
    model, x = AsksItself(middle).eval(), torch.randn(2, 3, 12, 12)
    plan = fxprune.prune(model, x, 0.5).plan
    small = fxprune.rewrite(model, plan)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, dims in plan.cuts().items():
            for dim, kept in dims.items():
                tensor = masked.get_parameter(name)
                gone = [i for i in range(tensor.shape[dim]) if i not in kept]
                tensor.index_fill_(dim, torch.tensor(gone), 0)
    assert "b" in plan.groups
    for training in (False, True):
        wanted, found = masked.train(training), small.train(training)
        assert found(x).shape == wanted(x).shape
        if middle not in (IN_TRAINING["noise of a width"], shaken):
            torch.testing.assert_close(found(x), wanted(x), rtol=1e-5, atol=1e-6)


class AskedByFunction(OfTwoModes):
    def mid(self, x: Tensor) -> Tensor:
        return zeroed(x, self)


def test_a_function_that_asks_for_the_mode_is_found() -> None:
    assert asks_for_mode(AskedByFunction(None))
    assert not asks_for_mode(OfTwoModes(None))
    model, x = AskedByFunction(None).eval(), torch.randn(2, 3, 12, 12)
    small = fxprune.prune(model, x, 0.5).model.train()
    ones = torch.ones(1, small.get_parameter("a.weight").shape[0], 1, 1)
    assert int(small.mid(ones).eq(0).sum()) < ones.numel()  # type: ignore[operator]


class GhostBatchNorm(nn.BatchNorm2d):
    """Statistics of two halves of each batch, as in David Page's "How to train your ResNet"."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.register_buffer("running_mean", torch.zeros(2 * num_features))
        self.register_buffer("running_var", torch.ones(2 * num_features))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        assert mean is not None
        assert variance is not None
        if self.training:
            halves = x.view(-1, 2 * x.shape[1], *x.shape[2:])
            given = mean, variance, weight.repeat(2), bias.repeat(2)
            return F.batch_norm(halves, *given, True, self.momentum or 0.0).view(x.shape)
        part = slice(self.num_features)
        return F.batch_norm(x, mean[part], variance[part], weight, bias)


def ghostly() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), GhostBatchNorm(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def test_batch_norm_with_statistics_of_its_own_is_recorded_in_training_mode() -> None:
    net = ghostly()
    net.train()(torch.rand(8, 3, 6, 6))
    small = fxprune.prune(net.eval(), torch.rand(2, 3, 6, 6), 0.5).model
    assert [len(small[1].weight), len(small[1].running_mean)] == [4, 8]  # type: ignore[index]
    assert small.train()(torch.rand(8, 3, 6, 6)).shape == (8, 4, 4, 4)


def test_its_channels_stay_where_it_does_not_train_on_the_example() -> None:
    net = ghostly()
    groups = fxprune.find_groups(fxprune.trace(net, torch.rand(1, 3, 6, 6)))
    assert not groups
    assert "training reads more of the module" in str(groups.why("1.weight"))
    assert "in training mode, where it failed: RuntimeError" in str(groups.why("1.weight"))
