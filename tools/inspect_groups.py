"""Show the channel groups of a model: who lives and dies together, what must stay, and why.

python tools/inspect_groups.py resnet18
python tools/inspect_groups.py vit_b_16 --members --svg vit.svg --html vit.html
python tools/inspect_groups.py mypackage.nets:make --input-shape 1,3,64,64
python tools/inspect_groups.py resnet18 --json - | python -m json.tool
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import torchvision_models as tv
import typer
from rich.console import Console
from torch import nn

import fxprune
from fxprune import report
from fxprune.storage.files import write_whole

_DEFAULT_SHAPE = (1, 3, 224, 224)
_PIPE_WIDTH = 120
_MOST_NUMBERS = 2**28  # of an input: a gigabyte


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
    try:
        with redirect_stdout(sys.stderr):  # what a model prints is no part of the output
            torch.manual_seed(0)
            inputs = _inputs(model, input_shape or [])
            groups = fxprune.find_groups(fxprune.trace(_model(model), inputs), ignored or (), heads=_heads(heads or []))
        for path, make in ((svg, report.picture), (html, report.page)):
            if path:
                _write(path, make(groups, model))
        if as_json:
            _write_json(as_json, groups)
        if as_json != "-":
            show(groups, model, members)
    except fxprune.FxpruneError as error:
        _fail(str(error))


def show(groups: fxprune.Groups, title: str, members: bool) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(_PIPE_WIDTH, console.width))
    console.print(report.group_table(groups, f"{title}: {len(groups)} prunable groups; {fxprune.cost(groups)}"))
    for group in groups if members else ():
        console.print(report.members_table(group))
    console.print(report.fixed_table(groups))
    named = ", ".join(f"{op} ({n}x)" for op, n in groups.unknown_ops.most_common())
    console.print(f"ops without a rule: {named or 'none'}", markup=False, highlight=False)


def _heads(given: Sequence[str]) -> str | dict[str, str]:
    """A choice for all attention, or one for each module."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    pairs = [text.partition("=")[::2] for text in given]
    if any(not choice for _, choice in pairs):
        _fail("several choices of heads need modules; give --heads 'layers.0*=head_dim' --heads 'layers.1*=num_heads'")
    return dict(pairs)


def _model(name: str) -> nn.Module:
    if ":" not in name:
        known = _known(name)
        return _attempt(lambda: tv.build(known), f"torchvision's {name}").eval()  # type: ignore[no-any-return]
    model = _attempt(_factory(name), name)
    if not isinstance(model, nn.Module):
        _fail(f"{name} returned no nn.Module; seen: {type(model).__name__}")
    return model.eval()


def _known(name: str) -> str:
    names = tv.names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 3) or [n for n in names if name.lower() in n][:3]
        hint = f"did you mean {', '.join(near)}?" if near else "give a torchvision name or module:factory"
        _fail(f"no torchvision model is called '{name}'; {hint}")
    return name


def _factory(name: str) -> Callable[[], Any]:
    path, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(path)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        _fail(f"cannot import {path}: {error}; run where the module lies, or put its folder on PYTHONPATH")
    except AttributeError:
        near = difflib.get_close_matches(attribute, dir(found), 3)
        _fail(f"{path} has no '{attribute}'" + (f"; did you mean {', '.join(near)}?" if near else ""))
    except Exception as error:
        _fail(f"importing {path} raised {_told(error)}")
    if not callable(found):
        _fail(
            f"{name} is not callable; seen: {type(found).__name__}; give a function or class that returns an nn.Module"
        )
    return found  # type: ignore[no-any-return]


def _attempt(build: Callable[[], Any], what: str) -> Any:
    try:
        return build()
    except Exception as error:
        _fail(f"{what} raised {_told(error)}")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _inputs(name: str, shapes: list[str]) -> Any:
    if not shapes:
        return torch.rand(_DEFAULT_SHAPE) if ":" in name else tv.example(_known(name))
    return tuple(torch.rand(_shape(text)) for text in shapes)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        _fail(f"not a shape: '{text}'; give positive numbers with commas, for instance 1,3,224,224")
    if math.prod(shape) > _MOST_NUMBERS:
        _fail(f"too large an input: '{text}'; give one of at most {_MOST_NUMBERS} numbers")
    return shape


def _write_json(target: str, groups: fxprune.Groups) -> None:
    text = json.dumps(report.as_dict(groups), indent=1)
    if target == "-":
        print(text)
    else:
        _write(Path(target), text + "\n")


def _write(path: Path, text: str) -> None:
    """Replace the file whole or not at all."""
    try:
        write_whole(path, text.encode())
    except OSError as error:
        _fail(f"cannot write {path}: {error.strerror}")
    print(f"wrote {path}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
