"""Idioms of other people's code: tables of which a part is read, splits by a number, attributes used as widths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune

EXACT = 1e-12


def halved(model: nn.Module, groups: fxprune.Groups) -> fxprune.Plan:
    return fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.Random(0)(model, groups))


def groups_of(model: nn.Module, x: Any, **options: Any) -> fxprune.Groups:
    torch.manual_seed(0)
    return fxprune.find_groups(fxprune.trace(model.eval(), x), **options)


# Tables of which the recorded forward reads a part


class Positions(nn.Module):
    """Positions of tokens, of which the example has fewer than the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 20, 8))
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) + self.table[:, : x.shape[1]]
        return self.head(self.b(x).relu())


class Causal(nn.Module):
    """A mask for the longest sequence, as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tril(torch.ones(1, 1, 30, 30)))
        self.q, self.k, self.v, self.o = (nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        scores = scores.masked_fill(self.mask[0, :, :n, :n] == 0, -1e9)
        return self.o(scores.softmax(-1) @ self.v(x))


class Cropped(nn.Module):
    """Positions of a map, cropped to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 8, 12, 12))
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + self.table[:, :, : x.shape[2], : x.shape[3]])


@pytest.mark.parametrize(
    ("make", "table", "small", "large"),
    [
        (Positions, "table", (2, 5, 4), (2, 17, 4)),
        (Causal, "mask", (2, 5, 4), (3, 29, 4)),
        (Cropped, "table", (2, 3, 6, 6), (1, 3, 11, 12)),
    ],
)
def test_what_was_not_read_stays_in_its_place(
    make: Callable[[], nn.Module], table: str, small: tuple[int, ...], large: tuple[int, ...]
) -> None:
    model = make()
    groups = groups_of(model, torch.randn(small))
    assert any(f.tensor == table and f.reason == "not read by the recorded forward" for f in groups.fixed)
    plan = halved(model, groups)
    assert fxprune.verify(model, plan, torch.randn(small)) < EXACT
    assert fxprune.verify(model, plan, torch.randn(large)) < EXACT
    assert fxprune.rewrite(model, plan)(torch.randn(large)).shape == model(torch.randn(large)).shape


# Channels that are not zero when they are masked, and are then summed over


class Shifted(nn.Module):
    """Attention whose queries and keys are changed on the way to their product."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3))
        self.one, self.each = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(1, 5, 1))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.change(self, self.q(x)), self.change(self, self.k(x))
        return self.o((0.3 * q @ k.transpose(1, 2)).softmax(-1) @ self.v(x))


CHANGES: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "none": (lambda m, t: t, False),
    "scaled by one number": (lambda m, t: t * m.one, False),
    "one number": (lambda m, t: t + m.one, True),
    "a constant": (lambda m, t: t + torch.tensor(3.0), True),
    "a number of each token": (lambda m, t: t + m.each, True),
    "filled": (lambda m, t: t.masked_fill(torch.tensor([[[True], [False], [True], [False], [True]]]), 2.0), True),
    "filled with zeros": (lambda m, t: t.masked_fill(torch.tensor([[[True], [False]] + [[True]] * 3]), 0.0), False),
    "above a half": (lambda m, t: F.hardtanh(t, 0.5, 2.0), True),
    "around zero": (lambda m, t: F.hardtanh(t, -0.5, 2.0), False),
    "clamped around zero": (lambda m, t: t.clamp(-1, 1), False),
    "clamped by a tensor": (lambda m, t: t.clamp(min=m.each), True),
    "clamped from below": (lambda m, t: t.clamp(min=0.1), True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_masked_channels_that_are_not_zero_are_told(name: str) -> None:
    change, mixes = CHANGES[name]
    model, x = Shifted(change), torch.randn(2, 5, 6)
    groups = groups_of(model, x)
    assert [(g.name, bool(g.mixed_by)) for g in groups] == [("q", mixes), ("v", False)]
    exact = groups_of(model, x, ignored=["q"]) if mixes else groups
    assert fxprune.verify(model, halved(model, exact), x) < EXACT


class Standardised(nn.Module):
    """A convolution whose weight is normalised over what it reads, by batch norm in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 2, 3)
        self.weight = nn.Parameter(torch.randn(6, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(self.weight.reshape(1, 6, -1), None, None, training=True, momentum=0.0)
        return self.b(F.conv2d(self.a(x).relu(), w.reshape_as(self.weight)).relu())


def test_statistics_of_the_present_input_mix_the_dims_that_they_run_over() -> None:
    groups = groups_of(Standardised(), torch.randn(2, 3, 9, 9))
    assert {g.name: bool(g.mixed_by) for g in groups} == {"a": True, "weight": False}
    tokens = nn.Sequential(nn.Linear(4, 8), nn.InstanceNorm1d(5), nn.Linear(8, 2))
    assert [bool(g.mixed_by) for g in groups_of(tokens, torch.randn(2, 5, 4))] == [True]


# Numbers and attributes that hold widths


class Parts(nn.Module):
    """Two halves of the channels are added."""

    def __init__(self, cut: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 2, 1)
        self.width = 4


class ByNumber(Parts):
    def forward(self, x: Tensor) -> Tensor:
        u, v = self.a(x).relu().split(4, 1)
        return self.head(self.b(u + v).relu())


class ByAttribute(Parts):
    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.split(self.a(x).relu(), self.width, 1)
        return self.head(self.b(u + v).relu())


class BySlices(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.head(self.b(x[:, :4] + x[:, 4:]).relu())


class Blurred(Parts):
    """A fixed filter for each channel; their number is an attribute."""

    def __init__(self, cut: Any) -> None:
        super().__init__(cut)
        self.channels = 8
        self.register_buffer("filter", torch.rand(1, 1, 3, 3))
        self.b = nn.Conv2d(8, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        filters = self.filter.expand(self.channels, -1, -1, -1)
        return self.head(self.b(F.conv2d(self.a(x).relu(), filters, groups=self.channels)).relu())


@pytest.mark.parametrize("make", [ByNumber, ByAttribute, BySlices, Blurred])
def test_numbers_and_attributes_follow_the_width(make: Any) -> None:
    model, x = make(None), torch.randn(2, 3, 9, 9)
    groups = groups_of(model, x)
    assert {"a", "b"} <= {g.name for g in groups}
    plan = halved(model, groups)
    assert fxprune.verify(model, plan, x) < EXACT
    small = fxprune.rewrite(model, plan)
    assert small.a.out_channels == 4
    assert small(x[:1]).shape == model(x[:1]).shape


class SmallGPT(nn.Module):
    """Queries, keys and values from one layer, split by the width of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.n_embd, self.n_head = 8, 2
        self.embed, self.qkv, self.o, self.head = (nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.size()
        q, k, v = (
            t.view(b, n, self.n_head, c // self.n_head).transpose(1, 2) for t in self.qkv(x).split(self.n_embd, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.head(x + self.o(y.transpose(1, 2).contiguous().view(b, n, c)))


def test_a_fused_layer_that_is_split_by_the_embedding() -> None:
    model, x = SmallGPT(), torch.randn(2, 5, 5)
    groups = groups_of(model, x)
    assert {g.name for g in groups} == {"embed", "qkv"}
    plan = halved(model, groups)
    assert fxprune.verify(model, plan, x) < EXACT
    assert fxprune.rewrite(model, plan).n_embd == 4


def test_the_reason_names_the_models_own_line() -> None:
    class Odd(Parts):
        def forward(self, x: Tensor) -> Tensor:
            n = 4 if x.dim() == 4 else 2
            u, v = self.a(x).relu().split(n, 1) if self.training is False else self.a(x).split(4, 1)
            return self.head(self.b(u + v).relu())

    fixed = [f for f in groups_of(Odd(None), torch.randn(2, 3, 9, 9)).fixed if "code" in f.reason]
    assert fixed
    assert all(f.where.startswith("test_idioms.py:") for f in fixed)


class Attended(nn.Module):
    """Spatial attention from the channels' maximum and mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.s, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(2, 1, 7, padding=3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        pooled = torch.stack([torch.max(x, 1)[0], torch.mean(x, 1)], 1)
        return self.b(x * self.s(pooled).sigmoid())


def test_an_extremum_whose_position_nobody_uses_is_a_reduction() -> None:
    model, x = Attended(), torch.randn(2, 3, 9, 9)
    groups = groups_of(model, x)
    assert [(g.name, bool(g.mixed_by)) for g in groups] == [("a", True)]
    assert fxprune.rewrite(model, halved(model, groups))(x).shape == (2, 2, 7, 7)


# Gates that lie between what they gate, and functions of PyTorch that are given numbers only


class Interleaved(nn.Module):
    """Every second channel gates the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.down = nn.Linear(4, 24), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = self.wide(x)
        return self.down(both[..., ::2] * both[..., 1::2].sigmoid())


def gated(both: Tensor) -> Tensor:
    return both[..., ::2] * both[..., 1::2].sigmoid()


class InterleavedByFunction(Interleaved):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(gated(self.wide(x)))


@pytest.mark.parametrize("make", [Interleaved, InterleavedByFunction])
def test_pairs_of_a_slice_with_a_step_go_together(make: Callable[[], Interleaved]) -> None:
    model, x = make().double(), torch.randn(5, 4).double()
    (group,) = groups = groups_of(model, x)
    assert group.size == 12
    kept = [1, 2, 4, 9, 11]
    plan = groups.plan({group.name: kept})
    assert fxprune.verify(model, plan, x) <= EXACT
    small = fxprune.rewrite(model, plan)
    rows = [r for k in kept for r in (2 * k, 2 * k + 1)]
    assert torch.equal(small.wide.weight, model.wide.weight[rows])
    assert torch.equal(small.down.weight, model.down.weight[:, kept])


@pytest.mark.parametrize("part", [slice(None, None, 5), slice(2, None, 2), slice(0, 20, 2)])
def test_other_slices_with_a_step_hold_what_they_read(part: slice) -> None:
    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.down = nn.Linear(4, 24), nn.Linear(len(range(24)[part]), 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.wide(x)[..., part])

    groups = groups_of(Stepped(), torch.randn(5, 4))
    assert not len(groups)
    assert any(f.reason == "sliced with a step" for f in groups.fixed)


class Windows(nn.Module):
    """The number of windows, computed by functions of PyTorch that get no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        count = int(torch.div(x.shape[1], 2, rounding_mode="trunc"))
        x = self.a(x)
        return self.b(x.reshape(x.shape[0], count, 2, x.shape[-1]).sum(2))


def test_functions_that_get_numbers_only() -> None:
    (group,) = groups_of(Windows(), torch.randn(2, 6, 4))
    assert group.size == 8


class Padded(nn.Module):
    """Pads by numbers that buffers hold: positions in front, and where `wider`, channels behind."""

    def __init__(self, wider: bool) -> None:
        super().__init__()
        self.register_buffer("before", torch.tensor(2))
        self.register_buffer("behind", torch.tensor(4 if wider else 0))
        self.a, self.b = nn.Conv1d(3, 8, 3), nn.Conv1d(12 if wider else 8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.pad(self.a(x), (self.before, 0, 0, self.behind)))


@pytest.mark.parametrize("wider", [False, True])
def test_pads_by_numbers_of_tensors(wider: bool) -> None:
    model, x = Padded(wider).double(), torch.randn(2, 3, 9).double()
    groups = groups_of(model, x)
    plan = halved(model, groups)
    assert fxprune.verify(model, plan, x) <= EXACT
    assert [g.name for g in groups] == ([] if wider else ["a"])  # the number does not follow a width
