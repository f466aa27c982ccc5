"""Losses and their gradients with respect to a model's parameters, batch by batch, without touching the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.errors import FxpruneError, InputError
from fxprune.module.batches import Batch, batches
from fxprune.module.isolation import isolated, output_tensors, set_training
from fxprune.module.tensors import swap_tensors
from fxprune.module.written_tensors import unwatched

Loss: TypeAlias = Callable[[Any, Any], Tensor]  # (outputs, what `loss_inputs` gives) -> a scalar, the mean over samples
Objective: TypeAlias = Callable[[Any, Batch], Tensor]  # (outputs, batch) -> a scalar to differentiate


def cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Mean cross-entropy of outputs of shape (batch, classes, ...) and targets: classes or probabilities."""
    return F.cross_entropy(logits_of(outputs), _wide(targets))


def _wide(targets: Any) -> Any:
    """Classes in the integers that PyTorch asks for; data sets often hold shorter ones."""
    short = isinstance(targets, Tensor) and targets.dtype in (torch.int32, torch.int16, torch.int8)
    return targets.long() if short else targets


def default_loss(outputs: Any, batch: Batch) -> Tensor:
    """Cross-entropy; of a batch without targets, the loss that the model itself computes of it (`output.loss`).

    Raises:
        InputError: the batch has no targets, and the model computes no loss.
    """
    own = getattr(outputs, "loss", None)
    if batch.targets is None and isinstance(own, Tensor):
        return own
    return cross_entropy(outputs, require_targets(batch))


def loss_inputs(batch: Batch) -> Any:
    """What a loss is given beside the outputs: the targets, or, where the model was given everything, its inputs."""
    args, kwargs = batch.inputs
    return batch.targets if batch.targets is not None else kwargs or args


def logits_of(outputs: Any) -> Tensor:
    """The model's output as scores of classes; of an output with `logits`, those.

    Raises:
        InputError: it is not one tensor of shape (batch, classes, ...).
    """
    outputs = getattr(outputs, "logits", outputs)
    if not isinstance(outputs, Tensor) or outputs.dim() < 2:
        seen = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            "cross-entropy needs one output of shape (batch, classes, ...)", seen=seen, remedy="give loss=, your own"
        )
    return outputs


def each_loss(loss: Loss | None, outputs: Any, targets: Any, size: int) -> Tensor:
    """The loss of each sample, of shape (batch,); None is cross-entropy, the mean over positions."""
    if loss is None:
        losses = F.cross_entropy(logits_of(outputs), _wide(targets), reduction="none")
        return losses.flatten(1).mean(1) if losses.dim() > 1 else losses

    def sample(tree: Any, i: int) -> Any:
        return tree_map(lambda t: t[i : i + 1] if isinstance(t, Tensor) and t.dim() and len(t) == size else t, tree)

    return torch.stack([loss(sample(outputs, i), sample(targets, i)) for i in range(size)])


def require_targets(batch: Batch) -> Any:
    """The targets of a batch.

    Raises:
        InputError: it has none.
    """
    if batch.targets is None:
        raise InputError("a batch without targets", where=batch.place, remedy="give batches of (inputs, targets)")
    return batch.targets


Add: TypeAlias = Callable[[Mapping[str, Tensor], int], None]


def differentiate(
    model: nn.Module, data: Iterable[Any] | None, wanted: set[str], objective: Objective, add: Add, times: int = 1
) -> int:
    """Run `model` in evaluation mode, forward and backward, and hand every batch's gradients to `add`.

    Args:
        model: left as it is, gradients and `requires_grad` included.
        data: batches of (inputs, targets).
        wanted: names of parameters; frozen ones get a gradient as well.
        objective: what is differentiated.
        add: receives the gradients by name, zeros where the objective does not depend on a parameter, and the number of
            samples in the batch.
        times: how often the objective is taken of each batch's outputs; random ones differ.

    Returns:
        The number of samples seen.

    Raises:
        InputError: no data, no batch in it, the model or the loss fails on one, or a loss that is not finite or depends
            on no parameter.
    """
    if data is None:
        raise InputError("this scorer needs data", remedy="give batches of (inputs, targets): data=loader")
    samples = 0
    with differentiable(model, wanted) as (work, leaves):
        for batch in batches(work, data):
            outputs = batch.run(work)
            for left in reversed(range(times)):
                value = value_of(objective, outputs, batch)
                found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, retain_graph=left > 0)
                with torch.no_grad(), unwatched():
                    add(_filled(leaves, found), batch.size)
            samples += batch.size
    return samples


@contextmanager
def differentiable(model: nn.Module, wanted: set[str]) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """A copy of the model, and its wanted parameters as leaves of their own that share the model's memory."""
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            return tensor
        values = tensor.clone() if tensor.is_inference() else tensor.detach()
        new = nn.Parameter(values, requires_grad=name in wanted and values.is_floating_point())
        if new.requires_grad:
            leaves[name] = new
        return new

    with isolated(model, keep_buffers=True) as work, torch.enable_grad():
        set_training(work, False)
        swap_tensors(work, leaf)
        yield work, leaves


def value_of(objective: Objective, outputs: Any, batch: Batch) -> Tensor:
    try:
        value = objective(outputs, batch)
    except FxpruneError:
        raise
    except Exception as error:
        seen = f"{type(error).__name__}: {str(error).strip()[:200]}"
        numbers = [t for t in output_tensors(outputs) if t.is_floating_point()]
        finite = all(bool(t.isfinite().all()) for t in numbers)
        remedy = "give loss=, a callable (outputs, targets)" if finite else "look for NaN in data and weights"
        raise InputError("the loss fails on the data", where=batch.place, seen=seen, remedy=remedy) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError("the loss is not a scalar tensor", where=batch.place, seen=shape, remedy="return the mean")
    if not value.requires_grad:
        raise InputError("the loss depends on no parameter", where=batch.place, remedy="look for detach or no_grad")
    if not value.isfinite():
        finite = all(bool(t.isfinite().all()) for t in output_tensors(outputs) if t.is_floating_point())
        remedy = "look for NaN in data and weights"
        if finite:
            remedy = "look at the targets: of a batch in which none counts (all -100) the mean is no number"
        raise InputError("the loss is not finite", where=batch.place, seen=str(float(value.detach())), remedy=remedy)
    return value.reshape(())


def _filled(leaves: Mapping[str, Tensor], found: Iterable[Tensor | None]) -> dict[str, Tensor]:
    pairs = zip(leaves.items(), found, strict=True)
    return {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in pairs}
