"""Ctrl-C stays Ctrl-C, whatever PyTorch makes of it."""

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from search_toys import SEARCHES, Judged, given_to, jitter, perceptron, widths_of
from torch import Tensor, nn

import fxprune
from fxprune.interrupts import interrupts_kept

ASSERT = '0 INTERNAL ASSERT FAILED at "torch/csrc/utils/python_arg_parser.cpp":458, please report a bug to PyTorch'


def swallowed(text: str = ASSERT) -> None:
    """What PyTorch does with Ctrl-C in its reading of arguments: the interruption is gone, an internal error comes."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    raise RuntimeError(text)


def carries_on(text: str) -> None:
    """The model's own code takes the interruption, and fails later."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    raise ValueError(text)


def covered() -> None:
    """What a context does that is left before it was entered."""
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        [].pop()


@pytest.mark.parametrize("press", [swallowed, covered, lambda: signal.raise_signal(signal.SIGINT)])
def test_it_comes_out(press: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_kept():
        press()
    with pytest.raises(KeyboardInterrupt), interrupts_kept(), interrupts_kept():
        press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="INTERNAL ASSERT"), interrupts_kept():
        raise RuntimeError(ASSERT)
    with pytest.raises(ValueError, match="of its own"), interrupts_kept():
        carries_on("of its own")
    with pytest.raises(KeyboardInterrupt), interrupts_kept():
        swallowed()
    with pytest.raises(RuntimeError, match="INTERNAL ASSERT"), interrupts_kept():
        raise RuntimeError(ASSERT)


def test_a_handler_of_ones_own_is_left_alone() -> None:
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        own = signal.getsignal(signal.SIGINT)
        with interrupts_kept():
            assert signal.getsignal(signal.SIGINT) is own
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]


def test_in_another_thread_than_the_main_one() -> None:
    seen: list[Any] = []

    def work() -> None:
        with interrupts_kept():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


class Net(nn.Module):
    """Ctrl-C is pressed in the given forward."""

    left = 10**9

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        Net.left -= 1
        if Net.left == 0:
            swallowed()
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize("forward", [1, 3, 5])
def test_the_data_is_not_blamed(forward: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, data = Net(), [torch.rand(32, 4) for _ in range(4)]
    small = fxprune.prune(model, data[0], 0.5)
    monkeypatch.setattr(Net, "left", forward)
    with pytest.raises(KeyboardInterrupt):
        fxprune.prune(model, data[0], 0.5, data=data)
    monkeypatch.setattr(Net, "left", forward)
    with pytest.raises(KeyboardInterrupt):
        fxprune.repair(model, small.model, small.plan, data)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_gives_the_best_so_far(name: str) -> None:
    model, groups, scores = perceptron(64, 40)
    left = iter([None] * 3)
    judge = Judged().after(lambda: next(left, swallowed) is None or swallowed())
    found = SEARCHES[name](model, groups, judge, **given_to(name, scores), tune=jitter, on_interrupt="return")
    assert not found.finished
    assert widths_of(found.model) == list(found.plan.kept_counts().values())


@pytest.mark.slow
def test_at_any_moment() -> None:
    """Without the context, one in ten comes out as an error of PyTorch's, or is blamed on the data."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(8)])
    x, data = torch.rand(2, 8, 8, 8), [torch.rand(8, 8, 8, 8) for _ in range(4)]
    start = time.perf_counter()
    fxprune.prune(model, x, 0.5, data=data)
    whole, chance = time.perf_counter() - start, random.Random(0)
    for _ in range(40):
        timer = threading.Timer(whole * chance.uniform(0, 0.7), signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012, it may come before the call
            timer.start()
            fxprune.prune(model, x, 0.5, data=data)
            timer.join()
