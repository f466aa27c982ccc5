"""What `fxprune.prune` returns: the smaller model, the plan that made it, and the report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.analysis.why import notes
from fxprune.costs.macs import Cost
from fxprune.plan.plan import Plan
from fxprune.report.drawing.page import MARK
from fxprune.report.drawing.page import page as result_page
from fxprune.rewriting import pruned_file
from fxprune.rewriting.config_file import save_pretrained
from fxprune.statistics.shift import Shift
from fxprune.storage.files import checked_path, make_folder, refuse_unmarked, write_whole
from fxprune.storage.html import table
from fxprune.verification.choices import one_way_choices
from fxprune.verification.proof import Proof
from fxprune.verification.stale_widths import StaleWidth, stale_widths
from fxprune.verification.untaken import untaken_branches

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, repr=False, eq=False)
class Report:
    """What was done to a model.

    Attributes:
        before: cost of the original.
        after: cost of the pruned model.
        groups: the groups, with the reason for every dim that is fixed.
        plan: what was kept.
        proof: the comparison of pruned and masked; None if it was not made.
        unreached: modules with parameters, and parameters of others, that the example inputs did not reach; they stay
            as they are.
        repaired: whether the weights were fitted to data after the cut; None if no data were given.
        random: whether these data were pictures of random shapes.
        history: what a search for the smallest model tried; empty without one.
        latency: milliseconds of a forward before and after, as predicted, or the latter measured in `engine`; None
            without a budget of latency.
        engine: name of the engine in which the pruned model's latency was measured; empty where it is predicted.
        untouched: why a goal has removed nothing, or what may surprise of a search for the smallest model; else empty.
        few: different inputs in the data, where they are too few to choose channels and repair layers; else 0.
        shift: of the batch norm whose input on the data differs most from that of its training, where that is large.
    """

    before: Cost
    after: Cost
    groups: Groups
    plan: Plan
    proof: Proof | None
    unreached: tuple[str, ...] = ()
    repaired: bool | None = None
    random: bool = False
    history: tuple[Any, ...] = ()
    untouched: str = ""
    latency: tuple[float, float] | None = None
    engine: str = ""
    few: int = 0
    shift: Shift | None = None

    @cached_property
    def kept(self) -> Mapping[str, int]:
        """Channels kept of each group."""
        return self.plan.kept_counts()

    @cached_property
    def stale(self) -> tuple[StaleWidth, ...]:
        """Int attributes that equal a width which has shrunk, and that the forward does not read; they stay.

        The full-size model's forward is run once on meta tensors, when this is first asked for.
        """
        return stale_widths(self.groups.graph, self.plan)

    @cached_property
    def untaken(self) -> tuple[str, ...]:
        """Lines of the model's code that branch on sizes of the inputs, where code that did not run holds sizes."""
        return untaken_branches(self.groups.graph)

    @cached_property
    def one_way(self) -> tuple[str, ...]:
        """Lines of the model's code where sizes of the inputs, or an optional input, decide whether layers run."""
        return one_way_choices(self.groups)

    @property
    def deviation(self) -> float | None:
        """Pruned against masked (see `fxprune.verify`); None if it was not measured."""
        return None if self.proof is None else self.proof.deviation

    def warnings(self) -> list[str]:
        """What may surprise: disproved groups, modules and branches that no input reached, a ratio without effect."""
        lines = [] if self.proof is None else self.proof.warnings()
        if self.unreached:
            names = ", ".join(self.unreached[:8]) + (", ..." if len(self.unreached) > 8 else "")
            one = len(self.unreached) == 1
            what = "1 module or parameter is" if one else f"{len(self.unreached)} modules or parameters are"
            what += f" not reached by the example inputs, and stay{'s' * one}: {names}"
            other = "it fail where it reads" if one else "them fail where they read"
            lines.append(f"{what}; inputs that reach {other} what was cut")
        if self.untaken:
            places = "; ".join(self.untaken[:3]) + ("; ..." if len(self.untaken) > 3 else "")
            what = "1 branch on sizes was" if len(self.untaken) == 1 else f"{len(self.untaken)} branches on sizes were"
            lines.append(f"{what} not taken, and sizes that it holds are as before: {places}; verify with such inputs")
        if self.one_way:
            places = "; ".join(self.one_way[:3]) + ("; ..." if len(self.one_way) > 3 else "")
            lines.append(
                f"other inputs leave out layers, or run them again, and what is cut suits the example's way: {places}; "
                "verify with such inputs, and where they differ, keep what these layers read and give (ignored=)"
            )
        if self.few:
            what = "1 different input" if self.few == 1 else f"{self.few} different inputs"
            lines.append(f"the data hold {what}; choices and repairs suit these alone, and a few hundred are meant")
        lines += [str(self.shift)] if self.shift else []
        lines += self._told_of_unread()
        return [*lines, self.untouched] if self.untouched else lines

    def __repr__(self) -> str:
        return f"Report({self._summary()})"

    def _repr_html_(self) -> str:
        rows = (
            (
                g.name,
                g.size,
                self.kept[g.name],
                f"{100 * self.kept[g.name] / g.size:.3g}%",
                "\n".join(notes(self.groups, g.name)),
            )
            for g in self.groups
        )
        return table(repr(self), ("group", "channels", "stay", "part", "notes"), rows, str(self).split("\n"))

    def _widths(self, group: Group) -> tuple[str, int, int, str]:
        kept = self.kept[group.name]
        return group.name, group.size, kept, f"{kept / group.size:.0%}"

    def _summary(self) -> str:
        cut = sum(self.kept[g.name] < g.size for g in self.groups)
        macs, parameters = (
            getattr(self.after, name) / max(getattr(self.before, name), 1) for name in ("macs", "parameters")
        )
        left = f"{macs:.1%} of the MACs, {parameters:.1%} of the parameters left"
        return f"{cut} of {len(self.groups)} groups pruned, {left}"

    def __str__(self) -> str:
        cut = sum(self.kept[g.name] < g.size for g in self.groups)
        lines = [
            f"{cut} of {len(self.groups)} groups pruned",
            _change("MACs", self.before.macs, self.after.macs),
            _change("parameters", self.before.parameters, self.after.parameters),
        ]
        if self.latency is not None:
            before, after = self.latency
            part = 100 * after / max(before, 1e-9)
            source = f"measured in {self.engine}" if self.engine else "as predicted"
            lines.append(f"{'latency':10} {before:10,.2f} ms -> {after:9,.2f} ms ({part:.1f} %), {source}")
        if self.proof is not None:
            lines.append(str(self.proof))
        lines += self.warnings()
        if self.stale:
            lines.append(self._told_of_stale())
        if self.groups.unknown_ops:
            lines.append(f"ops without a rule: {dict(self.groups.unknown_ops)}")
        cut, unread = self._read_by_computed()
        none = bool(self.repaired) and (self.few == 1 or (bool(unread) and len(unread) == cut))
        return "\n".join([*lines, "no layer was repaired" if none else _told_of_data(self.repaired, self.random)])

    def _told_of_stale(self) -> str:
        """One line, for most such numbers are no widths; `stale` has them all."""
        names = ", ".join(f"{f'{s.module}.{s.name}'.lstrip('.')} = {s.value}" for s in self.stale[:3])
        more = f" and {len(self.stale) - 3} more (`report.stale`)" if len(self.stale) > 3 else ""
        return f"equal to a width that shrank, perhaps by chance, not read by this forward and as before: {names}{more}"

    def _read_by_computed(self) -> tuple[int, list[str]]:
        """The number of groups that were cut, and those of them that only weights computed from parameters read."""
        cut = [g for g in self.plan.groups.values() if len(g.kept) < g.size]
        # Queries and keys are read by each other, and not along a later dim of any tensor.
        read = [g for g in cut if any(s.dim > 0 for s in g.slots)]
        return len(cut), [g.name for g in read if not any(s.role == "consumer" for s in g.slots)]

    def _told_of_unread(self) -> list[str]:
        """No repair makes up for what computed weights read."""
        cut, names = self._read_by_computed()
        if not names or not self.repaired:
            return []
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return [f"{len(names)} of {cut} groups are read by computed weights, which no repair fits: {shown}"]


def _told_of_data(repaired: bool | None, random: bool) -> str:
    if repaired is None:
        return (
            "without data: channels were chosen by their weights, and the weights that stay are as they were; "
            "data=batches, a few hundred inputs without labels, chooses channels by what they do and repairs the "
            'layers, and data="random" repairs them without any'
        )
    if not repaired:
        return "layers not repaired (repair=False)"
    if random:
        return (
            "layers repaired on pictures of random shapes; data=batches, a few hundred real inputs without labels, "
            "chooses channels by what they do and keeps more"
        )
    return "layers repaired on the data"


def _change(what: str, before: int, after: int) -> str:
    return f"{what:10} {before / 1e6:10,.2f} M -> {after / 1e6:10,.2f} M  ({100 * after / max(before, 1):.1f} %)"


@dataclass(frozen=True, repr=False, eq=False)
class Result(Generic[M]):
    """What `prune` returns: the smaller model, the plan that made it, and the report."""

    model: M
    plan: Plan
    report: Report

    def __repr__(self) -> str:
        return f"Result({type(self.model).__name__}; {self.report._summary()})"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def save(self, path: str | os.PathLike[str], notes: Mapping[str, str] | None = None) -> None:
        """Write the model's weights with the plan and a checksum to one safetensors file, and the report beside it.

        Args:
            path: a name that ends with `.safetensors`; else a folder, which is made: it gets `model.safetensors` and
                `report.html`. Files of an earlier result are replaced, each whole or not at all. `fxprune.load` reads
                them.
            notes: texts by name that are kept in the file as well.

        Raises:
            InputError: the model's `state_dict` holds something other than tensors, a note is not a text, or a file of
                one of the names is there that fxprune did not write, such as the original's weights.
            StorageError: the system does not let them be written.
        """
        write(self, path, notes)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Save a model of transformers so that its own `from_pretrained` reads it, if its config can say the widths.

        Args:
            path: of the folder.

        Raises:
            InputError: the model has no config.
            PlanError: the config cannot say the widths; the error names the two lines that save and load it.
        """
        save_pretrained(self.model, self.plan, self.report.groups.graph.inputs, path)


def files_of(path: Path) -> tuple[Path, Path]:
    """The file of the weights, and that of the report: beside the first if the path names it, or in the folder."""
    if path.suffix == ".safetensors":
        return path, path.with_suffix(".html")
    return path / pruned_file.NAME, path / "report.html"


def refuse_others(path: Path) -> None:
    """Refuse a path where saving would replace files that fxprune did not write.

    Raises:
        InputError: there is one.
    """
    file, page = files_of(path)
    pruned_file.refuse_others(file)
    refuse_unmarked(page, MARK)


def write(
    result: Result[Any],
    path: str | os.PathLike[str],
    notes: Mapping[str, str] | None = None,
    before: Plan | None = None,
    title: str = "",
) -> None:
    """As `Result.save`.

    Args:
        result: what is saved.
        path: as there.
        notes: as there.
        before: what the model was cut by before; the file then holds the plan for the model at full size, while the
            report is of this cut.
        title: of the report; the model's class name if empty.
    """
    given = checked_path(path)
    refuse_others(given)
    plan = result.plan if before is None else before.then(result.plan)
    data, page = pruned_file.encoded(result.model, plan, notes), result_page(result, title).encode()
    file, beside = files_of(given)
    make_folder(file.parent)  # once all there is to write is known to be right
    write_whole(file, data)
    write_whole(beside, page)
