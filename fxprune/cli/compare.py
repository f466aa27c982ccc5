"""`fxprune compare`: what a pruned model and its original give and take, side by side."""

from __future__ import annotations

import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fxprune
from fxprune.cli import data, origin
from fxprune.cli.answer import Answer, CommandError, command
from fxprune.cli.engines import Engine, compiled, eager, onnx_runtime, write_onnx
from fxprune.cli.options import DataOptions, Original, PrunedOptions
from fxprune.cli.quality import Evaluate, quality, valued
from fxprune.costs.latency.timer import median_by_turns

_MIB = 2**20
_COMPARING = "comparing outputs"
_OUTPUTS = ("relative difference", "value of")  # of which no part is left


@command
def compare(
    model: PrunedOptions,
    reading: DataOptions,
    original: Original = None,
    engines: Annotated[str, typer.Option(help="Which of eager, compile, onnx to measure.")] = "eager,compile,onnx",
    evaluate: Evaluate = None,
    rounds: Annotated[int, typer.Option(min=1, help="Forwards of each model and engine; the median counts.")] = 20,
) -> Answer:
    """Measure an original and its pruned model: accuracy or agreement, latency, memory and size."""
    names = engines.split(",")
    if unknown := [name for name in names if name not in _ENGINES]:
        raise CommandError(f"no engine '{unknown[0]}'; give some of {', '.join(_ENGINES)}")
    pair = origin.load(model, original)
    if pair.original.is_random:
        warnings.warn("the original's weights are random; --weights FILE or --pretrained reads its own", stacklevel=2)
    both = {"original": pair.original.model, "pruned": pair.small}
    inputs = pair.original.inputs
    costs = {name: fxprune.cost(fxprune.find_groups(fxprune.trace(m, inputs))) for name, m in both.items()}
    rows: dict[str, dict[str, float]] = {
        "MACs": {name: c.macs for name, c in costs.items()},
        "parameters": {name: c.parameters for name, c in costs.items()},
        "size of the weights, MiB": {name: _bytes(m) / _MIB for name, m in both.items()},
    }
    failures: dict[str, str] = {}
    given = data.load(reading, pair.original)
    if given is not None:
        rows |= _attempted(failures, _COMPARING, lambda: quality(both, given))
    if evaluate is not None:
        rows[f"value of {evaluate}"] = valued(evaluate, both)
    rows["peak memory of a forward, MiB"] = {n: peak(m, inputs) / _MIB for n, m in both.items()}
    for engine in names:
        rows |= _latencies(engine, both, inputs, rounds, failures)
    notes = _notes(failures, _shapes(inputs))
    code = 2 if _COMPARING in failures else 0  # an engine that lacks here is no error
    return Answer({"figures": rows, "failures": failures}, [_table(rows), *notes], code)


def _shapes(inputs: Any) -> str:
    return ", ".join("x".join(map(str, t.shape)) for t in tree_leaves(inputs) if isinstance(t, Tensor))


def _bytes(model: nn.Module) -> int:
    """Of what a model keeps in its files; tied weights count once."""
    return _sum_of(t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor))


def _sum_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of different tensors."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def _latencies(
    engine: str, models: Mapping[str, nn.Module], inputs: Any, rounds: int, failures: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Milliseconds of both models in one engine, measured by turns."""

    def measured() -> dict[str, dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            made = {name: _ENGINES[engine](m, inputs, Path(folder) / f"{name}.onnx") for name, m in models.items()}
            times = by_turns(made, inputs, rounds)
        return {f"{engine}, ms": {name: 1e3 * seconds for name, seconds in times.items()}}

    return _attempted(failures, engine, measured)


def _attempted(
    failures: dict[str, str], what: str, rows: Callable[[], dict[str, dict[str, float]]]
) -> dict[str, dict[str, float]]:
    """Rows of the table; none, and a note, where they cannot be had."""
    try:
        return rows()
    except Exception as error:
        failures[what] = " ".join(str(error).split())[:300]
        return {}


def _onnx(model: nn.Module, inputs: Any, path: Path) -> Engine:
    write_onnx(model, inputs, path)
    return onnx_runtime(path)


_ENGINES: dict[str, Callable[[nn.Module, Any, Path], Engine]] = {
    "eager": lambda model, _inputs, _path: eager(model),
    "compile": lambda model, _inputs, _path: compiled(model),
    "onnx": _onnx,
}


def by_turns(engines: Mapping[str, Engine], inputs: Any, rounds: int) -> dict[str, float]:
    """Median seconds of a forward of each, one after the other in every round, so that a busy machine slows all."""
    device = next(t.device for t in tree_leaves(inputs) if isinstance(t, Tensor))
    found = median_by_turns([partial(run, inputs) for run in engines.values()], device, rounds)
    return dict(zip(engines, found, strict=True))


def peak(model: nn.Module, inputs: Any) -> int:
    """Bytes of the tensors that are alive together at most while a forward runs, weights included."""
    memory = _Memory()
    with memory:
        eager(model)(inputs)
    return memory.most + _sum_of([*model.parameters(), *model.buffers()])


class _Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that ops make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = op(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in self._known | inside:
                self._add(t.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title="original and pruned", title_justify="left", header_style="bold")
    for name in ("", "original", "pruned", "left"):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *_cells(name, row))
    return table


def _cells(name: str, row: Mapping[str, float]) -> list[str]:
    if name.startswith(("accuracy", "same answer")):
        return [f"{row[n]:.2%}" if n in row else "" for n in ("original", "pruned")]
    form = "{:,.0f}" if name in ("MACs", "parameters") else "{:,.3g}" if name.startswith(_OUTPUTS) else "{:,.2f}"
    cells = [form.format(row[n]) if n in row else "" for n in ("original", "pruned")]
    return [*cells, *([] if name.startswith(_OUTPUTS) else [f"{row['pruned'] / max(row['original'], 1e-12):.1%}"])]


def _notes(failures: Mapping[str, str], shape: str) -> list[str]:
    threads = torch.get_num_threads()
    failed = [f"{engine} failed: {seen}" for engine, seen in failures.items()]
    clock = f"{threads} threads" if threads > 1 else "1 thread (its CPU time)"
    return [f"latency: inputs of shape {shape}, {clock}, median", *failed]
