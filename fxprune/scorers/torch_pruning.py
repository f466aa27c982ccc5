"""Torch-Pruning's importances as scorers. Needs the extra `fxprune[peer]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_called, check_seed
from fxprune.module.isolation import isolated
from fxprune.optional import require
from fxprune.plan.plan import Ints
from fxprune.scorers.base import Scores, UnscorableError


@dataclass(frozen=True)
class TorchPruning:
    """An importance of Torch-Pruning, asked about fxprune's groups (Fang et al., DepGraph, CVPR 2023).

    Each group is shown to the importance as a `torch_pruning.Group` of the modules that own its weights; no dependency
    graph is built. What it needs beforehand is the caller's to do, as with Torch-Pruning itself: run `loss.backward()`
    for Taylor importances, `accumulate_grad` for Hessian ones.

    Attributes:
        importance: for instance `torch_pruning.importance.GroupMagnitudeImportance(p=2)`.
        seed: of the global random state while it runs, for `RandomImportance`.

    Raises:
        InputError: Torch-Pruning is not installed, a group of whose channels it says nothing, or an importance that is
            not one number a channel.
    """

    importance: Callable[[Any], Tensor | None]
    seed: int = 0

    def __post_init__(self) -> None:
        check_called("the importance", self.importance, "give one of torch_pruning.importance", arguments=1)
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        check_groups(groups, model)
        peer = _peer()
        with isolated(model) as work, _same_gradients(work):
            torch.manual_seed(self.seed)
            found = {g.name: self._score(peer, work, g) for g in sorted(groups, key=lambda g: g.name)}
        unknown = [g.name for g in groups if found[g.name] is None]
        if unknown:
            raise UnscorableError("Torch-Pruning's importance says nothing of these channels", unknown)
        return {g.name: found[g.name] for g in groups}  # type: ignore[misc]

    def _score(self, peer: Any, model: nn.Module, group: Group) -> Tensor | None:
        shown = _as_peer_group(peer, model, group)
        values = self.importance(shown) if len(shown) else None
        if values is None or tuple(values.shape) == (group.size,):
            return None if values is None else values.detach().double()
        if values.dim() == 1:  # the peer has other ideas of a grouped convolution's channels
            return None
        raise InputError(
            "the importance is not one number a channel",
            where=group.name,
            seen=f"{tuple(values.shape)}, not ({group.size},)",
            remedy="reduce over the group's members: group_reduction='mean'",
        )


def _peer() -> Any:
    return require("torch_pruning", extra="peer")


def _as_peer_group(peer: Any, model: nn.Module, group: Group) -> Any:
    """The peer's view of a group: modules, whether inputs or outputs are meant, positions and their channels."""
    shown = peer.dependency.Group()
    for module, prune, positions, channels in _items(peer, model, group):
        node = peer.dependency.Node(module, None, group.name)
        shown.add_dep(peer.dependency.Dependency(prune, prune, node, node), positions.tolist())
        shown[len(shown) - 1].root_idxs = channels.tolist()
    return shown


def _items(peer: Any, model: nn.Module, group: Group) -> Iterator[tuple[nn.Module, Any, Ints, Ints]]:
    """An item has one position of each channel, since the peer takes the first item's length for the group's."""
    for slot in group.slots:
        path, _, leaf = slot.tensor.rpartition(".")
        module = model.get_submodule(path)
        pruner = peer.pruner.function.PrunerBox.get(peer.ops.module2type(module))
        if leaf == "weight" and pruner is not None:
            prune = pruner.prune_in_channels if slot.role == "consumer" else pruner.prune_out_channels
            by_channel = np.argsort(slot.channels, kind="stable").reshape(group.size, -1)
            for entries in map(np.sort, by_channel.T):
                yield module, prune, slot.positions[entries], slot.channels[entries]


@contextmanager
def _same_gradients(model: nn.Module) -> Iterator[None]:
    """Hessian importances write their sums into the gradients; afterwards these hold what they held."""
    known = [(p.grad, p.grad.data) for p in model.parameters() if p.grad is not None]
    try:
        yield
    finally:
        for gradient, values in known:
            gradient.data = values
