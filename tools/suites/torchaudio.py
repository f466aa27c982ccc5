"""The models of torchaudio, the large ones in a small size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torchaudio import models

from suites import Case

PACKAGE = "torchaudio"


@dataclass(frozen=True)
class _Model:
    """A model's kind, what makes it, and its inputs: of so many samples, and with so many frames more than usual."""

    family: str
    build: Callable[[], nn.Module]
    example: Callable[[int, int], Any]


def names() -> list[str]:
    return list(_MODELS)


def case(name: str) -> Case:
    model = _MODELS[name]
    return Case(
        family=model.family,
        build=lambda: model.build().eval(),
        example=lambda batch: model.example(batch, 0),
        larger=lambda: model.example(1, 640),
    )


def _lengths(batch: int, frames: int) -> torch.Tensor:
    return torch.full((batch,), frames, dtype=torch.int32)


def _wave(batch: int, more: int = 0, frames: int = 8000) -> Any:
    return torch.randn(batch, frames + more)


def _channels(batch: int, more: int = 0, channels: int = 1, frames: int = 8000) -> Any:
    return torch.randn(batch, channels, frames + more)


def _features(batch: int, more: int = 0, width: int = 40) -> Any:
    frames = 64 + more // 40
    return torch.randn(batch, frames, width), _lengths(batch, frames)


def _emformer(batch: int, more: int = 0) -> Any:
    frames = 32 + more // 40
    return torch.randn(batch, frames + 4, 64), _lengths(batch, frames)


def _transducer(batch: int, more: int = 0, right: int = 0, width: int = 80) -> Any:
    frames = 64 + more // 40
    symbols = torch.randint(0, 30, (batch, 8), dtype=torch.int32)
    return torch.randn(batch, frames + right, width), _lengths(batch, frames), symbols, _lengths(batch, 8)


def _deepspeech(batch: int, more: int = 0) -> Any:
    return torch.randn(batch, 1, 50 + more // 40, 40)


def _tacotron(batch: int, more: int = 0) -> Any:
    text, frames = 12, 40 + more // 40
    tokens = torch.randint(0, 38, (batch, text))
    return tokens, _lengths(batch, text).long(), torch.randn(batch, 80, frames), _lengths(batch, frames).long()


def _wavernn(batch: int, more: int = 0) -> Any:
    frames = 14 + more // 40
    return torch.randn(batch, 1, (frames - 4) * 64), torch.randn(batch, 1, 32, frames)


def _two_waves(batch: int, more: int = 0) -> Any:
    return _wave(batch, more, 16000), _wave(batch, more, 16000)


_WAV2VEC2: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5), (32, 3, 2), (32, 2, 2)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 48,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 96,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": 30,
}
_WAVLM = _WAV2VEC2 | {"encoder_num_buckets": 32, "encoder_max_distance": 64}


def _wav2vec2(**changes: Any) -> nn.Module:
    return models.wav2vec2_model(**_WAV2VEC2 | changes)


_MODELS = {
    "Conformer": _Model("speech encoder", lambda: models.Conformer(40, 4, 96, 3, 15), _features),
    "Conformer-group-norm": _Model(
        "speech encoder",
        lambda: models.Conformer(40, 4, 96, 3, 15, use_group_norm=True, convolution_first=True),
        _features,
    ),
    "Emformer": _Model("speech encoder", lambda: models.Emformer(64, 4, 128, 3, 16, right_context_length=4), _emformer),
    "RNNT-emformer": _Model(
        "transducer",
        lambda: models.emformer_rnnt_model(
            input_dim=80,
            encoding_dim=64,
            num_symbols=32,
            segment_length=16,
            right_context_length=4,
            time_reduction_input_dim=32,
            time_reduction_stride=4,
            transformer_num_heads=4,
            transformer_ffn_dim=96,
            transformer_num_layers=2,
            transformer_dropout=0.1,
            transformer_activation="gelu",
            transformer_left_context_length=8,
            transformer_max_memory_size=0,
            transformer_weight_init_scale_strategy="depthwise",
            transformer_tanh_on_mem=True,
            symbol_embedding_dim=48,
            num_lstm_layers=2,
            lstm_layer_norm=True,
            lstm_layer_norm_epsilon=1e-3,
            lstm_dropout=0.1,
        ),
        partial(_transducer, right=4),
    ),
    "Wav2Letter-waveform": _Model("recognition", lambda: models.Wav2Letter(num_classes=40), _channels),
    "Wav2Letter-mfcc": _Model(
        "recognition",
        lambda: models.Wav2Letter(num_classes=40, input_type="mfcc", num_features=13),
        partial(_channels, channels=13, frames=200),
    ),
    "DeepSpeech": _Model("recognition", lambda: models.DeepSpeech(40, n_hidden=256), _deepspeech),
    "Wav2Vec2": _Model("speech transformer", _wav2vec2, _wave),
    "Wav2Vec2-layer-norm": _Model(
        "speech transformer",
        partial(_wav2vec2, extractor_mode="layer_norm", encoder_layer_norm_first=True),
        _wave,
    ),
    "WavLM": _Model("speech transformer", lambda: models.wavlm_model(**_WAVLM), _wave),
    "HDemucs": _Model(
        "separation",
        lambda: models.hdemucs_low(["drums", "vocals"]),
        partial(_channels, channels=2, frames=16384),
    ),
    "ConvTasNet": _Model(
        "separation",
        lambda: models.ConvTasNet(enc_num_feats=128, msk_num_feats=32, msk_num_hidden_feats=128, msk_num_layers=4),
        _channels,
    ),
    "Tacotron2": _Model("synthesis", models.Tacotron2, _tacotron),
    "WaveRNN": _Model(
        "synthesis",
        lambda: models.WaveRNN([4, 4, 4], 64, 64, n_rnn=128, n_fc=128, n_freq=32, n_hidden=64, n_output=64),
        _wavernn,
    ),
    "SquimObjective": _Model("quality", models.squim_objective_base, partial(_wave, frames=16000)),
    "SquimSubjective": _Model("quality", models.squim_subjective_base, _two_waves),
}
