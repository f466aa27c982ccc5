"""Trace: run a model once and record every ATen call as a `torch.fx` graph.

The run happens on *meta* tensors, which have shapes and no data: no arithmetic, and no copy of the weights. Only where
the model's control flow needs data (a detector's non-maximum suppression) does it run for real, on the example.
Nothing is assumed about how the model is written: what is recorded is what reaches PyTorch's dispatcher, so there is
no rule per module, and models that symbolic tracers refuse are recorded like any other.
"""

from __future__ import annotations

import operator
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fxprune import shapes
from fxprune.borrow import borrowed, call, plain_attention, set_training, swap_tensors, tensors_of, watch_forwards
from fxprune.errors import InputError, TraceError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Graph:
    """One recorded forward of a model.

    Attributes:
        fx: ATen calls in execution order. Each node's `meta` holds `shape` and `dtype` (tuples of them for calls with
            several results), `module` (qualified name of the issuing module), `function` (name of PyTorch's function
            that the code called) and `extra` (True where the call only happens in training mode and is thus no part of
            the inference cost).
        model: the caller's model, untouched.
        inputs: positional and keyword arguments of the recorded call.
        tensors: the model's parameters and buffers by name, each once, under its first name.
        on_meta: whether meta tensors sufficed; if not, the model's control flow depends on data.
        answers: the results of calls whose outcome depends on data, by node name, for replaying the run.
    """

    fx: fx.Graph
    model: nn.Module
    inputs: Inputs
    tensors: Mapping[str, Tensor]
    on_meta: bool
    answers: Mapping[str, Any] = field(default_factory=dict)


def trace(model: nn.Module, example_inputs: Any) -> Graph:
    """Record one forward of `model` in evaluation mode.

    Where parameters remain unused in that forward (auxiliary heads), a second one in training mode is recorded behind
    it, so that their widths are known as well.

    Args:
        model: any module. Its weights, buffers, mode, hooks, gradients and attributes, and the random states, are the
            same after the call, also when it fails.
        example_inputs: a tensor; a tuple of positional arguments; a dict of keyword arguments; anything else is passed
            as the only argument (detectors take a list of images).

    Raises:
        InputError: the inputs hold no tensor, or lie on a device that the model does not use.
        TraceError: the model's forward fails, or returns no tensor.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> graph = fxprune.trace(net, torch.zeros(1, 3, 8, 8))
    >>> [str(node.target) for node in graph.fx.nodes if node.op == "call_function"]
    ['aten.convolution.default', 'aten.relu.default']
    """
    inputs = as_call(example_inputs)
    tensors = tensors_of(model)
    _check(inputs, tensors)
    try:
        return _trace_on_meta(model, inputs, tensors)
    except Exception as meta_error:
        # Either the control flow needs data, or the model itself fails; the real run tells which.
        if all(t.is_meta for t in tensors.values()) and tensors:
            raise _failure(model, meta_error) from meta_error
        return _trace_for_real(model, inputs, tensors)


def as_call(example_inputs: Any) -> Inputs:
    """`example_inputs` as positional and keyword arguments."""
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, dict):
        return (), dict(example_inputs)
    return (example_inputs,), {}


def _check(inputs: Inputs, tensors: Mapping[str, Tensor]) -> None:
    given = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    if not given:
        raise InputError("the example inputs hold no tensor", seen=str(inputs)[:80], remedy="pass a tensor or a tuple")
    lazy = [name for name, t in tensors.items() if nn.parameter.is_lazy(t)]
    if lazy:
        raise InputError(
            "the model has uninitialised (lazy) parameters", where=lazy[0], remedy="run the model once first"
        )
    devices = {t.device for t in tensors.values()}
    foreign = [t.device for t in given if t.device not in devices]
    if devices and foreign and torch.device("meta") not in devices:
        raise InputError(
            "example inputs and model are on different devices",
            seen=f"inputs on {foreign[0]}, model on {', '.join(sorted(map(str, devices)))}",
            remedy=f"move the inputs: example_inputs.to('{min(map(str, devices))}')",
        )


def _trace_on_meta(model: nn.Module, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Graph:
    with borrowed(model):
        names = swap_tensors(model, meta_like)
        meta_inputs = tree_map(lambda t: meta_like("", t) if isinstance(t, Tensor) else t, inputs)
        recorder = _Recorder(names)
        with _recording(model, recorder):
            output = _run(model, meta_inputs, recorder, training=False)
            if not recorder.has_seen(tensors):
                recorder.attempt_extra(lambda: _run(model, meta_inputs, recorder, training=True))
    graph = recorder.finish(output)
    return Graph(graph, model, inputs, tensors, on_meta=True, answers=recorder.answers)


def _trace_for_real(model: nn.Module, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Graph:
    recorder = _Recorder({id(t): name for name, t in tensors.items()}, real=True)
    try:
        with borrowed(model, keep_buffers=True), _recording(model, recorder):
            output = _run(model, inputs, recorder, training=False)
    except Exception as error:
        raise _failure(model, error, recorder.stack) from error
    graph = recorder.finish(output)
    return Graph(graph, model, inputs, tensors, on_meta=False, answers=recorder.answers)


def _failure(model: nn.Module, error: Exception, stack: Sequence[str] = ()) -> TraceError:
    if isinstance(error, TraceError):
        return error
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    line = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return TraceError(
        "the model's forward fails on the example inputs",
        where=f"module '{stack[-1]}' of {type(model).__name__}" if stack else type(model).__name__,
        seen=f"{type(error).__name__}: {error}{line}",
        remedy="call model(example_inputs) yourself, in eval mode, and mend what it reports",
    )


def meta_like(_: str, t: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A meta tensor like `t`, or of another shape; parameters stay parameters."""
    if shape is None:
        meta = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
    else:
        meta = torch.empty(shape, dtype=t.dtype, device="meta")
    return nn.Parameter(meta, requires_grad=t.requires_grad) if isinstance(t, nn.Parameter) else meta


@contextmanager
def _recording(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    watch_forwards(model, recorder.stack)
    with plain_attention(), recorder, _Functions(recorder):
        yield


def _run(model: nn.Module, inputs: Inputs, recorder: _Recorder, training: bool) -> Any:
    set_training(model, training)
    recorder.begin(inputs)
    output = call(model, inputs)
    recorder.pin(output)
    return output


class _Functions(TorchFunctionMode):
    """Tells the recorder which function of PyTorch the model's code has called.

    `flatten` and `x.view(2, 512)` issue the same ATen call, but only the second can hold a width.
    """

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._recorder.function = func.__name__
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    """Appends a node to an `fx.Graph` for each ATen call."""

    def __init__(self, names: dict[int, str], real: bool = False) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.stack: list[str] = []
        self.function = ""
        self.answers: dict[str, Any] = {}
        self._names = names
        self._real = real
        self._seen: dict[str, fx.Node] = {}
        self._nodes: dict[int, tuple[Any, fx.Node, int | None]] = {}
        self._pinned: list[Any] = []
        self._extra = False
        self._inputs: list[fx.Node] = []

    def begin(self, inputs: Inputs) -> None:
        """Make placeholders for the tensors of `inputs`; a second run meets the first run's."""
        tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
        self._inputs = self._inputs or [
            self._describe(self.graph.placeholder(f"x{i}"), t) for i, t in enumerate(tensors)
        ]
        for node, tensor in zip(self._inputs, tensors, strict=True):
            self._know(tensor, node)
        self._pinned.append(tensors)

    def pin(self, value: Any) -> None:
        """Keep the tensors of `value` alive until the graph is finished."""
        self._pinned.append(value)

    def has_seen(self, tensors: Mapping[str, Tensor]) -> bool:
        return all(name in self._seen for name, t in tensors.items() if isinstance(t, nn.Parameter))

    def attempt_extra(self, run: Any) -> None:
        """Record `run` behind what there is; if it fails, forget it."""
        last, self._extra, seen = next(iter(reversed(self.graph.nodes))), True, dict(self._seen)
        try:
            self.pin(run())
        except Exception:  # A model that cannot train on these inputs; the evaluation run stands alone.
            self.stack.clear()
            self._seen = seen
            for node in reversed(list(self.graph.nodes)):
                if node is last:
                    break
                self.graph.erase_node(node)

    def finish(self, output: Any) -> fx.Graph:
        found = list(_tensors(output))
        if not found:
            raise TraceError("the model's output holds no tensor", seen=type(output).__name__, remedy="return tensors")
        self.graph.output(tuple(self._node(t) for t in found))
        return self.graph

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._real:
            result = op(*args, **kwargs)
        else:
            if any(not t.is_meta for t in _direct(args, kwargs)):
                args, kwargs = self._move_to_meta(args, kwargs)
            result = shapes.answer(op, args, kwargs)
        self._record(op, args, kwargs, result)
        return result

    def _move_to_meta(self, args: Any, kwargs: Any) -> Any:
        """Constants made by the model's code are real tensors; calls that mix them with meta tensors need meta."""
        if not any(t.is_meta for t in _direct(args, kwargs)):
            return args, kwargs

        def move(t: Any) -> Any:
            if not isinstance(t, Tensor) or t.is_meta:
                return t
            moved = meta_like("", t)
            self._know(moved, self._node(t))
            self._pinned.append(moved)
            return moved

        return tree_map(move, args), tree_map(move, kwargs)

    def _record(self, op: Any, args: Any, kwargs: Any, result: Any) -> None:
        node = self.graph.call_function(
            op, tuple(self._refer(a) for a in args), {k: self._refer(v) for k, v in kwargs.items()}
        )
        node.meta["module"] = self.stack[-1] if self.stack else ""
        node.meta["extra"] = self._extra
        node.meta["function"] = self.function
        if isinstance(result, Tensor):
            self._know(result, self._describe(node, result))
        elif isinstance(result, tuple | list):
            node.meta["shape"] = tuple(tuple(t.shape) if isinstance(t, Tensor) else () for t in result)
            node.meta["dtype"] = tuple(t.dtype if isinstance(t, Tensor) else None for t in result)
            for i, t in enumerate(result):
                if isinstance(t, Tensor):
                    self._know(t, node, i)
        else:
            node.meta["shape"], node.meta["dtype"] = (), None
            self.answers[node.name] = result

    def _describe(self, node: fx.Node, tensor: Tensor) -> fx.Node:
        node.meta["shape"], node.meta["dtype"] = tuple(tensor.shape), tensor.dtype
        return node

    def _know(self, tensor: Tensor, node: fx.Node, item: int | None = None) -> None:
        # Weak, so that a real run keeps no activation alive; identity is checked on each look-up.
        self._nodes[id(tensor)] = (weakref.ref(tensor), node, item)

    def _refer(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, list | tuple):
            return [self._refer(v) for v in value]
        return value

    def _node(self, tensor: Tensor) -> fx.Node:
        known = self._nodes.get(id(tensor))
        if known is None or known[0]() is not tensor:
            return self._source(tensor)
        _, node, item = known
        if item is None:
            return node
        part: fx.Node = self.graph.call_function(operator.getitem, (node, item))
        part.meta["module"], part.meta["extra"] = node.meta["module"], node.meta["extra"]
        self._know(tensor, self._describe(part, tensor))
        return part

    def _source(self, tensor: Tensor) -> fx.Node:
        """A tensor met for the first time: a parameter, a buffer, or a constant that the model's code holds."""
        name = self._names.get(id(tensor))
        if name is None:
            node = self.graph.create_node("get_attr", f"_constant_{len(self._pinned)}")
            node.meta["constant"] = True
            self._pinned.append(tensor)
        elif name in self._seen:
            node = self._seen[name]
        else:
            node = self._seen[name] = self.graph.create_node("get_attr", name)
        self._know(tensor, self._describe(node, tensor))
        return node


def _direct(args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors among an ATen call's arguments, which nest one level at most."""
    for a in (*args, *kwargs.values()):
        if isinstance(a, Tensor):
            yield a
        elif isinstance(a, list | tuple):
            yield from (b for b in a if isinstance(b, Tensor))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an output of any form: tensors, containers, dataclasses, objects with attributes."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            for f in fields(leaf):
                yield from _tensors(getattr(leaf, f.name))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type | nn.Module):
            for v in vars(leaf).values():
                yield from _tensors(v)
