"""Code that asks for autocast by the device of its tensors, as rotary positions do, meets the device "meta"."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.module.isolation import isolated

Region = Callable[[str], AbstractContextManager[None]]


def if_enabled(device: str) -> AbstractContextManager[None]:
    """As transformers has it."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


REGIONS: list[Region] = [
    lambda device: torch.autocast(device, enabled=False),
    lambda device: torch.autocast(device_type=device, dtype=torch.float32, enabled=False),
    lambda device: torch.autocast(device, dtype=torch.get_autocast_dtype(device), enabled=False),
    if_enabled,
]


class Scaled(nn.Module):
    """Scales by what a parameter or the input tells of the device; both are meta tensors somewhere in the analysis."""

    def __init__(self, region: Region) -> None:
        super().__init__()
        self.region = region
        self.register_buffer("scale", torch.ones(1))
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for tensor in (self.scale, x):
            with self.region(tensor.device.type):
                x = x * self.scale.float()
        return self.last(x.relu())


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_without_autocast_holds_nothing(region: Region) -> None:
    net, x = Scaled(region).eval(), torch.rand(2, 6)
    result = fxprune.prune(net, x, pruning_ratio=0.5)
    assert result.model.first.out_features == 4
    assert result.model(x).shape == (2, 3)


def test_afterwards_pytorch_is_as_before() -> None:
    before = torch.autocast.__init__, torch.is_autocast_enabled, torch.get_autocast_dtype
    with isolated(nn.Linear(2, 2)):
        assert not torch.is_autocast_enabled("meta")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.is_autocast_enabled("cpu")
            assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.bfloat16
            assert (torch.rand(2, 2, device="meta") @ torch.rand(2, 2, device="meta")).dtype == torch.float32
    assert before == (torch.autocast.__init__, torch.is_autocast_enabled, torch.get_autocast_dtype)
    with pytest.raises(RuntimeError):
        torch.autocast("meta")
