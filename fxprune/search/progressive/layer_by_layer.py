"""Layer by layer, as published: channels by LASSO and readers by least squares, towards the original's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_number, check_seed
from fxprune.module.batches import batches
from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Ints, Plan
from fxprune.reconstruction.layers import Layer, apart, find_layers, first_run
from fxprune.reconstruction.original import Original
from fxprune.reconstruction.pair import Pair
from fxprune.reconstruction.readers import Reader, read_twice, readers_of, repeated
from fxprune.reconstruction.residual_add import CallKey
from fxprune.rewriting.rewrite import cut, rewrite
from fxprune.scorers.lasso import lasso_path
from fxprune.scorers.thinet import Floats
from fxprune.search.trial import Cutting
from fxprune.statistics.gram.channels import Responses, owners
from fxprune.statistics.gram.collect import Positions, Sampling
from fxprune.statistics.gram.solve import fitted, intercept, uncentred
from fxprune.statistics.gram.sums import Gram


@dataclass(frozen=True)
class Change(Cutting):
    """Cut a model, and give the readers of what was cut new weights, in place.

    Attributes:
        plan: of the model that is cut.
        tensors: the new values of some of the cut model's tensors.
    """

    plan: Plan
    tensors: Mapping[str, Tensor]

    def __call__(self, model: nn.Module) -> None:
        rewrite(model, self.plan, inplace=True)
        own = tensors_of(model)
        with torch.no_grad():
            for name, value in self.tensors.items():
                own[name].copy_(value)


@dataclass(frozen=True)
class LayerByLayer:
    """How a layer loses input channels as published: LASSO, then least squares, both towards the original's outputs.

    For a layer with input X from the model as it is, weights W and outputs Y of the original,

        min_β 1/2 ‖Y - Σ_i β_i X_i W_iᵀ‖² + λ‖β‖₁

    chooses the channels, and min_W ‖Y - X W‖² + Σ ρ_j ‖W_j - W₀_j‖² over those that stay gives the weights. Layers that
    read the same channels add up, each as a part of ‖Y‖². Where a layer's output is added to a shortcut that has
    changed from Y₁ to Y₁', its target is Y₁ - Y₁' + Y. Sums over the data serve both, so that attempts on all layers
    take one pass over it together. Source: He, Zhang and Sun, Channel Pruning, 2017, as used by PCP (Guo et al.).

    Attributes:
        positions: output positions of each image that count, as in `fxprune.reconstruct`; 10 in the paper.
        ridge: ρ as a part of the typical Σ(x - μ)².
        memory: bytes of statistics that are held together; groups that do not fit take a pass each.
        seed: of the positions.

    >>> import fxprune
    >>> search = fxprune.search.Progressive(0.25, method=fxprune.search.LayerByLayer())
    """

    positions: Positions = 10
    ridge: float = 1e-2
    memory: int = 2**30
    seed: int = 0

    def __post_init__(self) -> None:
        Sampling(self.positions, self.seed)
        check_number("the ridge", self.ridge, "[0, inf)", "1e-2 is usual")
        check_number("memory", self.memory, "[0, inf]", "give a number of bytes, such as 2**30")
        check_seed(self.seed)


class Layers:
    """The layers of a model that is pruned group by group.

    Args:
        settings: how.
        model: the original.
        groups: its groups.
        data: batches, that can be read again and again.
    """

    def __init__(self, settings: LayerByLayer, model: nn.Module, groups: Groups, data: Iterable[Any]) -> None:
        self._settings, self._model, self._data = settings, model, data
        weights = list(dict.fromkeys(s.tensor for g in groups for s in g.consumers))
        sampling = Sampling(settings.positions, settings.seed).over(data)
        self._original = Original(model, weights, sampling, settings.memory)
        self._repeated, self._read_twice = repeated(groups.graph, weights), read_twice(groups.graph, weights)

    def changes(
        self, small: nn.Module, plan: Plan, groups: Groups, wanted: Sequence[Mapping[str, int]]
    ) -> Iterator[tuple[Change, dict[str, Ints]]]:
        """For each of the wanted sets of widths, the change of the model that it needs, and the channels that stay.

        Args:
            small: the model as it is; untouched.
            plan: what was removed from the original so far.
            groups: of the model as it is.
            wanted: {group: channels}, each for a change of its own.
        """
        for together in self._passes(groups, wanted):
            names = [n for counts in together for n in counts]
            readings = self._readings(small, plan, [groups[n] for n in names])
            for counts in together:
                yield self._change(groups, counts, readings)

    def _passes(self, groups: Groups, wanted: Sequence[Mapping[str, int]]) -> Iterator[list[Mapping[str, int]]]:
        """What shares a pass over the data."""
        tensors, together, held = groups.graph.tensors, list[Mapping[str, int]](), 0
        for counts in wanted:
            weights = {s.tensor: tensors[s.tensor] for n in counts for s in groups[n].consumers}
            needs = sum(8 * (w.numel() // min(w.shape[:2])) ** 2 for w in weights.values())
            if together and held + needs > self._settings.memory:
                yield together
                together, held = [], 0
            together, held = [*together, counts], held + needs
        if together:
            yield together

    def _readings(self, small: nn.Module, plan: Plan, groups: Sequence[Group]) -> dict[str, tuple[Layer, Gram]]:
        """What the layers that read the groups read now and what they should give."""
        owner = {s.tensor: g.name for g in groups for s in g.consumers}
        readers = readers_of(plan, owner)
        layers = find_layers(
            first_run(small, owner.keys(), next(iter(batches(small, self._data)))), self._model, small, plan
        )

        def repairs(call: CallKey, partner: str | None) -> bool:
            """Layers of one group that are added are fitted at once; neither knows what the other will give. Nor does
            a layer that runs again know what its earlier calls will.
            """
            again = call[0] in self._repeated and call[1] > 0
            return not again and call[0] not in self._read_twice and owner[call[0]] != owner.get(partner or "")

        pair = Pair(self._original, small, readers, self._data, repairs, apart=apart(layers))
        return {name: (layers[name], grams[0]) for name, grams in pair.current(owner.keys()).items()}

    def _change(
        self, groups: Groups, counts: Mapping[str, int], readings: Mapping[str, tuple[Layer, Gram]]
    ) -> tuple[Change, dict[str, Ints]]:
        kept = {name: _support(groups[name], count, readings) for name, count in counts.items()}
        plan = groups.plan(kept)
        tensors: dict[str, Tensor] = {}
        for name, reader in readers_of(plan).items():
            if name in readings:
                tensors |= _refitted(*readings[name], reader, plan, self._settings.ridge)
        return Change(plan, tensors), kept


def _support(group: Group, count: int, readings: Mapping[str, tuple[Layer, Gram]]) -> Ints:
    """The channels of a group that LASSO keeps."""
    problems = [_problem(*readings[s.tensor], s, group.size) for s in group.consumers if s.tensor in readings]
    if not problems:
        remedy = f'give ignored=["{group.name}"] to find_groups, or leave out method='
        raise InputError(
            "no convolution or linear layer reads these channels", where=f"group {group.name}", remedy=remedy
        )
    a, b = (np.sum(parts, axis=0) for parts in zip(*problems, strict=True))
    return lasso_path(a, b).support(count)


def _problem(layer: Layer, gram: Gram, slot: Any, channels: int) -> tuple[Floats, Floats]:
    """A and b of a reader, as parts of ‖Y‖²: what its other inputs give does not belong to the target."""
    seen, energy = layer.seen, float(gram.yy.sum())
    owner, kernels = owners(seen, slot, channels), seen.kernels().double()
    a = Responses.of(gram, kernels, owner, channels).a
    towards = (kernels.mT * gram.r).sum(2)  # (groups, n)
    b = towards.new_zeros(channels + 1).index_add_(0, owner.flatten(), towards.flatten()) - a[-1]
    part = 1 / energy if energy > 0 else 0.0
    return part * a[:-1, :-1].cpu().numpy(), part * b[:-1].cpu().numpy()


def _refitted(layer: Layer, gram: Gram, reader: Reader, plan: Plan, ridge: float) -> dict[str, Tensor]:
    """The tensors of a layer after a cut, by least squares on what stays."""
    seen = layer.seen
    outputs, factors = (t.to(gram.s.device) for t in reader.outputs(seen))
    blocks, entries = (t.to(gram.s.device) for t in reader.entries(seen))
    start, offset = layer.kernels(), layer.offset()
    inner = outputs.view(len(blocks), -1) % start.shape[1]
    factors, block = factors.view(len(blocks), -1), blocks[:, None]
    start = start[block, inner] * factors[..., None]
    start = start[..., entries]
    gram = _of_outputs(gram.part(entries.expand(len(gram.s), -1)), block, inner, factors)
    offset = offset[block, inner] * factors
    sums = gram if layer.place else uncentred(replace(gram, y_mean=gram.y_mean - offset))
    weights = fitted(sums, start, ridge)
    bias = intercept(gram, weights) if layer.place else offset
    return _cut(layer, plan, blocks, outputs).tensors(weights, bias)


def _of_outputs(gram: Gram, block: Tensor, inner: Tensor, factors: Tensor) -> Gram:
    """The statistics of some of the outputs, of shape (blocks, outputs), each multiplied by a factor."""
    rows = torch.arange(gram.r.shape[1], device=inner.device)[:, None]
    r = gram.r[block[..., None], rows, inner[:, None]] * factors[:, None]
    y, yy = gram.y_mean[block, inner] * factors, gram.yy[block, inner] * factors.square()
    whole = block[:, 0]
    return Gram(gram.rows, gram.x_mean[whole], y, gram.s[whole], r, yy)


def _cut(layer: Layer, plan: Plan, blocks: Tensor, outputs: Tensor) -> Layer:
    """The layer of the cut model, of which only shapes and places count."""
    seen, cuts = layer.seen, plan.cuts().get(layer.name, {})
    weight = cut(seen.weight.detach(), cuts)
    options = seen.options and (*seen.options[:5], len(blocks))
    centre = None if layer.centre is None else layer.centre[outputs]
    return replace(layer, seen=replace(seen, weight=weight, options=options), centre=centre)
