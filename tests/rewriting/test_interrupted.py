"""What works in place and is interrupted leaves the model as it was."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.sizes = 8, [8, 4]
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)).relu()
        return self.c(x.view(-1, self.width, 36).reshape(-1, 8 * 36))  # type: ignore[no-any-return]


def after_lines(count: int, function: Callable[[], object]) -> bool:
    """Ctrl-C at that line of fxprune; whether it came before the function had ended."""
    seen = 0

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if "/fxprune/" not in frame.f_code.co_filename:
            return None
        seen += event == "line"
        if seen == count:
            sys.settrace(None)
            raise KeyboardInterrupt
        return watch

    before, grad = sys.gettrace(), torch.is_grad_enabled()
    sys.settrace(watch)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        torch.set_grad_enabled(grad)  # Python leaves a `with` without its exit where that is interrupted
    return False


def state(model: nn.Module) -> Any:
    own = {path: (type(m), m.__dict__.get("width"), m.extra_repr()) for path, m in model.named_modules()}
    return own, {name: t.tolist() for name, t in model.state_dict().items()}


@pytest.mark.parametrize(
    "change", [lambda m, plan: fxprune.rewrite(m, plan, inplace=True), fxprune.mask], ids=["rewrite", "mask"]
)
def test_whenever_it_is_interrupted(change: Callable[[nn.Module, fxprune.Plan], object]) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    plan = fxprune.find_groups(fxprune.trace(model, torch.rand(1, 3, 8, 8))).plan({"a": [0, 2, 5]})
    whole, done = state(model), copy.deepcopy(model)
    change(done, plan)
    line = 1
    while True:
        work = copy.deepcopy(model)
        if not after_lines(line, lambda work=work: change(work, plan)):  # type: ignore[misc]
            break
        assert state(work) in (whole, state(done)), line
        line += 13
    assert line > 50
    assert state(work) == state(done)
