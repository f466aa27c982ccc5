"""An op of another library is supported by one entry: groups, roles, scores, MACs and verify follow from it."""

from collections.abc import Iterator

import pytest
import torch
from oracle import ROUNDING
from torch import Tensor, nn

import fxprune
from fxprune import ops


@torch.library.custom_op("fxprune_test::lin", mutates_args=())
def lin(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x of shape (..., in), w of shape (out, in)."""
    return torch.nn.functional.linear(x, w, b)


@lin.register_fake
def _(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], w.shape[0]))


class Lin(nn.Module):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(m, n)), nn.Parameter(torch.randn(m))

    def forward(self, x: Tensor) -> Tensor:
        return lin(x, self.weight, self.bias)  # type: ignore[no-any-return]


NET = nn.Sequential(Lin(3, 8), nn.ReLU(), Lin(8, 6), nn.ReLU(), nn.Linear(6, 2))
X = torch.randn(5, 3)


@pytest.fixture
def registered() -> Iterator[None]:
    ops.register("fxprune_test::lin", ops.product("...i,oi->...o", bias=2))
    yield
    ops.unregister("fxprune_test::lin")


def test_without_an_entry_the_reason_names_the_remedy() -> None:
    groups = fxprune.find_groups(fxprune.trace(NET, X))
    assert len(groups) == 0
    assert dict(groups.unknown_ops) == {"fxprune_test.lin.default": 2}
    (reason,) = {f.reason for f in groups.fixed if f.tensor == "0.weight"}
    assert "fxprune.ops.register('fxprune_test::lin', " in reason


def test_an_entry_made_after_an_analysis_is_seen_by_the_next_one(request: pytest.FixtureRequest) -> None:
    """Of the same graph: nothing of an analysis stays behind."""
    graph = fxprune.trace(NET, X)
    assert len(fxprune.find_groups(graph)) == 0
    request.getfixturevalue("registered")
    assert [g.name for g in fxprune.find_groups(graph)] == ["0", "2"]


@pytest.mark.usefixtures("registered")
def test_groups_and_roles() -> None:
    groups = fxprune.find_groups(fxprune.trace(NET, X))
    assert not groups.unknown_ops
    assert [(g.name, g.size, g.mixed_by) for g in groups] == [("0", 8, ""), ("2", 6, "")]
    assert [(s.tensor, s.dim, s.role) for s in groups["0"].slots] == [
        ("0.weight", 0, "producer"),
        ("0.bias", 0, "other"),
        ("2.weight", 1, "consumer"),
    ]


@pytest.mark.usefixtures("registered")
def test_macs() -> None:
    groups = fxprune.find_groups(fxprune.trace(NET, X))
    assert fxprune.cost(groups).macs == 5 * (3 * 8 + 8 * 6 + 6 * 2)
    plan = groups.plan({"0": [0, 5], "2": [1, 2, 3]})
    assert fxprune.cost(groups, plan).macs == 5 * (3 * 2 + 2 * 3 + 3 * 2)


@pytest.mark.usefixtures("registered")
def test_scores_and_verify() -> None:
    groups = fxprune.find_groups(fxprune.trace(NET, X))
    (_, scores), *_ = fxprune.scorers.L2Norm()(NET, groups).items()
    expected = NET[0].weight.norm(dim=1)  # type: ignore[operator,union-attr]
    assert torch.argsort(torch.as_tensor(scores)).tolist() == torch.argsort(expected).tolist()
    plan = groups.plan({"0": [0, 5, 6], "2": [1, 2, 3]})
    assert fxprune.verify(NET, plan, X) <= ROUNDING
    assert fxprune.rewrite(NET, plan)(X).shape == (5, 2)


@pytest.mark.usefixtures("registered")
def test_a_layer_like_linear_is_scored_like_linear() -> None:
    """Also by what its channels compute on data."""
    twin = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    twin.load_state_dict(NET.state_dict())
    scorers = fxprune.scorers
    for scorer in (scorers.L1Norm(), scorers.WeightPermutation(), scorers.ThiNet(), scorers.ActivationMean()):
        seen = [scorer(net, fxprune.find_groups(fxprune.trace(net, X)), [X]) for net in (NET, twin)]
        for name in ("0", "2"):
            torch.testing.assert_close(*(torch.as_tensor(s[name]) for s in seen))


@pytest.mark.parametrize("formula", ["ij,jk", "ij,jk->il", "ii,ij->j", "ij,...jk->ik", "i1,1k->ik", "ij,jk->ik->ki"])
def test_what_is_no_product_is_refused(formula: str) -> None:
    with pytest.raises(fxprune.InputError, match=r"is not a product.*torch\.einsum"):
        ops.product(formula)


def test_what_is_no_entry_is_refused() -> None:
    with pytest.raises(fxprune.InputError, match=r"not an OpSpec.*mylib::lin.*ops\.product"):
        ops.register("mylib::lin", ops.OPS["linear"].labels)  # type: ignore[arg-type]
    with pytest.raises(fxprune.InputError, match="without an overload"):
        ops.register("mylib::lin.default", ops.OPS["linear"])
    with pytest.raises(fxprune.InputError, match="no such entry"):
        ops.unregister("mylib::lin")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = Lin(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        return self.out((q * q.shape[-1] ** -0.5 @ k.transpose(1, 2)).softmax(-1) @ x)  # type: ignore[no-any-return]


@pytest.mark.usefixtures("registered")
def test_a_layer_takes_up_the_scale_of_an_attention() -> None:
    torch.manual_seed(0)
    model, x = Attention().eval(), torch.rand(2, 5, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("q", 8)]
    plan = groups.plan({"q": [1, 2, 5]})
    expected = dict.fromkeys(["q.weight", "q.bias"], (3 / 8) ** 0.5)
    assert {s.tensor: s.factor for s in plan.scales} == pytest.approx(expected)
    assert fxprune.verify(model, plan, x) <= ROUNDING
