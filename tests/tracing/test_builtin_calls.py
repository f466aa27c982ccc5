"""Numbers that go through Python's own functions on their way to a call."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from oracle import ROUNDING, check, deviation
from torch import Tensor, nn

import fxprune
from fxprune.tracing import builtin_calls

X = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Cut = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, cut: Cut) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.cut = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 4, 1), cut
        self.gain = nn.Parameter(torch.randn(24))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.cut(self, self.a(x).relu()))  # type: ignore[no-any-return]


def halves(m: Any, x: Tensor) -> Tensor:
    h = int(x.size(1) / 2)
    return torch.cat([x[:, :h].sigmoid(), x[:, h:]], 1)


def split(m: Any, x: Tensor) -> Tensor:
    a, b = torch.split(x, int(x.size(1) / 2), dim=1)
    return torch.cat([a.sigmoid(), b], 1)


def quarter(m: Any, x: Tensor) -> Tensor:
    n, y = int(x.shape[1] * 0.25), x.clone()
    y[:, :n] = y[:, :n] * 2
    return y


def rounded(m: Any, x: Tensor) -> Tensor:
    a, b = x.split([round(x.shape[1] / 3), math.ceil(x.shape[1] / 1.5)], 1)
    return torch.cat([a.tanh(), b], 1)


def plain(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = (int(n) for n in x.shape)
    return x.view(b, c, h * w).softmax(-1).view(b, c, h, w)


def mapped(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = map(int, x.size())
    return x.reshape(b * c, h * w).tanh().reshape(b, c, h, w)


def length(m: Any, x: Tensor) -> Tensor:
    return x * m.gain.view(1, len(m.gain), 1, 1)


def product(m: Any, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], int(np.prod(x.shape[1:]))).view_as(x).tanh()


def asked(m: Any, x: Tensor) -> Tensor:
    n = x.shape[1]
    return x.view(len(x), int(n) if isinstance(n, (int, float)) else -1, 16).view(x.shape)


def stepped(m: Any, x: Tensor) -> Tensor:
    third = x.shape[1] // 3
    parts = [x[:, i : i + third].sigmoid() for i in range(0, x.shape[1], third)]
    return torch.cat([part - part.mean((2, 3), keepdim=True) for part in parts], 1)


def backwards(m: Any, x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    first, second = (x[:, i - half : i] for i in range(x.shape[1], 0, -half))
    return torch.cat([first.tanh(), second], 1)


def begun(m: Any, x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    (start,) = range(half, half + 1)
    return torch.cat([x[:, :start].sigmoid(), x[:, start:]], 1)


FOLLOWED = [halves, split, quarter, rounded, plain, mapped, length, product, asked, stepped, backwards, begun]


@pytest.mark.parametrize("cut", FOLLOWED, ids=lambda f: f.__name__)
def test_numbers_keep_their_sources(cut: Cut) -> None:
    plan = check(lambda: Net(cut).eval(), lambda batch: (torch.cat([X] * batch),), 0.5)
    assert fxprune.rewrite(Net(cut), plan).b.weight.shape == (4, 12, 1, 1)
    assert deviation(Net(cut).eval(), plan, (X,)) <= ROUNDING
    assert not {"int", "float", "len", "range"} & vars(importlib.import_module(__name__)).keys()


def eights(m: Any, x: Tensor) -> Tensor:
    """As many parts as the width has eights, the first of them read from where the width says."""
    return torch.cat([x[:, i - x.shape[1] : i - x.shape[1] + 8] for i in range(x.shape[1], 2 * x.shape[1], 8)], 1)


def test_a_range_must_have_as_many_numbers() -> None:
    with pytest.raises(fxprune.InputError, match="the model's code"):
        fxprune.prune(Net(eights).eval(), X, pruning_ratio=0.5, only=["a"])


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        return (q @ k.transpose(1, 2) * float(q.shape[2]) ** -0.5).softmax(-1) @ self.v(x)  # type: ignore[no-any-return]


def test_a_float_keeps_its_source() -> None:
    model, x = Scaled().eval(), torch.randn(2, 3, 5)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"q": range(0, 16, 2)})
    assert {s.factor for s in plan.scales} == {0.5**0.5}
    assert fxprune.verify(model, plan, x) <= ROUNDING


OTHERWISE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = self.a(x)
        assert type(1) is int
        n = torch.zeros(3, dtype=int).sum() + torch.zeros(3).to(float).sum()
        return self.b(y.reshape(len(y), int(y.shape[1]))) + n
"""


def module_of(source: str, folder: Path) -> ModuleType:
    path = folder / "a_module_of_its_own.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_code_that_does_more_with_a_kind_than_to_call_it_keeps_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(OTHERWISE, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    assert builtin_calls.following(module).keys() == {"len", "range"}
    groups = fxprune.find_groups(fxprune.trace(module.Net().eval(), torch.zeros(2, 5)))
    assert not len(groups)
    assert "holds this width: 8" in str(groups.why("a"))


HELPER = """
import math

def attend(q, k, v):
    return (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).softmax(-1) @ v

def halves(x):
    return x.view(len(x), -1, 2, int(x.size(-1) / 2)).mean(2)
"""
USER = """
import {0}
from {0} import halves
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(5, 12), nn.Linear(6, 4)

    def forward(self, x):
        return self.o(halves({0}.attend(self.q(x), self.k(x), self.v(x))))
"""


def test_numbers_keep_their_sources_in_functions_of_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helper_of_the_test.py").write_text(HELPER)
    (tmp_path / "user_of_the_test.py").write_text(USER.format("helper_of_the_test"))
    monkeypatch.syspath_prepend(tmp_path)
    model, x = importlib.import_module("user_of_the_test").Net().eval(), torch.randn(2, 3, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: g.size for g in groups} == {"q": 16, "v": 6}
    plan = groups.plan({"q": range(0, 16, 2), "v": [1, 4, 5]})
    assert fxprune.verify(model, plan, x) <= ROUNDING
    helper = importlib.import_module("helper_of_the_test")
    assert helper.math is math
    assert not {"int", "float", "len", "range"} & vars(helper).keys()


def test_code_that_is_not_to_be_seen_keeps_pythons() -> None:
    assert builtin_calls.following(ModuleType("nowhere")).keys() == {"len"}


def test_names_of_the_modules_own_stay() -> None:
    module = ModuleType("own")
    vars(module)["len"] = abs
    assert not builtin_calls.following(module)


def test_kinds_are_as_pythons_to_all_other_numbers() -> None:
    kind = builtin_calls._Int
    assert isinstance(3, kind)
    assert not isinstance(3.0, kind)
    assert kind("11", 2) == 3  # type: ignore[call-arg]
    assert kind(2.5) == 2  # type: ignore[call-arg]


def test_a_module_that_was_loaded_again_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook does after its file was edited."""
    file = tmp_path / "edited_module.py"
    file.write_text("def f(x):\n    return int(x)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("edited_module")
    assert "int" in builtin_calls.following(module)
    file.write_text("def f(x):\n    return x.sum(dtype=int)  # more than to call it\n")
    importlib.reload(module)
    assert "int" not in builtin_calls.following(module)
