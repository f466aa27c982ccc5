"""Observe a model's convolutions and linear layers while it runs on data: inputs, kernels and outputs.

What is watched are ATen calls, not modules: functional convolutions and custom parameters are seen like any other. Who
observes sees contractions and needs no names of ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from fxprune.analysis.ops.contraction import CONVOLUTION
from fxprune.analysis.ops.layout import turns
from fxprune.analysis.ops.spec import Move, OpSpec
from fxprune.analysis.ops.table import spec_of
from fxprune.errors import InputError
from fxprune.module.autocast import without_autocast
from fxprune.module.batches import Batch, batches, noise
from fxprune.module.composite_calls import is_composite
from fxprune.module.dispatch import DispatchMode
from fxprune.module.isolation import isolated, plain_attention, set_training
from fxprune.module.tensors import tensor_names
from fxprune.module.written_tensors import unwatched
from fxprune.tracing.trace import Graph


@dataclass(frozen=True, eq=False)
class Contraction:
    """One call of a convolution or linear layer.

    Attributes:
        name: qualified name of the weight.
        x: input, of shape (batch, channels, *positions); (rows, features) for linear layers.
        weight: a convolution's as the model stores it; a linear layer's of shape (features out, features in).
        bias: of shape (channels out,), or None.
        output: of shape (batch, channels, *positions); (rows, features) for linear layers.
        options: stride, padding, dilation, transposed, output padding and groups; None for linear layers.
        dim: the dim of the stored weight that makes the output channels.
    """

    name: str
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    options: tuple[Any, ...] | None
    dim: int = 0

    @property
    def groups(self) -> int:
        """Number of convolution groups; 1 for linear layers."""
        return 1 if self.options is None else int(self.options[5])

    @property
    def form(self) -> tuple[bool, bool, int]:
        """What of the weight makes outputs; calls of one weight may differ in that, as in tied autoencoders."""
        return self.options is None, self.options is not None and bool(self.options[3]), self.dim

    @property
    def rows(self) -> int:
        """Number of output positions, over all images of the batch."""
        return self.output.numel() // max(1, self.output.shape[1])

    def kernels(self) -> Tensor:
        """The weights that make each output channel, of shape (groups, channels per group, n)."""
        w = self.weight.detach()
        if self.options is None:
            return w[None]
        w = w.unflatten(0, (self.groups, -1))
        return w.transpose(1, 2).flatten(2) if self.options[3] else w.flatten(2)

    def light(self) -> Contraction:
        """The call without its activations, of which only the shapes stay."""
        x, output = (t.new_empty(()).expand(t.shape) for t in (self.x, self.output))
        return replace(self, x=x, output=output)

    def respond(self, kernels: Tensor) -> Tensor:
        """The output, without bias, of other kernels, of the shape that `kernels()` gives."""
        if self.options is None:
            return self.x @ kernels[0].T
        if self.options[3]:
            inner = self.weight.shape[0] // self.groups
            kernels = kernels.unflatten(2, (inner, -1)).transpose(1, 2)
        result: Tensor = CONVOLUTION(self.x, kernels.reshape(self.weight.shape), None, *self.options)
        return result


class _Observer(DispatchMode):
    def __init__(self, names: dict[int, str], wanted: set[str], add: Callable[[Contraction], None]) -> None:
        super().__init__()
        self._names, self._wanted, self._add = names, wanted, add
        self._turned: dict[int, tuple[Tensor, str, bool]] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_composite(op):
            with self:
                return op.decompose(*args, **(kwargs or {}))
        result = op(*args, **(kwargs or {}))
        spec = spec_of(op)
        if op is CONVOLUTION:
            self._convolution(result, *args)
        elif spec and spec.move is Move.TURN:
            name, turned = self._weight(args[0])
            if name in self._wanted and turns(op._opname, args, result.shape):
                self._turned[id(result)] = (result, name, not turned)  # the transpose of a tied weight turns it back
        elif spec and spec.layers and not kwargs:
            self._product(result, spec, args)
        return result

    def _convolution(self, y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, *options: Any) -> None:
        name = self._names.get(id(w))
        if name in self._wanted:
            depthwise = options[5] == w.shape[0] > 1
            self._tell(Contraction(name, x, w, bias, y, options, int(options[3] and not depthwise)))  # type: ignore[arg-type]

    def _product(self, y: Tensor, spec: OpSpec, args: Any) -> None:
        for layer in spec.layers(args, y, lambda w: self._weight(w)[0] in self._wanted) if spec.layers else ():
            name, turned = self._weight(args[layer.argument])
            dim = 1 - layer.producer if turned else layer.producer
            self._tell(Contraction(name, layer.x, layer.w, layer.bias, layer.y, None, dim))  # type: ignore[arg-type]

    def _tell(self, seen: Contraction) -> None:
        with unwatched():  # the statistics of a call are thousands of ops, which write to nothing of the model
            self._add(seen)

    def _weight(self, tensor: Tensor) -> tuple[str | None, bool]:
        """The name of the weight that `tensor` is, and whether it is the weight's transpose."""
        known = self._turned.get(id(tensor))
        if known is not None and known[0] is tensor:
            return known[1:]
        return self._names.get(id(tensor)), False


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
        graph: gives the shapes of the inputs when there is no data.
        data: batches: inputs as for `fxprune.trace`, or (inputs, targets) as data loaders give them. None: one batch of
            standard normal inputs, seeded.
        wanted: names of weights.
        add: receives each call; no mode sees what it computes.
        seed: of random inputs.

    Returns:
        The number of samples seen.

    Raises:
        InputError: `data` holds no batch, or the model fails on one.
    """
    samples = 0
    with observing(model, wanted, add) as run:
        for batch in batches(model, noise(graph.inputs, seed) if data is None else data):
            run(batch)
            samples += batch.size
    return samples


@dataclass(frozen=True, eq=False)
class Observed:
    """A copy of a model that runs under an observer.

    Attributes:
        model: the copy, over the same parameters and with buffers of its own.
    """

    model: nn.Module
    observer: _Observer

    def __call__(self, batch: Batch) -> Any:
        """The model's output on a batch, without autocast; its calls are handed on.

        Raises:
            InputError: the model fails, perhaps because it casts what autocast would, and by itself.
        """
        with without_autocast() as entered:
            try:
                with self.observer:
                    return batch.run(self.model)
            except InputError as error:
                failure = error
        if entered and _runs(batch, self.model):
            raise InputError(
                "the model's forward fails without the autocast that it enters, in which layers cannot be observed",
                where=batch.place,
                seen=f"torch.autocast(..., {entered[0]}), and {failure.seen}",
                remedy="leave all casts in it to autocast: x, not x.to(torch.bfloat16); or prune without data",
            ) from failure
        raise failure


def _runs(batch: Batch, model: nn.Module) -> bool:
    try:
        batch.run(model)
    except InputError:
        return False
    return True


@contextmanager
def observing(model: nn.Module, wanted: set[str], add: Callable[[Contraction], None]) -> Iterator[Observed]:
    """Inside the block, what is given runs `model` in evaluation mode on a batch and hands the calls to `add`."""
    with isolated(model, keep_buffers=True) as work, plain_attention():
        set_training(work, False)
        yield Observed(work, _Observer(tensor_names(work), wanted, add))
