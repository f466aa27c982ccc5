"""Widths that stand as literals in a module's code: the module gets a subclass of its class with other literals."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import python
from torch import Tensor, nn

import fxprune
from fxprune.module.literal_classes import set_literals
from fxprune.module.literals import has_literal

WIDTH, HEADS, FEATURES = 32, 4, 24
width = 32


class Pad(nn.Module):
    """An option-A shortcut: every second pixel, and new channels of zeros on both sides."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.short = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1), Pad()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))) + self.short(x))


class Net(nn.Module):
    """A view with a literal size behind an option-A block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), Shortcut()
        self.last, self.fc = nn.Conv2d(16, 24, 1), nn.Linear(24 * 16, 2)
        self.note = "kept"

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.block(F.relu(self.stem(x))))
        return self.fc(F.dropout(x.view(-1, 24 * 16), 0.5, training=False))


class Halves(nn.Module):
    """A slice with literal bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 12), nn.Linear(5, 3), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y[:, :5]) + self.c(y[:, 5:12])


class Flag(nn.Module):
    """Its forward depends on its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.a(x).view(-1, 32), 0.5, self.training))


class Optional(Flag):
    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        return self.b(self.a(x).view(-1, 32))


class Branch(Flag):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) if x.shape[1] == 3 and x.sum() is not None else x
        return self.b(x.view(-1, 32))


class Inherited(Flag):
    """The number stands in a method of the parent's, called by way of `super`."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(x * scale)


class ByAFunction(Flag):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(flattened(self.a(x)))


def flattened(x: Tensor) -> Tensor:
    return x.view(-1, 32)


class ByAName(Flag):
    def forward(self, x: Tensor, width: int = 32) -> Tensor:
        return self.b(self.a(x).view(-1, width))


class Unused(Flag):
    """Has a layer that its forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, 32))


def plan_of(model: nn.Module, x: Tensor, ratio: float = 0.5, **options: Any) -> fxprune.Plan:
    groups = fxprune.find_groups(fxprune.trace(model, x), **options)
    return fxprune.planners.Uniform(ratio)(groups, fxprune.scorers.Random(3)(model, groups))


X = torch.rand(2, 3, 8, 8)


def test_views_and_pads_with_literal_sizes_are_pruned() -> None:
    model = Net()
    plan = plan_of(model, X)
    assert plan.kept_counts() == {"stem": 4, "block.a": 8, "block.b": 4, "last": 12}
    small = fxprune.rewrite(model, plan)
    assert isinstance(small, Net)
    assert isinstance(small.block.short, Pad)
    assert type(small.block) is Shortcut
    before, after = sorted(plan.attributes["block.short"])
    assert before.startswith("forward[2:")
    assert after.startswith("forward[2:")
    assert sum(plan.attributes["block.short"].values()) == 4
    assert list(plan.attributes[""].values()) == [12 * 16]
    assert fxprune.verify(model, plan, X) < 1e-9
    assert small.note == "kept"
    assert type(model) is Net


def test_the_rewritten_model_is_an_ordinary_one() -> None:
    model = Net()
    plan = fxprune.Plan.from_json(plan_of(model, X).to_json())
    small = fxprune.rewrite(model, plan)
    assert list(small.state_dict()) == list(model.state_dict())
    fresh = fxprune.rewrite(Net(), plan)
    assert type(fresh) is type(small)
    fresh.load_state_dict(small.state_dict())
    for other in (fresh, copy.deepcopy(small), torch.export.export(small.eval(), (X,)).module()):
        assert torch.equal(other(X), small(X))
    assert small(torch.rand(5, 3, 8, 8)).shape == (5, 2)
    assert small.train().block.short.training
    again = plan_of(small, X)
    assert fxprune.verify(small, again, X) < 1e-9
    assert again.kept_counts()["last"] == 6


def test_a_model_that_was_pruned_twice_is_pickled_with_all_its_numbers() -> None:
    small = fxprune.rewrite(Net(), plan_of(Net(), X))
    smaller = fxprune.rewrite(small, plan_of(small, X))
    buffer = io.BytesIO()
    torch.save(smaller, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded(X), smaller(X))
    assert type(loaded).__name__ == "Net"


def test_a_pickled_model_needs_nothing_but_its_own_code(tmp_path: Path) -> None:
    """Loaded where this project cannot be imported, and pickled there again."""
    small = fxprune.rewrite(Net(), plan_of(Net(), X)).eval()
    own = Path(__file__).read_text(encoding="utf-8").partition("class Flag")[0]
    own = "".join(line for line in own.splitlines(keepends=True) if "fxprune" not in line and "processes" not in line)
    file = tmp_path.joinpath(*__name__.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(own, encoding="utf-8")
    torch.save((small, X, small(X)), tmp_path / "small.pt")
    code = """
import copy, io, sys, torch
sys.path[:] = [p for p in sys.path if "site-packages" in p or "lib/python" in p] + [sys.argv[1]]
sys.modules["fxprune"] = None
small, x, y = torch.load(sys.argv[1] + "/small.pt", weights_only=False)
for _ in range(2):
    assert torch.allclose(small(x), y, atol=1e-6)  # another process may have other threads, which sum in other orders
    buffer = io.BytesIO()
    torch.save(copy.deepcopy(small), buffer)
    buffer.seek(0)
    small = torch.load(buffer, weights_only=False)
print(sorted(m for m in sys.modules if m.startswith("fxprune.")))
"""
    done = python(code, tmp_path, folder=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]


def test_bounds_of_slices_follow() -> None:
    model, x = Halves(), torch.rand(3, 4)
    plan = plan_of(model, x, 0.4)
    small = fxprune.rewrite(model, plan)
    assert sorted(plan.attributes[""].values()) == [3, 3]
    assert (small.b.in_features, small.c.in_features) == (3, 5)
    assert fxprune.verify(model, plan, x) < 1e-9


def test_code_can_be_left_as_it_is() -> None:
    model = Net()
    groups = fxprune.find_groups(fxprune.trace(model, X), rewrite_code=False)
    assert [g.name for g in groups] == ["stem", "block.a"]
    plan = groups.plan({"stem": [0, 3, 5], "block.a": [1, 2]})
    assert not plan.attributes
    assert fxprune.verify(model, plan, X) < 1e-9
    assert any("code is left as it is" in f.reason for f in groups.fixed)


@pytest.mark.parametrize("kind", [Flag, Optional, Branch, Unused])
def test_any_code_of_a_modules_methods_follows(kind: type[Flag]) -> None:
    model, x = kind().eval(), torch.rand(1, 3, 2, 2)
    plan = plan_of(model, x)
    assert plan.kept_counts() == {"a": 4}
    assert fxprune.verify(model, plan, x) < 1e-9
    small = fxprune.rewrite(model, plan)
    assert small.train()(torch.rand(3, 3, 2, 2)).shape == (3, 2)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ByAFunction, "the number stands in no method that is written in the module's class"),
        (Inherited, "the number stands in no method that is written in the module's class"),
        (ByAName, "no such number stands at its place there"),
    ],
)
def test_what_cannot_be_replaced_is_fixed_with_the_reason(kind: type[Flag], reason: str) -> None:
    model, x = kind(), torch.rand(1, 3, 2, 2)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert not len(groups)
    assert any(reason in f.reason and "view" in f.where for f in groups.fixed)


def test_finding_literals_leaves_no_trace() -> None:
    model = Net().train()
    before = copy.copy(model.__dict__)
    plan_of(model, X)
    assert model.__dict__ == before
    assert [type(m) for m in (model, model.block.short)] == [Net, Pad]


def test_a_literal_that_is_not_there_is_refused() -> None:
    plan = plan_of(Net(), X)
    other = Net()
    other.block.short = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(fxprune.PlanError, match=r"no width forward\[2:\d+\]=4 in 'block.short'"):
        fxprune.rewrite(other, plan)
    assert not has_literal(Net(), "forward[1:1]=400")


def test_instances_of_one_class_have_numbers_of_their_own() -> None:
    first, second, third = Pad(), Pad(), Pad()
    name = next(iter(plan_of(Net(), X).attributes["block.short"]))
    set_literals(first, {name: 1})
    set_literals(second, {name: 2})
    x = torch.rand(1, 8, 4, 4)
    assert [m(x).shape[1] for m in (first, second, third)] == [13, 14, 16]


def test_a_model_and_its_parts_change_in_place() -> None:
    for model, x in ((Net(), X), (nn.Sequential(Shortcut(), nn.Conv2d(16, 2, 1)), torch.rand(2, 8, 8, 8))):
        plan = plan_of(model, x)
        expected = fxprune.rewrite(model, plan)(x)
        assert fxprune.rewrite(model, plan, inplace=True) is model
        assert torch.equal(model(x), expected)


class Decorated(nn.Module):
    """Its literals stand in a static method, a method of the class and an inherited one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.l = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Linear(64, 5)

    @staticmethod
    def flat(t: Tensor) -> Tensor:
        return t.reshape(-1, 64)

    @classmethod
    def image(cls, t: Tensor) -> Tensor:
        return t.view(-1, 8, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(self.flat(self.b(self.image(self.a(x).relu())).relu()))


class DecoratedAbove(Decorated): ...


@pytest.mark.parametrize("kind", [Decorated, DecoratedAbove])
def test_static_and_class_methods_stay_what_they_are(kind: type[Decorated]) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.rand(2, 3, 4, 4)
    result = fxprune.prune(model, x, 0.5)
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-9
    assert result.model.b.weight.shape == (2, 4, 1, 1)
    assert result.model(torch.rand(5, 3, 4, 4)).shape == (5, 5)
    again = pickle.loads(pickle.dumps(result.model))
    assert torch.equal(again(x), result.model(x))


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def again(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += step if self.calls < 0 else 1
        return function(self, *args, **kwargs)

    if function is None:
        step = 1  # else its cell stays empty
    return again


def elsewhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that keeps the function where nobody would look for it."""
    held = [function]

    @functools.wraps(function)
    def again(*args: Any) -> Any:
        return held[0](*args)

    return again


class InsideDecorators(nn.Module):
    """As models that are never trained have it, and those of old mixed precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.l, self.calls = nn.Conv2d(3, 16, 3), nn.Linear(16, 4), 0

    def mean(self, x: Tensor, dim: int) -> Tensor:
        return x.mean(dim)

    @torch.no_grad()
    @counted
    def forward(self, x: Tensor, *, dim: int = 2) -> Tensor:
        return self.l(self.mean(self.a(x).view(x.size(0), 16, -1), dim))  # type: ignore[no-any-return]


class OutOfReach(InsideDecorators):
    @elsewhere
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.l(self.mean(self.a(x).view(x.size(0), 16, -1), 2))  # type: ignore[no-any-return]


def test_a_method_stays_inside_its_decorators() -> None:
    model, x = InsideDecorators().eval(), torch.rand(2, 3, 8, 8)
    small = fxprune.prune(model, x, 0.5).model
    assert (model.calls, small.a.out_channels) == (0, 8)
    for again in (small, pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
        before = again.calls
        assert not again(x).requires_grad
        assert again.calls == before + 1
        torch.testing.assert_close(again(x), small(x))
    assert InsideDecorators().forward.__wrapped__.__wrapped__.__code__.co_name == "forward"
    assert fxprune.prune(small, x, 0.5).model(x).shape == (2, 4)


def test_a_function_that_cannot_be_put_back_is_left_as_it_is() -> None:
    groups = fxprune.find_groups(fxprune.trace(OutOfReach().eval(), torch.rand(2, 3, 8, 8)))
    assert not list(groups)
    assert "the number stands in no method" in str(groups.why("a.bias"))


class Constants(nn.Module):
    """Attention whose widths are constants on top of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv = nn.Conv2d(3, WIDTH, 8, 8), nn.Conv2d(WIDTH, 3 * WIDTH, 1)
        self.o, self.head = nn.Conv2d(WIDTH, FEATURES, 1), nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        batch = x.shape[0]
        q, k, v = (t.reshape(batch, HEADS, WIDTH // HEADS, -1) for t in self.qkv(x).flatten(2).split(WIDTH, 1))
        y = (v @ (q.mT @ k).softmax(-1).mT).reshape(batch, WIDTH, *x.shape[2:])
        return self.head(self.o(y + x).mean((2, 3)).reshape(-1, FEATURES))  # type: ignore[no-any-return]


def test_constants_of_the_file_count_as_literals() -> None:
    model, x = Constants().eval(), torch.randn(2, 3, 16, 16)
    result = fxprune.prune(model, x, 0.5)
    small: Any = result.model
    assert (small.a.out_channels, small.o.out_channels, WIDTH, FEATURES) == (16, 12, 32, 24)
    assert small(torch.randn(5, 3, 24, 24)).shape == (5, 10)
    torch.testing.assert_close(pickle.loads(pickle.dumps(small))(x), small(x))
    assert model(x).shape == (2, 10)
    again = fxprune.prune(small, x, 0.5).model
    assert again(x).shape == (2, 10)


class Variable(Constants):
    """A name in small letters may be assigned anew, and a local one hides that of the file."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.o(self.a(x).view(-1, width, 4)[..., None]).mean((2, 3)))  # type: ignore[no-any-return]


class Hidden(Constants):
    def forward(self, x: Tensor) -> Tensor:
        WIDTH = width
        return self.head(self.o(self.a(x).view(-1, WIDTH, 4)[..., None]).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Variable, Hidden])
def test_other_names_are_no_literals(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), torch.randn(2, 3, 16, 16)
    assert "no such number stands at its place there" in str(fxprune.find_groups(fxprune.trace(model, x)).why("a"))


class Variables(nn.Module):
    """Widths that variables hold: an expression, two at once, one that a function inside reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Linear(12 * 16, 10)
        self.pool, self.last = nn.AdaptiveAvgPool2d(4), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        channels = 8
        more, side = 12, 4
        flat: int = more * side * side
        y = self.b(self.a(x).view(-1, channels, *x.shape[2:]))

        def pooled() -> Tensor:
            return self.pool(y).reshape(len(x), flat)  # type: ignore[no-any-return]

        return self.last(self.c(pooled()))  # type: ignore[no-any-return]


def test_variables_that_are_bound_once_count_as_literals() -> None:
    model, x = Variables().eval(), torch.randn(2, 3, 8, 8)
    result = fxprune.prune(model, x, 0.5)
    small: Any = result.model
    assert (small.a.out_channels, small.b.out_channels, small.c.out_features) == (4, 6, 5)
    assert small(torch.randn(5, 3, 12, 12)).shape == (5, 2)
    torch.testing.assert_close(pickle.loads(pickle.dumps(small))(x), small(x))
    assert fxprune.prune(small, x, 0.5).model(x).shape == (2, 2)


def twice(self: Any, x: Tensor) -> Tensor:
    n = 8
    if x.dim() == 3:
        n = 4
    return self.b(self.a(x).view(-1, n, *x.shape[2:]))  # type: ignore[no-any-return]


def in_a_loop(self: Any, x: Tensor) -> Tensor:
    for n in (8,):
        x = self.a(x).view(-1, n, *x.shape[2:])
    return self.b(x)  # type: ignore[no-any-return]


def given(self: Any, x: Tensor, n: int = 8) -> Tensor:
    return self.b(self.a(x).view(-1, n, *x.shape[2:]))  # type: ignore[no-any-return]


def of_another_function(self: Any, x: Tensor) -> Tensor:
    def other() -> int:
        eight = 8
        return eight

    return self.b(self.a(x).view(-1, eight, *x.shape[2:]))  # type: ignore[no-any-return]


def counted(self: Any, x: Tensor) -> Tensor:
    n = 4
    n += 4
    return self.b(self.a(x).view(-1, n, *x.shape[2:]))  # type: ignore[no-any-return]


eight = 8


@pytest.mark.parametrize("forward", [twice, in_a_loop, given, of_another_function, counted], ids=lambda f: f.__name__)
def test_other_variables_are_no_literals(forward: Any) -> None:
    model = type("Other", (Variables,), {"forward": forward, forward.__name__: forward})().eval()
    groups = fxprune.find_groups(fxprune.trace(model, torch.randn(2, 3, 8, 8)))
    assert "no such number stands at its place there" in str(groups.why("a.weight"))
    assert not any(g.name == "a" for g in groups)


class Wide(nn.Module):
    """Literals in lines that are written anew, one behind a shorter one, in a decorated method."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1), nn.Linear(16 * 16, 4)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Of pictures."""
        x = self.b(self.a(x).view(-1,  8, 8, 8))  # fmt: skip
        x = F.adaptive_avg_pool2d(
            x.reshape((-1, 16,
                       8, 8)), 4).view(-1, 16 *   16)  # fmt: skip
        return self.c(x)  # type: ignore[no-any-return]


def test_literals_that_are_replaced_twice_are_one_plan_for_the_original() -> None:
    model, x = Wide().eval(), torch.randn(2, 3, 8, 8)
    first = fxprune.prune(model, x, 0.25)
    second = fxprune.prune(pickle.loads(pickle.dumps(first.model)), x, 0.5)
    third = fxprune.prune(second.model, x, 0.5)
    whole = first.plan.then(second.plan).then(third.plan)
    assert len(whole.attributes[""]) == len(first.plan.attributes[""]) == 3
    assert len(set(whole.attributes[""].values())) == 3
    torch.testing.assert_close(fxprune.rewrite(model, whole)(x), third.model(x))
    at_once = fxprune.prune(model, x, 0.75, steps=3)
    torch.testing.assert_close(fxprune.rewrite(model, at_once.plan)(x), at_once.model(x))


class FromTheEnd(nn.Module):
    """Negative numbers, of a slice and of a variable."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, n = self.a(x), -8
        return self.b(torch.cat([y[:, :n], y[:, -8:]], 1))  # type: ignore[no-any-return]


def test_numbers_that_count_from_the_end() -> None:
    model, x = FromTheEnd().eval(), torch.randn(2, 3, 8, 8)
    first = fxprune.prune(model, x, 0.25)
    second = fxprune.prune(first.model, x, 0.34)
    ends = [set(r.plan.attributes[""].values()) for r in (first, second)]
    assert all(len(each) == 1 and max(each) < 0 for each in ends)
    whole = first.plan.then(second.plan)
    assert whole.attributes[""].keys() == first.plan.attributes[""].keys()
    torch.testing.assert_close(fxprune.rewrite(model, whole)(x), second.model(x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(second.model))(x), second.model(x))


def shortcut_of_a_function() -> nn.Module:
    class Local(Shortcut):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(-1, 16 * 16)

    return nn.Sequential(nn.Conv2d(3, 8, 1), Local(), nn.Linear(16 * 16, 2)).eval()


def test_copies_stay_of_the_very_class() -> None:
    """Whatever its name stands for by now: a class made in a function has none, a cell of a notebook runs again."""
    x = torch.rand(2, 3, 8, 8)
    small = fxprune.prune(shortcut_of_a_function(), x, 0.5).model
    for twin in (copy.deepcopy(small), copy.copy(small)):
        assert type(twin[1]) is type(small[1])
        torch.testing.assert_close(twin(x), small(x))
    with pytest.raises(pickle.PicklingError, match="Local"):
        pickle.dumps(small)


def test_a_class_whose_name_is_another_one_s_is_not_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 3, 8, 8)
    small = fxprune.prune(Net().eval(), x, 0.5).model
    monkeypatch.setitem(globals(), "Net", type("Net", (nn.Module,), {}))
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(small)
    torch.testing.assert_close(copy.deepcopy(small)(x), small(x))
