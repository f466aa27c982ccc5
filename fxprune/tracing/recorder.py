"""The recorder: appends a node to an `fx.Graph` for each ATen call."""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import FrameType, MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.errors import TraceError
from fxprune.module.composite_calls import is_composite
from fxprune.module.dispatch import DispatchMode
from fxprune.module.isolation import Inputs, named_outputs
from fxprune.module.saved_state import PLAIN
from fxprune.module.tensors import in_attributes, overlapping, walk
from fxprune.tracing import chunked_convolution, meta_kernels, training_runs, unseen_reads
from fxprune.tracing.provenance import Dim, Reference, Run, asking, is_torchs

_META = torch.device("meta")  # made once: a device given by name is looked up at each call


def meta_like(_: str, t: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A meta tensor like `t`, or of another shape; parameters stay parameters."""
    if shape is None:
        meta = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=_META)
    else:
        meta = torch.empty(shape, dtype=t.dtype, device=_META)
    return nn.Parameter(meta, requires_grad=t.requires_grad) if isinstance(t, nn.Parameter) else meta


def resized(name: str, t: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """A copy, as the code may go by the values; a meta tensor where it shall have another shape."""
    return t.detach().clone() if shape is None or shape == t.shape else meta_like(name, t, shape)


class Recorder(DispatchMode):
    """Appends a node to an `fx.Graph` for each ATen call.

    Args:
        names: of the tensors of the model that runs, by `id`.
        stack: of the modules that are running.
        originals: the tensors of the model that the running one is a copy of, with others in their place.
        real: whether the tensors have values.
        tags: whether numbers of the model's code carry where they came from; None: none is followed.
    """

    def __init__(
        self,
        names: dict[int, str],
        stack: list[str] | None = None,
        *,
        originals: Mapping[str, Tensor] = MappingProxyType({}),
        real: bool = False,
        tags: bool | None = True,
    ) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.count = 0
        self.stack: list[str] = [] if stack is None else stack
        self.run = None if tags is None else Run(self.stack, tags=tags)
        self.function = ""
        self.answers: dict[str, Any] = {}
        self._names = names
        self._originals = {id(t): name for name, t in originals.items()}
        self._real = real
        self._seen: dict[str, fx.Node] = {}
        self._nodes: dict[int, tuple[Any, fx.Node, int | None]] = {}
        self._pinned: list[Any] = []
        self._extra = False
        self.extra_error: Exception | None = None
        self._inputs: list[fx.Node] = []
        self._outputs: list[tuple[str, fx.Node]] = []

    def begin(self, inputs: Inputs) -> None:
        """Make placeholders for the tensors of `inputs`; a second run uses those of the first."""
        tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
        self._inputs = self._inputs or [
            self._describe(self.graph.placeholder(f"x{i}"), t) for i, t in enumerate(tensors)
        ]
        for node, tensor in zip(self._inputs, tensors, strict=True):
            self._know(tensor, node)
        self._pinned.append(tensors)

    def end(self, output: Any) -> None:
        """Note what the run returned."""
        found = list(named_outputs(output))
        if not found:
            raise TraceError("the model's output holds no tensor", seen=type(output).__name__, remedy="return tensors")
        self._outputs += [(name, self._node(t)) for name, t in found]

    def has_seen(self, tensors: Mapping[str, Tensor]) -> bool:
        return all(name in self._seen or not training_runs.may_be_cut(t) for name, t in tensors.items())

    def attempt_extra(self, run: Callable[[], None], tensors: Mapping[str, Tensor]) -> None:
        """Record `run` behind what there is; forget it if it fails, or does no more than what there is.

        Keeps in `extra_error` what it failed with.
        """
        before, self._extra, seen = list(self.graph.nodes), True, dict(self._seen)
        outputs, noted = list(self._outputs), self.run.length() if self.run else ()
        try:
            run()
            useful = any(training_runs.may_be_cut(tensors[name]) for name in self._seen.keys() - seen.keys())
            useful = useful or self._does_more(before, outputs)
            useful = useful or (self.run is not None and self.run.asks_more(noted))
        except Exception as error:  # A model that cannot train on these inputs; the evaluation run stands alone.
            useful, self.extra_error = False, error
        if not useful:
            self.stack.clear()
            self._seen, self._outputs = seen, outputs
            if self.run:
                self.run.cut(noted)
            for node in list(self.graph.nodes)[: len(before) - 1 : -1]:
                self.graph.erase_node(node)

    def _does_more(self, before: list[fx.Node], outputs: list[tuple[str, fx.Node]]) -> bool:
        """Whether the second run made other calls than the first, or gave other outputs."""
        given, first = ([(name, node.meta["shape"]) for name, node in o] for o in (self._outputs, outputs))
        return given != 2 * first or training_runs.does_more(list(self.graph.nodes)[len(before) :], before)

    def finish(self, model: nn.Module, work: nn.Module, tensors: Mapping[str, Tensor]) -> fx.Graph:
        """The graph of `model`, whose tensors these are; `work` is the copy that ran."""
        read = {name: tensors[name] for name in self._seen}
        modules = dict(walk(work)) if self._pinned else {}
        for name, t in in_attributes(model).items() if self._pinned else ():
            path, _, key = name.rpartition(".")
            held = vars(modules[path]).get(key) if path in modules else None
            known = self._nodes.get(id(held))  # a hook may have put a computed tensor in its place
            if known and known[0]() is held and known[1].op == "get_attr":
                read[name] = t
        for name, other in overlapping(read).items():
            if name in self._seen:
                self._seen[name].meta["overlaps"] = other
        if self.run:
            self.run.active = False
        names = [name for name, _ in self._outputs]
        self.graph.output(tuple(node for _, node in self._outputs)).meta["names"] = names
        return self.graph

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_composite(op):
            with self:
                return op.decompose(*args, **kwargs)
        run = self.run
        if run is None or run.inside or op in meta_kernels.OF_CONSTRUCTORS:
            return self._answer(op, args, kwargs)
        frame = asking(sys._getframe())
        if is_torchs(frame.f_code):
            return self._answer(op, args, kwargs)
        for tensor in unseen_reads.tensors_in((args, kwargs)):
            self._escape(run, tensor, frame)
        with torch._C.DisableTorchFunction():  # the sizes that are read here are not read by the model's code
            return self._answer(op, args, kwargs)

    def _escape(self, run: Run, tensor: Tensor, frame: FrameType) -> None:
        """Note that what made a call outside Python, and is no function of PyTorch's, may go by a tensor's sizes."""
        known = self.refer_to(tensor)
        if known is not None:
            with torch._C.DisableTorchFunction():
                shape = tuple(tensor.shape)
            for i, n in enumerate(shape):
                run.escape(Dim(known, i, n), frame, "TorchScript or C++")

    def _answer(self, op: Any, args: Any, kwargs: Any) -> Any:
        if self._real:
            result = chunked_convolution.run(op, args, kwargs)
        else:
            if op not in meta_kernels.MIXED and not all_on_meta((*args, *kwargs.values())):
                args, kwargs = self._move_to_meta(args, kwargs)
            result = meta_kernels.answer(op, args, kwargs)
        if not meta_kernels.is_void(op, args):
            self._record(op, args, kwargs, result)
        return result

    def uses(self, arguments: Any) -> list[tuple[fx.Node, int]]:
        """How often the calls behind real tensors among arguments are used so far; meta tensors have no values."""
        found = map(self.refer_to, unseen_reads.tensors_in(arguments)) if self._real else ()
        return unseen_reads.counted(reference.node for reference in found if reference)

    def recorded(self, op: Any, args: tuple[Any, ...]) -> Any:
        """The result of a call that was not made, recorded as if it had been; None if PyTorch must answer it."""
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            result = meta_kernels.quick_answer(op, args, {})
        if result is not None:
            self._record(op, args, {}, result)
        return result

    def on_one_device(self, args: Any) -> Any:
        """Arguments of a recurrent layer; its state, but not the lengths of sequences, on meta where the input is."""

        def move(t: Any) -> Any:
            return self._on_meta(t) if isinstance(t, Tensor) and t.is_floating_point() else t

        with _disable_current_modes():  # what is made here does not count as a call of the model's
            return tree_map(move, args) if args[0].is_meta else args

    def _move_to_meta(self, args: Any, kwargs: Any) -> Any:
        """Constants made by the model's code are real tensors; calls that mix them with meta tensors need meta."""
        if not any(isinstance(t, Tensor) and t.is_meta for t in tree_leaves((args, kwargs))):
            return args, kwargs
        return tree_map(self._on_meta, args), tree_map(self._on_meta, kwargs)

    def _on_meta(self, t: Any) -> Any:
        if not isinstance(t, Tensor) or t.is_meta:
            return t
        moved = meta_like("", t)
        self._know(moved, self._node(t))
        self._pinned.append(moved)
        return moved

    def _record(self, op: Any, args: Any, kwargs: Any, result: Any) -> None:
        # First: they may add nodes of their own.
        references = tuple([a if type(a) in PLAIN else self._refer(a) for a in args])
        named = {k: self._refer(v) for k, v in kwargs.items()}
        node = self.graph.create_node("call_function", op, name=op._opname)
        self.count += 1
        # Set afterwards, arguments are not searched again for what they may not hold.
        node.args = references
        if named:
            node.kwargs = named
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

    def refer_to(self, tensor: Tensor) -> Reference | None:
        """What stands for a tensor; None for a constant of the code. Unlike a use, it adds nothing to the graph."""
        known = self._nodes.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return Reference(known[1], known[2])
        name = self._names.get(id(tensor))
        return None if name is None else Reference(name)

    def constant(self, tensor: Tensor) -> None:
        """Note a tensor that the code has made of numbers: what follows it follows them."""
        with _disable_current_modes():
            self._node(tensor)

    def _refer(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, list | tuple):
            return [v if type(v) in PLAIN else self._refer(v) for v in value]
        return value

    def _node(self, tensor: Tensor) -> fx.Node:
        known = self._nodes.get(id(tensor))
        if known is None or known[0]() is not tensor:
            return self._source(tensor)
        _, node, item = known
        if item is None:
            return node
        part = self.graph.create_node("call_function", operator.getitem, name="getitem")
        part.args = (node, item)
        part.meta["module"], part.meta["extra"] = node.meta["module"], node.meta["extra"]
        self._know(tensor, self._describe(part, tensor))
        return part

    def _source(self, tensor: Tensor) -> fx.Node:
        """A tensor met for the first time: a parameter, a buffer, or a constant that the model's code holds."""
        name = self._names.get(id(tensor))
        if name is None:
            node = self.graph.create_node("get_attr", f"_constant_{len(self._pinned)}")
            node.meta["constant"], node.meta["unregistered"] = True, isinstance(tensor, nn.Parameter)
            if id(tensor) in self._originals:
                node.meta["elsewhere"] = self._originals[id(tensor)]
            if tensor.dim() == 0 and not tensor.is_meta:
                node.meta["value"] = float(tensor)  # it may follow a width; a probe compares
            self._pinned.append(tensor)
        elif name in self._seen:
            node = self._seen[name]
        else:
            node = self._seen[name] = self.graph.create_node("get_attr", name, name=name.replace(".", "_"))
        self._know(tensor, self._describe(node, tensor))
        return node


def all_on_meta(values: Iterable[Any]) -> bool:
    """Whether all tensors among an ATen call's arguments are meta tensors; arguments nest one level at most."""
    for value in values:
        if isinstance(value, Tensor):
            if not value.is_meta:
                return False
        elif isinstance(value, list | tuple) and not all(t.is_meta for t in value if isinstance(t, Tensor)):
            return False
    return True
