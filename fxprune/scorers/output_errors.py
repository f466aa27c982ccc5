"""What errors of a group are worth: how far the model's outputs move when that group alone is cut, and refitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.module.batches import batches
from fxprune.module.isolation import call, isolated, set_training
from fxprune.module.tensors import tensor_names
from fxprune.optional import progress_bar
from fxprune.reconstruction.layers import Layer, find_layers, first_run
from fxprune.reconstruction.refit import check_repeatable
from fxprune.reconstruction.replay import Tapes
from fxprune.rewriting.copying import copied
from fxprune.scorers.divergence import Divergence, divergence_of, outputs_of
from fxprune.statistics.gram.collect import GroupReader
from fxprune.statistics.gram.solve import WIDE, fitted, intercept, uncentred
from fxprune.statistics.gram.sums import Gram

Cut: TypeAlias = tuple[Sequence[tuple[GroupReader, Gram]], Tensor]
"""The layers that read a group, with the statistics of their inputs, and the channels to remove."""
JUDGES = 64
"""Inputs on which outputs are compared."""
MEMORY = 2**30
"""Bytes of results that are held from group to group."""
RIDGE = 0.1
"""Of the fits: with few inputs a stronger one generalises; here it only has to suit all layers alike."""


def measured(
    model: nn.Module, groups: Groups, data: Iterable[Any], cuts: Mapping[str, Cut], divergence: Divergence = "auto"
) -> dict[str, float]:
    """How far the outputs move when each group alone is cut and the layers that read it are fitted anew.

    Args:
        model: left as it is.
        groups: its groups.
        data: batches; every other one, up to 64 inputs, judges.
        cuts: for each group its readers, with statistics of the batches between, and the channels to remove.
        divergence: what tells two outputs apart.

    Returns:
        For each group the mean divergence; nothing where there is no batch to judge by.
    """
    check_repeatable(data)
    judges = _judges(model, data)
    if not judges:
        return {}
    cutter = _Cutter(copied(model), groups, judges, divergence)
    with progress_bar() as bar:
        return {
            name: cutter.moved(name, *cuts[name])
            for name in bar.track(cutter.in_order(cuts), description="cutting each group alone")
        }


class _Cutter:
    """Cuts one group after the other in a model, which afterwards is as before.

    What comes before the first layer that the group, or a later one, changes is computed once for all.
    """

    def __init__(self, model: nn.Module, groups: Groups, judges: list[Any], divergence: Divergence) -> None:
        self._model, self._judges, self._divergence = model, judges, divergence
        self._wanted = outputs_of(model, judges)
        weights, first = {s.tensor for g in groups for s in g.consumers}, next(iter(batches(model, judges)))
        self._layers = find_layers(first_run(model, weights, first), model, model, groups.plan({}))
        self._tapes, self._pending = Tapes(MEMORY), dict[str, set[str]]()

    def in_order(self, cuts: Mapping[str, Cut]) -> list[str]:
        """The groups in the order in which their first layers run."""
        places = {weight: i for i, weight in enumerate(self._layers)}
        first = {n: min((places.get(r.slot.tensor, 0) for r, _ in cut[0]), default=0) for n, cut in cuts.items()}
        order, pending = sorted(cuts, key=lambda name: first[name]), set[str]()
        for name in reversed(order):
            changed = [layer for layer, _, _ in self._cut(cuts[name][0])]
            pending = pending | {t for layer in changed for t in (layer.name, layer.place) if t}
            self._pending[name] = pending
        return order

    def _cut(self, readers: Sequence[tuple[GroupReader, Gram]]) -> list[tuple[Layer, GroupReader, Gram]]:
        return [(self._layers[r.slot.tensor], r, g) for r, g in readers if r.slot.tensor in self._layers]

    def moved(self, name: str, readers: Sequence[tuple[GroupReader, Gram]], gone: Tensor) -> float:
        """How far the outputs move when these channels of a group are removed."""
        cut = self._cut(readers)
        before = [(layer, layer.kernels().clone(), layer.offset().clone()) for layer, _, _ in cut]
        for layer, reader, gram in cut:
            layer.put(self._model, *_without(layer, reader, gram, gone))
        moved = divergence_of(self._wanted, self._outputs(self._pending[name]), self._divergence)
        for layer, kernels, offset in before:
            layer.put(self._model, kernels, offset)
        return moved

    def _outputs(self, pending: set[str]) -> list[Any]:
        """As `outputs_of`, where the tensors of the given names alone may change."""
        with isolated(self._model, keep_buffers=True) as work:
            set_training(work, False)
            names = tensor_names(work)
            changing = {i for i, name in names.items() if name in pending}
            return [
                self._tapes.run(batch.place, partial(call, work), batch.inputs, names.keys(), changing)
                for batch in batches(work, self._judges)
            ]


def _without(layer: Layer, reader: GroupReader, gram: Gram, gone: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of full size, zero for the channels that are removed, and the intercept."""
    stays = ~torch.isin(reader.owner, gone.to(reader.owner.device))
    entries = stays.nonzero()[:, 1].view(len(stays), -1)
    kernels, groups = layer.kernels(), torch.arange(len(stays), device=entries.device)[:, None]
    known = gram.towards(kernels).part(entries)
    known = known if layer.place else uncentred(known)
    narrow = known.float() if kernels.shape[-1] >= WIDE else known
    weights = fitted(narrow, kernels.mT[groups, entries].mT, RIDGE).double()
    whole = torch.zeros_like(kernels).mT.index_put((groups, entries), weights.mT).mT
    return whole, layer.offset() + intercept(known, weights) if layer.place else layer.offset()


def _judges(model: nn.Module, data: Iterable[Any]) -> list[Any]:
    """Every other batch, up to so many inputs."""
    held, inputs = list[Any](), 0
    for i, batch in enumerate(batches(model, data)):
        if i % 2 and inputs < JUDGES:
            held.append((batch.inputs[0] or batch.inputs[1],))
            inputs += batch.size
    return held
