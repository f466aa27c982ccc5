"""Joint elimination: the order in which channels go at the smallest error after a refit, and each width's error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_integer, check_number, check_option, check_seed, shown
from fxprune.module.batches import noise
from fxprune.optional import progress_bar
from fxprune.reconstruction.refit import check_repeatable
from fxprune.scorers.base import Scores
from fxprune.scorers.divergence import DIVERGENCES, Divergence
from fxprune.scorers.output_errors import measured
from fxprune.scorers.output_sensitivity import output_sensitivity
from fxprune.scorers.thinet import in_order, require_readers
from fxprune.statistics.gram.collect import ENOUGH, GroupReader, Positions, Sampling, readings
from fxprune.statistics.gram.elimination import Problem, eliminate, entries_of, held_back
from fxprune.statistics.gram.solve import joined
from fxprune.statistics.gram.sums import Gram

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Readings = list[tuple[GroupReader, list[Gram]]]


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """What a group's readers lose at every width of the group.

    Attributes:
        order: the channels in the order in which they go, of shape (channels,).
        errors: the error when the first 0, 1, ... of them are removed, of shape (channels + 1,): 0, then rising.

    >>> import torch
    >>> curve = ErrorCurve.of_scores(torch.tensor([3.0, 1.0, 4.0]))
    >>> curve.order.tolist(), curve.errors.tolist(), curve.at(kept=1)
    ([1, 0, 2], [0.0, 0.125, 0.5, 1.0], 0.5)
    """

    order: Ints
    errors: Floats

    def __post_init__(self) -> None:
        arrays = isinstance(self.order, np.ndarray) and isinstance(self.errors, np.ndarray)
        if not arrays or self.order.ndim != 1 or self.errors.shape != (len(self.order) + 1,):
            seen, remedy = f"{shown(self.order)}, {shown(self.errors)}", "give arrays of n channels and of n + 1 errors"
            raise InputError("an error curve needs an order and its errors", seen=seen, remedy=remedy)

    @classmethod
    def of_scores(cls, scores: Tensor) -> ErrorCurve:
        """The curve of a scorer whose scores add up: the part of a group's importance that is removed.

        Args:
            scores: of one group, of shape (channels,); they are shifted to at least zero.
        """
        values = scores.detach().cpu().double().numpy()
        order = np.argsort(values, kind="stable")
        sums = np.cumsum(np.append(0.0, values[order] - min(0.0, float(values.min()))))
        return cls(order, sums / sums[-1] if sums[-1] > 0 else sums)

    @classmethod
    def of_errors(cls, scores: Tensor) -> ErrorCurve:
        """The curve of a scorer whose scores are errors: that of a channel and all channels of smaller score together.

        Args:
            scores: of one group, of shape (channels,), at least zero.
        """
        values = scores.detach().cpu().double().numpy()
        if len(values) and not values.min() >= 0:
            seen, remedy = f"{values.min():g}", "give the scores of a scorer whose scores are errors"
            raise InputError("scores are no errors, which are at least zero", seen=seen, remedy=remedy)
        order = np.argsort(values, kind="stable")
        return cls(order, np.append(0.0, values[order]))

    def tempered(self, power: float) -> ErrorCurve:
        """The curve between its own unit (power 1) and parts of the largest error (power 0).

        >>> import torch
        >>> ErrorCurve.of_errors(torch.tensor([1.0, 4.0])).tempered(0.5).errors.tolist()
        [0.0, 0.5, 2.0]
        """
        largest = float(self.errors[-1])
        return ErrorCurve(self.order, self.errors * largest ** (power - 1)) if largest > 0 else self

    def at(self, kept: int) -> float:
        """The error when `kept` channels stay."""
        return float(self.errors[len(self.order) - kept])

    def scores(self) -> Tensor:
        """For each channel the error when it goes, with all that go before it, of shape (channels,)."""
        return in_order(self.order[::-1], self.errors[:0:-1])


Curves = dict[str, ErrorCurve]


@dataclass(frozen=True)
class JointElimination:
    """The channels that the next layers miss least together, when all other weights are fitted anew.

    With S = Σ (x - μ)(x - μ)ᵀ + diag ρ over the patches x of a layer that reads a group, and W its weights, the squared
    error after a set R of channels is removed and the rest and the bias are fitted by least squares is exactly

        E(R) = tr(W_R [(S⁻¹)_RR]⁻¹ W_Rᵀ).

    Channels are removed one after another, each time the one that adds least to E; a channel that another one can stand
    in for goes early, but not both of them. Errors count as parts of ‖Y - μ_Y‖² and add up over the layers that read
    the group. A channel's score is the error when it goes, so that what a planner keeps is what the greedy search
    keeps, at every width; `curves` gives the errors themselves. Sources: Optimal Brain Surgeon (Hassibi and Stork 1993)
    for blocks of weights, as in ZipLM (Kurtic et al., NeurIPS 2023); several readers and all kinds of slots are
    fxprune's own.

    A layer with n weights a kernel and m outputs takes rows·n² operations for its statistics, at most 20·n³ with the
    default rows; n³ for an elimination, and three of them where there are several batches; 7 products of n²·m that
    judge the errors, and six fits of n³/3 + 4·m·n² that choose their ridge. From n = 1,024 on, one elimination and
    three fits judge, in float32. Memory: 16·n² bytes for each layer, which are held together until its group is done,
    and half of that afterwards; and 40·n² for one.

    Attributes:
        positions: output positions of each image that count, drawn anew for each image; `PerWeight(20)`: as many as
            give 20 rows for each weight of a kernel; `Informative`: those where outputs vary most; None: all.
        ridge: ρ as a part of S's typical diagonal: how dear it is to move weights off their values.
        at_once: channels that go in one step, chosen greedily among twice as many of smallest score; None: one for each
            1,024 weights of a kernel, at least one.
        seed: of the positions, of standard normal inputs where there is no data, and of drawn labels.
        errors: "relative": as parts of ‖Y - μ_Y‖², whatever follows the layer; "measured": these, times how far the
            outputs move for such a part when the group alone is cut and its readers are fitted, on up to 64 inputs
            that the fits have not seen, so that errors of different groups compare; a forward of these a group. With
            one batch nothing can be held back, and errors stay relative. "kl", "squared" or "auto": by the gradients
            of the outputs (`output_sensitivity`), at the cost of a backward a batch; that takes errors as independent
            from position to position, which is too little where outputs average over positions. Layers whose
            sensitivity is not seen count relatively.

    Raises:
        InputError: bad settings, unusable data, or a group that no convolution or linear layer reads.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))  # the first two are alike
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> curve = fxprune.scorers.JointElimination().curves(net, groups, [torch.randn(50, 2)])["0"]
    >>> curve.at(kept=2) < 1e-3 < curve.at(kept=1)  # one of them can go, not both
    True
    """

    positions: Positions = ENOUGH
    ridge: float = 1e-2
    at_once: int | None = None
    seed: int = 0
    errors: Literal["relative", "measured"] | Divergence = "relative"

    def __post_init__(self) -> None:
        Sampling(self.positions, self.seed)
        check_number("the ridge", self.ridge, "(0, inf)", "give a positive number, such as 1e-2")
        check_seed(self.seed)
        check_option("kind of errors", self.errors, ("relative", "measured", *DIVERGENCES))
        if self.at_once is not None:
            check_integer("at_once", self.at_once, 1, "None chooses it")

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        return {name: curve.scores() for name, curve in self.curves(model, groups, data).items()}

    def curves(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> dict[str, ErrorCurve]:
        """The error curve of each group, from one pass over the data.

        Where the data has at least two batches, an order comes from all of them, and the errors from channels that
        every other batch chooses and fits, judged on the batches between, with the ridge that suits best: what few or
        similar inputs make look redundant does not count. With one batch the errors are those of its own rows.

        Args:
            model: the model that the groups are of; it is left as it is.
            groups: the groups.
            data: batches of inputs, or (inputs, targets); None: standard normal inputs.
        """
        check_groups(groups, model)
        require_readers(groups, {g.name: g.consumers for g in groups})
        if data is not None and self.errors != "relative":
            check_repeatable(data)
        found = readings(model, groups, data, Sampling(self.positions, self.seed), parts=2)
        usable = {name: list(_readings(mine)) for name, mine in found.items()}
        require_readers(groups, usable)
        del found  # which holds the statistics that are let go of below
        sensitivity = self._sensitivity(model, groups, data)
        curves = Curves()
        with progress_bar() as bar:
            for g in bar.track(list(groups), description="eliminating channels"):
                problems = [self._problem(r, sensitivity.get(r.reader.slot.tensor)) for r in usable[g.name]]
                parts = [r.parts for r in usable[g.name]]
                order, errors = eliminate(problems, g.size, self.at_once)
                apart = all(len(p) > 1 for p in parts)
                judged = self._held_back(parts, problems, order, float(errors[-1])) if apart else _rising(errors)
                curves[g.name] = ErrorCurve(order.numpy(), judged)
                usable[g.name] = [r.first() for r in usable[g.name]]
                del problems, parts
        if self.errors == "measured" and data is not None:
            return _scaled(model, groups, data, usable, curves)
        return curves

    def _sensitivity(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None) -> dict[str, Tensor]:
        """F of the readers' outputs; nothing where errors count as parts of ‖Y - μ‖²."""
        if self.errors == "relative" or self.errors == "measured":
            return {}
        readers = {s.tensor for g in groups for s in g.consumers}
        inputs = noise(groups.graph, self.seed) if data is None else data
        return output_sensitivity(model, inputs, readers, self.errors, self.seed)

    def _problem(self, reading: _Reading, f: Tensor | None) -> Problem:
        """What a reader misses; f: the outputs' sensitivity, where errors are worth that."""
        gram, kernels = joined(reading.parts), reading.reader.kernels
        if f is None:
            return Problem.of(gram, kernels, reading.entries, self.ridge)
        problem = Problem.of(gram, _roots(f, len(kernels)) @ kernels.double(), reading.entries, self.ridge)
        return replace(problem, worth=problem.energy() / gram.rows)

    def _held_back(self, parts: list[list[Gram]], problems: list[Problem], order: Tensor, whole: float) -> Floats:
        """The errors on rows that neither choice nor fit has seen, at some widths, and interpolated between them.

        Without the group, readers have what they read besides: there the error is `whole`, of all rows, but for what
        the ridge adds to it where they read nothing else.
        """
        channels = len(order)
        counts = sorted({round(part * channels) for part in _REMOVED} - {0, channels})
        middle = order[: counts[len(counts) // 2]] if counts else order
        suited = [q.suited(p, middle) for p, q in zip(parts, problems, strict=True)] if counts else problems
        errors = held_back(parts, suited, channels, counts, self.at_once)
        known = [0.0, *errors, max(min(whole, sum(p.worth for p in problems)), *errors, 0.0)]
        return np.interp(np.arange(channels + 1), [0, *counts, channels], np.maximum.accumulate(known))


def _scaled(
    model: nn.Module, groups: Groups, data: Iterable[Any], readings: Mapping[str, list[_Reading]], own: Curves
) -> Curves:
    """Curves in the unit of the outputs' divergence."""
    gone = {name: _tested(curve) for name, curve in own.items()}
    readers = {name: [(r.reader, r.parts[0]) for r in readings[name]] for name in own}
    cuts = {n: (readers[n], torch.from_numpy(own[n].order[:count].copy())) for n, count in gone.items()}
    moved = measured(model, groups, data, cuts)
    worth = {n: moved[n] / max(float(own[n].errors[gone[n]]), 1e-12) for n in moved}
    return {n: replace(c, errors=c.errors * worth.get(n, 1.0)) for n, c in own.items()}


class _Reading(NamedTuple):
    """A layer that loses nothing but inputs, the statistics of these, and the entries that each channel owns."""

    reader: GroupReader
    parts: list[Gram]
    entries: Tensor

    def first(self) -> _Reading:
        """The same with the statistics of the first part alone."""
        return self._replace(parts=self.parts[:1])


def _readings(found: Readings) -> Iterator[_Reading]:
    for reader, parts in found:
        entries = entries_of(reader.owner, reader.channels)
        if entries is not None:
            yield _Reading(reader, parts, entries)


def _roots(f: Tensor, groups: int) -> Tensor:
    """F^½ of the outputs of each convolution group, of shape (groups, outputs, outputs)."""
    grid = f.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
    values, vectors = torch.linalg.eigh(grid.diagonal(dim1=0, dim2=2).movedim(2, 0))
    return (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT


def _tested(curve: ErrorCurve) -> int:
    """Channels to remove so that the error is near a twentieth: small enough to compare, large enough to be seen."""
    return 1 + int(np.abs(curve.errors[1:] - _VISIBLE).argmin())


_VISIBLE = 0.05
_REMOVED = (0.02, 0.06, 0.12, 0.2, 0.35, 0.55, 0.8)
"""Parts of a group's channels at which errors are measured on held-back rows."""


def _rising(errors: Tensor) -> Floats:
    return np.append(0.0, np.maximum.accumulate(errors.cpu().numpy()))
