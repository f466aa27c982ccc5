"""Inference: what the model's code holds, solved from the recorded run, then checked by runs of other widths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from torch import fx

from fxprune.analysis.grouping.components import Analysis, mended
from fxprune.analysis.labels.dims import WidthUse
from fxprune.analysis.labels.labels import several
from fxprune.analysis.widths.builtin_modules import known_attributes
from fxprune.analysis.widths.constraints import Held, Reason, names_of
from fxprune.analysis.widths.equations import Facts, gather
from fxprune.analysis.widths.forms import Forms
from fxprune.analysis.widths.polynomials import Parts
from fxprune.analysis.widths.positions import laid_over_positions
from fxprune.analysis.widths.prediction import Prediction
from fxprune.analysis.widths.probe import Difference, Refusal, probe
from fxprune.analysis.widths.script import recorded_calls
from fxprune.analysis.widths.solve import solve
from fxprune.tracing.functions import RELATIVE


def held_by_code(analysis: Analysis, fixed: dict[str, Reason], *, rewrite_code: bool = True) -> Held:
    """What the model's code holds.

    Args:
        analysis: of the graph.
        fixed: groups that are fixed anyway, with the reasons.
        rewrite_code: whether literals in the code of a module may be mended.
    """
    parts = Parts(analysis)
    held = Held(parts=parts)
    for balance in analysis.balances:
        held = held.tie(balance.names)
    for name, reason in fixed.items():
        held = held.fix([name], reason)
    known = known_attributes(analysis)
    run = analysis.labelling.graph.run
    facts = Facts()
    if run is not None:
        facts = gather(forms := Forms(analysis, parts, {}), run)
        facts.escapes += laid_over_positions(forms, facts)
    return _Inference(analysis, facts, known, rewrite_code=rewrite_code).checked(held)


class _Inference:
    """Solves, checks, and fixes what the check finds unexplained."""

    def __init__(self, analysis: Analysis, facts: Facts, known: Sequence[WidthUse], *, rewrite_code: bool) -> None:
        self._analysis, self._facts, self._known, self._rewrite_code = analysis, facts, known, rewrite_code
        self._axes = analysis.labelling.axes
        calls = recorded_calls(analysis.labelling.graph.fx)
        self._explained = {calls[i] for i in facts.explained}
        layers, suspects = {calls[i] for i in facts.layers}, analysis.labelling.labeller.suspects
        self._doubtful = [n for n in suspects if n not in layers and n.meta["function"] not in RELATIVE]
        self._by_module: dict[str, list[fx.Node]] = {}
        for node in self._axes:
            self._by_module.setdefault(node.meta.get("module", ""), []).append(node)

    def checked(self, held: Held) -> Held:
        held = self._solved(held)
        if not self._facts.sighted and not self._doubtful:  # no run of other widths would show more
            return held
        prediction = Prediction(self._analysis, held)
        while self._can_differ(prediction):
            found, refusal = self._probe(prediction, held)
            if found or refusal is not None:
                held = self._solved(self._fixed(prediction, held, found, refusal))
                prediction = prediction.again(held)
            elif prediction.other:
                break
            else:
                prediction = prediction.turned(held)
        return held

    def _can_differ(self, prediction: Prediction) -> bool:
        """Whether any size in the model's code may concern an active group; where it reads sizes, it may be any."""
        sighted = self._facts.sighted and bool(prediction.active.any())
        return sighted or any(len(prediction.touched(n)) for n in self._doubtful)

    def _solved(self, held: Held) -> Held:
        return solve(self._analysis, held, self._facts, self._known, rewrite_code=self._rewrite_code)

    def _probe(self, prediction: Prediction, held: Held) -> tuple[list[Difference], Refusal | None]:
        attributes = new_attributes(self._analysis, held, prediction)
        parts = {name: {g: prediction.part(g) ** e for g, e in es.items()} for name, es in held.folded.items()}
        factors = {name: math.prod(by.values()) for name, by in parts.items()}
        found, refusal = probe(prediction, attributes, factors)
        if refusal is not None and refusal.diverged and not self._unseen(prediction, refusal):
            refusal = None
        return found, refusal

    def _unseen(self, prediction: Prediction, refusal: Refusal) -> list[int]:
        """The groups that calls concern whose sizes neither an equation nor this run says anything of."""
        unseen = set(refusal.unseen) - self._explained
        return sorted({g for n in self._doubtful if n in unseen for g in prediction.touched(n).tolist()})

    def _fixed(self, prediction: Prediction, held: Held, found: Sequence[Difference], refusal: Refusal | None) -> Held:
        """What the check has found is explained by nothing: what it concerns stays as it is.

        Numbers are judged when all shapes are right, since they may follow widths that are not settled yet.
        """
        for d in [d for d in found if not d.scalar] or found:
            reason = (f"the model's code holds this width: {d.what}", d.where)
            held = held.fix(names_of(self._analysis, self._concerned(prediction, d.node)), reason)
        return held if found or refusal is None else self._refused(prediction, held, refusal)

    def _concerned(self, prediction: Prediction, node: fx.Node) -> list[int]:
        """The groups on a call's result; else those on its arguments; else the nearest one."""
        for axes in (self._axes[node], *(self._axes[a] for a in node.all_input_nodes)):
            groups = prediction.groups(axes)
            if len(groups):
                return groups.tolist()  # type: ignore[no-any-return]
        inside = self._by_module.get(node.meta["module"], [])
        near = prediction.groups([a for n in inside for a in several(self._axes[n])]).tolist()
        return [*near, *np.flatnonzero(prediction.active).tolist()][:1]

    def _refused(self, prediction: Prediction, held: Held, refusal: Refusal) -> Held:
        """The forward raised: what the last call made keeps its width; else what the module's code goes on with; else
        all in the innermost module with groups left.
        """
        if refusal.diverged:
            unseen = self._unseen(prediction, refusal)
            why = f"whether the model's code holds this width could not be seen, as it goes by data: {refusal.what}"
            reason = (why, refusal.where)
            return held.fix(names_of(self._analysis, unseen), reason)
        reason = (f"the model's code refuses other widths: {refusal.what}", refusal.where)
        ahead = (n for n in refusal.unseen if n.meta["module"] == refusal.module)
        made = [] if refusal.after is None else prediction.groups(self._axes[refusal.after]).tolist()
        groups = made or next(filter(None, (prediction.touched(n).tolist() for n in ahead)), [])
        names = names_of(self._analysis, groups) or list(self._inside(prediction, refusal.module))
        return held.fix(names, reason)

    def _inside(self, prediction: Prediction, path: str) -> Iterable[str]:
        """The groups left in a module, or in the innermost one around it that has some."""
        active = [g for i, g in enumerate(self._analysis.groups) if prediction.active[i]]
        while True:
            inside = [g.name for g in active if not path or any(s.tensor.startswith(path + ".") for s in g.slots)]
            if inside or not path:
                return inside
            path = path.rpartition(".")[0]


def new_attributes(analysis: Analysis, held: Held, prediction: Prediction) -> dict[str, dict[str, int]]:
    """The attributes and literals of a smaller model."""
    return joined(mended(analysis, prediction.keep), held.attributes(analysis, prediction.counts, prediction.keep))


def joined(first: dict[str, dict[str, int]], second: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {module: {**first.get(module, {}), **second.get(module, {})} for module in {**first, **second}}
