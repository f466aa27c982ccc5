"""Show the channel groups of a model: who lives and dies together, what must stay, and why.

python tools/inspect_groups.py resnet18
python tools/inspect_groups.py vit_b_16 --members --svg vit.svg --html vit.html
python tools/inspect_groups.py mypackage.nets:make --input-shape 1,3,64,64
python tools/inspect_groups.py resnet18 --json - | python -m json.tool
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import torch
import typer

import fxprune
from fxprune import report
from fxprune.cli.answer import reported, show, write
from fxprune.cli.groups import heads as choices
from fxprune.cli.groups import tables
from fxprune.cli.libraries import Loaded, check_known
from fxprune.cli.models import attempt, example, named


def main(
    model: Annotated[str, typer.Argument(help="A torchvision model's name, or module:factory.")],
    input_shape: Annotated[
        list[str] | None, typer.Option(help="Shape of an input, e.g. 1,3,224,224; repeat it for several inputs.")
    ] = None,
    ignored: Annotated[
        list[str] | None, typer.Option(help="Keep this module, parameter or group whole; repeatable.")
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(
            help="What of attention shrinks: head_dim, num_heads, MODULE=head_dim; patterns and repeats are fine."
        ),
    ] = None,
    members: Annotated[bool, typer.Option("--members", help="List all members of each group.")] = False,
    as_json: Annotated[
        str | None, typer.Option("--json", help="Write JSON to this file; - for standard output.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture of the groups to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a web page (picture and tables) to this file.")] = None,
) -> None:
    """Show the channel groups of a model, and what must stay and why.

    A factory is a callable without arguments that returns an nn.Module; its module is looked for in the working
    directory and on the import path. Files are written whole or not at all, and replaced if they exist.
    """
    with reported():
        with redirect_stdout(sys.stderr):  # what a model prints does not belong to the output
            torch.manual_seed(0)
            loaded = _load(model)
            inputs = example(input_shape or (), loaded.inputs)
            graph = fxprune.trace(loaded.model, inputs)
            groups = fxprune.find_groups(graph, ignored or (), heads=choices(heads or ()))
        for path, make in ((svg, report.picture), (html, report.page)):
            if path:
                write(path, make(groups, model))
        if as_json:
            _write_json(as_json, groups)
        if as_json != "-":
            show(tables(groups, model, members))


def _load(name: str) -> Loaded:
    """A model of torchvision, with small example inputs, or a factory's."""
    if ":" in name:
        return named(name, {})
    import torchvision_models as tv  # here, since a model of one's own needs no torchvision, which takes seconds

    check_known("torchvision", name, tv.names())
    return Loaded(attempt(lambda: tv.build(name), f"torchvision's {name}").eval(), tv.example(name))


def _write_json(target: str, groups: fxprune.Groups) -> None:
    text = json.dumps(report.as_dict(groups), indent=1)
    if target == "-":
        print(text)
    else:
        write(Path(target), text + "\n")


if __name__ == "__main__":
    typer.run(main)
