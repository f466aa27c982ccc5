"""Analysis leaves no footprints: the caller's model and the process are as they were, also after failures."""

import functools
import random
import signal
import threading
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from footprints import footprint, no_footprints
from nets import CASES, Net
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import fxprune
from fxprune.module.class_state import ClassState
from fxprune.module.isolation import isolated, same_modes
from fxprune.module.saved_state import Saved
from fxprune.module.written_tensors import Writes

Stage = Callable[[nn.Module, Any], Any]


def groups_of(model: nn.Module, x: Any) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, x))


def plan_of(model: nn.Module, x: Any) -> fxprune.Plan:
    groups = groups_of(model, x)
    return fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))


def scored(scorer: fxprune.scorers.Scorer, data: Callable[[Any], Any] = lambda x: None) -> Stage:
    return lambda model, x: scorer(model, groups_of(model, x), data(x))


def searched(model: nn.Module, x: Any) -> Any:
    groups = groups_of(model, x)
    search = fxprune.search.Bisection(precision=0.1, progress=False)
    return search(model, groups, lambda m: 1.0)


def pruned(model: nn.Module, x: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 module or parameter is not reached by the example inputs")
        fxprune.prune(model, x, 0.5)


STAGES: dict[str, Stage] = {
    "trace": fxprune.trace,
    "find_groups": groups_of,
    "cost": lambda model, x: fxprune.cost(fxprune.find_groups(fxprune.trace(model, x)), plan_of(model, x)),
    "norms": scored(fxprune.scorers.L1Norm()),
    "random": scored(fxprune.scorers.Random()),
    "permutation": scored(fxprune.scorers.WeightPermutation()),
    "permutation on data": scored(fxprune.scorers.WeightPermutation("absorb"), lambda x: [x, x]),
    "plan": plan_of,
    "rewrite": lambda model, x: fxprune.rewrite(model, plan_of(model, x)),
    "verify": lambda model, x: fxprune.verify(model, plan_of(model, x), x),
    "verify as it is": lambda model, x: fxprune.verify(model, plan_of(model, x), x, randomise=False),
    "bisection": searched,
    "prune": pruned,
}


@pytest.fixture(params=STAGES.values(), ids=STAGES)
def stage(request: pytest.FixtureRequest) -> Stage:
    return request.param


def lived_in() -> Net:
    """A model in use: mixed modes, hooks, gradients, frozen parameters, caches, attributes of all kinds."""
    model = CASES["residual"].build()
    model(*CASES["residual"].inputs()).sum().backward()
    model.train()
    model.bn1.eval()
    model.a.weight.requires_grad_(False)
    model.stem.register_forward_hook(lambda m, args, out: out)
    model.b.register_forward_pre_hook(lambda m, args: None)
    model.fc.register_full_backward_hook(lambda m, a, b: None)
    model.register_buffer("scratch", torch.zeros(3), persistent=False)
    model.cache, model.seen, model.notes = {}, [], {"a": [1, 2]}
    model.bn.forward = model.bn.forward
    return model


def test_a_model_in_use(stage: Stage) -> None:
    model, x = lived_in(), CASES["residual"].inputs()
    with no_footprints(model, x):
        stage(model, x)


def caching(m: Any, x: Tensor) -> Tensor:
    """A forward that writes all over its module."""
    m.cache[tuple(x.shape)] = x
    m.seen.append(x)
    m.names.add(len(m.seen))
    m.last = x
    m.count = getattr(m, "count", 0) + 1
    m.steps += 1
    m.a.note = "called"
    return m.b(m.a(x).relu())


def caching_net() -> Net:
    parts = {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), "cache": {}, "seen": [], "names": set()}
    model = Net(caching, parts)
    model.register_buffer("steps", torch.zeros(()))
    return model.eval()


def test_a_forward_that_caches(stage: Stage) -> None:
    model, x = caching_net(), torch.rand(1, 3, 4, 4)
    with no_footprints(model, x):
        stage(model, x)


# Writes into what a module holds


class Slotted:
    """An object without a `__dict__`; its second slot is empty."""

    __slots__ = ("calls", "last", "queue")

    def __init__(self) -> None:
        self.calls, self.queue = 0, []

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return Slotted()


def note(slotted: Any, x: Tensor) -> None:
    slotted.calls += 1
    slotted.last = x
    slotted.queue.append(x)


def exchange(m: Any) -> None:
    m.t.data = torch.ones(5)


def norm_by_hand(m: Any, x: Tensor) -> None:
    torch.batch_norm(x, None, None, m.mean, m.var, True, 0.1, 1e-5, False)


WRITES: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[], dict[str, Any]]]] = {
    "copy_": (lambda m, x: m.t.copy_(torch.ones(2)), lambda: {"t": torch.zeros(2)}),
    "item": (lambda m, x: m.t.__setitem__(0, 5), lambda: {"t": torch.zeros(2)}),
    "fill_": (lambda m, x: m.t.fill_(3), lambda: {"t": torch.zeros(2)}),
    "zero_": (lambda m, x: m.t.zero_(), lambda: {"t": torch.ones(2, dtype=torch.bfloat16)}),
    "view": (lambda m, x: m.t[1:].view(1).add_(1), lambda: {"t": torch.zeros(2)}),
    "in a list": (lambda m, x: m.t["all"][0].add_(1), lambda: {"t": {"all": [torch.zeros(2)]}}),
    "foreach": (lambda m, x: torch._foreach_add_(m.t, 1), lambda: {"t": [torch.zeros(2), torch.zeros(3)]}),
    "data": (lambda m, x: exchange(m), lambda: {"t": torch.zeros(2)}),
    "statistics": (norm_by_hand, lambda: {"mean": torch.zeros(3), "var": torch.ones(3)}),
    "array": (lambda m, x: m.t.__setitem__(0, 5), lambda: {"t": np.zeros(2)}),
    "objects in an array": (lambda m, x: m.t.__setitem__(0, 5), lambda: {"t": np.array([None, {}])}),
    "NumPy generator": (lambda m, x: m.g.random(), lambda: {"g": np.random.default_rng(0)}),
    "NumPy state": (lambda m, x: m.g.random_sample(), lambda: {"g": np.random.RandomState(0)}),
    "torch generator": (lambda m, x: torch.rand(2, generator=m.g), lambda: {"g": torch.Generator()}),
    "Python generator": (lambda m, x: m.g.random(), lambda: {"g": random.Random(0)}),
    "slots": (lambda m, x: note(m.notes, x), lambda: {"notes": Slotted()}),
    "slots in a tuple": (lambda m, x: note(m.notes[0], x), lambda: {"notes": (Slotted(), 1)}),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("name", WRITES)
def test_writes_into_attributes(stage: Stage, name: str) -> None:
    write, attributes = WRITES[name]

    def run(m: Any, x: Tensor) -> Tensor:
        write(m, x)
        return m.b(m.a(x))

    model = Net(run, {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), **attributes()}).eval()
    x = torch.rand(1, 3, 4, 4)
    with no_footprints(model, x):
        stage(model, x)


def renew(m: Any) -> None:
    m.a.weight.data = m.a.weight.data * 2


WEIGHT_WRITES: dict[str, Callable[[Any], Any]] = {
    "clamp_": lambda m: m.a.weight.data.clamp_(-0.1, 0.1),
    "a part": lambda m: m.a.weight.detach()[..., 0].zero_(),
    "out=": lambda m: torch.mul(m.a.bias.detach(), 2, out=m.a.bias.detach()),
    "data": renew,
    "embedding": lambda m: m.table(torch.tensor([1, 2])),
    "alias of a buffer": lambda m: m.alias.add_(1),
}


def weight_writer(write: Callable[[Any], Any]) -> Net:
    """A net that follows its data, and writes to its own weights."""

    def run(m: Any, x: Tensor) -> Tensor:
        if x.sum() > -1:
            write(m)
        return m.b(m.a(x))

    parts = {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), "table": nn.Embedding(4, 3, max_norm=0.5)}
    model = Net(run, parts).eval()
    model.register_buffer("steps", torch.zeros(3))
    model.alias = model.steps[1:]
    return model


WITH_DATA: dict[str, Stage] = {
    **{n: STAGES[n] for n in ("trace", "find_groups", "permutation on data", "rewrite", "verify", "prune")},
    "gradients": scored(fxprune.scorers.Taylor(loss=lambda out, y: out.sum()), lambda x: [(x, 0)]),
}


@pytest.mark.parametrize("work", WITH_DATA.values(), ids=WITH_DATA)
@pytest.mark.parametrize("write", WEIGHT_WRITES.values(), ids=WEIGHT_WRITES)
def test_writes_to_weights_in_a_run_for_real(write: Callable[[Any], Any], work: Stage) -> None:
    model, x = weight_writer(write), torch.rand(1, 3, 4, 4)
    with no_footprints(model, x):
        work(model, x)


@pytest.mark.parametrize("treat", [fxprune.absorb_batchnorm, fxprune.recalibrate_batchnorm], ids=lambda f: f.__name__)
def test_treatments_keep_the_weights_that_the_forward_writes_to(treat: Callable[..., Any]) -> None:
    model = weight_writer(WEIGHT_WRITES["clamp_"])
    model.norm = nn.BatchNorm2d(3)
    before = model.a.weight.clone()
    treat(model, [torch.rand(2, 3, 4, 4)])
    assert torch.equal(model.a.weight, before)


def test_a_tensor_that_the_forward_resizes() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.t.resize_(99).fill_(1)
        return m.b(m.a(x))

    t = torch.zeros(2)
    model = Net(run, {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), "t": t}).eval()
    fxprune.trace(model, torch.rand(1, 3, 4, 4))
    assert model.t is t
    assert t.tolist() == [0, 0]


def test_a_forward_that_caches_by_functools() -> None:
    """Results for meta tensors do not stay in caches that the model's own runs read."""

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
            self.zeros = functools.lru_cache(self.offset.__wrapped__)

        @functools.lru_cache  # noqa: B019, as users do
        def offset(self) -> Tensor:
            return torch.zeros(1, device=self.a.weight.device)

        @property
        @functools.cache  # noqa: B019
        def one(self) -> Tensor:
            return torch.ones((), device=self.a.weight.device)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.one + self.offset() + self.zeros(self))

    model, x = Cached().eval(), torch.rand(1, 3)
    groups_of(model, x)
    assert not model(x).is_meta


def noisy(m: Any, x: Tensor) -> Tensor:
    x = m.a(x) + torch.randn(()) + float(np.random.rand()) + random.random()  # noqa: NPY002
    return m.b(torch.dropout(x, 0.5, True))


def test_random_states(stage: Stage) -> None:
    model, x = Net(noisy, {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1)}), torch.rand(1, 3, 4, 4)
    with no_footprints(model, x):
        try:
            stage(model, x)
        except fxprune.FxpruneError:
            pytest.fail("a random forward is no error")


def test_keyword_arguments(stage: Stage) -> None:
    model = Net(
        lambda m, *, image, options: m.b(m.a(image) * options["gain"][0]),
        {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1)},
    )
    kwargs = {"image": torch.rand(1, 3, 4, 4), "options": {"gain": [2.0], "unused": torch.ones(2)}}
    with no_footprints(model, kwargs):
        stage(model, kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_written_to_by_the_forward(stage: Stage, dtype: torch.dtype) -> None:
    model = Net(lambda m, x: m.b(m.a(x.mul_(2))), {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1)}).to(dtype)
    x = torch.rand(1, 3, 4, 4, dtype=dtype)
    with no_footprints(model, x):
        stage(model, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("randomise", [False, True])
def test_verify_gives_both_models_the_same_inputs(randomise: bool, dtype: torch.dtype) -> None:
    model = Net(lambda m, x: m.b(m.a(x.mul_(2))), {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1)}).to(dtype)
    x = torch.rand(1, 3, 4, 4, dtype=dtype)
    assert fxprune.verify(model, plan_of(model, x), x, randomise=randomise) < 1e-9


CONTAINERS: dict[str, Callable[[], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "defaultdict": lambda: defaultdict(list),
    "Counter": Counter,
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_caches_of_other_kinds(make: Callable[[], Any]) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.cache[x.shape[0]] = 1
        return m.b(m.a(x))

    model, x = Net(run, {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), "cache": make()}), torch.rand(1, 3, 4, 4)
    with no_footprints(model, x):
        fxprune.prune(model, x, 0.5)


def test_caches_in_plain_objects_and_tuples() -> None:
    """Whatever holds them: objects of the model's own classes, of other classes inside, and tuples."""

    class Notes:
        def __init__(self) -> None:
            self.calls, self.last = 0, None
            self.inner = SimpleNamespace()

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
            self.notes, self.pair = Notes(), ([], 1)

        def forward(self, x: Tensor) -> Tensor:
            self.notes.calls += 1
            self.notes.last = x
            self.notes.inner.seen = x
            self.pair[0].append(x)
            return self.layers(x)

    model = Noting().eval()
    x = torch.randn(2, 3)
    result = fxprune.prune(model, x, 0.5)
    assert (model.notes.calls, model.notes.last, vars(model.notes.inner), model.pair) == (0, None, {}, ([], 1))
    assert (result.model.notes.calls, result.model.pair) == (0, ([], 1))


def test_queues() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.last.append(1)
        return m.b(m.a(x))

    model, x = (
        Net(run, {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), "last": deque(maxlen=3)}),
        torch.rand(1, 3, 4, 4),
    )
    with no_footprints(model):
        fxprune.prune(model, x, 0.5)
    assert not model.last


def test_nested_caches() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.cache["shapes"].append(x.shape)
        m.cache.setdefault("more", {})["x"] = x
        return m.b(m.a(x))

    model, x = (
        Net(run, {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1), "cache": {"shapes": []}}),
        torch.rand(1, 3, 4, 4),
    )
    with no_footprints(model, x):
        fxprune.prune(model, x, 0.5)


@pytest.mark.parametrize("grad", [True, False])
def test_switches(stage: Stage, grad: bool) -> None:
    model, x = CASES["single_head_attention"].build(), CASES["single_head_attention"].inputs()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.set_grad_enabled(grad), sdpa_kernel(SDPBackend.FLASH_ATTENTION), no_footprints(model, x):
            stage(model, x)
    finally:
        torch.set_default_dtype(before)
        torch.backends.mha.set_fastpath_enabled(True)


def test_inference_mode(stage: Stage) -> None:
    model, x = CASES["residual"].build(), CASES["residual"].inputs()
    with torch.inference_mode(), no_footprints(model, x):
        stage(model, x)


def test_a_backward_pass_in_waiting(stage: Stage) -> None:
    """The caller's autograd graph still holds the model's buffers: in-place writes to them would break it."""
    model, x = CASES["residual"].build(), CASES["residual"].inputs()
    loss = model(*x).sum()
    stage(model, x)
    loss.backward()
    assert model.stem.weight.grad is not None


# Failures


def fails_halfway(m: Any, x: Tensor) -> Tensor:
    caching(m, x)
    np.random.rand()  # noqa: NPY002
    torch.rand(3)
    raise RuntimeError("half-way")


def fails_on_meta(m: Any, x: Tensor) -> Tensor:
    caching(m, x)
    if x.is_meta:
        raise RuntimeError("no meta tensors here")
    return m.b(m.a(x).relu())


def fails_in_training(m: Any, x: Tensor) -> Tensor:
    caching(m, x)
    if m.training:
        m.cache["training"] = True
        raise RuntimeError("not in training mode")
    return m.b(m.a(x).relu())


def fails_when_narrow(m: Any, x: Tensor) -> Tensor:
    caching(m, x)
    x = m.a(x)
    if x.shape[1] != 6:
        raise RuntimeError(f"6 channels, not {x.shape[1]}")
    return m.b(x.view(x.shape[0], -1, 2, 2, 4).flatten(2, 3))


def fails_in_double(m: Any, x: Tensor) -> Tensor:
    caching(m, x)
    if x.dtype == torch.float64:
        raise RuntimeError("not in float64")
    return m.b(m.a(x).relu())


def failing(run: Callable[..., Tensor], spare: bool = False) -> Net:
    model = caching_net()
    model.run = run
    if spare:
        model.aux = nn.Linear(2, 2)  # unused: a training forward is tried as well
    return model


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize(
    "run",
    [fails_halfway, fails_on_meta, fails_in_training, fails_when_narrow, fails_in_double],
    ids=lambda f: f.__name__,
)
def test_failures(stage: Stage, run: Callable[..., Tensor], spare: bool) -> None:
    model, x = failing(run, spare), torch.rand(1, 3, 4, 4)
    model.a.train()
    with no_footprints(model, x):
        if run in (fails_halfway, fails_in_double, fails_when_narrow):
            with suppress(fxprune.FxpruneError, RuntimeError):
                stage(model, x)
        else:
            stage(model, x)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts(stage: Stage, interrupt: type[BaseException]) -> None:
    def stop(m: Any, x: Tensor) -> Tensor:
        caching(m, x)
        raise interrupt

    model, x = failing(stop), torch.rand(1, 3, 4, 4)
    with pytest.raises(interrupt), no_footprints(model, x):
        stage(model, x)


class Remembering(Net):
    """A model whose class keeps what a run has computed, so that it must be put back."""

    of_class: ClassVar[dict[Any, Any]] = {}


def remembering(run: Callable[..., Tensor]) -> Net:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.of_class[len(m.of_class)] = x
        return run(m, x)

    model = failing(forward)
    model.__class__ = Remembering
    return model


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("run", [caching, fails_on_meta], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [Saved, Writes])
def test_ctrl_c_while_the_process_is_given_back(
    kind: Any, run: Callable[..., Tensor], after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, calls = kind.restore, []

    def interrupted(state: Any) -> None:
        calls.append(state)
        if len(calls) == 1 and not after:
            signal.raise_signal(signal.SIGINT)
        restore(state)
        if len(calls) == 1 and after:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(kind, "restore", interrupted)
    model, x = remembering(run), torch.rand(1, 3, 4, 4)
    with pytest.raises(KeyboardInterrupt), no_footprints(model, x):
        fxprune.trace(model, x)
    assert calls
    assert Remembering.of_class == {}


class Interrupting(dict[Any, Any]):
    """A cache that is cleared just when the user presses Ctrl-C."""

    pressed = False

    def clear(self) -> None:
        super().clear()
        if not self.pressed:
            Interrupting.pressed = True
            signal.raise_signal(signal.SIGINT)


class Failing(dict[Any, Any]):
    """A cache that cannot be cleared."""

    def clear(self) -> None:
        raise OSError("disk gone")


def test_ctrl_c_between_clearing_a_cache_and_filling_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = remembering(caching), torch.rand(1, 3, 4, 4)
    monkeypatch.setattr(Remembering, "of_class", Interrupting(kept=1))
    with pytest.raises(KeyboardInterrupt), no_footprints(model, x):
        fxprune.trace(model, x)
    assert Remembering.of_class == {"kept": 1}


def test_a_cache_that_cannot_be_put_back_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = remembering(caching), torch.rand(1, 3, 4, 4)
    monkeypatch.setattr(Remembering, "of_class", Failing(kept=1))
    with pytest.raises(fxprune.TraceError, match="disk gone"), no_footprints(model, x):
        fxprune.trace(model, x)
    assert len(Remembering.of_class) > 1


def test_a_scorer_whose_data_fails() -> None:
    model, x = lived_in(), CASES["residual"].inputs()

    def data() -> Iterator[Any]:
        yield x
        raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"), no_footprints(model, x):
        fxprune.prune(model, x, 0.5, scorer=fxprune.scorers.WeightPermutation(), data=data())


def test_a_search_whose_evaluation_fails() -> None:
    model, x = lived_in(), CASES["residual"].inputs()
    groups = groups_of(model, x)

    def evaluate(m: nn.Module) -> float:
        if m is not model:
            raise RuntimeError("no GPU")
        return 1.0

    with pytest.raises(RuntimeError, match="no GPU"), no_footprints(model, x):
        fxprune.search.Bisection(progress=False)(model, groups, evaluate)


def test_rewriting_a_copy_shares_nothing() -> None:
    """The smaller model's tensors, modules and gradients are its own, also those that the plan leaves alone."""
    model, x = lived_in(), CASES["residual"].inputs()
    plan = plan_of(model, x)
    small = fxprune.rewrite(model, plan)
    mine = {t.data_ptr() for t in [*model.parameters(), *model.buffers()]}
    assert not mine & {t.data_ptr() for t in [*small.parameters(), *small.buffers()]}
    assert not {id(m) for m in model.modules()} & {id(m) for m in small.modules()}
    with no_footprints(model):
        torch.nn.init.zeros_(small.fc.bias)
        small.notes["a"].append(3)
    assert all(p.grad is None for p in small.parameters())


def test_rewriting_keeps_modes_and_hooks() -> None:
    model, x = lived_in(), CASES["residual"].inputs()
    for small in (fxprune.rewrite(model, plan_of(model, x)), fxprune.rewrite(model, plan_of(model, x), inplace=True)):
        assert [m.training for m in small.modules()] == [m.training for m in lived_in().modules()]
        assert len(small.stem._forward_hooks) == len(small.b._forward_pre_hooks) == 1
        assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in lived_in().parameters()]


# Default devices


@pytest.mark.parametrize("analyse", [fxprune.trace, groups_of], ids=["trace", "find_groups"])
@pytest.mark.parametrize("run", [caching, fails_on_meta], ids=["meta", "real"])
def test_a_default_device(analyse: Stage, run: Callable[..., Tensor]) -> None:
    """The user's default device is neither used for what the analysis makes nor changed by it."""
    model = failing(run)
    x = torch.rand(1, 3, 4, 4)
    expected = analyse(model, x)
    with torch.device("meta"), no_footprints(model, x):
        found = analyse(model, x)
    if analyse is fxprune.trace:
        assert [str(n) for n in found.fx.nodes] == [str(n) for n in expected.fx.nodes]
    else:
        assert [str(g) for g in found] == [str(g) for g in expected]
        assert [str(f) for f in found.fixed] == [str(f) for f in expected.fixed]


# Memory


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of real memory that ATen calls allocate."""

    bytes = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage().data_ptr() for t in torch.utils._pytree.tree_leaves((args, kwargs)) if _real(t)}
        out = op(*args, **(kwargs or {}))
        fresh = [
            t for t in torch.utils._pytree.tree_leaves(out) if _real(t) and t.untyped_storage().data_ptr() not in before
        ]
        self.bytes += sum(t.untyped_storage().nbytes() for t in fresh)
        return out


def _real(t: Any) -> bool:
    return isinstance(t, Tensor) and not t.is_meta


@pytest.mark.parametrize("stage", [fxprune.trace, groups_of], ids=["trace", "find_groups"])
def test_no_weights_are_copied(stage: Stage) -> None:
    """A megabyte of weights is traced and grouped without as much as a few kilobytes of tensors."""
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
    x = torch.zeros(4, 512)
    with Watch() as watch:
        stage(model, x)
    assert watch.bytes < 4096
    graph = fxprune.trace(model, torch.zeros(4, 512))
    assert graph.on_meta
    assert all(t is p for t, p in zip(graph.tensors.values(), model.parameters(), strict=True))


def test_the_forward_sees_only_meta_tensors() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        assert x.is_meta
        assert m.a.weight.is_meta
        assert isinstance(m.a.weight, nn.Parameter)
        return m.b(m.a(x))

    model = Net(run, {"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)})
    assert [g.name for g in groups_of(model, torch.rand(1, 3))] == ["a"]


def test_two_threads_can_analyse_two_models() -> None:
    found: list[list[str]] = []

    def work(name: str) -> None:
        case = CASES[name]
        for _ in range(5):
            found.append([g.name for g in groups_of(case.build(), case.inputs())])

    threads = [threading.Thread(target=work, args=(name,)) for name in ("residual", "dense")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(found) == sorted([["stem", "a"]] * 5 + [["a", "b", "c"]] * 5)


def test_footprint_sees_what_it_must() -> None:
    """The test's own eyes: each of these changes is noticed."""
    changes: list[Callable[[Any], Any]] = [
        lambda m: m.bn1.train(),
        lambda m: m.stem.weight.data.add_(1),
        lambda m: m.bn.running_mean.zero_(),
        lambda m: m.a.weight.requires_grad_(True),
        lambda m: m.stem.weight.grad.zero_(),
        lambda m: m.zero_grad(),
        lambda m: m.stem.register_forward_hook(lambda *a: None),
        lambda m: setattr(m, "stem", CASES["residual"].build().stem),
        lambda m: m.notes["a"].append(3),
        lambda m: m.cache.update(a=1),
        lambda m: setattr(m, "new", 1),
        lambda m: delattr(m, "seen"),
        lambda m: m._buffers.update(scratch=torch.zeros(3)),
        lambda m: m._non_persistent_buffers_set.clear(),
        lambda m: m.half.add_(1),
        lambda m: m.held[0].random(),
        lambda m: m.held[1].fill(1),
        lambda m: note(m.held[2], torch.zeros(1)),
        lambda m: setattr(m.held[3], "x", 1),
        lambda m: torch.rand(1, generator=m.held[4]),
    ]
    for change in changes:
        model = lived_in()
        model.half = torch.ones(2, dtype=torch.bfloat16)
        model.held = np.random.default_rng(0), np.zeros(2), Slotted(), SimpleNamespace(), torch.Generator()
        before = footprint(model)
        assert footprint(model) == before
        change(model)
        assert footprint(model) != before


# Threads


def noisy_net(width: int = 24) -> nn.Module:
    """A network that writes to itself, draws random numbers and attends: whatever a run may leave in a process."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.steps = nn.BatchNorm1d(width), 0
            self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            self.last = x = self.layer(self.norm(x.mT).mT)
            return x + float(np.random.rand()) * 0 + torch.rand(()) * 0 + random.random() * 0  # noqa: NPY002

    return nn.Sequential(nn.Linear(5, width), Block(), Block(), nn.Linear(width, 3)).eval()


def in_threads(*jobs: Callable[[], Any]) -> None:
    """Run the jobs at the same time and raise what one of them raises."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def test_threads_that_prune_the_same_model() -> None:
    model, x = noisy_net(), torch.rand(2, 7, 5)
    expected = fxprune.prune(model, x, 0.5).plan
    plans: list[fxprune.Plan] = []
    with no_footprints(model, x):
        in_threads(*[lambda: plans.append(fxprune.prune(model, x, 0.5).plan)] * 3)
    assert plans == [expected] * 3


def test_threads_that_prune_different_models() -> None:
    models, x = [noisy_net(24), noisy_net(16)], torch.rand(2, 7, 5)
    with no_footprints(models[0], x), no_footprints(models[1]):
        in_threads(*[partial(fxprune.prune, model, x, 0.5) for model in models * 2])


@pytest.mark.parametrize("stage", ["find_groups", "verify", "permutation on data", "prune"])
def test_a_model_can_be_used_while_it_is_pruned(stage: str) -> None:
    """Another thread's inference neither fails nor computes anything else, and takes the type that it always takes."""
    model, x = noisy_net(), torch.rand(2, 7, 5)
    with torch.no_grad():
        expected = model(x)
    finished, runs = threading.Event(), 0

    def infer() -> None:
        nonlocal runs
        while not finished.is_set() or not runs:
            with torch.no_grad():
                assert torch.allclose(model(x), expected, atol=1e-5)
                assert torch.ones(2).dtype == torch.float32
            runs += 1

    def work() -> None:
        try:
            STAGES[stage](model, x)
        finally:
            finished.set()

    in_threads(infer, work)
    assert runs


# What a run finds is what the run before found


def method_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator with a cache in its closure, which no attribute leads to."""
    cached = functools.lru_cache(maxsize=8)(function)

    def wrapper(*args: Any) -> Any:
        return cached(*args)

    return wrapper


def dict_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    found: dict[Any, Any] = {}

    def wrapper(self: Any, *key: Any) -> Any:
        if key not in found:
            found[key] = function(self, *key)
        return found[key]

    return wrapper


@functools.cache
def positions_of(n: int) -> Tensor:
    return torch.arange(float(n))[None, :, None] / n


KNOWN: dict[int, Tensor] = {}


class Positions(nn.Module):
    """The same positions, kept in all the places where code keeps what it has computed once."""

    of_class: ClassVar[dict[int, Tensor]] = {}
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 64), nn.Linear(64, 48), nn.Linear(48, 7)
        kept: dict[int, Tensor] = {}
        self.of_instance = lambda n: kept.setdefault(n, torch.arange(float(n))[None, :, None])
        self.again = functools.partial(self.by_hand, 0.0)

    @method_cache
    def by_cache(self, n: int) -> Tensor:
        return torch.arange(float(n))[None, :, None] / n

    @dict_cache
    def by_hand(self, offset: float, n: int) -> Tensor:
        return torch.arange(float(n))[None, :, None] / n + offset

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        type(self).calls += 1
        if n not in self.of_class:
            self.of_class[n] = torch.arange(float(n))[None, :, None]
        if n not in KNOWN:
            KNOWN[n] = torch.ones(n, 1)
        x = self.b(self.a(x).relu() + self.by_cache(n) + self.again(n))
        return self.c(x + self.of_class[n] + self.of_instance(n) + positions_of(n) * KNOWN[n])


def test_caches_in_closures_classes_and_globals() -> None:
    model, x = Positions().eval(), torch.rand(1, 9, 5)
    first = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in first] == [("a", 64), ("b", 48)]
    again = fxprune.find_groups(fxprune.trace(model, x))
    assert [str(f) for f in first.fixed] == [str(f) for f in again.fixed]
    result = fxprune.prune(model, x, 0.5)
    assert (Positions.of_class, Positions.calls, KNOWN, positions_of.cache_info().currsize) == ({}, 0, {}, 0)
    assert model.of_instance(3).device == result.model(x).device == torch.device("cpu")
    assert set(KNOWN) == {9}


class State:
    """Of somebody's own class, half of it in slots."""

    __slots__ = ("__dict__", "kept", "late")

    def __init__(self) -> None:
        self.kept, self.free = [1], {"a": 1}


def of_all_kinds() -> dict[str, Any]:
    return {
        "array": np.zeros(3),
        "numpy": np.random.default_rng(0),
        "old": np.random.RandomState(0),
        "python": random.Random(0),
        "torch": torch.Generator().manual_seed(0),
        "own": State(),
        "view": {"a": [1]}.values(),
        "pair": ([1], {}),
    }


def told(held: dict[str, Any]) -> list[Any]:
    """What can be seen of it, generators by what they would draw."""
    own = held["own"]
    drawn = [held["numpy"].bit_generator.state, held["old"].get_state()[1:3], held["python"].getstate()]
    drawn.append(held["torch"].get_state().tolist())
    return [str(part) for part in (held["array"], drawn, own.kept, own.free, hasattr(own, "late"), *held["view"])] + [
        str(held["pair"])
    ]


class Partial(functools.partial):  # type: ignore[type-arg]
    """What it calls is in slots that Python code cannot write to."""


class WithPartial(nn.Module):
    """Its class holds an object whose C code changes what Python code cannot put back."""

    held: ClassVar[list[Any]] = [Partial(print)]

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.held[0].__setstate__((len, (), {}, {}))
        return self.b(self.a(x).relu())


def test_what_cannot_be_put_back_does_not_fail_the_run() -> None:
    assert len(fxprune.find_groups(fxprune.trace(WithPartial(), torch.rand(2, 5)))) == 1


class Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.a.in_features, "pytest puts names of its own into this line"
        return self.b(self.a(x).relu())


def test_the_state_of_pytest_is_not_looked_into() -> None:
    state = ClassState([Asserting])
    assert len(state.steps) < 100


class WithState(nn.Module):
    """Its class holds state of all kinds, and a run changes all of it."""

    held: ClassVar[dict[str, Any]] = of_all_kinds()

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        held = self.held
        held["array"][0] += 1
        held["numpy"].random(), held["old"].random(), held["python"].random()
        torch.rand(1, generator=held["torch"], device="cpu")
        held["own"].kept.append(2)
        held["own"].free["b"], held["own"].late = 1, x
        held["own"].kept = []
        next(iter(held["view"])).append(2)
        held["pair"][0].append(2)
        held["pair"][1]["a"] = x
        return self.b(self.a(x).relu())


def test_state_of_all_kinds_that_a_class_holds() -> None:
    before, model = told(WithState.held), WithState()
    fxprune.find_groups(fxprune.trace(model, torch.rand(2, 5)))
    assert told(WithState.held) == before == told(of_all_kinds())
    model(torch.rand(2, 5))
    after = told(WithState.held)
    WithState.held = of_all_kinds()
    assert [a != b for a, b in zip(after, before, strict=True)] == [True] * len(before)


SEEN: list[Tensor] = []


def remember(_module: nn.Module, _args: Any, out: Tensor) -> None:
    SEEN.append(out)


def test_what_hooks_keep_in_globals() -> None:
    model, x = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)), torch.rand(2, 5)
    model[0].register_forward_hook(remember)
    model[2].register_forward_hook(functools.partial(remember))
    fxprune.prune(model, x, 0.5, data=[torch.rand(32, 5)])
    assert SEEN == []
    model(x)
    assert len(SEEN) == 2
    SEEN.clear()


class InInferenceMode(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 4, 3)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.n(self.a(x)).relu())


@pytest.mark.parametrize("width", [8, 64])
def test_a_forward_in_inference_mode(width: int) -> None:
    model, x = InInferenceMode(width).eval(), torch.rand(1, 3, 9, 9)
    graph = fxprune.trace(model, x)
    assert [(g.name, g.size) for g in fxprune.find_groups(graph)] == [("a", width)]
    scores = fxprune.scorers.WeightPermutation("absorb")(model, fxprune.find_groups(graph), [x])
    assert scores["a"].shape == (width,)
    result = fxprune.prune(model, x, 0.5)
    assert result.model(x).shape == (1, 4, 5, 5)
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-9


class Making(OrderedDict[str, Any]):
    """Makes a value when it is asked for, as tables of activations do."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)()


TABLE = Making(relu=nn.ReLU, scale=lambda factor: factor)


class Looking(nn.Module):
    def __init__(self, held: bool) -> None:
        super().__init__()
        self.lin, self.out = nn.Linear(4, 6), nn.Linear(6, 2)
        self.table = TABLE if held else None

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.table or TABLE)["relu"](self.lin(x)))


@pytest.mark.parametrize("held", [False, True])
def test_a_table_that_makes_its_values(held: bool) -> None:
    """Only what is stored is looked at: the table's own way of reading fails on one of its entries."""
    groups = fxprune.find_groups(fxprune.trace(Looking(held), torch.rand(1, 4)))
    assert [g.size for g in groups] == [6]
    assert list(TABLE) == ["relu", "scale"]


def test_an_empty_container_that_two_modules_share_is_shared_by_their_copies() -> None:
    class Notes(nn.Module):
        def __init__(self, notes: list[int]) -> None:
            super().__init__()
            self.notes = notes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.notes.append(1)
            return x * len(self.notes)

    shared: list[int] = []
    net = nn.Sequential(Notes(shared), nn.Linear(4, 8), Notes(shared), nn.Linear(8, 2))
    with isolated(net) as work:
        assert work[0].notes is work[2].notes is not shared  # type: ignore[union-attr]
        work(torch.ones(1, 4))
        assert len(work[0].notes) == 2  # type: ignore[arg-type]
    assert shared == []


def test_modes_are_put_back_by_the_models_own_train() -> None:
    class Merging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.merged, self.norm, self.head = True, nn.BatchNorm1d(2), nn.Linear(2, 2)

        def train(self, mode: bool = True) -> "Merging":
            self.merged = not mode
            return super().train(mode)

    model = Merging().eval()
    model.norm.train()
    with same_modes(model):
        model.train()
        model.head = nn.Sequential(nn.Linear(2, 2))
    assert model.merged
    assert {name: m.training for name, m in model.named_modules()} == {
        "": False,
        "norm": True,
        "head": False,
        "head.0": False,
    }
    with same_modes(model):
        model.merged = False
    assert not model.merged  # modes as before: nothing is called
