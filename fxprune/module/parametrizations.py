"""Parametrizations: weights that modules of `torch.nn.utils.parametrize` compute before each forward."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

from fxprune.module.tensors import walk

_SEPARATOR = "parametrizations."
REMEDY = "torch.nn.utils.parametrize.remove_parametrizations"


def computed_weights(model: nn.Module) -> dict[str, str]:
    """The weight that each module which takes part in a parametrization computes: {path of the module: name}.

    >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    >>> computed_weights(nn.Sequential(nn.ReLU(), layer))
    {'1.parametrizations.weight': '1.weight', '1.parametrizations.weight.0': '1.weight'}
    """
    lists = ((path, m) for path, m in walk(model) if isinstance(m, ParametrizationList))
    return {
        f"{path}.{inner}".rstrip("."): "".join(path.rpartition(_SEPARATOR)[::2])
        for path, parametrization in lists
        for inner, _ in walk(parametrization)
    }


def directions(model: nn.Module) -> dict[str, str]:
    """Of weights that are a length times a direction, the names of both: {direction: length}.

    A direction of zeros has no norm to be divided by; a length of zero makes the weight zero.

    >>> directions(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))))
    {'0.parametrizations.weight.original1': '0.parametrizations.weight.original0'}
    """
    found: dict[str, str] = {}
    for path, module in walk(model):
        if isinstance(module, ParametrizationList) and isinstance(module[0], _WeightNorm):
            found[f"{path}.original1"] = f"{path}.original0"
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                prefix = f"{path}.{hook.name}".lstrip(".")
                found[f"{prefix}_v"] = f"{prefix}_g"
    return found
