"""Proof: nothing that was disproved is handed out. Groups to blame are kept whole, and the plan is made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxprune.analysis.groups import Groups
from fxprune.errors import ProofError
from fxprune.module.isolation import walk
from fxprune.plan.plan import Plan
from fxprune.tracing.trace import Graph
from fxprune.verification.blame import comparable, find_faulty_groups, judged
from fxprune.verification.verify import Measured


@dataclass(frozen=True)
class Proof:
    """How the pruned model compares with the masked one.

    Attributes:
        deviation: the largest relative deviation (see `fxprune.verify`), with the groups of `mixed` kept whole; None
            if that leaves nothing to compare.
        pruned: how many groups are pruned.
        mixed: groups that a norm, mean or softmax runs over, and those tied to them, with the op. There the pruned
            model differs from the masked one as it should, so that it is compared with these groups kept whole.
        disproved: groups that were planned and made the pruned model differ; they are kept whole.
    """

    deviation: float | None
    pruned: int
    mixed: Mapping[str, str] = field(default_factory=dict)
    disproved: tuple[str, ...] = ()

    def __str__(self) -> str:
        found = "" if self.deviation is None else f"largest relative deviation {self.deviation:.1e}"
        if not self.mixed:
            return f"pruned against masked: {found or 'nothing is pruned'}"
        ops = ", ".join(op for op, _ in Counter(self.mixed.values()).most_common(3))
        return (
            f"{len(self.mixed)} of {self.pruned} pruned groups run through {ops}, which sees that channels are gone; "
            f"pruned against masked with these kept whole: {found or 'nothing to compare'}"
        )

    def warnings(self) -> list[str]:
        if not self.disproved:
            return []
        names = ", ".join(self.disproved[:8]) + (", ..." if len(self.disproved) > 8 else "")
        return [
            f"{len(self.disproved)} groups are kept whole, for pruning them makes the model differ from the masked one "
            f"(a fault of fxprune; please report the model): {names}"
        ]


_ROUNDS = 4  # of planning again


def proven(groups: Groups, choose: Callable[[Groups], Plan], example_inputs: Any) -> tuple[Groups, Plan, Proof]:
    """Plan, compare, and plan again without the groups that make the pruned model differ from the masked one.

    Args:
        groups: what can be pruned.
        choose: makes a plan for groups.
        example_inputs: as for `fxprune.trace`.

    Returns:
        The groups without those to blame, the plan for them, and its proof.

    Raises:
        ProofError: the pruned model still fails or differs.
    """
    model, disproved = groups.graph.model, list[str]()
    for _ in range(_ROUNDS):
        plan = choose(groups)
        found = judged(model, comparable(groups, plan), example_inputs)
        if not found.differs:
            return groups, plan, _proof(groups, plan, found, disproved)
        faulty = find_faulty_groups(model, groups, plan, example_inputs)
        if not 0 < len(faulty) < len(groups):
            break
        groups = groups.holding(
            dict.fromkeys(faulty, f"the pruned model differs from the masked one ({found.deviation:.1e})")
        )
        disproved += faulty
    raise ProofError(
        "the pruned model differs from the masked one, and no choice of groups mends that",
        where=type(model).__name__,
        seen=f"a relative deviation of {found.deviation:.1e}"
        + (f", also without {', '.join(disproved[:8])}" if disproved else ""),
        remedy="report the model; verify=False returns it unproven",
    )


def _proof(groups: Groups, plan: Plan, found: Measured, disproved: list[str]) -> Proof:
    cut = {name for name, g in plan.groups.items() if len(g.kept) < g.size}
    compared = {n for n, g in comparable(groups, plan).groups.items() if len(g.kept) < g.size}
    ops = {g.name: g.mixed_by.partition(" in ")[0] for g in groups}
    mixed = {name: ops[name] or "what they are tied to" for name in plan.groups if name in cut - compared}
    return Proof(found.deviation if compared else None, len(cut), mixed, tuple(disproved))


def unreached(graph: Graph) -> tuple[str, ...]:
    """Modules whose own parameters the recorded forward did not use, though they have some."""
    used = {str(n.target) for n in graph.fx.nodes if n.op == "get_attr"}
    names = {id(t): name for name, t in graph.tensors.items()}

    def idle(module: nn.Module) -> bool:
        own = [names[id(p)] for p in module._parameters.values() if p is not None]
        return bool(own) and used.isdisjoint(own)

    return tuple(path for path, module in walk(graph.model) if idle(module))
