"""Layers of a pruned model: where their intercepts can go, and how new weights are put in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.module.batches import Batch
from fxprune.module.tensors import tensor_names, tensors_of
from fxprune.plan.plan import Plan
from fxprune.reconstruction.record import RecordedRun, Seen, recording
from fxprune.rewriting.rewrite import cut
from fxprune.statistics.observe import Contraction


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of the pruned model.

    Attributes:
        seen: a call of it; its weight is the model's own.
        bias: the name of its bias, or empty, also where its calls have several, or other layers have the same one.
        mean: without a bias, the name of the running mean of the BatchNorm that alone gets its output, or empty.
        centre: what that mean is in the original, where it stays, of shape (channels,).
        fallen: how far it lies below that already, from an earlier fit: the present intercept.
        apart: whether each call keeps a bias of its own, which does not belong to what the weight should give.
    """

    seen: Contraction
    bias: str
    mean: str
    centre: Tensor | None = None
    fallen: Tensor | None = None
    apart: bool = False

    @property
    def name(self) -> str:
        return self.seen.name

    @property
    def place(self) -> str:
        """The tensor that takes an intercept; empty if there is none."""
        return self.bias or self.mean

    def kernels(self) -> Tensor:
        """The weights as they are now, of shape (groups, outputs, n), in float64."""
        return self.seen.kernels().double()

    def offset(self) -> Tensor:
        """The intercept as it is now, of shape (groups, outputs); zeros if there is none.

        It is the bias, a parameter or not, or what an earlier fit has put into the running mean.
        """
        kernels = self.kernels()
        bias = None if self.apart else self.seen.bias if self.fallen is None else self.fallen
        return kernels.new_zeros(kernels.shape[:2]) if bias is None else bias.detach().double().view(kernels.shape[:2])

    def bytes(self) -> int:
        """Of its Gram statistics."""
        groups, outputs, n = self.seen.kernels().shape
        return 8 * groups * n * (n + outputs)

    def put(self, small: nn.Module, kernels: Tensor, intercept: Tensor) -> None:
        """Write weights and intercept; a BatchNorm's running mean is the original's less what its input lacks."""
        tensors = tensors_of(small)
        with torch.no_grad():
            for name, value in self.tensors(kernels, intercept).items():
                tensors[name].copy_(value)

    def tensors(self, kernels: Tensor, intercept: Tensor) -> dict[str, Tensor]:
        """What `put` writes, by the names of the tensors."""
        values = {self.name: _stored(self.seen, kernels)}
        if self.bias:
            values[self.bias] = intercept.flatten()
        elif self.centre is not None:
            values[self.mean] = self.centre.double() - intercept.flatten()
        return values


def _stored(seen: Contraction, kernels: Tensor) -> Tensor:
    """Kernels as the model stores the weight: the inverse of `Contraction.kernels`."""
    if seen.options is None:
        return kernels[0].T if seen.dim else kernels[0]
    if seen.options[3]:
        inner = seen.weight.shape[0] // seen.groups
        kernels = kernels.unflatten(2, (inner, -1)).transpose(1, 2)
    return kernels.reshape(seen.weight.shape)


def first_run(small: nn.Module, names: Set[str], batch: Batch) -> RecordedRun[Seen]:
    """The calls of the layers of the given weights on a batch, and where their outputs go; see `Record`."""
    with recording(small, names, Seen.of) as record:
        return record(batch, names)


def find_layers(run: RecordedRun[Seen], model: nn.Module, small: nn.Module, plan: Plan) -> dict[str, Layer]:
    """The layers that ran; none whose weight makes outputs in two ways, as those of tied autoencoders.

    Args:
        run: of the pruned model.
        model: the original.
        small: the pruned model.
        plan: what was removed.
    """
    means, cuts, before, now = _means(run), plan.cuts(), tensors_of(model), tensors_of(small)
    users = _users_of_biases(run, small)
    layers: dict[str, Layer] = {}
    forms: dict[str, set[Any]] = {}
    for (name, _), call in run.calls.items():
        forms.setdefault(name, set()).add(call.seen.form)
    for name in (name for name, alike in forms.items() if len(alike) == 1):
        seen, biases = run.calls[name, 0].seen, run.biases[name]
        if len(biases) > 1 or any(users.get(bias or "", 0) > 1 for bias in biases):
            layers[name] = Layer(seen, "", "", apart=True)
            continue
        mean = means[name] if biases == {None} else ""
        centre = cut(before[mean], cuts.get(mean, {})) if mean else None
        fallen = None if centre is None else centre.double() - now[mean].double()
        layers[name] = Layer(seen, next(iter(biases)) or "", mean, centre, fallen)
    return layers


def _users_of_biases(run: RecordedRun[Seen], model: nn.Module) -> dict[str, int]:
    """How many weights each bias comes with: in modules, and in the run."""
    names, users = tensor_names(model), dict[str, set[str]]()
    for module in model.modules():
        weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
        if weight is not None and bias is not None:
            users.setdefault(names[id(bias)], set()).add(names[id(weight)])
    for weight_name, biases in run.biases.items():
        for bias_name in filter(None, biases):
            users.setdefault(bias_name, set()).add(weight_name)
    return {bias: len(weights) for bias, weights in users.items()}


def apart(layers: Mapping[str, Layer]) -> set[str]:
    """The weights whose calls keep biases of their own."""
    return {name for name, layer in layers.items() if layer.apart}


def _means(run: RecordedRun[Seen]) -> dict[str, str]:
    """The running mean that each layer alone goes into, and goes into alone; else empty."""
    users = Counter(mean for means in run.means.values() for mean in means)
    only = {name: means for name, means in run.means.items() if len(means) == 1}
    return {name: next((m for m in only.get(name, ()) if users[m] == 1), "") for name, _ in run.calls}


@contextmanager
def or_as_before(small: nn.Module, layers: Mapping[str, Layer], others: Iterable[str] = ()) -> Iterator[None]:
    """If the block raises, weights and places, and other tensors of the given names, are as they were before it."""
    names = [*others, *(n for layer in layers.values() for n in (layer.name, layer.place) if n)]
    saved = {n: tensors_of(small)[n].detach().clone() for n in names}
    try:
        yield
    except BaseException:
        tensors = tensors_of(small)
        with torch.no_grad():
            for name, value in saved.items():
                tensors[name].copy_(value)
        raise
