"""The networks of MONAI for medical images, in a small size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn

from suites import Case

PACKAGE = "monai"


def names() -> list[str]:
    return list(_MODELS)


def case(name: str) -> Case:
    make, example = _MODELS[name]
    return Case(family=name.partition("-")[0], build=lambda: make().eval(), example=example)


class _Denoiser(nn.Module):
    """A diffusion network that is told the step by position."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.net = nets.DiffusionModelUNet(
            2,
            1,
            1,
            num_res_blocks=1,
            channels=(16, 32, 32),
            attention_levels=(False, True, True),
            num_head_channels=8,
            norm_num_groups=8,
            **options,
        )

    def forward(self, *inputs: Tensor) -> Any:
        return self.net(*inputs)


def _images(*shape: int) -> Callable[[int], Any]:
    return lambda batch: torch.rand(batch, *shape)


_SMALL = (8, 8, 16, 32, 64, 8)
_TOKENS: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 64, "num_heads": 4, "spatial_dims": 2}
_VQ: dict[str, Any] = {
    "channels": (16, 32),
    "num_res_channels": (16, 32),
    "num_res_layers": 1,
    "downsample_parameters": ((2, 4, 1, 1),) * 2,
    "upsample_parameters": ((2, 4, 1, 1, 0),) * 2,
    "num_embeddings": 16,
    "embedding_dim": 8,
}
_MASKED: dict[str, Any] = {"num_layers": 2, "decoder_hidden_size": 48, "decoder_mlp_dim": 64}
_MASKED |= {"decoder_num_layers": 2, "decoder_num_heads": 4}
_LATENT: dict[str, Any] = {"latent_channels": 4, "norm_num_groups": 8, "num_res_blocks": (1, 1, 1)}
_LATENT |= {"channels": (16, 32, 32), "attention_levels": (False, False, True)}

_MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "UNet": (partial(nets.UNet, 2, 1, 2, (8, 16, 32), (2, 2), num_res_units=2), _images(1, 64, 64)),
    "UNet-3d": (partial(nets.UNet, 3, 1, 2, (8, 16, 32), (2, 2), num_res_units=2), _images(1, 32, 32, 32)),
    "UNet-batch": (partial(nets.UNet, 2, 1, 2, (8, 16, 32), (2, 2), norm="batch"), _images(1, 64, 64)),
    "AttentionUnet": (partial(nets.AttentionUnet, 2, 1, 2, (8, 16, 32), (2, 2)), _images(1, 64, 64)),
    "BasicUNet": (partial(nets.BasicUNet, 2, 1, 2, features=_SMALL), _images(1, 64, 64)),
    "BasicUNetPlusPlus": (partial(nets.BasicUNetPlusPlus, 2, 1, 2, features=_SMALL), _images(1, 64, 64)),
    "DynUNet": (
        partial(nets.DynUNet, 2, 1, 2, (3,) * 4, (1, 2, 2, 2), (2, 2, 2), filters=(8, 16, 32, 64), res_block=True),
        _images(1, 64, 64),
    ),
    "DynUNet-3d": (
        partial(nets.DynUNet, 3, 1, 2, (3,) * 3, (1, 2, 2), (2, 2), filters=(8, 16, 32), norm_name="batch"),
        _images(1, 32, 32, 32),
    ),
    "FlexibleUNet": (partial(nets.FlexibleUNet, 1, 2, "efficientnet-b0", spatial_dims=2), _images(1, 64, 64)),
    "SegResNet": (partial(nets.SegResNet, 2, 8, 1, 2), _images(1, 32, 32)),
    "SegResNetVAE": (
        partial(nets.SegResNetVAE, (32, 32), spatial_dims=2, init_filters=8, in_channels=1, out_channels=2),
        _images(1, 32, 32),
    ),
    "SegResNetDS": (partial(nets.SegResNetDS, 2, 8, 1, 2), _images(1, 64, 64)),
    "VNet": (partial(nets.VNet, 2, 1, 2), _images(1, 64, 64)),
    "AHNet": (
        partial(nets.AHNet, spatial_dims=2, in_channels=1, out_channels=2, upsample_mode="transpose"),
        _images(1, 128, 128),
    ),
    "HighResNet": (partial(nets.HighResNet, 2, 1, 2), _images(1, 32, 32)),
    "Quicknat": (partial(nets.Quicknat, num_classes=2, num_channels=1, num_filters=16), _images(1, 64, 64)),
    "DAF3D": (partial(nets.DAF3D, 1, 2), _images(1, 32, 32, 32)),
    "UNETR": (partial(nets.UNETR, 1, 2, (32, 32), feature_size=8, **_TOKENS), _images(1, 32, 32)),
    "SwinUNETR": (partial(nets.SwinUNETR, 1, 2, feature_size=12, spatial_dims=2), _images(1, 64, 64)),
    "ViT": (
        partial(nets.ViT, 1, (32, 32), (8, 8), num_layers=2, classification=True, **_TOKENS),
        _images(1, 32, 32),
    ),
    "MaskedAutoEncoderViT": (partial(nets.MaskedAutoEncoderViT, 1, 32, 8, **_MASKED, **_TOKENS), _images(1, 32, 32)),
    "DenseNet121": (partial(nets.DenseNet121, 2, 1, 3), _images(1, 64, 64)),
    "EfficientNetBN": (
        partial(nets.EfficientNetBN, "efficientnet-b0", False, spatial_dims=2, in_channels=1, num_classes=3),
        _images(1, 64, 64),
    ),
    "ResNet-3d": (partial(nets.resnet18, spatial_dims=3, n_input_channels=1, num_classes=3), _images(1, 32, 32, 32)),
    "SEResNet50": (partial(nets.SEResNet50, spatial_dims=2, in_channels=1, num_classes=3), _images(1, 64, 64)),
    "MILModel": (
        partial(nets.MILModel, 3, mil_mode="att", pretrained=False, backbone="resnet18"),
        _images(4, 3, 64, 64),
    ),
    "RegUNet": (partial(nets.RegUNet, 2, 2, 8, depth=2), _images(2, 32, 32)),
    "GlobalNet": (partial(nets.GlobalNet, (32, 32), 2, 2, 8, depth=2), _images(2, 32, 32)),
    "LocalNet": (partial(nets.LocalNet, 2, 2, 8, extract_levels=(0, 1, 2)), _images(2, 32, 32)),
    "AutoencoderKL": (partial(nets.AutoencoderKL, 2, 1, 1, **_LATENT), _images(1, 32, 32)),
    "VQVAE": (partial(nets.VQVAE, 2, 1, 1, **_VQ), _images(1, 32, 32)),
    "VarAutoEncoder": (partial(nets.VarAutoEncoder, 2, (1, 32, 32), 1, 4, (8, 16), (2, 2)), _images(1, 32, 32)),
    "Generator": (partial(nets.Generator, 8, (8, 4, 4), (16, 8, 1), (2, 2, 2)), _images(8)),
    "Discriminator": (partial(nets.Discriminator, (1, 32, 32), (8, 16, 32), (2, 2, 2)), _images(1, 32, 32)),
    "DiffusionModelUNet": (_Denoiser, lambda batch: (torch.rand(batch, 1, 16, 16), torch.arange(batch))),
    "DiffusionModelUNet-conditioned": (
        partial(_Denoiser, with_conditioning=True, cross_attention_dim=12),
        lambda batch: (torch.rand(batch, 1, 16, 16), torch.arange(batch), torch.rand(batch, 3, 12)),
    ),
}
