"""Write docs/command-reference.md: every command with its options.

PYTHONPATH=. python tools/command_reference.py > docs/command-reference.md
"""

from __future__ import annotations

from typer.testing import CliRunner

from fxprune.cli.app import app

COMMANDS = ("inspect", "prune", "search", "verify", "latency", "export", "compare")
HEAD = """# Options of the command

What `fxprune --help` and the help of each command print; `tools/command_reference.py` writes this page, and a test
compares. A job from end to end, with its output: [The command line](command-line.md).
"""


def page() -> str:
    """The page."""
    parts = [HEAD, "\n", block("fxprune --help")]
    parts += [f"\n## fxprune {name}\n\n{block(f'fxprune {name} --help')}" for name in COMMANDS]
    return "".join(parts)


def block(command: str) -> str:
    """A command and what it prints."""
    environment = {"COLUMNS": "110", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
    found = CliRunner().invoke(app, command.split()[1:], prog_name="fxprune", env=environment)
    lines = [line.rstrip() for line in found.output.strip().splitlines()]
    return "\n".join(["```", f"$ {command}", *lines, "```", ""])


if __name__ == "__main__":
    print(page(), end="")
