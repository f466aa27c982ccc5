"""What `fxprune.prune` was given: a model, goals that do not exclude each other, a number of steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fxprune.errors import InputError, check_integer, check_kind, check_number, check_of_model
from fxprune.planners.budget import Planner
from fxprune.planners.goals import BUDGETS, Goals


def check_model(model: Any, example_inputs: Any) -> None:
    """Refuse what is no model.

    Raises:
        InputError: it is none.
    """
    if isinstance(example_inputs, nn.Module) and not isinstance(model, nn.Module):
        remedy = "prune(model, example_inputs, ...)"
        raise InputError("model and example inputs are swapped", seen=type(model).__name__, remedy=remedy)
    check_kind("the model", model, nn.Module, "give a torch.nn.Module")


def check_goals(goals: Goals, planner: Planner | None, evaluate: Any, max_drop: Any, folder: Any) -> None:
    """Refuse goals that are missing, exclude each other or go without what they need.

    Raises:
        InputError: they do.
    """
    kinds = {
        "goals": goals.given(),
        "planner": planner is not None,
        "max_drop": max_drop is not None,
    }
    given = [name for name, there in kinds.items() if there]
    if not given:
        budgets = ", ".join(f"{name}=0.5" for name in BUDGETS)
        remedy = f"give {budgets} (what stays), pruning_ratio=0.5 (what goes), or evaluate= with max_drop="
        raise InputError("no goal is given", remedy=remedy)
    if len(given) > 1:
        names = {"goals": "macs=, parameters=, latency= or pruning_ratio="}
        seen = " and ".join(names.get(name, f"{name}=") for name in given)
        raise InputError("goals that exclude each other", seen=seen, remedy="give one of them")
    if planner is not None and goals.round_to != 1:
        remedy = "give the planner its constraints: planners.Uniform(0.5, planners.Constraints(round_to=8))"
        raise InputError("round_to= does not reach a planner of yours", seen=f"{goals.round_to}", remedy=remedy)
    if (evaluate is None) != (max_drop is None):
        raise InputError("evaluate= and max_drop= need each other", remedy="give both, or neither")
    check_of_model("evaluate", evaluate, "evaluate(model) gives a number")
    if max_drop is not None:
        check_number("max_drop", max_drop, "[0, inf)", "give 0 or more, in evaluate's unit")
    if folder is not None and max_drop is None:
        raise InputError("folder= is for searches", seen=repr(folder), remedy="give it with max_drop=, or leave it out")


def check_steps(steps: Any, tune: Any, planner: Planner | None, max_drop: float | None) -> None:
    """Refuse steps that are no number, or that a goal cannot be parted into.

    Raises:
        InputError: they are, or `tune` is no function.
    """
    check_integer("steps", steps, 1, "give 1 or more")
    if steps > 1 and (planner is not None or max_drop is not None):
        raise InputError("steps= needs a goal that can be parted", seen="planner= or max_drop=", remedy="give macs=0.5")
    check_of_model("tune", tune, "give tune(model), which trains in place")


@contextmanager
def told_of_step(step: int, steps: int) -> Iterator[None]:
    """Name the step in which something fails, most of all a goal that is out of reach after the steps before.

    Raises:
        InputError: that of the block.
    """
    try:
        yield
    except InputError as error:
        if step == 1:
            raise
        raise InputError(
            f"step {step} of {steps} fails",
            seen=str(error),
            remedy="if the steps before leave too little to choose from, give fewer steps, or a nearer goal",
        ) from error
