"""A state is cut as the model is, with the scales that the plan folds into its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxprune


class Attention(nn.Module):
    """Queries and keys of eight dims, divided by the root of their number."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        q, k = self.q(x), self.k(x)
        return self.out((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ self.v(x))


def test_a_state_is_cut_with_the_scales_of_the_plan() -> None:
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 5, 6)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"q": [0, 3]})
    assert plan.scales
    state = fxprune.cut_state(model.state_dict(), plan)
    for name, tensor in fxprune.rewrite(model, plan).state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
