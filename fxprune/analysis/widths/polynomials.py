"""Polynomials in how many channels each group keeps, with rational coefficients, and what is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import Labels

# Indices of groups, each as often as its count is a factor; negative ones stand for parts of groups (see `Parts`).
Monomial: TypeAlias = tuple[int, ...]


class Opaque:
    """A number that is no polynomial in the groups' counts: all that is known is which groups it depends on."""

    constant = None

    def __init__(self, groups: Iterable[int]) -> None:
        self.groups = frozenset(groups)

    def over(self, other: Form | Opaque) -> Opaque:
        return Opaque(self.groups | other.groups)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = over

    def put(self, _: Mapping[int, Form]) -> Opaque:
        return self

    def is_zero(self) -> bool:
        return False


class Power(Opaque):
    """A float of the code that is proportional to powers of counts: {group: exponent}."""

    def __init__(self, exponents: Mapping[int, Any]) -> None:
        self.exponents = {g: float(e) for g, e in exponents.items() if e}
        super().__init__(self.exponents)


class Form:
    """A polynomial in the groups' counts, with rational coefficients.

    >>> k = Form({(0,): 1})
    >>> ((k * Form.of(6)).over(Form.of(2)) - k).at({0: 5}.get)
    Fraction(10, 1)
    """

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Monomial, Any]) -> None:
        self.terms = {m: c for m, c in terms.items() if c}

    @classmethod
    def of(cls, number: Any) -> Form:
        """A number; a float that holds a simple fraction exactly (0.25) is that fraction."""
        if isinstance(number, float) and math.isfinite(number):
            exact = Fraction(number)
            number = exact if exact.denominator <= _FINEST else number
        return cls({(): number})

    def __add__(self, other: Form) -> Form:
        if not isinstance(other, Form):
            return NotImplemented
        terms = dict(self.terms)
        for m, c in other.terms.items():
            terms[m] = terms.get(m, 0) + c
        return Form(terms)

    def __sub__(self, other: Form) -> Form:
        return self + other * _MINUS

    def __mul__(self, other: Form) -> Form:
        if not isinstance(other, Form):
            return NotImplemented
        terms: dict[Monomial, Any] = {}
        for m, c in self.terms.items():
            for n, d in other.terms.items():
                key = tuple(sorted(m + n)) if m and n else m or n
                terms[key] = terms.get(key, 0) + c * d
        return Form(terms)

    @property
    def groups(self) -> frozenset[int]:
        return frozenset(g for m in self.terms for g in m)

    @property
    def constant(self) -> Any:
        """The number that it is whatever the groups keep; None if it depends on them."""
        return None if self.groups else self.terms.get((), 0)

    def over(self, other: Form | Opaque) -> Form | Opaque:
        """The exact quotient; opaque if it is no polynomial."""
        quotient, rest, nothing = Form({}), self, Opaque(self.groups | other.groups)
        if isinstance(other, Opaque) or other.is_zero():
            return nothing
        lead = max(other.terms, key=_degree)
        while rest.terms:
            top = max(rest.terms, key=_degree)
            factor = _without(top, lead)
            if factor is None:
                return nothing
            part = Form({factor: Fraction(rest.terms[top]) / other.terms[lead]})
            quotient, rest = quotient + part, rest - part * other
        return quotient

    def at(self, counts: Callable[[int], Any]) -> Any:
        """The value for given counts."""
        return sum(c * math.prod(counts(g) for g in m) for m, c in self.terms.items())

    def put(self, known: Mapping[int, Form]) -> Form:
        """With forms in the place of some counts."""
        if not known or self.groups.isdisjoint(known):
            return self
        parts = (
            reduce(Form.__mul__, [known.get(g, Form({(g,): 1})) for g in m], Form.of(c)) for m, c in self.terms.items()
        )
        return reduce(Form.__add__, parts, Form({}))

    def is_zero(self) -> bool:
        return not self.terms

    def is_exact(self) -> bool:
        """Whether all coefficients are rational; otherwise, one is a float such as 0.1."""
        return not any(isinstance(c, float) for c in self.terms.values())

    def is_integral(self) -> bool:
        return all(Fraction(c).denominator == 1 for c in self.terms.values())


_FINEST = 1024
_MINUS = Form({(): -1})


def _degree(m: Monomial) -> tuple[int, Monomial]:
    return len(m), m


def _without(m: Monomial, factor: Monomial) -> Monomial | None:
    left = list(m)
    for g in factor:
        if g not in left:
            return None
        left.remove(g)
    return tuple(left)


def as_power(value: Form | Opaque) -> Power | None:
    """A form as a power: only a single term is one."""
    if isinstance(value, Power):
        return value
    terms = list(value.terms) if isinstance(value, Form) else []
    return Power({g: terms[0].count(g) for g in terms[0]}) if len(terms) == 1 else None


def power(operation: str, a: Form | Opaque, b: Form | Opaque) -> Opaque:
    """What the product, the quotient or a power of two numbers is proportional to."""
    x, y = as_power(a), as_power(b)
    if x is not None and operation == "pow" and b.constant is not None:
        return Power({g: e * b.constant for g, e in x.exponents.items()})
    if x is not None and y is not None and operation in ("mul", "truediv"):
        sign = 1 if operation == "mul" else -1
        return Power({g: x.exponents.get(g, 0) + sign * y.exponents.get(g, 0) for g in x.groups | y.groups})
    return Opaque(a.groups | b.groups)


class Parts:
    """Parts of groups whose channels the code counts: how many of them stay depends on which ones do.

    A part is numbered -1, -2, ...; its count is that of those of its labels' components that stay.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._numbers: dict[bytes, int] = {}
        self._components: list[Labels] = []

    def number(self, components: Labels) -> int:
        key = np.sort(components).tobytes()
        if key not in self._numbers:
            self._components.append(components)
            self._numbers[key] = -len(self._components)
        return self._numbers[key]

    def group(self, symbol: int) -> int:
        """The group that a symbol stands for, or for a part of."""
        return symbol if symbol >= 0 else int(self._analysis.group_of[self._components[-symbol - 1][0]])

    def of(self, group: int) -> list[Labels]:
        """All parts of a group, each as components."""
        return [c for c in self._components if self._analysis.group_of[c[0]] == group]

    def size(self, symbol: int) -> int:
        return self._analysis.groups[symbol].size if symbol >= 0 else len(self._components[-symbol - 1])

    def kept(self, symbol: int, keep: npt.NDArray[np.bool_]) -> int:
        """How many channels of a part stay."""
        return int(keep[self._components[-symbol - 1]].sum())
