"""Models of the libraries that publish them, with the example inputs and image transforms that the library states."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fxprune.cli.answer import CommandError

_FRAMES = 16  # of a video, where the library names no minimum


@dataclass(frozen=True)
class Loaded:
    """A model as a command sees it.

    Attributes:
        model: in evaluation mode.
        inputs: example inputs as for `fxprune.trace`; None if nobody states them.
        transform: an image (PIL) to the tensor that the model expects; None if nobody states it.
        is_random: whether the weights are those that the library draws for an untrained model.
    """

    model: nn.Module
    inputs: Any = None
    transform: Callable[[Any], torch.Tensor] | None = None
    is_random: bool = False


def load(library: str, name: str, arguments: dict[str, Any], pretrained: bool) -> Loaded:
    """A model of a library by its name.

    Raises:
        CommandError: the library is not installed, or has no model of this name, or fails to make it.
    """
    module = imported(library)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = pretrained or (library == "transformers" and _has_weights(Path(name)))
            return replace(_LOADERS[library](module, name, arguments, read), is_random=not read)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"{library}'s {name} raised {in_a_line(error)}") from error


def imported(library: str) -> ModuleType:
    """An optional package.

    Raises:
        CommandError: it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise CommandError(f"cannot import {library}: {error}; remedy: pip install {library}") from error


def in_a_line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def check_known(library: str, name: str, names: Iterable[str], what: str = "model") -> None:
    """Refuse a name that a library does not have, and offer those that are near.

    Raises:
        CommandError: it does not have it.
    """
    known = list(names)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 3) or [n for n in known if name.lower() in n][:3]
    hint = f"did you mean {', '.join(near)}?" if near else f"give a {library} name or module:factory"
    raise CommandError(f"no {library} {what} is called '{name}'; {hint}")


def _torchvision(library: Any, name: str, arguments: dict[str, Any], pretrained: bool) -> Loaded:
    models = library.models
    check_known("torchvision", name, models.list_models())
    weights = models.get_model_weights(name).DEFAULT
    builder = models.get_model_builder(name)
    backbone = "weights_backbone" in inspect.signature(builder).parameters and not pretrained
    fresh = {"weights_backbone": None} if backbone else {}
    model = builder(weights=weights if pretrained else None, **{**fresh, **arguments}).eval()
    preset = weights.transforms()
    return Loaded(model, _preset_inputs(preset, weights.meta), preset if hasattr(preset, "crop_size") else None)


def _preset_inputs(preset: Any, meta: dict[str, Any]) -> Any:
    """Example inputs of the task that torchvision's transforms are for."""
    task = type(preset).__name__
    if task == "ObjectDetection":
        return [torch.rand(3, 320, 480)]
    if task == "OpticalFlow":
        return tuple(torch.rand(1, 3, *meta["min_size"]) for _ in range(2))
    if task == "SemanticSegmentation":
        return torch.rand(1, 3, *preset.resize_size * (2 // len(preset.resize_size)))
    size = list(preset.crop_size) * (2 // len(preset.crop_size))
    frames = [max(_FRAMES, meta.get("min_temporal_size", 0))] if task == "VideoClassification" else []
    return torch.rand(1, 3, *frames, *size)


def _timm(library: Any, name: str, arguments: dict[str, Any], pretrained: bool) -> Loaded:
    plain = name.partition(".")[0]
    if not name.startswith("hf-hub:"):
        check_known("timm", plain, library.list_models())
    model = library.create_model(name, pretrained=pretrained, **arguments).eval()
    config = library.data.resolve_model_data_config(model)
    transform = library.data.create_transform(**config, is_training=False)
    return Loaded(model, torch.rand(1, *config["input_size"]), transform)


def _transformers(library: Any, name: str, arguments: dict[str, Any], pretrained: bool) -> Loaded:
    config = library.AutoConfig.from_pretrained(name, **arguments)
    kind = getattr(library, (config.architectures or ["AutoModel"])[0])
    if pretrained:
        model = kind.from_pretrained(name, config=config)
    else:
        model = kind.from_config(config) if kind is library.AutoModel else kind(config)
    model.config.use_cache = False  # a cache among the outputs would keep all channels of keys and values
    return Loaded(model.eval(), _main_input(model))


def _has_weights(folder: Path) -> bool:
    """Whether a folder holds a trained model of transformers, and not its config alone."""
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def _main_input(model: Any) -> Any:
    if model.main_input_name == "pixel_values":
        size: Any = getattr(model.config, "image_size", None)
        channels = getattr(model.config, "num_channels", 3)
        sides = size if isinstance(size, list | tuple) else (size, size)
        return {"pixel_values": torch.rand(1, channels, *sides)} if size else None
    return dict(model.dummy_inputs) if model.main_input_name == "input_ids" else None


def _ultralytics(_library: ModuleType, name: str, arguments: dict[str, Any], pretrained: bool) -> Loaded:
    if pretrained:
        raise CommandError("ultralytics' weights are pickled files; give --weights with a file of tensors only")
    tasks = importlib.import_module("ultralytics.nn.tasks")
    config = tasks.yaml_model_load(f"{name}.yaml")
    kinds = {
        "classify": tasks.ClassificationModel,
        "segment": tasks.SegmentationModel,
        "pose": tasks.PoseModel,
        "obb": tasks.OBBModel,
        "detect": tasks.DetectionModel,
    }
    model = kinds[tasks.guess_model_task(config)](config, verbose=False, **arguments).eval()
    return Loaded(model, torch.rand(1, 3, 640, 640))


_LOADERS: dict[str, Callable[[Any, str, dict[str, Any], bool], Loaded]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
    "ultralytics": _ultralytics,
}

NAMES = tuple(_LOADERS)
