"""One model of torchvision: pruned, and everything checked that must hold for what comes out."""

from __future__ import annotations

import copy
import io
import logging
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision_models as tv
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxprune

Row = dict[str, Any]
# What must hold of every model, and what must hold where the original can do it as well.
CHECKS = ("forward", "batch 3", "train", "shapes", "reload", "copy")
WHERE_POSSIBLE = ("size", "export")
TOO_SLOW = "too slow"
# The original can't, or nobody knows.
UNKNOWN = (None, TOO_SLOW)


@dataclass(frozen=True)
class Options:
    """What to do with each model.

    Attributes:
        ratio: part of every group's channels to remove.
        export_s: seconds that `torch.export` may take for one model; 0 leaves it out.
    """

    ratio: float = 0.5
    export_s: int = 0


DEVIATION = 1e-5  # of pruned from masked; models that insist on float32 come to 2e-6


def passed(row: Row) -> bool:
    return "error" not in row and not failures(row)


def failures(row: Row) -> list[str]:
    """The checks that failed, each with what was said."""
    required = [c for c in CHECKS if row.get(c) is not True]
    if row.get("verify") is not None and not row["verify"] <= DEVIATION:
        required.append(f"verify: {row['verify']:.0e}")
    return required + [f"{c}: {row[c]}" for c in WHERE_POSSIBLE if row.get(c) not in (True, *UNKNOWN)]


def examine(name: str, options: Options) -> Row:
    """One model's row; a failure is a row as well."""
    row: Row = {"model": name, "family": tv.family(name)}
    start = time.perf_counter()
    try:
        torch.manual_seed(0)
        row |= _examine(name, tv.build(name), options)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
        row["traceback"] = traceback.format_exc()
    return row | {"seconds": time.perf_counter() - start}


def _examine(name: str, model: nn.Module, options: Options) -> Row:
    inputs = tv.example(name)
    before = _Behaviour(name, model)  # also warms the allocator
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
    return {**row, **before.compared_with(small), **_survives(name, small, plan, options)}


def _halved(model: nn.Module, groups: fxprune.Groups, ratio: float) -> fxprune.Plan:
    return fxprune.planners.Uniform(ratio)(groups, fxprune.scorers.L2Norm()(model, groups))


def _verified(model: nn.Module, graph: fxprune.Graph, groups: fxprune.Groups, inputs: Any, ratio: float) -> Row:
    """Pruned against masked, while all that a norm, mean or softmax runs over stays: the stream of a transformer."""
    mixed = [g.name for g in groups if g.mixed_by]
    exact = fxprune.find_groups(graph, mixed) if mixed else groups
    # What is ignored can make another group the first that an op mixes.
    while again := [g.name for g in exact if g.mixed_by]:
        mixed += again
        exact = fxprune.find_groups(graph, mixed)
    if not len(exact):
        return {"compared": 0, "verify": None, "parameters_kept_stream": 1.0}
    plan = _halved(model, exact, ratio)
    return {
        "compared": len(exact),
        "verify": fxprune.verify(model, plan, inputs),
        "parameters_kept_stream": fxprune.cost(exact, plan).parameters / fxprune.cost(exact).parameters,
    }


class _Behaviour:
    """The shapes that a model returns, for one, for three and for larger images."""

    def __init__(self, name: str, model: nn.Module) -> None:
        self._name = name
        self._one, self._three = self._shapes(model), self._shapes(model, batch=3)
        try:
            self._larger: Any = self._shapes(model, size=_larger(name))
        except Exception:  # The model insists on its size.
            self._larger = None

    def _shapes(self, model: nn.Module, batch: int = 1, size: int | None = None) -> list[tuple[int, ...]]:
        """Shapes of all outputs; without the first dim where the number of detections is free."""
        skip = 1 if tv.family(self._name) == "detection" else 0
        return [tuple(t.shape[skip:]) for t in _outputs(model, tv.example(self._name, batch, size))]

    def compared_with(self, small: nn.Module) -> Row:
        shapes = self._shapes(small), self._shapes(small, batch=3)
        size: Any = None
        if self._larger is not None:
            size = _said(lambda: self._shapes(small, size=_larger(self._name)) == self._larger)
        return {"forward": True, "batch 3": True, "shapes": shapes == (self._one, self._three), "size": size}


def _larger(name: str) -> int:
    return tv.image_size(name) + (64 if "raft" in name else 32)


def _survives(name: str, small: nn.Module, plan: fxprune.Plan, options: Options) -> Row:
    """Files, copies, export and training, in this order: training changes the model."""
    inputs = tv.example(name)
    outputs = _outputs(small, inputs)
    row: Row = {"copy": _same(outputs, _outputs(copy.deepcopy(small), inputs))}
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    again = fxprune.rewrite(tv.build(name), fxprune.Plan.from_json(plan.to_json()), inplace=True).eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    row["reload"] = _same(outputs, _outputs(again, inputs))
    del again, file
    row["export"] = _exports(name, small, inputs, options.export_s)
    _train(name, small)
    return {**row, "train": True}


def _exports(name: str, small: nn.Module, inputs: Any, limit_s: int) -> bool | str | None:
    """Whether `torch.export` takes the pruned model; None where it does not take the original, or is left out."""
    if not limit_s:
        return None
    result = _said(lambda: _export(small, inputs, limit_s))
    if result in (True, TOO_SLOW):
        return result
    return None if _said(lambda: _export(tv.build(name), inputs, limit_s)) is not True else result


def _export(model: nn.Module, inputs: Any, limit_s: int) -> bool:
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    with _limit(limit_s), _quiet():
        exported = torch.export.export(model, arguments).module()
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
        out = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _train(name: str, model: nn.Module) -> None:
    """One forward and backward in training mode; every parameter that is used must get a gradient."""
    model.train()
    inputs = tv.example(name, 3 if tv.image_size(name) < 224 else 2)
    if isinstance(inputs, list):
        out = model(inputs, tv.targets(name, inputs))
    else:
        out = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    loss = sum(t.float().square().mean() for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad)
    loss.backward()  # type: ignore[union-attr]
    assert any(p.grad is not None for p in model.parameters()), "no gradient"


def _why(groups: fxprune.Groups) -> dict[str, int]:
    """Fixed elements of parameters by reason, boundaries of the model and kernel sizes left out."""
    expected = ("model input", "model output", "kernel size")
    found: dict[str, int] = {}
    for f in groups.fixed:
        if not f.reason.startswith(expected) and "running" not in f.tensor and f.count > 1:
            found[f.reason] = found.get(f.reason, 0) + f.count
    return dict(sorted(found.items(), key=lambda kv: -kv[1])[:3])


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
