"""How much the model's outputs react to errors of each layer: what an error there is worth, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.errors import check_kind, check_model, check_option, check_seed, check_several
from fxprune.module.batches import Batch, batches
from fxprune.module.isolation import output_tensors
from fxprune.scorers.divergence import DIVERGENCES, Divergence, of_classes
from fxprune.scorers.losses import differentiable, logits_of, value_of
from fxprune.statistics.moments import Moments

_LINEAR = (F.linear,)
_CONVOLUTIONS = (
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
)


def output_sensitivity(
    model: nn.Module, data: Iterable[Any], weights: Iterable[str], divergence: Divergence = "auto", seed: int = 0
) -> dict[str, Tensor]:
    """For each layer the matrix F: an error δ of its output moves the model's outputs by about Σ_positions δᵀ F δ.

    F = ½ E[g gᵀ], with g the gradient of log p(label) in the layer's output, for labels drawn
    from the model's own softmax ("kl", by the Fisher matrix), or of a sum of the outputs with random signs over their
    deviation on all data ("squared", by JᵀJ; without the ½). One forward a batch, and one backward for each output
    tensor of the model. Errors are taken as independent from position to position.

    Args:
        model: left as it is.
        data: batches of inputs, or (inputs, targets); targets are not read.
        weights: names of the layers' weights.
        divergence: see `Divergence`.
        seed: of labels and signs.

    Returns:
        F of shape (output channels, output channels), summed over an input's positions, for the layers that call
        PyTorch's convolutions or `linear` with the weight.

    Raises:
        InputError: unusable data, or outputs that the divergence is not for.
    """
    check_model("the model", model)
    check_several("the weights", weights, 'give names of parameters: ["0.weight"]')
    check_option("divergence", divergence, DIVERGENCES)
    check_seed(seed)
    wanted, sums = list(weights), _Sums()
    for name in wanted:
        check_kind("a weight's name", name, str, 'give names of parameters: ["0.weight"]')
    generator = torch.Generator().manual_seed(seed)

    def objective(outputs: Any, _batch: Batch) -> Tensor:
        return _drawn(outputs, divergence, generator, sums)

    samples = 0
    with differentiable(model, set(wanted)) as (work, leaves), _Watch({id(t): n for n, t in leaves.items()}, sums.add):
        for batch in batches(work, data):
            value_of(objective, batch.run(work), batch)
            sums.backward(list(leaves.values()))
            samples += batch.size
    return sums.total(samples)


class _Sums:
    """Of g gᵀ by layer and output of the model, in that output's own unit, and the deviation of each output.

    Attributes:
        parts: the scalars of a batch, one for each output, whose gradients g are.
    """

    def __init__(self) -> None:
        self.parts, self._output = dict[int, Tensor](), 0
        self._sums, self._spreads = dict[tuple[str, int], Tensor](), dict[int, _Spread]()

    def backward(self, leaves: list[Tensor]) -> None:
        """Back from one part after the other; the layers' gradients come to `add`."""
        left = len(self.parts)
        for output, part in self.parts.items():
            self._output, left = output, left - 1
            torch.autograd.grad(part, leaves, allow_unused=True, retain_graph=left > 0)

    def add(self, name: str, gradient: Tensor, dim: int) -> None:
        rows = gradient.detach().movedim(dim, 0).flatten(1)
        key, each = (name, self._output), (rows @ rows.T).double()
        self._sums[key] = self._sums[key] + each if key in self._sums else each

    def see(self, output: int, values: Tensor) -> None:
        """Take in what an output of the model gave for a batch."""
        self._spreads.setdefault(output, _Spread()).add(values)

    def total(self, samples: int) -> dict[str, Tensor]:
        """F of each layer."""
        found: dict[str, Tensor] = {}
        for (name, output), each in self._sums.items():
            spread = self._spreads.get(output)
            part = each / (2 * samples) if spread is None else each / (samples * spread.variance())
            found[name] = found[name] + part if name in found else part
        return found


class _Spread:
    """The variance of an output over all inputs, summed over its numbers; of maps in several sizes, size by size."""

    def __init__(self) -> None:
        self._moments: dict[tuple[int, ...], Moments] = {}
        self._power, self._count = 0.0, 0

    def add(self, values: Tensor) -> None:
        rows = values if values.dim() else values[None]
        if len(rows):
            self._moments.setdefault(tuple(rows.shape[1:]), Moments()).add(rows)
            self._power += float(rows.double().square().sum())
            self._count += len(rows)

    def variance(self) -> float:
        """Of an output that never varies, the mean square."""
        squares = sum(float(m.squares.sum()) for m in self._moments.values())
        return max((squares if squares > 0 else self._power) / max(self._count, 1), 1e-30)


def _drawn(outputs: Any, divergence: Divergence, generator: torch.Generator, sums: _Sums) -> Tensor:
    """Random scalars whose squared gradients have the wanted mean, for `sums`; and their sum."""
    if of_classes(outputs, divergence):
        logits = logits_of(outputs).movedim(1, -1).flatten(0, -2)
        labels = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0]
        drawn = {0: F.cross_entropy(logits, labels.to(logits.device), reduction="sum")}
    else:
        tensors = [t for t in output_tensors(outputs) if t.is_floating_point()]
        for i, t in enumerate(tensors):
            sums.see(i, t.detach())
        drawn = {i: (t * _signs(t, generator)).sum() for i, t in enumerate(tensors)}
    sums.parts = {i: value for i, value in drawn.items() if value.requires_grad}
    return torch.stack([*drawn.values()]).sum()


def _signs(output: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, output.shape, generator=generator) * 2 - 1).to(output)


class _Watch(TorchFunctionMode):
    """Hands the gradients of layers' outputs on, while a model runs forward and backward."""

    def __init__(self, names: dict[int, str], add: Callable[[str, Tensor, int], None]) -> None:
        super().__init__()
        self._names, self._add = names, add

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _LINEAR or func in _CONVOLUTIONS:
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            name = self._names.get(id(weight))
            if name and result.requires_grad:
                dim = result.dim() - 1 if func in _LINEAR else result.dim() - weight.dim() + 1
                result.register_hook(lambda gradient: self._add(name, gradient, dim))
        return result
