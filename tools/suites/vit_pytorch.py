"""The vision transformers of vit-pytorch, each variant in a small size: models as papers' authors write them."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import nn

from suites import Case

PACKAGE = "vit_pytorch"


def names() -> list[str]:
    return list(_MODELS)


def case(name: str) -> Case:
    module, kind, more, shape = _MODELS[name]

    def build() -> nn.Module:
        maker = getattr(import_module(f"vit_pytorch.{module}"), kind)
        known = signature(maker.__init__).parameters
        options = {k: v for k, v in _USUAL.items() if k in known} | more
        model: nn.Module = maker(**{k: v() if callable(v) else v for k, v in options.items()})
        return model.eval()

    return Case(family=module, build=build, example=lambda batch: torch.rand(batch, *shape))


_USUAL: dict[str, Any] = {
    **{"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 48, "depth": 2, "heads": 4, "mlp_dim": 64},
    **{"dim_head": 12, "channels": 3},
}
_IMAGE, _LARGE, _VIDEO = (3, 32, 32), (3, 64, 64), (3, 4, 32, 32)
_FRAMES = {"frames": 4, "image_patch_size": 8, "frame_patch_size": 2}
_ND = {"ndim": 2, "input_shape": (32, 32), "patch_size": (8, 8)}


def _encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(48, 4, 64, batch_first=True), 2)


Entry = tuple[str, str, dict[str, Any], tuple[int, ...]]
_MODELS: dict[str, Entry] = {
    "ats_vit": ("ats_vit", "ViT", {"max_tokens_per_depth": (12, 8)}, _IMAGE),
    "attn_residual_with_dca_simple_vit": ("attn_residual_with_dca_simple_vit", "SimpleViT", {}, _IMAGE),
    "cait": ("cait", "CaiT", {"cls_depth": 1}, _IMAGE),
    "cct": (
        "cct",
        "CCT",
        {
            **{"img_size": (32, 32), "embedding_dim": 48, "n_conv_layers": 2, "kernel_size": 3, "stride": 2},
            **{"padding": 1, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0, "positional_embedding": "learnable"},
        },
        _IMAGE,
    ),
    "cct_3d": (
        "cct_3d",
        "CCT",
        {
            **{"img_size": 32, "num_frames": 4, "embedding_dim": 48, "n_conv_layers": 2, "frame_kernel_size": 3},
            **{"kernel_size": 3, "stride": 2, "padding": 1, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0},
            **{"positional_embedding": "learnable"},
        },
        _VIDEO,
    ),
    "cross_vit": (
        "cross_vit",
        "CrossViT",
        {
            **{"sm_dim": 32, "lg_dim": 48, "sm_patch_size": 8, "lg_patch_size": 16, "sm_enc_heads": 4},
            **{"sm_enc_mlp_dim": 48, "sm_enc_dim_head": 8, "lg_enc_depth": 1, "lg_enc_heads": 4, "lg_enc_mlp_dim": 64},
            **{"lg_enc_dim_head": 12, "cross_attn_heads": 4, "cross_attn_dim_head": 8, "depth": 1},
        },
        _IMAGE,
    ),
    "crossformer": (
        "crossformer",
        "CrossFormer",
        {
            **{"dim": (32, 32, 48, 64), "depth": (1, 1, 1, 1), "global_window_size": (4, 2, 2, 1)},
            "local_window_size": 2,
        },
        _LARGE,
    ),
    "cvt": (
        "cvt",
        "CvT",
        {
            **{"s1_emb_dim": 16, "s2_emb_dim": 32, "s3_emb_dim": 48, "s2_heads": 2, "s3_heads": 3},
            **{"s2_depth": 1, "s3_depth": 1},
        },
        _IMAGE,
    ),
    "deepvit": ("deepvit", "DeepViT", {}, _IMAGE),
    "efficient": ("efficient", "ViT", {"transformer": _encoder}, _IMAGE),
    "jet_vit": ("jet_vit", "JetViT", {"window_size": 2}, _IMAGE),
    "jumbo_vit": ("jumbo_vit", "JumboViT", {"jumbo_cls_k": 2}, _IMAGE),
    "learnable_memory_vit": ("learnable_memory_vit", "ViT", {}, _IMAGE),
    "learnable_memory_vit-adapter": (
        "learnable_memory_vit",
        "Adapter",
        {"vit": lambda: case("learnable_memory_vit").build(), "num_classes": 3, "num_memories_per_layer": 4},
        _IMAGE,
    ),
    "levit": (
        "levit",
        "LeViT",
        {
            **{"image_size": 64, "dim": (32, 48, 64), "depth": 1, "heads": (2, 3, 4), "mlp_mult": 2, "dim_key": 8},
            "dim_value": 16,
        },
        _LARGE,
    ),
    "look_vit": (
        "look_vit",
        "LookViT",
        {
            **{"heads": 4, "mlp_factor": 2, "dim_head": 12, "highres_patch_size": 8, "highres_mlp_factor": 2},
            **{"cross_attn_heads": 4, "cross_attn_dim_head": 12, "patch_conv_kernel_size": 7, "patch_size": 16},
        },
        _IMAGE,
    ),
    "looped_vit": (
        "looped_vit",
        "LoopedViT",
        {"pre_loop_depth": 1, "num_looped_blocks": 1, "post_loop_depth": 1, "loop_depth": 2},
        _IMAGE,
    ),
    "max_vit": ("max_vit", "MaxViT", {"dim": 32, "depth": (1, 1), "dim_head": 8, "window_size": 4}, _LARGE),
    "max_vit_with_registers": (
        "max_vit_with_registers",
        "MaxViT",
        {"dim": 32, "depth": (1, 1), "dim_head": 8, "window_size": 4},
        _LARGE,
    ),
    "mobile_vit": (
        "mobile_vit",
        "MobileViT",
        {
            **{"image_size": (64, 64), "dims": [24, 32, 40], "depths": (1, 1, 1), "patch_size": (1, 1)},
            "channels": [8, 16, 24, 24, 32, 32, 40, 40, 48, 48, 64],
        },
        _LARGE,
    ),
    "na_vit": ("na_vit", "NaViT", {}, _IMAGE),
    "nest": ("nest", "NesT", {"num_hierarchies": 2, "block_repeats": (1, 1), "patch_size": 8}, _IMAGE),
    "normalized_vit": ("normalized_vit", "nViT", {}, _IMAGE),
    "parallel_vit": ("parallel_vit", "ViT", {}, _IMAGE),
    "pit": ("pit", "PiT", {"depth": (1, 1)}, _IMAGE),
    "regionvit": ("regionvit", "RegionViT", {"dim": (32, 48, 48, 64), "depth": (1, 1, 1, 1), "window_size": 2}, _LARGE),
    "rvt": ("rvt", "RvT", {}, _IMAGE),
    "scalable_vit": (
        "scalable_vit",
        "ScalableViT",
        {
            **{"dim": 32, "depth": (1, 1, 1, 1), "heads": (2, 2, 4, 4), "reduction_factor": (4, 2, 1, 1)},
            **{"window_size": (8, 4, 2, None), "iwsa_dim_key": 8, "iwsa_dim_value": 8, "ssa_dim_key": 8},
            "ssa_dim_value": 8,
        },
        _LARGE,
    ),
    "sep_vit": (
        "sep_vit",
        "SepViT",
        {"dim": 32, "dim_head": 8, "heads": (1, 2, 4), "depth": (1, 1, 1)},
        (3, 112, 112),
    ),
    "simple_uvit": ("simple_uvit", "SimpleUViT", {}, _IMAGE),
    "simple_vit": ("simple_vit", "SimpleViT", {}, _IMAGE),
    "simple_vit_1d": ("simple_vit_1d", "SimpleViT", {"seq_len": 64}, (3, 64)),
    "simple_vit_3d": ("simple_vit_3d", "SimpleViT", _FRAMES, _VIDEO),
    "simple_vit_attn_residual": ("simple_vit_attn_residual", "SimpleViTAttnResidual", {}, _IMAGE),
    "simple_vit_orthog_residual_update": ("simple_vit_orthog_residual_update", "SimpleViT", {}, _IMAGE),
    "simple_vit_with_fft": ("simple_vit_with_fft", "SimpleViT", {"freq_patch_size": 8}, _IMAGE),
    "simple_vit_with_hyper_connections": (
        "simple_vit_with_hyper_connections",
        "SimpleViT",
        {"num_residual_streams": 2},
        _IMAGE,
    ),
    "simple_vit_with_patch_dropout": ("simple_vit_with_patch_dropout", "SimpleViT", {}, _IMAGE),
    "simple_vit_with_qk_norm": ("simple_vit_with_qk_norm", "SimpleViT", {}, _IMAGE),
    "simple_vit_with_register_tokens": ("simple_vit_with_register_tokens", "SimpleViT", {}, _IMAGE),
    "simple_vit_with_relative_proj_pos_bias": ("simple_vit_with_relative_proj_pos_bias", "SimpleViT", {}, _IMAGE),
    "simple_vit_with_sparse_gating": ("simple_vit_with_sparse_gating", "SimpleViTWithSparseGating", {}, _IMAGE),
    "simple_vit_with_specialized_cls": ("simple_vit_with_specialized_cls", "SimpleViT", {}, _IMAGE),
    "simple_vit_with_value_residual": ("simple_vit_with_value_residual", "SimpleViT", {}, _IMAGE),
    "t2t": ("t2t", "T2TViT", {"t2t_layers": ((3, 2), (3, 2))}, _IMAGE),
    "twins_svt": (
        "twins_svt",
        "TwinsSVT",
        {
            **{"s1_emb_dim": 16, "s1_local_patch_size": 4, "s1_global_k": 4, "s2_emb_dim": 32, "s2_global_k": 4},
            **{"s2_local_patch_size": 4, "s3_emb_dim": 48, "s3_depth": 1, "s3_local_patch_size": 2, "s3_global_k": 2},
            **{"s4_emb_dim": 64, "s4_depth": 1, "s4_local_patch_size": 1, "s4_global_k": 1},
        },
        (3, 128, 128),
    ),
    "vat": ("vat", "ViT", {}, _IMAGE),
    "vit": ("vit", "ViT", {}, _IMAGE),
    "vit-mean": ("vit", "ViT", {"pool": "mean"}, _IMAGE),
    "vit_1d": ("vit_1d", "ViT", {"seq_len": 64}, (3, 64)),
    "vit_3d": ("vit_3d", "ViT", _FRAMES, _VIDEO),
    "vit_5": ("vit_5", "ViT", {}, _IMAGE),
    "vit_detpool": ("vit_detpool", "ViTDetPool", {}, _IMAGE),
    "vit_for_small_dataset": ("vit_for_small_dataset", "ViT", {}, _IMAGE),
    "vit_nd": ("vit_nd", "ViTND", _ND, _IMAGE),
    "vit_nd_pope": ("vit_nd_pope", "ViTND", _ND, _IMAGE),
    "vit_nd_rotary": ("vit_nd_rotary", "ViTND", _ND, _IMAGE),
    "vit_with_decorr": ("vit_with_decorr", "ViT", {}, _IMAGE),
    "vit_with_keel_post_ln": ("vit_with_keel_post_ln", "ViT", {}, _IMAGE),
    "vit_with_patch_dropout": ("vit_with_patch_dropout", "ViT", {}, _IMAGE),
    "vit_with_patch_merger": ("vit_with_patch_merger", "ViT", {"patch_merge_layer": 1}, _IMAGE),
    "vivit": (
        "vivit",
        "ViViT",
        {**_FRAMES, "spatial_depth": 1, "temporal_depth": 1, "use_flash_attn": False},
        _VIDEO,
    ),
    "vivit-factorized_self_attention": (
        "vivit",
        "ViViT",
        {
            **_FRAMES,
            **{
                "spatial_depth": 1,
                "temporal_depth": 1,
                "use_flash_attn": False,
                "variant": "factorized_self_attention",
            },
        },
        _VIDEO,
    ),
    "wwt": ("wwt", "WWT", {"num_slots": 4}, _IMAGE),
    "xcit": ("xcit", "XCiT", {"cls_depth": 1}, _IMAGE),
}
