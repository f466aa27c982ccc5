"""Reading: run a model whose parameters and buffers are stand-ins, and give each call the numbers that it reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from fxprune.module.attributes import mend
from fxprune.module.isolation import (
    Inputs,
    call,
    cloned,
    has_drawn_since,
    isolated,
    output_tensors,
    seed_random_states,
    set_training,
)
from fxprune.module.tensors import FACTS, walk
from fxprune.rewriting.copying import copied
from fxprune.verification.compare import WHOLE, Outputs, is_narrow
from fxprune.verification.convolution import conv2d
from fxprune.verification.inputs import tensors_in
from fxprune.verification.numbers import Numbers, Precision, lifted
from fxprune.verification.products import selected
from fxprune.verification.randomise import is_leaf, outlives_the_call
from fxprune.verification.signals import live_bias, statistics

_FASTER: dict[Any, Any] = {torch.conv2d: conv2d}


class Twin:
    """A model that is run on other numbers than its own.

    Attributes:
        numbers: of all its tensors.
        which: "whole", "masked" or "pruned".
        read: makes the numbers of a tensor by its name.
        model: whose code runs.
        names: what each tensor or stand-in is called, by its id.
        held: tensors that hold their numbers themselves.
        lazy: whether numbers are made for each call.
        has_drawn: whether the last run drew random numbers; not known of lazy ones.
    """

    def __init__(self, model: nn.Module, numbers: Numbers, which: str, *, lazy: bool) -> None:
        """Lazy: numbers are made for each call, and none are kept; `model` itself runs unless it must be cut first."""
        self.numbers, self.which = numbers, which
        self.read: Callable[[str], Tensor] = getattr(numbers, which)
        self.held: dict[str, Tensor] = {}
        self.lazy, self.has_drawn = lazy, False
        if lazy and (which != "pruned" or numbers.small is not None):
            small = numbers.small if which == "pruned" else None
            self.model = model if small is None else small
            tensors = numbers.tensors if small is None else numbers.made
            self._stand_ins = {id(t): self._stand_in(name, t) for name, t in tensors.items()}
            own = {id(t): name for name, t in tensors.items()}
        else:
            memo: dict[int, Any] = {id(t): self._stand_in(name, t) for name, t in numbers.tensors.items()}
            self._stand_ins, own = {}, {id(memo[id(t)]): name for name, t in numbers.tensors.items()}
            self.model = copied(model, memo)
            if which == "pruned":
                self.model = mend(self.model, numbers.plan.attributes)
        self.names = own | {id(self._stand_ins[key]): name for key, name in own.items() if key in self._stand_ins}

    def _stand_in(self, name: str, tensor: Tensor) -> Tensor:
        if self.lazy and tensor.is_floating_point():
            double = self.numbers.precision is Precision.DOUBLE
            new = _nan(torch.float64 if double else tensor.dtype, tensor.device).expand_as(tensor)
            if self.which == "pruned" and self.numbers.small is None:
                for dim, kept in self.numbers.cuts.get(name, {}).items():
                    new = new.narrow(dim, 0, len(kept))
        elif tensor.dim() == 0 and not (tensor.is_floating_point() or tensor.is_complex()):  # a count of batches
            new = self.held[name] = tensor.detach().clone()
        else:
            new = self.held[name] = self.read(name)
        return nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new

    def run(self, inputs: Inputs, seed: int, *, training: bool = False) -> Outputs:
        """The results of the parametrised modules in execution order, and the outputs, of a run with that seed.

        In training mode, BatchNorm stays in evaluation mode and dropout is off.
        """
        found: Outputs = []

        batches = {t.shape[0] for t in tensors_in(inputs) if t.dim()}
        batch = batches.pop() if len(batches) == 1 else None

        def keep(name: str) -> Any:
            def note(_module: nn.Module, _args: Any, out: Any) -> None:
                with torch._C.DisableTorchFunction():  # looking at a result is no call of the model's
                    made = [out] if isinstance(out, Tensor) else output_tensors(out)
                    found.extend((name, _one_of(t, batch)) for t in made if outlives_the_call(t))

            return note

        kind = MaskedReading if self.which == "masked" else Reading
        with isolated(self.model, replaced=self._stand_ins) as model, sdpa_kernel(SDPBackend.MATH):
            set_training(model, training)
            for name, module in walk(model):
                if is_leaf(module):
                    module._forward_hooks[id(found)] = keep(name)  # of a copy
                if training and isinstance(module, nn.modules.dropout._DropoutNd):
                    module.p = 0.0
            seed_random_states(seed)
            if self.which == "masked":
                self.numbers.products.forget()
            with kind(self):
                output = call(model, cloned(inputs))
            self.has_drawn = not self.lazy and has_drawn_since(seed)
        return [*found, *((WHOLE, t) for t in output_tensors(output))]


def _one_of(maps: Tensor, batch: int | None) -> Tensor:
    """The first of a batch of maps, which shows as much as all of them; other results as they are."""
    return maps[:1].clone() if maps.dim() > 3 and maps.shape[0] == batch else maps


@cache
def _nan(dtype: torch.dtype, device: torch.device) -> Tensor:
    """A read that goes past `Reading` does not go unseen."""
    return torch.full((), torch.nan, dtype=dtype, device=device)


class Reading(TorchFunctionMode):
    """Puts numbers in the place of stand-ins among a call's arguments; in float64, keeps results in float64.

    Raises:
        TypeError: a result is narrower than float32, where that is to be the precision.
    """

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self.names, self.numbers = twin.names, twin.numbers
        self._twin, self._precision = twin, twin.numbers.precision
        self._written: dict[str, Tensor] = {}
        self._vectors = twin.numbers.vectors(twin.which) if twin.lazy else {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTS:
            return func(*args, **(kwargs or {}))
        result = self.called(func, args, kwargs or {})
        if self._precision is Precision.DOUBLE:
            return self._kept_double(result, args)
        if self._precision is Precision.SINGLE and is_narrow(result):
            raise TypeError(f"{func} gives {result.dtype}")
        return result

    def called(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of the call on numbers; what it writes to them is read by later calls."""
        if func in _LAYERS and len(args) >= _POSITIONAL and outlives_the_call(args[0]):
            return self._layer(func, self.number(args[0]), *args[1:], **kwargs)
        if func is F.batch_norm and len(args) >= _POSITIONAL and outlives_the_call(args[0]):
            return self._batch_norm(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:  # its products are layers like others
                return _attention(*args, **kwargs)
        return self._called(func, args, kwargs)

    def _called(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not any(id(a) in self.names or isinstance(a, list | tuple) for a in (*args, *kwargs.values())):
            return _FASTER.get(func, func)(*args, **kwargs)
        numbers = [self.number(a) for a in args]
        before = [n._version if n is not a and isinstance(n, Tensor) else 0 for n, a in zip(numbers, args, strict=True)]
        result = _FASTER.get(func, func)(*numbers, **{k: self.number(v) for k, v in kwargs.items()})
        for number, argument, version in zip(numbers, args, before, strict=True):
            if number is not argument and isinstance(number, Tensor) and number._version > version:
                self._written[self.names[id(argument)]] = number
        return result

    def _batch_norm(
        self,
        x: Tensor,
        mean: Any,
        variance: Any = None,
        weight: Any = None,
        bias: Any = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        given = [x, mean, variance, weight, bias]
        if training:  # it writes to the statistics
            return self._called(F.batch_norm, [*given, True, momentum, eps], {})
        given = [self.number(value) for value in given]
        return F.batch_norm(*given[:5], training=False, momentum=momentum, eps=eps)

    def _layer(
        self, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **options: Any
    ) -> Tensor:
        return self._biased(self._product(func, x, weight, *how, **options), bias, _channel(func, weight))

    def _product(self, func: Any, x: Tensor, weight: Tensor, *how: Any, **options: Any) -> Tensor:
        name = self.names.get(id(weight))
        own = name in self._twin.held or name in self._written  # which the run may have changed
        if name is not None and self._twin.which == "pruned" and not own:
            known = self.numbers.products.known(name, x, (how, options))
            if known is not None:
                return known
        return _FASTER.get(func, func)(x, self.number(weight), None, *how, **options)  # type: ignore[no-any-return]

    def _biased(self, out: Tensor, bias: Tensor | None, channel: int) -> Tensor:
        return out if bias is None else out + self.number(bias).view(-1, *[1] * -(channel + 1))

    def number(self, value: Any) -> Any:
        """The numbers of a stand-in, or of those in a list; other values as they are."""
        if isinstance(value, Tensor):
            name = self.names.get(id(value))
            return value if name is None else self._number_of(name, value)
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            return type(value)([self.number(v) for v in value]) if type(value) in (list, tuple) else value
        return value

    def _number_of(self, name: str, stand_in: Tensor) -> Tensor:
        if name in self._twin.held:
            return stand_in  # it holds its numbers itself
        known = self._written.get(name)
        if known is None:
            known = self._vectors.get(name)
        if known is not None:
            return known
        with torch._C.DisableTorchFunction():  # modes below this one have no say in the numbers, and cost time
            return self._twin.read(name)

    def set(self, name: str, tensor: Tensor) -> None:
        """Other numbers for the full-size model."""
        self.numbers.set(name, tensor)
        self._vectors.pop(name, None)
        if name in self._twin.held:
            self._twin.held[name].copy_(self._twin.read(name))

    def _kept_double(self, result: Any, args: Any) -> Any:
        if isinstance(result, Tensor):
            return result if any(result is a for a in args) else _double(result)
        return tree_map(_double, result) if isinstance(result, tuple | list) else result


def _double(value: Any) -> Any:
    narrow = isinstance(value, Tensor) and value.dtype not in (torch.float64, torch.complex128)
    return lifted(value) if narrow else value


class MaskedReading(Reading):
    """Runs the masked model: leaves out products with zeros, and sets statistics and biases from the signal.

    What was read before by itself is not set any more: the run would have had two kinds of numbers of it.
    """

    def __init__(self, twin: Twin) -> None:
        super().__init__(twin)
        self._read = set[str]()

    def _number_of(self, name: str, stand_in: Tensor) -> Tensor:
        self._read.add(name)
        return super()._number_of(name, stand_in)

    def _may_set(self, *names: str) -> bool:
        return self.numbers.random and not any(self.numbers.is_set(n) or n in self._read for n in names)

    def _product(self, func: Any, x: Tensor, weight: Tensor, *how: Any, **options: Any) -> Tensor:
        name, groups = self.names.get(id(weight)), options.get("groups", how[3] if len(how) > 3 else 1)
        known = None if name is None or func in _TRANSPOSED else self.numbers.read_by(name, groups)
        channel = _channel(func, weight)
        if name is None or known is None or x.shape[channel] != weight.shape[1] * groups:  # PyTorch's to refuse
            return super()._product(func, x, weight, *how, **options)
        read, left = known
        x = selected(x, read, channel)
        if left != groups:
            how, options = how[:3], {**options, "groups": left}
        product = _FASTER.get(func, func)
        parts = [product(x, block, None, *how, **options) for block in self.numbers.blocks(name)]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, channel)
        self.numbers.note_product(name, x, out, (how, options), channel=channel, groups=left)
        rows = self.numbers.kept(name, 0)
        if rows is None:
            return out  # type: ignore[no-any-return]
        shape = list(out.shape)
        shape[channel] = self.numbers.tensors[name].shape[0]
        return out.new_zeros(shape).index_copy_(channel, rows, out)  # type: ignore[no-any-return]

    def _biased(self, out: Tensor, bias: Tensor | None, channel: int) -> Tensor:
        """With a bias that is set at its first use: every channel has both signs, and none is mostly negative."""
        name = self.names.get(id(bias))
        if bias is None or name is None or out.is_complex():
            return super()._biased(out, bias, channel)
        if self._may_set(name) and bias.dim() == 1:
            factor = self.numbers.unit(name).to(out)
            self.set(name, live_bias(out, channel, factor + 0.3).nan_to_num(0, 0, 0))  # an empty batch has no mean
        return super()._biased(out, bias, channel)

    def _batch_norm(self, x: Tensor, mean: Any, variance: Any = None, *args: Any, **kwargs: Any) -> Any:
        """With the signal's own statistics, but for random factors; masked channels have some as well."""
        first, second = (self.names.get(id(t)) for t in (mean, variance))
        if first is None or second is None:
            return super()._batch_norm(x, mean, variance, *args, **kwargs)
        if self._may_set(first, second):
            moments = statistics(x, *map(self.numbers.unit, (first, second)))
            for tensor, numbers in zip((first, second), moments, strict=True):
                self.set(tensor, numbers)
        # Nothing needs a variance of zero, and dividing by one tells no channel from another.
        return super()._batch_norm(x, mean, self.numbers.whole(second), *args, **kwargs)


# The function as it is where no mode watches; its calls are watched.
_attention = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)

_POSITIONAL = 2  # a layer's input and weight; PyTorch's own modules give them so
_TRANSPOSED = frozenset([torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d])
_LAYERS = _TRANSPOSED | {torch.conv1d, torch.conv2d, torch.conv3d, F.linear}


def _channel(func: Any, weight: Tensor) -> int:
    """The dim of a layer's input and result that holds the channels, counted from the last."""
    return -1 if func is F.linear else 1 - weight.dim()
