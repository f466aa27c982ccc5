"""`python -m fxprune` is the command `fxprune`."""

from fxprune.cli.app import app

if __name__ == "__main__":
    app(prog_name="fxprune")
