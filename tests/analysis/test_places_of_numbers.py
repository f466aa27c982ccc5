"""Numbers are found where the code gave them: in later items of an index, in nested functions, in attention's grids."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import check
from torch import Tensor, nn

import fxprune

WIDTH, HEADS, EACH = 32, 4, 8


def inputs(batch: int) -> tuple[Tensor]:
    return (torch.randn(batch, 9, 12, generator=torch.Generator().manual_seed(batch)),)


class SummedDirections(nn.Module):
    """Both directions of a recurrent layer, cut apart by an attribute in the third item of an index."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 16
        self.inp, self.out = nn.Linear(12, WIDTH), nn.Linear(16, 5)
        self.rnn = nn.GRU(WIDTH, 16, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.inp(x))
        return self.out(y[:, :, : self.hidden] + y[:, :, self.hidden :])  # type: ignore[no-any-return]


class Separate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(12, WIDTH), nn.Linear(WIDTH, 5)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))


class LiteralsInAGenerator(Separate):
    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, 4, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, 32))  # type: ignore[no-any-return]


class LiteralsInInnerFunctions(Separate):
    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        b, n, _ = x.shape
        split = lambda t: t.reshape(b, n, 4, 8).transpose(1, 2)  # noqa: E731

        def merged(t: Tensor) -> Tensor:
            return t.transpose(1, 2).reshape(b, n, 32)

        q, k, v = map(split, (self.q(x), self.k(x), self.v(x)))
        return self.out(merged(F.scaled_dot_product_attention(q, k, v)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [SummedDirections, LiteralsInAGenerator, LiteralsInInnerFunctions])
def test_nothing_is_held(make: Callable[[], nn.Module]) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    small = fxprune.rewrite(build(), check(build, inputs, 0.5))
    assert sum(p.numel() for p in small.parameters()) < 0.32 * sum(p.numel() for p in build().parameters())


class Crossed(nn.Module):
    """Queries attend to another stream, of their own width or of another one."""

    def __init__(self, width: int, heads: int = HEADS) -> None:
        super().__init__()
        self.inp, self.memory, self.out = nn.Linear(12, WIDTH), nn.Linear(12, width), nn.Linear(WIDTH, 5)
        self.attention = nn.MultiheadAttention(WIDTH, heads, kdim=width, vdim=width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.inp(x), self.memory(x)
        return self.out(q + self.attention(q, k, k)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(("width", "heads"), [(WIDTH, HEADS), (20, HEADS), (WIDTH, 1)])
def test_heads_of_a_batch_are_those_of_one_sample(width: int, heads: int, batch: int) -> None:
    torch.manual_seed(0)
    model, x = Crossed(width, heads).eval(), inputs(batch)
    result = fxprune.prune(model, x, 0.5)
    assert sum(p.numel() for p in result.model.parameters()) < 0.36 * sum(p.numel() for p in model.parameters())
    attention: nn.MultiheadAttention = result.model.attention
    assert attention.num_heads * attention.head_dim == attention.out_proj.weight.shape[1]
    assert fxprune.verify(model, result.plan, x) < 1e-9
    assert result.model(torch.randn(5, 7, 12)).shape == (5, 7, 5)


class Renewed(nn.Module):
    """A buffer that is made anew for inputs of another length."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.positions, self.out = nn.Linear(12, WIDTH), nn.Linear(3, WIDTH), nn.Linear(WIDTH, 5)
        self.register_buffer("table", torch.randn(9, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.renew(x.shape[1])
        return self.out((self.inp(x) + self.positions(self.table)).relu())  # type: ignore[no-any-return]

    def renew(self, length: int) -> None:
        if len(self.table) != length:
            i = torch.arange(length) / length
            self.table = torch.stack((i, i.square(), i.sqrt()), -1)


def test_a_buffer_that_a_forward_may_replace_is_not_cut() -> None:
    torch.manual_seed(0)
    model = Renewed().eval()
    groups = fxprune.find_groups(fxprune.trace(model, inputs(2)))
    assert [(g.name, g.size) for g in groups] == [("inp", WIDTH)]
    (reason,) = (f.reason for f in groups.fixed if (f.tensor, f.dim) == ("table", 1))
    assert reason == "the forward's code may put another tensor in its place"
    small = fxprune.rewrite(model, groups.plan({"inp": range(0, WIDTH, 2)}))
    assert small(torch.randn(1, 14, 12)).shape == (1, 14, 5)


class Averaged(nn.Module):
    """A buffer that training writes into by an augmented assignment, or puts another tensor in the place of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1)
        self.register_buffer("mean", torch.rand(1, 12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training:
            self.update(y.detach().mean((0, 2, 3), keepdim=True))
        return self.b(y - self.mean)  # type: ignore[no-any-return]

    def update(self, new: Tensor) -> None:
        raise NotImplementedError


class InPlace(Averaged):
    def update(self, new: Tensor) -> None:
        self.mean += 0.1 * (new - self.mean)


class Anew(Averaged):
    def update(self, new: Tensor) -> None:
        self.mean = self.mean + 0.1 * (new - self.mean)


@pytest.mark.parametrize(("kind", "free"), [(InPlace, True), (Anew, False)])
def test_an_augmented_assignment_keeps_the_tensor(kind: Any, free: bool) -> None:
    model, x = kind().eval(), torch.randn(2, 3, 8, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert ("a" in groups) == free
    if free:
        small = fxprune.prune(model, x, 0.5).model
        assert small.train()(x).shape == (2, 4, 6, 6)
        assert small.mean.shape == (1, 6, 1, 1)


class Recurrent(nn.Module):
    """A state of zeros of the legacy constructor, as in NVIDIA's Tacotron 2."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.cell, self.out = 10, nn.LSTMCell(5, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c = (x.data.new(x.size(0), self.width).zero_() for _ in range(2))
        shift = x.new([0.0, 1.0, 0.0])
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
        return self.out(h) + shift  # type: ignore[no-any-return]


def test_sizes_of_the_legacy_constructor() -> None:
    model, x = Recurrent().eval(), torch.randn(2, 4, 5)
    small: Any = fxprune.prune(model, x, 0.5).model
    assert small.width == small.cell.hidden_size == 5
    assert small(torch.randn(3, 6, 5)).shape == (3, 3)
