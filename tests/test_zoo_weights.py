"""The weights that come with the zoo, and the command line."""

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zoo.__main__ import app
from zoo.checkpoints import describe, load
from zoo.cook import WEIGHTS
from zoo.data import Splits
from zoo.data import load as load_data
from zoo.recipes import RECIPES
from zoo.train import accuracy


@pytest.mark.parametrize("name", RECIPES)
def test_weights_belong_to_their_recipe_and_are_small(name: str) -> None:
    path, recipe = WEIGHTS / f"{name}.safetensors", RECIPES[name]
    metadata = describe(path)
    assert (metadata.recipe, metadata.network, metadata.data) == (name, recipe.network, recipe.data)
    assert metadata.arguments == recipe.arguments
    assert metadata.training.items() >= dataclasses.asdict(recipe.settings).items()
    assert path.stat().st_size < 5_000_000


def test_the_digits_weights_reach_what_they_claim() -> None:
    model, metadata = load(WEIGHTS / "digits-resnet20.safetensors")
    splits: Splits = load_data(metadata.data, seed=metadata.seed)
    assert accuracy(model, splits.val) == metadata.val_accuracy
    assert accuracy(model, splits.test) == metadata.test_accuracy >= 0.985


def test_a_recipe_is_trained_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["digits-resnet20"]
    short = dataclasses.replace(
        recipe,
        arguments={**recipe.arguments, "depth": 8},
        settings=dataclasses.replace(recipe.settings, epochs=1),
    )
    monkeypatch.setitem(RECIPES, recipe.name, short)  # type: ignore[arg-type]
    result = CliRunner().invoke(app, ["train", recipe.name, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["digits-resnet20.safetensors"]
    metadata = describe(tmp_path / "digits-resnet20.safetensors")
    assert f"test {100 * metadata.test_accuracy:.2f} %" in result.output


def test_the_command_line_says_what_is_wrong_in_one_line() -> None:
    result = CliRunner().invoke(app, ["train", "resnet"])
    assert result.exit_code == 1
    assert result.output == "error: no recipe 'resnet'; there are digits-resnet20, fashion-resnet20\n"


def test_list_shows_every_recipe() -> None:
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in RECIPES)
