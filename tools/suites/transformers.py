"""Architectures of transformers, as tiny random networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import nn

from suites import Case

PACKAGE = "transformers"
transformers.logging.set_verbosity_error()

_TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
_MODELS = {
    name: (group["family"], group["inputs"], changes)
    for group in _TABLE["families"]
    for name, changes in group["models"].items()
}
_STREAMS = ("hidden_state", "model_output", "attentions", "mems")


def names() -> list[str]:
    return list(_MODELS)


def case(name: str) -> Case:
    family, inputs, changes = _MODELS[name]
    kind, *options = inputs if isinstance(inputs, list) else (inputs,)
    example = partial(_INPUTS[kind], *options)
    return Case(family, partial(_build, name, changes), lambda batch: example(batch=batch))


def _build(name: str, changes: dict[str, Any]) -> nn.Module:
    kind = getattr(transformers, name)
    config = _config(kind.config_class, copy.deepcopy(changes))
    config.use_cache = False  # what a cache holds is an output, whose widths stay
    return Answers(kind(config)).eval()


class Answers(nn.Module):
    """A model that returns what it is asked for (logits, boxes), and no stream beside it, whose width would stay."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        streams = (*_STREAMS, "_embeds") if "logits" in out else _STREAMS  # beside logits, embeddings are streams
        answers = {k: v for k, v in out.items() if not any(part in k for part in streams)}
        return answers or {k: v for k, v in out.items() if "last_hidden_state" in k}


def _config(kind: Any, changes: dict[str, Any]) -> Any:
    """A config of tiny widths, where the model's has them, and the changes; configs in it likewise."""
    other = kind.attribute_map
    known = [name for name in {*vars(kind()), *other} if not {name, other.get(name)} & changes.keys()]
    parts = {
        n: _config(k, changes[n]) for n, k in kind.sub_configs.items() if n in changes and "Auto" not in k.__name__
    }
    return kind(**{k: v for k, v in _TABLE["tiny"].items() if k in known} | changes | parts)


def _tokens(batch: int, length: int = 16) -> torch.Tensor:
    return torch.randint(3, 90, (batch, length))


def _normal(name: str, *size: int, batch: int) -> dict[str, Any]:
    return {name: torch.randn(batch, *size)}


def _image(size: int = 32, *, batch: int) -> dict[str, Any]:
    return _normal("pixel_values", 3, size, size, batch=batch)


def _text(batch: int) -> dict[str, Any]:
    return {"input_ids": _tokens(batch), "attention_mask": torch.ones(batch, 16, dtype=torch.long)}


def _pairs(batch: int) -> dict[str, Any]:
    return _text(batch) | _image(batch=batch)


def _decoded(inputs: Callable[..., dict[str, Any]], *size: int, batch: int) -> dict[str, Any]:
    return inputs(*size, batch=batch) | {"decoder_input_ids": _tokens(batch, 8)}


_INPUTS: dict[str, Callable[..., dict[str, Any]]] = {
    "text": _text,
    "pairs": _pairs,
    "vilt": lambda batch: _text(batch) | _normal("pixel_values", 1, 3, 32, 32, batch=batch),
    "seq2seq": partial(_decoded, _text),
    # So many tokens that every expert of tiny networks gets some.
    "long": lambda batch: {"input_ids": _tokens(batch, 128), "decoder_input_ids": _tokens(batch, 128)},
    "wave": partial(_normal, "input_values", 2000),
    "waves": partial(_normal, "input_values"),
    "values": partial(_normal, "input_values"),
    "features": partial(_normal, "input_features"),
    "mel": partial(_decoded, partial(_normal, "input_features")),
    "moonshine": partial(_decoded, partial(_normal, "input_values", 4000)),
    "image": _image,
    "video": lambda frames, batch: _normal("pixel_values", frames, 3, 32, 32, batch=batch),
    "series": partial(_normal, "past_values", 32, 3),
}
