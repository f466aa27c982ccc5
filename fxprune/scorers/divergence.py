"""How far the outputs of two models are apart, without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from fxprune.module.batches import batches
from fxprune.module.isolation import isolated, output_tensors, set_training
from fxprune.statistics.moments import Moments

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
    off, share, spreads = 0.0, 0.0, dict[int, Moments]()
    for before, after in zip(wanted, found, strict=True):
        if of_classes(before, divergence):
            logs = [o.double().movedim(1, -1).log_softmax(-1) for o in (before, after)]
            each = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
            off, share = off + float(each.sum()), share + each.numel()
            continue
        pairs = zip(output_tensors(before), output_tensors(after), strict=True)
        for place, (w, f) in enumerate((w, f) for w, f in pairs if w.is_floating_point() and w.numel()):
            off += float((w.double() - f.double()).square().sum())
            spreads.setdefault(place, Moments()).add(w.flatten()[:, None])
    mean = off / max(share + sum(float(m.squares) for m in spreads.values()), 1e-30)
    return mean if math.isfinite(mean) else math.inf
