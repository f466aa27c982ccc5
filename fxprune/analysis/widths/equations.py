"""Equations: what the labels predict for each number that the model's code gave to a call of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.analysis.labels.dims import Factoring
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.widths.arguments import SOURCES, Arguments, Item, Path, items_in, value_of
from fxprune.analysis.widths.builtin_modules import heads_of, known_attributes
from fxprune.analysis.widths.fold import is_scaling
from fxprune.analysis.widths.forms import Equation, Forms, Labelled, Number
from fxprune.analysis.widths.positions import divided_channels
from fxprune.analysis.widths.script import recorded_calls
from fxprune.tracing.functions import RELATIVE, SIZED, SizeArguments, Takes
from fxprune.tracing.provenance import Attribute, Computed, Dim, Guard, Reference, Run, SizedCall, is_torchs


@dataclass
class Facts:
    """All that the recorded run says about the numbers in the model's code.

    Attributes:
        equations: what must hold.
        scalars: numbers that calls take as values, and must keep, or have made up for: each with the call.
        guards: what the code compared.
        escapes: numbers that left what can be followed, as equations with a plain number.
        explained: recorded calls whose sizes an equation speaks of.
        doubtful: those whose sizes are not attributes of PyTorch's own layers, which follow their tensors.
        sighted: whether the code reads sizes of a tensor that holds groups.
    """

    equations: list[Equation] = field(default_factory=list)
    scalars: list[tuple[Any, SizedCall]] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    escapes: list[Equation] = field(default_factory=list)
    explained: set[fx.Node] = field(default_factory=set)
    doubtful: list[fx.Node] = field(default_factory=list)
    sighted: bool = False

    def escaped(self, source: Any, to: str, site: Any) -> None:
        self.escapes.append(Equation(source, "a plain number", to, site))


def gather(forms: Forms) -> Facts:
    """What the recorded run says about the numbers of the model's own code."""
    labelling = forms.analysis.labelling
    run, labeller, calls = labelling.graph.run or Run(()), labelling.labeller, recorded_calls(labelling.graph.fx)
    facts = Facts(equations=list(known_attributes(forms.analysis)))
    facts.guards = [g for g in run.guards if not is_torchs(g.site.code) or _is_demanded(g)]
    facts.sighted = any(_has_groups(forms, tensor) for tensor, code in run.reads if not is_torchs(code))
    for source, site, to in run.escapes:
        if not is_torchs(site.code):
            facts.escaped(source, to, site)
    grids: dict[fx.Node, list[Factoring]] = {}
    for f in labeller.factorings:
        grids.setdefault(f.node, []).append(f)
    layers = set[fx.Node]()
    for call in run.calls:
        nodes = calls[call.nodes.start : call.nodes.stop]
        _Reader(forms, call, nodes, [f for n in nodes for f in grids.get(n, ())], facts).read()
        if call.name in SIZED and SIZED[call.name].takes in _OF_LAYERS and is_torchs(call.site.code):
            layers.update(nodes)
    facts.equations += [Equation(g.left, g.right, "a comparison", g.site) for g in facts.guards if _is_equality(g)]
    facts.doubtful = [n for n in labeller.suspects if n not in layers and n.meta["function"] not in RELATIVE]
    return facts


_OF_LAYERS = (Takes.GROUPS, Takes.LAST_DIMS)


def _is_equality(g: Guard) -> bool:
    return (g.operation, g.outcome) in (("eq", True), ("ne", False))


def _is_demanded(g: Guard) -> bool:
    """Whether a module demands that a size is what an attribute says, as `nn.Transformer` does of `d_model`."""
    return _is_equality(g) and {type(g.left), type(g.right)} == {Dim, Attribute}


def _has_groups(forms: Forms, tensor: Reference) -> bool:
    axes = forms.axes(tensor)
    return axes is not None and any(isinstance(axes.known(i), np.ndarray) for i in range(len(axes)))


class _UnknownError(Exception):
    """Nothing is known of a tensor, or of which dim an argument means."""


class _Reader:
    """Reads one call; what its function takes names the method that reads the sizes.

    Args:
        nodes: the recorded calls that were made in it.
        grids: the dims that these saw as grids of others.
    """

    def __init__(
        self, forms: Forms, call: SizedCall, nodes: Sequence[fx.Node], grids: Sequence[Factoring], facts: Facts
    ) -> None:
        self._forms, self._call, self._nodes, self._grids, self._facts = forms, call, nodes, grids, facts
        self._given = Arguments(call)
        self._torchs = is_torchs(call.site.code)
        self._done: set[Path] = set()

    def read(self) -> None:
        where = SIZED.get(self._call.name)
        if where is not None:
            with suppress(_UnknownError):
                getattr(self, where.takes.name.lower())(where)
            self._facts.explained.update(self._nodes if self._done else ())
        for source, path in () if self._torchs else self._given.leaves():  # PyTorch's own modules are known
            if path not in self._done and isinstance(source, SOURCES):
                self._facts.scalars.append((source, self._call))

    # What is equal

    def _equal(self, item: Item, dim: Any, size: int) -> None:
        """The number of an item, or what it is the negative of, is the length of a dim."""
        if item[0] is None:
            return
        source = self._taken(item)
        known = isinstance(source, Number) and (self._torchs or not isinstance(dim, np.ndarray))
        if known or not isinstance(source, (Number, *SOURCES)):
            return
        if source.value < 0:
            source = self._computed("mul", source, -1, size)
        if not self._same(source, dim):
            self._facts.equations.append(Equation(source, Labelled(dim, size), self._call.name, self._call.site))

    def _taken(self, item: Item) -> Any:
        """The source of an item, which an equation speaks of."""
        self._done.add(item[1])
        return self._given.source(item)

    def _computed(self, operation: str, left: Any, right: Any, value: float) -> Computed:
        return Computed(operation, left, right, self._call.site, value)

    def _same(self, source: Any, dim: Any) -> bool:
        """Whether a source is the length of a dim that carries the very same channels."""
        labels = self._forms.labels_of(source)
        if not isinstance(labels, np.ndarray) or not isinstance(dim, np.ndarray) or len(labels) != len(dim):
            return not isinstance(labels, np.ndarray) and not isinstance(dim, np.ndarray) and isinstance(source, Dim)
        of = self._forms.analysis.components.of
        return labels is dim or bool(np.array_equal(of[labels], of[dim]))

    def _bound(self, item: Item, axes: Axes, at: int) -> None:
        """A number is the bound of a slice of a dim."""
        value, dim, size = item[0], axes.known(at), axes.shape[at]
        if not isinstance(dim, np.ndarray) or value is None:
            return
        if not isinstance(value, (int, *SOURCES)):
            self._facts.escaped(Labelled(dim, size), "a slice by a tensor's number, or NumPy's", self._call.site)
        elif isinstance(value, int) and value >= size:
            self._taken(item)  # all there is, of any width
        elif value != 0 and (n := value_of(value)) <= size:
            self._equal(item, dim[:n] if n >= 0 else dim[max(0, size + n) :], abs(n))

    def _lengths(self, items: Sequence[Item], axes: Axes, first: int = 0) -> None:
        """Numbers are the lengths of a tensor's dims."""
        for i, item in enumerate(items, start=first):
            if isinstance(item[0], SOURCES) and isinstance(axes.known(i), np.ndarray):
                for channels in divided_channels(self._forms, self._grids, item[0], axes.known(i)):
                    to = "a reshape that divides these channels by the size of the input"
                    self._facts.escaped(channels, to, self._call.site)
            if value_of(item[0]) == -1:
                self._taken(item)
            else:
                self._equal(item, axes.known(i), axes.shape[i])

    def _are_uneven(self, at: int) -> bool:
        """Whether the parts of a dim are of unlike lengths: then what is left for the last does not follow it."""
        first, last = self._result(), self._result(len(self._call.results) - 1)
        if uneven := first.shape[at] != last.shape[at]:
            to = f"{self._call.name}, whose parts are unequal"
            self._facts.escaped(Dim(self._call.args[0], at, self._axes().shape[at]), to, self._call.site)
        return uneven

    # What the call was given, and gave

    def _axes(self, tensor: Any = None) -> Axes:
        """The dims of a tensor, by default of the first argument."""
        tensor = self._call.args[0] if tensor is None else tensor
        found = self._forms.axes(tensor) if isinstance(tensor, Reference) else None
        if found is None:
            raise _UnknownError
        return found

    def _result(self, i: int = 0) -> Axes:
        return self._axes(self._call.results[i] if i < len(self._call.results) else "none")

    def _dim(self, position: int, default: int | None = None) -> int:
        """A dim of the first argument, counted from the front."""
        given = value_of(self._given.one(position, "dim")[0])
        number = default if given is None else given
        if not isinstance(number, int):
            raise _UnknownError
        return number % len(self._axes())

    # What the sizes are

    def shape(self, where: SizeArguments) -> None:
        axes, items = self._result(), self._given.items(where)
        self._lengths(items[: len(axes)], axes, max(0, len(axes) - len(items)))

    last_dims = shape

    def like(self, where: SizeArguments) -> None:
        other, path = self._given.one(where.first, *where.names)
        if isinstance(other, Reference):
            axes = self._result()
            self._lengths([(Dim(other, i, n), (*path, i)) for i, n in enumerate(axes.shape)], axes)

    def unflattened(self, where: SizeArguments) -> None:
        self._lengths(self._given.items(where), self._result(), self._dim(1))

    def images(self, where: SizeArguments) -> None:
        items = self._given.items(where)
        self._lengths([*items[:1], *items[2:]], self._result())
        for channels in items[1:2]:
            self._taken(channels)

    def parts(self, where: SizeArguments) -> None:
        (sizes, path), at = self._given.one(where.first, *where.names), self._dim(2, 0)
        for i, item in enumerate(items_in(sizes, path) if type(sizes) is tuple else [(sizes, path)]):
            self._equal(item, self._result(i).known(at), self._result(i).shape[at])

    def repeated(self, where: SizeArguments) -> None:
        """The result's length, and how many of its indices are a repeated one."""
        self.parts(where)
        times = self._given.one(1, "repeats")
        for f in self._grids if isinstance(times[0], (int, *SOURCES)) else ():
            self._equal(times, f.factors[-1], f.sizes[-1])

    def sections(self, where: SizeArguments) -> None:
        """So many equal parts, or where each part but the first begins."""
        axes, at, (given, path) = self._axes(), self._dim(2, where.dim), self._given.one(where.first, *where.names)
        if type(given) is tuple:
            for bound in items_in(given, path):
                self._bound(bound, axes, at)
        elif not self._are_uneven(at):
            for part in map(self._result, range(len(self._call.results))):
                whole = Dim(self._call.args[0], at, axes.shape[at])
                length = self._computed("floordiv", whole, given, part.shape[at])
                self._equal((length, path), part.known(at), part.shape[at])

    def chunks(self, _: SizeArguments) -> None:
        """Equal ones follow the dim."""
        self._are_uneven(self._dim(2, 0))

    def start_and_length(self, _: SizeArguments) -> None:
        at, result = self._dim(1), self._result()
        self._equal(self._given.one(3, "length"), result.known(at), result.shape[at])
        self._bound(self._given.one(2, "start"), self._axes(), at)

    def repeats(self, where: SizeArguments) -> None:
        """So many times the dim of the input; in front of that, new dims."""
        axes, result, items = self._axes(), self._result(), self._given.items(where)
        new = len(result) - len(axes)
        for i, item in enumerate(items if len(items) == len(result) else ()):
            if i >= new and isinstance(result.known(i), np.ndarray) and not isinstance(axes.known(i - new), np.ndarray):
                length = self._computed("mul", self._taken(item), axes.shape[i - new], result.shape[i])
                self._equal((length, item[1]), result.known(i), result.shape[i])
            elif i < new:
                self._equal(item, result.known(i), result.shape[i])
            else:
                for f in (f for f in self._grids if f.flat is result.known(i)):
                    self._equal(item, f.factors[0], f.sizes[0])

    def groups(self, where: SizeArguments) -> None:
        """A number of groups, which the rule for the op has named."""
        item, counted = self._given.one(where.first, *where.names), self._forms.analysis.labelling.labeller.counted
        node: Any = self._call.results[0].node if self._call.results and self._call.results[0] else None
        if item[0] is not None:
            self._equal(item, next(iter(counted.get(node, ())), None), int(value_of(item[0])))

    def scale(self, where: SizeArguments) -> None:
        """What PyTorch's attention scales by: by default, by the width of a head."""
        self._done.add(where.names)
        source = self._call.kwargs.get("scale")
        first = next(filter(is_scaling, self._nodes), None)
        if source is None and first is not None:  # the queries, which end in that width
            *others, width = first.meta["shape"]
            source = self._computed("pow", Dim(Reference(first), len(others), width), -0.5, width**-0.5)
        if isinstance(source, SOURCES):
            self._facts.scalars.append((source, self._call))

    def heads(self, where: SizeArguments) -> None:
        """The width of all heads, their number, and the width of each, which is computed from both."""
        self.scale(where)
        width, count = self._given.one(3, "embed_dim"), self._given.one(4, "num_heads")
        for read in (self._call.args[0], self._given.one(11, "out_proj_weight")[0]):
            if isinstance(read, Reference):
                *others, n = self._axes(read).shape
                self._equal(width, self._axes(read).known(len(others)), n)
        heads = value_of(count[0])
        each = value_of(width[0]) // heads
        for f in self._grids:
            if labels := heads_of(self._forms.analysis, f, heads, each):
                self._equal(count, labels[0], heads)
                self._equal((self._computed("floordiv", width[0], count[0], each), width[1]), labels[1], each)

    def amounts(self, where: SizeArguments) -> None:
        """Amounts before and after, from the last dim on."""
        axes, result = self._axes(), self._result()
        for k, item in enumerate(self._given.items(where)):
            i, n = len(result) - 1 - k // 2, value_of(item[0])
            dim = (result if n >= 0 else axes).known(i)
            if isinstance(dim, np.ndarray) and n:
                self._equal(item, dim[: abs(n)] if k % 2 == 0 else dim[len(dim) - abs(n) :], abs(n))

    def index(self, _: SizeArguments) -> None:
        """The bounds of slices."""
        axes, items, at = self._axes(), self._given.index(), 0
        for i, item in enumerate(items):
            if item is Ellipsis:
                at = len(axes) - sum(map(self._dims_taken, items[i + 1 :]))
            elif isinstance(item, slice) and at < len(axes):
                columns = item.step not in (None, 1)  # of the grid (length / step, step): the first is not a width
                for name, bound in (("lower", None if columns else item.start), ("upper", item.stop)):
                    if bound is not None and (item.start, item.stop) not in _ONES:
                        self._bound((bound, (i, name)), axes, at)
                at += 1
            else:
                at += self._dims_taken(item)

    def _dims_taken(self, item: Any) -> int:
        """How many dims an item of an index takes."""
        if item is None or isinstance(item, bool) or item is Ellipsis:
            return 0
        axes = self._forms.axes(item) if isinstance(item, Reference) else None
        if axes is None:
            return 1
        held = self._forms.analysis.labelling.graph.tensors.get(item.node)
        dtype = item.node.meta["dtype"] if held is None else held.dtype
        return len(axes) if dtype in (torch.bool, torch.uint8) else 1


_ONES = ((None, 1), (0, 1), (-1, None))  # one index, of any width; if its value counts, the dim is fixed
