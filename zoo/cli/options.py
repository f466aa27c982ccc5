"""Options and errors that several commands share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer

from zoo.errors import ZooError

Name = Annotated[str, typer.Argument(help="Recipe; 'python -m zoo list' shows them.", show_default=False)]
Root = Annotated[Path | None, typer.Option("--data-root", help="Folder of the files.", show_default=False)]
Download = Annotated[bool, typer.Option("--download", help="Fetch missing files.")]
Device = Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]
Mixed = Annotated[bool | None, typer.Option(help="Compute in bfloat16 where possible.", show_default="on cuda")]
Log = Annotated[Path | None, typer.Option(help="Folder for a TensorBoard log.", show_default=False)]

R = TypeVar("R")


def chosen(recipes: Mapping[str, R], name: str) -> R:
    """The recipe ``name``.

    Raises:
        ZooError: there is none of that name.
    """
    if name not in recipes:
        raise ZooError(f"no recipe {name!r}; there are {', '.join(recipes)}")
    return recipes[name]


def use(threads: int | None) -> None:
    """Compute with this many threads."""
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Show an error of the zoo, or of one of ``kinds``, without its trace, and exit with status 1; after Ctrl-C 130."""
    shown: tuple[type[Exception], ...] = (ZooError, *kinds)
    try:
        yield
    except shown as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo(f"interrupted: {error}" if str(error) else "interrupted", err=True)
        raise typer.Exit(130) from error
