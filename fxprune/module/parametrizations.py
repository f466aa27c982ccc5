"""Parametrizations: weights that modules of `torch.nn.utils.parametrize` compute before each forward."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

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
