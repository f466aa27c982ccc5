"""Observe a model's convolutions and linear layers while it runs on data: inputs, kernels and outputs.

What is watched are ATen calls, not modules: functional convolutions and custom parameters are seen like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fxprune.borrow import Inputs, as_call, borrowed, call, plain_attention, set_training, tensor_names
from fxprune.errors import InputError
from fxprune.trace import Graph

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Contraction:
    """One call of a convolution or linear layer.

    Attributes:
        name: qualified name of the weight.
        x: input, of shape (batch, channels, *positions); (rows, features) for linear layers.
        weight: as the model stores it.
        bias: or None.
        output: of shape (batch, channels, *positions); (rows, features) for linear layers.
        options: stride, padding, dilation, transposed, output padding and groups; None for linear layers.
    """

    name: str
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    options: tuple[Any, ...] | None

    def kernels(self) -> Tensor:
        """The weights that make each output channel, of shape (groups, channels per group, n)."""
        if self.options is None:
            return self.weight.detach()[None]
        groups = self.options[5]
        w = self.weight.detach()
        if self.options[3]:
            w = w.unflatten(0, (groups, -1)).transpose(1, 2)
            return w.flatten(2)
        return w.unflatten(0, (groups, -1)).flatten(2)

    def box(self, power: int) -> Tensor:
        """Σ xᵖ over the patch under each kernel position, of shape (batch, groups, *positions)."""
        x = self.x if power == 1 else self.x**power
        if self.options is None:
            return x.sum(-1, keepdim=True)
        groups = self.options[5]
        per_group = x.unflatten(1, (groups, -1)).sum(2)
        ones = torch.ones(groups, 1, *self.weight.shape[2:], dtype=x.dtype, device=x.device)
        result: Tensor = aten.convolution.default(per_group, ones, None, *self.options)
        return result


class _Observer(TorchDispatchMode):
    def __init__(self, names: dict[int, str], wanted: set[str], add: Callable[[Contraction], None]) -> None:
        super().__init__()
        self._names, self._wanted, self._add = names, wanted, add
        self._turned: dict[int, tuple[Tensor, str, Tensor]] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op is aten.t.default:
            name = self._names.get(id(args[0]))
            if name in self._wanted:
                self._turned[id(result)] = (result, name, args[0])  # type: ignore[assignment]
        elif op is aten.convolution.default:
            name = self._names.get(id(args[1]))
            if name in self._wanted:
                x, w, bias, *options = args
                self._add(Contraction(name, x, w, bias, result, tuple(options)))  # type: ignore[arg-type]
        elif op in (aten.addmm.default, aten.mm.default):
            bias, x, w = args if op is aten.addmm.default else (None, *args)
            known = self._turned.get(id(w))
            if known is not None and known[0] is w:
                self._add(Contraction(known[1], x, known[2], bias, result, None))
        return result


def observe(
    model: nn.Module,
    graph: Graph,
    data: Iterable[Any] | None,
    wanted: set[str],
    add: Callable[[Contraction], None],
    seed: int = 0,
) -> int:
    """Run `model` in evaluation mode and hand every call of the wanted weights to `add`.

    Args:
        model: left as it is.
        graph: tells the inputs' shapes when there is no data.
        data: batches: inputs as for `fxprune.trace`, or (inputs, targets) as data loaders give them. None: one batch of
            standard normal inputs, seeded.
        wanted: names of weights.
        add: receives each call; the observer itself is off while it runs.
        seed: of random inputs.

    Returns:
        The number of samples seen.

    Raises:
        InputError: `data` held no batch.
    """
    samples = 0
    with borrowed(model, keep_buffers=True), plain_attention():
        set_training(model, False)
        device = next((t.device for t in model.parameters()), torch.device("cpu"))
        observer = _Observer(tensor_names(model), wanted, add)
        for inputs in _batches(graph, data, seed):
            moved = tree_map(lambda t: t.to(device, copy=True) if isinstance(t, Tensor) else t, inputs)
            with observer:
                call(model, moved)
            samples += _batch_size(moved)
    if not samples:
        raise InputError("the data holds no batch", remedy="check the loader; iterators can be used up only once")
    return samples


def _batches(graph: Graph, data: Iterable[Any] | None, seed: int) -> Iterator[Inputs]:
    if data is not None:
        yield from (as_call(b[0] if isinstance(b, list | tuple) else b) for b in data)
        return
    generator = torch.Generator().manual_seed(seed)

    def noise(t: Any) -> Any:
        floating = isinstance(t, Tensor) and t.is_floating_point()
        return torch.randn(t.shape, generator=generator, dtype=t.dtype) if floating else t

    yield tree_map(noise, graph.inputs)


def _batch_size(inputs: Inputs) -> int:
    first = next(t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, Tensor))
    return int(first.shape[0]) if first.dim() else 1
