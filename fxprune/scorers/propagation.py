"""Scores propagated from the model's outputs back to its channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.plan.plan import Slot
from fxprune.scorers.base import Scores, per_channel, share
from fxprune.scorers.wiring import execution_order, gains_behind, grouped

Member = tuple[str, Slot]  # name of a group, one of its slots


@dataclass(frozen=True)
class NISP:
    """Neuron importance score propagation, s_k = |W_{k+1}|ᵀ s_{k+1} (Yu et al., NISP, CVPR 2018).

    The pass visits layers in the reverse order of execution. Each hands the importance of what it makes on to what it
    reads: a channel gets Σ |w| s over the weights w that read it, and all readers of a channel add up, so that a
    residual stream gathers the importance of every branch behind. Scores are parts of their group's sum.

    Choices of fxprune: outputs, and channels that no layer reads or that are kept for other reasons, start with equal
    importance (the paper ranks the last responses by a feature selection on data); a batch norm that directly follows
    a layer multiplies its kernels by |γ|/√(σ² + ε); a depthwise layer, whose input and output are one group, multiplies
    that group's importance by its kernels' Σ|w| over their mean. Layers that run several times count once.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    >>> _ = net[2].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 1.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.scorers.NISP()(net, groups)
    {'0': tensor([0.2500, 0.7500], dtype=torch.float64)}
    """

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors, graph = check_groups(groups, model), groups.graph
        gains, sweep = gains_behind(graph), _Sweep(groups)
        for name in reversed(execution_order(graph)):
            if name in sweep.out:
                sweep.through(name, _magnitudes(tensors[name], sweep.out[name], gains.get(name)))
        return sweep.shares()


class _Sweep:
    """The importances of all channels during the pass from the last layer to the first.

    Attributes:
        out: the dim that makes channels, of every weight that makes or reads some.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._made, self._read = _by_tensor(groups, "producer"), _by_tensor(groups, "consumer")
        self.out = {name: 1 - found[0][1].dim for name, found in self._read.items()}
        self.out |= {name: found[0][1].dim for name, found in self._made.items()}
        self._one_group = grouped(groups.graph)
        self._state = {
            g.name: torch.full((g.size,), float(not g.consumers), dtype=torch.float64, device="cpu") for g in groups
        }
        self._left = {g.name: {s.tensor for s in (*g.producers, *g.consumers)} for g in groups}
        self._finished: Scores = {}

    def through(self, name: str, weights: Tensor) -> None:
        """Hand the importance of what a layer makes on to what it reads; its weights are (outputs, inputs)."""
        made, read = self._made.get(name, []), self._read.get(name, [])
        importance = _importance(made, self._state, weights) @ weights
        for group, slot in read:
            self._state[group] = self._state[group] + per_channel(importance, slot, self._groups[group].size).cpu()
        if name in self._one_group and not read:
            for group, slot in made:
                factor = per_channel(weights.sum(1), slot, self._groups[group].size).cpu()
                self._state[group] = self._state[group] * share(factor) * len(factor)
        self._close(name, {group for group, _ in (*made, *read)})

    def _close(self, name: str, groups: set[str]) -> None:
        """Finish the groups that no layer further on in the sweep touches; keep the others from overflowing."""
        for group in groups:
            self._left[group].discard(name)
            if not self._left[group]:
                self._finished[group] = share(self._state.pop(group))
        largest = max((float(v.max()) for v in self._state.values()), default=0.0)
        if 1e100 < largest < np.inf:
            self._state = {group: values / largest for group, values in self._state.items()}

    def shares(self) -> Scores:
        rest = {group: share(values) for group, values in self._state.items()}
        return {g.name: {**self._finished, **rest}[g.name] for g in self._groups}


def _by_tensor(groups: Groups, role: str) -> dict[str, list[Member]]:
    found: dict[str, list[Member]] = {}
    for g in groups:
        for slot in g.slots:
            if slot.role == role:
                found.setdefault(slot.tensor, []).append((g.name, slot))
    return found


def _magnitudes(weight: Tensor, out: int, gain: Tensor | None) -> Tensor:
    """Σ|w| over the positions of kernels, of shape (outputs, inputs), behind the norm that follows."""
    summed = weight.detach().abs().flatten(2).sum(2) if weight.dim() > 2 else weight.detach().abs()
    rows = (summed.T if out else summed).double()
    fits = gain is not None and len(gain) == len(rows)  # one index of a grouped transposed kernel makes many channels
    return rows * gain.sqrt().to(rows.device)[:, None] if fits else rows  # type: ignore[union-attr]


def _importance(made: Iterable[Member], state: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The importance of each of a layer's outputs: its channel's, in equal parts; 1 where it belongs to no group."""
    values = torch.ones(len(weights), dtype=torch.float64, device="cpu")
    for group, slot in made:
        owned = len(slot.positions) / len(state[group])
        values[torch.from_numpy(slot.positions)] = state[group][torch.from_numpy(slot.channels)] / owned
    return values.to(weights.device)
