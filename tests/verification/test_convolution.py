"""Grouped convolutions in float64: the same as PyTorch's, all groups at once."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.verification.convolution import conv2d


def a_case(groups: int, side: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight = torch.rand(2, 12, side, side + 1, dtype=dtype), torch.rand(24, 12 // groups, 3, 1, dtype=dtype)
    return x, weight, torch.rand(24, dtype=dtype)


@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("options", [(1, 0, 1), ((2, 1), (1, 2), (1, 2)), ((2,), (0,), (1,)), (1, "same", 1)])
def test_it_is_what_pytorch_computes(groups: int, options: tuple[int, int, int]) -> None:
    x, weight, bias = a_case(groups, 6)
    for b in (None, bias):
        wanted = torch.conv2d(x, weight, b, *options, groups)
        torch.testing.assert_close(conv2d(x, weight, b, *options, groups), wanted, rtol=1e-12, atol=1e-12)


FEW = [
    ((2, 6, 1, 2), 3, 1, 1),
    ((2, 6, 2, 4), 3, 2, 1),
    ((1, 6, 5, 5), (3, 2), (2, 3), (0, 1)),
    ((2, 6, 2, 2), 1, 1, 0),
]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [*FEW, ((2, 6, 4, 4), 1, 2, 0), ((1, 6, 9, 9), 3, 1, 0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_positions_are_what_pytorch_computes(
    size: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dtype: torch.dtype
) -> None:
    layer = nn.Conv2d(6, 10, kernel, stride, padding).to(dtype)
    x, how = torch.rand(size, dtype=dtype), (stride, padding)
    with torch.no_grad():
        for bias in (None, layer.bias):
            found, wanted = conv2d(x, layer.weight, bias, *how), torch.conv2d(x, layer.weight, bias, *how)
            torch.testing.assert_close(found, wanted)
            assert found.stride() == wanted.stride()


@pytest.mark.parametrize("kernel", [1, 3])
def test_layers_of_no_channels_are_pytorchs(kernel: int) -> None:
    x, weight = torch.rand(2, 0, 2, 2), torch.rand(4, 0, kernel, kernel)
    assert conv2d(x, weight, padding=kernel // 2).shape == (2, 4, 2, 2)
    none = torch.rand(0, 3, kernel, kernel)
    assert conv2d(torch.rand(2, 3, 2, 2), none, padding=kernel // 2).shape == (2, 0, 2, 2)


OFTEN = [(12, 6, torch.float64, True), (1, 6, torch.float64, False), (12, 6, torch.float32, False)]


@pytest.mark.parametrize(("groups", "side", "dtype", "all_at_once"), [*OFTEN, (12, 90, torch.float64, False)])
def test_groups_are_taken_at_once_on_small_maps_of_float64(
    groups: int, side: int, dtype: torch.dtype, all_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(F, "unfold", lambda *args, unfold=F.unfold: used.append(args) or unfold(*args))
    x, weight, bias = a_case(groups, side, dtype)
    torch.testing.assert_close(conv2d(x, weight, bias, groups=groups), torch.conv2d(x, weight, bias, groups=groups))
    assert bool(used) is all_at_once


@pytest.mark.parametrize("channels", [11, 24])
def test_what_does_not_fit_is_refused_as_by_pytorch(channels: int) -> None:
    _, weight, bias = a_case(3, 6)
    with pytest.raises(RuntimeError, match="to have 12 channels"):
        conv2d(torch.rand(2, channels, 6, 6, dtype=torch.float64), weight, bias, groups=3)


class Named(nn.Module):
    """Gives everything by name, as some code does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(input=x, weight=self.a.weight, bias=None, stride=1)
        return F.conv2d(input=h.relu(), weight=self.b.weight, bias=self.b.bias, padding=1, groups=1)


def test_arguments_may_be_given_by_name() -> None:
    x, weight, bias = a_case(3, 6)
    found = conv2d(input=x, weight=weight, bias=bias, groups=3)
    torch.testing.assert_close(found, torch.conv2d(x, weight, bias, groups=3))
    result = fxprune.prune(Named(), torch.rand(1, 3, 9, 9), pruning_ratio=0.5)
    assert result.model.a.out_channels == 4
