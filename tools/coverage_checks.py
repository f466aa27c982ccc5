"""One model of a suite: pruned, and everything checked that must hold for what comes out."""

from __future__ import annotations

import copy
import io
import logging
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from suites import Case, suite
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxprune
from fxprune.module.isolation import cloned

Row = dict[str, Any]
# What must hold of every model, and what must hold where the original can do it as well.
CHECKS = ("forward", "shapes", "reload", "copy")
WHERE_POSSIBLE = ("batch 3", "train", "size", "export")
TOO_SLOW = "too slow"
# The original can't, or nobody knows.
UNKNOWN = (None, TOO_SLOW)


@dataclass(frozen=True)
class Options:
    """What to do with each model.

    Attributes:
        suite: which suite the models are of.
        ratio: part of every group's channels to remove.
        export_s: seconds that `torch.export` may take for one model; 0 leaves it out.
    """

    suite: str = "torchvision"
    ratio: float = 0.5
    export_s: int = 0


DEVIATION = 1e-5  # of pruned from masked; models that insist on float32 come to 2e-6


def passed(row: Row) -> bool:
    return measured(row) and not failures(row)


def measured(row: Row) -> bool:
    """Whether the model was pruned at all: it was neither left out nor did it fail."""
    return not {"error", "skipped"} & row.keys()


def failures(row: Row) -> list[str]:
    """The checks that failed, each with what was said."""
    required = [c for c in CHECKS if row.get(c) is not True]
    possible = [c for c in WHERE_POSSIBLE if row.get(c, "") not in (True, *UNKNOWN)]
    if row.get("verify") is not None and not row["verify"] <= DEVIATION:
        required.append(f"verify: {row['verify']:.0e}")
    return required + [f"{c}: {row.get(c, 'no answer')}" for c in possible]


def examine(name: str, options: Options) -> Row:
    """One model's row; a failure is a row as well."""
    row: Row = {"model": name}
    start = time.perf_counter()
    try:
        case = suite(options.suite).case(name)
        row["family"] = case.family
        torch.manual_seed(0)
        model = _original(case)
        row |= {"skipped": model} if isinstance(model, str) else _examine(case, model, options)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
        row["traceback"] = traceback.format_exc()
    return row | {"seconds": time.perf_counter() - start}


def _original(case: Case) -> nn.Module | str:
    """The model, or why it is left out: what its own package can't make or run does not concern pruning."""
    if case.skipped:
        return case.skipped
    try:
        model = case.build()
        _outputs(model, case.example(1))
    except Exception as error:
        return f"the original fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
    return model


def _examine(case: Case, model: nn.Module, options: Options) -> Row:
    inputs = case.example(1)
    before = _Behaviour(case, model)  # also warms the allocator
    with _Peak() as peak:
        graph, trace_ms = _timed(lambda: fxprune.trace(model, inputs))
        groups, group_ms = _timed(lambda: fxprune.find_groups(graph))
    plan = _halved(model, groups, options.ratio)
    full, cut = fxprune.cost(groups), fxprune.cost(groups, plan)
    row = {
        "groups": len(groups),
        "parameters": cut.parameters / full.parameters,
        "macs": cut.macs / max(full.macs, 1),
        "trace_ms": trace_ms,
        "group_ms": group_ms,
        "analysis_mb": peak.added_mb,
        "unknown": dict(groups.unknown_ops),
        "fixed": _why(groups),
        **_verified(model, graph, groups, inputs, options.ratio),
    }
    del groups
    small = fxprune.rewrite(model, plan, inplace=True).eval()
    assert cut.parameters == sum(p.numel() for p in small.parameters()), "cost model and model disagree"
    return {**row, **before.compared_with(small), **_survives(case, small, plan, options)}


def _halved(model: nn.Module, groups: fxprune.Groups, ratio: float) -> fxprune.Plan:
    return fxprune.planners.Uniform(ratio)(groups, fxprune.scorers.L2Norm()(model, groups))


def _verified(model: nn.Module, graph: fxprune.Graph, groups: fxprune.Groups, inputs: Any, ratio: float) -> Row:
    """Pruned against masked, while all that a norm, mean or softmax runs over stays: the stream of a transformer."""
    mixed = [g.name for g in groups if g.mixed_by]
    exact = fxprune.find_groups(graph, mixed) if mixed else groups
    # What is ignored can make another group the first that an op mixes.
    while again := [g.name for g in exact if g.mixed_by]:
        exact = exact.holding(dict.fromkeys(again, "an op runs over all of its channels"))
    if not len(exact):
        return {"compared": 0, "verify": None, "parameters_kept_stream": 1.0}
    plan = _halved(model, exact, ratio)
    return {
        "compared": len(exact),
        "verify": fxprune.verify(model, plan, inputs),
        "parameters_kept_stream": fxprune.cost(exact, plan).parameters / fxprune.cost(exact).parameters,
    }


class _Behaviour:
    """The shapes that a model returns, for one sample, for three, and for a larger one."""

    def __init__(self, case: Case, model: nn.Module) -> None:
        self._case = case
        self._one = self._shapes(model, case.example(1))
        self._other: dict[str, Any] = {"batch 3": lambda: case.example(3), "size": case.larger}
        self._seen = {name: self._if_possible(model, inputs) for name, inputs in self._other.items()}

    def _shapes(self, model: nn.Module, inputs: Any) -> list[tuple[int, ...]]:
        return [tuple(t.shape[self._case.free_dims :]) for t in _outputs(model, inputs)]

    def _if_possible(self, model: nn.Module, inputs: Callable[[], Any] | None) -> Any:
        """None where the model refuses such inputs, or there are none."""
        try:
            return self._shapes(model, inputs()) if inputs else None
        except Exception:
            return None

    def _gives(self, small: nn.Module, inputs: Callable[[], Any], seen: Any) -> bool:
        return self._shapes(small, inputs()) == seen

    def compared_with(self, small: nn.Module) -> Row:
        row: Row = {"forward": True, "shapes": self._shapes(small, self._case.example(1)) == self._one}
        for name, inputs in self._other.items():
            seen = self._seen[name]
            row[name] = None if seen is None else _said(partial(self._gives, small, inputs, seen))
        return row


def _survives(case: Case, small: nn.Module, plan: fxprune.Plan, options: Options) -> Row:
    """Files, copies, export and training, in this order: training changes the model."""
    inputs = case.example(1)
    outputs = _outputs(small, inputs)
    row: Row = {"copy": _same(outputs, _outputs(copy.deepcopy(small), inputs))}
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    again = fxprune.rewrite(case.build(), fxprune.Plan.from_json(plan.to_json()), inplace=True).eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    row["reload"] = _same(outputs, _outputs(again, inputs))
    del again, file
    if options.export_s:
        row["export"] = _like_original(case, small, lambda model: _export(model, inputs, options.export_s))
    else:
        row["export"] = None
    return {**row, "train": _like_original(case, small, lambda model: _trains(case, model))}


def _like_original(case: Case, small: nn.Module, check: Callable[[nn.Module], bool]) -> bool | str | None:
    """What the check says of the pruned model; None where the original fails it as well."""
    result = _said(lambda: check(small))
    if result in (True, TOO_SLOW):
        return result
    return None if _said(lambda: check(case.build())) is not True else result


def _export(model: nn.Module, inputs: Any, limit_s: int) -> bool:
    keywords = inputs if isinstance(inputs, dict) else {}
    arguments = () if keywords else inputs if isinstance(inputs, tuple) else (inputs,)
    with _limit(limit_s), _quiet():
        exported = torch.export.export(model, arguments, keywords).module()
    pairs = zip(_outputs(model, inputs), _outputs(exported, inputs), strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export prints whole graphs when it fails."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError when the time is over."""

    def stop(*_: Any) -> None:
        raise TimeoutError(TOO_SLOW)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _said(check: Callable[[], bool]) -> bool | str:
    """A check's answer, or what it raised, in one line."""
    try:
        return check() or "differs"
    except Exception as error:
        cause: BaseException = error
        while not isinstance(cause, TimeoutError) and (cause.__cause__ or cause.__context__):
            cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
        if isinstance(cause, TimeoutError):
            return TOO_SLOW
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return _tensors(_call(model, cloned(inputs)))  # some models write to their inputs


def _call(model: nn.Module, inputs: Any) -> Any:
    """As `fxprune.trace` calls it."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _tensors(out: Any) -> list[Tensor]:
    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _trains(case: Case, model: nn.Module) -> bool:
    """Whether one forward and backward in training mode give a gradient."""
    model.train()
    out = _tensors(_call(model, case.train_inputs()))
    loss = sum(t.float().square().mean() for t in out if t.requires_grad)
    loss.backward()  # type: ignore[union-attr]
    return any(p.grad is not None for p in model.parameters())


def _why(groups: fxprune.Groups) -> dict[str, int]:
    """Elements of parameters that lie in fixed slices, by the reasons that hold most; kernel sizes are left out."""
    found: Counter[str] = Counter()
    parameters = dict(groups.graph.model.named_parameters())
    for f in groups.fixed:
        weight = parameters.get(f.tensor)
        if weight is not None and "kernel" not in f.reason:
            found[f.reason] += weight.numel() // weight.shape[f.dim] * f.count
    return dict(found.most_common(3))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, 1e3 * (time.perf_counter() - start)


class _Peak:
    """How far the process's memory rises above its level at the start, in MB."""

    added_mb = 0.0

    def __enter__(self) -> _Peak:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._start = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.added_mb = max(0.0, (_status("VmHWM") - self._start) / 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)
