"""The weights that come with the zoo, and the command line."""

import dataclasses
import functools
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zoo.__main__ import app
from zoo.checkpoints import describe, load
from zoo.data import Splits
from zoo.data import load as load_data
from zoo.errors import ZooError
from zoo.recipes import ADAPTATIONS, RECIPES
from zoo.splits import Split
from zoo.train import accuracy
from zoo.train_recipe import WEIGHTS

KEPT = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize("name", KEPT)
def test_weights_belong_to_their_recipe_and_are_small(name: str) -> None:
    path, recipe = WEIGHTS / f"{name}.safetensors", RECIPES[name]
    metadata = describe(path)
    assert (metadata.recipe, metadata.network, metadata.data) == (name, recipe.network, recipe.data)
    assert metadata.arguments == recipe.arguments
    numbers = recipe.plain()
    assert metadata.training["lr"] == numbers["lr"]
    assert all(numbers[name] == value for name, value in metadata.training.items() if name in numbers)
    assert path.stat().st_size < 5_000_000


def test_the_digits_weights_reach_what_they_claim() -> None:
    model, metadata = load(WEIGHTS / "digits-resnet20.safetensors")
    splits: Splits = load_data(metadata.data, seed=metadata.seed)
    assert accuracy(model, splits.val) == metadata.val_accuracy
    assert accuracy(model, splits.test) == metadata.test_accuracy >= 0.985


@pytest.mark.parametrize("name", [name for name in KEPT if name != "digits-resnet20"])
def test_weights_reach_what_they_claim_on_a_slice(name: str) -> None:
    """250 images: two standard errors of 94 % are 3 points."""
    model, metadata = load(WEIGHTS / f"{name}.safetensors")
    try:
        test = first_of_test(metadata.data, metadata.seed)
    except ZooError as error:
        pytest.skip(str(error))
    assert abs(accuracy(model, test) - metadata.test_accuracy) < 0.03


@functools.cache
def first_of_test(data: str, seed: int) -> Split:
    return load_data(data, seed=seed).test[:250]


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


def test_weights_are_pruned_and_tuned_from_the_command_line(tmp_path: Path) -> None:
    options = ["--pruning-ratio", "0.25", "--epochs", "1", "--lr", "0.01", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["tune", "digits-resnet20", *options])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["digits-resnet20-pruned.safetensors"]
    model, metadata = load(tmp_path / "digits-resnet20-pruned.safetensors")
    assert model.conv1.out_channels == 12
    splits = load_data("digits", seed=metadata.seed)
    assert accuracy(model, splits.test) == metadata.test_accuracy >= 0.95
    assert re.search(r"5\d\.\d % of the MACs and 5\d\.\d % of the parameters left", result.output)
    plan = tmp_path / "plan.json"
    plan.write_text(str(metadata.plan))
    again = CliRunner().invoke(app, ["tune", "digits-resnet20", "--plan", str(plan), *options[2:]])
    assert again.output.split("\n")[-2] == result.output.split("\n")[-2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pruning-ratio", "1.5"], "error: the pruning ratio"),
        (["--lr", "-1"], "error: fit: lr must be a finite number above 0, got -1.0"),
        (["--plan", __file__], "error: "),
    ],
)
def test_wrong_options_are_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tune", "digits-resnet20", "--out", str(tmp_path), *options])
    assert result.exit_code == 1
    assert result.output.startswith(message)
    assert result.output.count("\n") == 1


def test_the_command_line_says_what_is_wrong_in_one_line() -> None:
    result = CliRunner().invoke(app, ["train", "resnet"])
    assert result.exit_code == 1
    assert result.output == f"error: no recipe 'resnet'; there are {', '.join(RECIPES)}\n"


def test_weights_are_checked_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, ["check", "digits-resnet20"])
    assert result.exit_code == 0
    assert result.output.count("claimed 0.99") == 2
    monkeypatch.setattr("zoo.cli.training.TOLERANCE", -1.0)
    worse = CliRunner().invoke(app, ["check", "digits-resnet20"])
    assert worse.exit_code == 1
    assert "error: val accuracy is not what the weights claim" in worse.output


def test_list_shows_every_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for draw in ("uniform_", "normal_"):  # on meta tensors they draw nothing, and take long for it
        monkeypatch.setattr(torch.Tensor, draw, lambda tensor, *_, **__: tensor)
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in (*RECIPES, *ADAPTATIONS))
