"""Reconstruction against numpy's least squares and scikit-learn on explicit patches, and against what must come out."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from footprints import footprint, no_footprints
from nets import CASES, Net
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn

import fxprune
from fxprune.reconstruction.readers import readers_of, waves


def halves(model: nn.Module, x: Any, seed: int = 0, ratio: float = 0.5) -> fxprune.Plan:
    groups = fxprune.find_groups(fxprune.trace(model, x))
    return fxprune.planners.Uniform(ratio)(groups, fxprune.scorers.Random(seed)(model, groups))


def seen_by(model: nn.Module, name: str, x: Any) -> tuple[Tensor, Tensor]:
    """What a module reads and gives."""
    found: list[tuple[Tensor, Tensor]] = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: found.append((a[0], out)))
    with torch.no_grad():
        model.eval()(*x) if isinstance(x, tuple) else model.eval()(x)
    handle.remove()
    return found[0]


# One layer: the layer under test reads what a first one makes. Each entry: image shape, the layer, what follows it.

READERS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "1x1": ((8, 6, 6), lambda: nn.Conv2d(8, 5, 1)),
    "3x3": ((8, 6, 6), lambda: nn.Conv2d(8, 5, 3, padding=1)),
    "stride, dilation": ((8, 11, 11), lambda: nn.Conv2d(8, 5, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(2, 1))),
    "groups": ((8, 6, 6), lambda: nn.Conv2d(8, 6, 3, groups=2)),
    "1-d": ((8, 20), lambda: nn.Conv1d(8, 5, 3, stride=2)),
    "3-d": ((8, 4, 5, 5), lambda: nn.Conv3d(8, 5, (1, 2, 3), padding=1)),
    "transposed": ((8, 5, 5), lambda: nn.ConvTranspose2d(8, 5, 3, stride=2, padding=1)),
    "transposed, groups": ((8, 5, 5), lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)),
    "linear": ((8,), lambda: nn.Linear(8, 5)),
    "tokens": ((6, 8), lambda: nn.Linear(8, 5)),
}


class Two(nn.Module):
    """A pointwise layer that makes the channels, the layer that reads them, and a head that is flat or not."""

    def __init__(self, shape: tuple[int, ...], reader: nn.Module, flat: bool = False) -> None:
        super().__init__()
        self.tokens = isinstance(reader, nn.Linear) and not flat
        kinds = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
        self.first = nn.Linear(shape[-1], 8) if self.tokens else kinds[len(shape)](shape[0], 8, 1)
        self.reader, self.flat = reader, flat

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x) * 2)
        return self.reader(x.flatten(1) if self.flat else x)


def rows(layer: Any, x: Tensor, y: Tensor) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Explicit (patches, outputs) of each convolution group, by running the layer on one input channel at a time.

    Column j of the patches is the layer's response with kernel e_j: no knowledge of patches is needed.
    """
    if isinstance(layer, nn.Linear):
        return [(x.reshape(-1, x.shape[-1]).numpy(), y.reshape(-1, y.shape[-1]).numpy())]
    probe, blocks = copy.deepcopy(layer), []
    probe.bias = None
    g = layer.groups
    inner = layer.in_channels // g
    per = layer.out_channels // g
    k = layer.weight[0, 0].numel()
    for block in range(g):
        columns = []
        for j in range(inner):
            for e in range(k):
                with torch.no_grad():
                    probe.weight.zero_()
                    if layer.transposed:
                        probe.weight[block * inner + j, 0].view(-1)[e] = 1
                    else:
                        probe.weight[block * per, j].view(-1)[e] = 1
                    columns.append(probe(x)[:, block * per].flatten())
        targets = y[:, block * per : (block + 1) * per].transpose(0, 1).flatten(1).T
        blocks.append((torch.stack(columns, 1).numpy(), targets.numpy()))
    return blocks


def kernels(layer: Any) -> list[np.ndarray[Any, Any]]:
    """Of each convolution group, of shape (outputs, n), in the order of `rows`' columns."""
    w = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return [w.numpy()]
    parts = w.chunk(layer.groups)
    return [(p.transpose(0, 1) if layer.transposed else p).flatten(1).numpy() for p in parts]


@pytest.mark.parametrize("order", ["sequential", "at_once"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "make"), READERS.values(), ids=READERS)
def test_weights_are_those_of_linear_regression(
    shape: tuple[int, ...], make: Callable[[], nn.Module], bias: bool, order: Any
) -> None:
    model = Two(shape, make()).double()
    if not bias:
        model.reader.bias = None
    x = torch.randn(80, *shape, dtype=torch.float64)
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x[:30], x[30:31], x[31:]], ridge=0, positions=None, order=order)
    y = seen_by(model, "reader", x)[1]
    read = seen_by(small, "reader", x)[0]
    cut = [int(n) for n in plan.cuts()["first.weight"][0]]
    assert len(cut) == 4
    blocks = rows(small.reader, read, y)
    biases = (
        small.reader.bias.detach().chunk(len(blocks)) if bias else [torch.zeros(len(w)) for w in kernels(small.reader)]
    )
    error, total = 0.0, 0.0
    for (columns, target), w, b in zip(blocks, kernels(small.reader), biases, strict=True):
        exact = LinearRegression(fit_intercept=bias).fit(columns, target)
        np.testing.assert_allclose(w, exact.coef_, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(b, exact.intercept_ + np.zeros(len(w)), rtol=1e-6, atol=1e-8)
        error += ((target - exact.predict(columns)) ** 2).sum()
        total += ((target - target.mean(0)) ** 2).sum()
    assert [r.name for r in done.layers] == ["reader.weight"]
    assert done.layers[0].after == pytest.approx(error / total, rel=1e-6)
    assert done.layers[0].after < done.layers[0].before
    assert done.layers[0].intercept == ("reader.bias" if bias else "")
    assert done.skipped == ()


def test_a_flattened_map_is_fitted_by_all_its_columns() -> None:
    model = Two((3, 4, 4), nn.Linear(8 * 16, 5), flat=True).double()
    x = torch.randn(200, 3, 4, 4, dtype=torch.float64)
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    fxprune.reconstruct(model, small, plan, [x], ridge=0)
    columns, target = seen_by(small, "reader", x)[0], model(x).detach()
    solved = np.linalg.lstsq(np.column_stack([columns, np.ones(len(x))]), target, rcond=None)[0]
    np.testing.assert_allclose(small.reader.weight.detach(), solved[:-1].T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(small.reader.bias.detach(), solved[-1], rtol=1e-6, atol=1e-8)


def units(centred: Any, start: Any) -> Any:
    """In which all inputs have the same ridge: ρ_j is mean(σ ‖W₀‖²) / ‖W₀_j‖², but at most 10 σ_j."""
    size, spread = (start**2).sum(0), (centred**2).sum(0)
    mean = (spread * size).mean()
    return np.sqrt(mean / np.maximum(size, 0.1 * mean / spread))


def test_ridge_pulls_towards_the_weights_as_they_are() -> None:
    model = Two((8,), nn.Linear(8, 5)).double()
    x = torch.randn(50, 8, dtype=torch.float64)
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    start = small.reader.weight.detach().clone()
    read, y = seen_by(small, "reader", x)[0].numpy(), model(x).detach().numpy()
    unit = units(read - read.mean(0), start.numpy())
    exact = Ridge(0.3, tol=1e-12).fit(read / unit, y - read @ start.numpy().T)
    fxprune.reconstruct(model, small, plan, [x], ridge=0.3)
    np.testing.assert_allclose(small.reader.weight.detach(), start.numpy() + exact.coef_ / unit, rtol=1e-8)
    np.testing.assert_allclose(small.reader.bias.detach(), exact.intercept_, rtol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_what_the_data_does_not_determine_stays(ridge: float) -> None:
    """Fewer rows than weights, and an input that is always zero: the nearest solution, without NaN."""
    model = Two((8,), nn.Linear(8, 5)).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    plan = halves(model, x)
    dead = int(plan.groups["first"].kept[1])
    with torch.no_grad():
        model.first.weight[dead], model.first.bias[dead] = 0, 0
    small = fxprune.rewrite(model, plan)
    start = small.reader.weight.detach().clone()
    fxprune.reconstruct(model, small, plan, [x], ridge=ridge)
    torch.testing.assert_close(small.reader.weight[:, 1], start[:, 1])
    if ridge == 0:
        torch.testing.assert_close(small(x), model(x))
        centred = seen_by(small, "reader", x)[0].numpy()
        centred = centred - centred.mean(0)
        missing = (model(x).detach() - model(x).detach().mean(0)).numpy() - centred @ start.numpy().T
        unit = units(centred + 1e-9, start.numpy())  # the nearest in these units
        nearest = start.numpy() + (np.linalg.pinv(centred / unit) @ missing).T / unit
        np.testing.assert_allclose(small.reader.weight.detach(), nearest, atol=1e-8)


# Where the intercept goes


def normed(tail: nn.Module | None = None) -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False)]
    model = nn.Sequential(*layers, tail or nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    x = torch.randn(60, 3, 8, 8, dtype=torch.float64) + 0.5
    fxprune.recalibrate_batchnorm(model, [x])
    return model.eval()


def test_the_batch_norm_behind_takes_the_intercept() -> None:
    """The map through convolution and norm is that of a convolution with the best bias, and then the norm."""
    model = normed()
    for m in (model[1], model[4]):
        nn.init.uniform_(m.weight, 0.5, 1.5)
        nn.init.uniform_(m.bias)
    x = torch.randn(60, 3, 8, 8, dtype=torch.float64) + 0.5
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"0": [0, 2, 5]})
    small = fxprune.rewrite(model, plan)
    with no_footprints(model):
        done = fxprune.reconstruct(model, small, plan, [x], ridge=0, positions=None)
    assert [(r.name, r.intercept) for r in done.layers] == [("3.weight", "4.running_mean")]
    read, y = seen_by(small, "3", x)[0], seen_by(model, "3", x)[1]
    columns = F.unfold(read, 3).transpose(1, 2).flatten(0, 1).numpy()
    exact = LinearRegression().fit(columns, y.flatten(2).transpose(1, 2).flatten(0, 1).numpy())
    biased = nn.Conv2d(3, 6, 3).double()
    biased.weight.data, biased.bias.data = (
        torch.from_numpy(v) for v in (exact.coef_.reshape(6, 3, 3, 3), exact.intercept_)
    )
    torch.testing.assert_close(seen_by(small, "4", x)[1], model[4](biased(read)), rtol=1e-6, atol=1e-8)


class SharedNorm(nn.Module):
    """Two layers read the pruned channels and share the norm behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.norm(self.b(x)) * self.norm(self.c(x))


class BareToo(SharedNorm):
    """The norm's input is read by another op as well."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        return self.norm(y) * y.sigmoid()


class ComputedBias(SharedNorm):
    """The bias is no parameter of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.a(x).relu(), self.b.weight, self.norm.bias * 2 + 1)


class Chain(nn.Module):
    """Blocks whose convolutions have no bias, each added to what it reads."""

    def __init__(self) -> None:
        super().__init__()

        def layer(a: int, b: int) -> nn.Sequential:
            norm = nn.BatchNorm2d(b)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), norm)

        self.stem, self.head = layer(3, 8), nn.Linear(8, 4)
        self.blocks = nn.ModuleList(nn.Sequential(layer(8, 8), nn.ReLU(), layer(8, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean((2, 3)))


def test_a_second_fit_finds_nothing_to_do() -> None:
    """An intercept that the first one has put into a running mean counts once, through shortcuts and layer by layer."""
    torch.manual_seed(0)
    model, x = Chain().double().eval(), torch.randn(40, 3, 8, 8, dtype=torch.float64)
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    means = {k: v.clone() for k, v in small.state_dict().items() if k.endswith("running_mean")}
    fxprune.reconstruct(model, small, plan, [x], positions=None, ridge=0)
    first = {k: v.clone() for k, v in small.state_dict().items()}
    assert sum(not torch.equal(v, first[k]) for k, v in means.items()) == 4
    again = fxprune.reconstruct(model, small, plan, [x], positions=None, ridge=0)
    for name, value in small.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=1e-6, atol=1e-6)
    assert all(r.after == pytest.approx(r.before, rel=1e-6, abs=1e-12) for r in again.layers)


@pytest.mark.parametrize("kind", [SharedNorm, BareToo, ComputedBias])
def test_without_a_place_the_fit_goes_through_zero(kind: type[nn.Module]) -> None:
    model = kind().double().eval()
    x = torch.randn(60, 3, 4, 4, dtype=torch.float64) + 1
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"a": [0, 1, 2]})
    small = fxprune.rewrite(model, plan)
    before = small.norm.running_mean.clone()
    done = fxprune.reconstruct(model, small, plan, [x], ridge=0, positions=None)
    assert done.layers[0].name == "b.weight"
    assert {r.intercept for r in done.layers} == {""}
    assert torch.equal(before, small.norm.running_mean)
    read, full = (m.a(x).relu().transpose(1, 3).flatten(0, 2).detach().numpy() for m in (small, model))
    exact = np.linalg.lstsq(read, full @ model.b.weight.detach()[:, :, 0, 0].numpy().T, rcond=None)[0]
    np.testing.assert_allclose(small.b.weight.detach()[:, :, 0, 0], exact.T, rtol=1e-6, atol=1e-8)


# Several layers


def test_redundant_channels_are_replaced_without_any_error() -> None:
    """Eight linear channels of which three suffice: the outputs are the original's."""
    for order in ("sequential", "at_once"):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
        x = torch.randn(40, 3, 6, 6, dtype=torch.float64)
        groups = fxprune.find_groups(fxprune.trace(model, x))
        plan = groups.plan({"0": [1, 4, 6]})
        small = fxprune.rewrite(model, plan)
        assert not torch.allclose(small(x), model(x), atol=1e-2)
        fxprune.reconstruct(model, small, plan, [x], ridge=0, order=order)
        torch.testing.assert_close(small(x), model(x))


def test_layers_are_fitted_one_after_the_other_on_what_the_pruned_model_gives() -> None:
    """By hand: fit the second layer, run it, fit the third on what it now gives."""
    model = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(8, 8), nn.Tanh())], nn.Linear(8, 3)).double()
    x = torch.randn(100, 8, dtype=torch.float64)
    plan = halves(model, x)
    small, by_hand = fxprune.rewrite(model, plan), fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x[:40], x[40:]], ridge=0)
    assert [r.name for r in done.layers] == ["2.weight", "4.weight", "6.weight"]
    kept = plan.cuts()
    with torch.no_grad():
        for i in (2, 4, 6):
            read, full = by_hand[:i](x), model[: i + 1](x)
            target = full[:, kept[f"{i}.weight"][0]] if 0 in kept[f"{i}.weight"] else full
            exact = LinearRegression().fit(read, target)
            by_hand[i].weight.copy_(torch.from_numpy(exact.coef_))
            by_hand[i].bias.copy_(torch.from_numpy(exact.intercept_))
        torch.testing.assert_close(small(x), by_hand(x), rtol=1e-6, atol=1e-8)


class Block(nn.Module):
    """A residual block whose shortcut is a layer that reads pruned channels and whose branch ends in a norm."""

    def __init__(self, projection: bool, norm: bool = True, late: bool = False) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 1), nn.Conv2d(6, 8, 1)
        self.into = nn.Conv2d(8, 6, 1)
        self.b = nn.Conv2d(8, 6, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.projection = nn.Conv2d(6, 6, 1) if projection else nn.Identity()
        self.head, self.late = nn.Conv2d(6, 2, 1), late

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(self.stem(x).tanh())
        shortcut = None if self.late else self.projection(x)
        y = self.norm(self.b(self.a(x).tanh()))
        y = y + self.projection(x) if shortcut is None else shortcut + y
        return self.head(y)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("projection", [True, False])
def test_a_branch_repairs_its_shortcut(projection: bool, norm: bool, late: bool) -> None:
    """The branch's last layer is fitted to Y₁ - Y₁' + Y₂ in front of the norm, by hand."""
    model = Block(projection, norm, late).double().eval()
    x = torch.randn(50, 3, 4, 4, dtype=torch.float64)
    if norm:
        fxprune.recalibrate_batchnorm(model, [x])
        nn.init.uniform_(model.norm.weight, 0.5, 1.5)
        model.norm.weight.data[3] = 1e-9  # repairs nothing
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"stem": [0, 3, 5], "a": [1, 2, 4, 6]})
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x], ridge=0, positions=None)
    assert [r.name for r in done.layers] == ["into.weight", "b.weight"]
    with torch.no_grad():
        full, read = model.into(model.stem(x).tanh()), small.into(small.stem(x).tanh())
        lacking = model.projection(full) - small.projection(read)
        own = model.b(model.a(full).tanh())
        scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt() if norm else torch.ones(6).double()
        keep = (scale.abs() > 1e-6).double()
        target = own + lacking * (keep / scale)[:, None, None]
        flat = [t.transpose(1, 3).flatten(0, 2).numpy() for t in (small.a(read).tanh(), target)]
        exact = LinearRegression().fit(*flat)
    np.testing.assert_allclose(small.b.weight.detach()[:, :, 0, 0], exact.coef_, rtol=1e-5, atol=1e-8)
    assert float(lacking.abs().max()) > 1e-2


def test_a_fitted_shortcut_is_repaired_by_the_layer_that_is_fitted_later() -> None:
    """Projection and branch both read pruned channels; the branch ends later, so it alone makes up for the other."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.projection, self.head = nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).tanh()
            return self.head(self.b(self.a(x).tanh()) + self.projection(x))

    model = Both().double()
    x = torch.randn(100, 5, dtype=torch.float64)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"stem": [0, 3, 5], "a": [1, 2, 4]})
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x], ridge=0)
    assert [r.name for r in done.layers] == ["a.weight", "projection.weight", "b.weight"]
    with torch.no_grad():
        full, read = model.stem(x).tanh(), small.stem(x).tanh()
        own = LinearRegression().fit(read, model.projection(full))
        np.testing.assert_allclose(small.projection.weight, own.coef_, rtol=1e-6, atol=1e-9)
        target = model.b(model.a(full).tanh()) + model.projection(full) - small.projection(read)
        np.testing.assert_allclose(
            small.b.weight, LinearRegression().fit(small.a(read).tanh(), target).coef_, rtol=1e-6
        )


def test_tokens_are_added_through_a_view() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.into = nn.Linear(5, 8), nn.Linear(8, 4)
            self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(self.stem(x).tanh())
            return self.head(x + self.b(self.a(x).tanh()))

    model = Tokens().double()
    x = torch.randn(30, 7, 5, dtype=torch.float64)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"stem": [0, 3], "a": [1, 2, 4]})
    small = fxprune.rewrite(model, plan)
    fxprune.reconstruct(model, small, plan, [x], ridge=0, positions=None)
    with torch.no_grad():
        full, read = model.into(model.stem(x).tanh()), small.into(small.stem(x).tanh())
        target = model.b(model.a(full).tanh()) + full - read
        exact = LinearRegression().fit(small.a(read).tanh().flatten(0, 1), target.flatten(0, 1))
    np.testing.assert_allclose(small.b.weight.detach(), exact.coef_, rtol=1e-6)


class Branches(nn.Module):
    """Two branches that are added: linear ones of one depth, or one that is activated in place and a longer one."""

    def __init__(self, activated: bool) -> None:
        super().__init__()
        self.stem, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.activated, self.after, self.head = activated, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        y, z = self.b(x), self.c(x)
        return self.head(y.relu_() + self.after(z) if self.activated else y + z)


@pytest.mark.parametrize("activated", [False, True])
def test_who_repairs_nothing(activated: bool) -> None:
    """Branches that are fitted together, and one that is activated before it is added, keep their own targets."""
    model = Branches(activated).double()
    x = torch.randn(100, 5, dtype=torch.float64)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"stem": [0, 3, 5]})
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x], ridge=0)
    assert [r.name for r in done.layers] == ["b.weight", "c.weight"]
    with torch.no_grad():
        full, read = model.stem(x).tanh(), small.stem(x).tanh()
        for layer, original in ((small.b, model.b), (small.c, model.c)):
            own = LinearRegression().fit(read, original(full))
            np.testing.assert_allclose(layer.weight, own.coef_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("order", ["sequential", "at_once"])
def test_whole_groups_of_a_transposed_convolution_may_go(order: Any) -> None:
    """The first blocks of its inputs go with the outputs that they make: what stays is as it was."""
    up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=4)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(8, 2, 1)).double()
    x = torch.randn(12, 3, 5, 5, dtype=torch.float64)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.size for g in groups] == [4]
    plan = groups.plan({"0": [2, 3]})
    small = fxprune.rewrite(model, plan)
    assert small[2].groups == 2
    done = fxprune.reconstruct(model, small, plan, [x], order=order, ridge=0, positions=None)
    assert [r.name for r in done.layers] == ["2.weight", "4.weight"]
    assert done.layers[0].before < 1e-12
    torch.testing.assert_close(small[2].weight, up.weight[4:])
    assert done.layers[1].after < done.layers[1].before


NETWORKS = """
residual nested_residual projection_shortcut dense concat depthwise grouped_by_groups grouped_by_width
grouped_after_concat transposed transposed_grouped shared_module squeeze_excitation channel_shuffle slice_writes
flatten_7x7 pixel_shuffle one_dimensional three_dimensional two_inputs own_attention multihead_attention
single_head_attention auxiliary_head tied_and_transposed functional_convolution weight_norm own_einsum layer_norm
"""


@pytest.mark.parametrize("order", ["sequential", "at_once"])
@pytest.mark.parametrize("name", NETWORKS.split())
def test_no_layers_error_grows(name: str, order: Any) -> None:
    """Whatever the network: every fitted layer is at least as near to its targets, and nothing else has changed."""
    case = CASES[name]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(12))
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    state = {k: v.clone() for k, v in small.state_dict().items()}
    data = [(x,)] if len(x) > 1 else [x]
    with no_footprints(model):
        done = fxprune.reconstruct(model, small, plan, data, order=order, ridge=0)
    # A parametrised weight has no name of its own in a run: it is skipped, and said so.
    assert {r.name for r in done.layers} | set(done.skipped) == set(readers_of(plan))
    assert all(r.after <= r.before * (1 + 1e-6) + 1e-12 for r in done.layers)
    changed = {k for k, v in small.state_dict().items() if not torch.equal(v, state[k])}
    assert changed <= {n for r in done.layers for n in (r.name, r.intercept)} | set(aliases(small))
    assert all(torch.isfinite(t).all() for t in small.state_dict().values())


def aliases(model: nn.Module) -> Iterator[str]:
    """Names of tensors that have another name before them."""
    seen: set[int] = set()
    for name, t in model.named_parameters(remove_duplicate=False):
        if id(t) in seen:
            yield name
        seen.add(id(t))


def test_attention_keeps_its_scale() -> None:
    """Where the plan folds a changed attention scale into the weights, the targets are scaled as well."""
    case = CASES["own_attention"]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(40))
    groups = fxprune.find_groups(fxprune.trace(model, x), heads="head_dim")
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert plan.scales
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x], ridge=0)
    worst = {r.name: r.after for r in done.layers}
    kept = plan.groups["a"].kept
    assert len(kept) < plan.groups["a"].size
    with torch.no_grad():
        full, read = model.a(x[0]).flatten(0, 1), small.a(x[0]).flatten(0, 1)
        rows_kept = plan.cuts()["qkv.weight"][0]
        factor = np.ones(24)
        for s in plan.scales:
            if s.tensor == "qkv.weight":
                factor[s.rows] *= s.factor
        outputs = model.qkv(full).numpy()
        exact = LinearRegression().fit(read, outputs[:, rows_kept] * factor[rows_kept])
        given = small.qkv(read).numpy()
    assert worst["qkv.weight"] < 1
    values = rows_kept >= 16
    np.testing.assert_allclose(small.qkv.weight.detach()[values], exact.coef_[values], rtol=1e-6, atol=1e-9)

    # Queries and keys are any whose products are the nearest to the original's, from what the layer reads now.
    inputs = np.column_stack([read, np.ones(len(read))])
    projected = inputs @ np.linalg.pinv(inputs)
    for head in range(2):
        rows = [np.arange(4) + 4 * head + 8 * part for part in range(2)]
        q, k = (outputs[:, r] * factor[r] for r in rows)
        u, s, v = np.linalg.svd(q @ k.T)
        wanted = projected @ (u[:, :2] * s[:2] @ v[:2]) @ projected
        q, k = (given[:, np.isin(rows_kept, r)] for r in rows)
        assert q.shape[1] == 2
        np.testing.assert_allclose(q @ k.T, wanted, rtol=1e-6, atol=1e-9)


# Order, memory, sampling


def test_waves_are_layers_that_do_not_depend_on_each_other() -> None:
    case = CASES["concat"]
    model = case.build()
    x = case.inputs(2)
    graph = fxprune.trace(model, x)
    convolutions = [n for n, _ in model.named_parameters() if n.endswith("weight")]
    found = waves(graph, convolutions)
    assert sorted(n for w in found for n in w) == sorted(convolutions)
    assert found[0] == ["a.weight", "b.weight"]


@pytest.mark.parametrize("order", ["sequential", "at_once"])
def test_a_small_memory_takes_more_passes_to_the_same_weights(order: Any) -> None:
    case = CASES["nested_residual"]
    model, x = case.build().double(), case.inputs(8)[0].double()
    plan = halves(model, x)
    weights = []
    for memory in (1, 2**30):
        read: list[int] = []
        small = fxprune.rewrite(model, plan)
        fxprune.reconstruct(model, small, plan, Counting([x[:4], x[4:]], read), memory=memory, order=order, positions=5)
        weights.append((small.state_dict(), len(read)))
    (first, many), (second, few) = weights
    assert many > few or order == "sequential"
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-9, atol=1e-9)


class Counting:
    """A data loader that counts how often it is read."""

    def __init__(self, data: list[Any], read: list[int]) -> None:
        self.data, self.read = data, read

    def __iter__(self) -> Iterator[Any]:
        self.read.append(1)
        return iter(self.data)


def test_positions_are_sampled_and_seeded() -> None:
    model, x = normed(), torch.randn(20, 3, 8, 8, dtype=torch.float64)
    plan = halves(model, x)
    found = []
    for seed in (0, 0, 1):
        small = fxprune.rewrite(model, plan)
        done = fxprune.reconstruct(model, small, plan, [x], positions=5, seed=seed)
        assert done.layers[0].rows == 100
        found.append(small[3].weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_labels_are_not_read_and_no_random_state_changes() -> None:
    case = CASES["dropout"]
    model, x = case.build(), case.inputs(8)[0]
    plan = halves(model, x)
    results = []
    for data in ([x], [(x, torch.arange(8))], [[x, "no labels at all"]]):
        small = fxprune.rewrite(model, plan)
        small.train()
        with no_footprints(model):
            fxprune.reconstruct(model, small, plan, data)
        assert all(m.training for m in small.modules())
        results.append(small.state_dict())
    assert all(torch.equal(results[0][k], r[k]) for r in results for k in results[0])


def test_the_model_may_be_in_half_precision_or_frozen() -> None:
    model, x = CASES["chain"].build().to(torch.bfloat16).requires_grad_(False), CASES["chain"].inputs(8)[0].bfloat16()
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x])
    assert all(r.after < r.before for r in done.layers)
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in small.parameters())


def test_the_report_reads() -> None:
    model, x = normed(), torch.randn(20, 3, 8, 8, dtype=torch.float64)
    plan = halves(model, x)
    text = str(fxprune.reconstruct(model, fxprune.rewrite(model, plan), plan, [x]))
    assert len(text.splitlines()) == 2
    assert "3.weight" in text
    assert "4.running_mean" in text


# What is refused


@pytest.fixture
def pair() -> Iterator[tuple[Net, Net, fxprune.Plan, Tensor]]:
    """Original and pruned model, which must be the same after the test."""
    case = CASES["residual"]
    model, x = case.build(), case.inputs(4)[0]
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    before = footprint(model), footprint(small)
    yield model, small, plan, x
    assert (footprint(model), footprint(small)) == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"order": "backwards"}, r"unknown order; seen: backwards; remedy: one of sequential, at_once"),
        ({"ridge": -1.0}, r"the ridge is not a number in \[0, inf\); seen: -1.0"),
        ({"ridge": float("nan")}, r"the ridge is not a number"),
        ({"memory": 0}, r"memory is not a number in"),
        ({"positions": 0}, r"positions must be a positive integer"),
    ],
)
def test_bad_settings_are_refused(pair: Any, options: Any, text: str) -> None:
    model, small, plan, x = pair
    with pytest.raises(fxprune.InputError, match=text):
        fxprune.reconstruct(model, small, plan, [x], **options)


def test_bad_data_is_refused(pair: Any) -> None:
    model, small, plan, x = pair
    with pytest.raises(fxprune.InputError, match=r"can be read only once; seen: list_iterator; remedy: give a list"):
        fxprune.reconstruct(model, small, plan, iter([x]))
    with pytest.raises(fxprune.InputError, match="the data holds no batch"):
        fxprune.reconstruct(model, small, plan, [])
    with pytest.raises(fxprune.InputError, match="the data is one batch"):
        fxprune.reconstruct(model, small, plan, x)
    with pytest.raises(fxprune.InputError, match=r"the model's forward fails on the data in batch 1"):
        fxprune.reconstruct(model, small, plan, [x[:, :2]])


def test_other_models_are_refused(pair: Any) -> None:
    model, small, plan, x = pair
    with pytest.raises(
        fxprune.PlanError, match=r"the pruned model is not what the plan makes .*remedy: give fxprune.rewr"
    ):
        fxprune.reconstruct(model, model, plan, [x])
    with pytest.raises(fxprune.PlanError, match="the plan is for another model"):
        fxprune.reconstruct(small, small, plan, [x])
    with pytest.raises(fxprune.PlanError, match="the plan is for another model"):
        fxprune.reconstruct(CASES["chain"].build(), small, plan, [x])


@pytest.mark.parametrize("order", ["sequential", "at_once"])
def test_after_a_failure_in_the_middle_the_pruned_model_is_as_it_was(pair: Any, order: Any) -> None:
    """The second batch is not finite: some layers may have been fitted already when that is found."""
    model, small, plan, x = pair
    bad = x.clone()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(fxprune.InputError, match=r"inputs or targets of a layer are not finite in .*weight"):
        fxprune.reconstruct(model, small, plan, [x, bad], order=order)


def test_a_failure_after_the_first_fit_is_undone(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, small, plan, x = pair
    from fxprune.reconstruction import refit

    fits = []

    def fail_later(*args: Any) -> Any:
        fits.append(1)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return solve(*args)

    solve = refit.fitted
    monkeypatch.setattr(refit, "fitted", fail_later)
    with pytest.raises(KeyboardInterrupt):
        fxprune.reconstruct(model, small, plan, [x])
    assert len(fits) == 3


def test_models_that_run_other_layers_are_refused() -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs(4)[0]
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    small.run = lambda m, x: case.run(m, x) + case.run(m, x)
    with pytest.raises(fxprune.InputError, match="do not run the same layers"):
        fxprune.reconstruct(model, small, plan, [x])


def test_an_empty_plan_changes_nothing(pair: Any) -> None:
    model, _, _, x = pair
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({})
    copied = fxprune.rewrite(model, plan)
    with no_footprints(copied):
        assert fxprune.reconstruct(model, copied, plan, [x]) == fxprune.Reconstruction((), ())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("order", ["sequential", "at_once"])
def test_on_cuda_as_on_the_cpu(order: Any) -> None:
    case = CASES["nested_residual"]
    model, x = case.build().double(), case.inputs(12)[0].double()
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    fxprune.reconstruct(model, small, plan, [x], order=order)
    fxprune.recalibrate_batchnorm(small, [x])
    other = fxprune.rewrite(model.cuda(), plan)
    fxprune.reconstruct(model, other, plan, [x], order=order)
    fxprune.recalibrate_batchnorm(other, [x])
    for name, value in small.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name].cpu(), value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("order", ["sequential", "at_once"])
def test_a_layer_behind_a_channel_sampler(order: Any) -> None:
    """The stream keeps its channels; the layer that reads a part of them is fitted to that part."""
    case = CASES["nested_residual"]
    model, x = case.build().double(), case.inputs(30)[0].double()
    graph = fxprune.trace(model, x)
    layer = next(s.tensor for g in fxprune.find_groups(graph) for s in g.consumers).removesuffix(".weight")
    model = fxprune.add_samplers(model, [layer])
    groups = fxprune.find_groups(fxprune.trace(model, x))
    (name,) = (g.name for g in groups if "sampled" in g.name)
    plan = groups.plan({name: range(groups[name].size // 2)})
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, [x], order=order, ridge=0, positions=None)
    assert [r.name for r in done.layers] == [f"{layer}.weight"]
    assert done.layers[0].after < done.layers[0].before
    read, y = seen_by(small, layer, x)[0], seen_by(model, layer, x)[1]
    exact = LinearRegression().fit(*rows(small.get_submodule(layer), read, y)[0])
    np.testing.assert_allclose(kernels(small.get_submodule(layer))[0], exact.coef_, rtol=1e-5, atol=1e-8)
