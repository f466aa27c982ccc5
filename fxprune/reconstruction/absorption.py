"""Settling: BatchNorms whose running statistics are those of the data, while the model computes what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fxprune.errors import InputError, check_model
from fxprune.module.batches import batches
from fxprune.module.isolation import isolated, set_training
from fxprune.module.tensors import FACTS
from fxprune.statistics.moments import Moments

Norm = nn.modules.batchnorm._BatchNorm


def absorb_batchnorm(model: nn.Module, data: Iterable[Any]) -> int:
    """Make each BatchNorm's running mean and variance those of its inputs, and its scale and shift make up for it.

    With m, v the running statistics as they are, and m', v' the mean and variance of the inputs over the data,

        γ' = γ √((v' + ε)/(v + ε)),   β' = β + γ (m' - m)/√(v + ε)

    leave every output in evaluation mode as it is. Do so between `reconstruct` and fine-tuning: a reconstructed layer
    may give another mean and spread than the running statistics say, on purpose, where it repairs the error of the
    shortcut that it is added to. Training mode normalises by the batch, which takes that away; after settling, both
    modes give the same, up to the difference between batches and the data.
    `recalibrate_batchnorm`, in contrast, keeps scale and shift and changes the outputs. The formula is fxprune's own.

    Args:
        model: changed in place. Norms without running statistics, without a scale and shift, or whose dtype cannot
            hold what they would need, stay as they are; so do those whose tensors the code also reads otherwise (two
            norms share them, a subclass scales by 1 + γ).
        data: batches such as training will see; labels are not read. A few hundred images do.

    Returns:
        The number of norms that were settled.

    Raises:
        InputError: unusable data, or statistics that are not finite. The model is then as it was.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(1)).eval()
    >>> x = torch.tensor([[3.0], [5.0]])
    >>> before = net(x)
    >>> fxprune.absorb_batchnorm(net, [x])
    1
    >>> torch.allclose(net(x), before), torch.allclose(net.train()(x), before, atol=1e-4)
    (True, True)
    """
    check_model("the model", model)
    norms = _norms(model)
    found = _measured(model, norms, data)
    for name, seen in found.items():
        if not bool(torch.isfinite(seen.mean).all() and torch.isfinite(seen.squares).all()):
            remedy = "look for NaN or infinite numbers in the data and the weights"
            raise InputError("the inputs of a batch norm are not finite", where=name, remedy=remedy)
    with torch.no_grad():
        return sum(_absorb(norms[name], seen) for name, seen in found.items())


def _norms(model: nn.Module) -> dict[str, Norm]:
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, Norm) and m.running_mean is not None and m.running_var is not None and m.affine
    }


def _tensors(norm: Norm) -> tuple[Any, ...]:
    return norm.running_mean, norm.running_var, norm.weight, norm.bias


def _measured(model: nn.Module, norms: dict[str, Norm], data: Iterable[Any]) -> dict[str, Moments]:
    """What the norms that ran read, in evaluation mode; without those whose tensors mean something else as well."""
    found: dict[str, Moments] = {}

    def note(name: str, x: Tensor) -> None:
        found.setdefault(name, Moments()).add(x.transpose(0, 1).flatten(1).T)

    with isolated(model, keep_buffers=True) as work:
        set_training(work, False)
        with _Uses({name: work.get_submodule(name) for name in norms}, note) as uses:  # type: ignore[misc]
            for batch in batches(work, data):
                batch.run(work)
    return {name: seen for name, seen in found.items() if name not in uses.otherwise}


class _Uses(TorchFunctionMode):
    """Watches what code does with the tensors of norms: to normalise by them as PyTorch's own norms do, or otherwise.

    Attributes:
        otherwise: norms whose tensors a call has read in another way.
    """

    def __init__(self, norms: dict[str, Norm], note: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self._norms, self._note, self.otherwise = norms, note, set[str]()
        self._owners: dict[int, set[str]] = {}
        for name, norm in norms.items():
            for t in _tensors(norm):
                self._owners.setdefault(id(t), set()).add(name)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in FACTS:
            given = args[:1] if func in _LENT else (args, kwargs)
            read = [owners for t in tree_leaves(given) if (owners := self._owners.get(id(t)))]
            if read:
                first, *others = set().union(*read)
                own = func is F.batch_norm and not others and self._normalises(first, args, kwargs)
                self.otherwise |= set() if own else {first, *others}
        return func(*args, **kwargs)

    def _normalises(self, name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether a call normalises by all of a norm's tensors and nothing else; its input is then noted."""
        call = _CALL.bind(*args, **kwargs)
        call.apply_defaults()
        x, *given, training, _, eps = call.arguments.values()
        norm = self._norms[name]
        own = all(a is b for a, b in zip(given, _tensors(norm), strict=True)) and not training and eps == norm.eps
        if own:
            self._note(name, x)
        return own


_CALL = signature(F.batch_norm)
_LENT = frozenset([Tensor.type_as, Tensor.to])
"""These ask another tensor for its type and place."""


def _absorb(norm: Norm, seen: Moments) -> bool:
    """Settle a norm; not where its dtype cannot hold what it would need, as float16 a large variance.

    What scale and shift make up for are the new statistics as they are held, rounded.
    """
    old = _tensors(norm)
    mean, variance, scale, shift = (t.double() for t in old)
    held = [seen.mean.to(old[0].dtype), (seen.squares / seen.count).to(old[1].dtype)]
    deviation, new = (variance + norm.eps).sqrt(), (held[1].double() + norm.eps).sqrt()
    held += [(scale * new / deviation).to(old[2].dtype)]
    held += [(shift + scale * (held[0].double() - mean) / deviation).to(old[3].dtype)]
    if not all(bool(torch.isfinite(value).all()) for value in held):
        return False
    for tensor, value in zip(old, held, strict=True):
        tensor.copy_(value)
    return True
