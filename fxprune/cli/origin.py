"""Where a pruned model comes from: how its original is made again, kept in the pruned model's file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fxprune.cli import models
from fxprune.cli.answer import CommandError
from fxprune.cli.libraries import Loaded
from fxprune.cli.options import GroupOptions, ModelOptions
from fxprune.plan.plan import Plan
from fxprune.rewriting import pruned_file

_KEY = "command_line"


@dataclass(frozen=True)
class PrunedModel:
    """A pruned model and its original.

    Attributes:
        original: with its weights, inputs and transform.
        small: the pruned model.
        plan: what it was cut by.
        options: that make the original.
        heads: the choice of heads that the groups were found with.
    """

    original: Loaded
    small: nn.Module
    plan: Plan
    options: ModelOptions
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """What a command works on: a model, which may be a pruned one.

    Attributes:
        loaded: the model, with its inputs.
        options: that make the model, or the original of a pruned one.
        groups: the command's, with the choice of heads that a pruned model was cut with, unless another is given.
        plan: what a pruned model was cut by; None for others.
    """

    loaded: Loaded
    options: ModelOptions
    groups: GroupOptions
    plan: Plan | None = None

    def title(self, name: str) -> str:
        """`name`, and what it is of where it is a pruned model's."""
        return name if self.plan is None else f"{name} ({self.options.model}, pruned before)"

    def told(self, name: str) -> list[str]:
        """A line that says it as well."""
        where = "the figures before the cut are its own, and the saved file is again of the original"
        return [] if self.plan is None else [f"{name} is {self.options.model}, pruned before: {where}"]


def notes(options: ModelOptions, groups: GroupOptions) -> dict[str, str]:
    """What the pruned model's file says of its original."""
    own = dataclasses.asdict(dataclasses.replace(options, weights=None, model=_from_anywhere(options.model)))
    own |= _weights(options)
    return {_KEY: json.dumps({**own, "heads": groups.heads or []})}


def _weights(options: ModelOptions) -> dict[str, str]:
    path = options.weights
    return {"weights": str(path.resolve()), "sum": _sum(path)} if path else {}


def _sum(path: Path) -> str:
    """Tells whether a file is the one that it was."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_anywhere(name: str) -> str:
    """A model's name that is the same in every folder: the path of a file or folder in it is absolute."""
    library, _, inner = name.partition(":")
    if library.endswith((".py", ".pt2")):
        return f"{Path(library).resolve()}{name[len(library) :]}"
    local = library == "transformers" and Path(inner).is_dir()
    return f"{library}:{Path(inner).resolve()}" if local else name


def is_pruned(name: str) -> bool:
    """Whether a name on the command line is that of a pruned model's file or folder."""
    path = Path(name)
    return path.suffix == ".safetensors" or (path / pruned_file.NAME).exists()


def load(options: ModelOptions, original: str | None = None) -> PrunedModel:
    """The pruned model in a file or folder, and its original.

    Args:
        options: of the command; `model` is the file or folder, and what is given beside it comes first.
        original: the original's name, if the file does not say it.

    Raises:
        CommandError: it is not a pruned model's file, or does not say of which model it is.
    """
    path = options.model
    if not is_pruned(path):
        raise CommandError(f"'{path}' is not a pruned model; give what `fxprune prune --out` or result.save wrote")
    full = _full(path, options, original)
    loaded = models.load(full)
    small = pruned_file.load(path, loaded.model).eval()
    heads = tuple(_noted(path).get("heads", ()))
    return PrunedModel(loaded, small, pruned_file.plan_of(path), full, heads)


def start(options: ModelOptions, groups: GroupOptions, original: str | None = None) -> Start:
    """The model that a name stands for, which may be that of a pruned model's file or folder.

    Args:
        options: of the command.
        groups: likewise.
        original: as for `load`.

    Raises:
        CommandError: as `models.load` and `load` raise it.
    """
    if not is_pruned(options.model):
        return Start(models.load(options), options, groups)
    pair = load(options, original)
    loaded = dataclasses.replace(pair.original, model=pair.small, is_random=False)
    chosen = dataclasses.replace(groups, heads=groups.heads or list(pair.heads) or None)
    return Start(loaded, pair.options, chosen, pair.plan)


def _noted(path: str) -> dict[str, Any]:
    return dict(json.loads(pruned_file.notes_of(path).get(_KEY, "{}")))


def _full(path: str, given: ModelOptions, original: str | None) -> ModelOptions:
    """The options that make the original."""
    noted = _noted(path)
    name = original or noted.get("model")
    if name is None:
        raise CommandError(f"{path} does not say of which model it is; give --original torchvision:NAME or the like")
    same = original is None or _from_anywhere(original) == noted.get("model")
    if not same:
        _tell_what_is_dropped(path, str(original), noted, given)
    weights = given.weights or _noted_weights(noted if same else {})
    return ModelOptions(
        model=name,
        weights=weights,
        pretrained=given.pretrained or (same and weights is None and bool(noted.get("pretrained"))),
        model_arg=given.model_arg or (noted.get("model_arg") if same else None),
        input_shape=given.input_shape or (noted.get("input_shape") if same else None),
        device=given.device,
        threads=given.threads,
    )


def _noted_weights(noted: Mapping[str, Any]) -> Path | None:
    """The file of the original's weights that a pruned model's file names."""
    if not noted.get("weights"):
        return None
    path = Path(noted["weights"])
    if noted.get("sum") and path.is_file() and _sum(path) != noted["sum"]:
        warnings.warn(f"{path} was written anew since the model was pruned: its numbers are others", stacklevel=2)
    return path


def _tell_what_is_dropped(path: str, original: str, noted: Mapping[str, Any], given: ModelOptions) -> None:
    """What a pruned model's file notes of one original does not hold for another one."""
    options = {"weights": "--weights", "model_arg": "--model-arg", "input_shape": "--input-shape"}
    lost = [option for name, option in options.items() if noted.get(name) and not getattr(given, name)]
    if lost:
        was = f"{path} was pruned from {noted['model']}, not from {original}"
        warnings.warn(f"{was}: what it notes for {', '.join(lost)} is not used; give it anew", stacklevel=2)
