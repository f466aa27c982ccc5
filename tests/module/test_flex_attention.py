"""PyTorch's flexible attention is analysed and proven as its parts, and runs as ever afterwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as flex
from footprints import no_footprints
from torch import Tensor, nn

import fxprune
from fxprune.module.flex_attention import _UNCOMPILED, plain_flex_attention

pytestmark = [
    pytest.mark.skipif(not hasattr(flex, _UNCOMPILED), reason="this release of PyTorch compiles it in any case"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
]


class Attention(nn.Module):
    def __init__(self, score_mod: Any = None, keys: int = 4, masked: bool = False) -> None:
        super().__init__()
        self.keys, self.score_mod, self.masked = keys, score_mod, masked
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 8 * keys), nn.Linear(32, 8 * keys)
        self.up, self.down, self.out = nn.Linear(32, 48), nn.Linear(48, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in (self.q(h), self.k(h), self.v(h)))
        mask = flex.create_block_mask(causal, None, None, x.shape[1], x.shape[1], x.device) if self.masked else None
        attended = flex.flex_attention(q, k, v, self.score_mod, mask, enable_gqa=self.keys < 4)
        h = h + self.out(attended.transpose(1, 2).flatten(2))
        return self.b(h + self.down(self.up(h).relu()))  # type: ignore[no-any-return]


def causal(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


def relative(score: Tensor, _b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return score + (q - k) * 2.0 ** -(h + 1)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared keys": {"keys": 2},
    "relative positions": {"score_mod": relative},
    "shared keys and relative positions": {"keys": 2, "score_mod": relative},
    "a mask": {"masked": True},
}
X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> Attention:
    torch.manual_seed(0)
    return Attention(**CASES[request.param]).eval()


def test_parts_give_what_pytorch_gives(model: Attention) -> None:
    with torch.no_grad():
        wanted = model(X)
        with plain_flex_attention():
            found = model(X)
        torch.testing.assert_close(found, wanted)
        assert not getattr(flex, _UNCOMPILED)


def test_pruned_equals_masked_when_pytorch_runs_both(model: Attention) -> None:
    with no_footprints(model, X):
        result = fxprune.prune(model, X, 0.5)
    assert result.report.kept.items() >= {"a": 16, "up": 24}.items()
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-6
    masked = copy.deepcopy(model)
    fxprune.mask(masked, result.plan)
    with torch.no_grad():
        torch.testing.assert_close(result.model(X), masked(X))


def test_plain_attention_loses_heads_as_any_other() -> None:
    result = fxprune.prune(Attention().eval(), X, 0.5, heads="num_heads")
    assert {result.model.q.out_features, result.model.v.out_features, result.model.out.in_features} == {16}


SLOW_PLAIN = pytest.param("plain", marks=pytest.mark.slow)


@pytest.mark.parametrize("model", [SLOW_PLAIN, "shared keys and relative positions"], indirect=True)
def test_it_is_scored_and_repaired(model: Attention) -> None:
    """Gradients on a CPU are something that PyTorch's own has not."""
    data = [torch.randn(8, 5, 6) for _ in range(2)]
    groups = fxprune.find_groups(fxprune.trace(model, X))
    scores = fxprune.scorers.Taylor()(model, groups, [(x, torch.zeros(8, 5, 3)) for x in data])
    assert all(s.isfinite().all() for s in scores.values())
    bare, repaired = (fxprune.prune(model, X, 0.25, data=data, repair=r).model for r in (False, True))
    x = torch.randn(64, 5, 6)
    with torch.no_grad():
        errors = [float((m(x) - model(x)).square().mean()) for m in (bare, repaired)]
    assert errors[1] < errors[0]
