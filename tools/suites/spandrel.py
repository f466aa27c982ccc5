"""Networks that restore and enlarge images, of spandrel and its extra architectures, in a small size."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from suites import Case

PACKAGE = "spandrel"
_EXTRA = "spandrel_extra_arches"


def names() -> list[str]:
    return list(_MODELS)


def case(name: str) -> Case:
    architecture, channels, size, options = _MODELS[name]
    return Case(
        family=architecture,
        build=partial(_build, architecture, name.partition("-")[0], options),
        example=partial(_images, channels, size),
        larger=None if name in _OF_ONE_SIZE else partial(_images, channels, size + 64, 1),
    )


def _build(architecture: str, kind: str, options: dict[str, Any]) -> nn.Module:
    package = _EXTRA if architecture in _EXTRAS else PACKAGE
    module = import_module(f"{package}.architectures.{architecture}")
    model: nn.Module = getattr(module, kind)(**options)
    return model.eval()


def _images(channels: int, size: int, batch: int) -> Tensor:
    return torch.rand(batch, channels, size, size)


_EXTRAS = {"AdaCode", "FeMaSR", "M3SNet", "MIRNet2", "MPRNet", "Restormer", "SRFormer"}
_OF_ONE_SIZE = {"GFPGAN", "IPT", "Uformer"}
_TWO: dict[str, Any] = {"depths": (2, 2), "num_heads": (3, 3), "embed_dim": 48}
_WINDOWS: dict[str, Any] = {**_TWO, "window_size": 8, "upscale": 2, "upsampler": "pixelshuffle"}
_UNET: dict[str, Any] = {"nc": (16, 24, 32, 48), "nb": 1}
_NAF: dict[str, Any] = {"width": 16, "middle_blk_num": 1, "enc_blk_nums": [1, 1, 2], "dec_blk_nums": [1, 1, 1]}
_FOUR: dict[str, Any] = {"dim": 24, "num_refinement_blocks": 1}
_HEADS: dict[str, Any] = {"num_blocks": [1, 1, 1, 2], "heads": [1, 2, 4, 8], **_FOUR}
_SPLIT: dict[str, Any] = {"depth": [2, 2], "num_heads": [2, 2], "embed_dim": 48}
_UP: dict[str, Any] = {"num_in_ch": 3, "num_out_ch": 3}

_MODELS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "ATD": ("ATD", 3, 64, {**_WINDOWS, "category_size": 64, "num_tokens": 16}),
    "CRAFT": ("CRAFT", 3, 64, {}),
    "Compact": ("Compact", 3, 64, {}),
    "DAT": ("DAT", 3, 64, {**_SPLIT, "split_size": [2, 4]}),
    "DCTLSA": ("DCTLSA", 3, 64, {}),
    "DITN": ("DITN", 3, 64, {}),
    "DRCT": ("DRCT", 3, 64, {**_WINDOWS, "gc": 16}),
    "DRUNet": ("DRUNet", 3, 64, {**_UNET, "in_nc": 3, "out_nc": 3}),
    "DnCNN": ("DnCNN", 3, 64, {"in_nc": 3, "out_nc": 3, "nb": 6, "mode": "DnCNN"}),
    "DnCNN-FDnCNN": ("DnCNN", 3, 64, {"in_nc": 3, "out_nc": 3, "nb": 6, "mode": "FDnCNN"}),
    "ESRGAN": ("ESRGAN", 3, 64, {"num_blocks": 2, "num_filters": 32}),
    "ESRGAN-plus": ("ESRGAN", 3, 64, {"num_blocks": 2, "num_filters": 32, "plus": True}),
    "ESRGAN-shuffled": (
        "ESRGAN",
        3,
        64,
        {"num_blocks": 2, "num_filters": 32, "shuffle_factor": 2, "in_nc": 12, "scale": 4},
    ),
    "FBCNN": ("FBCNN", 3, 64, {"nc": [16, 24, 32, 512], "nb": 1}),
    "FDAT": ("FDAT", 3, 64, {"embed_dim": 48, "num_groups": 1, "upsampler_type": "pixelshuffle"}),
    "FFTformer": ("FFTformer", 3, 64, {**_FOUR, "num_blocks": [1, 1, 2]}),
    "GFPGAN": ("GFPGAN", 3, 64, {"out_size": 64, "channel_multiplier": 1, "narrow": 0.125, "num_style_feat": 64}),
    "GRL": ("GRL", 3, 64, {"depths": [2, 2], "num_heads_window": [3, 3], "num_heads_stripe": [3, 3], "embed_dim": 48}),
    "HAT": ("HAT", 3, 64, {**_WINDOWS, "upscale": 2, "window_size": 8}),
    "HVICIDNet": ("HVICIDNet", 3, 64, {}),
    "IPT": ("IPT", 3, 48, {"n_feats": 16, "num_layers": 2, "scale": [2], "patch_size": 48, "num_heads": 4}),
    "KBNet_l": ("KBNet", 3, 64, _HEADS),
    "KBNet_s": ("KBNet", 3, 64, _NAF),
    "MMRealSR": ("MMRealSR", 3, 64, {**_UP, "num_feat": 16, "num_block": 2, "num_feats": [16, 16, 24, 32]}),
    "MixDehazeNet": ("MixDehazeNet", 3, 64, {}),
    "MoESR": ("MoESR", 3, 64, {"n_blocks": 2, "n_block": 1, "dim": 32}),
    "MoSR": ("MoSR", 3, 64, {"n_block": 4}),
    "NAFNet": ("NAFNet", 3, 64, _NAF),
    "OmniSR": ("OmniSR", 3, 64, {}),
    "PLKSR": ("PLKSR", 3, 64, {"n_blocks": 3}),
    "PLKSR-sparse": ("PLKSR", 3, 64, {"n_blocks": 3, "lk_type": "SparsePLK", "ccm_type": "DCCM"}),
    "RealPLKSR": ("PLKSR", 3, 64, {"n_blocks": 3}),
    "RealPLKSR-dysample": ("PLKSR", 3, 64, {"n_blocks": 3, "dysample": True, "layer_norm": True}),
    "RCAN": ("RCAN", 3, 64, {"n_resgroups": 2, "n_resblocks": 2}),
    "RGT": ("RGT", 3, 64, _SPLIT),
    "UpCunet2x": ("RealCUGAN", 3, 64, {}),
    "UpCunet2x_fast": ("RealCUGAN", 3, 64, {}),
    "UpCunet3x": ("RealCUGAN", 3, 64, {}),
    "UpCunet4x": ("RealCUGAN", 3, 64, {}),
    "RestoreFormer": (
        "RestoreFormer",
        3,
        64,
        {"ch": 32, "ch_mult": (1, 2, 2), "resolution": 64, "n_embed": 64, "embed_dim": 64, "z_channels": 64},
    ),
    "RetinexFormer": ("RetinexFormer", 3, 64, {"n_feat": 16}),
    "SAFMN": ("SAFMN", 3, 64, {"dim": 36, "n_blocks": 2}),
    "SCUNet": ("SCUNet", 3, 64, {"config": [2] * 7, "dim": 64}),
    "SPAN": ("SPAN", 3, 64, _UP),
    "SwiftSRGAN": ("SwiftSRGAN", 3, 64, {}),
    "Swin2SR": ("Swin2SR", 3, 64, _WINDOWS),
    "SwinIR": ("SwinIR", 3, 64, _WINDOWS),
    "SwinIR-nearest": ("SwinIR", 3, 64, {**_WINDOWS, "upscale": 4, "upsampler": "nearest+conv"}),
    "SwinIR-denoising": ("SwinIR", 3, 64, {**_WINDOWS, "upscale": 1, "upsampler": "", "resi_connection": "3conv"}),
    "Uformer": ("Uformer", 3, 128, {"img_size": 128, "embed_dim": 16, "depths": [1] * 9}),
    "AdaCode": ("AdaCode", 3, 64, {"codebook_params": [[32, 64, 64]]}),
    "FeMaSR": ("FeMaSR", 3, 64, {"codebook_params": [[32, 64, 64]]}),
    "M3SNet": ("M3SNet", 3, 64, {**_NAF, "enc_blk_nums": [1, 1, 1, 2], "dec_blk_nums": [1, 1, 1, 1]}),
    "MIRNet2": ("MIRNet2", 3, 64, {}),
    "MPRNet": ("MPRNet", 3, 64, {}),
    "Restormer": ("Restormer", 3, 64, _HEADS),
    "SRFormer": ("SRFormer", 3, 64, {**_WINDOWS, "window_size": 8}),
}
