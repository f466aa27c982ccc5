"""What a library must leave as it was: a model's whole state, and the process's switches and random states."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def footprint(model: nn.Module) -> Any:
    """Everything about a model that its owner could notice, as a value that can be compared."""
    return {name: _module(module) for name, module in model.named_modules()}


def _module(module: nn.Module) -> dict[str, Any]:
    """The module's class, the order of its attributes, and each attribute."""
    seen = {key: _seen(value) for key, value in module.__dict__.items()}
    return {"its class": type(module), "its order": list(seen), **seen}


def _seen(value: Any, depth: int = 0) -> Any:
    """A comparable image of a value: identity, and contents of containers, tensors, arrays, generators and objects."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, int | float | str | bytes | None):
        return value
    if isinstance(value, np.ndarray):
        return id(value), value.dtype, value.shape, value.tobytes()
    for kind, state in _GENERATORS.items():
        if isinstance(value, kind):
            return id(value), state(value)
    if depth >= 4:
        return id(value)
    if isinstance(value, dict):
        return id(value), [(str(k), _seen(v, depth + 1)) for k, v in value.items()]
    if isinstance(value, list | tuple | set | deque):
        return id(value), [_seen(v, depth + 1) for v in value]
    return id(value), [(name, _seen(v, depth + 1)) for name, v in _attributes(value).items()]


_GENERATORS: dict[type, Callable[[Any], Any]] = {
    random.Random: lambda g: hash(g.getstate()),
    np.random.Generator: lambda g: str(g.bit_generator.state),
    np.random.RandomState: lambda g: str(g.get_state()),
    torch.Generator: lambda g: g.get_state().numpy().tobytes(),
}


def _attributes(value: Any) -> dict[str, Any]:
    """What an object of a class of the tests' own holds; others may hold the whole process."""
    if type(value).__module__.partition(".")[0] in {"torch", *sys.stdlib_module_names} - {"types"}:
        return {}
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return {**getattr(value, "__dict__", {}), **{n: getattr(value, n) for n in slots if hasattr(value, n)}}


def _tensor(t: Tensor) -> Any:
    """Identity, storage, bits, gradient and flags."""
    bits = None if t.is_meta else t.detach().cpu().contiguous().view(-1).view(torch.uint8).clone().numpy().tobytes()
    grad = None if not t.is_leaf or t.grad is None else _tensor(t.grad)
    return id(t), t.data_ptr(), t.dtype, tuple(t.shape), t.stride(), t.requires_grad, bits, grad


def switches() -> dict[str, Any]:
    """The process's states that a run of a model may change."""
    cuda = torch.backends.cuda
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        # PyTorch 2.6's get_default_device fails once set_default_device(None) was called.
        "default device": torch.empty(0).device,
        "mha fast path": torch.backends.mha.get_fastpath_enabled(),
        "sdp": (
            cuda.flash_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": _numpy_state(),
        "python": hash(random.getstate()),
        "module hooks": (
            len(nn.modules.module._global_forward_hooks),
            len(nn.modules.module._global_forward_pre_hooks),
        ),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
    }


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global state is what must not change)
    return kind, np.asarray(keys).tobytes(), *rest


@contextmanager
def no_footprints(model: nn.Module, *others: Any) -> Iterator[None]:
    """Fails if the block, which may raise, leaves any trace in the model, the process or `others`."""
    before = footprint(model), switches(), _seen(others)
    try:
        yield
    finally:
        after = footprint(model), switches(), _seen(others)
        for name in before[0]:
            assert after[0][name] == before[0][name], (
                f"module '{name}' has changed: {_changed(before[0][name], after[0][name])}"
            )
        assert after[0] == before[0]
        assert after[1] == before[1], _changed(before[1], after[1])
        assert after[2] == before[2]


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [k for k in {**before, **after} if before.get(k) != after.get(k)]
