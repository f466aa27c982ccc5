"""Branches on sizes that the example did not take are named where they hold sizes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.verification.untaken import untaken_branches


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = 20
        self.a, self.b, self.c = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.between(self.a(x))))  # type: ignore[no-any-return]

    def between(self, y: Tensor) -> Tensor:
        raise NotImplementedError


def an_attribute(self: Net, y: Tensor) -> Tensor:
    if y.shape[-1] > 8:
        return torch.cat([y[:, : self.w // 2].sigmoid(), y[:, self.w // 2 :]], 1)
    return y


def a_literal(self: Net, y: Tensor) -> Tensor:
    if not y.shape[0] <= 4:
        y = y.view(-1, 20, y.shape[2] * y.shape[3])[..., None].expand_as(y)
    return y


def behind_a_return(self: Net, y: Tensor) -> Tensor:
    if len(y) <= 4:
        return y
    first, second = y.split(10, 1)
    return torch.cat([second, first], 1)


def in_an_expression(self: Net, y: Tensor) -> Tensor:
    return y.flip(1).reshape(-1, self.w, *y.shape[2:]) if y.shape[2] * y.shape[3] > 64 else y


def of_two_conditions(self: Net, y: Tensor) -> Tensor:
    if y.shape[-1] > 8 and self.w:
        y = y.relu()
        y = y[:, :20]
    else:
        y = y + 1
    return y


def in_an_else(self: Net, y: Tensor) -> Tensor:
    if y.size(3) < 9:
        y = y + 1
    elif self.w:
        y = torch.narrow(y, 1, 0, 20)
    return y


def of_two_comparisons(self: Net, y: Tensor) -> Tensor:
    if y.shape[-1] == 8 and y.shape[-2] == 8:
        return y + 1
    return torch.cat([y[:, 10:], y[:, :10]], 1)


def of_a_chain(self: Net, y: Tensor) -> Tensor:
    if 8 < y.shape[-1] < 20:
        y = y.view(-1, 20, *y.shape[2:])
    return y


HOLDING = [
    of_two_comparisons,
    of_a_chain,
    an_attribute,
    a_literal,
    behind_a_return,
    in_an_expression,
    of_two_conditions,
    in_an_else,
]


def model_of(between: Any) -> nn.Module:
    return type("Case", (Net,), {"between": between, between.__name__: between})().eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("between", HOLDING, ids=lambda f: f.__name__)
def test_a_branch_that_holds_sizes_is_named(between: Any) -> None:
    model, x = model_of(between), torch.randn(2, 3, 8, 8)
    with pytest.warns(
        UserWarning, match="branch on sizes|another size or batch"
    ) as told:  # some tell as well that longer images are computed otherwise
        result = fxprune.prune(model, x, 0.5)
    named = r"1 branch on sizes was not taken, and .*test_untaken\.py:\d+ `.*(if|elif)"
    assert sum(re.search(named, str(w.message)) is not None for w in told) == 1
    assert "1 branch on sizes was not taken" in str(result.report)


def with_padding(self: Net, y: Tensor) -> Tensor:
    if y.shape[-1] % 8 > 0:
        y = F.pad(y, (0, 8 - y.shape[-1] % 8))
    return y


def that_refuses(self: Net, y: Tensor) -> Tensor:
    if y.shape[-1] > 64:
        raise ValueError("at most 64")
    assert y.shape[2] > 2, "too small"
    return y


def without_numbers(self: Net, y: Tensor) -> Tensor:
    if y.shape[-1] > 8:
        first, second = y.chunk(2, 1)
        y = torch.cat([second, first.view(first.shape)], 1)[:, :, 1:-1]
    return y


def of_a_chain_that_fails(self: Net, y: Tensor) -> Tensor:
    if 1 < y.shape[-1] < 5:
        y = y.relu()
        y = y + 1
    else:
        y = y.view(-1, 20, *y.shape[2:])
    return y


def on_an_attribute(self: Net, y: Tensor) -> Tensor:
    if self.w > 40:
        y = y[:, :20]
    return y


@pytest.mark.parametrize(
    "between", [with_padding, that_refuses, without_numbers, of_a_chain_that_fails, on_an_attribute]
)
def test_other_branches_are_not(between: Any) -> None:
    graph = fxprune.trace(model_of(between), torch.randn(2, 3, 8, 8))
    assert untaken_branches(graph) == ()


class Twice(nn.Module):
    """One method, that takes either way."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 20, 3, stride=2), nn.Conv2d(20, 20, 3, stride=2)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.halved(block(x))
        return x

    def halved(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 4:
            x = torch.cat([x[:, 10:], x[:, :10]], 1)
        return x


class Upscaled(Net):
    """PyTorch compares the size that it is asked for, and has numbers of its own behind that."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(20, 20, 3, stride=2, padding=1)

    def between(self, y: Tensor) -> Tensor:
        return self.up(y, output_size=[2 * n for n in y.shape[2:]])  # type: ignore[no-any-return]


def test_branches_of_pytorch_are_not() -> None:
    assert untaken_branches(fxprune.trace(Upscaled().eval(), torch.randn(2, 3, 8, 8))) == ()


def test_a_branch_that_is_taken_once_is_known() -> None:
    assert untaken_branches(fxprune.trace(Twice().eval(), torch.randn(1, 3, 16, 16))) == ()
