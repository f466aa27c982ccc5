"""`fxprune export`: a model as an ONNX file or an exported program, checked against the model itself."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from zipfile import BadZipFile, ZipFile

import torch
import typer

from fxprune.cli import models, origin
from fxprune.cli.answer import Answer, CommandError, command
from fxprune.cli.engines import deviation, exported, onnx_runtime, outputs_of, uneven_convolutions, write_onnx
from fxprune.cli.options import ModelOptions, Original, Tolerance, check_apart, named_path
from fxprune.storage.files import make_folder, of_others, refuse_unmarked, write_whole


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
    _check_free(onnx, pt2)
    loaded = models.load(model) if not origin.is_pruned(model.model) else None
    pair = None if loaded else origin.load(model, original)
    small, inputs = (loaded.model, loaded.inputs) if loaded else (pair.small, pair.original.inputs)  # type: ignore[union-attr]
    expected = outputs_of(small, inputs)
    for file in (onnx, pt2):
        if file is not None:
            make_folder(file.parent)
    found: dict[str, Any] = {}
    hints: list[str] = []
    if onnx is not None:
        with TemporaryDirectory() as folder:
            made = Path(folder) / "model.onnx"
            write_onnx(small, inputs, made, dynamic_batch)
            error = deviation(expected, onnx_runtime(made)(inputs))  # what it refuses replaces no file
            write_whole(onnx, made.read_bytes())
        found["onnx"] = {"file": str(onnx), "deviation": error}
        hints = _uneven(onnx, found["onnx"])
    if pt2 is not None:
        buffer = BytesIO()
        torch.export.save(exported(small, inputs, dynamic_batch), buffer, extra_files={_MARK: "1"})
        write_whole(pt2, buffer.getvalue())
        again = torch.export.load(pt2).module()
        found["pt2"] = {"file": str(pt2), "deviation": deviation(expected, outputs_of(again, inputs))}
    fine = all(part["deviation"] <= tolerance for part in found.values())
    lines = [f"wrote {part['file']}: {_in_words(part['deviation'], tolerance)}" for part in found.values()]
    return Answer({**found, "tolerance": tolerance, "passed": fine}, [*lines, *hints], 0 if fine else 1)


_MARK = "fxprune"  # the name of a file in the archive, so that only such archives are replaced
_ONNX_MARK = "\x12\x07pytorch"  # the producer, with which PyTorch's exporters begin


def _check_free(onnx: Path | None, pt2: Path | None) -> None:
    """Refuse files that would be lost, before the work starts.

    Raises:
        InputError: a file of the name is there that is none of PyTorch's in ONNX, or a program of someone else.
    """
    if onnx is not None:
        refuse_unmarked(onnx, _ONNX_MARK)
    if pt2 is not None and pt2.is_file() and pt2.stat().st_size:
        try:
            with ZipFile(pt2) as archive:
                names = archive.namelist()
        except BadZipFile as error:
            raise of_others(pt2, str(error)) from error
        if not any(name.endswith(f"/{_MARK}") for name in names):
            raise of_others(pt2, "an archive without fxprune's mark")


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
