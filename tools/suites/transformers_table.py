"""Which architectures of transformers are tried: kind, inputs, and what the config says beside tiny widths."""

from __future__ import annotations

from typing import Any

Entry = tuple[str, Any, dict[str, Any]]

# Given to every config that has such a name.
TINY: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "d_model": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_labels": 5,
    "image_size": 32,
    "patch_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}

_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48}
_DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
_CONV_FRONT = {
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
}
_CLIP_TEXT = {"hidden_size": 64, "intermediate_size": 96, "eos_token_id": 2}
_CLIP = {"text_config": _CLIP_TEXT, "vision_config": {}, "projection_dim": 48}
_STAGES = {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 2, 1]}
_RESNET = {"backbone_config": {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64],
                               "depths": [1, 1, 1, 1], "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
           "backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False}  # fmt: skip
_DETR = _RESNET | {"num_queries": 10, "use_cache": False}

_ENCODERS: dict[str, Entry] = {
    "BertForSequenceClassification": ("encoder", "text", {}),
    "RobertaForSequenceClassification": ("encoder", "text", {}),
    "XLMRobertaForTokenClassification": ("encoder", "text", {}),
    "DistilBertForSequenceClassification": ("encoder", "text", {"dim": 64, "hidden_dim": 96, "n_heads": 4, "n_layers": 2}),
    "AlbertForMaskedLM": ("encoder", "text", {"embedding_size": 32}),
    "ElectraForSequenceClassification": ("encoder", "text", {"embedding_size": 32}),
    "DebertaForSequenceClassification": ("encoder", "text", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "DebertaV2ForSequenceClassification": (
        "encoder",
        "text",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 16},
    ),
    "MPNetForSequenceClassification": ("encoder", "text", {}),
    "ModernBertForSequenceClassification": ("encoder", "text", {}),
    "LongformerForSequenceClassification": ("encoder", "text", {"attention_window": [8, 8]}),
    "BigBirdForSequenceClassification": ("encoder", "text", {"attention_type": "original_full"}),
    "FunnelForSequenceClassification": ("encoder", "text", {"block_sizes": [1, 1], "d_inner": 96, "n_head": 4, "d_head": 16}),
    "MobileBertForSequenceClassification": (
        "encoder",
        "text",
        {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    "SqueezeBertForSequenceClassification": ("encoder", "text", {"embedding_size": 64}),
    "NystromformerForSequenceClassification": ("encoder", "text", {"num_landmarks": 4, "segment_means_seq_len": 16}),
    "RoFormerForSequenceClassification": ("encoder", "text", {"embedding_size": 64}),
    "FNetForSequenceClassification": ("encoder", "text", {"use_tpu_fourier_optimizations": False}),
    "XLNetForSequenceClassification": ("encoder", "text", {"n_head": 4, "n_layer": 2, "d_inner": 96, "d_head": 16}),
    "ConvBertForSequenceClassification": ("encoder", "text", {"embedding_size": 64}),
    "MegatronBertForSequenceClassification": ("encoder", "text", {}),
    "CamembertForMaskedLM": ("encoder", "text", {}),
    "EsmForMaskedLM": ("encoder", "text", {"mask_token_id": 5, "position_embedding_type": "rotary"}),
    "IBertForSequenceClassification": ("encoder", "text", {}),
    "LayoutLMForSequenceClassification": ("encoder", "text", {}),
    "NomicBertForMaskedLM": ("encoder", "text", {}),
}
_DECODERS: dict[str, Entry] = {
    "GPT2LMHeadModel": ("decoder", "text", {"n_inner": 96}),
    "GPTNeoForCausalLM": (
        "decoder",
        "text",
        {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 8},
    ),
    "GPTNeoXForCausalLM": ("decoder", "text", {}),
    "GPTJForCausalLM": ("decoder", "text", {"rotary_dim": 8, "n_inner": 96}),
    "CodeGenForCausalLM": ("decoder", "text", {"rotary_dim": 8, "n_inner": 96}),
    "GPTBigCodeForCausalLM": ("decoder", "text", {"n_inner": 96}),
    "OPTForCausalLM": ("decoder", "text", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "BloomForCausalLM": ("decoder", "text", {"n_layer": 2, "n_head": 4}),
    "MptForCausalLM": ("decoder", "text", {"n_heads": 4, "n_layers": 2, "expansion_ratio": 2}),
    "LlamaForCausalLM": ("grouped queries", "text", {}),
    "MistralForCausalLM": ("grouped queries", "text", {"sliding_window": 8}),
    "Qwen2ForCausalLM": ("grouped queries", "text", {}),
    "Qwen3ForCausalLM": ("grouped queries", "text", {}),
    "GemmaForCausalLM": ("grouped queries", "text", {}),
    "Gemma2ForCausalLM": ("grouped queries", "text", {"sliding_window": 8}),
    "Gemma3ForCausalLM": ("grouped queries", "text", {"sliding_window": 8}),
    "PhiForCausalLM": ("grouped queries", "text", {}),
    "Phi3ForCausalLM": ("grouped queries", "text", {}),
    "StableLmForCausalLM": ("grouped queries", "text", {}),
    "Starcoder2ForCausalLM": ("grouped queries", "text", {}),
    "FalconForCausalLM": ("grouped queries", "text", {"ffn_hidden_size": 96, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "CohereForCausalLM": ("grouped queries", "text", {}),
    "OlmoForCausalLM": ("grouped queries", "text", {}),
    "Olmo2ForCausalLM": ("grouped queries", "text", {}),
    "GraniteForCausalLM": ("grouped queries", "text", {}),
    "SmolLM3ForCausalLM": ("grouped queries", "text", {}),
    "GlmForCausalLM": ("grouped queries", "text", {}),
    "PersimmonForCausalLM": ("decoder", "text", {}),
    "NemotronForCausalLM": ("grouped queries", "text", {}),
    "MixtralForCausalLM": ("mixture of experts", "text", {"num_local_experts": 4}),
    "Qwen2MoeForCausalLM": ("mixture of experts", "text", _MOE),
    "Qwen3MoeForCausalLM": ("mixture of experts", "text", _MOE),
    "OlmoeForCausalLM": ("mixture of experts", "text", _MOE),
    "PhimoeForCausalLM": ("mixture of experts", "text", {"num_local_experts": 4}),
    "GraniteMoeForCausalLM": ("mixture of experts", "text", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "GptOssForCausalLM": ("mixture of experts", "text", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
    "DeepseekV2ForCausalLM": ("mixture of experts", "text", _DEEPSEEK),
    "DeepseekV3ForCausalLM": ("mixture of experts", "text", _DEEPSEEK),
    "MambaForCausalLM": ("state space", "text", {"state_size": 8, "time_step_rank": 8}),
    "Mamba2ForCausalLM": ("state space", "text", {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 8}),
    "FalconMambaForCausalLM": ("state space", "text", {"state_size": 8, "time_step_rank": 8}),
    "RecurrentGemmaForCausalLM": ("state space", "text", {"lru_width": 64, "attention_window_size": 8, "num_hidden_layers": 3}),
    "JambaForCausalLM": (
        "state space",
        "text",
        {"num_experts": 2, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    ),
    "RwkvForCausalLM": ("state space", "text", {"attention_hidden_size": 64}),
}
_SEQ2SEQ: dict[str, Entry] = {
    "T5ForConditionalGeneration": ("seq2seq", "seq2seq", {"d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}),
    "UMT5ForConditionalGeneration": ("seq2seq", "seq2seq", {"d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}),
    "LongT5ForConditionalGeneration": ("seq2seq", "seq2seq", {"d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}),
    "SwitchTransformersForConditionalGeneration": (
        "mixture of experts",
        "seq2seq",
        {"d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "num_experts": 4, "expert_capacity": 16},
    ),
    "BartForConditionalGeneration": ("seq2seq", "seq2seq", {}),
    "MBartForConditionalGeneration": ("seq2seq", "seq2seq", {}),
    "PegasusForConditionalGeneration": ("seq2seq", "seq2seq", {}),
    "MarianMTModel": ("seq2seq", "seq2seq", {"decoder_vocab_size": 99}),
    "BlenderbotForConditionalGeneration": ("seq2seq", "seq2seq", {}),
    "M2M100ForConditionalGeneration": ("seq2seq", "seq2seq", {}),
    "LEDForConditionalGeneration": ("seq2seq", "seq2seq", {"attention_window": 8, "max_encoder_position_embeddings": 64}),
    "ProphetNetForConditionalGeneration": (
        "seq2seq",
        "seq2seq",
        {"num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
    ),
}
_SPEECH: dict[str, Entry] = {
    "Wav2Vec2ForCTC": ("speech", "wave", _CONV_FRONT),
    "HubertForCTC": ("speech", "wave", _CONV_FRONT),
    "WavLMForCTC": ("speech", "wave", _CONV_FRONT),
    "UniSpeechForCTC": ("speech", "wave", _CONV_FRONT | {"num_ctc_classes": 99}),
    "Data2VecAudioForCTC": ("speech", "wave", _CONV_FRONT | {"conv_pos_kernel_size": 3}),
    "SEWForCTC": ("speech", "wave", _CONV_FRONT | {"squeeze_factor": 2}),
    "Wav2Vec2ConformerForCTC": ("speech", "wave", _CONV_FRONT | {"conv_depthwise_kernel_size": 7}),
    "Wav2Vec2BertForCTC": ("speech", ("features", 64, 40), {"feature_projection_input_dim": 40, "conv_depthwise_kernel_size": 7}),
    "WhisperForConditionalGeneration": (
        "speech",
        ("mel", 20, 40),
        {"num_mel_bins": 20, "max_source_positions": 20, "max_target_positions": 16},
    ),
    "Speech2TextForConditionalGeneration": (
        "speech",
        ("mel", 40, 20),
        {"input_feat_per_channel": 20, "conv_channels": 32, "max_source_positions": 40, "max_target_positions": 16},
    ),
    "ASTForAudioClassification": ("speech", ("values", 40, 16), {"num_mel_bins": 16, "max_length": 40, "patch_size": 8}),
    "MoonshineForConditionalGeneration": ("speech", "moonshine", {"encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2}),
    "EncodecModel": (
        "speech",
        ("waves", 1, 640),
        {"num_filters": 8, "upsampling_ratios": [4, 2], "hidden_size": 32, "codebook_size": 16, "codebook_dim": 32},
    ),
}
TEXT_AND_SPEECH = {**_ENCODERS, **_DECODERS, **_SEQ2SEQ, **_SPEECH}

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
        {"image_size": 64, "patch_size": 2, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 32, 32, 48, 64, 80, 160]},
    ),
    "MobileViTV2ForImageClassification": ("vision", ("image", 64), {"image_size": 64, "patch_size": 2, "width_multiplier": 0.5}),
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
    "CvtForImageClassification": ("vision", ("image", 64), {"embed_dim": [32, 48, 64], "num_heads": [1, 2, 4], "depth": [1, 1, 1]}),
    "PvtForImageClassification": (
        "vision",
        ("image", 64),
        {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]},
    ),
    "PvtV2ForImageClassification": (
        "vision",
        ("image", 64),
        {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]},
    ),
    "PoolFormerForImageClassification": ("vision", ("image", 64), {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}),
    "FocalNetForImageClassification": (
        "vision",
        ("image", 64),
        {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [1, 1, 1], "focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3]},
    ),
    "HieraForImageClassification": (
        "vision",
        ("image", 64),
        {"image_size": [64, 64], "patch_size": [7, 7], "embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
    ),
    "SwiftFormerForImageClassification": ("vision", ("image", 64), {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}),
    "TextNetForImageClassification": ("vision", ("image", 64), {}),
    "ViTMAEModel": ("vision", "image", {"mask_ratio": 0.0}),
    "ImageGPTForImageClassification": ("vision", "text", {"n_positions": 64}),
    "VideoMAEForVideoClassification": ("video", ("video", 4), {"num_frames": 4}),
    "TimesformerForVideoClassification": ("video", ("video", 4), {"num_frames": 4}),
    "VivitForVideoClassification": ("video", ("video", 4), {"num_frames": 4, "tubelet_size": [2, 8, 8]}),
    "PatchTSTForPrediction": ("time series", "series", {"num_input_channels": 3, "context_length": 32, "prediction_length": 8, "ffn_dim": 96, "patch_length": 8, "patch_stride": 8}),  # fmt: skip
    "PatchTSMixerForPrediction": ("time series", "series", {"num_input_channels": 3, "context_length": 32, "prediction_length": 8, "patch_length": 8, "patch_stride": 8}),  # fmt: skip
}
_DENSE: dict[str, Entry] = {
    "DetrForObjectDetection": ("detection", ("image", 64), _DETR),
    "ConditionalDetrForObjectDetection": ("detection", ("image", 64), _DETR),
    "DeformableDetrForObjectDetection": ("detection", ("image", 64), _DETR | {"num_feature_levels": 3}),
    "TableTransformerForObjectDetection": ("detection", ("image", 64), _DETR),
    "RTDetrForObjectDetection": (
        "detection",
        ("image", 64),
        _RESNET | {"num_queries": 10, "encoder_hidden_dim": 64, "encoder_in_channels": [32, 48, 64], "decoder_in_channels": [64] * 3, "num_denoising": 0},
    ),  # fmt: skip
    "RTDetrV2ForObjectDetection": (
        "detection",
        ("image", 64),
        _RESNET | {"num_queries": 10, "encoder_hidden_dim": 64, "encoder_in_channels": [32, 48, 64], "decoder_in_channels": [64] * 3, "num_denoising": 0},
    ),  # fmt: skip
    "YolosForObjectDetection": ("detection", "image", {"image_size": [32, 32], "num_detection_tokens": 10}),
    "SegformerForSemanticSegmentation": (
        "segmentation",
        ("image", 64),
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 64},
    ),
    "UperNetForSemanticSegmentation": (
        "segmentation",
        ("image", 64),
        {"backbone_config": {"model_type": "convnext", **_STAGES, "out_features": ["stage1", "stage2", "stage3", "stage4"]}, "hidden_size": 64, "auxiliary_in_channels": 64, "auxiliary_channels": 32},
    ),  # fmt: skip
    "MobileViTForSemanticSegmentation": (
        "segmentation",
        ("image", 64),
        {"image_size": 64, "patch_size": 2, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 32, 32, 48, 64, 80, 160]},
    ),
    "MaskFormerForInstanceSegmentation": (
        "segmentation",
        ("image", 64),
        {
            "backbone_config": {"model_type": "swin", "image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
            "decoder_config": {"model_type": "detr", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "decoder_ffn_dim": 96, "decoder_attention_heads": 4, "num_queries": 10},
            "fpn_feature_size": 64,
            "mask_feature_size": 64,
        },
    ),  # fmt: skip
    "Mask2FormerForUniversalSegmentation": (
        "segmentation",
        ("image", 64),
        {
            "backbone_config": {"model_type": "swin", "image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
            "feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "encoder_feedforward_dim": 96, "dim_feedforward": 96,
            "encoder_layers": 2, "decoder_layers": 2, "num_queries": 10,
        },
    ),  # fmt: skip
    "DPTForDepthEstimation": (
        "depth",
        "image",
        {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32, "is_hybrid": False},
    ),
    "DepthAnythingForDepthEstimation": (
        "depth",
        ("image", 56),
        {
            "backbone_config": {"model_type": "dinov2", "image_size": 56, "patch_size": 14, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False},
            "reassemble_hidden_size": 64, "patch_size": 14, "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32,
        },
    ),  # fmt: skip
    "GLPNForDepthEstimation": (
        "depth",
        ("image", 64),
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 32},
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
        _CLIP | {"extract_layers": [0, 1], "reduce_dim": 32, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64},
    ),
    "OwlViTForObjectDetection": ("image and text", "pairs", _CLIP | {"projection_dim": 64}),
    "BlipForConditionalGeneration": (
        "image and text",
        "pairs",
        {"text_config": {"encoder_hidden_size": 64}, "vision_config": {}, "projection_dim": 48, "image_text_hidden_size": 48},
    ),
    "ViltForImagesAndTextClassification": ("image and text", "vilt", {"num_images": 1, "modality_type_vocab_size": 3}),
    "GitForCausalLM": ("image and text", "pairs", {"vision_config": {}}),
}
MODELS: dict[str, Entry] = {**TEXT_AND_SPEECH, **_VISION, **_DENSE, **_TWO_KINDS}
