"""What optimizers remember, after a cut: of other people's kinds, which keep weights, preconditioners and caches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError
from tests.training.test_gradual import X, net, train

pytestmark = pytest.mark.filterwarnings("ignore:the allowed widths leave")  # the nets are small


def left(wanted: Tensor, model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(X) - wanted).norm() / wanted.norm())


def kept_optimizer(kind: str) -> Callable[..., torch.optim.Optimizer]:
    optim = pytest.importorskip("timm.optim")
    if kind == "MADGRAD":
        return lambda p: optim.MADGRAD(p, lr=1e-12, momentum=0.9, eps=1e-12)  # type: ignore[no-any-return]
    return lambda p: optim.Lookahead(torch.optim.SGD(p, 1e-9), k=2)  # type: ignore[no-any-return]


class Around(torch.optim.Optimizer):
    """As accelerate's, Lightning's and sharpness-aware ones: it shows what is inside as its own."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state

    def step(self, closure: Any = None) -> Any:
        self.inner.step()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["MADGRAD", "Lookahead"])
def test_weights_that_an_optimizer_keeps_are_repaired_as_the_model_is(kind: str, wrapped: bool) -> None:
    """It goes on from these; that they were the cut ones only has undone the repair within some steps."""
    torch.manual_seed(1)
    model = net()
    with torch.no_grad():
        wanted = model(X)
    optimizer = kept_optimizer(kind)(model.parameters())
    optimizer = Around(optimizer) if wrapped else optimizer
    train(model, optimizer)
    fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, pruning_ratio=0.5, data=[X]).step(0)
    repaired = left(wanted, model)
    train(model, optimizer, 20)  # at a rate of nothing
    assert left(wanted, model) == pytest.approx(repaired, rel=0.02)


class Preconditioned(torch.optim.Optimizer):
    """As Shampoo: a matrix for each dim of a parameter, which a square weight has the shape of."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                for dim, n in enumerate(p.shape):
                    self.state[p].setdefault(f"side_{dim}", torch.eye(n))


def test_matrices_of_the_sides_of_a_square_weight_do_not_lie_like_it() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)), X[:, 0, 0]
    optimizer = Preconditioned(model.parameters())
    optimizer.step()
    pruner = fxprune.Gradual(model, x, epochs=[0], optimizer=optimizer, pruning_ratio=0.5)
    with pytest.warns(UserWarning, match="Preconditioned begins anew for 5 parameters"):
        pruner.step(0)
    assert set(optimizer.state) == {model[4].bias}  # which was not cut


class Alone(torch.optim.SGD):
    """Of the user's own; biases are in another optimizer."""


def test_momentum_of_weights_alone_is_cut_along() -> None:
    """No kernel has dims that all differ."""
    model = net()
    optimizer = Alone([p for p in model.parameters() if p.dim() > 1], 0.01, momentum=0.9)
    train(model, optimizer)
    optimizer.state["step"] = 3  # of all parameters
    optimizer.state["all"]["seen"] = torch.ones(2)
    fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, macs=0.5).step(0)
    own = [p for p in model.parameters() if p.dim() > 1]
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in own)
    assert optimizer.state["step"] == 3


class Noting(torch.optim.SGD):
    """As Kron: what it needs for a parameter is made where it is not known."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, 0.01)
        self.noted: dict[Any, str] = {}

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            self.noted.setdefault(p, str(tuple(p.shape)))
        return super().step(closure)


def test_what_is_noted_of_old_parameters_is_forgotten() -> None:
    model = net()
    optimizer = Noting(model.parameters())
    pruner = fxprune.Gradual(model, X, epochs=[0, 1], optimizer=optimizer, macs=0.5)
    for epoch in (0, 1):
        train(model, optimizer)
        pruner.step(epoch)
    train(model, optimizer)
    assert {p: str(tuple(p.shape)) for p in model.parameters()} == optimizer.noted


class Quantised(Tensor):
    """Numbers that can be read, but not picked, as torchao's 8-bit states."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.index_select:
            raise NotImplementedError("index_select")
        return super().__torch_function__(func, types, args, kwargs or {})


class OwnMomentum(torch.optim.Optimizer):
    """Its momentum lies in a dict of its own."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.momentum: dict[Any, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            p -= 0.1 * self.momentum.setdefault(p, torch.zeros_like(p)).mul_(0.9).add_(p.grad)


def test_momentum_in_a_dict_of_the_optimizers_own_is_cut_along() -> None:
    model = net()
    optimizer = OwnMomentum(model.parameters(), 0.1)
    train(model, optimizer)
    old = {name: optimizer.momentum[p] for name, p in model.named_parameters()}
    pruner = fxprune.Gradual(model, X[:1], [0], optimizer=optimizer, macs=0.5)
    pruner.step(0)
    assert pruner.plan is not None
    wanted = fxprune.cut_state(old, pruner.plan)
    found = {name: optimizer.momentum[p] for name, p in model.named_parameters()}
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert len(optimizer.momentum) == len(found)
    optimizer.momentum = {p: [torch.zeros(3)] for p in model.parameters()}  # type: ignore[misc]
    with pytest.warns(UserWarning, match="OwnMomentum begins anew"):
        fxprune.Gradual(model, X[:1], [0], optimizer=optimizer, macs=0.5).step(0)


def test_asgds_average_follows_a_repair() -> None:
    model = net()
    optimizer = torch.optim.ASGD(model.parameters(), 1e-4, t0=1)
    train(model, optimizer)
    fxprune.Gradual(model, X[:1], [0], optimizer=optimizer, macs=0.5, data=[X]).step(0)
    far = [(optimizer.state[p]["ax"] - p).abs().max() for p in model.parameters()]
    assert max(far) < 1e-2


def test_state_of_a_class_of_its_own_begins_anew() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for p in model.parameters():
        optimizer.state[p]["codes"] = torch.zeros_like(p).as_subclass(Quantised)
    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, macs=0.5)
    with pytest.warns(UserWarning, match="SGD begins anew for 5 parameters"):
        pruner.step(0)
    train(model, optimizer)


class Shared(torch.optim.SGD):
    """As ZeroRedundancyOptimizer: which process updates which parameter is noted once."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, 0.01)
        self.of_ranks = {0: [{"params": list(self.param_groups[0]["params"])}]}


def test_an_optimizer_that_keeps_parameters_elsewhere_is_refused() -> None:
    """It would go on with the old ones, without a word."""
    model = net()
    optimizer, before = Shared(model.parameters()), list(model.parameters())
    pruner = fxprune.Gradual(model, X, epochs=[0], optimizer=optimizer, macs=0.5)
    with pytest.raises(InputError, match=r"keeps parameters in a place .* in Shared.of_ranks; seen: 0.weight"):
        pruner.step(0)
    for now in (model.parameters(), optimizer.param_groups[0]["params"]):
        assert all(a is b for a, b in zip(now, before, strict=True))
