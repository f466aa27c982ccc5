"""Every torchvision model, untrained, with example inputs, and targets where training needs them."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

_VIDEO = ("r3d", "mc3", "r2plus1d", "swin3d")
_FULL_VIDEO = ("s3d", "mvit")
_DETECTION = ("rcnn", "retinanet", "fcos", "ssd")
_QUANTIZABLE = "quantized_"


def names() -> list[str]:
    """All of `torchvision.models.list_models()`."""
    return list(torchvision.models.list_models())


def family(name: str) -> str:
    """The model's kind, for tables."""
    kinds = {
        "detection": _DETECTION,
        "segmentation": ("deeplab", "fcn_", "lraspp"),
        "optical flow": ("raft",),
        "video": (*_VIDEO, "s3d"),
        "transformer": ("vit", "swin", "maxvit", "mvit"),
        "shuffle": ("shufflenet", "quantized_shufflenet"),
    }
    order = ("transformer", "shuffle", "detection", "segmentation", "optical flow", "video")
    return next((k for k in order if any(part in name for part in kinds[k])), "convolutional")


def build(name: str) -> nn.Module:
    """The model with fresh weights, in evaluation mode, and its auxiliary heads where it has any."""
    builder = torchvision.models.get_model_builder(name)
    parameters = inspect.signature(builder).parameters
    options: dict[str, Any] = {k: None for k in ("weights", "weights_backbone") if k in parameters}
    if family(name) == "segmentation" and "aux_loss" in parameters:
        options["aux_loss"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = builder(**options)
    if hasattr(model, "transform") and "320" not in name and "ssd" not in name:
        model.transform.min_size, model.transform.max_size = (160,), 224  # detectors enlarge to 800 otherwise
    return model.eval()


def image_size(name: str) -> int:
    """A small size that the model accepts."""
    if "inception" in name:
        return 299
    if any(part in name for part in ("vit", "swin3d", "s3d")):
        return 224
    return 128 if any(part in name for part in ("swin", "raft", *_DETECTION)) else 96


def example(name: str, batch: int = 1, size: int | None = None) -> Any:
    """Example inputs for `fxprune.trace`."""
    n = size or image_size(name)
    if family(name) == "detection":
        return [torch.rand(3, n, n + 32 * (i % 2)) for i in range(batch)]
    if "raft" in name:
        return (torch.rand(batch, 3, n, n), torch.rand(batch, 3, n, n))
    if name.startswith(_FULL_VIDEO):
        return torch.rand(batch, 3, 16, n, n)
    if name.startswith(_VIDEO):
        return torch.rand(batch, 3, 8, n, n)
    return torch.rand(batch, 3, n, n)


def targets(name: str, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """One object an image, for the training mode of detectors."""
    return [_target(name, *image.shape[-2:]) for image in images]


def _target(name: str, height: int, width: int) -> dict[str, Tensor]:
    target = {"boxes": torch.tensor([[8.0, 8.0, width / 2, height / 2]]), "labels": torch.tensor([1])}
    if "mask" in name:
        target["masks"] = torch.ones(1, height, width, dtype=torch.uint8)
    if "keypoint" in name:
        target["keypoints"] = torch.tensor([[[16.0, 16.0, 1.0]] * 17])
    return target
