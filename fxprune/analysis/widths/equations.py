"""Equations: what the labels predict for each number that the model's code gave to a call of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import fx

from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.widths.arguments import SOURCES, Item, Path, dims_taken, is_indexed, leaves_of, value_of
from fxprune.analysis.widths.builtin_modules import heads_of
from fxprune.analysis.widths.forms import Forms, Labelled, Number
from fxprune.analysis.widths.script import recorded_calls
from fxprune.tracing.functions import SIZED, SizeArguments, Takes
from fxprune.tracing.provenance import Attribute, Computed, Dim, Guard, Reference, Run, Site, SizedCall, is_torchs


class Equation(NamedTuple):
    """Two numbers that are equal whatever the groups keep; `what` names the call."""

    left: Any
    right: Any
    what: str
    site: Site


class Scalar(NamedTuple):
    """A number that a call takes as a value, and must keep, or have made up for: its source, and the call."""

    source: Any
    call: SizedCall


@dataclass
class Facts:
    """All that the recorded run says about the numbers in the model's code.

    Attributes:
        equations: what must hold.
        lengths: numbers that are the lengths of labelled dims of a call's result: source, what the dim carries, call.
        scalars: numbers that calls take as values.
        guards: what the code compared.
        scaled: attention that scales by a width.
        escapes: numbers that left what can be followed, where, and to what.
        explained: places of recorded calls whose sizes an equation speaks of.
        layers: places of those whose sizes are attributes of PyTorch's own layers, which follow their tensors.
        sighted: whether the code reads sizes of a tensor that holds groups.
    """

    equations: list[Equation] = field(default_factory=list)
    lengths: list[tuple[Any, Any, SizedCall]] = field(default_factory=list)
    scalars: list[Scalar] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    scaled: list[SizedCall] = field(default_factory=list)
    escapes: list[tuple[Any, Site, str]] = field(default_factory=list)
    explained: set[int] = field(default_factory=set)
    layers: set[int] = field(default_factory=set)
    sighted: bool = False


def gather(forms: Forms, run: Run) -> Facts:
    """What a run says about the numbers of the model's own code."""
    guards = [g for g in run.guards if not is_torchs(g.site.code) or _is_demanded(g)]
    escapes = [e for e in run.escapes if not is_torchs(e[1].code)]
    sighted = any(_has_groups(forms, tensor) for tensor, code in run.reads if not is_torchs(code))
    facts = Facts(guards=guards, escapes=escapes, sighted=sighted)
    nodes = recorded_calls(forms.analysis.labelling.graph.fx)
    for call in run.calls:
        takes = SIZED[call.name].takes if call.name in SIZED else None
        if takes in (Takes.SCALE, Takes.HEADS):
            facts.scaled.append(call)
        if takes in (Takes.GROUPS, Takes.LAST_DIMS) and is_torchs(call.site.code):
            facts.layers.update(call.nodes)
        _Reader(forms, call, nodes, facts).read()
    return facts


def _is_demanded(g: Guard) -> bool:
    """Whether a module demands that a size is what an attribute says, as `nn.Transformer` does of `d_model`."""
    equal = (g.operation, g.outcome) in (("eq", True), ("ne", False))
    return equal and {type(g.left), type(g.right)} == {Dim, Attribute}


def _has_groups(forms: Forms, tensor: Reference) -> bool:
    axes = forms.axes(tensor)
    return axes is not None and any(isinstance(axes.known(i), np.ndarray) for i in range(len(axes)))


class _Reader:
    """Reads one call."""

    def __init__(self, forms: Forms, call: SizedCall, calls: Sequence[fx.Node], facts: Facts) -> None:
        self._forms, self._call, self._facts = forms, call, facts
        self._torchs = is_torchs(call.site.code)
        self._calls = calls
        self._where = SIZED.get(call.name)
        self._done: set[Path] = set()

    def _from_front(self, path: Path) -> Path:
        """The path of an argument as `_leaves` has it."""
        counted = isinstance(path[0], int) and not is_indexed(self._call)  # there, of the index
        return (path[0] % len(self._call.args), *path[1:]) if counted else path

    def read(self) -> None:
        if self._where is not None:
            getattr(self, self._where.takes.name.lower())(self._where)  # what it takes names the method that reads it
            self._facts.explained.update(self._call.nodes if self._done else ())
        if self._torchs:
            return  # PyTorch's own modules are known
        for source, path in leaves_of(self._call):
            if path not in self._done and isinstance(source, SOURCES):
                self._facts.scalars.append(Scalar(source, self._call))

    def equal(self, item: Item, dim: Any, size: int, *, negative: bool = False) -> None:
        """The number of an item, or what it is the negative of, is the length of a dim."""
        plain = type(item[0]) is int
        source = self._taken(item)
        known = plain and (self._torchs or not isinstance(dim, np.ndarray))
        if known or not isinstance(source, (Number, *SOURCES)):
            return
        if negative:
            source = Computed("mul", source, -1, self._call.site, size)
        if negative or not self._same(source, dim):
            self._note(source, Labelled(dim, size))

    def _taken(self, item: Item) -> Any:
        """The source of an item, which an equation speaks of."""
        source, path = item
        self._done.add(front := self._from_front(path))
        return Number(source, self._call.site, path, front) if type(source) is int else source

    def _note(self, left: Any, right: Labelled) -> None:
        self._facts.equations.append(Equation(left, right, self._call.name, self._call.site))

    def _same(self, source: Any, dim: Any) -> bool:
        """Whether a source is the length of a dim that carries the very same channels."""
        labels = self._forms.labels_of(source)
        if not isinstance(labels, np.ndarray) or not isinstance(dim, np.ndarray) or len(labels) != len(dim):
            return not isinstance(labels, np.ndarray) and not isinstance(dim, np.ndarray) and isinstance(source, Dim)
        of = self._forms.analysis.components.of
        return labels is dim or bool(np.array_equal(of[labels], of[dim]))

    def axes(self, tensor: Any) -> Axes | None:
        return self._forms.axes(tensor) if isinstance(tensor, Reference) else None

    def result(self, i: int = 0) -> Axes | None:
        return self.axes(self._call.results[i]) if i < len(self._call.results) else None

    def argument(self, position: int, name: str) -> Item:
        """An argument by position or name, with its path."""
        args = self._call.args
        if position < len(args):
            return args[position], (position,)
        return self._call.kwargs.get(name), (name,)

    def dim(self, position: int, default: int | None = None) -> int | None:
        """A dim of the first argument, counted from the front; None if it is no number."""
        given, axes = self.argument(position, "dim")[0], self.axes(self._call.args[0])
        number = given.value if isinstance(given, SOURCES) else default if given is None else given
        return number % len(axes) if isinstance(number, int) and axes is not None else None

    def items(self, where: SizeArguments) -> list[Item]:
        """Sizes, as a sequence or one after another; counted from the end, as some may be unpacked first (`*s, 64`)."""
        args, start = self._call.args, where.first
        if start < len(args) and type(args[start]) is not tuple:
            return [(a, (i - len(args),)) for i, a in enumerate(args) if i >= start]
        given = next((item for item in (self.argument(start, n) for n in where.names) if type(item[0]) is tuple), None)
        return [] if given is None else [(v, (*given[1], i - len(given[0]))) for i, v in enumerate(given[0])]

    def lengths(self, items: list[Item], axes: Axes, first: int) -> None:
        for i, item in enumerate(items, start=first):
            if isinstance(item[0], SOURCES) and isinstance(axes.known(i), np.ndarray):
                self._facts.lengths.append((item[0], axes.known(i), self._call))
            if value_of(item[0]) == -1:
                self._taken(item)
            else:
                self.equal(item, axes.known(i), axes.shape[i])

    def shape(self, where: SizeArguments) -> None:
        axes, items = self.result(), self.items(where)
        if axes is not None and len(items) == len(axes):
            self.lengths(items, axes, 0)

    def like(self, where: SizeArguments) -> None:
        (other, path), axes = self.argument(where.first, where.names[0]), self.result()
        if axes is not None and isinstance(other, Reference):
            self.lengths([(Dim(other, i, n), (*path, i)) for i, n in enumerate(axes.shape)], axes, 0)

    def last_dims(self, where: SizeArguments) -> None:
        axes, items = self.result(), self.items(where)
        if axes is not None:
            self.lengths(items, axes, len(axes) - len(items))

    def unflattened(self, where: SizeArguments) -> None:
        axes, dim = self.result(), self.dim(1)
        if axes is not None and dim is not None:
            self.lengths(self.items(where), axes, dim)

    def parts(self, where: SizeArguments) -> None:
        (sizes, path), at = self.argument(where.first, where.names[0]), self.dim(2, 0)
        items = [(s, (*path, i - len(sizes))) for i, s in enumerate(sizes)] if type(sizes) is tuple else [(sizes, path)]
        for i, item in enumerate(items):
            axes = self.result(i)
            if axes is not None and at is not None:
                self.equal(item, axes.known(at), axes.shape[at])

    def sections(self, where: SizeArguments) -> None:
        """So many equal parts, or where each part but the first begins."""
        axes, at = self.axes(self._call.args[0]), self.dim(2, where.dim)
        given, path = next(i for i in (self.argument(where.first, n) for n in where.names) if i[0] is not None)
        if axes is None or at is None:
            return
        if type(given) is not tuple and axes.shape[at] % len(self._call.results):
            self._unequal(at)
        for i in range(len(self._call.results)) if type(given) is not tuple else ():
            if (part := self.result(i)) is not None and axes.shape[at] == part.shape[at] * len(self._call.results):
                whole = Dim(self._call.args[0], at, axes.shape[at])
                length = Computed("floordiv", whole, given, self._call.site, part.shape[at])
                self.equal((length, path), part.known(at), part.shape[at])
        for i, bound in enumerate(given if type(given) is tuple else ()):
            self._bound((bound, (*path, i - len(given))), axes.known(at), axes.shape[at])

    def chunks(self, _: SizeArguments) -> None:
        """Equal ones follow the dim; what is left for the last of unequal ones does not."""
        axes, at = self.axes(self._call.args[0]), self.dim(2, 0)
        first, last = self.result(), self.result(len(self._call.results) - 1)
        if axes is not None and at is not None and first and last and first.shape[at] != last.shape[at]:
            self._unequal(at)

    def _unequal(self, at: int) -> None:
        whole, told = self._call.args[0], f"{self._call.name}, whose parts are unequal"
        self._facts.escapes.append((Dim(whole, at, self.axes(whole).shape[at]), self._call.site, told))  # type: ignore[union-attr]

    def start_and_length(self, _: SizeArguments) -> None:
        axes, at = self.axes(self._call.args[0]), self.dim(1)
        start, length, result = self.argument(2, "start"), self.argument(3, "length"), self.result()
        if axes is not None and result is not None and at is not None:
            self.equal(length, result.known(at), result.shape[at])
            self._bound(start, axes.known(at), axes.shape[at])

    def repeats(self, where: SizeArguments) -> None:
        """So many times the dim of the input; in front of that, new dims."""
        axes, result, items = self.axes(self._call.args[0]), self.result(), self.items(where)
        if axes is None or result is None or len(items) != len(result):
            return
        for i, (value, path) in enumerate(items):
            j = i - len(result) + len(axes)
            if j < 0:
                self.equal((value, path), result.known(i), result.shape[i])
            elif isinstance(result.known(i), np.ndarray) and not isinstance(axes.known(j), np.ndarray):
                times = self._taken((value, path))
                product = Computed("mul", times, axes.shape[j], self._call.site, result.shape[i])
                self._note(product, Labelled(result.known(i), result.shape[i]))

    def repeated(self, where: SizeArguments) -> None:
        """The length that a dim has when each of its indices is repeated."""
        axes, at, item = self.result(), self.dim(2), self.argument(where.first, where.names[0])
        if axes is not None and at is not None and item[0] is not None:
            self.equal(item, axes.known(at), axes.shape[at])

    def groups(self, where: SizeArguments) -> None:
        """A number of groups, which the rule for the op has named."""
        item = self.argument(where.first, where.names[0])
        node = self._call.results[0].node if self._call.results and self._call.results[0] else None
        known = self._forms.analysis.labelling.labeller.counted.get(node, []) if isinstance(node, fx.Node) else []
        if item[0] is not None:
            self.equal(item, known[0] if known else None, int(value_of(item[0])))

    def images(self, where: SizeArguments) -> None:
        axes, items = self.result(), self.items(where)
        if axes is not None and len(items) == len(axes):
            self.lengths([items[0], *items[2:]], axes, 0)
            self._taken(items[1])

    def scale(self, where: SizeArguments) -> None:  # see `scales`
        self._done.add(where.names)

    def heads(self, _: SizeArguments) -> None:
        """The width of all heads, their number, and the width of each, which is computed from both."""
        width, count = self.argument(3, "embed_dim"), self.argument(4, "num_heads")
        for read in (self._call.args[0], self.argument(11, "out_proj_weight")[0]):
            if (axes := self.axes(read)) is not None:
                self.equal(width, axes.known(len(axes) - 1), axes.shape[len(axes) - 1])
        inside = {self._calls[i] for i in self._call.nodes}
        heads = value_of(count[0])
        each = value_of(width[0]) // heads
        for f in self._forms.analysis.labelling.labeller.factorings:
            if f.node in inside and (labels := heads_of(f, heads, each)):
                quotient = Computed("floordiv", width[0], count[0], self._call.site, each)
                self.equal(count, labels[0], heads)
                self.equal((quotient, width[1]), labels[1], each)

    def amounts(self, where: SizeArguments) -> None:
        """Amounts before and after, from the last dim on."""
        axes, result, items = self.axes(self._call.args[0]), self.result(), self.items(where)
        if axes is None or result is None:
            return
        for k, item in enumerate(items):
            i, n = len(result) - 1 - k // 2, value_of(item[0])
            source = result if n >= 0 else axes
            dim = source.known(i)
            if isinstance(dim, np.ndarray) and n:
                part = dim[: abs(n)] if k % 2 == 0 else dim[len(dim) - abs(n) :]
                self.equal(item, part, abs(n), negative=n < 0)

    def index(self, _: SizeArguments) -> None:
        """The bounds of slices."""
        axes, index = self.axes(self._call.args[0]), self._call.args[1]
        if axes is None:
            return
        items = list(index) if type(index) is tuple else [index]
        tensors = self._forms.analysis.labelling.graph.tensors
        at = 0
        for i, item in enumerate(items):
            if item is Ellipsis:
                at = len(axes) - sum(dims_taken(v, tensors) for v in items[i + 1 :])
            elif isinstance(item, slice) and at < len(axes):
                columns = item.step not in (None, 1)  # of the grid (length / step, step): the first is not a width
                for name, bound in (("lower", None if columns else item.start), ("upper", item.stop)):
                    if bound is not None and (item.start, item.stop) not in _ONES:
                        self._bound((bound, (i, name)), axes.known(at), axes.shape[at])
                at += 1
            else:
                at += dims_taken(item, tensors)

    def _bound(self, item: Item, dim: Any, size: int) -> None:
        value, plain = int(value_of(item[0])), not isinstance(item[0], SOURCES)
        if not isinstance(dim, np.ndarray) or (value == 0 and plain):
            return
        if value >= size and plain:
            self._taken(item)  # all there is, of any width
        elif value <= size:
            part = dim[:value] if value >= 0 else dim[max(0, size + value) :]
            self.equal(item, part, abs(value), negative=value < 0)


_ONES = ((None, 1), (0, 1), (-1, None))  # one index, of any width; if its value counts, the dim is fixed
