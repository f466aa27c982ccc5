"""Two plans in a row, of which the second knows nothing of a tensor that has two names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxprune


class Shared(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8, bias=False), nn.Linear(4, 8, bias=False)
        self.b.weight = self.a.weight
        self.c, self.d = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.d(self.c(self.a(x).relu() + self.b(x + 1).relu()).relu())


def test_other_names_of_a_tensor_stay_known() -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.rand(3, 4)
    first = fxprune.find_groups(fxprune.trace(model, x)).plan({"a": [0, 2, 5, 6]})
    assert first.aliases == {"b.weight": "a.weight"}
    small = fxprune.rewrite(model, first)
    found = fxprune.find_groups(fxprune.trace(small, x), ignored="a")
    second = found.plan({"c": [1, 3, 4]})
    assert "b.weight" not in second.aliases
    both = first.then(second)
    state = fxprune.cut_state(model.state_dict(), both)
    for name, tensor in fxprune.rewrite(small, second).state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
