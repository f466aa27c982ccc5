"""Penalties: terms that a training adds to its loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_are_groups, check_groups, check_plan_of
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_integer, check_kind, check_number
from fxprune.plan.plan import Ints, Plan, Slot


def squares(parameters: dict[str, Tensor], group: Group) -> Tensor:
    """Σ w² over all parameters that belong to each channel of a group, of shape (channels,); differentiable.

    Args:
        parameters: by name; what is not among them does not count.
        group: the group. A parameter that holds a channel in two of its dims counts in each.
    """
    parts = [_along(parameters[s.tensor], s, group.size) for s in group.slots if s.tensor in parameters]
    return torch.stack(parts).sum(0)


def _along(tensor: Tensor, slot: Slot, channels: int) -> Tensor:
    rows = tensor.movedim(slot.dim, 0).flatten(1) if tensor.dim() > 1 else tensor[:, None]
    exact = rows if rows.dtype == torch.float64 else rows.float()
    sums = exact.square().sum(1)[torch.from_numpy(slot.positions).to(tensor.device)]
    return sums.new_zeros(channels).index_add(0, torch.from_numpy(slot.channels).to(tensor.device), sums)


def _parameters(groups: Groups, model: nn.Module) -> dict[str, Tensor]:
    return {name: t for name, t in check_groups(groups, model).items() if isinstance(t, nn.Parameter)}


def _sizes(parameters: dict[str, Tensor], group: Group) -> float:
    """Number of weights that belong to one channel, which may have several indices of a dim (behind a flatten)."""
    held = [(s, parameters[s.tensor]) for s in group.slots if s.tensor in parameters]
    return sum(tensor.numel() / s.length * len(s.positions) / group.size for s, tensor in held)


def _check(strength: float, groups: Groups) -> None:
    check_are_groups(groups)
    check_number("the strength or its limit", strength, "[0, inf)", "1e-5 to 1e-3 suit a loss of order one")
    if not len(groups):
        raise InputError("no group to make sparse", remedy="give groups that can be pruned")


@dataclass(frozen=True, eq=False)
class GroupLasso:
    """strength · Σ_g Σ_c √n_g · ‖all weights that belong to channel c of group g‖₂.

    A channel's weights are what makes it, what reads it, and the scales and shifts between: what pruning removes
    together becomes small together, in all layers that share it. n_g is the number of these weights, so that wide
    layers are not favoured. Source: Yuan and Lin, 2006; over whole groups as DepGraph (Fang et al., CVPR 2023) does.

    Attributes:
        groups: of the model.
        strength: of the term; 1e-5 to 1e-3 suit a loss of order one.

    Raises:
        InputError: a negative strength, or no group.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> penalty = fxprune.sparsity.GroupLasso(fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3))), 1e-4)
    >>> loss = net(torch.ones(5, 3)).square().mean() + penalty(net)
    """

    groups: Groups
    strength: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.strength, self.groups)

    def __call__(self, model: nn.Module) -> Tensor:
        """The term, of shape (), for the weights as they are; gradients flow to them."""
        own = _parameters(self.groups, model)
        # The root's gradient at zero is infinite; what is far below any weight keeps it finite.
        terms = [
            _sizes(own, g) ** 0.5 * (squares(own, g) + 1e-12).sqrt().sum()
            for g in self.groups
            if any(s.tensor in own for s in g.slots)
        ]
        return self.strength * torch.stack(terms).sum()


@dataclass(frozen=True, eq=False)
class BatchNormL1:
    """strength · Σ |γ| over the scales of batch norms behind prunable channels.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017. Prune with
    `scorers.BatchNormScale()` afterwards.

    Attributes:
        groups: of the model.
        strength: of the term; 1e-5 to 1e-3 are usual.

    Raises:
        InputError: a negative strength, no group, or no batch norm with scales among the groups.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 2, 3))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8)))
    >>> fxprune.sparsity.BatchNormL1(groups, 0.5)(net)
    tensor(4., grad_fn=<MulBackward0>)
    """

    groups: Groups
    strength: float = 1e-4
    _names: tuple[str, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        _check(self.strength, self.groups)
        norms = nn.modules.batchnorm._BatchNorm
        own = {f"{n}.weight" for n, m in self.groups.graph.model.named_modules() if isinstance(m, norms) and m.affine}
        names = dict.fromkeys(s.tensor for g in self.groups for s in g.slots if s.tensor in own)
        if not names:
            remedy = "GroupLasso needs no batch norm"
            raise InputError("no batch norm scales a prunable channel", remedy=remedy)
        object.__setattr__(self, "_names", tuple(names))

    def __call__(self, model: nn.Module) -> Tensor:
        """The term, of shape (), for the scales as they are; gradients flow to them."""
        own = check_groups(self.groups, model)
        return self.strength * torch.stack([own[name].abs().sum() for name in self._names]).sum()


def removed(group: Group, plan: Plan) -> Ints:
    """The channels of a group that a plan removes; none where it does not name it."""
    planned = plan.groups.get(group.name)
    return np.setdiff1d(np.arange(group.size), np.arange(group.size) if planned is None else planned.kept)


@dataclass(eq=False)
class GrowingDecay:
    """A decay of the channels that a plan removes, which grows until they are zero: strength · t/2 · Σ w² at call t.

    What is to go is driven to zero while the rest of the network makes up for it, so that the cut itself costs little.
    Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021 (GReg-1).

    Attributes:
        groups: of the model.
        plan: what will stay.
        strength: added to the decay at each call.
        limit: where it stops growing.
        calls: so far; save it with a training that may be interrupted, and give it again.

    Raises:
        InputError: a negative strength or limit, no group, or a plan that removes nothing.
        PlanError: the plan is for other groups.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    >>> plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(net, groups))
    >>> decay = fxprune.sparsity.GrowingDecay(groups, plan)
    >>> bool(decay(net) < decay(net))
    True
    """

    groups: Groups
    plan: Plan
    strength: float = 1e-4
    limit: float = 1.0
    calls: int = 0

    def __post_init__(self) -> None:
        _check(self.strength, self.groups)
        _check(self.limit, self.groups)
        check_integer("calls", self.calls, 0, "0 starts anew")
        check_kind("the plan", self.plan, Plan, "give the plan by which the model will be pruned")
        if not self.plan.cuts():
            raise InputError("the plan removes nothing", remedy="give the plan by which the model will be pruned")
        check_plan_of(self.groups, self.plan)

    def __call__(self, model: nn.Module) -> Tensor:
        """The term, of shape (), for the weights as they are; gradients flow to them. Each call makes the next grow."""
        self.calls += 1
        own, terms = _parameters(self.groups, model), list[Tensor]()
        for g in self.groups:
            gone = removed(g, self.plan)
            if len(gone):
                terms.append(squares(own, g)[torch.from_numpy(gone)].sum())
        return min(self.limit, self.strength * self.calls) / 2 * torch.stack(terms).sum()
