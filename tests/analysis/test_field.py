"""Constructs that models of other people are made of: none is fixed needlessly, and pruned equals masked."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle import ROUNDING, check, deviation, random_plan, without_mixed
from torch import Tensor, nn

import fxprune

WIDTH, HEADS = 32, 4


class Tokens(nn.Module):
    """A block on a stream of tokens."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.inp, self.block = nn.Linear(12, WIDTH), block
        self.ff, self.out = nn.Linear(WIDTH, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.ff(self.block(self.inp(x)))))  # type: ignore[no-any-return]


class Separate(nn.Module):
    """Queries, keys and values from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = HEADS, WIDTH // HEADS
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def split(self, x: Tensor) -> list[Tensor]:
        b, n, _ = x.shape
        return [layer(x).view(b, n, self.heads, self.width) for layer in (self.q, self.k, self.v)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of tensors of shape (batch, tokens, heads, width)."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = ((q @ k.mT) * self.width**-0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(len(y), -1, self.heads * self.width))  # type: ignore[no-any-return]


class Rotary(Separate):
    """Queries are read twice before they are scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 1 / 100 ** (torch.arange(0, self.width, 2) / self.width))

    def rotate(self, x: Tensor) -> Tensor:
        angles = torch.einsum("i,j->ij", torch.arange(x.shape[1], device=x.device).type_as(x), self.frequencies)
        both = torch.cat((angles, angles), -1)[:, None]
        half = x.shape[-1] // 2
        return x * both.cos() + torch.cat((-x[..., half:], x[..., :half]), -1) * both.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.attend(self.rotate(q), self.rotate(k), v)


class ComplexRotary(Separate):
    """A table of complex numbers, of which the example reads the first rows."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(64.0), 1 / 100 ** (torch.arange(0, self.width, 2) / self.width))
        self.register_buffer("table", torch.stack([angles.cos(), angles.sin()], -1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        turn = torch.view_as_complex(self.table)[: x.shape[1]].view(1, x.shape[1], 1, -1)
        pairs = (torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2)) for t in (q, k))
        q, k = (torch.view_as_real(t * turn).flatten(3) for t in pairs)
        return self.attend(q, k, v)


class LlamaRotary(Separate):
    """Meta's code: the complex numbers are a buffer, and the scores are divided by a root."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(64.0), 1 / 100 ** (torch.arange(0, self.width, 2) / self.width))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns[: x.shape[1], None]).flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        q, k, v = (t.transpose(1, 2) for t in (self.rotate(q), self.rotate(k), v))
        y = (q @ k.mT / math.sqrt(self.width)).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(len(y), -1, self.heads * self.width))  # type: ignore[no-any-return]


class LlamaRotaryAfterGelu(LlamaRotary):
    """No weight can take up the scale, so that whole heads go, though their width falls into pairs."""

    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(torch.nn.functional.gelu(x))


class PairedRotary(Separate):
    """Neighbouring channels are turned by angles that go by their positions: only whole heads can go."""

    def rotate(self, x: Tensor) -> Tensor:
        rates = 1 / 100 ** (torch.arange(0, self.width, 2, dtype=x.dtype, device=x.device) / self.width)
        angles = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None] * rates.repeat_interleave(2)
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return x * angles.cos()[:, None] + turned * angles.sin()[:, None]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.attend(self.rotate(q), self.rotate(k), v)


class EncoderDecoder(nn.Module):
    """PyTorch's own; the queries of its cross-attention are a part of a fused weight."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Transformer(WIDTH, HEADS, 1, 1, 64, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.both(x, x.flip(1), tgt_mask=mask)  # type: ignore[no-any-return]


class RootScaled(Separate):
    """The scale is computed from the stream."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in self.split(x))
        y = ((q @ k.mT) / math.sqrt(x.shape[-1] // self.heads)).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


BLOCKS = [Rotary, ComplexRotary, LlamaRotary, LlamaRotaryAfterGelu, PairedRotary, EncoderDecoder]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.__name__)
def test_attention(block: Callable[[], nn.Module]) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Tokens(block()).eval()

    def inputs(batch: int) -> tuple[Tensor]:
        return (torch.randn(batch, 9, 12, generator=torch.Generator().manual_seed(batch)),)

    plan, model = check(build, inputs, 0.5), build()
    small = fxprune.rewrite(model, plan)
    assert sum(p.numel() for p in small.parameters()) < 0.31 * sum(p.numel() for p in model.parameters())
    exact = without_mixed(fxprune.find_groups(fxprune.trace(model, inputs(1))), plan)
    assert deviation(model, exact, inputs(3)) <= ROUNDING
    longer = torch.randn(2, 14, 12)
    assert deviation(model, exact, (longer,)) <= ROUNDING


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_a_scale_that_is_rounded_keeps_the_stream_at_multiples(part: float) -> None:
    model = Tokens(RootScaled()).eval().double()
    x = torch.randn(3, 9, 12).double()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name for g in groups} == {"inp", "block.q", "block.v", "block.o", "ff"}
    result = fxprune.prune(model, x, pruning_ratio=part)
    kept = result.plan.kept_counts()["inp"]
    assert kept < 32
    assert kept % model.block.heads == 0  # type: ignore[operator,union-attr]
    exact = without_mixed(groups, result.plan)
    assert deviation(model, exact, (x,)) <= ROUNDING


class FirstState(nn.Module):
    """Makes the first state of a recurrent layer from a size alone, without a device."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.hidden, self.layers = 24, 2
        self.rnn = kind(8, 24, 2, batch_first=True)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(self.layers, x.size(0), self.hidden)
        state = (h, torch.zeros_like(h)) if isinstance(self.rnn, nn.LSTM) else h
        return self.out(self.rnn(x, state)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_first_state_without_a_device(kind: type[nn.RNNBase]) -> None:
    model, x = FirstState(kind).eval(), torch.randn(2, 6, 8)
    graph = fxprune.trace(model, x)
    assert graph.on_meta
    groups = fxprune.find_groups(graph)
    assert [g.size for g in groups] == [24]
    plan = random_plan(model, groups, 0.5)
    small = fxprune.rewrite(model, plan)
    assert small.hidden == small.rnn.hidden_size == 12
    assert small(torch.randn(3, 4, 8)).shape == (3, 5)
    assert fxprune.verify(model, plan, x) <= ROUNDING


class ReadsLengths(nn.Module):
    """Its way goes by values of an input and of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 3)
        self.register_buffer("scales", torch.tensor([1.0, 1.0, 2.0, 2.0]))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = F.interpolate(self.b(self.a(x).relu()), scale_factor=self.scales.tolist()[2:])
        last = int(lengths.cpu().max()) + sum(lengths.tolist()) * 0
        return self.c(x.view(x.shape[0], -1, *x.shape[2:])[:, :, :last])  # type: ignore[no-any-return]


def test_values_of_inputs_and_buffers_are_read_while_widths_are_checked() -> None:
    model, x = ReadsLengths().eval(), (torch.rand(2, 3, 10, 10), torch.tensor([7, 9]))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("a", 16), ("b", 16)]
    assert deviation(model, random_plan(model, groups, 0.5), x) <= ROUNDING


class ReadsActivations(ReadsLengths):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        if sum(y.flatten().tolist()) > 1e9:
            y = y * 2
        return self.c(y.view(len(y), 16, -1, y.shape[-1]))  # type: ignore[no-any-return]


def test_activations_are_read_while_widths_are_checked() -> None:
    """The check sees no values of them: what it did not reach must be known from the recorded run."""
    model, x = ReadsActivations().eval(), (torch.rand(2, 3, 10, 10), torch.tensor([7, 9]))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("a", 16), ("b", 16)]
    assert deviation(model, random_plan(model, groups, 0.5), x) <= ROUNDING


class WritesNumbers(ReadsLengths):
    """A number is written where data say, which meta tensors do by another call."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        dark = y.sum(1) < lengths.min()
        dark[torch.where(dark.all(2))] = False
        near = torch.einsum("bqc,bchw->bqhw", y.flatten(2)[..., :2].mT, y).sum(1)
        return self.c(y * (near * dark)[:, None])  # type: ignore[no-any-return]


def test_numbers_are_written_where_data_say() -> None:
    model, x = WritesNumbers().eval(), (torch.rand(2, 3, 10, 10), torch.tensor([0, 9]))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("a", 16), ("b", 16)]
    assert deviation(model, random_plan(model, groups, 0.5), x) <= ROUNDING


class Packed(nn.Module):
    """Sorted and packed by the lengths that it is given; read for real, as lengths are values."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.rnn = nn.Linear(8, 16), nn.GRU(16, 20, batch_first=True, bidirectional=True)
        self.out = nn.Linear(40, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.inp(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.out(y)  # type: ignore[no-any-return]


def test_packed_by_lengths_of_the_input() -> None:
    model, x = Packed().eval(), (torch.randn(2, 6, 8), torch.tensor([4, 6]))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert sorted(g.size for g in groups) == [16, 20]
    plan = random_plan(model, groups, 0.5)
    assert deviation(model, plan, x) <= ROUNDING
    other = (torch.randn(3, 5, 8), torch.tensor([2, 5, 3]))
    assert fxprune.rewrite(model, plan)(*other).shape == model(*other).shape


class PackedBeforeCells(nn.Module):
    """Goes by data, packs, and holds the width of what comes behind; packed cells run otherwise on meta tensors."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(8, 12, batch_first=True, bidirectional=True)
        self.hidden, self.cell, self.out = 10, nn.LSTMCell(24, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x * 2 if float(x.sum()) > 1e9 else x, lengths, batch_first=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        h = s = y.new_zeros(len(x), self.hidden)
        for step in y.unbind(1):
            h, s = self.cell(step, (h, s))
        return self.out(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_comes_behind_a_packed_layer_is_seen(kind: type[nn.RNNBase]) -> None:
    model, x = PackedBeforeCells(kind).eval(), (torch.randn(2, 6, 8), torch.tensor([6, 4]))
    graph = fxprune.trace(model, x)
    assert not graph.on_meta
    groups = fxprune.find_groups(graph)
    assert sorted(g.size for g in groups) == [10, 12]
    plan = random_plan(model, groups, 0.5)
    small = fxprune.rewrite(model, plan)
    assert (small.hidden, small.cell.hidden_size, small.rnn.hidden_size) == (5, 5, 6)
    assert deviation(model, plan, x) <= ROUNDING


class Unpacked(nn.Module):
    """Numbers of the code behind unpacked sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = self.b(y.view(*y.shape[:-1], 64)).relu()
        return self.c(y.reshape((*y.shape[:-1], 4, 8)).reshape([*x.shape[:2], 32]))  # type: ignore[no-any-return]


def prunes(model: nn.Module, x: Tensor, sizes: dict[str, int], other: tuple[int, ...]) -> tuple[int, ...]:
    """Has these groups, pruned equal to masked; returns the shape of the pruned model's output for another input."""
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: g.size for g in groups} == sizes
    plan = random_plan(model, groups, 0.5)
    assert deviation(model, plan, (x,)) <= ROUNDING
    return tuple(fxprune.rewrite(model, plan)(torch.randn(other)).shape)


def test_literals_behind_unpacked_sizes_are_mended() -> None:
    assert prunes(Unpacked().eval(), torch.randn(2, 9, 12), {"a": 64, "b": 8}, (3, 4, 12)) == (3, 4, 5)


class InFront(nn.Module):
    """A number of the code in front of unpacked sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 3), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y.view(y.shape[0], 12, 2, *y.shape[2:]).amax(2))  # type: ignore[no-any-return]


def test_literals_in_front_of_unpacked_sizes_are_mended() -> None:
    assert prunes(InFront().eval(), torch.randn(2, 3, 9, 9), {"a": 12}, (3, 3, 5, 7)) == (3, 5, 3, 5)


class DimsByName(nn.Module):
    """The dim of a split and of an unflatten is an attribute; PyTorch's own module holds the sizes of another."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.dim, self.a, self.b = 1, nn.Linear(7, 48), nn.Linear(24, 16 * 4)
        self.grid = nn.Unflatten(1, sizes)
        self.c, self.d = nn.Conv2d(16, 5, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x).split([24, 24], dim=self.dim)
        grid = self.grid(self.b(y * z))
        return self.c(grid) + self.d(y.narrow(self.dim, 0, 16).unflatten(self.dim, (4, 2, 2)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("sizes", [(16, 2, 2), torch.Size([16, 2, 2])])
def test_sizes_are_followed_where_the_dim_is_an_attribute(sizes: tuple[int, ...]) -> None:
    model, x = DimsByName(sizes).eval(), torch.randn(3, 7)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: g.size for g in groups}["b"] == 16
    plan = groups.plan({"b": list(range(0, 16, 2))})
    assert deviation(model, plan, (x,)) <= ROUNDING
    small = fxprune.rewrite(model, plan)
    assert tuple(small.grid.unflattened_size) == (8, 2, 2)
    assert model.grid.unflattened_size == sizes


class ScaledEmbedding(nn.Module):
    """Embeddings times the root of their width: the table takes it up."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.out = nn.Embedding(20, 16), nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, i: Tensor) -> Tensor:
        return self.out(self.a(self.table(i) * math.sqrt(self.table.embedding_dim)).relu())  # type: ignore[no-any-return]


def test_a_table_takes_up_the_scale_of_its_embeddings() -> None:
    model, x = ScaledEmbedding().eval(), torch.randint(0, 20, (2, 7))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert sorted(g.size for g in groups) == [16, 24]
    plan = random_plan(model, groups, 0.5)
    assert [s.tensor for s in plan.scales] == ["table.weight"]
    assert deviation(model, plan, (x,)) <= ROUNDING


class Detections(nn.Module):
    """As many results as there are positive scores, behind norms without parameters (DISK)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16), nn.PReLU(16), nn.Conv2d(16, 12, 3), nn.Conv2d(12, 4, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return found[:, :, (found.mean((0, 1)) > 0).nonzero()[:, 0]]  # type: ignore[no-any-return]


def test_results_that_nothing_reads_are_not_compared() -> None:
    """A norm's own statistics: of a model that follows its data they have other shapes on meta tensors."""
    torch.manual_seed(0)
    model, x = Detections().eval(), torch.rand(1, 3, 16, 16)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.size for g in groups} == {12, 16}
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert fxprune.verify(model, plan, x) < ROUNDING


class CrossAttention(nn.Module):
    """Queries of one stream, keys and values of another, of another width."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.one, self.other, self.out = nn.Linear(5, 8), nn.Linear(5, 6), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, heads, kdim=6, vdim=6, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        read = self.other(y)
        return self.out(self.attention(self.one(x), read, read)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_widths_inside_attention_follow_the_stream(heads: int) -> None:
    """PyTorch computes with one width, `embed_dim`: that of the queries' stream and of what is joined again."""
    torch.manual_seed(0)
    model, x = CrossAttention(heads).eval(), (torch.rand(2, 4, 5), torch.rand(2, 7, 5))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert fxprune.verify(model, plan, x) < ROUNDING
    assert fxprune.cost(groups, plan).parameters < (0.4 if heads < 8 else 0.9) * fxprune.cost(groups).parameters


class GlobalResponseNorm(nn.Module):
    """The shape of its weights is an attribute, in which -1 stands for the channels (timm)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.shape, self.like = (1, 1, -1), (2, 1, -1)

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(p=2, dim=1, keepdim=True)
        scaled = torch.addcmul(self.bias.view(self.shape), self.weight.reshape(self.shape), x * energy)
        return scaled + self.bias[None, None].expand(self.like)  # type: ignore[no-any-return]


def test_a_size_that_pytorch_computes_is_no_width_of_an_attribute() -> None:
    """It read as a width that had become 16 in place of -1, in a plan that then fitted no model."""
    model = Tokens(GlobalResponseNorm(WIDTH)).eval()
    x = torch.rand(2, 3, 12)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert not plan.attributes
    assert {g.size for g in groups} == {WIDTH, 48}
    assert fxprune.verify(model, plan, x) < ROUNDING


class HeldHeads(nn.Module):
    """Holds the width of a head, and reads its input first, so that it runs on real data."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.head_dim, self.reads = 8, reads
        self.inp, self.q, self.k, self.v = nn.Linear(5, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.o = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x * 2 if self.reads and float(x.max()) > 1e9 else x).relu()
        q, k, v = (p(y).view(*y.shape[:-1], -1, self.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o(y.reshape(*x.shape[:-1], -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("ignored", [(), ("q",), ("v",), ("q", "inp")])
def test_what_is_ignored_is_checked_on_real_data_too(ignored: tuple[str, ...]) -> None:
    found = []
    for reads in (False, True):
        model, x = HeldHeads(reads).eval(), torch.rand(2, 9, 5)
        graph = fxprune.trace(model, x)
        assert graph.on_meta is not reads
        groups = fxprune.find_groups(graph, ignored)
        found.append({g.name: g.size for g in groups})
        assert fxprune.rewrite(model, random_plan(model, groups, 0.5))(x).shape == (2, 9, 7)
    assert found[0] == found[1]


class SpatialTransformer(nn.Module):
    """Its grid is asked for by the size of a map with channels (Jaderberg et al. 2015), and offsets are added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 6), nn.Conv2d(16, 5, 1)
        self.offsets = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        grid = F.affine_grid(self.b(y.mean((2, 3))).view(-1, 2, 3), list(y.shape), align_corners=False)
        grid = F.affine_grid(torch.eye(2, 3).expand(len(y), -1, -1), y.size(), align_corners=False) + grid
        return self.c(F.grid_sample(y, grid + self.offsets(y).permute(0, 2, 3, 1), align_corners=False))  # type: ignore[no-any-return]


def test_the_channels_of_an_affine_grids_size_do_not_count() -> None:
    assert prunes(SpatialTransformer().eval(), torch.randn(2, 3, 8, 8), {"a": 16}, (3, 3, 5, 7)) == (3, 5, 5, 7)


class Coordinates(nn.Module):
    """As in Swin V2: a small network reads a table of coordinates, which the model holds as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(16, 2))
        self.inside, self.bias = nn.Linear(2, 12), nn.Linear(12, 8, bias=False)
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x) + self.bias(self.inside(self.table).relu()).sum(0))  # type: ignore[no-any-return]


def test_coordinates_in_a_buffer_stay() -> None:
    """Half of them would be one axis of two; nor does a position go."""
    net = Coordinates().eval()
    groups = fxprune.find_groups(fxprune.trace(net, torch.rand(5, 3)))
    assert {g.name: g.size for g in groups} == {"inside": 12, "stem": 8}
    reasons = {(f.tensor, f.dim): f.reason for f in groups.fixed}
    assert reasons["table", 1] == reasons["inside.weight", 1] == "numbers that a buffer gives to a layer, as data"
    assert reasons["table", 0] == "no parameter and no layer has these channels"
    net.table = nn.Parameter(net.table)  # learned, it may shrink
    assert len(list(fxprune.find_groups(fxprune.trace(net, torch.rand(5, 3))))) > len(list(groups))


class Frequencies(Coordinates):
    """Random Fourier features: a weight that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.rand(3, 12))
        self.read = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read((x @ self.frequencies).cos()))  # type: ignore[no-any-return]


def test_weights_in_a_buffer_shrink() -> None:
    groups = fxprune.find_groups(fxprune.trace(Frequencies().eval(), torch.rand(5, 3)))
    assert {g.size for g in groups} == {12, 8}
