"""Small networks that went to ONNX and back, as onnx2torch makes them: PyTorch modules that nobody wrote."""

from __future__ import annotations

import tempfile
import warnings
from functools import partial
from pathlib import Path

import onnx
import onnx2torch
import timm
import torch
import torchvision_models as tv
from torch import Tensor, nn

from suites import Case

PACKAGE = "onnx2torch"
_TORCHVISION = """alexnet vgg11 resnet18 resnext50_32x4d squeezenet1_1 densenet121 mobilenet_v2 mobilenet_v3_small
mnasnet0_5 shufflenet_v2_x0_5 efficientnet_b0 regnet_y_400mf googlenet convnext_tiny vit_b_16 swin_t""".split()
_TIMM = """resnet10t.c3_in1k mobilenetv4_conv_small ghostnet_050 repvgg_a0 mobileone_s0 edgenext_xx_small
efficientvit_b0 fastvit_t8 deit_tiny_patch16_224 convmixer_768_32""".split()

_POOLED = ("alexnet", "vgg11")  # ONNX has no adaptive pooling but to a divisor of the size


def names() -> list[str]:
    return [*_TORCHVISION, *(name.split(".")[0] for name in _TIMM)]


def case(name: str) -> Case:
    size = tv.image_size(name) if name in _TORCHVISION and name not in _POOLED else 224
    return Case(
        family="torchvision" if name in _TORCHVISION else "timm",
        build=partial(_round_trip, name, size),
        example=partial(_images, size),
    )


def _round_trip(name: str, size: int) -> nn.Module:
    original = tv.build(name) if name in _TORCHVISION else timm.create_model(name).eval()
    for t in [*original.parameters(), *original.buffers()]:
        if t.dim() == 1 and t.is_floating_point():
            t.data.uniform_(0.1, 1)  # equal tensors become one in the file, which onnx2torch does not read
    return onnx2torch.convert(_exported(original, _images(size, 1))).eval()


def _exported(model: nn.Module, x: Tensor) -> onnx.ModelProto:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        file = Path(folder, "model.onnx")
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=13, dynamic_axes={"x": [0]}, input_names=["x"])
        return onnx.load(file)


def _images(size: int, batch: int) -> Tensor:
    return torch.rand(batch, 3, size, size)
