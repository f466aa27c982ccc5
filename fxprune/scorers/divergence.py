"""How far the outputs of two models are apart, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxprune.module.batches import batches
from fxprune.module.isolation import isolated, output_tensors, set_training

Divergence = Literal["auto", "kl", "squared"]
"""What tells two outputs apart: "kl", between the classes' probabilities; "squared", the squared error as a part of the
outputs' variance; "auto": "kl" for one output of shape (inputs, classes) with two classes or more, else "squared"."""
DIVERGENCES = ("auto", "kl", "squared")


def of_classes(outputs: Any, divergence: Divergence) -> bool:
    """Whether outputs count as scores of classes."""
    classes = isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1
    return divergence == "kl" or (divergence == "auto" and classes)


def outputs_of(model: nn.Module, data: Sequence[Any]) -> list[Any]:
    """The model's outputs in evaluation mode, batch by batch."""
    with isolated(model, keep_buffers=True) as work:
        set_training(work, False)
        return [batch.run(work) for batch in batches(work, data)]


def divergence_of(wanted: Sequence[Any], found: Sequence[Any], divergence: Divergence) -> float:
    """The divergence over all batches; infinite where an output is not finite."""
    parts = torch.stack([_apart(w, f, divergence) for w, f in zip(wanted, found, strict=True)]).sum(0)
    mean = parts[0] / parts[1].clamp_min(1e-30)
    return float(mean) if bool(mean.isfinite()) else float("inf")


def _apart(wanted: Any, found: Any, divergence: Divergence) -> Tensor:
    """A sum over a batch, and by what the sum of all batches is to be divided."""
    if of_classes(wanted, divergence):
        logs = [o.double().movedim(1, -1).log_softmax(-1) for o in (wanted, found)]
        each = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).cpu()
        return torch.stack([each.sum(), each.new_tensor(each.numel())])
    pairs = zip(output_tensors(wanted), output_tensors(found), strict=True)
    kept = [(w.double(), f.double()) for w, f in pairs if w.is_floating_point()]
    off = torch.stack([(w - f).square().sum().cpu() for w, f in kept]).sum()
    return torch.stack([off, torch.stack([(w - w.mean()).square().sum().cpu() for w, _ in kept]).sum()])
