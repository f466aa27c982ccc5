"""Forms: what a number of the model's code is, as a polynomial in how many channels each group keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from torch import fx

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import Labels, Loose
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.widths.polynomials import Form, Monomial, Opaque, Parts, power
from fxprune.module.attributes import tensor_of
from fxprune.tracing.provenance import Attribute, Computed, Dim, Reference, Site, Source


class Number(NamedTuple):
    """A plain number that the code gave to an operation, and its place among the operands (see `find_literal`).

    Attributes:
        given: among how many positional arguments, if that is how `path` begins.
    """

    value: int
    site: Site
    path: tuple[Any, ...]
    given: int = 0

    @property
    def paths(self) -> tuple[tuple[Any, ...], ...]:
        """The place counted from the last argument, and from the first."""
        first, *rest = self.path
        return ((first - self.given, *rest), self.path) if self.given else (self.path,)


class Labelled(NamedTuple):
    """The length that the labels predict for a dim: what it carries, and its size."""

    dim: Any
    size: int


class Equation(NamedTuple):
    """Two numbers that are equal whatever the groups keep; `what` names the call."""

    left: Any
    right: Any
    what: str
    site: Site


def key_of(unknown: Attribute | Number) -> tuple[Any, Any]:
    """What tells an attribute or literal from all others."""
    return (unknown.module, unknown.name) if isinstance(unknown, Attribute) else (unknown.site, unknown.path)


def operands(source: Computed) -> tuple[Any, Any]:
    """Both sides of an operation; a plain number with its place."""
    left, right = source.left, source.right
    if type(left) is int:
        left = Number(left, source.site, ("left",))
    return left, Number(right, source.site, ("right",)) if type(right) is int else right


def leaves(source: Any) -> Iterator[Any]:
    """What a source is computed from."""
    if isinstance(source, Computed):
        for side in operands(source):
            yield from leaves(side)
    else:
        yield source


class Forms:
    """The forms of dims and sources, for one choice of fixed groups.

    Attributes:
        values: of attributes and literals that are known to follow a width, or not to.
        whole: forms that must be whole numbers: what the code divides without a remainder, each with its source.

    Args:
        put: forms in the place of some groups' counts.
        balanced: groups whose channels go in equal numbers from each part.
    """

    def __init__(
        self, analysis: Analysis, parts: Parts, put: Mapping[int, Form], balanced: Collection[int] = ()
    ) -> None:
        self.analysis, self.parts, self.put = analysis, parts, put
        self._balanced = balanced
        self.values: dict[Any, Form | Opaque] = {}
        self.whole: list[tuple[Form, Computed]] = []
        self._axes = analysis.labelling.axes
        self._parameters = analysis.labelling.parameter_axes
        self._dims: dict[int, tuple[Any, Form | Opaque]] = {}

    def having(self, put: Mapping[int, Form]) -> Forms:
        """The same with forms in the place of some counts."""
        made = Forms(self.analysis, self.parts, {**{g: f.put(put) for g, f in self.put.items()}, **put}, self._balanced)
        made.values = {key: form.put(put) for key, form in self.values.items()}
        return made

    def dim(self, dim: Any, size: int) -> Form | Opaque:
        """The length of a dim; opaque if it holds a part of the channels of a balanced group."""
        if isinstance(dim, Loose) and dim.rows is not None:
            return self.dim(dim.flat, len(dim.flat)) * Form.of(Fraction(1, dim.rows))
        if not isinstance(dim, np.ndarray):
            return Form.of(size)
        known = self._dims.get(id(dim))
        if known is None:
            known = self._dims[id(dim)] = (dim, self._labelled(dim))
        return known[1]

    def _labelled(self, labels: Labels) -> Form | Opaque:
        components = self.analysis.components.of[labels]
        owners = self.analysis.group_of[components]
        terms: dict[Monomial, int] = {(): int((owners < 0).sum())}
        for g in np.unique(owners[owners >= 0]).tolist():
            mine = components[owners == g]
            times = np.bincount(self.analysis.channel_of[mine])
            if g in self.put and not self.put[g].groups:  # it stays
                terms[()] += len(mine)
            elif len(times) == self.analysis.groups[g].size and (times == times[0]).all():
                terms[g,] = int(times[0])
            elif g in self._balanced:  # its channels are laid out in another order
                return Opaque([g])
            else:
                terms[self.parts.number(mine),] = 1
        return Form(terms).put(self.put)

    def labels_of(self, source: Source) -> Any:
        """What the dim of a source carries."""
        if not isinstance(source, Dim):
            return None
        axes = self.axes(source.tensor)
        return axes.known(source.axis) if axes is not None and source.axis < len(axes) else None

    def is_of_inputs(self, source: Source) -> bool:
        """Whether it is the length of an activation's dim that holds no channels which may go."""
        of_activation = isinstance(source, Dim) and isinstance(source.tensor.node, fx.Node)
        return of_activation and not isinstance(self.labels_of(source), np.ndarray | Loose)

    def axes(self, tensor: Reference | None) -> Axes | None:
        if tensor is None:
            return None
        found: Any = self._parameters.get(tensor.node) if isinstance(tensor.node, str) else self._axes.get(tensor.node)
        return found[tensor.item] if isinstance(found, tuple) and tensor.item is not None else found  # type: ignore[no-any-return]

    def source(self, source: Any) -> Form | Opaque:
        """The form of a source, or the power that a float is."""
        match source:
            case Dim():
                return self.dim(self.labels_of(source), source.value)
            case Attribute():
                return self._attribute(source)
            case Computed():
                return self._computed(source)
            case Number():
                return self.values.get(key_of(source), Form.of(source.value))
            case Labelled():
                return self.dim(source.dim, source.size)
        return Form.of(source)

    def difference(self, compared: Any) -> Form | Opaque:
        """Between both sides of an equation or comparison."""
        return self.source(compared.left) - self.source(compared.right)  # type: ignore[operator]

    def _attribute(self, source: Attribute) -> Form | Opaque:
        """What the solution says; else what PyTorch's layers keep equal to a dim of their weights; else as it is."""
        key = key_of(source)
        if key not in self.values:
            followed = tensor_of(self.analysis.labelling.graph.model.get_submodule(source.module), source.name)
            axes = self._parameters.get(f"{source.module}.{followed[0]}".lstrip(".")) if followed else None
            if axes is None or followed is None:
                return Form.of(source.value)
            self.values[key] = self.dim(axes.known(followed[1]), source.value)
        return self.values[key]

    def _computed(self, source: Computed) -> Form | Opaque:
        a, b = map(self.source, operands(source))
        if not a.groups and not b.groups:
            return Form.of(source.value)
        both = isinstance(a, Form) and isinstance(b, Form)
        found = self._polynomial(source, a, b) if both else Opaque(a.groups | b.groups)  # type: ignore[arg-type]
        found = found if isinstance(found, Form) else power(source.operation, a, b)
        return found if found.groups else Form.of(source.value)

    def _polynomial(self, source: Computed, a: Form, b: Form) -> Form | Opaque:
        n, exact = b.constant, a.is_exact() and b.is_exact()
        match source.operation:
            case "add":
                return a + b
            case "sub":
                return a - b
            case "floor":
                return self._quotient(source, a, b)
            case _ if not exact:
                return Opaque(a.groups | b.groups)
            case "floordiv":
                return self._quotient(source, a, b)
            case "mul":
                return a * b
            case "truediv":
                return a.over(b)
            case "lshift" if n is not None:
                return a * Form.of(2**n)
            case "rshift" if n is not None:
                return self._quotient(source, a, Form.of(2**n))
            case "pow" if n is not None and n >= 0 and n == int(n):
                return reduce(Form.__mul__, [a] * int(n), Form.of(1))
            case "mod":
                return a - self._quotient(source, a, b) * b
        return Opaque(a.groups | b.groups)

    def _quotient(self, source: Computed, a: Form, b: Form) -> Form | Opaque:
        """What divides without a rest must do so for other widths as well; a constant part may leave one."""
        rest = a.terms.get((), 0) % b.constant if b.constant else 0
        exact = (a - Form.of(rest)).over(b)
        if isinstance(exact, Form) and not exact.is_integral():
            self.whole.append((exact, source))
        return exact


def inverse(forms: Forms, source: Any, leaf: Any, target: Form | Opaque) -> Form | Opaque:
    """What a leaf must be for a source to become the target; opaque if that is nothing, or no polynomial."""
    if source == leaf:
        return target
    left, right = operands(source) if isinstance(source, Computed) else (None, None)
    inside = [leaf in leaves(side) for side in (left, right)]
    if sum(inside) != 1:
        return Opaque(target.groups)
    other = forms.source(right if inside[0] else left)
    match source.operation, inside[0]:
        case "add", _:
            target = target - other
        case "sub", True:
            target = target + other
        case "sub", False:
            target = other - target
        case "mul", _:
            target = target.over(other)
        case "floordiv", True:
            target = target * other + Form.of(_value(left) - _value(source) * _value(right))
        case "floordiv", False:
            target = other.over(target)
        case _:
            target = Opaque(target.groups)
    return inverse(forms, left if inside[0] else right, leaf, target)


def _value(source: Any) -> Any:
    return getattr(source, "value", source)
