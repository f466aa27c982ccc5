"""Attributes that hold widths, whatever they are called."""

import pytest
import torch
from oracle import check
from torch import Tensor, nn

import fxprune


class Named(nn.Module):
    """Parts of the channels, whose length stands in an attribute of a given name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(6), nn.Conv2d(12, 4, 1)
        self.__dict__[name], self.name = 6, name

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x).split(self.__dict__[self.name], 1)
        return self.b(torch.cat([x.tanh(), self.norm(y)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["width", "half", "type", "float"])
def test_a_width_may_have_the_name_of_a_method(name: str) -> None:
    plan = check(lambda: Named(name).eval(), lambda batch: (torch.randn(batch, 3, 6, 6),), 0.5)
    assert vars(fxprune.rewrite(Named(name), plan))[name] == 3
