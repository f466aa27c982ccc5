"""Borrow the caller's model: run it, change it, and give it back exactly as it was.

Tracing and probing run the model's own Python code, with meta tensors in the place of its weights. They do so on the
caller's very object (a copy would lose identities that code may rely on, and cost memory) and undo everything
afterwards, also when the run fails: attributes and what they lead to, parameters, buffers, training flags, random
states. What the code reaches by no attribute of a module (globals, closures) is not looked after.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.module.saved_state import Saved, cached_methods
from fxprune.module.written_tensors import Writes

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def isolated(model: nn.Module, *, keep_buffers: bool = False) -> Iterator[None]:
    """Whatever happens inside the block, `model` and the random states are afterwards what they were before.

    Args:
        model: the module to protect; of its parameters and other tensors, only those that are written to are copied.
        keep_buffers: the model runs for real and may write to its tensors: run on copies of the buffers, and watch the
            parameters. Without it only tensors that are neither are watched.
    """
    modules, seen = [m for _, m in walk(model)], set[int]()
    saved = [Saved(m, seen) for m in modules]
    real = [tensor for *_, tensor in _places(model)] if keep_buffers else []
    writes = Writes([*real, *(t for s in saved for t in s.tensors)])
    caches = [clear for kind in {type(m) for m in modules} for clear in cached_methods(kind)]
    with torch.inference_mode(False), torch.no_grad(), random_states():
        try:
            if keep_buffers:
                swap_tensors(model, lambda _, t: t if isinstance(t, nn.Parameter) else t.detach().clone())
            with writes if writes else nullcontext():
                yield
        finally:
            _finish([*(step for s in saved for step in s.steps), writes.restore, *caches])


def _finish(steps: Iterable[Callable[[], object]]) -> None:
    """Carry out all steps, whatever interrupts them; then raise what has interrupted first.

    A step that Ctrl-C interrupts is carried out again, one that fails is not.
    """
    left, raised = deque(steps), list[BaseException]()
    while left:
        try:
            while left:
                left[0]()
                left.popleft()
        except BaseException as error:
            raised.append(error)
            if isinstance(error, Exception):
                left.popleft()
    if raised:
        raise raised[0]


@contextmanager
def random_states() -> Iterator[None]:
    """Whatever the block draws or seeds, the global generators of Python, NumPy and torch are as before it."""
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


def seed_random_states(seed: int) -> None:
    """Seed the global generators that `random_states` restores.

    `torch.manual_seed` would also leave a seed behind for a GPU that is put to use later.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, what the model's code may draw from
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()` without its recursion, in which every module is handed up through all its parents."""
    seen: set[nn.Module] = set()
    ahead: list[tuple[str, nn.Module]] = [("", model)]
    while ahead:
        path, module = ahead.pop()
        if module not in seen:
            seen.add(module)
            yield path, module
            prefix = path and f"{path}."
            children = reversed(module._modules.items())
            ahead += [(prefix + name, child) for name, child in children if child is not None]


def _places(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, str, Tensor]]:
    """Where parameters and buffers are kept: registry, key in it, qualified name, tensor."""
    for path, module in walk(model):
        prefix = path and f"{path}."
        registries: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for registry in registries:
            for key, tensor in registry.items():
                if tensor is not None:
                    yield registry, key, prefix + key, tensor


def swap_tensors(model: nn.Module, replace: Callable[[str, Tensor], Tensor]) -> dict[int, str]:
    """Put `replace(name, tensor)` in the place of every parameter and buffer; shared ones are replaced once.

    Call it inside `isolated`. Returns the qualified name of each new tensor by its `id`.
    """
    done: dict[int, Tensor] = {}
    names: dict[int, str] = {}
    for registry, key, name, tensor in _places(model):
        new = done.get(id(tensor))
        if new is None:
            new = done[id(tensor)] = replace(name, tensor)
            names[id(new)] = name
        registry[key] = new
    return names


def tensor_names(model: nn.Module) -> dict[int, str]:
    """The qualified name of every parameter and buffer by the tensor's `id`; shared ones by their first name."""
    names: dict[int, str] = {}
    for _, _, name, tensor in _places(model):
        names.setdefault(id(tensor), name)
    return names


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by qualified name, each shared tensor once, under its first name."""
    first: dict[int, tuple[str, Tensor]] = {}
    for _, _, name, tensor in _places(model):
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Further names of shared parameters and buffers, as in a `state_dict`: {name: first name}."""
    first = tensor_names(model)
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: first[id(tensor)] for name, tensor in named if first[id(tensor)] != name}


def set_training(model: nn.Module, training: bool) -> None:
    """Like `model.train(training)`, without the side effects that a model's own `train` may have."""
    for _, module in walk(model):
        # BatchNorm refuses to train on one value per channel; its mode changes no shape.
        module.__dict__["training"] = training and not isinstance(module, nn.modules.batchnorm._BatchNorm)


def watch_forwards(model: nn.Module, stack: list[str]) -> None:
    """Keep in `stack` the qualified names of the modules whose `forward` is running. Call it inside `isolated`."""
    for path, module in walk(model):
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


def call(model: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = inputs
    return model(*args, **kwargs)


def as_call(example_inputs: Any) -> Inputs:
    """`example_inputs` as positional and keyword arguments."""
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, dict):
        return (), dict(example_inputs)
    return (example_inputs,), {}


def cloned(inputs: Inputs) -> Inputs:
    """Inputs for one run: a forward may write into what it is given."""
    return tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, inputs)


def output_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an output of any form: tensors, containers, dataclasses, objects with attributes."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            for f in fields(leaf):
                yield from output_tensors(getattr(leaf, f.name))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type | nn.Module):
            for v in vars(leaf).values():
                yield from output_tensors(v)
