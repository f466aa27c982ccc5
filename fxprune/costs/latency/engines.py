"""Engines: what runs a model where it is served. An engine makes a model ready, and gives what runs one forward."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.errors import InputError
from fxprune.module.isolation import Inputs, call
from fxprune.optional import require

Engine = Callable[[nn.Module, Inputs], Callable[[], object]]


def engine_name(engine: Engine | None) -> str | None:
    """The name under which an engine's times are kept: of PyTorch's and of those of this module.

    None for any other: a function of the same name may do something else tomorrow.

    >>> engine_name(compiled), engine_name(lambda model, inputs: model)
    ('compiled', None)
    """
    if engine is None:
        return ""
    if engine is onnx_runtime:
        return f"onnx_runtime {require('onnxruntime', extra='onnx').__version__}"
    return "compiled" if engine is compiled else None


def onnx_runtime(model: nn.Module, inputs: Inputs) -> Callable[[], object]:
    """ONNX Runtime on the CPU, with as many threads as PyTorch has (`torch.get_num_threads()`).

    Args:
        model: in evaluation mode.
        inputs: positional and keyword arguments.

    Raises:
        InputError: `onnxscript` or `onnxruntime` is missing, or the model cannot be exported.
    """
    require("onnxscript", extra="onnx")
    try:
        session = onnx_session(_onnx(model, inputs))
    except InputError:
        raise
    except Exception as error:
        seen = " ".join(str(error).split())[:200]
        remedy = "convert the model to float32, or measure(groups) without engine="
        raise InputError("ONNX Runtime refuses the model", seen=seen, remedy=remedy) from error
    given = [t.detach().cpu().numpy() for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    return partial(session.run, None, {i.name: a for i, a in zip(session.get_inputs(), given, strict=True)})


def onnx_session(file: bytes | str) -> Any:
    """A session of ONNX Runtime on the CPU, with as many threads as PyTorch has.

    Args:
        file: a file's contents, or its path.

    Raises:
        InputError: `onnxruntime` is missing.
    """
    runtime = require("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _onnx(model: nn.Module, inputs: Inputs) -> bytes:
    args, kwargs = inputs
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, args, kwargs)
            try:
                made = torch.onnx.export(program, (), dynamo=True, verbose=False)
                assert made is not None
                return made.model_proto.SerializeToString()
            except Exception:  # old releases of PyTorch cannot convert every program with a new onnxscript
                file = io.BytesIO()
                torch.onnx.export(model, args, file, kwargs=kwargs, dynamo=False, verbose=False)  # type: ignore[arg-type]
                return file.getvalue()
    except Exception as error:
        seen = " ".join(str(error).split())[:200]
        remedy = "measure(groups) without engine=, or an engine that takes the model"
        raise InputError("torch.onnx refuses the model", seen=seen, remedy=remedy) from error


def compiled(model: nn.Module, inputs: Inputs) -> Callable[[], object]:
    """`torch.compile`, with its default backend; the first forward compiles.

    Args:
        model: in evaluation mode.
        inputs: positional and keyword arguments.
    """
    # PyTorch keeps what it compiles by code: of models that share theirs it compiles eight, and some for any width.
    code = call.__code__.replace(co_name=f"model_{next(_MODELS)}")
    run: Any = torch.compile(FunctionType(code, call.__globals__))
    return torch.no_grad()(partial(run, model, inputs))


_MODELS = count()
