"""Re-calibration: the running statistics of BatchNorm, estimated anew on a few batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fxprune.errors import InputError, check_model
from fxprune.module.batches import batches
from fxprune.module.isolation import isolated, set_training

_KEYS = ("running_mean", "running_var", "num_batches_tracked")


def recalibrate_batchnorm(model: nn.Module, data: Iterable[Any]) -> int:
    """Estimate the running means and variances of all BatchNorms anew, in place.

    Pruning changes the distributions that a BatchNorm sees, while its running statistics stay those of the original.
    Each becomes the mean over the batches of what the batches have; all else runs in evaluation mode. Nothing but these
    statistics changes. Source: Li et al., EagleEye, 2020.

    Args:
        model: usually a pruned one. Modes, weights, hooks and random states stay as they are.
        data: batches of training inputs, or (inputs, targets) as data loaders give them; labels are not read. A few
            hundred images do. Batches count equally, whatever their size.

    Returns:
        The number of BatchNorms that ran; 0 where there is nothing to do. Others (of branches that only training
        uses) stay as they are.

    Raises:
        InputError: unusable data, a batch with one value per channel, or statistics that are not finite. The model then
            is as it was.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.BatchNorm2d(1))
    >>> _ = torch.nn.init.constant_(net[0].weight, 2.0)
    >>> fxprune.recalibrate_batchnorm(net, [torch.tensor([[[[1.0]]], [[[3.0]]]])])
    1
    >>> net[1].running_mean, net[1].running_var
    (tensor([4.]), tensor([8.]))
    """
    check_model("the model", model)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and _tracks(m)}
    found = _estimate(model, norms, data)
    with torch.no_grad():
        for name, statistics in found.items():
            for key, value in statistics.items():
                getattr(norms[name], key).copy_(value)
    return len(found)


def _tracks(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    return norm.track_running_stats and norm.running_mean is not None


def _estimate(
    model: nn.Module, norms: dict[str, nn.modules.batchnorm._BatchNorm], data: Iterable[Any]
) -> dict[str, dict[str, torch.Tensor]]:
    """The new statistics of the modules that ran; the model is left alone."""
    ran: set[str] = set()
    with isolated(model, keep_buffers=True) as work:
        set_training(work, False)
        own = {name: [key for key in _KEYS if getattr(m, key) is not None] for name, m in norms.items()}
        norms = {name: work.get_submodule(name) for name in norms}  # type: ignore[misc]
        for name, m in norms.items():
            if m.num_batches_tracked is None:  # PyTorch averages by it
                m.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=m.running_mean.device)  # type: ignore[union-attr]
            m.reset_running_stats()
            m.__dict__["momentum"], m.__dict__["training"] = None, True
            m.register_forward_pre_hook(lambda _module, _inputs, name=name: ran.add(name))
        for batch in batches(work, data):
            batch.run(work)
        found = {name: {key: getattr(m, key) for key in own[name]} for name, m in norms.items() if name in ran}
    for name, statistics in found.items():
        if not all(bool(torch.isfinite(v).all()) for v in statistics.values()):
            raise InputError(
                "running statistics are not finite",
                where=name,
                remedy="look for NaN or infinite numbers in the data and the weights",
            )
    return found
