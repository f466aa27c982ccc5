"""Label: push integer channel labels through a recorded graph, and collect what must live or die together.

Every dim of every tensor carries one of

* **labels**, an int array with one label per index: the index may go, together with all that shares its label;
* `Fixed`: every index must stay (inputs, outputs, spatial dims), with the reason;
* `None`, *free*: the dim has size 1 and constrains nothing.

Ops only *move* labels or *equate* them (see `fxprune.analysis.ops`). Equalities collect as arrays of edges; nothing is
resolved here. A reshape that splits or merges labelled dims is noted as a `Factoring` and resolved later, together with
all others (`fxprune.analysis.labels.factorings`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import Dim, Factoring, Fix, Fixed, Labels, Loose, NotLooseError, Shape, WidthUse
from fxprune.tracing.trace import Graph


class _Unset:
    """A parameter dim that no op has touched yet; it takes over the labels of the first dim it is equated with."""


UNSET = _Unset()


class Axes:
    """The dims of one tensor. Indexing returns a dim; untouched parameter dims get fresh labels at that moment."""

    __slots__ = ("_dims", "_labeller", "shape")

    def __init__(self, labeller: Labeller, shape: Shape, dims: Sequence[Any]) -> None:
        self._labeller, self.shape, self._dims = labeller, shape, list(dims)

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, i: int) -> Dim:
        dim = self._dims[i]
        if dim is UNSET:
            dim = self._dims[i] = self._labeller.fresh(self.shape[i])
        return dim

    def dims(self) -> list[Dim]:
        return [self[i] for i in range(len(self.shape))]

    def known(self, i: int) -> Any:
        """The dim as it is, `UNSET` included."""
        return self._dims[i]

    def adopt(self, i: int, dim: Dim) -> None:
        self._dims[i] = dim


def several(axes: Axes | Sequence[Axes]) -> Sequence[Axes]:
    """The results of a call, which are one tensor or more."""
    return [axes] if isinstance(axes, Axes) else axes


class Labeller:
    """Collects what rules find out about the labels of one graph.

    Attributes:
        count: labels made so far; they are 0, 1, ..., count - 1.
        edges: pairs of label arrays of one shape that are equal element by element.
        fixes: labels that must stay, with the reason.
        factorings: dims that are grids of others.
        mixes: labels that a norm, mean or softmax runs over.
        sums: labels that a sum runs over, with the nodes whose product is added up.
        added_up: dims that sums and norms run over, with their calls, whether they have labels by then or not.
        widths: attributes of modules that hold the length of a labelled dim.
        suspects: calls whose sizes may come from the model's own code, to be probed.
        counted: for calls that carry sizes: the labels whose count equals an integer argument, but no dim's length.
        unknown: ops without a rule, by how often they occurred.
        node: the present call.
        dead: calls whose results the model drops (or uses for their shape only).
        idle: those of them that no layer depends on.
        free: names of calls whose equal parts keep equally many indices, but not the same ones.
        splits: (call, labels of the dim, number of parts) of each split into equal parts.
        balances: labels of dims that such free calls cut into parts.
        multiples: labels of dims whose length an op takes in multiples of a number only, with that number.
        closed: identities of the label arrays of loose grids that were merged again.
    """

    def __init__(
        self,
        free: frozenset[str] = frozenset(),
        dead: frozenset[fx.Node] = frozenset(),
        idle: frozenset[fx.Node] = frozenset(),
    ) -> None:
        self.count = 0
        self.edges: list[tuple[Labels, Labels]] = []
        self.fixes: list[Fix] = []
        self.factorings: list[Factoring] = []
        self.mixes: list[Fix] = []
        self.sums: list[tuple[Fix, tuple[Any, ...]]] = []
        self.added_up: list[tuple[Axes, int, fx.Node]] = []
        self.widths: list[WidthUse] = []
        self.suspects: list[fx.Node] = []
        self.counted: dict[fx.Node, list[Labels]] = {}
        self.unknown: Counter[str] = Counter()
        self.node: fx.Node | None = None
        self.free, self.dead, self.idle = free, dead, idle
        self.splits: list[tuple[fx.Node, Labels, int]] = []
        self.balances: list[Labels] = []
        self.multiples: list[tuple[Labels, int]] = []
        self.closed: set[int] = set()

    def fresh(self, n: int) -> Dim:
        """New labels for a dim of length `n`."""
        if n <= 1:
            return None
        labels = np.arange(self.count, self.count + n)
        self.count += n
        return labels

    def fix(self, dim: Dim, reason: str) -> None:
        """Declare that every index of `dim` must stay."""
        _check_read(dim)
        if isinstance(dim, np.ndarray):
            self.fixes.append(Fix(dim, reason, self.node))

    def fix_read(self, dim: Dim, reason: str) -> None:
        """The present call reads `dim` by position: every index must stay, unless nobody uses what is read."""
        if self.node not in self.dead:
            self.fix(dim, reason)

    def mix(self, dim: Dim) -> None:
        """The present op computes over the whole of `dim` (a norm, mean or softmax): pruning is not masking.

        Does not matter where nobody uses the result (average weights of attention, returned and dropped).
        """
        _check_read(dim)
        if isinstance(dim, np.ndarray) and self.node is not None and self.node not in self.idle:
            self.mixes.append(Fix(dim, str(self.node.target), self.node))

    def sum(self, dim: Dim, *factors: Any) -> None:
        """The present op adds up over `dim` the products of these nodes: masked channels add nothing if one is zero."""
        _check_read(dim)
        if isinstance(dim, np.ndarray) and self.node is not None and self.node not in self.idle:
            self.sums.append((Fix(dim, str(self.node.target), self.node), factors))

    def add_up(self, axes: Axes, i: int) -> None:
        """The present op adds up dim `i`, or takes a norm over it; its labels may come from later calls alone."""
        if self.node is not None and self.node not in self.idle:
            self.added_up.append((axes, i, self.node))

    def fix_axes(self, axes: Axes, reason: str) -> None:
        for i in range(len(axes)):
            if axes.known(i) is UNSET:
                axes.adopt(i, Fixed(reason))
            else:
                self.fix(axes[i], reason)

    def equate(self, a: Dim, b: Dim) -> Dim:
        """Declare that index i of `a` and index i of `b` live or die together; returns the dim of the result."""
        if isinstance(a, Loose) or isinstance(b, Loose):
            raise NotLooseError(a.node if isinstance(a, Loose) else b.node)  # type: ignore[union-attr]
        if a is b or b is None:
            return a
        if a is None:
            return b
        if isinstance(a, Fixed):
            self.fix(b, a.reason)
            return a
        if isinstance(b, Fixed):
            self.fix(a, b.reason)
            return b
        self.edges.append((a, b))
        return a

    def unite(self, a: Axes, i: int, b: Axes, j: int) -> Dim:
        """Equate dim `i` of `a` with dim `j` of `b`."""
        x, y = a.known(i), b.known(j)
        if y is UNSET and x is not UNSET and a.shape[i] == b.shape[j]:
            b.adopt(j, x)
            return a[i]
        if x is UNSET and y is not UNSET and a.shape[i] == b.shape[j]:
            a.adopt(i, y)
            return b[j]
        return self.equate(a[i], b[j])

    def factor(self, flat: Dim, factors: Sequence[tuple[int, Dim]], *, split: bool = False) -> None:
        """Note that `flat` is the row-major grid of `factors`, given as (length, dim)."""
        factors = [(n, d) for n, d in factors if n > 1]
        if isinstance(flat, np.ndarray) and len(factors) == 1:
            self.equate(flat, factors[0][1])
        elif isinstance(flat, np.ndarray):
            assert self.node is not None
            sizes, dims = zip(*factors, strict=True)
            self.factorings.append(Factoring(flat, sizes, dims, self.node, split))
        elif isinstance(flat, Fixed):
            for _, dim in factors:
                self.fix(dim, flat.reason)

    def multiple(self, dim: Dim, number: int) -> None:
        """Whatever stays of a dim must be a multiple of a number."""
        if isinstance(dim, np.ndarray) and number > 1:
            self.multiples.append((dim, number))

    def balance(self, flat: Labels) -> bool:
        """Whether the parts into which the present call cuts `flat` need to keep equally many indices only."""
        if self.is_free():
            self.balances.append(flat)
            return True
        return False

    def is_free(self) -> bool:
        """Whether the parts that the present call cuts or makes need to keep equally many indices only."""
        return self.node is not None and self.node.name in self.free

    def close(self, dims: Sequence[tuple[int, Dim]]) -> Labels | None:
        """The labels of merged dims, given as (length, dim), if they are a loose grid as a whole.

        Raises:
            NotLooseError: they are not, or indices of one channel change places: which one is which is unknown in
                another width, where rows cut other channels apart.
        """
        loose = [d for _, d in dims if isinstance(d, Loose)]
        if not loose:
            return None
        flat, sizes = loose[0].flat, loose[0].sizes
        axes = [d.axis for n, d in dims if isinstance(d, Loose) and d.flat is flat and n == sizes[d.axis]]
        if len(axes) < len(dims) or sorted(axes) != list(range(len(sizes))):
            raise NotLooseError(loose[0].node)
        moved = np.arange(len(flat)).reshape(sizes).transpose(axes).reshape(-1)
        if not _in_order(flat[moved], moved):
            raise NotLooseError(loose[0].node)
        self.closed.add(id(flat))
        return flat[moved]

    def suspect(self, *counted: Labels) -> None:
        """The present call has sizes from the model's own code for a labelled dim; probing will check them.

        Args:
            counted: labels whose numbers are the sizes, if these are not the lengths of the result's dims.
        """
        if self.node is not None and (not self.suspects or self.suspects[-1] is not self.node):
            self.suspects.append(self.node)
        if self.node is not None and counted:
            self.counted.setdefault(self.node, []).extend(counted)

    def width(self, attribute: str, dim: Dim) -> None:
        """The issuing module's `attribute` is the length of `dim`."""
        if isinstance(dim, np.ndarray) and self.node is not None:
            self.widths.append(WidthUse(self.node.meta["module"], attribute, dim))


def _in_order(labels: Labels, places: Labels) -> bool:
    """Whether the places of equal labels ascend."""
    order = np.argsort(labels, kind="stable")
    same = np.diff(labels[order]) == 0
    return bool((np.diff(places[order])[same] > 0).all())


def _check_read(dim: Dim) -> None:
    if isinstance(dim, Loose):
        raise NotLooseError(dim.node)


Rule: TypeAlias = Callable[..., Any]
Env: TypeAlias = "dict[fx.Node, Axes | tuple[Axes, ...]]"


@dataclass(frozen=True, eq=False)
class Labelling:
    """A graph with labels on every dim: the input of all analysis."""

    graph: Graph
    labeller: Labeller
    axes: Env

    @cached_property
    def parameter_axes(self) -> dict[str, Axes]:
        """The dims of every parameter and buffer that the recorded run used."""
        found = {
            n.target: self.axes[n] for n in self.graph.fx.nodes if n.op == "get_attr" and not n.meta.get("constant")
        }
        return found  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Call:
    """What a rule sees of one ATen call beside its arguments.

    Attributes:
        lab: where it notes what it finds out.
        node: the recorded call.
        shape: of the result, a tuple of ints; of several results, a tuple of such tuples.
    """

    lab: Labeller
    node: fx.Node
    shape: Any


def fixed_result(lab: Labeller, args: Sequence[Any], shape: Any, reason: str) -> Any:
    """Fix every label among `args`; the dims of the result are fixed as well."""
    for a in args:
        if isinstance(a, Axes):
            lab.fix_axes(a, reason)
        elif isinstance(a, list):
            fixed_result(lab, a, (), reason)
    if shape and isinstance(shape[0], tuple):
        return tuple([Fixed(reason) if n > 1 else None for n in s] for s in shape)
    return [Fixed(reason) if n > 1 else None for n in shape]
