"""What a call depends on beside its module and its inputs: casts, settings, who watches, random numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as torch_module

from fxprune.search.progressive.activation_cache.values import Frozen


def casts() -> Frozen:
    """What a module's result depends on beside itself and its inputs, and may change within a forward."""
    casts = torch._C._is_any_autocast_enabled()
    kinds = ("cpu", "cuda", "mps", "xpu") if casts else ()
    return torch.is_grad_enabled(), *((torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds)


def surroundings() -> Frozen:
    """What else may change between calls."""
    backends = torch.backends
    return (
        casts(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        backends.mha.get_fastpath_enabled(),
        backends.mkldnn.enabled,
        (
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
        ),
        (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32),
    )


def ordinary() -> bool:
    """Whether a call just computes: nobody traces, transforms or watches it."""
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state()
        or torch._C._functorch.peek_interpreter_stack()
        or torch.compiler.is_compiling()
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
    )


def random_states() -> tuple[Any, ...]:
    """The states of the global generators, to tell whether somebody drew from them."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002, the user's global state is what must be seen
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = (torch.get_rng_state(), *cuda)
    return random.getstate(), name, bytes(keys), tuple(rest), *(bytes(s.numpy()) for s in states)  # type: ignore[arg-type]
