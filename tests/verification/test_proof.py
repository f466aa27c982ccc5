"""What was disproved is not handed out: the groups to blame are found, kept whole, and reported."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES, Net
from oracle import ROUNDING, random_plan
from torch import Tensor, nn

import fxprune
from fxprune import pipeline
from fxprune.verification.blame import smallest
from fxprune.verification.proof import Proof, of_both, proven

X = torch.rand(2, 3, 9, 9)


def flipping() -> Net:
    """Its first group is a mirrored one: channel i of `a` is read as channel 7 - i."""
    return Net(
        lambda m, x: m.c(m.b(m.a(x).flip(1)).relu()),
        {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 8, 3), "c": nn.Conv2d(8, 4, 3)},
    )


@pytest.fixture
def wrong_rule() -> Iterator[None]:
    """An analysis that takes a flip for nothing at all."""
    right = fxprune.ops.OPS["flip"]
    fxprune.ops.register("flip", fxprune.ops.OpSpec(lambda call, x, dims: x.dims()))
    yield
    fxprune.ops.register("flip", right)


@pytest.mark.usefixtures("wrong_rule")
def test_prune_keeps_whole_what_it_has_disproved() -> None:
    model = flipping()
    with pytest.warns(UserWarning, match=r"1 group is kept whole, .* differs from the masked one .*: a$"):
        result = fxprune.prune(model, X, 0.5)
    assert result.plan.kept_counts() == {"b": 4}
    assert result.report.deviation is not None
    assert result.report.deviation <= ROUNDING
    assert "differs from the masked one" in next(f.reason for f in result.report.groups.fixed if f.tensor == "a.bias")
    assert "a fault of fxprune" in str(result.report)
    masked = flipping()
    masked.load_state_dict(model.state_dict())
    fxprune.mask(masked, result.plan)
    torch.testing.assert_close(result.model(X), masked(X))


@pytest.mark.usefixtures("wrong_rule")
def test_nothing_is_returned_if_no_group_is_left() -> None:
    model = Net(lambda m, x: m.c(m.a(x).flip(1)), {"a": nn.Conv2d(3, 8, 3), "c": nn.Conv2d(8, 4, 3)})
    with pytest.raises(fxprune.ProofError, match=r"no choice of groups mends that in Net; seen: a relative deviation"):
        fxprune.prune(model, X, 0.5)
    assert fxprune.prune(model, X, 0.5, verify=False).model.a.weight.shape[0] == 4


def faulty(plan: fxprune.Plan, name: str, at: int) -> fxprune.Plan:
    """The plan with all channels of one slot shifted by one."""
    planned = plan.groups[name]
    slot = planned.slots[at]
    wrong = replace(slot, channels=np.roll(np.arange(planned.size), 1)[slot.channels])
    slots = (*planned.slots[:at], wrong, *planned.slots[at + 1 :])
    return replace(plan, groups={**plan.groups, name: replace(planned, slots=slots)})


def chain(n: int) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(n) for layer in (nn.Linear(6, 6), nn.Tanh())))


def test_faulty_groups_are_found() -> None:
    model, x = chain(9), torch.rand(3, 6)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = random_plan(model, groups, 0.34)
    assert fxprune.find_faulty_groups(model, groups, plan, x) == []
    wrong = faulty(faulty(plan, "4", 0), "12", 2)
    assert fxprune.find_faulty_groups(model, groups, wrong, x) == ["4", "12"]


def test_a_pruned_model_that_fails_is_a_fault_of_the_plan() -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs(2)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = random_plan(model, groups, 0.5)
    planned = plan.groups["a"]
    known = tuple(s for s in planned.slots if s.role != "consumer")
    wrong = replace(plan, groups={**plan.groups, "a": replace(planned, slots=known)})
    with pytest.raises(fxprune.ProofError, match="the pruned model fails where the full-size one runs"):
        fxprune.verify(model, wrong, x)
    assert fxprune.find_faulty_groups(model, groups, wrong, x) == ["a"]


@pytest.mark.parametrize("culprits", [{3}, {0, 7}, {2, 5, 6}])
def test_the_smallest_choice_that_fails(culprits: set[int]) -> None:
    tried = []

    def fails(parts: Sequence[int]) -> bool:
        tried.append(parts)
        return culprits <= set(parts)

    assert set(smallest(fails, range(8))) == culprits
    assert len(tried) <= 2 * 3 * len(culprits) + 2


def test_modules_that_the_example_does_not_reach() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.c(m.a(x).relu()) if x.shape[-1] < 100 else m.c(m.big(x).relu())

    model = Net(run, {"a": nn.Conv2d(3, 8, 3), "big": nn.Conv2d(3, 8, 5), "c": nn.Conv2d(8, 4, 3)})
    named = "1 module or parameter is not reached by the example inputs, and stays: big"
    with pytest.warns(UserWarning, match="leave out layers"), pytest.warns(UserWarning, match=named):
        report = fxprune.prune(model, X, 0.5).report
    assert report.unreached == ("big",)
    assert "not reached by the example inputs" in str(report)


def test_parameters_that_the_example_does_not_reach() -> None:
    """Of the model itself, and of a module of which another one is read."""

    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.mask = nn.Parameter(torch.zeros(1, 8, 1, 1)), nn.Parameter(torch.zeros(1, 8, 1, 1))

        def forward(self, x: Tensor, masked: bool) -> Tensor:
            return x + (self.mask if masked else self.bias)

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.embedded, self.c = nn.Conv2d(3, 8, 3, padding=1), Embedded(), nn.Conv2d(8, 4, 1)
            self.places = nn.Parameter(torch.randn(1, 8, 32, 32))

        def forward(self, x: Tensor, masked: bool = False) -> Tensor:
            y = self.embedded(self.a(x), masked)
            y = y + self.places if y.shape[-2:] == self.places.shape[-2:] else y
            return self.c(y)  # type: ignore[no-any-return]

    told = "2 modules or parameters are not reached by the example inputs, and stay: places, embedded.mask"
    with pytest.warns(UserWarning, match=told):
        report = fxprune.prune(Positions().eval(), X, 0.5).report
    assert report.unreached == ("places", "embedded.mask")


def test_groups_that_a_norm_runs_over() -> None:
    """They are kept whole for the comparison, and the report says so."""
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    report = fxprune.prune(model, torch.rand(2, 5), 0.5).report
    assert report.proof is not None
    assert (report.proof.pruned, dict(report.proof.mixed)) == (2, {"0": "aten.native_layer_norm.default"})
    assert report.deviation is not None
    assert report.deviation <= ROUNDING
    assert "1 of 2 pruned groups run through aten.native_layer_norm" in str(report)


def test_the_proof_of_several_steps_is_of_all_of_them() -> None:
    """A later step cuts less, or nothing, and has less to say."""
    model = nn.Sequential(nn.Linear(5, 8), nn.GroupNorm(1, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    plan = fxprune.find_groups(fxprune.trace(model, torch.rand(2, 5))).plan({"0": [0, 1], "2": [0, 1]})
    first, second = Proof(None, 1, {"0": "norm"}, ("x",)), Proof(3e-16, 1, {}, ("x", "y"), ("late",))
    both = Proof(3e-16, 2, {"0": "norm"}, ("x", "y"), ("late",))
    assert of_both(of_both(of_both(None, first, plan), second, plan), Proof(None, 0), plan) == both
    assert of_both(None, None, plan) is None


def test_steps_tell_what_all_of_them_have_proven(monkeypatch: Any) -> None:
    proofs = iter([Proof(None, 1, {"0": "norm"}), Proof(2e-16, 1)])
    monkeypatch.setattr(pipeline, "proven", lambda *args: proven(*args)._replace(proof=next(proofs)))
    model = nn.Sequential(nn.Linear(5, 8), nn.GroupNorm(1, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    report = fxprune.prune(model, torch.rand(2, 5), pruning_ratio=0.5, steps=2).report
    assert report.proof == Proof(2e-16, 2, {"0": "norm"})


def test_groups_that_shrink_with_mixed_ones_are_counted_apart() -> None:
    text = str(Proof(0.0, 3, {"a": "aten.native_layer_norm.default", "b": ""}))
    assert text.startswith("1 of 3 pruned groups run through aten.native_layer_norm.default, which sees which channels")
    assert "stay, and 1 more shrink with such groups; pruned against masked" in text


def test_nothing_but_groups_that_a_norm_runs_over() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    report = fxprune.prune(model, torch.rand(2, 5), 0.5).report
    assert report.deviation is None
    assert "with these kept whole: nothing to compare" in str(report)


class Routed(nn.Module):
    """An expert for each sign of a mean: the pruned model may go to the one that the example did not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.stream, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 3), nn.Linear(8, 3)
        with torch.no_grad():
            self.norm.bias.copy_(torch.tensor([9.0] * 5 + [-4.0] * 3))
            self.stream.weight[5:] *= 9  # these stay

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stream(x))
        return self.first(x) if x.mean() > 0 else self.second(x)  # type: ignore[no-any-return]


def test_a_pruned_model_that_goes_to_layers_which_the_example_did_not_reach() -> None:
    torch.manual_seed(0)
    with pytest.raises(fxprune.ProofError, match=r"give inputs that reach all layers \(1 are not, such as second\)"):
        fxprune.prune(Routed().eval(), torch.rand(2, 4), pruning_ratio=0.6)


class Narrow(nn.Module):
    """A model whose code insists on its own precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.a, self.norm, self.b = (
            nn.Conv2d(3, 8, 3, dtype=dtype),
            nn.BatchNorm2d(8, dtype=dtype),
            nn.Conv2d(8, 4, 1, dtype=dtype),
        )

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == self.a.weight.dtype != torch.float64
        return self.b(self.norm(self.a(x)).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_model_that_insists_on_its_own_precision(dtype: torch.dtype) -> None:
    report = fxprune.prune(Narrow(dtype).eval(), torch.rand(2, 3, 8, 8, dtype=dtype), pruning_ratio=0.5).report
    assert report.deviation is not None
    assert report.deviation < 8 * torch.finfo(dtype).eps


def test_a_large_matrix_that_is_read_in_blocks() -> None:
    """Whole rows, and rows of which columns are cut as well; a model of more than 8 million numbers in a matrix."""
    model = nn.Sequential(nn.Linear(6, 3000), nn.ReLU(), nn.Linear(3000, 2900), nn.ReLU(), nn.Linear(2900, 5))
    x = torch.rand(2, 6)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = fxprune.planners.Uniform(0.3)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert fxprune.verify(model, plan, x) < 1e-12
    wrong = plan.groups["0"].slots
    other = np.arange(3000)[::-1].copy()
    slots = tuple(replace(s, channels=other[s.channels]) if s.tensor == "2.weight" else s for s in wrong)
    broken = replace(plan, groups={**plan.groups, "0": replace(plan.groups["0"], slots=slots)})
    assert fxprune.verify(model, broken, x) > 1e-5


class SelfAttention(nn.Module):
    def __init__(self, *, weights: bool, kdim: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True, kdim=kdim, vdim=kdim)
        self.stem, self.inner, self.outer = nn.Linear(5, 12), nn.Linear(12, 20), nn.Linear(20, 4)
        self.weights, self.kdim = weights, kdim

    def forward(self, x: Tensor) -> Tensor:
        keys = x[..., : self.kdim]
        x = self.stem(x)
        y, _ = self.attention(x, *[x if self.kdim is None else keys] * 2, need_weights=self.weights)
        return self.outer(self.inner(x + y).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("kdim", [None, 4])
@pytest.mark.parametrize("weights", [False, True])
def test_the_products_of_attention_are_layers_like_others(weights: bool, kdim: int | None) -> None:
    result = fxprune.prune(SelfAttention(weights=weights, kdim=kdim).eval(), torch.rand(2, 3, 5), pruning_ratio=0.5)
    assert result.model.attention.embed_dim == 6  # two of four dims of each head
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-12


def complex_net() -> nn.Sequential:
    kind = torch.complex64
    return nn.Sequential(nn.Linear(8, 32, dtype=kind), nn.Linear(32, 4, dtype=kind))


def test_complex_numbers_are_compared() -> None:
    model, x = complex_net(), torch.rand(2, 8, dtype=torch.complex64)
    report = fxprune.prune(model, x, pruning_ratio=0.5).report
    assert report.deviation is not None
    assert report.deviation < ROUNDING
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"0": list(range(16))})
    other = np.arange(32)[::-1].copy()
    slots = [replace(s, channels=other[s.channels]) if s.tensor == "1.weight" else s for s in plan.groups["0"].slots]
    wrong = replace(plan, groups={"0": replace(plan.groups["0"], slots=tuple(slots))})
    assert fxprune.verify(model, wrong, x) > 1e-3


def test_complex_numbers_are_not_fitted() -> None:
    x = torch.rand(64, 8, dtype=torch.complex64)
    with pytest.raises(fxprune.InputError, match=r"complex numbers are neither chosen nor fitted.*leave data= out"):
        fxprune.prune(complex_net(), x[:2], pruning_ratio=0.5, data=[x])


class WithNothing(nn.Module):
    """A layer of no channels, as small configurations make them by whole divisions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 12), nn.Linear(12, 3)
        self.none = nn.Linear(2, 1)
        self.none.weight, self.none.bias = nn.Parameter(torch.empty(0, 2)), nn.Parameter(torch.empty(0))
        self.last = nn.Linear(1, 1)
        self.last.weight = nn.Parameter(torch.empty(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()) + self.last(self.none(x[:, :2])).mean()  # type: ignore[no-any-return]


def test_a_layer_of_no_channels_is_proven() -> None:
    result = fxprune.prune(WithNothing().eval(), torch.randn(2, 3), pruning_ratio=0.5)
    assert result.model.get_submodule("a").out_features == 6
    assert result.report.deviation == 0


def test_an_empty_batch_proves_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    plan = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8))).plan({"0": [0, 3]})
    with pytest.raises(fxprune.InputError, match="no output to compare"):
        fxprune.verify(net, plan, torch.zeros(0, 3, 8, 8))
    with pytest.raises(fxprune.InputError, match="no output to compare"):
        fxprune.prune(net, torch.zeros(0, 3, 8, 8), 0.5)


class Normed(nn.Module):
    """Of the full-size model, evaluation tells all; the smaller one is recorded in training mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 16, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated
            self.b = nn.utils.weight_norm(nn.Conv2d(16, 16, 3))
        self.c = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())  # type: ignore[no-any-return]


def test_a_training_run_of_the_pruned_model_alone_is_no_fault() -> None:
    torch.manual_seed(0)
    result = fxprune.prune(Normed().eval(), torch.randn(2, 3, 16, 16), 0.5)
    assert list(result.plan.kept_counts().values()) == [8, 8]


def test_a_parameter_of_the_model_that_nothing_reads_is_told_of_by_its_name() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    net.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    with pytest.warns(UserWarning, match="1 module or parameter is not reached .*: unused; inputs that reach"):
        result = fxprune.prune(net, torch.randn(2, 3, 8, 8), 0.5)
    assert result.report.unreached == ("unused",)


class _Product(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns) / rows**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("positions", [1, 2, 4])
def test_norms_over_few_positions_do_not_magnify_rounding(positions: int) -> None:
    """Two of a channel's numbers are close by chance; dividing by their difference, layer by layer, made 1e12 of it."""
    layers = [layer for _ in range(40) for layer in (_Product(64, 64), nn.BatchNorm1d(64), nn.Hardswish())]
    net, x = nn.Sequential(*layers, _Product(64, 3)).eval(), torch.randn(positions, 64)
    groups = fxprune.find_groups(fxprune.trace(net, x))
    plan = fxprune.planners.Uniform(0.4)(groups, fxprune.scorers.Random(0)(net, groups))
    assert fxprune.verify(net, plan, x) < 1e-12
