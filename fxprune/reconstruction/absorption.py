"""Settling: BatchNorms whose running statistics are those of the data, while the model computes what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError, check_model
from fxprune.module.batches import batches
from fxprune.module.isolation import isolated, set_training
from fxprune.statistics.moments import merged

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
        model: changed in place. Norms without running statistics, without a scale and shift, that share these with
            another norm, or whose dtype cannot hold what they would need, stay as they are.
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


@dataclass
class _Moments:
    """Of the values that each channel has had: their number, mean, and sum of squared deviations, in float64."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor) -> _Moments:
        """Of a norm's input, of shape (batch, channels, ...)."""
        rows = x.double().transpose(0, 1).flatten(1)
        mean = rows.mean(1)
        return cls(rows.shape[1], mean, (rows - mean[:, None]).square().sum(1))

    def add(self, other: _Moments) -> None:
        """Take in the values of another."""
        step = other.mean - self.mean
        self.count, part, weight = merged(self.count, other.count)
        self.squares = self.squares + other.squares + step.square() * weight
        self.mean = self.mean + step * part


def _norms(model: nn.Module) -> dict[str, Norm]:
    norms = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, Norm) and m.running_mean is not None and m.running_var is not None and m.affine
    }
    users = Counter(id(t) for m in norms.values() for t in _tensors(m))
    return {name: m for name, m in norms.items() if all(users[id(t)] == 1 for t in _tensors(m))}


def _tensors(norm: Norm) -> tuple[Any, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def _measured(model: nn.Module, norms: dict[str, Norm], data: Iterable[Any]) -> dict[str, _Moments]:
    """What the norms that ran read, in evaluation mode."""
    found: dict[str, _Moments] = {}

    def watch(name: str) -> Any:
        def look(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            new = _Moments.of(inputs[0] if inputs else named["input"])
            if name in found:
                found[name].add(new)
            else:
                found[name] = new

        return look

    with isolated(model, keep_buffers=True) as work:
        set_training(work, False)
        for name in norms:
            work.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True)
        for batch in batches(work, data):
            batch.run(work)
    return found


def _absorb(norm: Norm, seen: _Moments) -> bool:
    """Settle a norm; not where its dtype cannot hold what it would need, as float16 a large variance."""
    mean, variance = (t.double() for t in (norm.running_mean, norm.running_var))  # type: ignore[union-attr]
    own, scale = seen.squares / seen.count, norm.weight.double()
    deviation = (variance + norm.eps).sqrt()
    bias = norm.bias.double() + scale * (seen.mean - mean) / deviation
    new = scale * (own + norm.eps).sqrt() / deviation, bias, seen.mean, own
    held = [value.to(old.dtype) for old, value in zip(_tensors(norm), new, strict=True)]
    if not all(bool(torch.isfinite(value).all()) for value in held):
        return False
    for old, value in zip(_tensors(norm), held, strict=True):
        old.copy_(value)
    return True
