"""What a pruned model shares with the original: nothing."""

import functools
import weakref
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.rewriting.copying import copied

X = torch.randn(4, 6)
REGISTRY: dict[str, nn.Module] = {}
Step = namedtuple("Step", ["run", "times"])


class Net(nn.Module):
    """Its third layer is reached by way of an attribute `held`."""

    shared: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.held: Any = None

    def third(self) -> nn.Module:
        return self.c

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.relu(self.third()(self.b(torch.relu(self.a(x))))))


class Tuple(Net):
    def __init__(self) -> None:
        super().__init__()
        self.held = ((lambda: self.c, 1), 2)

    def third(self) -> nn.Module:
        return self.held[0][0]()


class Named(Net):
    def __init__(self) -> None:
        super().__init__()
        self.held = Step(lambda: self.c, 1)

    def third(self) -> nn.Module:
        return self.held.run()


class Cached(Net):
    def __init__(self) -> None:
        super().__init__()
        self.held = functools.lru_cache(maxsize=4)(lambda _: self.c)

    def third(self) -> nn.Module:
        return self.held(0)


class Weak(Net):
    def __init__(self) -> None:
        super().__init__()
        self.held = [weakref.ref(self)]

    def third(self) -> nn.Module:
        return self.held[0]().c


class Proxy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.held = {"me": weakref.proxy(self)}

    def third(self) -> nn.Module:
        return self.held["me"].c


class Method(Net):
    def __init__(self) -> None:
        super().__init__()
        self.table = {"c": self.c}
        self.held = self.table.get

    def third(self) -> nn.Module:
        return self.held("c")


class Global(Net):
    def __init__(self) -> None:
        super().__init__()
        REGISTRY["c"] = self.c

    def third(self) -> nn.Module:
        return REGISTRY["c"]


class OfClass(Net):
    def __init__(self) -> None:
        super().__init__()
        type(self).shared = (self.c,)

    def third(self) -> nn.Module:
        return self.shared[0]


@pytest.mark.parametrize("kind", [Net, Tuple, Named, Cached, Weak, Proxy, Method])
def test_a_pruned_model_computes_with_its_own_layers(kind: type[Net]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    with torch.no_grad():
        result = fxprune.prune(model, X, 0.5)
        assert result.plan.kept_counts() == {"a": 8, "b": 8, "c": 8}
        before = result.model(X)
        model.c.weight.mul_(5)
        assert torch.equal(result.model(X), before)
        result.model.c.weight.zero_()
        result.model.c.bias.zero_()
        assert not torch.equal(result.model(X), before)


def test_what_leads_to_nothing_of_the_model_stays_shared() -> None:
    model = Net()
    outer = [1]
    model.held = held = (functools.lru_cache(len), weakref.ref(nn.Module), outer.append, lambda: 1)
    assert copied(model).held is held


def test_a_cache_is_empty_in_a_copy_and_the_original_keeps_its_own() -> None:
    model = Cached()
    model.third()
    made = copied(model)
    assert made.held.cache_parameters() == model.held.cache_parameters()
    assert made.held.cache_info().currsize == 0
    assert model.held.cache_info().currsize == 1


@pytest.mark.parametrize("kind", [Global, OfClass])
def test_a_copy_that_reads_the_model_itself_is_refused(kind: type[Net]) -> None:
    with pytest.raises(fxprune.InputError, match=r"computes with tensors of the model itself in .*c\.bias, c\.weight"):
        fxprune.prune(kind().eval(), X, 0.5)


class Listed(nn.Module):
    """Takes parameters that its module registers from a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)
        self.scale = nn.Parameter(torch.rand(16))
        self.shifts = nn.ParameterDict({"a": torch.rand(16)})
        self.held = [(self.scale, self.shifts["a"])]

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.held[0]
        return self.b(torch.relu(self.a(x) * scale + shift))


def test_parameters_that_a_list_holds_as_well_say_so() -> None:
    groups = fxprune.find_groups(fxprune.trace(Listed(), X))
    assert not len(groups)
    why = str(groups.why("a"))
    assert "a parameter or buffer that the code takes from a list, an object, a class or a global" in why
    assert "take it from its module (self.weight)" in why
    assert "not used by the recorded forward" not in str(groups.why("scale"))
    with pytest.raises(fxprune.InputError, match="a parameter or buffer that the code takes from a list"):
        fxprune.prune(Listed(), X, 0.5)
