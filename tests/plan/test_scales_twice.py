"""Two plans in a row, both of which shorten what a scale in the code follows."""

from __future__ import annotations

import torch
from attention_nets import RootOfLength

import fxprune


def test_scales_of_the_second_plan_are_those_of_the_rows_that_are_left() -> None:
    torch.manual_seed(0)
    model, x = RootOfLength(), torch.randn(2, 5, 6)
    first = fxprune.find_groups(fxprune.trace(model, x)).plan({"q": [1, 3, 4, 6]})
    small = fxprune.rewrite(model, first)
    second = fxprune.find_groups(fxprune.trace(small, x)).plan({"q": [1, 3]})
    assert first.scales
    assert second.scales
    found = fxprune.rewrite(model, first.then(second)).state_dict()
    for name, tensor in fxprune.rewrite(small, second).state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=0)
