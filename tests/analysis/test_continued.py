"""What is cut in steps is one plan for the original, whatever a smaller model would be divided into by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.analysis.continued import DIVIDED, groups_left


class Attention(nn.Module):
    """Four heads of six by default."""

    def __init__(self, heads: int = 4, width: int = 24) -> None:
        super().__init__()
        self.heads, self.norm, self.embed = heads, nn.LayerNorm(width), nn.Linear(6, width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.last = nn.Linear(width, 48), nn.Linear(48, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        b, t, _ = y.shape
        q, k, v = (f(y).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))
        x = x + self.down(F.gelu(self.up(x)))
        return self.last(x.mean(1))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4, padding=1)
        self.d, self.h = nn.Conv2d(16, 16, 3, groups=16, padding=1), nn.Conv2d(16, 16, 1, groups=4)
        self.o = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.g(self.a(x).relu()).relu()
        b, c, h, w = x.shape
        x = x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.o(self.h(self.d(x).relu()).relu())  # type: ignore[no-any-return]


LAYER = nn.TransformerEncoderLayer


def encoder(heads: int, width: int = 24) -> nn.Module:
    layer = LAYER(width, heads, 48, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(6, width), layer, nn.Linear(width, 3))


MODELS: dict[str, Any] = {
    "two heads": lambda: Attention(2),
    "four heads": Attention,
    "eight heads": lambda: Attention(8),
    "two heads of PyTorch": lambda: encoder(2),
    "four heads of PyTorch": lambda: encoder(4),
    "shuffled": Shuffled,
}


def inputs_of(model: nn.Module) -> Tensor:
    return torch.randn(2, 3, 8, 8) if isinstance(model, Shuffled) else torch.randn(2, 5, 6)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore:the allowed widths leave")
@pytest.mark.parametrize("goal", [{"macs": 0.2}, {"pruning_ratio": 0.75}], ids=str)
@pytest.mark.parametrize("heads", ["", "num_heads", "head_dim"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_make_one_plan_for_the_original(name: str, heads: str, goal: dict[str, float]) -> None:
    model = MODELS[name]().eval()
    x = inputs_of(model)
    found: dict[str, list[Any]] = {}
    for steps in (1, 3):
        try:
            result = fxprune.prune(model, x, heads=heads, steps=steps, **goal)
        except fxprune.InputError as error:
            found.setdefault(str(error), []).append(steps)
            continue
        assert shapes(fxprune.rewrite(model, result.plan)) == shapes(result.model)
        again = fxprune.Plan.from_json(result.plan.to_json())
        torch.testing.assert_close(fxprune.rewrite(model, again)(x), result.model(x))
    assert all(steps == [1, 3] for steps in found.values())  # out of reach, both ways


def grouped() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=8, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(32, 4, 1))


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 32, 1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv2d(32, 4, 1))


def multiplied() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 3, groups=8), nn.Conv2d(32, 4, 1))


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("make", [lambda: encoder(12, 96), grouped, normed, multiplied], ids=str)
def test_steps_end_at_the_widths_of_a_single_cut(make: Any, ratio: float) -> None:
    """Also where what shrinks becomes the smaller factor: of 12 heads of 8, or of 8 groups of 4, fewer are left."""
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(2, 5, 6) if isinstance(model[0], nn.Linear) else torch.randn(2, 3, 8, 8)
    once, thrice = (fxprune.prune(model, x, pruning_ratio=ratio, steps=n).plan.kept_counts() for n in (1, 3))
    assert thrice == once


def test_gradual_goes_on_as_it_has_begun() -> None:
    model = Attention().eval()
    original = Attention().eval()
    original.load_state_dict(model.state_dict())
    x = inputs_of(model)
    pruner = fxprune.Gradual(model, x, epochs=range(4), optimizer=torch.optim.Adam(model.parameters()), macs=0.2)
    for epoch in range(4):
        assert pruner.step(epoch)
        assert pruner.plan is not None
        assert shapes(fxprune.rewrite(original, pruner.plan)) == shapes(model)


def test_what_is_divided_otherwise_is_fixed_with_the_reason() -> None:
    model = encoder(2).eval()
    x = inputs_of(model)
    original = fxprune.find_groups(fxprune.trace(model, x), heads="num_heads")
    name = "1.self_attn.in_proj_weight"
    plan = original.plan({"0": range(12), name: [1]})
    small = fxprune.rewrite(model, plan)
    alone = fxprune.find_groups(fxprune.trace(small, x), heads="num_heads")
    assert alone[name].size == 12  # the width of the head that is left
    left = groups_left(small, x, original, plan)
    assert name not in left
    assert DIVIDED in str(left.why(name))
    assert [g.name for g in left] == ["1.linear1"]  # the stream is tied to the heads


@pytest.mark.one_in(2)
@pytest.mark.parametrize("method", [None, fxprune.search.LayerByLayer()], ids=["together", "layer by layer"])
@pytest.mark.parametrize(("heads", "width"), [(4, 24), (6, 36)])
def test_progressive_search_goes_on_as_it_has_begun(heads: int, width: int, method: Any) -> None:
    torch.manual_seed(0)
    model = Attention(heads, width).eval()
    x = torch.randn(16, 5, 6)
    y = model(x).detach()
    groups = fxprune.find_groups(fxprune.trace(model, x[:1]), heads="num_heads")
    search = fxprune.search.Progressive(0.5, step=0.25, top=0.5, progress=False, method=method)
    scorer = None if method else fxprune.scorers.L2Norm()
    found = search(model, groups, lambda m: -float((m(x) - y).square().mean().detach()), data=[x], scorer=scorer)
    assert shapes(fxprune.rewrite(model, found.plan)) == shapes(found.model)
    assert fxprune.cost(groups, found.plan) == fxprune.cost(fxprune.find_groups(fxprune.trace(found.model, x[:1])))
