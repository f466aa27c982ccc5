"""Trace: run a model once and record every ATen call as a `torch.fx` graph.

The run happens on *meta* tensors, which have shapes and no data: no arithmetic, and no copy of the weights. Only where
the model's control flow needs data (a detector's non-maximum suppression) does it run for real, on the example.
Nothing is assumed about how the model is written: what is recorded is what reaches PyTorch's dispatcher, so there is
no rule per module, and models that symbolic tracers refuse are recorded like any other.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.errors import InputError, TraceError
from fxprune.module.attributes import mend
from fxprune.module.garbage import no_collections
from fxprune.module.isolation import (
    Inputs,
    as_call,
    call,
    cloned,
    isolated,
    plain_attention,
    replaced_forwards,
    set_training,
    watch_forwards,
)
from fxprune.module.tensors import check_initialised, swap_held, swap_tensors, tensor_names, tensors_of
from fxprune.module.wrappers import check_unwrapped
from fxprune.tracing.called_functions import Functions
from fxprune.tracing.plain_layers import spare_plain_layers
from fxprune.tracing.provenance import Run
from fxprune.tracing.recorder import Recorder, meta_like, resized
from fxprune.tracing.tagging import followed_functions, tagged_attributes
from fxprune.tracing.training_runs import asks_for_mode


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """One recorded forward of a model.

    Attributes:
        fx: ATen calls in execution order. Each node's `meta` holds `shape` and `dtype` (tuples of them for calls with
            several results), `module` (qualified name of the issuing module), `function` (name of PyTorch's function
            that the code called; empty in the plainest layers), `extra` (True where the call only happens in training
            mode and is thus no part of the inference cost) and, in a run on real tensors, `read` where the code has
            read values of the result otherwise than by calls (`tolist`). A `get_attr` node's holds `elsewhere`, its
            name, where the code reads a tensor of the model by another way than from its module, and `overlaps`, the
            name of another tensor that the code reads, where both are views of the same memory.
        model: the caller's model, untouched.
        inputs: positional and keyword arguments of the recorded call.
        tensors: the model's parameters and buffers by name, each once, under its first name.
        on_meta: whether meta tensors sufficed; if not, the model's control flow depends on data.
        answers: the results of calls whose outcome depends on data, by node name, for replaying the run.
        run: where the numbers of the model's code came from; None if that was not asked for.
        untrained: what the run in training mode failed with, if it was tried and failed.
    """

    fx: fx.Graph
    model: nn.Module
    inputs: Inputs
    tensors: Mapping[str, Tensor]
    on_meta: bool
    answers: Mapping[str, Any] = field(default_factory=dict)
    run: Run | None = None
    untrained: str = ""

    def __repr__(self) -> str:
        calls = sum(n.op == "call_function" for n in self.fx.nodes)
        return f"Graph({type(self.model).__name__}: {calls} calls, {len(self.tensors)} tensors)"


@no_collections()
def trace(model: nn.Module, example_inputs: Any) -> Graph:
    """Record one forward of `model` in evaluation mode.

    Where parameters or buffers remain unused in that forward, or the model's code asks whether it is trained, a second
    one in training mode is recorded behind it if it uses more of them, makes other calls or gives other outputs
    (auxiliary heads, codebooks that follow the data), so that the widths in it are known as well.

    Args:
        model: any module. Its weights, buffers, mode, hooks, gradients and attributes, and the random states, are the
            same after the call, also when it fails.
        example_inputs: a tensor; a tuple of positional arguments; a dict or other mapping of keyword arguments;
            anything else is passed as the only argument (detectors take a list of images).

    Returns:
        The recorded calls with the model that they are of.

    Raises:
        InputError: the model is none, wrapped (compiled, on several devices), or holds a scripted module; the inputs
            hold no tensor, or lie on a device that the model does not use.
        TraceError: the model's forward fails, or returns no tensor.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> graph = fxprune.trace(net, torch.zeros(1, 3, 8, 8))
    >>> [str(node.target) for node in graph.fx.nodes if node.op == "call_function"]
    ['aten.convolution.default', 'aten.relu.default']
    """
    if not isinstance(model, nn.Module):
        raise InputError("the model is not a torch.nn.Module", seen=type(model).__name__, remedy="give a module")
    check_unwrapped(model)
    inputs = as_call(example_inputs)
    tensors = tensors_of(model)
    _check(inputs, tensors)
    # Either the control flow needs data, or the code refuses ints that are of another type, or the model itself fails.
    dataless = bool(tensors) and all(t.is_meta for t in tensors.values())
    ways = [_trace_on_meta] if dataless else [_trace_on_meta, _trace_for_real]
    failures: list[Exception] = []
    for tags in (True, False):
        for way in ways:
            try:
                return way(model, inputs, tensors, tags)
            except Exception as error:
                failures.append(error)
    raise _failure(model, inputs, failures[-1]) from failures[-1]


def _check(inputs: Inputs, tensors: Mapping[str, Tensor]) -> None:
    given = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    if not given:
        args, kwargs = inputs
        seen = ", ".join(type(value).__name__ for value in (*args, *kwargs.values())) or "nothing"
        remedy = "pass a tensor (torch.as_tensor(array)), or a tuple or mapping of them"
        raise InputError("the example inputs hold no tensor", seen=seen, remedy=remedy)
    check_initialised(tensors)
    devices = {t.device for t in tensors.values()}
    foreign = [t.device for t in given if t.device not in devices]
    if devices and foreign and torch.device("meta") not in devices:
        raise InputError(
            "example inputs and model are on different devices",
            seen=f"inputs on {foreign[0]}, model on {', '.join(sorted(map(str, devices)))}",
            remedy=f"move the inputs: example_inputs.to('{min(map(str, devices))}')",
        )


def retrace(graph: Graph, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Mapping[str, int]]) -> Graph:
    """Record the model of a graph again, with tensors of other shapes and other attributes.

    Raises:
        Exception: whatever the model's code has against them.
    """
    with isolated(graph.model, swapped=True) as work:
        names = swap_tensors(work, lambda n, t: meta_like(n, t, shapes.get(n)))
        names |= swap_held(work, lambda n, t: resized(n, t, shapes.get(n)))
        recorder = Recorder(_known(names, graph.tensors), tags=None)
        return _recorded_on_meta(graph.model, mend(work, attributes), graph.inputs, graph.tensors, recorder)


def _known(names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> dict[int, str]:
    """The names of the model's own tensors: in a copy, an alias of a buffer looks like a tensor by itself."""
    return {i: name for i, name in names.items() if name in tensors}


def _trace_on_meta(model: nn.Module, inputs: Inputs, tensors: Mapping[str, Tensor], tags: bool) -> Graph:
    with isolated(model, swapped=True) as work:
        held = swap_held(work, lambda name, t: resized(name, t, None))
        names = _known(swap_tensors(work, meta_like) | held, tensors)
        recorder = Recorder(names, originals=tensors, tags=tags)
        graph = _recorded_on_meta(model, work, inputs, tensors, recorder)
    given = not graph.untrained or isinstance(recorder.extra_error, ValueError | TypeError | AssertionError)
    if not given and not all(t.is_meta for t in tensors.values()):
        with suppress(Exception):  # what training mode does may follow the data, though evaluation does not
            for_real = _trace_for_real(model, inputs, tensors, tags)
            if any(node.meta.get("extra") for node in for_real.fx.nodes):
                return for_real
            return replace(graph, untrained=for_real.untrained)
    return graph


def _recorded_on_meta(
    model: nn.Module, work: nn.Module, inputs: Inputs, tensors: Mapping[str, Tensor], recorder: Recorder
) -> Graph:
    """The graph of `model`, recorded on `work`, its copy on meta tensors."""
    meta_inputs = tree_map(lambda t: meta_like("", t) if isinstance(t, Tensor) else t, inputs)
    with _recording(work, recorder, on_meta=True):
        _run(work, meta_inputs, recorder, training=False)
        if not recorder.has_seen(tensors) or asks_for_mode(model):
            recorder.attempt_extra(lambda: _run(work, meta_inputs, recorder, training=True), tensors)
    return _graph(model, work, inputs, tensors, recorder, on_meta=True)


def _graph(
    model: nn.Module,
    work: nn.Module,
    inputs: Inputs,
    tensors: Mapping[str, Tensor],
    recorder: Recorder,
    *,
    on_meta: bool,
) -> Graph:
    """`work` is the copy of the model that ran."""
    failed = recorder.extra_error
    untrained = "" if failed is None else f"{type(failed).__name__}: {failed}"
    return Graph(
        recorder.finish(model, work, tensors),
        model,
        inputs,
        tensors,
        on_meta,
        recorder.answers,
        recorder.run,
        untrained,
    )


def _trace_for_real(model: nn.Module, inputs: Inputs, tensors: Mapping[str, Tensor], tags: bool) -> Graph:
    stack: list[str] = []
    try:
        with isolated(model, keep_buffers=True) as work:
            names, given = _known(tensor_names(work), tensors), cloned(inputs)
            recorder = Recorder(names, stack, real=True, tags=tags)
            with _recording(work, recorder, on_meta=False):
                _run(work, given, recorder, training=False)
                if not recorder.has_seen(tensors) or asks_for_mode(model):
                    recorder.attempt_extra(lambda: _run(work, cloned(inputs), recorder, training=True), tensors)
    except Exception as error:
        raise _failure(model, inputs, error, stack) from error
    return _graph(model, work, inputs, tensors, recorder, on_meta=False)


def _failure(model: nn.Module, inputs: Inputs, error: Exception, stack: Sequence[str] = ()) -> TraceError:
    if isinstance(error, TraceError):
        return error
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    line = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, NotImplementedError) and "HigherOrderOperator" in str(error):
        return TraceError(
            "the model's forward calls an operator that takes functions, which cannot be recorded",
            where=type(model).__name__,
            seen=str(error).partition(" and mode")[0],
            remedy="write it as plain Python, or choose between two results by their values",
        )
    named = " (a mapping is given by keyword; (mapping,) is one argument)" if inputs[1] else ""
    return TraceError(
        "the model's forward fails on the example inputs",
        where=f"module '{stack[-1]}' of {type(model).__name__}" if stack else type(model).__name__,
        seen=f"{type(error).__name__}: {error}{line}",
        remedy=f"call the model on them yourself{named}, in eval mode, and mend what it reports",
    )


@contextmanager
def _recording(model: nn.Module, recorder: Recorder, *, on_meta: bool) -> Iterator[None]:
    with ExitStack() as around:
        around.enter_context(replaced_forwards(model))
        if on_meta:
            spare_plain_layers(model, recorder)
        watch_forwards(model, recorder.stack)
        if not on_meta:
            around.enter_context(plain_attention())
        if recorder.run is not None and recorder.run.tags:
            around.enter_context(tagged_attributes(model, recorder.run))
            around.enter_context(followed_functions(model))
        around.enter_context(recorder)
        around.enter_context(Functions(recorder))
        yield


def _run(model: nn.Module, inputs: Inputs, recorder: Recorder, training: bool) -> None:
    set_training(model, training)
    recorder.begin(inputs)
    recorder.end(call(model, inputs))
