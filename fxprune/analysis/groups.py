"""Groups: the slices of tensors that must live or die together, and why every other dim must stay."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from torch import nn

from fxprune.analysis.alternatives import settled
from fxprune.analysis.grouping.balance import nearest_of
from fxprune.analysis.grouping.components import Analysis, Group, mended
from fxprune.analysis.grouping.reasons import FixedDim
from fxprune.analysis.grouping.steps import Balanced, Limited, Steps
from fxprune.analysis.ignored import Ignored
from fxprune.analysis.kept import kept_indices
from fxprune.analysis.labels.factorings import Heads
from fxprune.analysis.why import Why, as_html, explained
from fxprune.analysis.widths import Held, joined
from fxprune.errors import InputError, check_flag, check_kind, shown
from fxprune.module.garbage import no_collections
from fxprune.module.names import fits, names_of
from fxprune.module.tensors import aliases_of, walk
from fxprune.plan.plan import Ints, Plan, PlannedGroup, Scale
from fxprune.tracing.trace import Graph

if TYPE_CHECKING:
    import networkx as nx

_TIED = "tied groups must keep the same part of their channels"


class UnknownGroupError(InputError, KeyError):
    """No prunable group has this name."""

    __str__ = Exception.__str__


class Groups(Sequence[Group]):
    """The prunable groups of a model in execution order; also addressed by name.

    Attributes:
        graph: the recorded forward.
        analysis: the labels behind the groups, and the choice of heads that they were found with.
        fixed: every parameter dim that must stay, with the reason.
        unknown_ops: ops without a rule, counted; they fix what they touch.
        ties: sets of groups that must keep the same fraction of their channels, because the model's code computes one
            width from another.
    """

    def __init__(self, analysis: Analysis, held: Held) -> None:
        members = [g for g in analysis.groups if g.name not in held.fixed]
        fixed = [
            FixedDim(s.tensor, s.dim, len(s.positions), *held.fixed[g.name])
            for g in analysis.groups
            if g.name in held.fixed
            for s in g.slots
        ]
        self.analysis = analysis
        self.ties = held.ties
        self._held = held
        self.graph: Graph = analysis.labelling.graph
        self.fixed: tuple[FixedDim, ...] = (*analysis.fixed, *fixed)
        self.unknown_ops: Counter[str] = analysis.labelling.labeller.unknown
        self._members = tuple(members)
        self._by_name = {g.name: g for g in members}

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, key: int | str) -> Group: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Group]: ...
    def __getitem__(self, key: Any) -> Any:
        return self._known(key) if isinstance(key, str) else self._members[key]

    def __iter__(self) -> Iterator[Group]:
        return iter(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._by_name if isinstance(key, str) else key in self._members

    def why(self, part: str | nn.Module) -> Why:
        """Why a part of the model can or cannot shrink.

        Args:
            part: a module, or the name of a module, a parameter or a group.

        Returns:
            What can be printed: which group each of its dims belongs to, or what holds it, the way from there through
            the modules, where the code stands, and what would free it.

        Raises:
            InputError: the model has no such part.

        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> print(fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4))).why("1.weight"))
        1.weight:
        1.weight[dim 1] (8 of 8) belongs to group 0
        1.weight[dim 0]: 2 indices stay: model output
          the way there: 1 > output
          what would free it: outputs keep their widths; where an output carries hidden states that nobody needs, a \
wrapper that drops it frees them
        """
        return explained(self, part)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __repr__(self) -> str:
        channels = sum(g.size for g in self)
        return f"Groups({len(self)} groups, {channels} channels, {len(self.fixed)} dims fixed)"

    def __copy__(self) -> Groups:
        return self._of(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Groups:
        """The copy shares the recorded calls and the model that they are of; nothing changes either."""
        memo[id(self)] = made = self._of(self.__dict__)
        return made

    def _of(self, attributes: Mapping[str, Any]) -> Groups:
        made = object.__new__(type(self))
        made.__dict__.update(attributes)
        return made

    def __reduce__(self) -> Any:
        raise InputError(
            "groups cannot be pickled: they hold the recorded calls of the model's own code",
            remedy="save the plan (plan.save, Plan.load) and the smaller model's state_dict",
        )

    def plan(self, kept: Mapping[str, npt.ArrayLike]) -> Plan:
        """The plan that keeps the given channels of the named groups, and all channels of the others.

        Args:
            kept: {group: indices, or a mask of one bool for each channel}.

        Raises:
            InputError: an unknown group, a channel out of range, a group that would lose all channels, or tied groups
                that would keep different parts.
        """
        check_kind("what is kept", kept, Mapping, "give {group name: indices, or a mask of one bool for each channel}")
        chosen = {self._known(name).name: self._checked(self._known(name), channels) for name, channels in kept.items()}
        if len(chosen) < len(kept):
            raise InputError("two names of one group", seen=", ".join(kept), remedy="give each group once")
        counts = {g.name: len(chosen[g.name]) if g.name in chosen else g.size for g in self}
        self._check_ties(counts)
        planned = {g.name: PlannedGroup(g.name, g.size, chosen.get(g.name, np.arange(g.size)), g.slots) for g in self}
        tensors = self.graph.tensors
        scales = self._scales(counts)
        touched = dict.fromkeys([*(s.tensor for g in self for s in g.slots), *(s.tensor for s in scales)])
        shapes = {name: tuple(tensors[name].shape) for name in touched}
        keep = self.analysis.keep(chosen)
        attributes = joined(mended(self.analysis, keep), self._held.attributes(self.analysis, counts, keep))
        aliases = {name: first for name, first in self._aliases.items() if first in shapes}
        plan = Plan(planned, attributes, shapes, scales, aliases=aliases)
        return replace(plan, orders=self._orders(plan, chosen))

    def _orders(self, plan: Plan, chosen: Mapping[str, Ints]) -> dict[str, dict[int, Ints]]:
        """Where the smaller model's own moves put channels in another order, the order."""
        orders: dict[str, dict[int, Ints]] = {}
        balanced = self._balances()
        cuts = plan.cuts() if balanced else {}
        for balance in balanced:
            for (tensor, dim), whole in balance.orders(chosen).items():
                kept = cuts[tensor][dim]
                order = whole[np.isin(whole, kept)]
                if not np.array_equal(order, kept):
                    orders.setdefault(tensor, {})[dim] = order
        return orders

    @cached_property
    def _aliases(self) -> dict[str, str]:
        return aliases_of(self.graph.model)

    def _balances(self) -> list[Balanced]:
        return [b for b in self.analysis.balances if b.names in self.ties]

    def subset(self, groups: Iterable[Group]) -> Groups:
        """A view restricted to `groups`: fewer, in another order, or parts of them with names of their own.

        Pass it to a scorer. The groups that were found, ties and reasons stay with `self`.
        """
        view = copy.copy(self)
        view.__dict__.pop("feeds", None)
        view._members = tuple(groups)
        view._by_name = {g.name: g for g in view._members}
        view.ties = tuple(t for t in self.ties if t <= set(view._by_name))
        return view

    def holding(self, reasons: Mapping[str, str]) -> Groups:
        """The same groups without those named, and without what is tied to them; both are fixed, with the reason.

        Args:
            reasons: {group: why all its channels must stay}.
        """
        held = dict(reasons)
        while more := {n: r for t in self.ties for r in [held.get(n) for n in t] if r for n in t - held.keys()}:
            held |= more
        view = self.subset(g for g in self if g.name not in held)
        slots = [(s, held[g.name]) for g in self if g.name in held for s in g.slots]
        view.fixed = (*self.fixed, *(FixedDim(s.tensor, s.dim, len(s.positions), reason) for s, reason in slots))
        return view

    def in_step(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Counts near `counts` that tied groups can have together; others are as given."""
        asked: dict[Steps, int] = {}
        for tie in self.ties:
            steps = self.steps(tie)
            part = sum(counts.get(n, self[n].size) for n in tie) / sum(self[n].size for n in tie)
            asked[steps] = round(part * steps.step)
        found = (steps.counts(nearest) or {} for steps, nearest in nearest_of(asked).items())
        return {**counts, **{name: n for c in found for name, n in c.items()}}

    def steps(self, tie: frozenset[str]) -> Steps:
        """How the groups of a tie can shrink together."""
        found = self._held.steps(self.analysis, tie)
        assert found is not None, f"a tie without a common step: {sorted(tie)[:3]}"
        return found

    def _check_ties(self, counts: Mapping[str, int]) -> None:
        for tie in self.ties:
            steps = self.steps(tie)
            if steps.part_of(counts) is None:
                taken = isinstance(steps, Limited) and not steps.allows(counts)
                what = "the model's code cannot have this width" if taken else _TIED
                seen = ", ".join(f"{n}: {counts[n]} of {self[n].size}" for n in sorted(tie))
                raise InputError(what, seen=seen[:200], remedy="groups.in_step(counts) gives counts that fit")

    def _scales(self, counts: Mapping[str, int]) -> tuple[Scale, ...]:
        uses = [(u, counts[u.group] / self[u.group].size) for u in self._held.scales if u.group in counts]
        return tuple(Scale(u.tensor, u.rows, part**u.exponent) for u, part in uses if part < 1)

    def _checked(self, group: Group, channels: npt.ArrayLike) -> Ints:
        kept = np.unique(kept_indices(group, channels))
        if not len(kept) and not any(group.name in b.names for b in self._balances()):
            raise InputError(
                "a group must keep at least one channel", where=group.name, remedy="lower the pruning ratio"
            )
        if len(kept) and (kept[0] < 0 or kept[-1] >= group.size):
            raise InputError(
                "a kept channel is out of range", where=group.name, seen=f"{kept[[0, -1]]} of {group.size}"
            )
        return kept

    def _known(self, name: str) -> Group:
        """The group of a name: its own, or that of a layer or weight that makes its channels.

        Raises:
            UnknownGroupError: there is none.
        """
        if name in self._by_name:
            return self._by_name[name]
        makers = [g for g in self if any(name in (s.tensor, s.tensor.rpartition(".")[0]) for s in g.producers)]
        if len(makers) != 1:
            remedy = f"groups: {', '.join(list(self._by_name)[:8])} ...; groups.why(name) tells what holds the others"
            raise UnknownGroupError("no such prunable group", seen=name, remedy=remedy)
        return makers[0]

    @cached_property
    def feeds(self) -> nx.DiGraph:
        """Which group's channels are read to make which other's: a graph of group names."""
        import networkx as nx

        graph = nx.DiGraph()
        graph.add_nodes_from(g.name for g in self)
        readers: dict[str, set[str]] = {}
        for g in self:
            for s in g.consumers:
                readers.setdefault(s.tensor, set()).add(g.name)
        for g in self:
            for s in g.producers:
                graph.add_edges_from((r, g.name) for r in readers.get(s.tensor, ()) if r != g.name)
        return graph


@no_collections()
def find_groups(
    graph: Graph,
    ignored: Any = (),
    *,
    heads: str | Mapping[str, str] = "",
    rewrite_code: bool = True,
) -> Groups:
    """Find all groups of channels that can be pruned.

    Args:
        graph: from `fxprune.trace`.
        ignored: name, names or shell patterns of modules, parameters or groups that must keep all channels; or these
            objects themselves.
        heads: what shrinks where attention splits its width into heads: "head_dim" (the width of every head),
            "num_heads" (whole heads), "" (whichever has more indices, or the other one where the model's code holds
            that), or {module name pattern: one of these}.
        rewrite_code: where a literal in a module's code is a width (`view(-1, 400)`): the plan gives the module a
            subclass of its class, with another literal. False: such widths are fixed.

    Returns:
        The groups, in execution order, and in `.fixed` the reason for every dim that can't shrink.

    Raises:
        InputError: `graph` is not a graph, an entry of `ignored` or `heads` is not a name or matches nothing, an
            unknown choice of `heads`.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8)))
    >>> [(g.name, g.size, len(g.slots)) for g in groups]
    [('0', 8, 7)]
    >>> groups.fixed[0]
    FixedDim(tensor='0.weight', dim=1, count=3, reason='model input', where='')
    """
    check_kind("the first argument", graph, Graph, "give what fxprune.trace(model, example_inputs) returns")
    check_flag("rewrite_code", rewrite_code)
    names = names_of(graph.model, ignored)
    return found_with(graph, names, _choice(graph, heads), rewrite_code=rewrite_code)


def found_with(graph: Graph, ignored: Sequence[str], choice: Heads, *, rewrite_code: bool = True) -> Groups:
    """The groups, with a choice of heads that may have been made by an analysis before."""
    ignore = Ignored(ignored)
    found = settled(graph, choice, ignore, rewrite_code=rewrite_code)
    if ignore.misses_names():  # what is ignored decides which analyses are tried
        ignore(settled(graph, choice, Ignored(()), rewrite_code=rewrite_code)[0])
    return Groups(*(settled(graph, choice, ignore, rewrite_code=rewrite_code) if ignore.has_learned() else found))


def _choice(graph: Graph, heads: str | Mapping[str, str]) -> Heads:
    choice: Heads = tuple(heads.items()) if isinstance(heads, Mapping) else heads
    for value in [v for _, v in choice] if isinstance(choice, tuple) else [choice]:
        if not isinstance(value, str) or value not in ("", "head_dim", "num_heads"):
            raise InputError("unknown choice of heads", seen=shown(value), remedy="'head_dim', 'num_heads' or ''")
    for pattern in [p for p, _ in choice] if isinstance(choice, tuple) else []:
        if not any(fits(path, str(pattern)) for path, _ in walk(graph.model)):
            raise InputError("no module has the name or pattern", seen=str(pattern), remedy="heads={module: choice}")
    return choice
