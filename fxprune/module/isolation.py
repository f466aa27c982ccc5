"""Isolation: run a model's own code and leave the caller's model and process as they were.

The rule:

- A run works on a structural copy: new modules, attributes, containers and closures over the same parameters (see
  `structural_copy`). The caller's model is read and never changed, so that other threads can use it in the meantime.
  Tensors that are shared with the copy and written to by a run are put back after it.
- What belongs to classes and to the process (caches of functools, closures of methods, the random states of Python,
  NumPy and PyTorch, PyTorch's choice of fused attention) is put back after the run. One lock guards it: in a process,
  one run is under way at a time, and other threads that call fxprune wait.
- A model with scripted modules, whose state lies outside Python, is refused.
- What the code reaches by neither attributes, closures nor the names in its functions' globals is not looked after, nor
  are random numbers that other threads draw from the global generators during a run: they will be drawn again.
"""

from __future__ import annotations

import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.module.autocast import autocast_on_meta
from fxprune.module.class_state import ClassState
from fxprune.module.flex_attention import plain_flex_attention
from fxprune.module.structural_copy import StructuralCopy
from fxprune.module.tensors import held_of, swap_tensors, walk
from fxprune.module.written_tensors import Writes

M = TypeVar("M", bound=nn.Module)
Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

_RUNS = threading.RLock()  # held while the model's code runs
if hasattr(os, "register_at_fork"):  # a child has no thread that would let go of the lock
    os.register_at_fork(after_in_child=lambda: globals().update(_RUNS=threading.RLock()))


@contextmanager
def isolated(
    model: M, *, keep_buffers: bool = False, swapped: bool = False, replaced: Mapping[int, Tensor] | None = None
) -> Iterator[M]:
    """A model that can be run and changed inside the block, whatever happens there, instead of the caller's.

    Gradients are off inside, inference mode as well, and the random states are put back afterwards.

    Args:
        model: the caller's model. Its parameters are shared with what is yielded; those that are written to are put
            back.
        keep_buffers: the model runs for real and may write to its tensors: buffers are copied, and the parameters are
            watched. Without it only tensors that are neither are watched.
        swapped: all `tensors_of` the copy are exchanged before it runs, so that none of them need be watched.
        replaced: what is put in the place of all `tensors_of` the model, by their `id`, if they are exchanged at once.

    Yields:
        A structural copy of the model.

    Raises:
        InputError: the model holds a scripted module.
    """
    with (
        _RUNS,
        torch.inference_mode(False),
        torch.no_grad(),
        random_states(),
        plain_flex_attention(),
        autocast_on_meta(),
    ):
        held = {} if replaced else held_of(model)
        structure = StructuralCopy(held.values(), replaced)
        work = structure.of(model)
        own = [value for value in structure.originals if isinstance(value, FunctionType | partial)]
        parts = ClassState(structure.kinds, own).steps
        unwatched = structure.own if swapped else structure.own - held.keys()
        others = [t for i, t in structure.shared.items() if keep_buffers or i not in unwatched]
        with _watched_tensors(others, parts):
            if keep_buffers:
                _copy_buffers(work)
            yield work


@contextmanager
def _watched_tensors(tensors: Iterable[Tensor], steps: Iterable[Callable[[], object]]) -> Iterator[None]:
    """Put back, after the block, the tensors that it writes to, and take further steps."""
    writes = Writes(tensors)
    try:
        with writes if writes else nullcontext():
            yield
    finally:
        finish([*steps, writes.restore])


def _copy_buffers(model: nn.Module) -> None:
    swap_tensors(model, lambda _, t: t if isinstance(t, nn.Parameter) else t.detach().clone())


def finish(steps: Iterable[Callable[[], object]]) -> None:
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
    python, numpy, cpu, cuda = _random_states()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def _random_states() -> tuple[Any, Any, Tensor, list[Tensor]]:
    numpy = np.random.get_state()  # noqa: NPY002, the user's global state is what must be kept
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), numpy, torch.get_rng_state(), cuda


def has_drawn_since(seed: int) -> bool:
    """Whether random numbers were drawn after `seed_random_states(seed)`; that is done again.

    Call it inside `random_states`.
    """
    python, numpy, cpu, cuda = _random_states()
    seed_random_states(seed)
    python_now, numpy_now, cpu_now, cuda_now = _random_states()
    same = python == python_now and all(map(np.array_equal, numpy, numpy_now))
    return not (same and all(map(torch.equal, [cpu, *cuda], [cpu_now, *cuda_now])))


def seed_random_states(seed: int) -> None:
    """Seed the global generators that `random_states` restores.

    `torch.manual_seed` would also leave a seed behind for a GPU that is put to use later.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, what the model's code may draw from
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def set_training(model: nn.Module, training: bool) -> None:
    """Like `model.train(training)`, without the side effects that a model's own `train` may have."""
    for _, module in walk(model):
        # `module.compile()` leaves a compiled call of the caller's own module behind.
        module.__dict__["_compiled_call_impl"] = None
        # BatchNorm refuses to train on one value per channel; its mode changes no shape.
        module.__dict__["training"] = training and not _is_plain_batch_norm(module)


def _is_plain_batch_norm(module: nn.Module) -> bool:
    """Whether it has one statistic for each channel; a derived class may have several, which training alone reads."""
    if not isinstance(module, _BatchNorm):
        return False
    held = (*module._parameters.values(), *module._buffers.values())
    with torch._C.DisableTorchFunction():  # sizes that are read here are not read by the model's code
        return len({t.shape for t in held if t is not None and t.dim()}) <= 1


@contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards each module trains or not as it did before, whatever the caller's function has left it in."""
    before = {name: module.training for name, module in walk(model)}
    yield
    after = list(walk(model))
    if all(module.training == before.get(name, model.training) for name, module in after):
        return
    if model.training != before[""]:
        model.train(before[""])  # its own `train` may do more than to set modes, and has done so in the function
    set_modes(model, before)


def set_modes(model: nn.Module, modes: Mapping[str, bool]) -> None:
    """Each module trains or not as `modes` says by name, further ones as the model itself; no `train` is run."""
    for name, module in walk(model):
        mode = modes.get(name, modes[""])
        if module.training != mode:
            module.training = mode


@contextmanager
def replaced_forwards(model: nn.Module) -> Iterator[None]:
    """A block that may put functions in the place of the modules' `forward`, each of which leads to its module.

    Without that circle, what is left of a copy of the model is freed at once: Python need not search for it.
    """
    before = [(module.__dict__, module.__dict__.get("forward")) for _, module in walk(model)]
    try:
        yield
    finally:
        for attributes, forward in before:
            if forward is None:
                attributes.pop("forward", None)
            else:
                attributes["forward"] = forward


def watch_forwards(model: nn.Module, stack: list[str]) -> None:
    """Keep in `stack` the qualified names of the modules whose `forward` is running. Call it inside `isolated`, and
    inside `replaced_forwards`.
    """
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


class _Visible(TorchFunctionMode):
    """In the presence of any mode of this kind, PyTorch's attention layers call their parts, in this thread alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention of real tensors appears as its parts: matmul, softmax, matmul. That of meta tensors always does.

    The switches of the fused functions are the whole process's: attention in other threads is slower meanwhile.
    """
    with _RUNS, _Visible(), sdpa_kernel(SDPBackend.MATH):
        yield


def call(model: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = inputs
    return model(*args, **kwargs)


def as_call(example_inputs: Any) -> Inputs:
    """`example_inputs` as positional and keyword arguments."""
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, Mapping):  # such as the BatchEncoding of a tokenizer
        return (), dict(example_inputs)
    return (example_inputs,), {}


def cloned(inputs: Inputs) -> Inputs:
    """Inputs for one run: a forward may write into what it is given."""
    return tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, inputs)


def output_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an output of any form: tensors, containers, dataclasses, objects with attributes."""
    return (t for _, t in named_outputs(value))


def named_outputs(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output, each with its place in it, as code has it: `logits`, `past.layers[0].keys`."""
    if isinstance(value, Tensor):
        yield path.removeprefix("."), value
        return
    for name, part in _parts(value):
        yield from named_outputs(part, path + name)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container or an object holds, each with how it is addressed."""
    if isinstance(value, Mapping):
        yield from ((f".{k}" if str(k).isidentifier() else f"[{k!r}]", v) for k, v in value.items())
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", None)
        yield from ((f".{names[i]}" if names else f"[{i}]", v) for i, v in enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{f.name}", getattr(value, f.name)) for f in fields(value))
    elif (children := tree_leaves(value, is_leaf=lambda v: v is not value)) and children[0] is not value:
        yield from ((f"[{i}]", v) for i, v in enumerate(children))
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
        yield from ((f".{name}", v) for name, v in vars(value).items())
