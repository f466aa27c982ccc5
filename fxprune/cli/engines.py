"""A model in eager mode, compiled, and in ONNX Runtime: each is a function from a call's inputs to the outputs."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.cli.answer import CommandError
from fxprune.cli.libraries import in_a_line
from fxprune.costs.latency.engines import onnx_session
from fxprune.module.isolation import as_call, cloned, isolated, output_tensors
from fxprune.optional import require

Engine = Callable[[Any], list[Tensor]]


def eager(model: nn.Module) -> Engine:
    """The model as it is."""

    def run(inputs: Any) -> list[Tensor]:
        args, kwargs = as_call(inputs)
        with torch.inference_mode():
            return list(output_tensors(model(*args, **kwargs)))

    return run


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What the model gives; inputs and buffers that it writes to are afterwards as before."""
    args, kwargs = cloned(as_call(inputs))
    with isolated(model, keep_buffers=True) as work:
        return eager(work)(kwargs or args)


def compiled(model: nn.Module) -> Engine:
    """The model through `torch.compile`, with its default backend."""
    torch._dynamo.reset()
    return eager(torch.compile(model))  # type: ignore[arg-type]


def exported(model: nn.Module, inputs: Any, dynamic: bool = False) -> torch.export.ExportedProgram:
    """The model as an exported program.

    Args:
        model: in evaluation mode.
        inputs: example inputs.
        dynamic: whether the first dim of every input may have any length.

    Raises:
        CommandError: it cannot be exported.
    """
    # A first dim of 1 would be taken for a constant.
    args, kwargs = tree_map(_twice, as_call(inputs)) if dynamic else as_call(inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(model, args, kwargs, dynamic_shapes=_dynamic(model, args, kwargs, dynamic))
    except Exception as error:
        hint = "; without --dynamic-batch the batch may stay as it is" if dynamic else ""
        raise CommandError(f"torch.export refuses the model: {in_a_line(error)}{hint}") from error


def _twice(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, Tensor) and len(value) == 1 else value


def _dynamic(model: nn.Module, args: Any, kwargs: Any, wanted: bool) -> Any:
    if not wanted:
        return None
    batch = torch.export.Dim("batch", min=1)
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    return tree_map(lambda t: {0: batch} if isinstance(t, Tensor) else None, dict(bound))


def write_onnx(model: nn.Module, inputs: Any, path: Path, dynamic: bool = False) -> None:
    """Write the model as an ONNX file.

    Raises:
        InputError: a package is missing.
        CommandError: the model cannot be exported.
    """
    require("onnxscript", extra="onnx")
    program = exported(model, inputs, dynamic)
    try:
        with _quiet():
            torch.onnx.export(program, (), str(path), dynamo=True, external_data=False, verbose=False)
    except Exception as error:
        try:  # old releases of PyTorch cannot convert every program with a new onnxscript
            _write_traced(model, inputs, path, dynamic)
        except Exception:
            raise CommandError(f"torch.onnx refuses the model: {in_a_line(error)}") from error


_FOUR = 4


def uneven_convolutions(path: Path) -> tuple[int, int]:
    """How many convolutions of an ONNX file read or make channels that 4 does not divide, and how many there are.

    ONNX Runtime has a quick way on CPUs for blocks of channels, which it takes for the others alone. An image of up to
    4 channels does not count.
    """
    graph = require("onnx", extra="onnx").load(str(path), load_external_data=False).graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    found = [shapes[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in shapes]
    uneven = [rows % _FOUR or (columns > _FOUR and columns % _FOUR) for rows, columns, *_ in found]
    return sum(map(bool, uneven)), len(found)


def _write_traced(model: nn.Module, inputs: Any, path: Path, dynamic: bool) -> None:
    """Write an ONNX file by PyTorch's older exporter, which records one run."""
    args, kwargs = as_call(inputs)
    names = [f"input_{i}" for i, t in enumerate(tree_leaves((args, kwargs))) if isinstance(t, Tensor)]
    axes = {name: {0: "batch"} for name in names} if dynamic else None
    with _quiet():
        torch.onnx.export(
            model, args, str(path), kwargs=kwargs, input_names=names, dynamic_axes=axes, dynamo=False, verbose=False
        )


@contextmanager
def _quiet() -> Any:
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


def onnx_runtime(path: Path) -> Engine:
    """An ONNX file in ONNX Runtime, on the CPU, with as many threads as torch has.

    Raises:
        InputError: the package is missing.
        CommandError: it refuses the file.
    """
    require("onnxruntime", extra="onnx")
    try:
        session = onnx_session(str(path))
    except Exception as error:
        raise CommandError(f"ONNX Runtime refuses {path}: {in_a_line(error)}") from error

    def run(inputs: Any) -> list[Tensor]:
        given = [t for t in tree_leaves(as_call(inputs)) if isinstance(t, Tensor)]
        if any(t.dtype is torch.bfloat16 for t in given):
            raise CommandError(f"{path} takes bfloat16, which NumPy has not; export the model in another precision")
        named = {i.name: t.detach().cpu().numpy() for i, t in zip(session.get_inputs(), given, strict=True)}
        return [torch.as_tensor(a) for a in session.run(None, named)]

    return run


def deviation(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference of two engines' outputs, as a part of the largest finite value that is expected.

    Infinite where one of them has a number that is not finite, or of another shape, and the other has not the same.
    """
    return max((_apart(a.cpu(), b.cpu()) for a, b in zip(expected, found, strict=True)), default=0.0)


def _apart(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return math.inf
    exact = torch.complex128 if expected.is_complex() or found.is_complex() else torch.float64
    a, b = expected.to(exact), found.to(exact)
    other = (a != b) & ~(a.isnan() & b.isnan())
    if not (a[other].isfinite() & b[other].isfinite()).all():
        return math.inf
    largest = a[a.isfinite()].abs().amax() if a.isfinite().any() else torch.tensor(1.0)
    return float((a[other] - b[other]).abs().amax() / largest.clamp_min(1e-30)) if other.any() else 0.0
