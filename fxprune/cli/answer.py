"""What a command gives back, and how it is shown.

Exit codes: 0 fine, 1 a check failed, 2 wrong input or code of the caller's that raises, 130 Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import click
import typer
from rich.console import Console, RenderableType

from fxprune.errors import FxpruneError, StorageError, TraceError
from fxprune.interrupts import interrupts_kept
from fxprune.storage.files import write_whole

_PIPE_WIDTH = 120
_WRONG_INPUT, _INTERRUPTED = 2, 130


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        data: for `--json`.
        shown: for people, one below the other.
        code: the exit code.
    """

    data: dict[str, Any]
    shown: Sequence[RenderableType] = field(default_factory=tuple)
    code: int = 0


class CommandError(FxpruneError):
    """The command line asks for something that does not exist or cannot be done."""


Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]


def command(function: Callable[..., Answer]) -> Callable[..., None]:
    """A command for typer: dataclass arguments become options, `--json` is added, the answer is printed.

    What the model's own code prints goes to standard error.
    """
    hints = {n: kind for n, kind in get_type_hints(function, include_extras=True).items() if n != "return"}
    parameters = [
        option
        for name, p in inspect.signature(function).parameters.items()
        for option in _options(p.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
    ]
    as_json = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)

    @functools.wraps(function)
    def run(*, as_json: bool, **given: Any) -> None:
        with reported(), interrupts_kept():
            with redirect_stdout(sys.stderr), _one_line_warnings():
                answer = function(**_bundled(hints, given))
            _print(answer, as_json)
            raise typer.Exit(answer.code)

    run.__signature__ = inspect.Signature([*parameters, as_json])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*parameters, as_json)}
    return run


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings go to standard error, a line each, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
        yield


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    kind = parameter.annotation
    if not dataclasses.is_dataclass(kind):
        return [parameter]
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(f.name, parameter.kind, default=_default(f), annotation=hints[f.name])
        for f in dataclasses.fields(kind)
    ]


def _default(option: dataclasses.Field[Any]) -> Any:
    return inspect.Parameter.empty if option.default is dataclasses.MISSING else option.default


def _bundled(hints: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command, from the values of its options."""
    found = {}
    for name, kind in hints.items():
        if dataclasses.is_dataclass(kind):
            found[name] = kind(**{f.name: given[f.name] for f in dataclasses.fields(kind)})  # type: ignore[operator]
        elif name in given:
            found[name] = given[name]
    return found


class reported:
    """A context that turns errors into one line on standard error and an exit code."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, FxpruneError | OSError):
            shapes = "; --input-shape gives the inputs another shape" if isinstance(error, TraceError) else ""
            typer.echo(f"error: {error}{shapes}", err=True)
            raise typer.Exit(_WRONG_INPUT) from None
        if isinstance(error, KeyboardInterrupt):
            typer.echo(f"interrupted{f': {error}' if str(error) else ''}", err=True)
            raise typer.Exit(_INTERRUPTED) from None
        if isinstance(error, SystemExit):  # of code that is not ours: the command would end as if it had done its work
            typer.echo(f"error: the model's or data's own code ended the program: SystemExit: {error}", err=True)
            raise typer.Exit(_WRONG_INPUT) from None
        if isinstance(error, Exception) and not isinstance(error, typer.Exit | click.ClickException | click.Abort):
            traceback.print_exception(error)
            typer.echo(f"error: {type(error).__name__}: {' '.join(str(error).split())[:300]}", err=True)
            raise typer.Exit(_WRONG_INPUT) from None


def _print(answer: Answer, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_strict(answer.data), indent=1, allow_nan=False))
        return
    show(answer.shown)


def _strict(value: Any) -> Any:
    """Plain data without the numbers that JSON does not have: NaN and infinity become null."""
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(parts: Sequence[RenderableType]) -> None:
    """Print tables and lines; where the output is piped, in lines long enough for them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(_PIPE_WIDTH, console.width))
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(part)


def write(path: Path, text: str) -> None:
    """Replace a file whole or not at all.

    Raises:
        CommandError: it cannot be written.
    """
    try:
        write_whole(path, text.encode())
    except OSError as error:
        seen = error.seen if isinstance(error, StorageError) else error.strerror or error
        raise CommandError(f"cannot write {path}: {seen}") from error
    typer.echo(f"wrote {path}", err=True)
