"""The commands, registered. `fxprune --install-completion` installs completion for the shell."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from fxprune.cli.compare import compare
from fxprune.cli.export import export
from fxprune.cli.groups import inspect
from fxprune.cli.prove import latency, verify
from fxprune.cli.prune import prune, search

_CODES = (
    "Exit codes: 0 fine; 1 a check failed (verify, export); 2 wrong input, or the caller's own code raised; "
    "130 interrupted."
)

app = typer.Typer(
    name="fxprune", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, epilog=_CODES
)
for _command in (inspect, prune, search, verify, latency, export, compare):
    app.command()(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fxprune {version('fxprune')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Make PyTorch models smaller and faster by removing whole channels."""
