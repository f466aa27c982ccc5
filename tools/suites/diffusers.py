"""Denoisers and autoencoders of diffusers, in a small size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from suites import Case

PACKAGE = "diffusers"


class _First(nn.Module):
    """Returns a model's sample as a tensor; arguments go by position, or by the names that are given."""

    def __init__(self, model: nn.Module, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Any:
        named = dict(zip(self.names, inputs, strict=True)) if self.names else {}
        return self.model(*(() if named else inputs), **named, return_dict=False)[0]


def names() -> list[str]:
    return list(_MODELS)


def case(name: str) -> Case:
    make, example = _MODELS[name]
    return Case(family=name, build=lambda: make().eval(), example=example)


_BLOCKS: dict[str, Any] = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
_CROSS: dict[str, Any] = {**_BLOCKS, "cross_attention_dim": 24, "attention_head_dim": 8}
_KL: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
_TOKENS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}


def _unet(down: str, up: str) -> nn.Module:
    types: dict[str, Any] = {"down_block_types": ("DownBlock2D", down), "up_block_types": (up, "UpBlock2D")}
    return _First(diffusers.UNet2DModel(16, 3, 3, **types, attention_head_dim=8, **_BLOCKS))


def _conditioned(**options: Any) -> nn.Module:
    types: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return _First(diffusers.UNet2DConditionModel(16, 4, 4, **types, **_CROSS, **options))


def _video() -> nn.Module:
    types: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    }
    return _First(diffusers.UNet3DConditionModel(16, 4, 4, **types, **_CROSS))


def _control() -> nn.Module:
    model = diffusers.ControlNetModel(
        4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(16, 32),
        **_CROSS,
    )
    return _First(model, ("sample", "timestep", "encoder_hidden_states", "controlnet_cond"))


def _compressing() -> nn.Module:
    blocks: dict[str, Any] = {
        f"{part}_{key}": value
        for part in ("encoder", "decoder")
        for key, value in {
            "block_types": ("ResBlock", "EfficientViTBlock"),
            "block_out_channels": (16, 32),
            "layers_per_block": (1, 1),
            "qkv_multiscales": ((), (5,)),
        }.items()
    }
    model = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=8, decoder_norm_types="rms_norm", decoder_act_fns="silu", **blocks
    )
    return _First(model)


def _pixart() -> nn.Module:
    model = diffusers.PixArtTransformer2DModel(
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        caption_channels=12,
        use_additional_conditions=False,
        **_TOKENS,
    )
    return _First(model, ("hidden_states", "encoder_hidden_states", "timestep"))


def _sd3() -> nn.Module:
    model = diffusers.SD3Transformer2DModel(
        patch_size=2,
        in_channels=4,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=12,
        out_channels=4,
        **_TOKENS,
    )
    return _First(model, ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"))


def _flux() -> nn.Module:
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=12,
        axes_dims_rope=(4, 4, 8),
    )
    names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "img_ids", "txt_ids")
    return _First(model, names)


def _sana() -> nn.Module:
    model = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        **_TOKENS,
    )
    return _First(model, ("hidden_states", "encoder_hidden_states", "timestep"))


def _prior() -> nn.Module:
    model = diffusers.PriorTransformer(2, 8, num_layers=2, embedding_dim=12, num_embeddings=5, additional_embeddings=4)
    return _First(model, ("hidden_states", "timestep", "proj_embedding", "encoder_hidden_states"))


def _images(channels: int, side: int = 16) -> Callable[[int], Any]:
    return lambda batch: torch.rand(batch, channels, side, side)


def _timed(batch: int) -> Any:
    return torch.rand(batch, 3, 16, 16), torch.arange(batch)


def _prompted(batch: int) -> Any:
    return torch.rand(batch, 4, 16, 16), torch.arange(batch), torch.rand(batch, 5, 24)


def _captioned(batch: int) -> Any:
    return torch.rand(batch, 4, 8, 8), torch.rand(batch, 3, 12), torch.arange(batch)


def _dit() -> nn.Module:
    return _First(diffusers.DiTTransformer2DModel(in_channels=4, out_channels=8, norm_num_groups=8, **_TOKENS))


def _transformer() -> nn.Module:
    return _First(diffusers.Transformer2DModel(2, 8, in_channels=16, norm_num_groups=8, cross_attention_dim=12))


_MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "UNet2DModel": (lambda: _unet("AttnDownBlock2D", "AttnUpBlock2D"), _timed),
    "UNet2DModel-resnet": (lambda: _unet("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"), _timed),
    "UNet2DConditionModel": (_conditioned, _prompted),
    "UNet2DConditionModel-linear": (
        lambda: _conditioned(use_linear_projection=True, resnet_time_scale_shift="scale_shift"),
        _prompted,
    ),
    "UNet3DConditionModel": (
        _video,
        lambda batch: (torch.rand(batch, 4, 2, 16, 16), torch.arange(batch), torch.rand(batch, 5, 24)),
    ),
    "ControlNetModel": (
        _control,
        lambda batch: (
            torch.rand(batch, 4, 8, 8),
            torch.arange(batch),
            torch.rand(batch, 5, 24),
            torch.rand(batch, 3, 16, 16),
        ),
    ),
    "AutoencoderKL": (
        lambda: _First(diffusers.AutoencoderKL(3, 3, latent_channels=4, sample_size=16, **_KL, **_BLOCKS)),
        _images(3),
    ),
    "AutoencoderTiny": (
        lambda: _First(
            diffusers.AutoencoderTiny(
                encoder_block_out_channels=(16, 16),
                decoder_block_out_channels=(16, 16),
                num_encoder_blocks=(1, 1),
                num_decoder_blocks=(1, 1),
            )
        ),
        _images(3),
    ),
    "AutoencoderDC": (_compressing, _images(3)),
    "VQModel": (
        lambda: _First(diffusers.VQModel(latent_channels=3, num_vq_embeddings=16, **_KL, **_BLOCKS)),
        _images(3),
    ),
    "DiTTransformer2DModel": (
        _dit,
        lambda batch: (torch.rand(batch, 4, 8, 8), torch.arange(batch) + 1, torch.arange(batch)),
    ),
    "Transformer2DModel": (_transformer, lambda batch: (torch.rand(batch, 16, 8, 8), torch.rand(batch, 3, 12))),
    "PixArtTransformer2DModel": (_pixart, _captioned),
    "SD3Transformer2DModel": (
        _sd3,
        lambda batch: (
            torch.rand(batch, 4, 8, 8),
            torch.rand(batch, 3, 12),
            torch.rand(batch, 12),
            torch.arange(batch),
        ),
    ),
    "FluxTransformer2DModel": (
        _flux,
        lambda batch: (
            torch.rand(batch, 16, 4),
            torch.rand(batch, 3, 12),
            torch.rand(batch, 12),
            torch.rand(batch),
            torch.rand(16, 3),
            torch.rand(3, 3),
        ),
    ),
    "SanaTransformer2DModel": (_sana, _captioned),
    "PriorTransformer": (
        _prior,
        lambda batch: (torch.rand(batch, 12), torch.arange(batch), torch.rand(batch, 12), torch.rand(batch, 5, 12)),
    ),
}
