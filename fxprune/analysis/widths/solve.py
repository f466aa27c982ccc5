"""Solve: which value each attribute and literal must have, and which groups must be tied or stay, exactly.

Every equation must hold whatever the groups keep. An attribute or literal that stands alone in one is thereby known;
one that stands in an expression is, if it is the only unknown there. Where two numbers still differ, the groups in them
are tied, if keeping the same part of each makes the numbers equal; otherwise they are fixed, with the expression and
the line as the reason. What the code compares must come out as it was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import WidthUse
from fxprune.analysis.widths.constraints import Held, Mend, names_of, stepped
from fxprune.analysis.widths.equations import Equation, Facts
from fxprune.analysis.widths.forms import Forms, Number, inverse, leaves
from fxprune.analysis.widths.polynomials import Form, NoFormError, Parts, Power
from fxprune.analysis.widths.scales import scaled
from fxprune.analysis.widths.words import at_line, in_words
from fxprune.module.literals import NoLiteralError, find_literal
from fxprune.tracing.provenance import Attribute, Computed, Guard, Site


def solve(analysis: Analysis, held: Held, facts: Facts, known: Sequence[WidthUse], *, rewrite_code: bool) -> Held:
    """What the code holds, from its equations alone."""
    while True:
        solver = _Solver(analysis, held, known, rewrite_code=rewrite_code)
        found = solver.run(facts)
        if found is held:
            found = scaled(analysis, held, solver.forms, facts)
            if found.fixed.keys() == held.fixed.keys():
                return replace(found, mends=solver.mends())
        held = found


class _Solver:
    """One pass over all equations, with the groups that are fixed and tied so far."""

    def __init__(self, analysis: Analysis, held: Held, known: Sequence[WidthUse], *, rewrite_code: bool) -> None:
        self._analysis, self._held, self._rewrite_code = analysis, held, rewrite_code
        self._balanced = {analysis.index[n] for b in analysis.balances for n in b.names}
        self._steps: dict[int, int] = {}
        self._parts = held.parts or Parts(analysis)
        self.forms = Forms(analysis, self._parts, self._settled(), self._balanced)
        self._names: dict[Any, str] = {}
        for use in known:
            self.forms.values[use.module, use.attribute] = self.forms.dim(use.labels, len(use.labels))

    def _settled(self) -> dict[int, Form]:
        """Fixed groups as numbers, and tied ones as multiples of the first of their tie."""
        groups, put = self._analysis.groups, dict[int, Form]()
        for name in self._held.fixed:
            g = self._analysis.index[name]
            put[g] = Form.of(groups[g].size)
        for tie in self._held.ties:
            first, *rest = sorted(self._analysis.index[n] for n in tie)
            if first not in self._balanced:
                self._steps[first] = getattr(self._analysis.steps(tie), "step", 1)
                put |= {g: Form({(first,): Fraction(groups[g].size, groups[first].size)}) for g in rest}
        return put

    def run(self, facts: Facts) -> Held:
        held = self._held
        equations = [
            *facts.equations,
            *(
                Equation(g.left, g.right, "a comparison", g.site)
                for g in facts.guards
                if (g.operation, g.outcome) in _EQUALITIES
            ),
        ]
        compound = [e for e in equations if not self._direct(e)]
        self._explain(compound)
        self.forms.whole.clear()
        for e in equations:
            self._check(e)
        return self._held if self._held is not held else self._settle(facts)

    def _settle(self, facts: Facts) -> Held:
        """What must hold once all ties are known."""
        for g in facts.guards:
            self._guard(g)
        for scalar in facts.scalars:
            self.forms.groups(scalar.source)  # notes what must be whole
        for form, source in self.forms.whole:
            self._whole(form, source)
        for source, site, to in facts.escapes:
            self._fix(self.forms.groups(source), Equation(source, "a plain number", to, site))
        return self._held

    # Unknowns

    def _direct(self, e: Equation) -> bool:
        """Whether one side is an unknown on its own, which is thereby known."""
        for unknown, other in ((e.left, e.right), (e.right, e.left)):
            if isinstance(unknown, Attribute | Number) and not isinstance(other, Attribute | Number):
                try:
                    self._set(unknown, self.forms.source(other))
                except NoFormError as error:
                    self._fix(error.groups, e)
                return True
        return False

    def _set(self, unknown: Attribute | Number, form: Any) -> None:
        key = _key(unknown)
        if key in self.forms.values or not isinstance(form, Form):
            return  # whether they agree is checked in the end
        if form.groups and isinstance(unknown, Number):
            try:
                self._names[key] = self._name(unknown)
            except NoLiteralError:
                return
        if form.groups or isinstance(unknown, Attribute):
            self.forms.values[key] = form

    def _name(self, number: Number) -> str:
        if not self._rewrite_code:
            raise NoLiteralError("code is left as it is")
        module = self._analysis.labelling.graph.model.get_submodule(number.site.module)
        return find_literal(module, number.site.code, number.site.instruction, number.paths, number.value)

    def _explain(self, compound: Sequence[Equation]) -> None:
        """Find the unknowns that stand in expressions, first those that leave no choice."""
        for whole, kind in product((True, False), (Attribute, Number)):
            left = list(compound)
            while left:
                before = len(left)
                left = [e for e in left if not self._agrees(e) and not self._inverted(e, kind, whole=whole)]
                if len(left) == before:
                    break

    def _agrees(self, e: Equation) -> bool:
        try:
            return not self._difference(self.forms, e).terms
        except NoFormError:
            return False

    @staticmethod
    def _difference(forms: Forms, e: Equation | Guard) -> Form:
        a, b = forms.source(e.left), forms.source(e.right)
        if isinstance(a, Power) or isinstance(b, Power):
            raise NoFormError(a.groups | b.groups)
        return a - b  # type: ignore[no-any-return]

    def _inverted(self, e: Equation, kind: Any, *, whole: bool) -> bool:
        """Whether there is just one unknown of a kind that can make an equation hold.

        Args:
            e: the equation.
            kind: of the unknown.
            whole: whether it must be a whole number at every width; else the group has only widths at which it is.
        """
        found: dict[Any, tuple[Any, Form]] = {}
        for side, other in ((e.left, e.right), (e.right, e.left)):
            for leaf in leaves(side):
                if isinstance(leaf, kind) and _key(leaf) not in self.forms.values:
                    try:
                        form = inverse(self.forms, side, leaf, self.forms.source(other))
                    except (NoFormError, ZeroDivisionError, AttributeError):
                        continue
                    fits = form.is_integral() if whole else self._unfit(form) is not None
                    if fits and form.groups and form.at(self._parts.size) == leaf.value:
                        found[_key(leaf)] = (leaf, form)
        if len(found) != 1:
            return False
        ((key, (leaf, form)),) = found.items()
        self._set(leaf, form)
        if key in self.forms.values and (unfit := self._unfit(form)):
            self._held = self._held.refuse(self._analysis.groups[max(form.groups)].name, unfit)
        return key in self.forms.values and self._agrees(e)

    def _unfit(self, form: Form) -> list[int] | None:
        """The counts of a form's only group at which it is no whole number; None if there is no such group, or no other
        count.
        """
        if len(form.groups) != 1 or min(form.groups) < 0 or form.groups & self._balanced:
            return None
        size = self._parts.size(min(form.groups))
        unfit = [n for n in range(1, size + 1) if Fraction(form.at(lambda _: n)).denominator > 1]  # noqa: B023
        return unfit if len(unfit) < size - 1 else None

    # What does not agree

    def _check(self, e: Equation) -> None:
        try:
            difference = self._difference(self.forms, e)
            groups = difference.groups if difference.terms else None
        except NoFormError as error:
            groups = error.groups
        if groups is not None and self._agree_together(groups, e):
            self._tie(groups, e)
        elif groups is not None:
            self._fix(groups, e)

    def _tie(self, groups: Iterable[int], e: Equation | Guard) -> None:
        names = names_of(self._analysis, sorted(groups))
        self._held = stepped(self._analysis, self._held.tie(names), names, at_line(e.site))

    def _agree_together(self, groups: frozenset[int], e: Equation) -> bool:
        """Whether an equation holds if groups keep the same part of their channels."""
        together = self._together(groups)
        try:
            return bool(together) and not self._difference(self.forms.having(together), e).terms
        except NoFormError:
            return False

    def _together(self, groups: frozenset[int]) -> dict[int, Form]:
        """Groups that keep the same part of their channels, as multiples of the first; none, if they can't be tied."""
        first = min(groups, default=-1)
        if len(groups) < 2 or first < 0 or self._balanced.intersection(groups):
            return {}
        sizes = {g: Fraction(self._parts.size(g), self._parts.size(first)) for g in groups}
        return {g: Form({(first,): part}) for g, part in sizes.items() if g != first}

    def _fix(self, groups: Iterable[int], e: Equation) -> None:
        cut = {g for s in groups if s < 0 and (g := self._parts.group(s)) not in self._balanced}
        cuts = [p for g in sorted(cut) for p in self._parts.of(g) if not any(p is known for known in self._held.cuts)]
        if cuts:  # also of groups that stay because others do: parted, both may be free
            self._held = replace(self._held, cuts=(*self._held.cuts, *cuts))
        active = self._active(groups)
        if active:
            why = f"the model's code holds this width: {in_words(e.left)} = {in_words(e.right)} in {e.what}"
            self._held = self._held.fix(active, (why + self._obstacle(e), at_line(e.site)))

    def _active(self, symbols: Iterable[int]) -> list[str]:
        """The groups behind symbols that are not fixed yet."""
        names = names_of(self._analysis, sorted({self._parts.group(s) for s in symbols}))
        return [n for n in names if n not in self._held.fixed]

    def _obstacle(self, e: Equation) -> str:
        """Why a plain number of the code cannot follow."""
        for number in (e.left, e.right):
            if isinstance(number, Number):
                try:
                    self._name(number)
                except NoLiteralError as error:
                    return f"; {error}"
        return ""

    def _whole(self, form: Form, source: Computed) -> None:
        """What the code divides must stay a whole number: each group is refused the counts at which it is none;
        balanced groups are tried out one by one.
        """
        parts = {g: Form({(g,): Fraction(self._analysis.groups[g].size, s)}) for g, s in self._steps.items()}
        if form.put(parts).is_integral() or form.groups <= self._balanced:
            return
        unfit = self._unfit_alone(form)
        for g, counts in (unfit or {}).items():
            self._held = self._held.refuse(self._analysis.groups[g].name, counts)
        if unfit is None:
            self._fix(form.groups, Equation(source, "a whole number", source.operation, source.site))

    def _unfit_alone(self, form: Form) -> dict[int, list[int]] | None:
        """For each group of a sum, the counts at which its part is no whole number; None where a product of groups, or
        no other count of one, makes that no answer.
        """
        full = {g: Form.of(self._parts.size(g)) for g in form.groups}
        found = {g: self._unfit(form.put({h: n for h, n in full.items() if h != g})) for g in full}
        if any(counts is None for counts in found.values()) or any(len(set(m)) > 1 for m in form.terms):
            return None
        return {g: counts for g, counts in found.items() if counts}

    # Comparisons

    def _guard(self, g: Guard) -> None:
        try:
            difference = self._difference(self.forms, g)
        except NoFormError as error:
            self._refuse(error.groups, g)
            return
        if self._is_decided(difference, g):
            return
        if self._differs(difference, g):
            return
        together = self._together(difference.groups)
        if together and self._is_decided(difference.put(together), g):
            self._tie(difference.groups, g)
            return
        for group in sorted(difference.groups):
            alone = difference.put({group: Form.of(self._parts.size(group))})
            if self._is_decided(alone, g):
                self._refuse([group], g)
                return
        self._refuse(difference.groups, g)

    def _differs(self, difference: Form, g: Guard) -> bool:
        """Whether the code finds that a group's width is not another number: it is not to become that number."""
        group = max(difference.groups, default=-1)
        alone = difference.groups == {group} and group >= 0 and group not in self._balanced
        if (g.operation, g.outcome) not in _DIFFERENCES or not alone:
            return False
        size = self._analysis.groups[group].size
        equal = [n for n in range(1, size + 1) if difference.put({group: Form.of(n)}).constant == 0]
        self._held = self._held.refuse(self._analysis.groups[group].name, equal)
        return True

    def _is_decided(self, difference: Form, g: Guard) -> bool:
        """Whether a comparison with zero comes out as recorded, whatever the groups keep."""
        low, high = self._range(difference)
        possible = {"lt": low < 0, "le": low <= 0, "gt": high > 0, "ge": high >= 0, "eq": low <= 0 <= high}
        certain = {"lt": high < 0, "le": high <= 0, "gt": low > 0, "ge": low >= 0, "eq": low == high == 0}
        if g.operation == "ne":
            return not possible["eq"] if g.outcome else certain["eq"]
        return certain[g.operation] if g.outcome else not possible[g.operation]

    def _range(self, form: Form) -> tuple[Any, Any]:
        low = high = Fraction(0)
        for m, c in form.terms.items():
            most = prod(self._parts.size(g) for g in m)
            least = prod(self._least(g) for g in m)
            low, high = low + min(c * least, c * most), high + max(c * least, c * most)
        return low, high

    def _least(self, group: int) -> Any:
        if group < 0 or group in self._balanced:
            return 0
        return Fraction(self._analysis.groups[group].size, self._steps[group]) if group in self._steps else 1

    def _refuse(self, groups: Iterable[int], g: Guard) -> None:
        active = self._active(groups)
        if active:
            asked = f"{in_words(g.left)} {_SIGNS[g.operation]} {in_words(g.right)}"
            why = f"the model's code goes by this width: {asked} is {g.outcome}"
            self._held = self._held.fix(active, (why, at_line(g.site)))

    def mends(self) -> tuple[Mend, ...]:
        """The attributes and literals that follow a width."""
        return tuple(
            Mend(key[0].module if isinstance(key[0], Site) else key[0], self._names.get(key, key[1]), form)
            for key, form in self.forms.values.items()
            if form.groups
        )


_EQUALITIES = {("eq", True), ("ne", False)}
_DIFFERENCES = {("eq", False), ("ne", True)}
_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def _key(unknown: Attribute | Number) -> Any:
    return (unknown.module, unknown.name) if isinstance(unknown, Attribute) else (unknown.site, unknown.path)
