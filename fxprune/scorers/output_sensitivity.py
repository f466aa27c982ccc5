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
    deviation ("squared", by JᵀJ; without the ½). One forward and one backward a batch. Errors are taken as independent
    from position to position.

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
    wanted, sums = list(weights), dict[str, Tensor]()
    for name in wanted:
        check_kind("a weight's name", name, str, 'give names of parameters: ["0.weight"]')
    generator = torch.Generator().manual_seed(seed)

    def add(name: str, gradient: Tensor, dim: int) -> None:
        rows = gradient.detach().movedim(dim, 0).flatten(1)
        each = (rows @ rows.T).double()
        sums[name] = sums[name] + each if name in sums else each

    def objective(outputs: Any, _batch: Batch) -> Tensor:
        return _drawn(outputs, divergence, generator)

    samples = 0
    with differentiable(model, set(wanted)) as (work, leaves), _Watch({id(t): n for n, t in leaves.items()}, add):
        for batch in batches(work, data):
            value = value_of(objective, batch.run(work), batch)
            torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
            samples += batch.size
    return {name: total / (2 * samples) for name, total in sums.items()}


def _drawn(outputs: Any, divergence: Divergence, generator: torch.Generator) -> Tensor:
    """A random scalar whose squared gradients have the wanted mean."""
    if of_classes(outputs, divergence):
        logits = logits_of(outputs).movedim(1, -1).flatten(0, -2)
        labels = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0]
        return F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
    tensors = [t for t in output_tensors(outputs) if t.is_floating_point()]
    return torch.stack([_signed(t, generator) for t in tensors]).sum()


def _signed(output: Tensor, generator: torch.Generator) -> Tensor:
    values = output.detach()
    spread = (values - values.mean(0)).square().sum() / len(values) if values.dim() else values.square()
    spread = spread if spread > 0 else values.square().mean().clamp_min(1e-30)
    signs = (torch.randint(0, 2, values.shape, generator=generator) * 2 - 1).to(values)
    return (output * signs).sum() * (2 / spread).sqrt()


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
