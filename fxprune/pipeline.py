"""The whole way in one call: trace, group, score, plan, rewrite, verify."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from fxprune.analysis.groups import Groups, find_groups
from fxprune.costs.macs import Cost, cost
from fxprune.errors import InputError
from fxprune.plan.plan import Plan
from fxprune.planners.uniform import Uniform, check_pruning_ratio
from fxprune.report.drawing.page import page as result_page
from fxprune.rewriting import pruned_file
from fxprune.rewriting.rewrite import rewrite
from fxprune.scorers.base import Scorer
from fxprune.scorers.norms import L2Norm
from fxprune.storage.files import write_whole
from fxprune.tracing.trace import trace
from fxprune.verification.proof import Proof, proven, unreached

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Report:
    """What was done to a model.

    Attributes:
        before: cost of the original.
        after: cost of the pruned model.
        groups: the groups, with the reason for every dim that is fixed.
        kept: channels kept of each group.
        proof: the comparison of pruned and masked; None if it was not made.
        unreached: modules with parameters that the example inputs did not reach; they stay as they are.
    """

    before: Cost
    after: Cost
    groups: Groups
    kept: Mapping[str, int]
    proof: Proof | None
    unreached: tuple[str, ...] = ()

    @property
    def deviation(self) -> float | None:
        """Pruned against masked (see `fxprune.verify`); None if it was not measured."""
        return None if self.proof is None else self.proof.deviation

    def warnings(self) -> list[str]:
        """What may surprise: groups that were disproved, and modules that the example inputs did not reach."""
        lines = [] if self.proof is None else self.proof.warnings()
        if self.unreached:
            names = ", ".join(self.unreached[:8]) + (", ..." if len(self.unreached) > 8 else "")
            lines.append(f"{len(self.unreached)} modules are not reached by the example inputs, and stay: {names}")
        return lines

    def __str__(self) -> str:
        cut = sum(self.kept[g.name] < g.size for g in self.groups)
        lines = [
            f"{cut} of {len(self.groups)} groups pruned",
            _change("MACs", self.before.macs, self.after.macs),
            _change("parameters", self.before.parameters, self.after.parameters),
        ]
        if self.proof is not None:
            lines.append(str(self.proof))
        lines += self.warnings()
        if self.groups.unknown_ops:
            lines.append(f"ops without a rule: {dict(self.groups.unknown_ops)}")
        return "\n".join(lines)


def _change(what: str, before: int, after: int) -> str:
    return f"{what:10} {before / 1e6:10,.2f} M -> {after / 1e6:10,.2f} M  ({100 * after / max(before, 1):.1f} %)"


@dataclass(frozen=True)
class Result(Generic[M]):
    """What `prune` returns: the smaller model, the plan that made it, and the report."""

    model: M
    plan: Plan
    report: Report

    def save(self, path: str | os.PathLike[str], notes: Mapping[str, str] | None = None) -> None:
        """Write the model's weights with the plan and a checksum to one safetensors file, and the report beside it.

        Args:
            path: a name that ends with `.safetensors`; else a folder, which is made: it gets `model.safetensors` and
                `report.html`. Existing files are replaced, each whole or not at all. `fxprune.load` reads them.
            notes: texts by name that are kept in the file as well.

        Raises:
            InputError: the model's `state_dict` holds something other than tensors.
        """
        file = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / pruned_file.NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        pruned_file.save(file, self.model, self.plan, notes)
        page = file.with_suffix(".html") if file == Path(path) else file.with_name("report.html")
        write_whole(page, result_page(self).encode())


def prune(
    model: M,
    example_inputs: Any,
    pruning_ratio: float = 0.5,
    *,
    scorer: Scorer | None = None,
    data: Iterable[Any] | None = None,
    planner: Callable[[Groups, Mapping[str, Tensor]], Plan] | None = None,
    ignored: str | Iterable[str] = (),
    verify: bool = True,
) -> Result[M]:
    """Make a model smaller.

    Args:
        model: the model; untouched.
        example_inputs: as for `fxprune.trace`.
        pruning_ratio: part of every group's channels to remove, in [0, 1); ignored if a planner is given.
        scorer: which channels matter; default `scorers.L2Norm()`.
        data: batches, for scorers that need them.
        planner: how many channels stay; default `planners.Uniform(pruning_ratio)`.
        ignored: names or patterns of modules, parameters and groups that keep all channels.
        verify: prove that the pruned model equals the masked one (see `fxprune.verify`). Groups that are to blame if it
            does not are kept whole, with a warning, and the others are planned again.

    Returns:
        The smaller model, the plan that made it, and a report that can be printed.

    Raises:
        InputError: pruning ratio out of range, bad inputs, unusable scores, or no prunable group.
        TraceError: the model cannot be run.
        ProofError: the pruned model fails or differs from the masked one, whatever is kept whole.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> result = fxprune.prune(net, torch.zeros(1, 3, 8, 8), 0.5)
    >>> result.model[0]
    Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    check_pruning_ratio(pruning_ratio)
    graph = trace(model, example_inputs)
    groups = find_groups(graph, ignored)
    _check_prunable(groups)
    scores = (scorer or L2Norm())(model, groups, data)
    choose = _Choice(planner or Uniform(pruning_ratio), scores)
    if verify:
        groups, plan, proof = proven(groups, choose, example_inputs)
    else:
        plan, proof = choose(groups), None
    report = Report(cost(groups), cost(groups, plan), groups, plan.kept_counts(), proof, unreached(graph))
    _warn(report)
    return Result(rewrite(model, plan), plan, report)


def _check_prunable(groups: Groups) -> None:
    if not len(groups):
        reasons = "; ".join(dict.fromkeys(f.reason for f in groups.fixed))
        where = type(groups.graph.model).__name__
        raise InputError("no channel of the model can be pruned", where=where, seen=reasons[:300])


@dataclass(frozen=True)
class _Choice:
    """What plans, again where some groups must stay after all."""

    planner: Callable[[Groups, Mapping[str, Tensor]], Plan]
    scores: Mapping[str, Tensor]

    def __call__(self, groups: Groups) -> Plan:
        return self.planner(groups, {g.name: self.scores[g.name] for g in groups})


def _warn(report: Report) -> None:
    """What a caller should hear of who does not print the report."""
    for line in report.warnings():
        warnings.warn(line, stacklevel=3)
