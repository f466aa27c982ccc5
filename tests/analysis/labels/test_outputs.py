"""Where an output holds a stream, the reason names the output."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor


Pair = namedtuple("Pair", "logits hidden")


class Net(nn.Module):
    """Logits, and the hidden states that they were made from."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.a, self.b, self.form = nn.Linear(4, 8), nn.Linear(8, 3), form

    def forward(self, x: Tensor) -> Any:
        hidden = self.a(x).relu()
        return self.form(self.b(hidden), hidden)


FORMS = {
    "logits hidden": [
        lambda a, b: {"logits": a, "hidden": b},
        Answer,
        Pair,
        lambda a, b: SimpleNamespace(logits=a, hidden=b),
    ],
    "[0] [1]": [lambda a, b: (a, b), lambda a, b: [a, b]],
    "logits cache.layers[0]['a-b']": [lambda a, b: {"logits": a, "cache": SimpleNamespace(layers=[{"a-b": b}])}],
}


@pytest.mark.parametrize(("names", "form"), [(names, form) for names, forms in FORMS.items() for form in forms])
def test_the_output_that_holds_a_stream_is_named(names: str, form: Any) -> None:
    logits, hidden = names.split()
    groups = fxprune.find_groups(fxprune.trace(Net(form).eval(), torch.rand(2, 4)))
    reasons = {f.tensor: f.reason for f in groups.fixed if f.dim == 0 and "weight" in f.tensor}
    assert reasons == {"a.weight": f"model output {hidden}", "b.weight": f"model output {logits}"}
    assert f"the output {hidden}" in groups.why("a").held[0].remedy


def test_a_single_output_needs_no_name() -> None:
    groups = fxprune.find_groups(fxprune.trace(Net(lambda a, _: a).eval(), torch.rand(2, 4)))
    assert {f.reason for f in groups.fixed} == {"model input", "model output"}
