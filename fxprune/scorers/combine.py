"""Combinators: scorers made of scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_called, check_integer, check_number, check_option, shown
from fxprune.plan.plan import Slot
from fxprune.scorers.base import Scorer, Scores, UnscorableError, share

By = Literal["sum", "mean", "max", "rank"]
Members = Literal["layers", "producers", "consumers"]


def _check_scorers(*given: Any) -> None:
    """Refuse what is no scorer; a class is taken for one easily."""
    for scorer in given:
        if isinstance(scorer, type) or not callable(scorer):
            seen = scorer.__name__ if isinstance(scorer, type) else repr(scorer)[:60]
            remedy = f"give an instance: {seen}()" if isinstance(scorer, type) else "give one, such as scorers.L2Norm()"
            raise InputError("what is combined is no scorer", seen=seen, remedy=remedy)
        check_called("what is combined", scorer, "give a scorer, such as scorers.L2Norm()", arguments=3)


@dataclass(frozen=True)
class Normalised:
    """Another scorer's scores, normalised in each group, so that groups can be compared.

    Attributes:
        scorer: the other scorer.
        by: "sum", "mean" or "max" of the group's scores, which must not be negative (where it is zero, all channels are
            alike and so are their scores); or "rank", from 1/channels for the least to 1, the mean rank for equal ones.

    Raises:
        InputError: an unknown way, or negative scores that are not ranked.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-2.0], [1.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.scorers.Normalised(fxprune.scorers.L1Norm(), "max")(net, groups)
    {'0': tensor([0.5000, 1.0000, 0.5000], dtype=torch.float64)}
    >>> fxprune.scorers.Normalised(fxprune.scorers.L1Norm(), "rank")(net, groups)
    {'0': tensor([0.5000, 1.0000, 0.5000], dtype=torch.float64)}
    """

    scorer: Scorer
    by: By = "sum"

    def __post_init__(self) -> None:
        _check_scorers(self.scorer)
        check_option("way to normalise", self.by, get_args(By))

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        return {name: self._normalise(name, s) for name, s in self.scorer(model, groups, data).items()}

    def _normalise(self, name: str, scores: Tensor) -> Tensor:
        if self.by == "rank":
            from scipy.stats import rankdata  # here, because it takes half a second to import

            ranks = rankdata(scores.cpu().numpy())
            return torch.from_numpy(ranks).to(scores.device) / len(scores)
        if (scores < 0).any():
            seen, remedy = f"{float(scores.min()):.3g}", "normalise by rank"
            raise InputError("scores must be at least zero to be normalised", where=name, seen=seen, remedy=remedy)
        parts = share(scores)
        return {"sum": parts, "mean": parts * len(parts), "max": parts / parts.max()}[self.by]


@dataclass(frozen=True)
class WeightedSum:
    """Σ weight · scores over several scorers; normalise them first if they differ in scale.

    Attributes:
        terms: pairs (scorer, weight).

    Raises:
        InputError: no terms, terms that are no pairs, or data that can be iterated only once.

    >>> import torch, fxprune
    >>> from fxprune.scorers import L1Norm, L2Norm, Normalised, WeightedSum
    >>> both = WeightedSum(((Normalised(L1Norm()), 0.5), (Normalised(L2Norm()), 0.5)))
    """

    terms: tuple[tuple[Scorer, float], ...]

    def __post_init__(self) -> None:
        several = isinstance(self.terms, tuple | list)
        if not several or not all(isinstance(term, tuple | list) and len(term) == 2 for term in self.terms):
            raise InputError("a weighted sum of no pairs", seen=shown(self.terms), remedy="give ((scorer, 0.5), ...)")
        if not self.terms:
            raise InputError("a weighted sum of nothing", remedy="give pairs (scorer, weight)")
        _check_scorers(*(scorer for scorer, _ in self.terms))
        for _, weight in self.terms:
            check_number("a weight", weight, "(-inf, inf)", "give pairs: ((scorer, 0.5), ...)")

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        again = _repeatable(data)
        found = [(scorer(model, groups, again), weight) for scorer, weight in self.terms]
        return {g.name: torch.stack([s[g.name].cpu() * weight for s, weight in found]).sum(0) for g in groups}


@dataclass(frozen=True)
class SeedAverage:
    """The mean of a seeded scorer's scores over several seeds.

    Attributes:
        scorer: a dataclass with a field `seed`.
        seeds: how many, counted from the scorer's own.

    Raises:
        InputError: the scorer has no seed, fewer than one seed, or data that can be iterated only once.

    >>> import fxprune
    >>> fxprune.scorers.SeedAverage(fxprune.scorers.Random(seed=3), seeds=10).seeds  # of seeds 3 to 12
    10
    """

    scorer: Any
    seeds: int = 5

    def __post_init__(self) -> None:
        _check_scorers(self.scorer)
        if not is_dataclass(self.scorer) or "seed" not in (f.name for f in fields(self.scorer)):
            seen, remedy = type(self.scorer).__name__, "give a seeded one; combinators go around this one, not inside"
            raise InputError("the scorer has no field `seed`", seen=seen, remedy=remedy)
        check_integer("the number of seeds", self.seeds, 1, "5 is usual")

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        first = self.scorer.seed
        seeded = (replace(self.scorer, seed=first + i) for i in range(self.seeds))
        return WeightedSum(tuple((s, 1 / self.seeds) for s in seeded))(model, groups, data)


@dataclass(frozen=True)
class OverMembers:
    """Another scorer's scores of each member of a group by itself, reduced to one score a channel.

    A member is one weight that makes or reads the group's channels. The other scorer is called once, on groups that
    consist of one member each: for weight scorers, of a consumer that is the weights that read a channel. Magnitudes of
    different members are comparable only if normalised, so put `Normalised` inside where that matters.

    Attributes:
        scorer: the other scorer.
        members: "layers", producers and consumers; "producers"; or "consumers".
        reduce: "mean" or "max" over the members.

    Raises:
        InputError: an unknown option, or groups without such members.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [5.0]]))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[3.0, 1.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.scorers.OverMembers(fxprune.scorers.L1Norm())(net, groups)
    {'0': tensor([2., 3.], dtype=torch.float64)}
    """

    scorer: Scorer
    members: Members = "layers"
    reduce: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        _check_scorers(self.scorer)
        check_option("choice of members", self.members, get_args(Members))
        check_option("reduction", self.reduce, ("mean", "max"))

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        check_groups(groups, model)
        parts = {g.name: [_alone(g, s) for s in self._slots(g)] for g in groups}
        without = [name for name, members in parts.items() if not members]
        if without:
            kind = {"layers": "makes or reads", "producers": "makes", "consumers": "reads"}[self.members]
            raise UnscorableError(f"no convolution or linear layer {kind} these channels", without)
        scores = self.scorer(model, groups.subset(m for members in parts.values() for m in members), data)
        over: Callable[[Tensor], Tensor] = (lambda t: t.mean(0)) if self.reduce == "mean" else (lambda t: t.amax(0))
        return {name: over(torch.stack([scores[m.name] for m in members])) for name, members in parts.items()}

    def _slots(self, group: Group) -> Iterator[Slot]:
        roles = {"layers": ("producer", "consumer"), "producers": ("producer",), "consumers": ("consumer",)}
        return (s for s in group.slots if s.role in roles[self.members])


def _alone(group: Group, slot: Slot) -> Group:
    return Group(f"{group.name}: {slot}", group.size, (slot,))


@dataclass(frozen=True)
class Fallback:
    """One scorer, and another for the groups in which the first finds nothing to go by.

    The two differ in scale: for planners that compare groups, normalise both.

    Attributes:
        first: the scorer that is asked first.
        second: the one for groups that the first refuses (`UnscorableError`).

    >>> from fxprune.scorers import BatchNormScale, Fallback, L2Norm, Normalised
    >>> scorer = Fallback(Normalised(BatchNormScale()), Normalised(L2Norm()))
    """

    first: Scorer
    second: Scorer

    def __post_init__(self) -> None:
        _check_scorers(self.first, self.second)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        again = _repeatable(data)
        try:
            return self.first(model, groups, again)
        except UnscorableError as refusal:
            left = set(refusal.groups)
            if not left & {g.name for g in groups}:
                raise
        able, unable = (groups.subset(g for g in groups if (g.name in left) is refused) for refused in (False, True))
        # Asked again, the first may refuse others: those that turn out only when the model runs.
        found = {**(self(model, able, again) if len(able) else {}), **self.second(model, unable, again)}
        return {g.name: found[g.name] for g in groups}


def _repeatable(data: Iterable[Any] | None) -> Iterable[Any] | None:
    """Refuse data that would be used up by the first of several scorers."""
    if isinstance(data, Iterator):
        raise InputError(
            "data that can be iterated only once, for several scorers", seen=type(data).__name__, remedy="give a list"
        )
    return data
