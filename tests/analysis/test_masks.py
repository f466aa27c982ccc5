"""Buffers of booleans: masks of channels shrink with the channels, and where they choose places, nothing does."""

from collections.abc import Callable

import pytest
import torch
from oracle import ROUNDING, random_plan
from torch import Tensor, nn

import fxprune

Use = Callable[[Tensor, Tensor], Tensor]


class Masked(nn.Module):
    """Two convolutions, and a use of a mask of the first one's channels between them."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.use = use
        self.register_buffer("mask", torch.rand(16, 1, 1) > 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.use(self.a(x).relu(), self.mask))


def net(use: Use) -> tuple[Masked, Tensor]:
    torch.manual_seed(0)
    return Masked(use).eval(), torch.randn(2, 3, 8, 8)


SHRINK: dict[str, Use] = {
    "a product": lambda x, m: x * m,
    "a number": lambda x, m: x * m.float(),
    "an integer": lambda x, m: x * m.long(),
    "where": lambda x, m: torch.where(m, x, 1.0),
    "masked_fill": lambda x, m: x.masked_fill(~m, 0.5),
    "logic": lambda x, m: x * (m & (x > 0)) + x * m.logical_not(),
    "index_put": lambda x, m: torch.index_put(x.transpose(0, 1), (m.flatten(),), torch.zeros(1)).transpose(0, 1),
}
STAY: dict[str, Use] = {
    "an index": lambda x, m: torch.cat([x[:, m.flatten()], x[:, ~m.flatten()]], 1),
    "a table's index": lambda x, m: x * torch.tensor([0.5, 2.0])[m.long()],
    "positions": lambda x, m: x * m.cumsum(0),
}
WHOLE: dict[str, Use] = {
    "their number": lambda x, m: x / m.sum(),
    "whether any": lambda x, m: x * m.any(),
    "one of them": lambda x, m: x * (2 if m[3].item() else 1),
    "their places": lambda x, m: x + m.nonzero().sum(),
}


def planned(use: Use) -> tuple[Masked, Tensor, fxprune.Plan]:
    model, x = net(use)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert not groups.unknown_ops
    return model, x, random_plan(model, groups, 0.5)


@pytest.mark.parametrize("use", SHRINK.values(), ids=SHRINK)
def test_a_mask_shrinks_with_its_channels(use: Use) -> None:
    model, x, plan = planned(use)
    assert fxprune.verify(model, plan, x) <= ROUNDING
    small = fxprune.rewrite(model, plan)
    kept = plan.groups["a"].kept
    assert torch.equal(small.mask, model.mask[torch.from_numpy(kept)])


@pytest.mark.parametrize("use", STAY.values(), ids=STAY)
def test_a_mask_that_chooses_places_holds_the_channels(use: Use) -> None:
    assert "a" not in planned(use)[2].groups


@pytest.mark.parametrize("use", WHOLE.values(), ids=WHOLE)
def test_a_mask_that_is_counted_stays_and_the_channels_shrink(use: Use) -> None:
    model, x, plan = planned(use)
    assert fxprune.verify(model, plan, x) <= ROUNDING
    assert torch.equal(fxprune.rewrite(model, plan).mask, model.mask)
    assert len(plan.groups["a"].kept) == 8
