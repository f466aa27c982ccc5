"""The smallest network of every family of pytorchcv that reads images."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Any

import torch
from pytorchcv.model_provider import _models as MODELS
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

from suites import Case

PACKAGE = "pytorchcv"
# Speech, video and optical flow; SuperPoint and NTS-Net draw crops and points by their data.
_OTHER = ("raft", "propainter", "quartznet", "jasper", "nvpatt", "pfpcnet", "prnet", "visemenet", "voca")
_BY_DATA = ("superpointnet", "ntsnet_cub")
# Sides of an image where 224 does not do.
_SIDES = {"inception": 299, "xception": 299, "polynet": 331, "pnasnet": 331, "ibppose": 256}
_FIXED = ("bisenet", "deeplabv3", "fastscnn", "icnet", "lednet", "pspnet", "sinet")  # made for one size


def names() -> list[str]:
    families: dict[tuple[str, bool], list[str]] = {}
    for name in sorted(MODELS):
        if not name.startswith(_OTHER) and name not in _BY_DATA and not re.search("svhn|cifar10(?!0)", name):
            families.setdefault((_family(name), "cifar" in name), []).append(name)
    return [min(members, key=_numbers) for members in families.values()]


def _family(name: str) -> str:
    return re.split(r"[\d_]", name)[0]


def _numbers(name: str) -> list[int]:
    """Depths and widths, the smaller ones first."""
    return [int(n) for n in re.findall(r"\d+", name.replace("cifar100", ""))] or [0]


def case(name: str) -> Case:
    return Case(family=_family(name), build=partial(_build, name), example=partial(_images, _side(name)))


@cache
def _side(name: str) -> int:
    if "cifar" in name:
        return 32
    return next((n for start, n in _SIDES.items() if name.startswith(start)), 256 if name.startswith(_FIXED) else 224)


def _build(name: str) -> nn.Module:
    fixed: dict[str, Any] = {"in_size": (256, 256)} if name.startswith(_FIXED) else {}
    model: nn.Module = get_model(name, pretrained=False, **fixed)
    return model.eval()


def _images(side: int, batch: int) -> Tensor:
    return torch.rand(batch, 3, side, side)
