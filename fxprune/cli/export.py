"""`fxprune export`: a model as an ONNX file or an exported program, checked against the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fxprune.cli import models, origin
from fxprune.cli.answer import Answer, CommandError, command
from fxprune.cli.engines import deviation, eager, exported, onnx_runtime, uneven_convolutions, write_onnx
from fxprune.cli.options import ModelOptions, Original, Tolerance, check_apart, named_path
from fxprune.storage.files import make_folder


@command
def export(
    model: ModelOptions,
    original: Original = None,
    onnx: Annotated[
        Path | None,
        typer.Option(parser=named_path, metavar="PATH", help="Write an ONNX file; it is run in ONNX Runtime."),
    ] = None,
    pt2: Annotated[
        Path | None,
        typer.Option(parser=named_path, metavar="PATH", help="Write an exported program; it is read again and run."),
    ] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Let the first dim have any length.")] = False,
    tolerance: Tolerance = 1e-3,
) -> Answer:
    """Write a model for use elsewhere, and check that the file gives the model's outputs."""
    if onnx is None and pt2 is None:
        raise CommandError("nothing to write; give --onnx FILE or --pt2 FILE")
    check_apart({"--onnx": onnx, "--pt2": pt2})
    loaded = models.load(model) if not origin.is_pruned(model.model) else None
    pair = None if loaded else origin.load(model, original)
    small, inputs = (loaded.model, loaded.inputs) if loaded else (pair.small, pair.original.inputs)  # type: ignore[union-attr]
    expected = eager(small)(inputs)
    for file in (onnx, pt2):
        if file is not None:
            make_folder(file.parent)
    found: dict[str, Any] = {}
    hints: list[str] = []
    if onnx is not None:
        write_onnx(small, inputs, onnx, dynamic_batch)
        found["onnx"] = {"file": str(onnx), "deviation": deviation(expected, onnx_runtime(onnx)(inputs))}
        hints = _uneven(onnx, found["onnx"])
    if pt2 is not None:
        torch.export.save(exported(small, inputs, dynamic_batch), pt2)
        again = torch.export.load(pt2).module()
        found["pt2"] = {"file": str(pt2), "deviation": deviation(expected, eager(again)(inputs))}
    fine = all(part["deviation"] <= tolerance for part in found.values())
    lines = [f"wrote {part['file']}: {_in_words(part['deviation'], tolerance)}" for part in found.values()]
    return Answer({**found, "tolerance": tolerance, "passed": fine}, [*lines, *hints], 0 if fine else 1)


def _uneven(file: Path, told: dict[str, Any]) -> list[str]:
    """What to do about convolutions that ONNX Runtime has no quick way for; their number is added to what is told."""
    uneven, convolutions = uneven_convolutions(file)
    if not uneven:
        return []
    told["uneven_convolutions"] = uneven
    return [
        f"{uneven} of {convolutions} convolutions have channels that 4 does not divide, which can be slow in ONNX "
        "Runtime on CPUs: prune with --round-to 8, and measure with fxprune compare"
    ]


def _in_words(error: float, tolerance: float) -> str:
    sign = "within" if error <= tolerance else "NOT within"
    return f"largest relative deviation from the model {error:.1e}, {sign} {tolerance:.0e}"
