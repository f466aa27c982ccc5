"""A state is cut as the model is, with the scales that the plan folds into its weights."""

from __future__ import annotations

import torch
from attention_nets import RootOfLength

import fxprune


def test_a_state_is_cut_with_the_scales_of_the_plan() -> None:
    torch.manual_seed(0)
    model, x = RootOfLength(), torch.randn(2, 5, 6)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"q": [0, 3]})
    assert plan.scales
    state = fxprune.cut_state(model.state_dict(), plan)
    for name, tensor in fxprune.rewrite(model, plan).state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
