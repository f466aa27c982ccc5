"""Which reason is told first."""

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.grouping.reasons import FixedDim, decisive_first


def test_what_every_model_has_comes_last() -> None:
    fixed = [
        FixedDim("a", 0, 9, "model input"),
        FixedDim("a", 1, 3, "op x has no rule"),
        FixedDim("b", 1, 4, "one index is taken by the model's code"),
        FixedDim("c", 1, 3, "op x has no rule"),
        FixedDim("d", 1, 90, "model output logits"),
    ]
    first, second, *others = decisive_first(fixed)
    assert (first, second) == ("op x has no rule", "one index is taken by the model's code")
    assert others == ["model output logits", "model input"]


class Inverse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.linalg.inv(self.a(x)))  # type: ignore[no-any-return]


def test_an_op_without_a_rule_is_named_before_inputs_and_outputs() -> None:
    with pytest.raises(fxprune.InputError, match=r"seen: op aten\.linalg_inv_ex\S* has no rule; .*model input"):
        fxprune.prune(Inverse(), torch.eye(4)[None], 0.5)
