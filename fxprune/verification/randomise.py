"""Randomise: make a copy of a model, and the inputs it is run on, tell any two channels apart.

A plan that takes one channel for another shows only where the two differ: not on a black image, in fresh scales and
shifts, behind a dead activation, or below the rounding of a deep net that was never trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.module.isolation import Inputs


def is_constant(value: Any) -> bool:
    """Whether it is a dense tensor of several numbers that are all equal."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < 2:
        return False
    if value.layout is not torch.strided:  # a sparse matrix is what it is for its zeros
        return False
    first, second = value.flatten()[:2].tolist()
    return first == second and bool((value == first).all())


def has_constants(inputs: Inputs) -> bool:
    """Whether `drawn_inputs` would change anything."""
    return any(map(is_constant, tree_leaves(inputs)))


def drawn_inputs(inputs: Inputs, seed: int) -> Inputs:
    """The inputs with random values in [0, 1) in the place of constant tensors; the others are the given ones."""
    generator = torch.Generator().manual_seed(seed)
    return tree_map(lambda t: drawn_like(t, generator) if is_constant(t) else t, inputs)


def drawn_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random values in [0, 1)."""
    # The generator is the processor's, whatever the default device.
    return torch.empty_like(tensor).copy_(
        torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype, device="cpu")
    )


def is_leaf(module: nn.Module) -> bool:
    """Whether it has parameters and no modules inside."""
    return bool(module._parameters) and not module._modules


def outlives_the_call(value: Any) -> bool:
    """Whether it is a tensor that can be read after the call; those that a `torch.vmap` made cannot."""
    return isinstance(value, Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(value)
