"""Proof: nothing that was disproved is handed out. Groups to blame are kept whole, and the plan is made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn

from fxprune.analysis.groups import Groups
from fxprune.errors import FxpruneError, InputError, ProofError
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import rewritten
from fxprune.tracing.trace import Graph, trace
from fxprune.verification.apart import check_apart
from fxprune.verification.blame import answer, comparable, faulty_groups, question_of
from fxprune.verification.compare import refuse_nan
from fxprune.verification.judgement import Measured
from fxprune.verification.reach import read_by, unreached


@dataclass(frozen=True)
class Proof:
    """How the pruned model compares with the masked one.

    Attributes:
        deviation: the largest relative deviation (see `fxprune.verify`), with the groups of `mixed` kept whole; None
            if that leaves nothing to compare.
        pruned: how many groups are pruned.
        mixed: groups that a norm, mean or softmax runs over, with the op, and those tied to them, without. There the
            pruned model differs from the masked one as it should, so that it is compared with these groups kept whole.
        disproved: groups that were planned and made the pruned model differ; they are kept whole.
        unreached: layers that the example inputs did not reach, where groups were disproved: other inputs may reach
            them, and they read what was kept.
        resized: whether a group was disproved on inputs of another size or batch alone, not on the example.
    """

    deviation: float | None
    pruned: int
    mixed: Mapping[str, str] = field(default_factory=dict)
    disproved: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    resized: bool = False

    def __str__(self) -> str:
        found = "" if self.deviation is None else f"largest relative deviation {self.deviation:.1e}"
        if not self.mixed:
            return f"pruned against masked: {found or 'nothing is pruned'}"
        ops = Counter(op for op in self.mixed.values() if op)
        names = ", ".join(op for op, _ in ops.most_common(3)) or "a norm, mean or softmax"
        tied = len(self.mixed) - ops.total()
        return (
            f"{ops.total()} of {self.pruned} pruned groups run through {names}, which sees which channels stay"
            + (f", and {tied} more shrink with such groups" if tied else "")
            + f"; pruned against masked with these kept whole: {found or 'nothing to compare'}"
        )

    def warnings(self) -> list[str]:
        if not self.disproved:
            return []
        why = "a fault of fxprune; please report the model"
        if self.resized:
            why = f"on inputs of another size or batch than the example's; {_LARGER}"
        elif self.unreached:
            why = f"other inputs reach layers that these do not; give some that reach all, such as {self.unreached[0]}"
        names = ", ".join(self.disproved[:8]) + (", ..." if len(self.disproved) > 8 else "")
        many = "1 group is" if len(self.disproved) == 1 else f"{len(self.disproved)} groups are"
        return [f"{many} kept whole, as the model differs from the masked one if pruned there ({why}): {names}"]


_LARGER = "larger example inputs, several in a batch, may show what depends on their size"


def of_both(before: Proof | None, later: Proof | None, plan: Plan) -> Proof | None:
    """What two cuts have proven, one after the other.

    Args:
        before: of the first cut; None if nothing was proven.
        later: of the second one, against the model that the first one made.
        plan: of both together.
    """
    if before is None or later is None:
        return before or later
    known = [p.deviation for p in (before, later) if p.deviation is not None]
    return Proof(
        max(known, default=None),
        sum(len(g.kept) < g.size for g in plan.groups.values()),
        {**before.mixed, **later.mixed},
        tuple(dict.fromkeys([*before.disproved, *later.disproved])),
        tuple(dict.fromkeys([*before.unreached, *later.unreached])),
        before.resized or later.resized,
    )


_ROUNDS = 4  # of planning again


class Proven(NamedTuple):
    """A plan that was proven, what it is for, and what it makes."""

    groups: Groups
    plan: Plan
    proof: Proof
    small: nn.Module


def proven(groups: Groups, choose: Callable[[Groups], Plan], example_inputs: Any) -> Proven:
    """Plan, compare, and plan again without the groups that make the pruned model differ from the masked one.

    Args:
        groups: what can be pruned.
        choose: makes a plan for groups.
        example_inputs: as for `fxprune.trace`.

    Returns:
        The groups without those to blame, the plan for them, its proof, and the pruned model.

    Raises:
        InputError: the model holds NaN, or its code goes on reading it in a copy.
        ProofError: the pruned model still fails or differs.
    """
    model, disproved, resized, used = groups.graph.model, list[str](), False, read_by(groups.graph)
    read = {name: tensor for name, tensor in groups.graph.tensors.items() if name in used}
    for _ in range(_ROUNDS):
        try:
            plan = choose(groups)
        except InputError:
            refuse_nan(read)  # which is why its scores are none
            raise
        made = rewritten(model, plan)
        refuse_nan({name: made.cuts[name][0] if name in made.cuts else tensor for name, tensor in read.items()})
        small = made.model
        check_apart(groups.graph, small)
        part = comparable(groups, plan)
        whole = part.kept_counts() == plan.kept_counts()
        known = made if whole else None
        question = replace(question_of(groups, part), small=known)
        found = answer(question, example_inputs)
        if not found.differs:
            if not whole:
                _check_outputs(groups.graph, small)
            proof = _proof(groups, plan, part, found, disproved)
            return Proven(groups, plan, replace(proof, resized=resized), small)
        faulty = faulty_groups(question, groups, example_inputs)
        if not 0 < len(faulty) < len(groups):
            break
        groups = groups.holding(dict.fromkeys(faulty, f"the pruned model differs from the masked one ({_told(found)})"))
        disproved, resized = [*disproved, *faulty], resized or found.resized
    raise _unproven(model, found, disproved)


def _unproven(model: nn.Module, found: Measured, disproved: list[str]) -> ProofError:
    without = f", also without {', '.join(disproved[:8])}" if disproved else ""
    return ProofError(
        "the pruned model differs from the masked one, and no choice of groups mends that",
        where=type(model).__name__,
        seen=f"a relative deviation of {_told(found)}{without}",
        remedy=(f"{_LARGER}; else " if found.resized else "") + "report the model; verify=False returns it unproven",
    )


def _told(found: Measured) -> str:
    where = " on inputs of another size or batch than the example's" if found.resized else ""
    return f"{found.deviation:.1e}{where}"


def _check_outputs(graph: Graph, small: nn.Module) -> None:
    """What cannot be compared with a masked model must at least run and give outputs of the same shapes.

    Raises:
        ProofError: it does not.
    """
    args, kwargs = graph.inputs
    wanted = _output_shapes(graph)
    found: Any
    try:
        found = _output_shapes(trace(small, kwargs or args))
        found = found if wanted["in training"] else {**found, "in training": []}  # both were not recorded alike
    except FxpruneError as error:
        found = str(error)[:200]
    if found != wanted:
        idle = unreached(graph)
        shown = ", ".join(idle[:3])
        more = f"give inputs that reach all layers ({len(idle)} are not, such as {shown}); else " if idle else ""
        raise ProofError(
            "the pruned model fails, or its outputs have other shapes than the full-size one's",
            where=type(small).__name__,
            seen=f"{found} in the place of {wanted}",
            remedy=f"{more}report the model; verify=False returns it unproven",
        )


def _output_shapes(graph: Graph) -> dict[str, list[Any]]:
    outputs = [out.meta for node in graph.fx.nodes if node.op == "output" for out in node.args[0]]
    plain, training = ([m["shape"] for m in outputs if bool(m.get("extra")) is extra] for extra in (False, True))
    return {"outputs": plain, "in training": training}


def _proof(groups: Groups, plan: Plan, part: Plan, found: Measured, disproved: list[str]) -> Proof:
    """Part: what was compared."""
    cut, compared = ({name for name, g in p.groups.items() if len(g.kept) < g.size} for p in (plan, part))
    ops = {g.name: g.mixed_by.partition(" in ")[0] for g in groups}
    mixed = {name: ops[name] for name in plan.groups if name in cut - compared}
    missed = unreached(groups.graph) if disproved else ()
    return Proof(found.deviation if compared else None, len(cut), mixed, tuple(disproved), missed)
