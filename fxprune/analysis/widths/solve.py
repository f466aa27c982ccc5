"""Solve: which value each attribute and literal must have, and which groups must be tied or stay, exactly.

Every equation must hold whatever the groups keep. An attribute or literal that stands alone in one is thereby known;
one that stands in an expression is, if it is the only unknown there. Where two numbers still differ, the groups in them
are tied, if keeping the same part of each makes the numbers equal; otherwise they are fixed, with the expression and
the line as the reason. What the code compares must come out as it was recorded.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.widths.constraints import Held, Mend
from fxprune.analysis.widths.equations import Facts
from fxprune.analysis.widths.forms import Equation, Forms, Number, inverse, key_of, leaves
from fxprune.analysis.widths.polynomials import Form, Opaque, Parts
from fxprune.analysis.widths.scales import scaled
from fxprune.analysis.widths.words import at_line, in_words
from fxprune.module.literals import NoLiteralError, find_literal
from fxprune.tracing.provenance import Attribute, Computed, Guard, Site


def solve(analysis: Analysis, held: Held, facts: Facts, *, rewrite_code: bool) -> Held:
    """What the code holds, from its equations alone."""
    while True:
        solver = _Solver(analysis, held, rewrite_code=rewrite_code)
        found = solver.run(facts)
        if found is held:
            found = scaled(held, solver.forms, facts)
            if found.fixed.keys() == held.fixed.keys():
                return replace(found, mends=solver.mends())
        held = found


class _Solver:
    """One pass over all equations, with the groups that are fixed and tied so far."""

    def __init__(self, analysis: Analysis, held: Held, *, rewrite_code: bool) -> None:
        assert held.parts is not None
        self._analysis, self._held, self._rewrite_code = analysis, held, rewrite_code
        self._balanced = {analysis.index[n] for b in analysis.balances for n in b.names}
        self._parts: Parts = held.parts
        self._steps: dict[int, int] = {}
        self.forms = Forms(analysis, self._parts, self._settled(), self._balanced)
        self._literals: dict[Any, str] = {}

    def _settled(self) -> dict[int, Form]:
        """Fixed groups as numbers, and tied ones as multiples of the first of their tie."""
        index = self._analysis.index
        put = {index[name]: Form.of(self._parts.size(index[name])) for name in self._held.fixed}
        for tie in self._held.ties:
            members = frozenset(index[n] for n in tie)
            if not members & self._balanced:
                self._steps[min(members)] = getattr(self._analysis.steps(tie), "step", 1)
                put |= self._together(members)
        return put

    def run(self, facts: Facts) -> Held:
        held = self._held
        self._explain([e for e in facts.equations if not self._direct(e)])
        self.forms.whole.clear()
        for e in facts.equations:
            self._check(e)
        if self._held is held:  # all ties are known
            for g in facts.guards:
                self._guard(g)
            for number, _ in facts.scalars:
                self.forms.source(number)  # notes what must be whole
            for form, source in self.forms.whole:
                self._whole(form, source)
            for e in facts.escapes:
                self._fix(self.forms.source(e.left).groups, e)
        return self._held

    # Unknowns

    def _direct(self, e: Equation) -> bool:
        """Whether one side is an unknown on its own, which is thereby known."""
        for unknown, other in ((e.left, e.right), (e.right, e.left)):
            if isinstance(unknown, Attribute | Number) and not isinstance(other, Attribute | Number):
                self._set(unknown, self.forms.source(other))
                return True
        return False

    def _set(self, unknown: Attribute | Number, form: Form | Opaque) -> None:
        key = key_of(unknown)
        if key in self.forms.values or isinstance(form, Opaque):
            return  # whether they agree is checked in the end
        if form.groups and isinstance(unknown, Number):
            try:
                self._literals[key] = self._literal(unknown)
            except NoLiteralError:
                return
        if form.groups or isinstance(unknown, Attribute):
            self.forms.values[key] = form

    def _literal(self, number: Number) -> str:
        """The name of a plain number of the code."""
        if not self._rewrite_code:
            raise NoLiteralError("code is left as it is")
        site = number.site
        module = self._analysis.labelling.graph.model.get_submodule(site.module)
        return find_literal(module, site.code, site.instruction, number.paths, number.value)

    def _explain(self, compound: Sequence[Equation]) -> None:
        """Find the unknowns that stand in expressions, first those that leave no choice."""
        for whole, kind in product((True, False), (Attribute, Number)):
            before, left = None, list(compound)
            while len(left) != before:
                before = len(left)
                left = [e for e in left if not self._agrees(e) and not self._inverted(e, kind, whole=whole)]

    def _agrees(self, e: Equation) -> bool:
        return self.forms.difference(e).is_zero()

    def _inverted(self, e: Equation, kind: Any, *, whole: bool) -> bool:
        """Whether there is just one unknown of a kind that can make an equation hold, at every width as a `whole`
        number; or else, at widths that are then the only ones of its group.
        """
        found: dict[Any, tuple[Any, Form]] = {}
        for side, other in ((e.left, e.right), (e.right, e.left)):
            for leaf in leaves(side):
                if isinstance(leaf, kind) and key_of(leaf) not in self.forms.values:
                    form = inverse(self.forms, side, leaf, self.forms.source(other))
                    if isinstance(form, Form) and self._fits(form, leaf.value, whole=whole):
                        found[key_of(leaf)] = (leaf, form)
        if len(found) != 1:
            return False
        ((key, (leaf, form)),) = found.items()
        self._set(leaf, form)
        if key in self.forms.values and (unfit := self._unfit(form)):
            self._refuse(max(form.groups), unfit)
        return key in self.forms.values and self._agrees(e)

    def _fits(self, form: Form, value: int, *, whole: bool) -> bool:
        possible = form.is_integral() if whole else self._unfit(form) is not None
        return possible and bool(form.groups) and form.at(self._parts.size) == value

    def mends(self) -> tuple[Mend, ...]:
        """The attributes and literals that follow a width."""
        return tuple(
            Mend(where.module if isinstance(where, Site) else where, self._literals.get((where, name), name), form)
            for (where, name), form in self.forms.values.items()
            if isinstance(form, Form) and form.groups
        )

    # What does not agree

    def _check(self, e: Equation) -> None:
        difference = self.forms.difference(e)
        if not difference.is_zero():
            together = self._together(difference.groups)
            if together and self.forms.having(together).difference(e).is_zero():
                self._tie(difference.groups, e)
            else:
                self._fix(difference.groups, e)

    def _together(self, groups: frozenset[int]) -> dict[int, Form]:
        """Groups that keep the same part of their channels, as multiples of the first; none, if they can't be tied."""
        first = min(groups, default=-1)
        if len(groups) < 2 or first < 0 or self._balanced & groups:
            return {}
        size = self._parts.size
        return {g: Form({(first,): Fraction(size(g), size(first))}) for g in groups if g != first}

    def _tie(self, groups: Iterable[int], e: Equation | Guard) -> None:
        names = self._names(groups)
        self._held = self._held.tie(names)
        if self._analysis.steps(self._held.tied_with(names[0])) is None:
            reason = "the code ties it to widths that share no common step"
            self._held = self._held.fix(names, (reason, at_line(e.site)))

    def _names(self, symbols: Iterable[int]) -> list[str]:
        """The groups behind symbols."""
        return [self._analysis.groups[g].name for g in sorted({self._parts.group(s) for s in symbols})]

    def _fix(self, groups: Iterable[int], e: Equation) -> None:
        cut = {g for s in groups if s < 0 and (g := self._parts.group(s)) not in self._balanced}
        cuts = [p for g in sorted(cut) for p in self._parts.of(g) if not any(p is known for known in self._held.cuts)]
        if cuts:  # also of groups that stay because others do: parted, both may be free
            self._held = replace(self._held, cuts=(*self._held.cuts, *cuts))
        why = f"the model's code holds this width: {in_words(e.left)} = {in_words(e.right)} in {e.what}"
        self._held = self._held.fix(self._names(groups), (why + self._obstacle(e), at_line(e.site)))

    def _obstacle(self, e: Equation) -> str:
        """Why a plain number of the code cannot follow."""
        for number in (e.left, e.right):
            if isinstance(number, Number):
                try:
                    self._literal(number)
                except NoLiteralError as error:
                    return f"; {error}"
        return ""

    # Counts that a group cannot have

    def _refuse(self, group: int, counts: Iterable[int]) -> None:
        self._held = self._held.refuse(self._analysis.groups[group].name, counts)

    def _lone(self, form: Form | Opaque) -> int | None:
        """The only group that a form depends on, if its counts can be refused."""
        group = max(form.groups, default=-1)
        alone = isinstance(form, Form) and form.groups == {group} and group >= 0 and group not in self._balanced
        return group if alone else None

    def _unfit(self, form: Form) -> list[int] | None:
        """The counts of a form's only group at which it is no whole number; None if there is no such group, or no other
        count.
        """
        group = self._lone(form)
        size = 0 if group is None else self._parts.size(group)
        unfit = [n for n in range(1, size + 1) if Fraction(form.at(lambda _: n)).denominator > 1]  # noqa: B023
        return unfit if len(unfit) < size - 1 else None

    def _whole(self, form: Form, source: Computed) -> None:
        """What the code divides must stay a whole number: each group is refused the counts at which it is none;
        balanced groups are tried out one by one.
        """
        parts = {g: Form({(g,): Fraction(self._parts.size(g), s)}) for g, s in self._steps.items()}
        if form.put(parts).is_integral() or form.groups <= self._balanced:
            return
        full = {g: Form.of(self._parts.size(g)) for g in form.groups}
        unfit = {g: self._unfit(form.put({h: n for h, n in full.items() if h != g})) for g in full}
        if None in unfit.values() or any(len(set(m)) > 1 for m in form.terms):  # a product of groups is no answer
            self._fix(form.groups, Equation(source, "a whole number", source.operation, source.site))
            return
        for g, counts in unfit.items():
            if counts:
                self._refuse(g, counts)

    # Comparisons

    def _guard(self, g: Guard) -> None:
        difference = self.forms.difference(g)
        groups = difference.groups
        by_inputs = any(map(self.forms.is_of_inputs, (*leaves(g.left), *leaves(g.right))))
        if groups and by_inputs and g.operation not in ("eq", "ne"):
            why = f"the model's code compares this width with a size of the inputs: {in_words(g)}"
            self._held = self._held.fix(self._names(groups), (why, at_line(g.site)))
            return
        if self._is_decided(difference, g) or self._differs(difference, g):
            return
        together = self._together(groups)
        if together and self._is_decided(difference.put(together), g):
            self._tie(groups, g)
            return
        alone = {s: Form.of(self._parts.size(s)) for s in sorted(groups)}
        decisive = [s for s, size in alone.items() if self._is_decided(difference.put({s: size}), g)]
        why = f"the model's code goes by this width: {in_words(g)}"
        self._held = self._held.fix(self._names(decisive[:1] or groups), (why, at_line(g.site)))

    def _differs(self, difference: Form | Opaque, g: Guard) -> bool:
        """Whether the code finds that a group's width is not another number: it is not to become that number."""
        group = self._lone(difference)
        if (g.operation, g.outcome) not in (("eq", False), ("ne", True)) or group is None:
            return False
        counts = range(1, self._parts.size(group) + 1)
        self._refuse(group, [n for n in counts if difference.put({group: Form.of(n)}).constant == 0])
        return True

    def _is_decided(self, difference: Form | Opaque, g: Guard) -> bool:
        """Whether a comparison with zero comes out as recorded, whatever the groups keep."""
        if isinstance(difference, Opaque):
            return False
        low, high = self._range(difference)
        reached = [low, high, 0] if low < 0 < high else [low, high]
        return all(getattr(operator, g.operation)(n, 0) == g.outcome for n in reached)

    def _range(self, form: Form) -> tuple[Any, Any]:
        low = high = Fraction(0)
        for m, c in form.terms.items():
            ends = c * prod(self._parts.size(g) for g in m), c * prod(self._least(g) for g in m)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def _least(self, group: int) -> Any:
        if group < 0 or group in self._balanced:
            return 0
        return Fraction(self._parts.size(group), self._steps[group]) if group in self._steps else 1
