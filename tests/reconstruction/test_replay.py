"""What a model computes before its changing layers is answered from a tape, and nothing comes out otherwise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.module.dispatch import DispatchMode
from fxprune.reconstruction import replay
from fxprune.reconstruction.pair import Pair
from fxprune.reconstruction.replay import Tape, Tapes


class Counter(DispatchMode):
    """Counts the convolutions that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.convolutions += "convolution" in str(op)
        return op(*args, **(kwargs or {}))


class Chain(nn.Module):
    """Three convolutions, a shortcut around the second, and a step of its own before the third."""

    def __init__(self, step: Callable[[Any, Tensor], Tensor] = lambda _, x: x) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.register_buffer("seen", torch.zeros(1))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        first = self.layers[0](x).relu_()
        x = self.layers[1](first)
        x += first
        return self.layers[2](self.step(self, x.relu_()))


def shifted(net: Any, x: Tensor) -> Tensor:
    net.seen += 1
    return x * net.seen


def by_numpy(_: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(np.flip(x.numpy(), 0).copy())


def written_in_an_array(net: Any, x: Tensor) -> Tensor:
    array = net.seen.numpy()
    array += 1
    return x * net.seen


def a_view(_: Any, x: Tensor) -> Tensor:
    return x.transpose(2, 3)


def reshaped(_: Any, x: Tensor) -> Tensor:
    """By other ops where the strides are others."""
    return x.transpose(1, 2).reshape(len(x), -1, 5).reshape(x.shape)


def written_in_a_view(_: Any, x: Tensor) -> Tensor:
    y = x.transpose(2, 3)
    y.add_(1)
    return y.relu_()


def halves(_: Any, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    second.mul_(2)
    return torch.cat([second, first], 1)


def scaled_by_a_list(net: Any, x: Tensor) -> Tensor:
    return x * (net.seen + 2).tolist()[0]


def scaled_by_an_array(net: Any, x: Tensor) -> Tensor:
    return x * float(net.seen.detach().numpy()[0] + 2)


def by_a_sparse_matrix(_: Any, x: Tensor) -> Tensor:
    return torch.sparse.mm(torch.eye(x.shape[0]).to_sparse(), x.flatten(1)).view(x.shape)


def made_sparse(_: Any, x: Tensor) -> Tensor:
    return x.to_sparse().to_dense()


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "WORTH", 0)
    monkeypatch.setattr(replay, "SMALL", 8)


@torch.no_grad()
def run(tape: Tape, net: Chain, x: Tensor, pending: int) -> tuple[Tensor, int]:
    """The output with the tape, and the convolutions that were computed, where later layers are pending."""
    names = {id(t) for t in (*net.parameters(), *net.buffers())}
    later = {id(t) for layer in net.layers[pending:] for t in layer.parameters()}
    with Counter() as counter:
        found: Tensor = tape.run(lambda inputs: net(*inputs[0]), ((x,), {}), names, later)
    return found, counter.convolutions


@torch.no_grad()
def expected(net: Chain, x: Tensor) -> Tensor:
    result: Tensor = net(x.clone())
    return result


def test_what_comes_before_the_changing_layer_is_computed_once() -> None:
    net, x, tape = Chain(), torch.randn(2, 4, 5, 5), Tape()
    for pending, computed in ((0, 3), (1, 3), (1, 2), (2, 2), (2, 1), (2, 1)):
        found, convolutions = run(tape, net, x, pending)
        assert torch.equal(found, expected(net, x))
        assert convolutions == computed
        with torch.no_grad():
            for layer in net.layers[pending:]:
                layer.weight.mul_(1.5)


def test_only_what_the_code_still_holds_takes_memory() -> None:
    net, x, tape = Chain(), torch.randn(2, 4, 5, 5), Tape()
    held = []
    for pending in (1, 2):
        run(tape, net, x, pending)
        held.append(tape.bytes())
    assert held == [x.nbytes, 2 * x.nbytes]  # the first layer's output; then that and the sum, not the second's
    tape.clear()
    assert tape.bytes() == 0


def test_what_the_code_has_let_go_of_since_the_last_cut_takes_no_memory() -> None:
    """The second layer's result is held at the second cut, and at the third nobody needs it."""

    class Straight(Chain):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    net, x, tape = Straight(), torch.randn(2, 4, 5, 5), Tape()
    for pending in (1, 2, 2):
        run(tape, net, x, pending)
        assert tape.bytes() == x.nbytes


@pytest.mark.parametrize("step", [a_view, reshaped, written_in_a_view, halves, scaled_by_a_list, scaled_by_an_array])
def test_views_and_small_tensors_that_are_read_are_answered(step: Callable[[Any, Tensor], Tensor]) -> None:
    net, x, tape = Chain(step), torch.randn(2, 4, 5, 5), Tape()
    for computed in (3, 1, 1):
        found, convolutions = run(tape, net, x, 2)
        assert torch.equal(found, expected(net, x))
        assert convolutions == computed


def test_writes_to_a_view_of_what_is_held_are_seen() -> None:
    class Writing(Chain):
        def forward(self, x: Tensor) -> Tensor:
            first = self.layers[0](x)
            view = first.transpose(2, 3)
            y = self.layers[1](first)
            view.mul_(2)
            return self.layers[2](y) + view

    net, x, tape = Writing(), torch.randn(2, 4, 5, 5), Tape()
    for _ in range(4):
        assert torch.equal(run(tape, net, x, 1)[0], expected(net, x))


def test_a_small_tensor_that_may_change_is_not_taken_from_the_tape() -> None:
    class Scaled(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](x)) * self.layers[2].bias.tolist()[0]

    net, x, tape = Scaled(), torch.randn(2, 4, 5, 5), Tape()
    for _ in range(3):
        assert torch.equal(run(tape, net, x, 2)[0], expected(net, x))
        with torch.no_grad():
            net.layers[2].bias += 1


@pytest.mark.parametrize("step", [shifted, by_numpy, written_in_an_array, by_a_sparse_matrix, made_sparse])
def test_code_that_cannot_be_answered_is_computed_in_full(step: Callable[[Any, Tensor], Tensor]) -> None:
    net, x, tape = Chain(step), torch.randn(2, 4, 5, 5), Tape()
    for times in (1, 2, 3):
        found, convolutions = run(tape, net, x, 2)
        net.seen.fill_(times - 1)
        assert torch.equal(found, expected(net, x))
        assert convolutions == 3


def test_a_model_that_writes_to_its_inputs() -> None:
    class Writing(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return super().forward(x) + x.mean()

    net, x, tape = Writing(), torch.randn(2, 4, 5, 5), Tape()
    for _ in range(3):
        assert torch.equal(run(tape, net, x, 2)[0], expected(net, x))


def test_a_model_that_calls_other_ops_each_time_is_repeated_in_full() -> None:
    calls = []

    def step(_: Any, x: Tensor) -> Tensor:
        calls.append(1)
        return x.sigmoid() if len(calls) % 2 else x.tanh()

    net, x, tape = Chain(step), torch.randn(2, 4, 5, 5), Tape()
    run(tape, net, x, 2)
    found, convolutions = run(tape, net, x, 2)  # tanh is refused, and the repetition calls sigmoid
    calls.clear()
    assert torch.equal(found, expected(net, x))
    assert convolutions == 3


def test_what_a_later_call_has_overwritten_is_computed_anew() -> None:
    class Overwriting(Chain):
        def forward(self, x: Tensor) -> Tensor:
            first = self.layers[0](x)
            y = self.layers[1](first)
            first.zero_()
            return self.layers[2](y) + first

    net, x, tape = Overwriting(), torch.randn(2, 4, 5, 5), Tape()
    for _ in range(3):
        found, convolutions = run(tape, net, x, 1)
        assert torch.equal(found, expected(net, x))
        assert convolutions == 3


@pytest.mark.parametrize("of", [lambda x: x, lambda x: x.transpose(2, 3)])
@pytest.mark.parametrize("short", [1, 3])
def test_a_tensor_without_numbers_is_not_computed_with(of: Callable[[Tensor], Tensor], short: int) -> None:
    class Remembering(Chain):
        """Holds its first output no longer than a call in the first runs, and to the end in the others."""

        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            first = of(self.layers[0](x))
            y = self.layers[1](first)
            if self.runs <= short:
                del first
                return self.layers[2](y)
            return self.layers[2](y) + 3 * first

    net, x, tape = Remembering(), torch.randn(2, 4, 5, 5), Tape()
    runs = [run(tape, net, x, 2)[0] for _ in range(short + 2)]  # in the last two the first output counts
    net.runs = 0
    assert all(torch.equal(found, expected(net, x)) for found in runs)


@torch.no_grad()
def test_tapes_hold_no_more_than_they_may() -> None:
    net, x = Chain(), torch.randn(2, 4, 5, 5)
    names, later = {id(t) for t in net.parameters()}, {id(t) for t in net.layers[2].parameters()}
    for memory, computed in ((0, 3), (10**6, 1)):
        tapes = Tapes(memory)
        for _ in range(2):
            with Counter() as counter:
                found = tapes.run("key", lambda inputs: net(*inputs[0]), ((x,), {}), names, later)
            assert torch.equal(found, expected(net, x))
        assert counter.convolutions == computed


def test_a_repair_from_tapes_is_the_same_and_computes_far_less(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [f() for _ in range(8) for f in (lambda: nn.Conv2d(6, 6, 3, padding=1), nn.ReLU)]
    net = nn.Sequential(*layers, nn.Conv2d(6, 2, 1)).eval()
    data = [torch.randn(4, 6, 6, 6) for _ in range(3)]
    groups = fxprune.find_groups(fxprune.trace(net, data[0]))
    plan = groups.plan({g.name: [0, 1, 3, 5] for g in groups})
    found, computed = [], []
    for tapes in (True, False):
        if not tapes:
            monkeypatch.setattr(Pair, "_replay", lambda *_: None)
        small = fxprune.rewrite(net, plan)
        with Counter() as counter:
            fxprune.reconstruct(net, small, plan, data)
        found.append(small.state_dict())
        computed.append(counter.convolutions)
    assert all(torch.equal(t, found[1][name]) for name, t in found[0].items())
    # To fit layer i of 8, a batch computes layers i - 1 and i, in place of all up to i.
    assert computed[1] - computed[0] == 3 * (sum(range(2, 10)) - 8 * 2)
