"""Forms: what a number of the model's code is, as a polynomial in how many channels each group keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import Labels, Loose
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.widths.polynomials import Form, Monomial, NoFormError, Parts, Power, as_power
from fxprune.module.attributes import tensor_of
from fxprune.tracing.provenance import Attribute, Computed, Dim, Reference, Site, Source


class Number(NamedTuple):
    """A plain number that the code gave to an operation, and its place among the operands (see `find_literal`).

    Attributes:
        from_front: the same place counted from the first operand, where `path` counts from the last.
    """

    value: int
    site: Site
    path: tuple[Any, ...]
    from_front: tuple[Any, ...] = ()

    @property
    def paths(self) -> tuple[tuple[Any, ...], ...]:
        return (self.path, self.from_front) if self.from_front else (self.path,)


class Labelled(NamedTuple):
    """The length that the labels predict for a dim: what it carries, and its size."""

    dim: Any
    size: int


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
        self.values: dict[Any, Form] = {}
        self.whole: list[tuple[Form, Computed]] = []
        self._axes = analysis.labelling.axes
        self._parameters = analysis.labelling.parameter_axes
        self._dims: dict[int, tuple[Any, Form | frozenset[int]]] = {}

    def having(self, put: Mapping[int, Form]) -> Forms:
        """The same with forms in the place of some counts."""
        made = Forms(self.analysis, self.parts, {**{g: f.put(put) for g, f in self.put.items()}, **put}, self._balanced)
        made.values = {key: form.put(put) for key, form in self.values.items()}
        return made

    def dim(self, dim: Any, size: int) -> Form:
        """The length of a dim.

        Raises:
            NoFormError: it holds a part of the channels of a balanced group.
        """
        if isinstance(dim, Loose):
            if dim.rows is None:
                return Form.of(size)
            return self.dim(dim.flat, len(dim.flat)) * Form.of(Fraction(1, dim.rows))
        if not isinstance(dim, np.ndarray):
            return Form.of(size)
        known = self._dims.get(id(dim))
        if known is None:
            known = self._dims[id(dim)] = (dim, self._labelled(dim))
        if isinstance(known[1], frozenset):
            raise NoFormError(known[1])
        return known[1]

    def _labelled(self, labels: Labels) -> Form | frozenset[int]:
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
                return frozenset([g])
            else:
                terms[self.parts.number(mine),] = 1
        return Form(terms).put(self.put)

    def labels_of(self, source: Source) -> Any:
        """What the dim of a source carries."""
        if not isinstance(source, Dim):
            return None
        axes = self.axes(source.tensor)
        return axes.known(source.axis) if axes is not None and source.axis < len(axes) else None

    def axes(self, tensor: Reference | None) -> Axes | None:
        if tensor is None:
            return None
        found: Any = self._parameters.get(tensor.node) if isinstance(tensor.node, str) else self._axes.get(tensor.node)
        return found[tensor.item] if isinstance(found, tuple) and tensor.item is not None else found  # type: ignore[no-any-return]

    def source(self, source: Any) -> Any:
        """The form of a source, or the power that a float is.

        Raises:
            NoFormError: it has none.
        """
        match source:
            case Dim():
                return self.dim(self.labels_of(source), source.value)
            case Attribute():
                return self._attribute(source)
            case Computed():
                return self._computed(source)
            case Number():
                return self.values.get((source.site, source.path), Form.of(source.value))
            case Labelled():
                return self.dim(source.dim, source.size)
        return Form.of(source)

    def _attribute(self, source: Attribute) -> Form:
        """What the solution says; else what PyTorch's layers keep equal to a dim of their weights; else as it is."""
        key = (source.module, source.name)
        if key not in self.values:
            followed = tensor_of(self.analysis.labelling.graph.model.get_submodule(source.module), source.name)
            axes = self._parameters.get(f"{source.module}.{followed[0]}".lstrip(".")) if followed else None
            if axes is None or followed is None:
                return Form.of(source.value)
            self.values[key] = self.dim(axes.known(followed[1]), source.value)
        return self.values[key]

    def groups(self, source: Any) -> frozenset[int]:
        """The groups that a source depends on, one way or another."""
        try:
            return self.source(source).groups  # type: ignore[no-any-return]
        except NoFormError as error:
            return error.groups

    def _computed(self, source: Computed) -> Any:
        both, missing = [], frozenset[int]()
        for side in operands(source):
            try:
                both.append(self.source(side))
            except NoFormError as error:
                missing |= error.groups
        groups = missing.union(*(b.groups for b in both))
        if missing:
            raise NoFormError(groups)
        if not groups:
            return Form.of(source.value)
        a, b = both
        if isinstance(source.value, float) or isinstance(a, Power) or isinstance(b, Power):
            return self._float(source, a, b)
        return self._integer(source, a, b)

    def _integer(self, source: Computed, a: Form, b: Form) -> Form:
        match source.operation:
            case "add":
                return a + b
            case "sub":
                return a - b
            case "mul":
                return a * b
            case "lshift" if b.constant is not None:
                return a * Form.of(2**b.constant)
            case "rshift" if b.constant is not None:
                return self._quotient(source, a, Form.of(2**b.constant))
            case "pow" if isinstance(b.constant, int) and b.constant >= 0:
                return reduce(Form.__mul__, [a] * b.constant, Form.of(1))
            case "floordiv" | "floor":
                return self._quotient(source, a, b)
            case "mod":
                return a - self._quotient(source, a, b) * b
        raise NoFormError(a.groups | b.groups)

    def _quotient(self, source: Computed, a: Form, b: Form) -> Form:
        """What divides without a rest must do so for other widths as well; a constant part may leave one."""
        rest = a.terms.get((), 0) % b.constant if b.constant else 0
        exact = (a - Form.of(rest)).over(b)
        if not exact.is_integral():
            self.whole.append((exact, source))
        return exact

    def _float(self, source: Computed, a: Any, b: Any) -> Any:
        """Products of powers; a float that is a whole multiple of counts (`c / 2`) stays a form for `floor`."""
        groups = a.groups | b.groups
        if isinstance(a, Form) and isinstance(b, Form) and source.operation == "truediv":
            try:
                return a.over(_exact(b))
            except NoFormError:
                pass
        if source.operation == "mul" and (part := _part(a, b)) is not None:
            return part
        x, y = as_power(a), as_power(b)
        if source.operation == "pow" and x is not None and b.groups == frozenset():
            power = Power({g: e * b.constant for g, e in x.exponents.items()})
        elif source.operation in ("mul", "truediv") and x is not None and y is not None:
            sign = 1 if source.operation == "mul" else -1
            power = Power({g: x.exponents.get(g, 0) + sign * y.exponents.get(g, 0) for g in groups})
        else:
            raise NoFormError(groups)
        return power if power.groups else Form.of(source.value)


def _part(a: Any, b: Any) -> Form | None:
    """A count times a part such as 0.25 as a form."""
    for form, part in ((a, b), (b, a)):
        if isinstance(form, Form) and isinstance(part, Form) and isinstance(_exact(part).constant, int | Fraction):
            return form * _exact(part)
    return None


def _exact(form: Form) -> Form:
    """A plain number that a float holds exactly, as a fraction; other forms as they are."""
    constant = form.constant
    exact = isinstance(constant, float) and (found := Fraction(constant)).denominator <= _FINEST
    return Form.of(found) if exact else form


_FINEST = 1024


def inverse(forms: Forms, source: Any, leaf: Any, target: Form) -> Form:
    """What a leaf must be for a source to become the target.

    Raises:
        NoFormError: there is nothing, or no polynomial.
    """
    if source == leaf:
        return target
    if not isinstance(source, Computed):
        raise NoFormError(target.groups)
    left, right = operands(source)
    inside = [any(n == leaf for n in leaves(side)) for side in (left, right)]
    if all(inside) or not any(inside):
        raise NoFormError(target.groups)
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
            raise NoFormError(target.groups)
    return inverse(forms, left if inside[0] else right, leaf, target)


def _value(source: Any) -> Any:
    return getattr(source, "value", source)
