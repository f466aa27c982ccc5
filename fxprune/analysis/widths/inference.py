"""Learn: what each difference that a probe found says about the model's code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.grouping.components import Analysis, mended
from fxprune.analysis.labels.dims import Labels, WidthUse
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.widths import candidates
from fxprune.analysis.widths.builtin_modules import known_beforehand
from fxprune.analysis.widths.code_scan import sees_widths
from fxprune.analysis.widths.constraints import Held, Reason, ScaleUse, names_of, stepped
from fxprune.analysis.widths.fold import absorbing_rows, is_scaling
from fxprune.analysis.widths.prediction import Prediction, doubtful
from fxprune.analysis.widths.probe import Difference, Refusal, probe

# A difference, and label arrays of one length that the code asked for.
Wanted = tuple[Difference, Sequence[Labels]]

# How many sizes of each call are not the predicted ones.
Wrong = dict[fx.Node, int]

# How often a call may differ in spite of what was learned from it, before its groups are fixed.
_STRIKES = 8


def held_by_code(analysis: Analysis, fixed: dict[str, Reason], *, rewrite_code: bool = True) -> Held:
    """Probe the model until it runs as predicted.

    Args:
        analysis: of the graph.
        fixed: groups that are fixed anyway, with the reasons.
        rewrite_code: whether literals in the code of a module may be mended.
    """
    held = Held()
    for balance in analysis.balances:
        held = held.tie(balance.names)
    for name, reason in fixed.items():
        held = held.fix([name], reason)
    held = known_beforehand(analysis, held)
    graph = analysis.labelling.graph
    sighted = graph.on_meta and sees_widths(graph)  # what runs on data may refuse to run without
    if not doubtful(analysis) and not sighted:
        return held
    strikes: Counter[fx.Node] = Counter()
    prediction = Prediction(analysis, held)
    while prediction.can_differ(sighted):
        before = held
        found, refusal = _probe(prediction, held)
        if not found and refusal is None:
            if prediction.other:
                break
            prediction = prediction.turned(held)
            continue
        strikes.update({d.node for d in _judged(found)})
        held = _Inference(prediction, held, strikes, rewrite_code).learn(found, refusal)
        if held is before:
            held = _Inference(prediction, held, strikes, rewrite_code).give_up(found, refusal)
        prediction = prediction.again(held)
    return held


def _probe(prediction: Prediction, held: Held) -> tuple[list[Difference], Refusal | None]:
    if held.mends not in prediction.seen:  # a guess that was tested may be the next thing to be looked at
        prediction.seen[held.mends] = probe(prediction, mended(prediction.analysis, held.mends, prediction.keep))
    found, refusal = prediction.seen[held.mends]
    if refusal is not None and refusal.diverged and not prediction.carried_by_doubtful(refusal.unseen):
        refusal = None
    return [d for d in found if d.scalar is None or d.node.name not in held.folded], refusal


class _Inference:
    """One round of learning: the differences of one probe."""

    def __init__(self, prediction: Prediction, held: Held, strikes: Counter[fx.Node], rewrite_code: bool) -> None:
        self._prediction, self._held, self._strikes = prediction, held, strikes
        self._analysis = prediction.analysis
        self._axes = prediction.analysis.labelling.axes
        self._model = prediction.analysis.labelling.graph.model
        self._rewrite_code = rewrite_code
        self._wanted: list[Wanted] = []
        self._by_module: dict[str, list[fx.Node]] = {}
        for node in self._axes:
            self._by_module.setdefault(node.meta.get("module", ""), []).append(node)

    def learn(self, found: Sequence[Difference], refusal: Refusal | None) -> Held:
        for d in _judged(found):
            self._difference(d)
        self._test_guesses(found, refusal)
        if refusal is not None and not found and not self._foreseen(refusal) and not self._together(refusal):
            self._refused(refusal)
        return self._held

    def give_up(self, found: Sequence[Difference], refusal: Refusal | None) -> Held:
        """Fix what a round has learned nothing of."""
        for d in found:
            self._fix(d)
        if refusal is not None:
            self._refused(refusal)
        return self._held

    def _difference(self, d: Difference) -> None:
        if self._strikes[d.node] > _STRIKES:
            self._fix(d)
        elif d.scalar is not None:
            self._fold(d, *d.scalar)
        elif counted := self._counted(d.node):
            self._wanted += [(d, labels) for labels in counted]
        elif len(d.asked) != len(d.predicted) or not d.asked:
            self._fix(d)
        else:
            self._sizes(d)

    def _sizes(self, d: Difference) -> None:
        """Dim by dim: a literal, or another group's width? Literals first: widths may be computed from them."""
        dims = list(self._dims(d.node))
        differing = [
            (dims[i], a, p) for i, (a, p) in enumerate(zip(d.asked, d.predicted, strict=True)) if a not in (None, p)
        ]
        literal = [dim for dim, asked, _ in differing if isinstance(dim, np.ndarray) and asked == len(dim)]
        for length in {len(dim): None for dim in literal}:
            self._wanted.append((d, [dim for dim in literal if len(dim) == length]))
        for dim, asked, predicted in [] if literal else differing:
            self._follows(d, dim, asked, len(dim) if isinstance(dim, np.ndarray) else predicted)
        if not differing:
            self._fix(d)

    def _counted(self, node: fx.Node) -> list[list[Labels]]:
        """Labels that the call's own numbers count, those of one number together."""
        counted = self._analysis.labelling.labeller.counted.get(node, [])
        return [[c for c in counted if len(c) == n] for n in {len(c): None for c in counted}]

    def _dims(self, node: fx.Node) -> Iterator[Any]:
        axes = self._axes[node]
        for a in [axes] if isinstance(axes, Axes) else axes:
            yield from (a.known(i) for i in range(len(a)))

    def _test_guesses(self, found: Sequence[Difference], refusal: Refusal | None) -> None:
        """An int is mended if then fewer calls differ, and no other ones: attributes first, then literals."""
        in_code = (candidates.code, candidates.computed) if self._rewrite_code else ()
        for guesser in (candidates.attributes, *in_code):
            self._wanted = list(self._unresolved(guesser, _wrong(found), refusal))
        for d, _ in self._wanted:
            why = candidates.obstacle(self._model, d.node) if self._rewrite_code else "code is left as it is"
            self._fix(replace(d, what=f"{d.what}; {why}" if why else d.what))

    def _unresolved(self, guesser: candidates.Guesser, before: Wrong, refusal: Refusal | None) -> Iterator[Wanted]:
        """What no guess explains; the guesses that do are taken up."""
        known = {(u.module, u.attribute) for u in self._held.mends}
        guesses = [(w, g) for w in self._wanted for g in guesser(self._model, w[0].node, w[1])]
        fresh = [(w, g) for w, g in guesses if not any((u.module, u.attribute) in known for u in g)]
        # What known attributes hold may differ for another reason: wait.
        done = {id(w) for w, g in guesses if not any(w is other for other, _ in fresh)}
        if fresh and self._takes([u for _, g in fresh for u in g], before, refusal):
            done |= {id(w) for w, _ in fresh}
        else:
            done |= {id(w) for w, g in fresh if self._takes(g, before, refusal)}
        return (w for w in self._wanted if id(w) not in done)

    def _takes(self, uses: Sequence[WidthUse], before: Wrong, refused: Refusal | None) -> bool:
        """Take up the guesses if the model then runs further, or with fewer differences, and in no other calls."""
        held = replace(self._held, mends=(*self._held.mends, *uses))
        found, refusal = _probe(self._prediction, held)
        later = set(refused.unseen) if refused is not None else set()
        after = {node: n for node, n in _wrong(found).items() if node not in later}
        further = refused is not None and (refusal is None or len(refusal.unseen) < len(refused.unseen))
        fewer = sum(after.values()) < sum(before.values()) and (refusal is None or refused is not None)
        better = after.keys() <= before.keys() and (further or fewer)
        if better:
            self._held = held
        return better

    def _follows(self, d: Difference, dim: Any, asked: int, length: int) -> None:
        """The code asked for a size of its own: which group's kept part is it, or which two groups' quotient?"""
        mine, near = self._prediction.carried([dim]).tolist(), self._near(d.node)
        part = self._prediction.part
        if mine:
            leader = next(([g] for g in near if g not in mine and _matches(length * part(g), asked)), [])
        else:
            pairs = ([g, h] for g in near for h in near if g != h and _matches(length * part(g) / part(h), asked))
            leader = next(pairs, [])
        if leader:
            names = names_of(self._analysis, [*mine, *leader])
            self._held = stepped(self._analysis, self._held.tie(names), names, d.where)
        elif isinstance(dim, np.ndarray):
            self._wanted.append((d, [dim]))  # computed from an int that was mended
        else:
            self._fix(d)

    def _near(self, node: fx.Node) -> list[int]:
        """Active groups, those that the issuing module touches first."""
        module = node.meta["module"]
        inside = self._by_module.get(module, [])
        near = self._prediction.groups([a for n in inside for a in _several(self._axes[n])]).tolist()
        return [*near, *(g for g in np.flatnonzero(self._prediction.active).tolist() if g not in near)]

    def _fold(self, d: Difference, recorded: float, present: float) -> None:
        """A scalar follows a width: the layer before it takes up the difference."""
        if d.node.name in self._held.folded:  # together with its like of another run
            return
        rows, calls = absorbing_rows(d.node) if is_scaling(d.node) else ([], frozenset())
        divides = d.node.target._opname == "div"  # type: ignore[union-attr]
        before, after = (recorded, present) if divides else (present, recorded)
        factor = after / before if before else 0.0
        for g in self._near(d.node):
            exponent = math.log(factor) / math.log(self._prediction.part(g)) if 0 < factor < math.inf else 0
            if abs(exponent * 4 - round(exponent * 4)) < 1e-4 and 0 < abs(exponent) <= 1:
                if not rows:
                    self._fix_groups([g], d)
                    return
                name = self._analysis.groups[g].name
                uses = [ScaleUse(tensor, r, name, round(exponent * 4) / 4) for tensor, r in rows]
                scales = (*self._held.scales, *uses)
                self._held = replace(self._held, scales=scales, folded=self._held.folded | calls)
                return
        self._fix(d)

    def _fix(self, d: Difference) -> None:
        """Fix the groups on the call's result; else those on its arguments; else those near it."""
        for axes in (self._axes[d.node], *(self._axes[a] for a in d.node.all_input_nodes)):
            groups = self._prediction.groups(axes)
            if len(groups):
                return self._fix_groups(groups.tolist(), d)
        return self._fix_groups(self._near(d.node)[:1], d)

    def _fix_groups(self, groups: Iterable[int], d: Difference) -> None:
        reason = (f"the model's code holds this width: {d.what}", d.where)
        self._held = self._held.fix(names_of(self._analysis, groups), reason)

    def _foreseen(self, refusal: Refusal) -> bool:
        """Whether an int explains the refusal: one that the refusing module holds of its next doubtful call, or of what
        the last call made, which it may have checked.
        """
        if refusal.diverged:
            return False
        doubted = set(doubtful(self._analysis))
        ahead = (n for n in refusal.unseen if n in doubted and n.meta["module"] == refusal.module)
        near = partial(candidates.attributes_near, refusal.module)
        return any(self._explains(n, near, refusal) for n in (next(ahead, None), refusal.after) if n is not None)

    def _explains(self, node: fx.Node, guesser: candidates.Guesser, refusal: Refusal) -> bool:
        """Whether a guess for the length of a dim of the call's result explains the refusal."""
        dims = [dim for dim in self._dims(node) if isinstance(dim, np.ndarray) and len(self._prediction.carried([dim]))]
        self._wanted = [(Difference(node, (), (), refusal.what, refusal.where), [dim]) for dim in dims]
        return len(list(self._unresolved(guesser, {}, refusal))) < len(dims)

    def _together(self, refusal: Refusal) -> bool:
        """Whether the module accepts widths that keep the same part (`assert width % heads == 0`).

        As few groups as will do are tied.
        """
        inside = [n for n in refusal.unseen if n.meta["module"] == refusal.module]
        touched = self._prediction.groups([a for n in inside for a in _several(self._axes[n])]).tolist()
        names = names_of(self._analysis, touched)
        if refusal.diverged or len(names) < 2 or not self._goes_on(names, refusal):
            return False
        for name in tuple(names):
            fewer = [n for n in names if n != name]
            if len(fewer) > 1 and self._goes_on(fewer, refusal):
                names = fewer
        self._held = self._held.tie(names)
        return True

    def _goes_on(self, tied: Sequence[str], refused: Refusal) -> bool:
        """Whether the model runs further if these groups are tied."""
        held = stepped(self._analysis, self._held.tie(tied), tied, refused.module)
        if any(name in held.fixed for name in tied):
            return False
        _, refusal = _probe(self._prediction.again(held), held)
        return refusal is None or len(refusal.unseen) < len(refused.unseen)

    def _refused(self, refusal: Refusal) -> None:
        """The forward raised: what the last call made keeps its width; else what the module's code goes on with; else
        all in the innermost module with groups left.
        """
        reason = (f"the model's code refuses other widths: {refusal.what}", refusal.where)
        if refusal.diverged:
            unseen = self._prediction.carried_by_doubtful(refusal.unseen)
            reason = ("whether the model's code holds this width could not be seen", refusal.what)
            self._held = self._held.fix(names_of(self._analysis, unseen), reason)
            return
        last = refusal.after
        ahead = (n for n in refusal.unseen if n.meta["module"] == refusal.module)
        involved = (self._prediction.touched(n).tolist() for n in ahead)
        made = [] if last is None else self._prediction.groups(self._axes[last]).tolist()
        if made := made or next(filter(None, involved), []):
            self._held = self._held.fix(names_of(self._analysis, made), reason)
            return
        path, groups = refusal.module, self._analysis.groups
        while True:
            inside = [
                g.name
                for i, g in enumerate(groups)
                if self._prediction.active[i] and any(not path or s.tensor.startswith(path + ".") for s in g.slots)
            ]
            if inside or not path:
                self._held = self._held.fix(inside, reason)
                return
            path = path.rpartition(".")[0]


def _judged(found: Sequence[Difference]) -> Sequence[Difference]:
    """Scalars are judged when all shapes are right: they follow widths that may not be settled yet."""
    return [d for d in found if d.scalar is None] or found


def _wrong(found: Sequence[Difference]) -> Wrong:
    """Scalars do not count: they follow widths, and change where these do."""
    return {
        d.node: max(1, sum(a not in (None, p) for a, p in zip(d.asked, d.predicted, strict=False)))
        for d in found
        if d.scalar is None
    }


def _several(axes: Axes | tuple[Axes, ...]) -> Sequence[Axes]:
    return [axes] if isinstance(axes, Axes) else axes


def _matches(expected: float, asked: int) -> bool:
    return asked in (math.floor(expected + 1e-9), round(expected), math.ceil(expected - 1e-9))
