"""Scripted functions, which run past Python: those that do nothing with sizes let channels pass, others hold them."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and in use

    @torch.jit.script
    def swish(x: Tensor) -> Tensor:
        return x * x.sigmoid()

    @torch.jit.script
    def hard(x: Tensor) -> Tensor:
        return x.mul(F.relu6(x + 3.0)).div_(6)

    @torch.jit.script
    def mixed(x: Tensor) -> Tensor:
        return torch.cat([x.softmax(1), torch.clamp(x, 0, 6)], 1)

    @torch.jit.script
    def two() -> Tensor:
        return torch.scalar_tensor(2.0)

    @torch.jit.script
    def by_size(x: Tensor) -> Tensor:
        if x.shape[1] > 10:
            return x * 2
        return x

    @torch.jit.script
    def over_size(x: Tensor) -> Tensor:
        return x / x.shape[1]

    @torch.jit.script
    def literal(x: Tensor) -> Tensor:
        return torch.cat([x[:, :8], x[:, 8:] * 2], 1)

    @torch.jit.script
    def reshaped(x: Tensor) -> Tensor:
        return x.view(x.shape[0], 16, -1).mean(2)[:, :, None, None]

    @torch.jit.script
    def scaled(x: Tensor, by: int) -> Tensor:
        return x / by


class Net(nn.Module):
    """Two convolutions with a function between them; `act` is found in the globals, or held as an attribute."""

    def __init__(self, act: Callable[..., Any], readers: int = 16, *, held: bool = False) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(readers, 4, 1)
        self.name = next((k for k, v in globals().items() if v is act), "")
        self.act: Any = act if held else None
        self.width = 16

    def forward(self, x: Tensor) -> Tensor:
        act = self.act or globals()[self.name]
        x = self.conv(x)
        return self.head(act(x, self.width) if self.name == "scaled" else act(x))


def _pruned(model: nn.Module) -> fxprune.Result:
    return fxprune.prune(model.eval(), torch.randn(2, 3, 9, 9), pruning_ratio=0.5)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("act", "readers"), [(swish, 16), (hard, 16), (mixed, 32)])
def test_functions_that_do_nothing_with_sizes_let_channels_pass(act: Any, readers: int, held: bool) -> None:
    model = Net(act, readers, held=held)
    for _ in range(4):  # TorchScript specialises what it has run a few times
        result = _pruned(model)
        assert result.model.conv.weight.shape[0] == 8
        assert result.model.act is model.act is (act if held else None)
        assert globals()[model.name] is act


@pytest.mark.parametrize("act", [by_size, over_size, literal, reshaped])
@pytest.mark.parametrize("held", [False, True])
def test_functions_without_their_python_keep_the_channels_if_they_read_or_hold_sizes(
    act: Any, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(act, "_torchdynamo_inline")
    model = Net(act, held=held).eval()
    groups = fxprune.find_groups(fxprune.trace(model, torch.randn(2, 3, 9, 9)))
    assert not list(groups)
    told = str(groups.why("conv"))
    assert "TorchScript" in told
    assert "test_scripted_functions.py" in told


def shifted(x: Tensor, by: Tensor) -> Tensor:
    return F.leaky_relu(x + by.view(1, -1, 1, 1), 0.2)


def flattened(x: Tensor, by: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h * w).softmax(2).view(n, c, h, w)


def gated(x: Tensor, by: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([a * b.sigmoid(), a], 1)


def branching(x: Tensor, by: Tensor) -> Tensor:
    if x.shape[1] > 10:
        return x * 2
    return x


def numbered(x: Tensor, by: Tensor) -> Tensor:
    return x.view(x.shape[0], 16, -1).softmax(2).view(x.shape)


class Shifting(nn.Module):
    def __init__(self, act: Any) -> None:
        super().__init__()
        self.conv, self.head, self.act = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), act
        self.by = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x), self.by))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:1 module or parameter is not reached")  # `by`
@pytest.mark.parametrize(
    ("act", "size"), [(shifted, 16), (flattened, 16), (gated, 8), (branching, None), (numbered, None)]
)
def test_sizes_in_functions_of_the_process_are_followed_in_python(act: Any, size: int | None) -> None:
    """What holds them in Python holds them in TorchScript, with the line that does so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(act)
    x = torch.randn(2, 3, 9, 9)
    for function in (act, script):
        model = Shifting(function).eval()
        groups = fxprune.find_groups(fxprune.trace(model, x))
        assert [g.size for g in groups] == ([] if size is None else [size])
        assert model.act is function
        if size is None:
            assert "test_scripted_functions.py" in str(groups.why("conv"))
            continue
        result = fxprune.prune(model, x, 0.5)
        assert result.report.deviation == 0
        assert result.model.act is function
        for batch in (1, 2, 5):  # TorchScript specialises what it has run a few times
            assert result.model(torch.randn(batch, 3, 12, 9)).shape == (batch, 4, 10, 7)


@pytest.mark.parametrize("construct", [torch.autograd.Variable, torch.Tensor])
def test_constructors_of_tensors_let_channels_pass(construct: Any) -> None:
    class Old(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(construct(self.conv(x)) * 2)

    groups = fxprune.find_groups(fxprune.trace(Old(swish).eval(), torch.randn(2, 3, 9, 9)))
    assert [g.name for g in groups] == ["conv"]


def test_a_number_that_a_scripted_function_is_given_keeps_its_value() -> None:
    result = _pruned(Net(scaled))
    assert result.model.conv.weight.shape[0] == 8
    assert result.model.width == 16


def test_scripted_functions_inside_what_a_module_holds_are_shared_with_the_pruned_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)).eval()
    model.extra = {"acts": [swish, (hard, 1)]}
    made = _pruned(model).model.extra["acts"]
    assert made is not model.extra["acts"]
    assert made[0] is swish
    assert made[1][0] is hard


def test_other_threads_can_call_them_while_a_model_is_recorded() -> None:
    """The names of the model's module lead to what records calls as long as the run lasts, in all threads."""
    seen: queue.SimpleQueue[Any] = queue.SimpleQueue()  # a list would be put back after the run

    def call() -> None:
        try:
            seen.put((globals()["swish"](torch.ones(2)) * globals()["two"]()).tolist())
        except Exception as error:  # to be seen outside the thread
            seen.put(error)

    class Spawning(Net):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            return super().forward(x)

    assert _pruned(Spawning(swish)).model.conv.weight.shape[0] == 8
    found = [seen.get() for _ in range(seen.qsize())]
    assert found
    assert all(f == (2 * torch.ones(2).sigmoid()).tolist() for f in found)
