"""Calls that PyTorch takes apart only where gradients may be wanted."""

from __future__ import annotations

from typing import Any

import torch


def is_composite(op: Any) -> bool:
    """Whether a call has reached a dispatch mode whole.

    In inference mode, which a forward may switch on for itself, PyTorch hands over `conv2d` or `batch_norm` as they
    are; otherwise it hands over their parts. `op.decompose` gives the parts.
    """
    return torch.is_inference_mode_enabled() and bool(op._can_decompose())
