"""Vectors: the scales, shifts, biases and statistics of a model, all made at once, which takes less time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.plan.plan import Ints


def is_vector(tensor: Tensor) -> bool:
    """Whether it is a vector of parameters, which are drawn anew.

    It may hold a number twice, or be so negative that what follows it is dead.
    """
    parameter = isinstance(tensor, nn.Parameter) and tensor.dim() == 1
    return parameter and tensor.is_floating_point() and len(tensor) > 1


def drawn(vectors: Mapping[str, Tensor], units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers in [0.5, 1.5) for each vector, in its type and where it lies.

    Args:
        vectors: by name.
        units: random numbers in [0, 1) for each of them.
    """
    made = dict[str, Tensor]()
    for alike in _kinds(vectors):
        values = torch.cat([units[name] for name in alike]).to(next(iter(alike.values()))) + 0.5
        made |= _parted(values, alike)
    return made


def masked(vectors: Mapping[str, Tensor], kept: Mapping[str, Ints]) -> dict[str, Tensor]:
    """New vectors that hold zeros where nothing is kept; all of those that `kept` does not name."""
    made = dict[str, Tensor]()
    for alike in _kinds(vectors):
        values = torch.cat(list(alike.values()))
        gone = np.ones(len(values), dtype=bool)
        gone[_places(alike, kept)] = False
        made |= _parted(values.masked_fill_(torch.from_numpy(gone).to(values.device), 0), alike)
    return made


def cut(vectors: Mapping[str, Tensor], kept: Mapping[str, Ints]) -> dict[str, Tensor]:
    """New vectors of what is kept, in that order; all of those that `kept` does not name."""
    made = dict[str, Tensor]()
    for alike in _kinds(vectors):
        values = torch.cat(list(alike.values()))
        places = torch.from_numpy(_places(alike, kept)).to(values.device)
        lengths = {name: len(kept.get(name, vector)) for name, vector in alike.items()}
        made |= dict(zip(alike, values.index_select(0, places).split(list(lengths.values())), strict=True))
    return made


def _kinds(vectors: Mapping[str, Tensor]) -> Iterable[dict[str, Tensor]]:
    """Those of one type in one place, together."""
    kinds = defaultdict[tuple[torch.dtype, torch.device], dict[str, Tensor]](dict)
    for name, vector in vectors.items():
        kinds[vector.dtype, vector.device][name] = vector
    return kinds.values()


def _places(vectors: Mapping[str, Tensor], kept: Mapping[str, Ints]) -> Ints:
    """Where what is kept lies in all vectors, one behind the other."""
    parts, start = list[Ints](), 0
    for name, vector in vectors.items():
        own = kept.get(name)
        parts.append(np.arange(start, start + len(vector)) if own is None else np.asarray(own) + start)
        start += len(vector)
    return np.concatenate(parts)


def _parted(values: Tensor, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(vectors, values.split([len(v) for v in vectors.values()]), strict=True))
