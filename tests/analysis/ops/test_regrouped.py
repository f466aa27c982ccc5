"""Reshapes that merge a batch with heads: what may shrink is the same whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import ROUNDING, deviation, random_plan, without_mixed
from torch import Tensor, nn

import fxprune


class Encoder(nn.Module):
    """PyTorch's own layer with its slow way, which merges the batch with the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 24), nn.Linear(24, 4)
        self.layer = nn.TransformerEncoderLayer(24, 4, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Learned queries for each image of a batch, as in DETR."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 24), nn.Linear(24, 4)
        self.queries = nn.Parameter(torch.randn(3, 24))
        self.layer = nn.TransformerDecoderLayer(24, 4, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries[None].expand(len(x), -1, -1)
        return self.last(self.layer(queries, self.first(x)))  # type: ignore[no-any-return]


class TimeFirst(nn.Module):
    """Attention as fairseq wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 6
        self.q, self.k, self.v, self.out = (nn.Linear(5, 24), nn.Linear(5, 24), nn.Linear(5, 24), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        length, batch, _ = (x := x.transpose(0, 1)).size()
        q, k, v = (
            layer(x).contiguous().view(-1, batch * self.heads, self.width).transpose(0, 1)
            for layer in (self.q, self.k, self.v)
        )
        mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return self.out(mixed.transpose(0, 1).contiguous().view(length, batch, 24))  # type: ignore[no-any-return]


class Mixture(nn.Module):
    """A mixture of softmaxes: all experts of all words become one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.prior, self.decoder = nn.Linear(5, 4 * 16), nn.Linear(5, 4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        each = self.decoder(self.latent(x).tanh().view(-1, 16)).view(-1, 3).softmax(-1).view(-1, 4, 3)
        return (each * self.prior(x).view(-1, 4).softmax(-1).unsqueeze(2)).sum(1)  # type: ignore[no-any-return]


def sizes(model: nn.Module, batch: int) -> dict[str, int]:
    return {g.name: g.size for g in fxprune.find_groups(fxprune.trace(model, torch.randn(batch, 7, 5)))}


@pytest.mark.parametrize("make", [Encoder, Decoder, TimeFirst, Mixture])
def test_the_batch_does_not_decide_what_shrinks(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    first = sizes(model, 1)
    assert 24 not in first.values() or make in (Encoder, Decoder)
    for batch in (2, 6, 24):
        assert sizes(model, batch) == first


@pytest.mark.parametrize("make", [Encoder, Decoder, TimeFirst, Mixture])
def test_pruned_with_a_batch_it_is_exact_with_another(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    groups = fxprune.find_groups(fxprune.trace(model, torch.randn(4, 7, 5)))
    plan = without_mixed(groups, random_plan(model, groups, 0.5))
    for batch in (1, 4, 5):
        assert deviation(model, plan, (torch.randn(batch, 7, 5),)) <= ROUNDING


class OfNothing(nn.Module):
    """Boxes of which the example has none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.boxes = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        return self.last(y), self.boxes(y[:0].reshape(0, 16))


def test_a_reshape_of_nothing_tells_nothing() -> None:
    groups = fxprune.find_groups(fxprune.trace(OfNothing().eval(), torch.randn(4, 5)))
    assert not list(groups)
    assert "reshaped while it is empty" in str(groups.why("first"))


class Reshaped(nn.Module):
    def __init__(self, width: int, change: Callable[[Tensor], Tensor], left: int) -> None:
        super().__init__()
        self.first, self.last, self.change = nn.Linear(5, width), nn.Linear(left, 4), change

    def forward(self, x: Tensor) -> Any:
        return self.last(self.change(self.first(x)))


@pytest.mark.parametrize(
    ("width", "change", "left", "group"),
    [
        (12, lambda y: y.view(-1, y.size(1) // 3), 4, 4),  # three rows an image
        (12, lambda y: y.view(3, -1, y.size(1) // 3), 4, 4),  # 6 x 12 to 3 x 6 x 4: an end within an image
        (12, lambda y: y.view(-1, 2, y.size(1) // 2).flatten(1), 12, 6),
    ],
)
def test_parts_of_both_shapes(width: int, change: Callable[[Tensor], Tensor], left: int, group: int) -> None:
    model, x = Reshaped(width, change, left).eval(), torch.randn(6, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.size for g in groups] == [group]
    assert deviation(model, random_plan(model, groups, 0.5), (x,)) <= ROUNDING
