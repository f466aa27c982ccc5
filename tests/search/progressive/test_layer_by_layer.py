"""Progressive pruning as published: each layer in its turn, towards the original's outputs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from search_toys import Wide
from sklearn.linear_model import lars_path
from torch import Tensor, nn

import fxprune
from fxprune.planners import Constraints
from fxprune.search import LayerByLayer, Progressive
from fxprune.testing import SEARCH_PROMISES, check_search

torch.manual_seed(0)
DATA = [torch.randn(60, 4), torch.randn(60, 4)]
X = torch.cat(DATA)


def chain(*widths: int) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for a, b in pairwise([4, *widths, 3]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def searched(model: nn.Module, evaluate: Any, **settings: Any) -> Any:
    groups = fxprune.find_groups(fxprune.trace(model, DATA[0]))
    search = Progressive(**{"progress": False, "method": LayerByLayer(positions=None, ridge=0.0), **settings})
    return search(model, groups, evaluate, data=DATA)


def reads(model: nn.Sequential, layer: int) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return model[:layer](X).double().numpy()


def by_hand(model: nn.Sequential, original: nn.Sequential, layer: int, count: int) -> list[int]:
    """Cut the inputs of `layer` to `count`, by scikit-learn's LARS on rows and `numpy.linalg.lstsq`; in place."""
    x, y = reads(model, layer), reads(original, layer + 1)
    reader: Any = model[layer]
    w = reader.weight.detach().double().numpy()
    centred = [z - z.mean(0) for z in (x, y)]
    stacked = np.stack([np.outer(centred[0][:, i], w[:, i]).ravel() for i in range(x.shape[1])], axis=1)
    _, _, path = lars_path(stacked, centred[1].ravel(), method="lasso")
    knot = int(np.argmax((path != 0).sum(0) >= count))
    kept = sorted(np.argsort(-np.abs(path[:, knot]), kind="stable")[:count].tolist())
    solution = np.linalg.lstsq(np.column_stack([x[:, kept], np.ones(len(x))]), y, rcond=None)[0]
    maker: Any = model[layer - 2]
    maker.weight = nn.Parameter(maker.weight.detach()[kept])
    maker.bias = nn.Parameter(maker.bias.detach()[kept])
    reader.weight = nn.Parameter(torch.tensor(solution[:-1].T, dtype=torch.float32))
    reader.bias = nn.Parameter(torch.tensor(solution[-1], dtype=torch.float32))
    return kept


def test_an_iteration_is_what_rows_give_by_hand() -> None:
    """Both groups of one iteration, shallow to deep: LARS on rows, each on the model as the one before left it."""
    model, by_rows = chain(16, 12), chain(16, 12)
    found = searched(model, lambda m: 0.0, keep=0.6, step=0.4, top=1.0)
    first = found.history[0]
    assert first.pruned == ("0", "2")
    expected = {name: by_hand(by_rows, model, layer, first.counts[name]) for name, layer in (("0", 2), ("2", 4))}
    assert {n: g.kept.tolist() for n, g in found.plan.groups.items()} == expected
    for ours, theirs in zip(found.model.parameters(), by_rows.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_layers_that_were_not_selected_stay_as_they_are() -> None:
    """Group 2 counts so much that only group 0 is pruned: its maker loses rows, its reader is refitted, no more."""
    model = chain(12, 12, 12)
    found = searched(model, lambda m: float(m[2].out_features + m[4].out_features), keep=0.9, step=0.1, top=0.3)
    assert {n for s in found.history for n in s.pruned} == {"0"}
    kept = found.plan.groups["0"].kept
    assert torch.equal(found.model[0].weight, model[0].weight[kept])
    assert not torch.equal(found.model[2].weight, model[2].weight[:, kept])
    for layer in (4, 6):
        assert torch.equal(found.model[layer].weight, model[layer].weight)
        assert torch.equal(found.model[layer].bias, model[layer].bias)


class Block(nn.Module):
    """A stream of 8 channels and a branch of 24; the branch repairs what the shortcut loses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(4, 24, 1), nn.Conv2d(4, 24, 1)
        self.shortcut, self.b = nn.Conv2d(24, 8, 1, bias=False), nn.Conv2d(24, 8, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shortcut(self.stem(x).relu()) + self.norm(self.b(self.a(x).relu()))
        return self.head(y.mean((2, 3)))


def test_the_branch_repairs_the_shortcut() -> None:
    """The branch is fitted to what it gave and what the shortcut, cut before it, lacks: `lstsq` on rows."""
    torch.manual_seed(2)
    model, data = Block().eval(), [torch.randn(32, 4, 5, 5) for _ in range(2)]
    groups = fxprune.find_groups(fxprune.trace(model, data[0]))

    rules, method = Constraints(ignored=("norm.weight",)), LayerByLayer(positions=None, ridge=0.0)
    search = Progressive(0.51, step=0.5, top=1.0, constraints=rules, progress=False, method=method)
    found = search(model, groups, lambda m: 0.0, data=data)
    assert set(found.history[0].pruned) == {"stem", "a"}
    small: Any = found.model
    with torch.no_grad():
        x = torch.cat(data)
        lacking = model.shortcut(model.stem(x).relu()) - small.shortcut(small.stem(x).relu())
        wanted = model.b(model.a(x).relu()) + lacking * (1 + model.norm.eps) ** 0.5  # through the norm of scale 1
        rows = nn.functional.unfold(small.a(x).relu(), 3, padding=1).mT.flatten(0, 1).double()
    columns = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    solution = torch.linalg.lstsq(columns, wanted.flatten(2).mT.flatten(0, 1).double()).solution
    torch.testing.assert_close(small.b.weight.flatten(1).double(), solution[:-1].T, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(small.norm.running_mean.double(), -solution[-1], atol=1e-4, rtol=1e-3)


def test_grouped_transposed_and_depthwise_readers_and_tied_groups() -> None:
    """Whatever reads a group, the refit is least squares: the pruned model's outputs come near to the original's."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 12, 1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 10, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(10 * 64, 3),
    ).eval()
    data = [torch.randn(40, 2, 4, 4) for _ in range(3)]
    groups = fxprune.find_groups(fxprune.trace(model, data[0]))

    def closeness(m: nn.Module) -> float:
        with torch.no_grad():
            return -float((m(torch.cat(data)) - model(torch.cat(data))).square().mean())

    exact, bare = (
        Progressive(0.6, step=0.2, top=0.5, progress=False, refit=None, method=method)(
            model, groups, closeness, scorer=fxprune.scorers.Lasso(), data=data
        )
        for method in (LayerByLayer(positions=None), None)
    )
    assert {"0", "3", "5"} == {n for s in exact.history for n in s.pruned}
    assert closeness(exact.model) > 0.5 * closeness(bare.model)


def test_a_group_whose_statistics_do_not_fit_takes_a_pass_of_its_own() -> None:
    model = chain(12, 12, 12)
    settings: dict[str, Any] = {"keep": 0.7, "top": 0.5, "step": 0.2}
    one, many = (
        searched(model, lambda m: 0.0, method=LayerByLayer(positions=None, memory=memory), **settings)
        for memory in (2**30, 1)
    )
    assert one.plan.kept_counts() == many.plan.kept_counts()
    for a, b in zip(one.model.parameters(), many.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_last_iteration_goes_by_rank() -> None:
    """Of three groups the last is hurt least, so that the last cut is its alone, though others come before it."""
    model = chain(20, 20, 20)
    found = searched(model, lambda m: float(np.dot([m[0].out_features, m[2].out_features], [2, 3])), keep=0.98, top=1.0)
    assert found.history[-1].pruned == ("4",)


def test_bad_settings_are_named() -> None:
    with pytest.raises(fxprune.InputError, match=r"ridge is not a number in \[0, inf\); seen: -1"):
        LayerByLayer(ridge=-1)
    with pytest.raises(fxprune.InputError, match="positions must be a positive integer"):
        LayerByLayer(positions=0)
    model, search = chain(8), Progressive(refit=None, method=LayerByLayer(), progress=False)
    groups = fxprune.find_groups(fxprune.trace(model, DATA[0]))
    with pytest.raises(fxprune.InputError, match="no data for its refits"):
        search(model, groups, lambda m: 0.0)


def test_samplers_let_a_branch_drop_what_it_reads() -> None:
    torch.manual_seed(0)
    model = fxprune.add_samplers(Wide(), ["a"])

    def closeness(m: nn.Module) -> float:
        with torch.no_grad():
            return -float((m(X) - model(X)).square().mean())

    method = LayerByLayer(positions=None, ridge=1e-6)
    found = searched(model, lambda m: 0.0, keep=0.6, step=0.2, top=1.0, method=method)
    (sampled,) = (name for name in found.plan.kept_counts() if name.startswith("a.sampled"))
    assert found.model.a.in_features == found.plan.kept_counts()[sampled] < 24
    assert closeness(found.model) > -1e-4  # a linear net of rank 4 loses nothing


RESUMED = ("interruptible", "remembers")


@pytest.mark.parametrize(
    "promise", [pytest.param(p, marks=[pytest.mark.slow] * (p not in RESUMED)) for p in SEARCH_PROMISES]
)
def test_contract_of_interrupted_searches(promise: str) -> None:
    check_search(Progressive(0.8, step=0.4, method=LayerByLayer(), progress=False), promises=[promise])


class SharedKeys(nn.Module):
    """Attention in which two heads share keys and values: they are copied before a layer reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(4, 4)
        self.o = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, 0]


def test_a_group_without_a_reader_is_named_with_what_helps() -> None:
    with pytest.raises(fxprune.InputError, match=r"reads these channels in group q.*or leave out method="):
        searched(SharedKeys().eval(), lambda _: 1.0, keep=0.7, step=0.25)
