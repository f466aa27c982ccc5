"""Models of other people's packages, a module for each package, for `coverage.py --suite NAME`.

Each module has `PACKAGE`, which the models come from; `names()`, the models; and `case(name)`, one of
them with its inputs. Nothing is downloaded: weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module, metadata
from typing import Any, Protocol

from torch import nn


@dataclass(frozen=True)
class Case:
    """One model, and how it is called.

    Attributes:
        family: the model's kind, for tables.
        build: makes the model with fresh weights, in evaluation mode.
        example: example inputs of so many samples, as for `fxprune.trace`.
        larger: one sample of another image size or length; None where nothing like that is to be tried.
        training: inputs in training mode; None for three samples like the example.
        free_dims: how many leading dims of the outputs depend on the data, as the number of detections does.
        skipped: why the model is not tried; empty if it is.
    """

    family: str
    build: Callable[[], nn.Module]
    example: Callable[[int], Any]
    larger: Callable[[], Any] | None = None
    training: Callable[[], Any] | None = None
    free_dims: int = 0
    skipped: str = ""

    def train_inputs(self) -> Any:
        return self.training() if self.training else self.example(3)


class Suite(Protocol):
    """What each module of this room has."""

    PACKAGE: str

    def names(self) -> list[str]: ...

    def case(self, name: str) -> Case: ...


class Name(StrEnum):
    """The suites."""

    torchvision = "torchvision"
    timm = "timm"
    transformers = "transformers"
    ultralytics = "ultralytics"
    smp = "smp"
    torchaudio = "torchaudio"
    onnx2torch = "onnx2torch"
    pytorchcv = "pytorchcv"
    monai = "monai"
    diffusers = "diffusers"
    vit_pytorch = "vit_pytorch"
    x_transformers = "x_transformers"
    spandrel = "spandrel"


def suite(name: str) -> Suite:
    """The suite of that name; its package must be installed."""
    return import_module(f"suites.{name}")  # type: ignore[return-value]


def version(found: Suite) -> str:
    """The package and its version, as a row states them; several distributions may bring a package."""
    try:
        return f"{found.PACKAGE} {metadata.version(found.PACKAGE)}"
    except metadata.PackageNotFoundError:  # it has another name; to look through all that is installed takes a second
        return f"{found.PACKAGE} {metadata.version(metadata.packages_distributions()[found.PACKAGE][0])}"
