"""A default type of new floating-point tensors for one thread; `torch.set_default_dtype` is the whole process's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Their results have the type that the code asks for.
_EXPLICIT = frozenset([Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.type, Tensor.view])


class DefaultDtype(TorchFunctionMode):
    """Inside the block, floating-point tensors that are made from none are of this type.

    So are those of `torch.ones(2)`, of `torch.tensor(0.5)`, and of an integer tensor times 0.5. A type that the code
    names stays.

    >>> with DefaultDtype(torch.float64):
    ...     torch.ones(2).dtype, (torch.arange(2) / 3).dtype, torch.ones(2, dtype=torch.float32).dtype
    (torch.float64, torch.float64, torch.float32)
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype is torch.get_default_dtype() and func not in _EXPLICIT:
            given = tree_leaves((args, kwargs))
            if not any(_is_floating(a) for a in given):
                return result.to(self._dtype)
        return result


def _is_floating(value: Any) -> bool:
    """Whether a function's argument says of which floating-point type the result is."""
    if isinstance(value, torch.dtype):
        return True
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
