"""Pruned equals masked, costs, training and round trips, on every toy network and several ratios."""

import copy
import functools
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES, Case, Net
from oracle import ROUNDING, WRONG, check, random_plan
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import random_unstructured

import fxprune
from fxprune.module.attributes import mend


def named(case: Case) -> str:
    return case.name


@pytest.mark.one_in(2)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("case", CASES.values(), ids=named)
def test_oracle(case: Case, ratio: float) -> None:
    plan = check(case.build, case.inputs, ratio, seed=int(100 * ratio), groups=case.analysed())
    if case.groups:
        assert sum(len(g.kept) for g in plan.groups.values()) < sum(size for size, _ in case.groups) or ratio == 0.25


@pytest.mark.parametrize("case", CASES.values(), ids=named)
def test_each_group_alone(case: Case) -> None:
    """One group at a time, cut to a single channel."""
    model, x, groups = case.build(), case.inputs(2), case.analysed(2)
    for g in groups:
        if any(g.name in tie for tie in groups.ties):
            continue  # these shrink together only
        plan = groups.plan({g.name: [g.size // 2]})
        small = fxprune.rewrite(model, plan)
        assert sum(p.numel() for p in small.parameters()) == fxprune.cost(groups, plan).parameters
        small(*x)
        assert g.mixed_by or fxprune.verify(model, plan, x) <= ROUNDING, g.name


@pytest.mark.parametrize("case", CASES.values(), ids=named)
def test_pruning_twice(case: Case) -> None:
    """A pruned model is an ordinary model: it can be analysed and pruned again."""
    model, x, groups = case.build(), case.inputs(2), case.analysed(2)
    small = fxprune.rewrite(model, random_plan(model, groups, 0.4))
    again = fxprune.find_groups(fxprune.trace(small, x))
    plan = groups_without_mixed(again, small)
    assert fxprune.verify(small, plan, x) <= ROUNDING
    fxprune.rewrite(small, plan)(*x)


def groups_without_mixed(groups: fxprune.Groups, model: torch.nn.Module) -> fxprune.Plan:
    plan = random_plan(model, groups, 0.4, seed=1)
    return groups.plan({g.name: plan.groups[g.name].kept for g in groups if not g.mixed_by})


@pytest.mark.parametrize("case", CASES.values(), ids=named)
def test_a_ratio_of_zero_changes_nothing(case: Case) -> None:
    model = case.build()
    small = fxprune.rewrite(model, random_plan(model, case.analysed(2), 0.0))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), small.state_dict().values(), strict=True))
    assert repr(small) == repr(model)


@pytest.mark.parametrize("name", ["residual", "grouped_by_groups", "shared_module", "tied_parameter", "own_einsum"])
def test_in_place_and_copy_agree(name: str) -> None:
    case = CASES[name]
    model, x = case.build(), case.inputs(2)
    plan = random_plan(model, case.analysed(2), 0.5)
    small = fxprune.rewrite(model, plan)
    assert small is not model
    cut = fxprune.rewrite(model, plan, inplace=True)
    assert cut is model
    assert repr(cut) == repr(small)
    torch.testing.assert_close(cut(*x), small(*x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["residual", "depthwise", "transposed_grouped", "prelu", "layer_norm", "embedding"])
def test_modules_know_their_new_widths(name: str) -> None:
    """A fresh module made from the printed widths has the tensors' shapes."""
    case = CASES[name]
    model = case.build()
    small = fxprune.rewrite(model, random_plan(model, case.analysed(), 0.5))
    for child in small.children():
        fresh = eval(repr(child), vars(torch.nn))  # for instance Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
        assert {n: t.shape for n, t in fresh.state_dict().items()} == {
            n: t.shape for n, t in child.state_dict().items()
        }


@pytest.mark.parametrize("inplace", [False, True])
def test_a_layer_whose_weight_is_computed_knows_its_new_widths(inplace: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its newer form
        first = nn.utils.spectral_norm(nn.Conv2d(3, 8, 3))
    model, x = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.rand(1, 3, 8, 8)
    plan = random_plan(model, fxprune.find_groups(fxprune.trace(model, x)), 0.5)
    small = fxprune.rewrite(model, plan, inplace=inplace)
    assert small[0].weight_orig.shape == (4, 3, 3, 3)
    assert small[0].out_channels == 4
    assert small(x).shape == (1, 4, 6, 6)


def test_a_weight_norm_is_read_before_the_weight_of_the_last_forward() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Linear(3, 8))
    layer.weight_v, layer.weight_g = nn.Parameter(layer.weight_v[:5]), nn.Parameter(layer.weight_g[:5])
    assert mend(layer, {}).out_features == 5


def test_a_pad_shrinks_to_nothing() -> None:
    """The only width that may: where the channels before the padded ones go, and those behind them stay."""
    model = Net(
        lambda m, x: m.c((m.b(y := m.a(x)) + F.pad(y, (0, 0, 0, 0, m.before, m.behind))).relu()),
        {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(4, 8, 1), "c": nn.Conv2d(8, 2, 1), "before": 1, "behind": 3},
    )
    x = torch.rand(1, 3, 8, 8)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"a": [0, 1], "b": [1, 2]})
    assert plan.attributes == {"": {"before": 0, "behind": 2}}
    assert fxprune.verify(model, plan, x) <= ROUNDING


def test_tied_parameters_stay_tied() -> None:
    case = CASES["tied_parameter"]
    small = fxprune.prune(case.build(), case.inputs(), 0.5).model
    assert small.a.weight is small.b.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_keep_what_they_are(dtype: torch.dtype) -> None:
    case = CASES["residual"]
    model = case.build().to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.a.weight.requires_grad_(False)
    x = tuple(t.to(dtype) for t in case.inputs())
    result = fxprune.prune(model, x, 0.5)
    assert result.report.deviation is not None
    assert result.report.deviation <= ROUNDING
    for name, p in result.model.named_parameters():
        assert isinstance(p, torch.nn.Parameter)
        assert p.dtype == dtype
        assert p.requires_grad is (name != "a.weight")
    assert result.model.b.weight.is_contiguous(memory_format=torch.channels_last)
    assert result.model.bn.num_batches_tracked.dtype == torch.int64


def test_cut_state_follows_the_plan() -> None:
    """Averages of weights and optimizer moments are cut like the model."""
    case = CASES["residual"]
    model, x = case.build(), case.inputs(2)
    average = copy.deepcopy(model)
    plan = fxprune.prune(model, x, 0.5).plan
    small = fxprune.rewrite(model, plan)
    cut = fxprune.cut_state(average.state_dict(), plan)
    small.load_state_dict(cut)
    torch.testing.assert_close(small(*x), fxprune.rewrite(average, plan)(*x), rtol=0, atol=0)


def _tied_weights() -> dict[str, nn.Module]:
    parts = {name: nn.Conv2d(8, 8, 1) for name in "ab"}
    parts["b"].weight = parts["a"].weight
    return parts


def _one_layer_twice() -> dict[str, nn.Module]:
    return dict.fromkeys("ab", nn.Conv2d(8, 8, 1))


State = dict[str, Tensor]


def _clones(state: State, folder: Path) -> State:
    """Tensors that do not know of one another any more."""
    return {name: tensor.clone() for name, tensor in state.items()}


def _saved(state: State, folder: Path) -> State:
    torch.save(state, folder / "state.pt")
    return dict(torch.load(folder / "state.pt", weights_only=True))


@pytest.mark.parametrize("again", [_clones, _saved])
@pytest.mark.parametrize("shared", [_tied_weights, _one_layer_twice])
def test_cut_state_knows_all_names_of_a_shared_tensor(
    shared: Callable[[], dict[str, nn.Module]], again: Callable[[State, Path], State], tmp_path: Path
) -> None:
    model = Net(
        lambda m, x: m.head(m.b(m.a(m.stem(x)).relu()).relu()),
        {"stem": nn.Conv2d(3, 8, 1), **shared(), "head": nn.Conv2d(8, 2, 1)},
    )
    result = fxprune.prune(model, torch.rand(1, 3, 8, 8), 0.5)
    plan = fxprune.Plan.from_json(result.plan.to_json())
    assert plan.aliases["b.weight"] == "a.weight"
    cut = fxprune.cut_state(again(model.state_dict(), tmp_path), plan)
    result.model.load_state_dict(cut)
    assert cut["b.weight"].shape == (4, 4, 1, 1)


def test_cut_state_passes_on_what_is_no_tensor() -> None:
    """A module's extra state stands beside the tensors."""
    case = CASES["residual"]
    model = case.build()
    plan = fxprune.prune(model, case.inputs(2), 0.5).plan
    extra = {"version": 3}
    assert fxprune.cut_state({**model.state_dict(), "_extra_state": extra}, plan)["_extra_state"] is extra


@pytest.mark.parametrize(
    "make",
    [
        lambda model, x, plan: fxprune.prune(model, x, 0.5).model,
        lambda model, x, plan: fxprune.rewrite(model, plan),
        lambda model, x, plan: fxprune.rewrite(model, plan, inplace=True),
    ],
    ids=["prune", "rewrite", "in place"],
)
def test_what_is_pruned_in_inference_mode_can_be_trained(make: Any) -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs(2)
    plan = fxprune.prune(case.build(), x, 0.5).plan
    with torch.inference_mode():
        small = make(model, x, plan)
        state = fxprune.cut_state(case.build().state_dict(), plan)
    assert not any(t.is_inference() for t in (*small.parameters(), *small.buffers()))
    assert not any(state[name].is_inference() for name in plan.cuts())
    small.train()(*x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def outputs_after_masking(model: torch.nn.Module, plan: fxprune.Plan, x: Any) -> Any:
    masked = copy.deepcopy(model)
    fxprune.mask(masked, plan)
    return masked(*x)


@pytest.mark.parametrize(
    "name", ["residual", "dense", "grouped_by_groups", "flatten_7x7", "prelu", "single_head_attention"]
)
def test_mask_by_hand(name: str) -> None:
    """The oracle without `verify`: the caller's own weights and statistics, in float64."""
    case = CASES[name]
    model, x = case.build().double(), tuple(t.double() for t in case.inputs(2))
    plan = random_plan(model, fxprune.find_groups(fxprune.trace(model, x)), 0.5)
    torch.testing.assert_close(
        fxprune.rewrite(model, plan)(*x), outputs_after_masking(model, plan, x), rtol=1e-11, atol=1e-12
    )


# Models that a comparison has to be fair to

X = torch.rand(1, 3, 8, 8)


def two_layers(run: Callable[..., Any], first: Callable[..., nn.Module] = nn.Conv2d) -> Net:
    return Net(run, {"a": first(3, 8, 3), "b": nn.Conv2d(8, 4, 3)})


def verified(model: nn.Module, x: Any = X, **options: Any) -> float:
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.name for g in groups if g.size == 8]
    return fxprune.verify(model, random_plan(model, groups, 0.5), x, **options)


NOISE: dict[str, Callable[[Tensor], Any]] = {
    "torch": torch.randn_like,
    "numpy": lambda x: np.random.rand(),  # noqa: NPY002, the global state is what a model may draw from
    "python": lambda x: random.random(),
}


@pytest.mark.parametrize("randomise", [False, True])
@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_noise_is_the_same_in_both_models(noise: Callable[[Tensor], Any], randomise: bool) -> None:
    assert verified(two_layers(lambda m, x: m.b(m.a(x + noise(x)).relu())), randomise=randomise) <= ROUNDING


def test_a_gpu_that_is_not_in_use_is_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep the seed when it is put to use, instead of the caller's."""
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    monkeypatch.setattr("torch.cuda.manual_seed_all", lambda _: pytest.fail("seeded"))
    assert verified(two_layers(lambda m, x: m.b(m.a(x)))) <= ROUNDING


def test_modules_whose_nan_is_overwritten() -> None:
    """As of a softmax over nothing but masked places, before somebody says what that is."""
    parts = {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3), "side": nn.Conv2d(3, 4, 3)}
    model = Net(lambda m, x: m.b(m.a(x)) + m.side((x - x) / (x - x)).nan_to_num(0)[..., 2:, 2:], parts)
    assert verified(model) <= ROUNDING


def test_a_model_that_insists_on_its_precision() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return m.b(m.a(x).relu())

    assert verified(two_layers(run)) <= WRONG
    deviation = fxprune.prune(two_layers(run), X, 0.5).report.deviation
    assert deviation is not None
    assert deviation <= WRONG


def test_a_module_whose_name_is_output() -> None:
    """Its width may change; that of the model's own output may not."""
    model = Net(lambda m, x: m.b(m.output(x)), {"output": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3)})
    assert verified(model) <= ROUNDING


class WithMask(nn.Conv2d):
    """A partial convolution."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x[:, :1]


class Pooled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3))


class Mean(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean()


class Silent(nn.Linear):
    def forward(self, x: Tensor) -> None:
        return None


class Upright(nn.Module):
    """Its bias has the shape of a map."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.rand(outputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight) + self.bias


LAYERS: dict[str, Callable[[], Net]] = {
    "tuple": lambda: two_layers(lambda m, x: m.b(m.a(x)[0].relu()), WithMask),
    "no positions": lambda: two_layers(lambda m, x: m.b(m.a(x)[..., None, None].expand(-1, -1, 3, 3)), Pooled),
    "upright bias": lambda: two_layers(lambda m, x: m.b(m.a(x).relu()), Upright),
    "scalar": lambda: Net(
        lambda m, x: m.b(m.a(x)) * m.c(x[..., 0, 0]),
        {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3), "c": Mean(3, 1)},
    ),
    "nothing": lambda: Net(
        lambda m, x: (m.c(x), m.b(m.a(x)))[1], {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3), "c": Silent(3, 1)}
    ),
    "vmap": lambda: two_layers(lambda m, x: m.b(torch.vmap(m.a)(x[None])[0].relu())),
    "empty batch": lambda: two_layers(lambda m, x: m.b(torch.cat([m.a(x), m.a(x[:0])]).relu())),
}


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_layers_that_return_no_map_of_their_channels(build: Callable[[], Net]) -> None:
    assert verified(build()) <= ROUNDING


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)
        vars(torch._GLOBAL_DEVICE_CONTEXT).clear()  # or get_default_device of torch 2.6 fails from then on


SCORERS: list[fxprune.scorers.Scorer] = [
    fxprune.scorers.L2Norm(),
    fxprune.scorers.Random(),
    fxprune.scorers.NISP(),
    fxprune.scorers.Taylor(),
    fxprune.scorers.HessianDiagonal(),
]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("device", [default_device, torch.device])
def test_a_default_device_that_is_not_the_models(
    device: Callable[[str], AbstractContextManager[Any]], scorer: fxprune.scorers.Scorer
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 6), nn.Flatten())
    data = [(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))]
    expected = fxprune.prune(model, X, 0.5, scorer=scorer, data=data)
    with device("meta"):
        found = fxprune.prune(model, X, 0.5, scorer=scorer, data=data)
        fxprune.mask(model, found.plan)
    assert found.plan == expected.plan
    assert found.report.deviation is not None
    assert found.report.deviation <= ROUNDING
    assert int(model[0].weight.flatten(1).any(1).sum()) == 4


# What an earlier forward has left in the model


class Keeping(nn.Module):
    """Keeps what it computes, with its history, which PyTorch refuses to copy."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
        self.kept: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.last = y = self.a(x).relu()
        self.kept["all"] = [y, (y + 1, {"mean": y.mean()})]
        return self.b(y)


def masked_weight(model: Any) -> None:
    random_unstructured(model.a, "weight", 0.5)


@pytest.mark.parametrize("prepare", [lambda model: None, masked_weight], ids=["plain", "a mask"])
def test_a_model_that_has_run_with_gradients(prepare: Callable[[Any], None]) -> None:
    torch.manual_seed(0)
    model, x = Keeping().eval(), torch.rand(2, 5)
    prepare(model)
    loss = model(x).sum()
    result = fxprune.prune(model, x, 0.5)
    assert result.model.a.out_features == 4
    assert result.model.last.shape == (2, 8)
    assert result.model.last.is_leaf
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-9
    full = copy.deepcopy(Keeping()).eval()
    prepare(full)
    full.load_state_dict(model.state_dict())
    fxprune.mask(full, result.plan)
    assert torch.allclose(result.model(x), full(x), atol=1e-6)
    loss.backward()
    named = dict(model.named_parameters())
    assert all(p.grad is not None for p in named.values())
    samplers = fxprune.add_samplers(model, ["b"])
    assert torch.equal(samplers(x), model(x))


def scaled_by_a_hook(model: Any) -> None:
    model.a.register_forward_hook(lambda module, args, output: output * model.scale)


def scaled_by_a_default(model: Any) -> None:
    model.a.register_forward_hook(lambda module, args, output, owner=model: output * owner.scale)


def forward_put_on(model: Any) -> None:
    """A wrapper around the bound forward, as patches of libraries are."""
    inner = model.a.forward
    model.a.forward = lambda x: inner(x) * model.scale


def scaled_by_a_partial(model: Any) -> None:
    def scale(owners: list[Any], module: Any, args: Any, output: Tensor) -> Tensor:
        return output * owners[0].scale

    model.a.register_forward_hook(functools.partial(scale, [model]))


@pytest.mark.parametrize("patch", [scaled_by_a_hook, scaled_by_a_default, forward_put_on, scaled_by_a_partial])
def test_functions_hold_the_smaller_model(patch: Callable[[Any], None]) -> None:
    """`copy.deepcopy` leaves functions as they are, and with them the full-size model in their closures."""
    model = Net(lambda m, x: m.b(m.a(x).relu()), {"a": nn.Linear(3, 8), "b": nn.Linear(8, 4)})
    model.scale = nn.Parameter(torch.rand(8) + 0.5)
    patch(model)
    x = torch.rand(2, 3)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"a": [0, 3, 6]})
    small, full = fxprune.rewrite(model, plan), model(x)
    kept = torch.tensor([0, 3, 6])
    hidden = ((x @ model.a.weight.T + model.a.bias) * model.scale).relu()[:, kept]
    torch.testing.assert_close(small(x), hidden @ model.b.weight[:, kept].T + model.b.bias)
    small(x).sum().backward()
    assert small.scale.grad is not None
    assert model.scale.grad is None
    assert torch.equal(model(x), full)


@pytest.mark.parametrize("inplace", [False, True])
def test_weights_that_change_with_each_look_in_training_mode(inplace: bool) -> None:
    """Spectral norm iterates in each forward of training; to rewrite is none."""
    first = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))
    model = nn.Sequential(first, nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 4, 3))).train()
    groups = fxprune.find_groups(fxprune.trace(model, torch.rand(1, 3, 8, 8)))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    small = fxprune.rewrite(model, groups.plan({next(iter(groups)).name: [0, 2, 5]}), inplace=inplace)
    for part in (0, 2):
        vectors = small.get_submodule(f"{part}.parametrizations.weight.0")
        kept = [0, 2, 5] if part == 0 else [0, 1, 2, 3]
        assert torch.equal(vectors._u, before[f"{part}.parametrizations.weight.0._u"][kept])
    assert all(m.training for m in small.modules())
    assert (small[0].out_channels, small[2].in_channels) == (3, 3)


def test_a_model_with_spectral_norm_straight_after_training() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 6, 3)), nn.ReLU())
    model = nn.Sequential(model, nn.Conv2d(6, 4, 3)).train()
    report = fxprune.prune(model, torch.rand(1, 3, 9, 9), pruning_ratio=0.5).report
    assert report.deviation is not None
    assert report.deviation < ROUNDING
