"""Scores from gradients of a loss: how much the loss would change without a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_function, check_integer, check_option, check_seed
from fxprune.module.batches import Batch
from fxprune.plan.plan import Slot
from fxprune.scorers.base import Scores, UnscorableError, along, makers, per_channel
from fxprune.scorers.losses import Loss, default_loss, differentiate, each_loss, logits_of, loss_inputs, require_targets

Slots = Mapping[str, tuple[Slot, ...]]  # of each group, those that count


@dataclass(frozen=True)
class Taylor:
    """First-order Taylor expansion: the mean over batches of (Σ_w g·w)² over the weights w that make the channel, with
    their gradients g (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, eq. 8).

    Several producers' weights count together; where no layer makes the channel, all its parameters do. Batches count
    in proportion to their samples. One forward and backward a batch; memory: that of a training step without optimiser.

    Attributes:
        loss: (outputs, targets) -> scalar; without targets, (outputs, the model's inputs). Default: cross-entropy, or
            `output.loss` where the model computes that itself.

    Raises:
        InputError: no data, batches without targets, or a model or loss that fails on them.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> for layer in net:
    ...     _ = layer.weight.data.copy_(torch.tensor([1.0, 2.0]).view_as(layer.weight))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> score = fxprune.scorers.Taylor(loss=lambda outputs, targets: (outputs * targets).mean())
    >>> score(net, groups, [(torch.tensor([[2.0]]), torch.tensor([[1.0]]))])  # the outputs are 2·(1·1 + 2·2)
    {'0': tensor([ 4., 64.], dtype=torch.float64)}
    """

    loss: Loss | None = None

    def __post_init__(self) -> None:
        _check_loss(self.loss)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        slots: Slots = {g.name: makers(g, tensors) for g in groups}
        return _first_order(model, groups, data, _Sums(groups, slots, tensors, torch.mul, torch.square), self.loss)


@dataclass(frozen=True)
class GroupTaylor:
    """First-order Taylor expansion over everything that goes with a channel: the mean over batches of (Σ_θ g·θ)², θ all
    parameters of the channel: producers, biases, norms and consumers (after Fang et al., DepGraph, CVPR 2023, whose
    group importance adds up coupled parameters; squaring the sum as in Molchanov et al. 2019 is a choice of ours).

    Attributes:
        loss: (outputs, targets) -> scalar; without targets, (outputs, the model's inputs). Default: cross-entropy, or
            `output.loss` where the model computes that itself.

    Raises:
        InputError: as for `Taylor`.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> _ = [layer.weight.data.fill_(2.0) for layer in (net[0], net[2])]
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> score = fxprune.scorers.GroupTaylor(loss=lambda outputs, targets: (outputs * targets).mean())
    >>> score(net, groups, [(torch.tensor([[1.0]]), torch.tensor([[1.0]]))])  # 2·2 by what makes and by what reads it
    {'0': tensor([64., 64.], dtype=torch.float64)}
    """

    loss: Loss | None = None

    def __post_init__(self) -> None:
        _check_loss(self.loss)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        slots: Slots = {g.name: g.slots for g in groups}
        sums = _Sums(groups, slots, tensors, torch.mul, torch.square)
        return _first_order(model, groups, data, sums, self.loss)


@dataclass(frozen=True)
class HessianDiagonal:
    """Optimal brain damage: ½ Σ_w h_w·w² over the weights that make the channel (LeCun et al., NIPS 1989).

    The diagonal h of the loss's Hessian is estimated by that of the Gauss-Newton matrix or the empirical Fisher matrix,
    the mean over samples of squared per-sample gradients. One backward serves a whole batch: with independent random
    signs r_n, E (Σ_n r_n g_n)² = Σ_n g_n². With one sample a batch and given labels this is exact.

    Attributes:
        labels: "sampled", drawn from the model's own softmax: the Gauss-Newton matrix of cross-entropy, for which the
            data needs no targets; "given": the empirical Fisher matrix.
        draws: backward passes a batch.
        loss: with given labels: (outputs, targets) -> scalar, also for a single sample; default cross-entropy.
        seed: of labels and signs.

    Raises:
        InputError: an option out of range, or as for `Taylor`.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [2.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> _ = net[2].weight.data.fill_(1.0)
    >>> score = fxprune.scorers.HessianDiagonal("given", loss=lambda outputs, targets: (outputs * targets).mean())
    >>> score(net, groups, [(torch.tensor([[3.0]]), torch.tensor([[1.0]]))])  # the gradients are 3, so h is 9
    {'0': tensor([ 4.5000, 18.0000], dtype=torch.float64)}
    """

    labels: Literal["sampled", "given"] = "sampled"
    draws: int = 1
    loss: Loss | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_option("choice of labels", self.labels, ("sampled", "given"))
        check_integer("the number of draws", self.draws, 1, "1 is usual")
        check_seed(self.seed)
        _check_loss(self.loss)
        if self.loss is not None and self.labels == "sampled":
            raise InputError(
                "labels can be sampled for cross-entropy only", seen="loss=", remedy="labels='given', or no loss"
            )

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        if not len(groups):
            return {}
        generator = torch.Generator().manual_seed(self.seed)
        slots = {g.name: makers(g, tensors) for g in groups}
        sums = _Sums(groups, slots, tensors, lambda g, w: (g * w).square(), lambda total: total)

        def objective(outputs: Any, batch: Batch) -> Tensor:
            losses = self._losses(outputs, batch, generator)
            signs = torch.randint(0, 2, losses.shape, generator=generator, device="cpu") * 2 - 1
            return (losses * signs.to(losses)).sum()

        samples = differentiate(model, data, sums.wanted, objective, lambda found, _: sums.add(found, 1), self.draws)
        return {name: total / (2 * samples * self.draws) for name, total in sums.totals.items()}

    def _losses(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Tensor:
        if self.labels == "given":
            return each_loss(self.loss, outputs, require_targets(batch), batch.size)
        logits = logits_of(outputs)
        chances = logits.detach().movedim(1, -1).softmax(-1).cpu()
        drawn = torch.multinomial(chances.flatten(0, -2), 1, generator=generator).view(chances.shape[:-1])
        losses = nn.functional.cross_entropy(logits, drawn.to(logits.device), reduction="none").view(len(logits), -1)
        # Independent labels at each position: their gradients' squares add up, those of their mean would not.
        return losses.sum(1) / losses.shape[1] ** 0.5


def _check_loss(loss: object) -> None:
    check_function("the loss", loss, "give a function (outputs, targets) -> scalar, or None", arguments=2)


def _first_order(
    model: nn.Module, groups: Groups, data: Iterable[Any] | None, sums: _Sums, loss: Loss | None
) -> Scores:
    if not len(groups):
        return {}
    objective = default_loss if loss is None else lambda outputs, batch: loss(outputs, loss_inputs(batch))
    samples = differentiate(model, data, sums.wanted, objective, sums.add)
    return {name: total / samples for name, total in sums.totals.items()}


class _Sums:
    """For each channel, Σ over batches of weight · finish(Σ_θ measure(gradient, θ)), θ the parameters in its slots."""

    def __init__(
        self,
        groups: Groups,
        slots: Slots,
        tensors: Mapping[str, Tensor],
        measure: Callable[[Tensor, Tensor], Tensor],
        finish: Callable[[Tensor], Tensor],
    ) -> None:
        self._groups, self._tensors, self._measure, self._finish = groups, tensors, measure, finish
        self._slots = {
            name: [s for s in found if isinstance(tensors[s.tensor], nn.Parameter)] for name, found in slots.items()
        }
        without = [name for name, found in self._slots.items() if not found]
        if without:
            raise UnscorableError("no parameter makes these channels", without)
        self.wanted = {s.tensor for found in self._slots.values() for s in found}
        self.totals = {g.name: torch.zeros(g.size, dtype=torch.float64, device="cpu") for g in groups}

    def add(self, gradients: Mapping[str, Tensor], weight: float) -> None:
        terms = {name: self._measure(g, self._tensors[name].detach()) for name, g in gradients.items()}
        for g in self._groups:
            found = self._of_group(g, terms)
            self.totals[g.name] = self.totals[g.name].to(found.device) + weight * self._finish(found)

    def _of_group(self, group: Group, terms: Mapping[str, Tensor]) -> Tensor:
        parts = [
            per_channel(along(terms[s.tensor], s).sum(1, dtype=torch.float64), s, group.size)
            for s in self._slots[group.name]
        ]
        return torch.stack(parts).sum(0)
