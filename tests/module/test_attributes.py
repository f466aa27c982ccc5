"""Attributes that hold widths, whatever they are called."""

from types import SimpleNamespace

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


class InTuples(nn.Module):
    """Lengths in tuples of tuples, beside what is none; an object that both models share holds some as well."""

    def __init__(self, settings: SimpleNamespace) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(4), nn.Conv2d(12, 4, 1)
        self.sizes, self.settings = (("first", 8), (None, 0.5)), settings

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x).split([self.sizes[0][1], self.settings.parts[1][0][0]], 1)
        return self.b(torch.cat([x.tanh(), self.norm(y)], 1))  # type: ignore[no-any-return]


class Deep(nn.Module):
    """Lengths in a tuple that as many containers lie around as are looked into."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1)
        self.sizes = [[[[(6, 6)]]]]

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x).split(self.sizes[0][0][0][0], 1)
        return self.b(torch.cat([x.tanh(), y], 1))  # type: ignore[no-any-return]


def test_a_tuple_in_the_deepest_list_follows() -> None:
    plan = check(lambda: Deep().eval(), lambda batch: (torch.randn(batch, 3, 6, 6),), 0.5)
    assert fxprune.rewrite(Deep(), plan).sizes == [[[[(3, 3)]]]]


def test_widths_in_tuples_of_tuples_follow() -> None:
    settings = SimpleNamespace(parts=("rest", ((4,), "last")))
    plan = check(lambda: InTuples(settings).eval(), lambda batch: (torch.randn(batch, 3, 6, 6),), 0.5)
    small = fxprune.rewrite(InTuples(settings), plan)
    assert small.sizes == (("first", 4), (None, 0.5))
    assert small.settings.parts == ("rest", ((2,), "last"))
    assert settings.parts == ("rest", ((4,), "last"))
    assert {type(v) for v in (settings.parts[1][0][0], *settings.parts[1][0])} == {int}
