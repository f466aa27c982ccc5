"""Options that several commands share, as dataclasses; `answer.command` makes an option of each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fxprune import latency
from fxprune.cli.answer import CommandError
from fxprune.costs.latency.engines import Engine


class EngineName(StrEnum):
    """Where a model runs."""

    eager = "eager"
    compile = "compile"
    onnx = "onnx"

    @property
    def engine(self) -> Engine | None:
        """As `fxprune.latency.measure` takes it."""
        return {"eager": None, "compile": latency.compiled, "onnx": latency.onnx_runtime}[self.value]


EngineOption = Annotated[EngineName, typer.Option("--engine", help="Where latency is measured.")]
Original = Annotated[str | None, typer.Option(help="The original's name, if the pruned model's file does not say it.")]

_MODEL = """What to load: torchvision:NAME, timm:NAME, transformers:NAME_OR_FOLDER, ultralytics:NAME,
file.py:FACTORY, module:FACTORY, an exported program (.pt2), or what `fxprune prune --out` wrote."""


def named_path(text: str) -> Path:
    """A path; an empty text, as of a variable of the shell that is not set, is not the working directory."""
    if not str(text):
        raise typer.BadParameter("an empty text is no path")
    return Path(text)


def _at_least_0(number: float) -> float:
    if not number >= 0:  # not a number is neither
        raise typer.BadParameter(f"{number} is not at least 0")
    return number


Tolerance = Annotated[float, typer.Option(callback=_at_least_0, help="Largest relative deviation that passes.")]


def check_apart(files: Mapping[str, Path | None]) -> None:
    """Refuse one file for two options, of which the second would replace the first, and folders.

    Args:
        files: to be written, by option.

    Raises:
        CommandError: it is so.
    """
    given = {option: file for option, file in files.items() if file is not None}
    for option, file in given.items():
        if file.is_dir():
            raise CommandError(f"{option} {file} is a folder; give the name of a file")
    if len({file.resolve() for file in given.values()}) < len(given):
        raise CommandError(f"{' and '.join(given)} name one file; give each its own")


@dataclass(frozen=True)
class ModelOptions:
    """Which model, with which weights, on which inputs, where."""

    model: Annotated[str, typer.Argument(help=_MODEL, show_default=False)]
    weights: Annotated[
        Path | None,
        typer.Option(
            parser=named_path,
            metavar="PATH",
            help="Weights: .safetensors, or a .pt that holds tensors only.",
            show_default=False,
        ),
    ] = None
    pretrained: Annotated[bool, typer.Option("--pretrained", help="The library's own weights (a download).")] = False
    model_arg: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the model's factory, e.g. num_classes=10; repeatable.", show_default=False),
    ] = None
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of an input, e.g. 1,3,224,224, or 1,12:int for integers; repeat it for several inputs.",
            show_default=False,
        ),
    ] = None
    device: Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")] = "cpu"
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's own")] = None


@dataclass(frozen=True)
class PrunedOptions(ModelOptions):
    """The same for commands that compare a pruned model with its original."""

    model: Annotated[
        str,
        typer.Argument(
            help="The folder or .safetensors file that `fxprune prune --out` or result.save wrote.", show_default=False
        ),
    ]


@dataclass(frozen=True)
class GroupOptions:
    """Which channels may go."""

    ignored: Annotated[
        list[str] | None,
        typer.Option(help="Keep this module, parameter or group whole (name or pattern); repeatable."),
    ] = None
    heads: Annotated[
        list[str] | None,
        typer.Option(help="What of attention shrinks: num_heads, head_dim, or MODULE=head_dim; repeatable."),
    ] = None


# Of images, where the command line does not say it.
SAMPLES, BATCH_SIZE, MEAN, STD = 1024, 32, "0.485,0.456,0.406", "0.229,0.224,0.225"


@dataclass(frozen=True)
class DataOptions:
    """Which data, and how much of them."""

    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of images, with or without a folder for each class; or module:OBJECT, file.py:OBJECT with "
            "batches or a function that makes them.",
            show_default=False,
        ),
    ] = None
    unpack: Annotated[
        str | None,
        typer.Option(
            help="module:FUNCTION or file.py:FUNCTION that makes inputs, or (inputs, targets), of a batch.",
            show_default=False,
        ),
    ] = None
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples that are read at most.", show_default=str(SAMPLES))
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images of a folder in one batch.", show_default=str(BATCH_SIZE))
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="Of each channel of a folder's images, taken off after scaling to [0, 1].", show_default=MEAN
        ),
    ] = None
    std: Annotated[
        str | None, typer.Option(help="Of each channel of a folder's images, divided by.", show_default=STD)
    ] = None

    def beside_data(self) -> str:
        """The first option that was given beside `--data`; empty if there is none."""
        return _first_given({"--unpack": self.unpack, "--samples": self.samples}) or self.of_images()

    def of_images(self) -> str:
        """The first option that was given for a folder of images; empty if there is none."""
        return _first_given({"--batch-size": self.batch_size, "--mean": self.mean, "--std": self.std})


def _first_given(options: dict[str, object]) -> str:
    return next((name for name, value in options.items() if value is not None), "")
