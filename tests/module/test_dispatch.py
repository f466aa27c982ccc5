"""Modes that see ATen calls: their handlers are called as they are written, but where PyTorch's compiler looks on."""

from typing import Any

import pytest
import torch
import torch._dynamo  # a process without it compiles nothing
from torch import Tensor, nn

from fxprune.module import dispatch
from fxprune.module.dispatch import DispatchMode


class Noting(DispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(op._schema.name)
        return op(*args, **(kwargs or {}))


class Broken(nn.Module):
    """The compiler takes this in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        torch._dynamo.graph_break()
        return y.relu()


def handler() -> Any:
    return Noting.__torch_dispatch__


@pytest.mark.skipif(dispatch._callback is None, reason="this PyTorch does not tell whether it compiles")
def test_no_wrapper_takes_time_where_nothing_is_compiled() -> None:
    assert not hasattr(handler(), "__wrapped__")


@pytest.mark.skipif(
    not isinstance(vars(Noting)["__torch_dispatch__"], dispatch._Handler), reason="this PyTorch wraps no handler"
)
def test_the_compiler_does_not_take_the_handler() -> None:
    found = []
    look = torch._dynamo.disable(lambda: found.append(Noting.__torch_dispatch__), recursive=False)

    @torch.compile(backend="eager")
    def compiled(x: Tensor) -> Tensor:
        y = x + 1
        torch._dynamo.graph_break()
        look()
        return y * 2

    compiled(torch.ones(3))
    assert hasattr(found[0], "__wrapped__")


def test_calls_of_a_compiled_part_are_seen() -> None:
    parts = nn.Sequential(nn.Linear(3, 3), Broken())
    parts[1] = torch.compile(parts[1], backend="eager")
    x, mode = torch.ones(2, 3), Noting()
    with mode:
        parts(x)
    assert mode.seen.count("aten::addmm") == 2
    assert "aten::relu" in mode.seen
