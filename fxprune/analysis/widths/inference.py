"""Inference: what the model's code holds, solved from the recorded run, then checked by runs of other widths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from math import prod

from torch import fx

from fxprune.analysis.grouping.components import Analysis, mended
from fxprune.analysis.widths.constraints import Held, Reason
from fxprune.analysis.widths.equations import Facts, gather
from fxprune.analysis.widths.forms import Forms
from fxprune.analysis.widths.polynomials import Parts
from fxprune.analysis.widths.prediction import Prediction
from fxprune.analysis.widths.probe import Refusal, probe
from fxprune.analysis.widths.solve import solve


def held_by_code(analysis: Analysis, fixed: dict[str, Reason], *, rewrite_code: bool = True) -> Held:
    """What the model's code holds, beside groups that are `fixed` anyway, with the reasons.

    `rewrite_code` tells whether literals in the code of a module may be mended.
    """
    parts = Parts(analysis)
    held = Held(parts=parts)
    for balance in analysis.balances:
        held = held.tie(balance.names)
    for name, reason in fixed.items():
        held = held.fix([name], reason)
    return _Inference(analysis, gather(Forms(analysis, parts, {})), rewrite_code=rewrite_code).checked(held)


class _Inference:
    """Solves, checks, and fixes what the check finds unexplained."""

    def __init__(self, analysis: Analysis, facts: Facts, *, rewrite_code: bool) -> None:
        self._analysis, self._facts, self._rewrite_code = analysis, facts, rewrite_code

    def checked(self, held: Held) -> Held:
        held = self._solved(held)
        for other in (False, True) if self._facts.sighted or self._facts.doubtful else ():
            while self._can_differ(prediction := Prediction(self._analysis, held, other=other)):
                judged = self._judged(prediction, held)
                if judged is held:
                    break
                held = self._solved(judged)
        return held

    def _solved(self, held: Held) -> Held:
        return solve(self._analysis, held, self._facts, rewrite_code=self._rewrite_code)

    def _can_differ(self, prediction: Prediction) -> bool:
        """Whether any size in the model's code may concern an active group; where it reads sizes, it may be any."""
        sighted = self._facts.sighted and bool(prediction.active.any())
        return sighted or any(map(prediction.touched, self._facts.doubtful))

    def _judged(self, prediction: Prediction, held: Held) -> Held:
        """What a run finds is explained by nothing: what it concerns stays as it is.

        Numbers are judged when all shapes are right, since they may follow widths that are not settled yet.
        """
        own = held.attributes(self._analysis, prediction.counts, prediction.keep)
        factors = {n: prod(prediction.part(g) ** e for g, e in by.items()) for n, by in held.folded.items()}
        found, refusal = probe(prediction, joined(mended(self._analysis, prediction.keep), own), factors)
        for d in [d for d in found if not d.scalar] or found:
            near = filter(None, map(prediction.groups, (d.node, *d.node.all_input_nodes)))
            names = next(near, self._inside(prediction, d.node.meta["module"])[:1])
            held = held.fix(names, (f"the model's code holds this width: {d.what}", d.where))
        return held if found or refusal is None else self._refused(prediction, held, refusal)

    def _refused(self, prediction: Prediction, held: Held, refusal: Refusal) -> Held:
        """The forward went by data: what neither it nor an equation says anything of stays. Or it raised: what the last
        call made keeps its width; else what the module's code goes on with; else all in the innermost module with
        groups left.
        """
        if refusal.diverged:
            doubtful = set(refusal.unseen).intersection(self._facts.doubtful) - self._facts.explained
            why = f"whether the model's code holds this width could not be seen, as it goes by data: {refusal.what}"
            return held.fix({name for n in doubtful for name in prediction.touched(n)}, (why, refusal.where))
        if refusal.otherwise and (alone := _of_one_channel(prediction, refusal.unseen)):
            why = f"PyTorch computes {refusal.unseen[0].meta['function']} in another way where one channel is left"
            return held.fix(alone, (f"the model's code refuses other widths: {why}", refusal.where))
        made = [] if refusal.after is None else prediction.groups(refusal.after)
        ahead = (prediction.touched(n) for n in refusal.unseen if n.meta["module"] == refusal.module)
        names = made or next(filter(None, ahead), None) or self._inside(prediction, refusal.module)
        return held.fix(names, (f"the model's code refuses other widths: {refusal.what}", refusal.where))

    def _inside(self, prediction: Prediction, path: str) -> list[str]:
        """The groups left in a module, or in the innermost one around it that has some."""
        prefix = f"{path}." if path else ""
        active = [g for i, g in enumerate(self._analysis.groups) if prediction.active[i]]
        inside = [g.name for g in active if any(s.tensor.startswith(prefix) for s in g.slots)]
        return inside if inside or not path else self._inside(prediction, path.rpartition(".")[0])


def _of_one_channel(prediction: Prediction, unseen: Sequence[fx.Node]) -> list[str]:
    """The groups of which the run leaves one channel, and which the function of PyTorch's that comes next reads."""
    function = unseen[0].meta["function"] if unseen else ""
    inside = takewhile(lambda n: function and n.meta["function"] == function, unseen)
    touched = dict.fromkeys(name for n in inside for name in prediction.touched(n))
    return [name for name in touched if prediction.counts[name] == 1]


def joined(first: dict[str, dict[str, int]], second: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {module: {**first.get(module, {}), **second.get(module, {})} for module in {**first, **second}}
