"""Cached-prefix evaluation: every attempt's fitness is that of the full one, and what is equal is not computed."""

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from search_toys import jitter
from torch import Tensor, nn

import fxprune
from fxprune.planners import Constraints
from fxprune.scorers import L2Norm, Lasso
from fxprune.search import Progressive, Workers
from fxprune.search.progressive.activation_cache import Attempt, Recording, Remembered, recorder

MEMORY = 2**26
RAN: list[str] = []
"""The modules of kind `Noted` that ran. It lies outside of all modules, because a change in one of them counts."""


class Noted(nn.Conv2d):
    """A convolution that tells when it runs."""

    name = ""

    def forward(self, x: Tensor) -> Tensor:
        RAN.append(self.name)
        return super().forward(x)


def conv(inputs: int, outputs: int, **settings: Any) -> nn.Sequential:
    return nn.Sequential(Noted(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(**settings))


class Block(nn.Module):
    """Functional ops between modules, and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = Noted(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = Noted(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.bn1(self.conv1(x)))))


class Net(nn.Module):
    """A body between a stem and a head."""

    def __init__(self, *body: nn.Module, inner: int = 6, inplace: bool = False) -> None:
        super().__init__()
        self.stem, self.body = conv(2, 6, inplace=inplace), nn.ModuleList(body)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(inner, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for part in self.body:
            x = part(x)
        return self.head(self.drop(x.mean((2, 3))))


class Concat(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = self.body[0](x), self.body[1](x)
        return self.head(self.body[2](torch.cat([a, b, x], 1)).mean((2, 3)))


class Functional(Net):
    """Ops between all modules, some in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x * 2), 2)
        x = F.relu(self.body[0](x) + 1).mul_(2)
        y = self.body[1](x.clone())
        y += x
        return self.head(torch.sigmoid_(self.body[2](y)).flatten(2).mean(2))


class Answers(Net):
    """Two heads; keywords and dicts between modules and to the outside."""

    def __init__(self) -> None:
        super().__init__(Block(6), Pair(), Block(6))
        self.other = nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
        x = self.body[0](self.stem(x) * scale)
        both = self.body[1](first=x, second=[x * 2], scale=0.5)
        x = self.body[2](both["sum"] + both["parts"][0])
        return {"a": self.head(x.mean((2, 3))), "b": (self.other(both["parts"][1].mean((2, 3))),)}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Noted(6, 6, 3, padding=1), Noted(6, 6, 1)

    def forward(self, first: Tensor, second: list[Tensor], scale: float) -> OrderedDict[str, Any]:
        a, b = self.conv1(first), self.conv2(second[0]) * scale
        second.append(a)  # what it was given changes
        return OrderedDict(sum=a + b, parts=(a, b, None))


class Nested(nn.Sequential):
    """Writes into what it reads, and gives it back."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        x.add_(y)
        return x


class Attached(Net):
    """Tells a child by an attribute, and keeps an output in another."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body[0](self.stem(x))
        self.body[1].shift = x.mean() * len(x)
        self.seen = x
        return self.head(self.body[1](x).mean((2, 3)) + self.seen.mean((2, 3)))


class Shift(nn.Module):
    shift: Any = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.conv = Noted(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shift


class Told(Net):
    """A part writes into a buffer of another, which it knows in secret."""

    def __init__(self) -> None:
        super().__init__(Block(6), Writer(), Block(6), Reader())
        self.body[1].__dict__["reader"] = [self.body[3]]


class Reader(nn.Module):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mean


class Writer(nn.Module):
    reader: list[Reader]

    def forward(self, x: Tensor) -> Tensor:
        self.reader[0].mean.copy_(x.mean())
        return x * 2


class Sloped(Net):
    """Takes a gradient within its forward."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        with torch.enable_grad():
            x = self.body[0](x).detach().requires_grad_()
            slope = torch.autograd.grad(self.body[1](x).sum(), x)[0]
        return self.head(self.body[2](x.detach() + slope).mean((2, 3)))


class Noisy(Block):
    """Draws random numbers in evaluation mode as well."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.3, training=True))


def twice() -> Net:
    block = Block(6)
    return Net(block, conv(6, 6), block, Block(6))


def residual() -> Net:
    return Net(Block(6), conv(6, 6), Block(6), Block(6))


NETS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual,
    "in place": lambda: Net(Block(6), conv(6, 6, inplace=True), nn.Identity(), Block(6), inplace=True),
    "concat": lambda: Concat(conv(6, 4), Block(6), conv(16, 6)),
    "twice": twice,
    "functional": lambda: Functional(Block(6), conv(6, 6), Block(6)),
    "dicts": Answers,
    "writes into its input": lambda: Net(Nested(Block(6), conv(6, 6)), Block(6), Block(6)),
    "attributes": lambda: Attached(Block(6), Shift()),
    "random": lambda: Net(Block(6), Noisy(6), Block(6)),
    "random before and after": lambda: Net(Noisy(6), Block(6), Noisy(6), Block(6)),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(1)
    model = NETS[name]().eval()
    for path, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.2, 0.2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
        if isinstance(m, Noted):
            m.name = path
    return model


IMAGES = torch.randn(22, 2, 8, 8, generator=torch.Generator().manual_seed(3))
DATA = list(IMAGES[:16].split(8))


class Bits:
    """Tells of every output; each bit counts."""

    def __init__(self, context: Callable[[], AbstractContextManager[Any]] = torch.no_grad) -> None:
        self.context, self.seen = context, list[str]()

    def __call__(self, model: nn.Module) -> float:
        model.eval()
        with self.context():
            outputs = [model(x) for x in IMAGES.split(8)]
        leaves = [t.detach().double() for o in outputs for t in torch.utils._pytree.tree_leaves(o)]
        self.seen.append(" ".join(float(v).hex() for t in leaves for v in t.flatten()))
        return float(sum(t.sin().sum() for t in leaves))


def search(name: str, cache: int, evaluate: Any = None, **settings: Any) -> tuple[Any, Any]:
    model = made(name)
    groups = fxprune.find_groups(fxprune.trace(model, IMAGES[:2]))
    evaluate = evaluate or Bits()
    given = {k: settings.pop(k) for k in ("workers", "folder", "tune") if k in settings}
    settings = {"keep": 0.6, "step": 0.34, "top": 0.5, "progress": False, "scorer": L2Norm(), **settings}
    return Progressive(cache=cache, **settings)(model, groups, DATA, evaluate, **given), evaluate


def same(a: Any, b: Any) -> None:
    assert a.plan == b.plan
    assert a.history == b.history
    assert a.baseline == b.baseline
    assert all(
        torch.equal(s, t) for s, t in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    )


@pytest.fixture(autouse=True)
def _no_footprints(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And everything is kept: what is worth it depends on the clock."""
    monkeypatch.setattr(recorder, "FLOOR", 0.0)
    call = nn.Module.__call__
    yield
    assert nn.Module.__call__ is call
    RAN.clear()


@pytest.mark.parametrize("name", NETS)
def test_a_search_sees_the_same_bits(name: str) -> None:
    """Every output of every attempt and step, the fitness, the final plan and its weights."""
    RAN.clear()
    full, plain = search(name, 0)
    count = len(RAN)
    RAN.clear()
    cached, seen = search(name, MEMORY)
    assert len(plain.seen) > 4
    assert seen.seen == plain.seen
    same(cached, full)
    assert len(RAN) < count or name.startswith(("random", "attributes"))


@pytest.mark.parametrize("context", [torch.inference_mode, nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_modes_of_the_evaluation(context: Any) -> None:
    (full, plain), (cached, seen) = (search("twice", n, Bits(context)) for n in (0, MEMORY))
    assert seen.seen == plain.seen
    same(cached, full)


@pytest.mark.parametrize("limit", [1, 20_000, 100_000])
def test_little_memory(limit: int) -> None:
    (full, plain), (cached, seen) = (search("twice", n) for n in (0, limit))
    assert seen.seen == plain.seen
    same(cached, full)


def test_workers_give_the_same() -> None:
    full, _ = search("twice", 0, total, keep=0.8)
    same(search("twice", MEMORY, total, keep=0.8)[0], full)
    same(search("twice", MEMORY, total, keep=0.8, workers=Workers(2))[0], full)


def total(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model.eval()(IMAGES).double().sin().sum())


def test_a_directory_is_of_the_same_search(tmp_path: Path) -> None:
    """With or without a cache; the first iteration that goes on has nothing to go by."""
    full, _ = search("twice", 0, total, folder=tmp_path)
    same(search("twice", MEMORY, total, folder=tmp_path)[0], full)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    (tmp_path / "journal.jsonl").write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    assert json.loads(lines[0])
    same(search("twice", MEMORY, total, folder=tmp_path)[0], full)


def test_tuned_steps() -> None:
    (full, plain), (cached, seen) = (search("twice", n, tune=jitter, refit=None) for n in (0, MEMORY))
    assert seen.seen == plain.seen
    same(cached, full)


# One attempt


def attempt_on(
    name: str, change: Callable[[Any], object], evaluate: Callable[[Any], Any], limit: int = MEMORY
) -> tuple[Any, Any, list[str]]:
    """The value with and without the cache, and what ran with it."""
    model = made(name)
    with Remembered(limit) as remembered:
        Recording(evaluate, remembered, "base")(model)
        attempt, copied = Attempt(change, evaluate, remembered, "base"), copy.deepcopy(model)
        attempt.make(copied)
        RAN.clear()
        value = attempt.evaluate(copied)
        ran = list(RAN)
    return value, evaluate(copied), ran


def outputs(model: nn.Module) -> list[float]:
    with torch.no_grad():
        return model(IMAGES).flatten().tolist()


def scaled(path: str, by_data: bool = False) -> Callable[[Any], object]:
    def change(model: nn.Module) -> None:
        weight = model.get_parameter(f"{path}.weight")
        with torch.no_grad():
            (weight.data if by_data else weight).mul_(1.5)

    return change


def test_what_comes_before_does_not_run() -> None:
    value, full, ran = attempt_on("residual", scaled("body.2.conv2"), outputs)
    assert value == full
    assert ran == ["body.2.conv2", "body.3.conv1", "body.3.conv2"]
    value, full, ran = attempt_on("residual", scaled("head"), outputs)
    assert value == full
    assert ran == []


@pytest.mark.parametrize(
    "net", [Told, lambda: Sloped(Block(6), Block(6), Block(6)).requires_grad_(False)], ids=["writes", "slopes"]
)
def test_forwards_that_do_more(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "more", net)
    for path in ("head", "body.2.conv1", "body.0.conv2"):
        value, full, _ = attempt_on("more", scaled(path), outputs)
        assert value == full


def test_changes_that_torch_does_not_count() -> None:
    value, full, ran = attempt_on("residual", scaled("body.0.conv1", by_data=True), outputs)
    assert value == full
    assert ran[0] == "body.0.conv1"


def test_attributes_that_change() -> None:
    def change(model: Any) -> None:
        model.body[2].conv1.dilation = (2, 2)
        model.body[2].conv1.padding = (2, 2)
        model.body[2].conv1._reversed_padding_repeated_twice = [2] * 4

    value, full, ran = attempt_on("residual", change, outputs)
    assert value == full
    assert ran[0] == "body.2.conv1"


def wild(kind: str) -> Callable[[Any], Any]:
    """Evaluations that do more than run the model."""

    def evaluate(model: Any) -> Any:
        if kind == "training":
            model.train()
            return outputs(model)
        if kind == "hooks":
            seen: list[float] = []
            handle = model.body[0].conv1.register_forward_hook(lambda *a: seen.append(float(a[2].sum())))
            outputs(model)
            handle.remove()
            return seen
        if kind == "writes":
            with torch.no_grad():
                model.body[0].conv1.weight.add_(1e-3)
            return outputs(model)
        if kind == "own batches":
            with torch.no_grad():
                y = model(IMAGES).numpy()
                y *= 2
                return [*y.ravel().tolist(), *model(IMAGES.flip(0)).flatten().tolist(), *outputs(model)]
        if kind == "parts":
            with torch.no_grad():
                x = model.stem(IMAGES)
                x.numpy()[:] += 1
                return [*model.body[0](x).flatten().tolist(), *outputs(model)]
        if kind == "gradients":
            x = IMAGES.clone().requires_grad_()
            with torch.no_grad():
                model(x)
            model(x).sum().backward()
            return [*x.grad.flatten().tolist(), float(model.stem[0].weight.grad.sum())]
        if kind == "copies":
            other = copy.deepcopy(model)
            with torch.no_grad():
                other.stem[0].weight.mul_(0.5)
            return outputs(copy.copy(model)) + outputs(other) + outputs(model)
        if kind == "half":
            model = copy.deepcopy(model).bfloat16()
            with torch.no_grad():
                return model(IMAGES.bfloat16()).float().flatten().tolist() + outputs(model.float())
        if kind == "layout":
            with torch.no_grad():
                return [*outputs(model), *model(IMAGES.to(memory_format=torch.channels_last)).flatten().tolist()]
        assert kind == "zeros"
        with torch.no_grad():
            return [
                model(z.expand(2, 2, 8, 8) * 1.0).flatten().tolist() for z in (torch.tensor(0.0), torch.tensor(-0.0))
            ]

    return evaluate


KINDS = "training hooks writes,own batches,parts,gradients,copies,half,layout,zeros".replace(
    " hooks ", ",hooks,"
).split(",")


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_that_do_more(kind: str) -> None:
    """On a copy each, because some of them change the model."""

    def evaluate(model: Any) -> Any:
        torch.manual_seed(5)
        return wild(kind)(model)

    for change in (scaled("head"), scaled("body.3.conv2")):
        model = made("residual")
        with Remembered(MEMORY) as remembered:
            Recording(evaluate, remembered, "base")(copy.deepcopy(model))
            attempt, copied = Attempt(change, evaluate, remembered, "base"), copy.deepcopy(model)
            attempt.make(copied)
            plain = copy.deepcopy(copied)
            for _ in range(2):
                assert attempt.evaluate(copied) == evaluate(plain)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_traced_models_hold_no_remembered_tensors() -> None:
    def evaluate(model: nn.Module) -> list[float]:
        with torch.no_grad():
            traced = torch.jit.trace(model, (IMAGES,), check_trace=False)
            return [*traced(IMAGES + 1).flatten().tolist(), *outputs(model)]

    value, full, _ = attempt_on("residual", scaled("head"), evaluate)
    assert value == full


def test_memory_is_limited() -> None:
    remembered = Remembered(50_000)
    Recording(outputs, remembered, "base")(made("residual"))
    memo = remembered.of("base")
    assert memo is not None
    assert 0 < memo.bytes <= 50_000
    assert remembered.of("another") is None


def test_settings_out_of_range() -> None:
    with pytest.raises(fxprune.InputError, match="cache out of range; seen: -1; remedy: give a number of bytes"):
        Progressive(cache=-1)


def test_constraints_and_other_scorers() -> None:
    for settings in ({"refit": None, "constraints": Constraints(round_to=2)}, {"scorer": Lasso()}):
        (full, plain), (cached, seen) = (search("concat", n, **settings) for n in (0, MEMORY))
        assert seen.seen == plain.seen
        same(cached, full)
