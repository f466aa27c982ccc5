"""Randomise: make a copy of a model, and the inputs it is run on, tell any two channels apart.

A plan that takes one channel for another shows only where the two differ: not on a black image, in fresh scales and
shifts, behind a dead activation, or below the rounding of a deep net that was never trained.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.module.isolation import Inputs, call, cloned, tensors_of


def is_constant(value: Any) -> bool:
    """Whether it is a tensor of several numbers that are all equal."""
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.numel() > 1
        and bool((value == value.flatten()[0]).all())
    )


def has_constants(inputs: Inputs) -> bool:
    """Whether `drawn_inputs` would change anything."""
    return any(map(is_constant, tree_leaves(inputs)))


def drawn_inputs(inputs: Inputs, seed: int) -> Inputs:
    """The inputs with random values in [0, 1) in the place of constant tensors; the others are the given ones."""
    generator = torch.Generator().manual_seed(seed)
    return tree_map(lambda t: _drawn_like(t, generator) if is_constant(t) else t, inputs)


def draw_constants(model: nn.Module, seed: int) -> None:
    """Random values between 0.5 and 1.5, in place, in all parameters and buffers that are constant."""
    generator = torch.Generator().manual_seed(seed)
    for t in filter(is_constant, tensors_of(model).values()):
        t.copy_(_drawn_like(t, generator) + 0.5)


def _drawn_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    # The generator is the processor's, whatever the default device.
    return torch.empty_like(tensor).copy_(
        torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype, device="cpu")
    )


def calibrate(model: nn.Module, inputs: Inputs, seed: int) -> None:
    """One forward that estimates the statistics of all BatchNorms, and sets biases so that no activation is dead."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum, m.training = None, True
    generator = torch.Generator().manual_seed(seed)
    biased = [m for m in model.modules() if is_leaf(m) and _is_biased(m)]
    hooks = [m.register_forward_hook(_liven(m, generator)) for m in biased]
    # One value per channel (1x1 maps, batch 1) has no variance, a ValueError; the statistics stay at their defaults.
    with suppress(ValueError):
        call(model, cloned(inputs))
    for hook in hooks:
        hook.remove()
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum, m.training = momentum, False


def is_leaf(module: nn.Module) -> bool:
    """Whether it has parameters and no modules inside."""
    return bool(module._parameters) and not module._modules


def outlives_the_call(value: Any) -> bool:
    """Whether it is a tensor that can be read after the call; those that a `torch.vmap` made cannot."""
    return isinstance(value, Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def _is_biased(module: nn.Module) -> bool:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return isinstance(weight, Tensor) and weight.dim() > 1 and isinstance(bias, nn.Parameter) and bias.dim() == 1


def _liven(module: Any, generator: torch.Generator) -> Callable[[Any, Any, Any], Tensor | None]:
    """A hook that shifts a layer's bias so that the mean response of every channel is between 0.5 and 1.5.

    A layer that returns anything else than a map of its channels stays as it is.
    """
    bias = module.bias
    # Drawn before the run: a forward may forbid random operations.
    wanted = torch.rand(len(bias), generator=generator, dtype=torch.float64, device="cpu") + 0.5

    def shift(_module: Any, _args: Any, out: Any) -> Tensor | None:
        if not outlives_the_call(out) or not out.is_floating_point():
            return None
        channel = out.dim() - 1 if isinstance(module, nn.Linear) else out.dim() - module.weight.dim() + 1
        if not 0 <= channel < out.dim() or out.shape[channel] != len(bias):
            return None
        delta = wanted.to(out) - out.mean([d for d in range(out.dim()) if d != channel])
        delta = delta.nan_to_num(0, 0, 0)  # an empty batch has no mean
        bias.add_(delta)
        return out + delta.view([-1 if d == channel else 1 for d in range(out.dim())])

    return shift
