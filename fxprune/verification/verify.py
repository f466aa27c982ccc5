"""Verify: the pruned model equals the masked one.

Zero the slices that a plan removes in the full-size model: its output must equal the pruned model's, whatever the
model is, except where a norm, mean or softmax runs over the pruned dim itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.errors import check_data
from fxprune.module.isolation import Inputs, as_call, finish
from fxprune.module.parametrizations import directions
from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import check_fit
from fxprune.verification.compare import refuse_nan_in
from fxprune.verification.inputs import tensors_in
from fxprune.verification.judgement import Measured, Question, judged


def verify(model: nn.Module, plan: Plan, example_inputs: Any, *, randomise: bool = True, seed: int = 0) -> float:
    """The largest relative deviation between the pruned model and the masked one.

    Computed in float32, which suffices where every number is equal but for its last two bits: that counts as 0. Else
    in float64, or, where the model's code insists on another type, in the model's own.

    A deep net that was never trained damps its signal until a wrong channel in an early layer hides below rounding.
    Therefore the comparison runs, on copies, with every signal randomised: tensors whose elements are all equal (fresh
    scales and shifts, which look the same in any order, and blank example inputs, unless the model refuses others) are
    drawn anew, BatchNorm statistics are estimated on the masked model from the example, and biases are set so that no
    ReLU is dead. That tests the plan and the rewriting, whatever the weights and the example.

    Both models draw the same random numbers; where they differ in spite of that, for noise may have the shape of a
    pruned activation, they are compared again without noise, and with 0 in the place of what is not finite.

    Where modules run in training mode only (auxiliary heads), and the model trains without targets, both models are
    compared in training mode as well, with BatchNorm in evaluation mode and without dropout.

    Args:
        model: the full-size model; untouched.
        plan: the plan to prove.
        example_inputs: as for `fxprune.trace`.
        randomise: False compares with the model's own weights and statistics, and on the example, as they are.
        seed: of the values drawn for constant tensors, and of the random numbers that the models draw.

    Returns:
        max |pruned - masked| / max |masked|, the largest over all outputs, and over the results of all modules whose
        shape the plan leaves alone (a detector's outputs may be empty). Rounding gives about 1e-12, a wrong
        plan more than 1e-5; infinity if the masked model trains and the pruned one fails, or if either computes NaN
        where the model itself does not.

    Raises:
        PlanError: the plan is for another model.
        ProofError: the pruned model fails where the full-size one runs.
        InputError: the model fails on the inputs, computes NaN, is on the meta device, or cannot be copied; or there
            was nothing to compare.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> x = torch.rand(2, 3, 8, 8)
    >>> groups = fxprune.find_groups(fxprune.trace(net, x))
    >>> fxprune.verify(net, groups.plan({"0": [0, 3, 5]}), x) < 1e-12
    True
    """
    check_fit(model, plan)
    refuse_nan_in(model)
    return measured(Question(model, plan, seed, randomise), example_inputs).deviation


def measured(question: Question, example_inputs: Any) -> Measured:
    """What `verify` returns, and what is still rounding."""
    check_fit(question.model, question.plan)
    inputs = as_call(example_inputs)
    _check_all_data(question.model, inputs)
    with torch.inference_mode(False), torch.no_grad():
        return judged(question, inputs)


def _check_all_data(model: nn.Module, inputs: Inputs) -> None:
    for name, t in [*tensors_of(model).items(), *(("the example inputs", t) for t in tensors_in(inputs))]:
        check_data(name, t)


def mask(model: nn.Module, plan: Plan) -> None:
    """Zero, in place, what the plan removes: the full-size model that behaves like the pruned one.

    If that is interrupted, the numbers are put back.

    Raises:
        PlanError: the plan is for another model.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.mask(net, groups.plan({"0": [1]}))
    >>> net[0].weight[[0, 2]].flatten().tolist(), net[2].weight[0, [0, 2]].tolist()
    ([0.0, 0.0], [0.0, 0.0])
    """
    tensors = check_fit(model, plan)
    undo: list[Callable[[], object]] = []
    every, lengths = plan.cuts(), directions(model)
    with torch.no_grad():
        try:
            for name, cuts in every.items():
                for dim, kept in cuts.items():
                    if dim in every.get(lengths.get(name, ""), {}):
                        continue  # its length is zeroed
                    gone = torch.from_numpy(np.delete(np.arange(tensors[name].shape[dim]), kept))
                    where = (dim, gone.to(tensors[name].device))
                    undo.append(partial(tensors[name].index_copy_, *where, tensors[name].index_select(*where)))
                    tensors[name].index_fill_(*where, 0)
        except BaseException:
            finish(reversed(undo))
            raise
