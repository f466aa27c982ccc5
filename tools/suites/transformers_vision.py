"""Architectures of transformers for images, and images with text: as in `transformers_text`."""

from __future__ import annotations

from suites.transformers_text import Entry

_CLIP_TEXT = {"hidden_size": 64, "intermediate_size": 96, "eos_token_id": 2}
_CLIP = {"text_config": _CLIP_TEXT, "vision_config": {}, "projection_dim": 48}
_STAGES = {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 2, 1]}
_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
_RESNET = {
    "backbone_config": _BACKBONE,
    "backbone": None,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
}
_DETR = _RESNET | {"num_queries": 10, "use_cache": False}

_VISION: dict[str, Entry] = {
    "ViTForImageClassification": ("vision", "image", {}),
    "DeiTForImageClassification": ("vision", "image", {}),
    "BeitForImageClassification": ("vision", "image", {"use_relative_position_bias": True}),
    "Data2VecVisionForImageClassification": ("vision", "image", {}),
    "Dinov2ForImageClassification": ("vision", "image", {"mlp_ratio": 2}),
    "Dinov2WithRegistersForImageClassification": ("vision", "image", {"mlp_ratio": 2}),
    "DINOv3ViTModel": ("vision", "image", {}),
    "DINOv3ConvNextModel": ("vision", ("image", 64), _STAGES),
    "ViTMSNForImageClassification": ("vision", "image", {}),
    "SwinForImageClassification": (
        "vision",
        ("image", 64),
        {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "Swinv2ForImageClassification": (
        "vision",
        ("image", 64),
        {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "ConvNextForImageClassification": ("vision", ("image", 64), _STAGES | {"num_stages": 4, "patch_size": 4}),
    "ConvNextV2ForImageClassification": ("vision", ("image", 64), _STAGES | {"num_stages": 4, "patch_size": 4}),
    "ResNetForImageClassification": ("vision", ("image", 64), _STAGES | {"embedding_size": 32}),
    "RegNetForImageClassification": ("vision", ("image", 64), _STAGES | {"embedding_size": 32, "groups_width": 16}),
    "BitForImageClassification": ("vision", ("image", 64), _STAGES | {"embedding_size": 32, "num_groups": 8}),
    "MobileNetV1ForImageClassification": ("vision", ("image", 64), {"depth_multiplier": 0.25}),
    "MobileNetV2ForImageClassification": ("vision", ("image", 64), {"depth_multiplier": 0.35}),
    "EfficientNetForImageClassification": (
        "vision",
        ("image", 64),
        {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    ),
    "MobileViTForImageClassification": (
        "vision",
        ("image", 64),
        {
            "image_size": 64,
            "patch_size": 2,
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [16, 32, 32, 48, 64, 80, 160],
        },
    ),
    "MobileViTV2ForImageClassification": (
        "vision",
        ("image", 64),
        {"image_size": 64, "patch_size": 2, "width_multiplier": 0.5},
    ),
    "LevitForImageClassification": (
        "vision",
        ("image", 64),
        {
            "image_size": 64,
            "patch_size": 16,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 4, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "CvtForImageClassification": (
        "vision",
        ("image", 64),
        {"embed_dim": [32, 48, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    ),
    "PvtForImageClassification": (
        "vision",
        ("image", 64),
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
        },
    ),
    "PvtV2ForImageClassification": (
        "vision",
        ("image", 64),
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
        },
    ),
    "PoolFormerForImageClassification": (
        "vision",
        ("image", 64),
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    ),
    "FocalNetForImageClassification": (
        "vision",
        ("image", 64),
        {
            "image_size": 64,
            "patch_size": 4,
            "embed_dim": 32,
            "depths": [1, 1, 1],
            "focal_levels": [2, 2, 2],
            "focal_windows": [3, 3, 3],
        },
    ),
    "HieraForImageClassification": (
        "vision",
        ("image", 64),
        {
            "image_size": [64, 64],
            "patch_size": [7, 7],
            "embed_dim": 32,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 4, 8],
        },
    ),
    "SwiftFormerForImageClassification": (
        "vision",
        ("image", 64),
        {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    ),
    "TextNetForImageClassification": ("vision", ("image", 64), {}),
    "ViTMAEModel": ("vision", "image", {"mask_ratio": 0.0}),
    "ImageGPTForImageClassification": ("vision", "text", {"n_positions": 64}),
    "VideoMAEForVideoClassification": ("video", ("video", 4), {"num_frames": 4}),
    "TimesformerForVideoClassification": ("video", ("video", 4), {"num_frames": 4}),
    "VivitForVideoClassification": ("video", ("video", 4), {"num_frames": 4, "tubelet_size": [2, 8, 8]}),
    "PatchTSTForPrediction": (
        "time series",
        "series",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "prediction_length": 8,
            "ffn_dim": 96,
            "patch_length": 8,
            "patch_stride": 8,
        },
    ),
    "PatchTSMixerForPrediction": (
        "time series",
        "series",
        {"num_input_channels": 3, "context_length": 32, "prediction_length": 8, "patch_length": 8, "patch_stride": 8},
    ),
}
_DENSE: dict[str, Entry] = {
    "DetrForObjectDetection": ("detection", ("image", 64), _DETR),
    "ConditionalDetrForObjectDetection": ("detection", ("image", 64), _DETR),
    "DeformableDetrForObjectDetection": ("detection", ("image", 64), _DETR | {"num_feature_levels": 3}),
    "TableTransformerForObjectDetection": ("detection", ("image", 64), _DETR),
    "RTDetrForObjectDetection": (
        "detection",
        ("image", 64),
        _RESNET
        | {
            "num_queries": 10,
            "encoder_hidden_dim": 64,
            "encoder_in_channels": [32, 48, 64],
            "decoder_in_channels": [64] * 3,
            "num_denoising": 0,
        },
    ),
    "RTDetrV2ForObjectDetection": (
        "detection",
        ("image", 64),
        _RESNET
        | {
            "num_queries": 10,
            "encoder_hidden_dim": 64,
            "encoder_in_channels": [32, 48, 64],
            "decoder_in_channels": [64] * 3,
            "num_denoising": 0,
        },
    ),
    "YolosForObjectDetection": ("detection", "image", {"image_size": [32, 32], "num_detection_tokens": 10}),
    "SegformerForSemanticSegmentation": (
        "segmentation",
        ("image", 64),
        {
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 64,
        },
    ),
    "UperNetForSemanticSegmentation": (
        "segmentation",
        ("image", 64),
        {
            "backbone_config": {
                "model_type": "convnext",
                **_STAGES,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "hidden_size": 64,
            "auxiliary_in_channels": 64,
            "auxiliary_channels": 32,
        },
    ),
    "MobileViTForSemanticSegmentation": (
        "segmentation",
        ("image", 64),
        {
            "image_size": 64,
            "patch_size": 2,
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [16, 32, 32, 48, 64, 80, 160],
        },
    ),
    "MaskFormerForInstanceSegmentation": (
        "segmentation",
        ("image", 64),
        {
            "backbone_config": {
                "model_type": "swin",
                "image_size": 64,
                "embed_dim": 16,
                "depths": [1, 1, 1, 1],
                "num_heads": [1, 2, 2, 4],
                "window_size": 2,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "decoder_config": {
                "model_type": "detr",
                "d_model": 64,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "decoder_ffn_dim": 96,
                "decoder_attention_heads": 4,
                "num_queries": 10,
            },
            "fpn_feature_size": 64,
            "mask_feature_size": 64,
        },
    ),
    "Mask2FormerForUniversalSegmentation": (
        "segmentation",
        ("image", 64),
        {
            "backbone_config": {
                "model_type": "swin",
                "image_size": 64,
                "embed_dim": 16,
                "depths": [1, 1, 1, 1],
                "num_heads": [1, 2, 2, 4],
                "window_size": 2,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "feature_size": 64,
            "mask_feature_size": 64,
            "hidden_dim": 64,
            "encoder_feedforward_dim": 96,
            "dim_feedforward": 96,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "num_queries": 10,
        },
    ),
    "DPTForDepthEstimation": (
        "depth",
        "image",
        {
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 32,
            "is_hybrid": False,
        },
    ),
    "DepthAnythingForDepthEstimation": (
        "depth",
        ("image", 56),
        {
            "backbone_config": {
                "model_type": "dinov2",
                "image_size": 56,
                "patch_size": 14,
                "hidden_size": 64,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "mlp_ratio": 2,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
                "reshape_hidden_states": False,
            },
            "reassemble_hidden_size": 64,
            "patch_size": 14,
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 32,
        },
    ),
    "GLPNForDepthEstimation": (
        "depth",
        ("image", 64),
        {
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 32,
        },
    ),
    "Swin2SRForImageSuperResolution": (
        "super-resolution",
        ("image", 32),
        {"patch_size": 1, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
    ),
}
_TWO_KINDS: dict[str, Entry] = {
    "CLIPModel": ("image and text", "pairs", _CLIP),
    "SiglipModel": ("image and text", "pairs", {"text_config": {}, "vision_config": {}}),
    "AltCLIPModel": ("image and text", "pairs", _CLIP),
    "ChineseCLIPModel": ("image and text", "pairs", {"text_config": {}, "vision_config": {}, "projection_dim": 48}),
    "CLIPSegForImageSegmentation": (
        "image and text",
        "pairs",
        _CLIP
        | {
            "extract_layers": [0, 1],
            "reduce_dim": 32,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
    ),
    "OwlViTForObjectDetection": ("image and text", "pairs", _CLIP | {"projection_dim": 64}),
    "BlipForConditionalGeneration": (
        "image and text",
        "pairs",
        {
            "text_config": {"encoder_hidden_size": 64},
            "vision_config": {},
            "projection_dim": 48,
            "image_text_hidden_size": 48,
        },
    ),
    "ViltForImagesAndTextClassification": ("image and text", "vilt", {"num_images": 1, "modality_type_vocab_size": 3}),
    "GitForCausalLM": ("image and text", "pairs", {"vision_config": {}}),
}
MODELS: dict[str, Entry] = {**_VISION, **_DENSE, **_TWO_KINDS}
