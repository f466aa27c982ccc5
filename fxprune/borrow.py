"""Borrow the caller's model: run it, change it, and give it back exactly as it was.

Tracing and probing run the model's own Python code, with meta tensors in the place of its weights. They do so on the
caller's very object (a copy would lose identities that code may rely on, and cost memory) and undo everything
afterwards, also when the run fails: attributes, parameters, buffers, training flags, random states.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@contextmanager
def borrowed(model: nn.Module, *, keep_buffers: bool = False) -> Iterator[None]:
    """Whatever happens inside the block, `model` and the random states are afterwards what they were before.

    Args:
        model: the module to protect; its tensors are not copied.
        keep_buffers: also undo in-place writes to buffers (needed when the model runs on its real tensors).
    """
    saved = [(m, _contents(m)) for m in model.modules()]
    buffers = [(b, b.clone()) for b in model.buffers()] if keep_buffers else []
    with torch.no_grad(), _random_states():
        try:
            yield
        finally:
            for module, contents in saved:
                _restore(module, contents)
            for buffer, before in buffers:
                buffer.copy_(before)


def _contents(module: nn.Module) -> dict[str, Any]:
    """The module's attributes; containers are copied one level deep, for code that caches into them."""
    return {k: v.copy() if type(v) in (dict, list, set) else v for k, v in module.__dict__.items()}


def _restore(module: nn.Module, contents: dict[str, Any]) -> None:
    live = module.__dict__
    for key, value in contents.items():
        now = live.get(key)
        if type(value) in (dict, list, set) and type(now) is type(value) and now is not value:
            contents[key] = _refill(now, value)
    live.clear()
    live.update(contents)


def _refill(container: Any, value: Any) -> Any:
    """Give `container` its old contents and keep its identity; untouched ones are left alone."""
    if isinstance(container, dict):
        if len(container) != len(value) or any(container.get(k) is not v for k, v in value.items()):
            container.clear()
            container.update(value)
    elif isinstance(container, list):
        container[:] = value
    else:
        container.clear()
        container |= value
    return container


@contextmanager
def _random_states() -> Iterator[None]:
    python, cpu = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002, the user's global state is what must be kept
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def swap_tensors(model: nn.Module, replace: Callable[[str, Tensor], Tensor]) -> dict[int, str]:
    """Put `replace(name, tensor)` in the place of every parameter and buffer; shared ones are replaced once.

    Call it inside `borrowed`. Returns the qualified name of each new tensor by its `id`.
    """
    done: dict[int, Tensor] = {}
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        for registry in (module._parameters, module._buffers):
            for key, tensor in registry.items():
                if tensor is None:
                    continue
                new = done.get(id(tensor))
                if new is None:
                    name = f"{path}.{key}" if path else key
                    new = done[id(tensor)] = replace(name, tensor)
                    names[id(new)] = name
                registry[key] = new
    return names


def tensor_names(model: nn.Module) -> dict[int, str]:
    """The qualified name of every parameter and buffer by the tensor's `id`; shared ones by their first name."""
    return swap_tensors(model, lambda _, tensor: tensor)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by qualified name, each shared tensor once, under its first name."""
    found: dict[str, Tensor] = {}
    swap_tensors(model, lambda name, tensor: found.setdefault(name, tensor))
    return found


def set_training(model: nn.Module, training: bool) -> None:
    """Like `model.train(training)`, without the side effects that a model's own `train` may have."""
    for module in model.modules():
        # BatchNorm refuses to train on one value per channel; its mode changes no shape.
        module.__dict__["training"] = training and not isinstance(module, nn.modules.batchnorm._BatchNorm)


def watch_forwards(model: nn.Module, stack: list[str]) -> None:
    """Keep in `stack` the qualified names of the modules whose `forward` is running. Call it inside `borrowed`."""
    for path, module in model.named_modules():
        module.__dict__["forward"] = _watched(module.forward, path, stack)


def _watched(forward: Callable[..., Any], path: str, stack: list[str]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        stack.append(path)
        # On failure the path stays on the stack, so that the error can name it.
        out = forward(*args, **kwargs)
        stack.pop()
        return out

    return run


@contextmanager
def plain_attention() -> Iterator[None]:
    """Switch off fused attention, so that attention appears as its parts: matmul, softmax, matmul."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as undo:
        undo.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        undo.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def call(model: nn.Module, inputs: tuple[tuple[Any, ...], Mapping[str, Any]]) -> Any:
    args, kwargs = inputs
    return model(*args, **kwargs)
