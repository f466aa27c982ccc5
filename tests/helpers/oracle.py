"""The oracle that holds for every model: what a pruned model must have in common with the full-size one."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

import fxprune

ROUNDING = 1e-9
WRONG = 1e-5


def tensors(output: Any) -> list[Tensor]:
    """The tensors of an output: containers and dataclasses of them."""
    found: list[Tensor] = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf):
            found += [t for f in fields(leaf) for t in tensors(getattr(leaf, f.name))]
    return found


@contextmanager
def fused_kernels_off() -> Iterator[None]:
    """Attention and recurrent layers as their parts, so that the flop counter sees every product."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags warns of its own defaults
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(True)


def counted_macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """MACs as PyTorch's flop counter sees them."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), fused_kernels_off(), counter:
        model(*inputs)
    return int(counter.get_total_flops()) // 2


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def random_plan(model: nn.Module, groups: fxprune.Groups, ratio: float, seed: int = 0) -> fxprune.Plan:
    scores = fxprune.scorers.Random(seed)(model, groups)
    return fxprune.planners.Uniform(ratio)(groups, scores)


def without_mixed(groups: fxprune.Groups, plan: fxprune.Plan) -> fxprune.Plan:
    """The plan without the groups where pruned and masked may differ: those that a norm, mean or softmax runs over, and
    those tied to them.
    """
    mixed = {g.name for g in groups if g.mixed_by}
    mixed |= {name for tie in groups.ties if tie & mixed for name in tie}
    return groups.plan({g.name: plan.groups[g.name].kept for g in groups if g.name not in mixed})


def check(
    build: Callable[[], nn.Module],
    inputs: Callable[[int], tuple[Any, ...]],
    ratio: float,
    seed: int = 0,
    groups: fxprune.Groups | None = None,
) -> fxprune.Plan:
    """Prune `build()` at random and check everything that must hold; returns the plan.

    Args:
        build: makes the same model each time.
        inputs: example inputs of a batch size; the model is traced with one sample and run with two.
        ratio: pruning ratio.
        seed: of the scores.
        groups: of such a model and one sample, where they are known.
    """
    model, x = build(), inputs(1)
    groups = fxprune.find_groups(fxprune.trace(model, x)) if groups is None else groups
    plan = random_plan(model, groups, ratio, seed)
    if not len(groups):
        return plan
    assert fxprune.verify(model, without_mixed(groups, plan), x) <= ROUNDING
    small = fxprune.rewrite(model, plan).eval()
    check_cost(model, small, groups, plan, x)
    for batch in (1, 2):
        check_outputs(model, small, inputs(batch))
    check_round_trip(build, small, plan, inputs(2))
    check_training(model, small, inputs(2))
    return plan


def check_outputs(model: nn.Module, small: nn.Module, x: tuple[Any, ...]) -> None:
    with torch.no_grad():
        full, pruned = tensors(model(*x)), tensors(small(*x))
    assert [t.shape for t in full] == [t.shape for t in pruned]
    assert [t.dtype for t in full] == [t.dtype for t in pruned]


def check_cost(
    model: nn.Module, small: nn.Module, groups: fxprune.Groups, plan: fxprune.Plan, x: tuple[Any, ...]
) -> None:
    """The cost model agrees exactly with the models and with PyTorch's flop counter."""
    before, after = fxprune.cost(groups), fxprune.cost(groups, plan)
    assert (before.parameters, after.parameters) == (parameter_count(model), parameter_count(small))
    assert before.macs == counted_macs(model, x)
    if 1 in plan.kept_counts().values() and any("einsum" in str(n.meta.get("function")) for n in groups.graph.fx.nodes):
        return  # einsum takes another way, without a matrix product, for a single channel
    assert after.macs == counted_macs(small, x)


def check_round_trip(build: Callable[[], nn.Module], small: nn.Module, plan: fxprune.Plan, x: tuple[Any, ...]) -> None:
    """A fresh instance, the plan from a file and the pruned weights give the pruned model's outputs."""
    path = _folder() / "plan.json"
    plan.save(path)
    loaded = fxprune.Plan.load(path)
    assert loaded == plan
    again = fxprune.rewrite(build(), loaded).eval()
    again.load_state_dict(small.state_dict(), strict=True)
    with torch.no_grad():
        for a, b in zip(tensors(small(*x)), tensors(again(*x)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@cache  # hundreds of tests write a plan
def _folder() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


def check_training(model: nn.Module, small: nn.Module, x: tuple[Any, ...]) -> None:
    """The pruned model trains: outputs of the full-size model's shapes, gradients for the same parameters."""
    gradients = [_gradients(m, x) for m in (model, small)]
    assert gradients[0] == gradients[1]
    before = [p.detach().clone() for p in small.parameters()]
    torch.optim.Adam(small.parameters(), lr=0.1).step()
    assert any(not torch.equal(p, b) for p, b in zip(small.parameters(), before, strict=True))
    assert all(bool(p.isfinite().all()) for p in small.parameters())


def _gradients(model: nn.Module, x: tuple[Any, ...]) -> tuple[list[str], list[torch.Size]]:
    """Names of the parameters with a gradient after a training step, and the outputs' shapes in training mode."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    output = tensors(model(*x))
    sum(t.square().mean() for t in output).backward()  # type: ignore[union-attr]
    model.eval()
    return [n for n, p in model.named_parameters() if p.grad is not None], [t.shape for t in output]


@torch.no_grad()
def deviation(model: nn.Module, plan: fxprune.Plan, x: tuple[Any, ...] | dict[str, Any]) -> float:
    """How far the pruned model is from the full-size one whose pruned slices are zero, in float64, relative to it.

    The zeros are set here, by the slots of the groups, not by `fxprune.mask`.
    """
    full = copy.deepcopy(model).double()
    given = tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, x)
    small = fxprune.rewrite(full, plan)
    named = {**dict(full.named_parameters()), **dict(full.named_buffers())}
    for group in plan.groups.values():
        for slot in group.slots:
            gone = slot.positions[~np.isin(slot.channels, group.kept)]
            named[slot.tensor].index_fill_(slot.dim, torch.from_numpy(gone), 0)
    outputs = [tensors(m(**given) if isinstance(given, dict) else m(*given)) for m in (full, small)]
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in zip(*outputs, strict=True))
