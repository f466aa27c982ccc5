"""Probe: run the model on cut meta tensors and compare every ATen call with the prediction."""

from __future__ import annotations

import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.widths.prediction import Prediction
from fxprune.analysis.widths.script import Diverged, Script, asks_for_data, recorded_calls
from fxprune.analysis.widths.words import as_text, brief, shown
from fxprune.module.attributes import mend
from fxprune.module.composite_calls import is_composite
from fxprune.module.dispatch import DispatchMode
from fxprune.module.isolation import call, cloned, isolated, replaced_forwards, set_training, watch_forwards
from fxprune.module.tensors import swap_held, swap_tensors
from fxprune.tracing import meta_kernels
from fxprune.tracing.called_functions import as_recorded
from fxprune.tracing.functions import RECURRENT
from fxprune.tracing.recorder import all_on_meta, meta_like, resized


@dataclass(frozen=True, eq=False)
class Difference:
    """A recorded call that did not deliver what the labels predict, and the line of the model's code that made it.

    A `scalar` is no shape's difference, but a number's.
    """

    node: fx.Node
    what: str
    where: str
    scalar: bool = False


@dataclass(frozen=True)
class Refusal:
    """The model's code raised, or took another way than in the recorded run.

    Attributes:
        module: where.
        what: what it said.
        where: the line of the model's code, and the module.
        after: the last call before it.
        unseen: the recorded calls behind it.
        diverged: the model follows its data, and has taken another way on meta tensors, or asked them for data.
        otherwise: it has made another call than in the recorded run.
    """

    module: str
    what: str
    where: str = ""
    after: fx.Node | None = None
    unseen: Sequence[fx.Node] = ()
    diverged: bool = False
    otherwise: bool = False


def probe(
    prediction: Prediction, attributes: Mapping[str, Mapping[str, int]], factors: Mapping[str, float]
) -> tuple[list[Difference], Refusal | None]:
    """Run the model once with tensors cut as predicted and attributes mended.

    `factors`, by the names of calls, are those by which their scalars differ from the recorded ones. Returns all
    differences, and the refusal that ended the run early, if one did.
    """
    graph, parameters = prediction.analysis.labelling.graph, prediction.analysis.labelling.parameter_axes

    def cut(name: str, tensor: Tensor) -> Tensor:
        shape = prediction.shape(parameters[name]) if name in parameters else tensor.shape
        if not graph.on_meta and shape == tensor.shape and not isinstance(tensor, nn.Parameter):
            return tensor  # the code may go by what it says
        return meta_like(name, tensor, None if shape == tensor.shape else shape)

    with isolated(graph.model, keep_buffers=not graph.on_meta, swapped=graph.on_meta) as model:
        swap_tensors(model, cut)
        swap_held(model, lambda n, t: resized(n, t, prediction.shape(parameters[n]) if n in parameters else None))
        model = mend(model, attributes)
        inputs = tree_map(_on_meta, graph.inputs) if graph.on_meta else cloned(graph.inputs)
        prober = _Prober(prediction, factors)
        with replaced_forwards(model), prober, _Reshapes(prober):
            watch_forwards(model, prober.stack)
            for training in (False, True):
                set_training(model, training)
                if not prober.run(training, lambda: call(model, inputs)):
                    break
    return prober.differences, prober.refusal


class _Prober(DispatchMode):
    """Compares each call of the running model with the recorded one, cut as predicted."""

    def __init__(self, prediction: Prediction, factors: Mapping[str, float]) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.differences: list[Difference] = []
        self.refusal: Refusal | None = None
        self._prediction, self._factors = prediction, factors
        self._axes = prediction.analysis.labelling.axes
        self._graph = prediction.analysis.labelling.graph
        self._script = Script([])

    def run(self, training: bool, forward: Callable[[], Any]) -> bool:
        """Run one forward, if it was recorded; False if the model's code refused to go on."""
        nodes = [n for n in recorded_calls(self._graph.fx) if n.meta["extra"] is training]
        self._script = Script(nodes)
        try:
            if nodes:
                forward()
        except Exception as error:
            done = self._script.at
            last = nodes[done - 1] if done else None
            diverged = not self._graph.on_meta and (isinstance(error, Diverged) or asks_for_data(error))
            module = self.stack[-1] if self.stack else ""
            what, where, otherwise = brief(error), _raised_at(error, module), isinstance(error, Diverged)
            self.refusal = Refusal(module, what, where, last, nodes[done:], diverged, otherwise)
            return False
        return True

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_composite(op):
            with self:
                return op.decompose(*args, **kwargs)
        if meta_kernels.is_void(op, args):  # it is not in the script
            return op(*args, **kwargs)
        node = self._script.next(op)
        if node is not None:
            self._check_numbers(node, "constant", _constant(node, args), 1e-6)  # in the tensor's precision
        if op not in meta_kernels.MIXED and not all_on_meta((*args, *kwargs.values())):
            args, kwargs = _moved((args, kwargs))
        if node is None:  # from meta there is no copy to a device
            from_meta = isinstance(args[0], Tensor) and args[0].is_meta
            elsewhere = {"device": args[0].device} if from_meta and "device" in kwargs else {}
            return meta_kernels.answer(op, args, {**kwargs, **elsewhere})
        predicted = self._prediction.shapes(self._axes[node])
        try:
            result = meta_kernels.answer(op, args, kwargs)
        except Exception as error:
            if asks_for_data(error) and not self._graph.on_meta:  # which says nothing of widths
                return self._graph.answers.get(node.name, _made(node, predicted, args))
            return self._differ(node, brief(error), args)
        seen = _shapes(result)
        if _as_read(node, seen) != _as_read(node, predicted):
            return self._differ(node, f"{as_text(seen)} instead of {as_text(predicted)}", args)
        self._check_numbers(node, "scalar", _scalars(node, args, kwargs), 1e-9)
        return result

    def reshape(self, what: str, args: Any) -> Any:
        """A reshape that was refused before it reached the dispatcher."""
        with _disable_current_modes():
            return self._differ(self._script.next_reshape(), what, args)

    def recurrent(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A recurrent layer; on real tensors PyTorch goes another way through it than on meta tensors."""
        if self._graph.on_meta:
            return func(*args, **kwargs)
        self._script.skip_function(func.__name__)
        with _disable_current_modes():
            return func(*args, **kwargs)

    def _differ(self, node: fx.Node, what: str, args: Any) -> Any:
        """Note a difference; go on with what was predicted.

        Ops that need data fail on meta tensors; that matters only where a channel is concerned.
        """
        if node.name in self._graph.answers:
            return self._graph.answers[node.name]
        if self._graph.on_meta or self._prediction.touched(node):
            self._note(node, what)
        return _made(node, self._prediction.shapes(self._axes[node]), args)

    def _note(self, node: fx.Node, what: str, *, scalar: bool = False) -> None:
        """Note a difference with the line of the model's code that issued the present call."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_MACHINERY):
            frame = frame.f_back
        where = shown(frame.f_code.co_filename, frame.f_lineno, node.meta["module"])
        self.differences.append(Difference(node, what, where, scalar))

    def _check_numbers(self, node: fx.Node, what: str, pairs: Iterable[tuple[float, float]], rounding: float) -> None:
        """Numbers are the recorded ones, but for a factor that weights take up; no NaN differs from another."""
        factor = self._factors.get(node.name)
        for recorded, present in pairs:
            expected = recorded * (factor or 1)
            if factor is None:
                alike = recorded == present or (recorded != recorded and present != present)
            else:
                alike = abs(expected - present) <= rounding * abs(present)
            if not alike:
                self._note(node, f"{what} {present:.4g} instead of {expected:.4g}", scalar=True)


_TORCH = Path(torch.__file__).parent
# Whose lines are not the model's code.
_MACHINERY = (
    str(Path(__file__).parents[2]) + os.sep,
    *(str(_TORCH / name) for name in ("_ops", "_compile", "_dynamo", "utils", "_tensor.py", "overrides.py")),
    *(str(_TORCH / name) for name in ("functional.py", "nn/functional.py", "_jit_internal.py")),
)


def _raised_at(error: BaseException, module: str) -> str:
    """The innermost line of the model's code that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_MACHINERY, str(_TORCH / "nn" / "modules")))]
    return shown(own[-1].filename, own[-1].lineno or 0, module) if own else module


class _Reshapes(TorchFunctionMode):
    """What refuses its arguments before any ATen call is made.

    `reshape` refuses sizes that do not fit: such a call counts as a view. Recurrent layers refuse a state on another
    device: it is moved.
    """

    def __init__(self, prober: _Prober) -> None:
        super().__init__()
        self._prober = prober

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in RECURRENT:
            with _disable_current_modes():
                args = tree_map(lambda t: _on_meta(t) if isinstance(t, Tensor) and t.is_floating_point() else t, args)
            return self._prober.recurrent(func, args, kwargs or {})
        func = as_recorded(func, args)
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if func not in (Tensor.reshape, torch.reshape, Tensor.unflatten) or kwargs:
                raise
            return self._prober.reshape(brief(error), args)


def _made(node: fx.Node, predicted: Any, args: Any) -> Any:
    """A meta tensor (or several) of the predicted shape, in the place of the call's result."""
    returned = node.target._schema.returns  # type: ignore[union-attr]
    if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:
        return args[0]
    if predicted and isinstance(predicted[0], tuple):
        made = [torch.empty(s, dtype=d, device="meta") for s, d in zip(predicted, node.meta["dtype"], strict=True)]
        return made if len(returned) == 1 else tuple(made)
    return torch.empty(predicted, dtype=node.meta["dtype"], device="meta")


def _moved(arguments: Any) -> Any:
    """Arguments on meta, where some of them are; constants of the code stay real among themselves."""
    some = any(isinstance(t, Tensor) and t.is_meta for t in tree_leaves(arguments))
    return tree_map(_on_meta, arguments) if some else arguments


def _on_meta(value: Any) -> Any:
    return meta_like("", value) if isinstance(value, Tensor) and not value.is_meta else value


def _shapes(result: Any) -> Any:
    if isinstance(result, Tensor):
        return tuple(result.shape)
    if isinstance(result, tuple | list):
        return tuple(tuple(t.shape) if isinstance(t, Tensor) else () for t in result)
    return ()


def _as_read(node: fx.Node, shapes: Any) -> Any:
    """Without those of several results that nothing reads: meta kernels need not agree with the others about them."""
    if not (shapes and isinstance(shapes[0], tuple)):
        return shapes
    read = {user.args[1] for user in node.users if user.target is operator.getitem}
    return [shape for i, shape in enumerate(shapes) if i in read] + [len(shapes)]


def _scalars(node: fx.Node, args: Any, kwargs: Any) -> Iterator[tuple[float, float]]:
    """The numbers that a call takes as values: the recorded one and the present one."""
    spec = spec_of_node(node)
    if spec is not None and spec.values:
        pairs = [*zip(node.args, args, strict=False), *((node.kwargs.get(k), v) for k, v in kwargs.items())]
        yield from ((a, b) for a, b in pairs if _is_number(a) and _is_number(b))  # type: ignore[misc]


def _constant(node: fx.Node, args: Any) -> Iterator[tuple[float, float]]:
    """A number that the code has put into a tensor, which may be computed from a width: likewise."""
    source = node.args[0] if node.args else None
    recorded = source.meta.get("value") if isinstance(source, fx.Node) else None
    if recorded is not None and not args[0].dim() and not args[0].is_meta:
        yield recorded, float(args[0])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
