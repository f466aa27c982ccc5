"""Kept channels as a caller gives them: indices, or a mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fxprune.analysis.grouping.components import Group
from fxprune.errors import InputError
from fxprune.plan.plan import Ints


def kept_indices(group: Group, given: npt.ArrayLike) -> Ints:
    """Kept channels, given as indices or as a mask."""
    remedy = f"give indices in [0, {group.size}), or a mask of {group.size} booleans"
    try:
        channels = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors on a GPU, or with a gradient
        what, seen = "kept channels are not a list of indices", str(error).partition("\n")[0][:160]
        raise InputError(what, where=group.name, seen=seen, remedy=remedy) from error
    if channels.dtype == bool and channels.shape == (group.size,):
        return np.flatnonzero(channels)
    if channels.ndim != 1 or (len(channels) and channels.dtype.kind not in "iu"):
        seen = f"{channels.dtype} of shape {channels.shape}"
        raise InputError("kept channels are not a list of indices", where=group.name, seen=seen, remedy=remedy)
    return channels.astype(np.int64)
