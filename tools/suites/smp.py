"""Every decoder of segmentation_models_pytorch, on small encoders."""

from __future__ import annotations

from functools import partial

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from suites import Case

PACKAGE = "segmentation_models_pytorch"
_DECODERS = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus PAN UPerNet Segformer".split()
_ENCODERS = ("resnet18", "mobilenet_v2", "mit_b0")
_VIT = "tu-vit_tiny_patch16_224"  # DPT takes nothing else


def names() -> list[str]:
    pairs = [f"{decoder}-{encoder}" for decoder in _DECODERS for encoder in _ENCODERS if _fit(decoder, encoder)]
    return [*pairs, f"DPT-{_VIT}"]


def _fit(decoder: str, encoder: str) -> bool:
    """MiT has no feature at half the image's size, and cannot be dilated."""
    return encoder != "mit_b0" or decoder not in ("UnetPlusPlus", "Linknet", "DeepLabV3", "DeepLabV3Plus", "PAN")


def case(name: str) -> Case:
    decoder, encoder = name.split("-", 1)
    size = {"DPT": 224, "PAN": 128}.get(decoder, 96)
    return Case(
        family=decoder,
        build=partial(_build, decoder, encoder),
        example=partial(_images, size),
        larger=partial(_images, size + 32, 1),
    )


def _build(decoder: str, encoder: str) -> nn.Module:
    return getattr(smp, decoder)(encoder_name=encoder, encoder_weights=None, classes=3).eval()


def _images(size: int, batch: int) -> Tensor:
    return torch.rand(batch, 3, size, size)
