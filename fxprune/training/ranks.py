"""Ranks: where several processes train one model, the main one decides, and all get its plan and its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from fxprune.errors import FxpruneError

T = TypeVar("T")


def together() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def decided(decide: Callable[[], T], describe: Callable[[Any], str]) -> tuple[T | None, str]:
    """What rank 0 decides, and in all processes what it tells of that.

    Raises:
        FxpruneError: in the other processes, where deciding failed in rank 0, which raises its own error.
    """
    if not together():
        own = decide()
        return own, describe(own)
    if dist.get_rank():
        box: list[Any] = [None]
        dist.broadcast_object_list(box, 0)
        text, failure = box[0]
        if failure:
            raise FxpruneError("the cut failed in the main process", seen=failure)
        return None, text
    try:
        own = decide()
    except BaseException as error:
        dist.broadcast_object_list([("", str(error) or repr(error))], 0)
        raise
    dist.broadcast_object_list([(describe(own), "")], 0)
    return own, describe(own)


def spread(tensors: Iterable[Tensor]) -> None:
    """Give the values of rank 0 to all processes, in place."""
    if together():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def in_all(count: int) -> int:
    """How many of something all processes have: some average the weights in the main one alone."""
    if not together():
        return count
    counts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(counts, count)
    return int(min(counts))
