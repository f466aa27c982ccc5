"""``python -m zoo``: train the networks of the zoo, list them, check their weights, prune and adapt them."""

import typer

from zoo.cli.adapting import adapt
from zoo.cli.prune_adapting import prune_adapt
from zoo.cli.searching import search
from zoo.cli.training import check, list_recipes, train
from zoo.cli.tuning import tune

app = typer.Typer(help="Networks to prune, and their training.", no_args_is_help=True, add_completion=False)
for command in (train, check, tune, search, adapt, prune_adapt):
    app.command()(command)
app.command("list")(list_recipes)

if __name__ == "__main__":
    app()
