"""Attention and its kin, in the idioms of vision libraries: groups as written by hand, and the oracle holds."""

import copy
import io
import warnings
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from attention_nets import CASES, MODES, Case, Mode
from nets import Members
from torch import Tensor, nn

import fxprune

HEADS = ("", *MODES)
# nn.MultiheadAttention computes the head width from the stream's: it cannot shrink while the stream stays.
FOLLOWING = ("decoder",)


def each(following: str = "") -> list[Any]:
    """All cases; those of `FOLLOWING` are expected to fail, if a reason is given."""
    fails = pytest.mark.xfail(reason=following, strict=True)
    return [
        pytest.param(case, id=case.name, marks=[fails] if following and case.name in FOLLOWING else [])
        for case in CASES.values()
    ]


@cache
def graph_of(case: Case) -> fxprune.Graph:
    return fxprune.trace(case.net(), case.inputs())


@cache
def groups_of(case: Case, heads: str, ignored: tuple[str, ...] = ()) -> fxprune.Groups:
    return fxprune.find_groups(graph_of(case), ignored, heads=heads)


def members(groups: fxprune.Groups) -> Counter[Members]:
    return Counter((g.size, frozenset((s.tensor, s.dim) for s in g.slots)) for g in groups)


def halved(net: nn.Module, groups: fxprune.Groups) -> fxprune.Plan:
    return fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(net, groups))


def uneven(groups: fxprune.Groups, seed: int) -> fxprune.Plan:
    """Every group loses channels, as many as it likes, where it is not tied."""
    generator = np.random.default_rng(seed)
    counts = groups.in_step({g.name: int(generator.integers(1, g.size)) for g in groups})
    counts |= {n: counts[n] // 2 for tie in groups.ties for n in tie if all(counts[m] == groups[m].size for m in tie)}
    return groups.plan({n: generator.permutation(groups[n].size)[:k] for n, k in counts.items()})


@pytest.mark.parametrize("case", each())
def test_every_op_has_a_rule(case: Case) -> None:
    assert not groups_of(case, "").unknown_ops


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("case", each())
def test_groups_are_those_written_by_hand(case: Case, heads: str) -> None:
    groups, mode = groups_of(case, heads), case.mode(heads)
    assert members(groups) == Counter(mode.groups)
    assert set(groups.ties) == set(mode.ties)


@pytest.mark.parametrize("heads", MODES)
@pytest.mark.parametrize("case", each())
def test_nothing_else_is_fixed(case: Case, heads: str) -> None:
    expected = case.mode(heads).fixed
    found: dict[tuple[str, int], list[str]] = {}
    for f in groups_of(case, heads).fixed:
        found.setdefault((f.tensor, f.dim), []).append(f.reason)
    assert found.keys() == expected.keys()
    for place, part in expected.items():
        assert all(part in reason for reason in found[place]), f"{place}: {found[place]}"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("case", each())
def test_half_of_every_group_goes(case: Case, heads: str) -> None:
    """The pruned model runs, at another batch size as well, and lives through files and copies."""
    net, groups = case.net(), groups_of(case, heads)
    plan = halved(net, groups)
    assert all(abs(k - groups[n].size / 2) < 1 for n, k in plan.kept_counts().items())
    small = fxprune.rewrite(net, plan).eval()
    assert small.state_dict().keys() == net.state_dict().keys()
    for batch in (1, 3):
        full, out = call(net, case.inputs(batch)), call(small, case.inputs(batch))
        assert (out.shape, out.dtype) == (full.shape, full.dtype)
        assert bool(out.isfinite().all())
    again = fxprune.rewrite(case.net(seed=1), fxprune.Plan.from_json(plan.to_json())).eval()
    again.load_state_dict(saved(small), strict=True)
    expected = call(small, case.inputs(3))
    for other in (again, copy.deepcopy(small)):
        torch.testing.assert_close(call(other, case.inputs(3)), expected, rtol=0, atol=0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("heads", MODES)
@pytest.mark.parametrize("case", each(following="nn.MultiheadAttention computes the head width from the stream's"))
def test_pruned_equals_masked_while_the_normed_stream_stays(case: Case, heads: str) -> None:
    groups, mode = groups_of(case, heads, case.ignored), case.mode(heads)
    assert members(groups) == Counter(unprotected(case, mode))
    assert {g.name for g in groups if g.mixed_by} == mode.mixed
    plan = uneven(groups, seed=len(case.name))
    assert all(k < groups[n].size for n, k in plan.kept_counts().items())
    compared = {n: g.kept for n, g in plan.groups.items() if not _tied(groups, n) & mode.mixed}
    assert fxprune.verify(case.net(), groups.plan(compared), case.inputs()) <= case.rounding


def unprotected(case: Case, mode: Mode) -> list[Members]:
    """The groups that nothing protected touches, and that the code does not compute from one."""
    return [
        (size, places)
        for size, places in mode.groups
        if not any(f"{tensor}.".startswith(f"{name}.") for tensor, _ in places for name in case.ignored)
        and not any(f"{tensor}.".startswith(f"{name}.") for tensor, dim in places for name in mode.follows if dim == 0)
    ]


def _tied(groups: fxprune.Groups, name: str) -> frozenset[str]:
    return next((t for t in groups.ties if name in t), frozenset([name]))


@pytest.mark.parametrize("heads", [*MODES])
@pytest.mark.parametrize("case", each())
def test_uneven_counts(case: Case, heads: str) -> None:
    """What is not tied may keep any number: the model runs all the same."""
    net, groups = case.net(), groups_of(case, heads)
    for seed in range(2):
        small = fxprune.rewrite(net, uneven(groups, seed)).eval()
        assert call(small, case.inputs(2)).shape == call(net, case.inputs(2)).shape


EXPORTED = (
    "fused_by_attributes",
    "transpose_for_scores",
    "shifted_windows",
    "class_and_distillation_tokens",
    "decoder",
)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=[] if c.name in EXPORTED else pytest.mark.slow) for c in CASES.values()],
)
def test_export(case: Case) -> None:
    net = case.net()
    small = fxprune.rewrite(net, halved(net, groups_of(case, ""))).eval()
    exported = torch.export.export(small, case.inputs()).module()
    torch.testing.assert_close(exported(*case.inputs()), call(small, case.inputs()))


def call(net: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return net(*inputs)


def saved(net: nn.Module) -> dict[str, Tensor]:
    """The state after a way through a file."""
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Padded(nn.Module):
    """Some tokens are padding; PyTorch's encoder asks whether they are the last ones."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.encoder = nn.TransformerEncoder(layer, 2)
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(self.stem(x), src_key_padding_mask=padding).mean(1))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_of_padded_tokens() -> None:
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    result = fxprune.prune(Padded().eval(), (torch.rand(2, 6, 8), padding), pruning_ratio=0.5)
    assert result.model.stem.out_features == 8
    assert result.model.encoder.layers[0].linear1.out_features == 12
    assert result.model(torch.rand(2, 6, 8), padding).shape == (2, 5)
