"""LASSO, ThiNet and the loss after a refit, against scikit-learn and brute force on explicit responses."""

from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES
from sklearn.linear_model import Lasso as SklearnLasso
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

import fxprune
from fxprune.scorers import Lasso, RefitLoss, ThiNet, lasso_path
from tests.statistics.test_gram import contributions

READ = "residual concat dense grouped_by_width flatten_7x7 one_dimensional two_inputs perceptron transposed"


def scored(name: str, scorer: Any, images: int = 6) -> tuple[nn.Module, Any, fxprune.Groups, dict[str, Tensor]]:
    case = CASES[name]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(images))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    return model, x, groups, scorer(model, groups, [(x,)] if len(x) > 1 else [x])


def explicit(model: nn.Module, x: Any, group: fxprune.Group) -> list[np.ndarray[Any, Any]]:
    """For each reader of a group: what every channel adds to its output, of shape (channels, rows, outputs)."""
    found = []
    for slot in group.consumers:
        z = contributions(model, x, slot, group.size)[:-1]
        z = z.transpose(2, -1) if z.dim() > 3 else z
        found.append(z.reshape(len(z), -1, z.shape[-1]).numpy())
    return found


def energies(model: nn.Module, x: Any, group: fxprune.Group, centred: bool) -> list[float]:
    """Each reader's ‖Y‖², bias left out, of all that it reads."""
    found = []
    for slot in group.consumers:
        z = contributions(model, x, slot, group.size)
        z = z.transpose(2, -1) if z.dim() > 3 else z
        y = z.sum(0).reshape(-1, z.shape[2] if z.dim() == 3 else z.shape[-1]).numpy()
        found.append(float(((y - y.mean(0) * centred) ** 2).sum()))
    return found


# LASSO


def problem(seed: int, channels: int = 12, rows: int = 60, correlation: float = 0.7) -> tuple[Any, Any]:
    """Correlated features and a target that is their weighted sum and noise."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, channels)) + correlation * rng.normal(size=(rows, 1))
    return z, z @ rng.normal(size=channels) + rng.normal(size=rows)


@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_sklearns_lasso(seed: int) -> None:
    """Coordinate descent on the rows, at λ between the knots, gives the same coefficients as the path from the Gram."""
    z, y = problem(seed)
    path = lasso_path(z.T @ z, z.T @ y)
    for i in range(len(path.lambdas) - 1):
        upper, lower = path.lambdas[i], path.lambdas[i + 1]
        if upper - lower < 1e-6:
            continue
        middle = (upper + lower) / 2
        solved = SklearnLasso(middle / len(y), fit_intercept=False, tol=1e-12, max_iter=100_000).fit(z, y).coef_
        expected = (path.coefficients[:, i] + path.coefficients[:, i + 1]) / 2
        np.testing.assert_allclose(solved, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_supports_are_those_of_a_search_for_lambda(seed: int) -> None:
    """He et al.: search λ until the count fits. Where it finds the count, the support is one of the path's."""
    z, y = problem(seed)
    path = lasso_path(z.T @ z, z.T @ y)
    on_path = {tuple(np.flatnonzero(c)) for c in path.coefficients.T}
    for count in range(1, z.shape[1] + 1):
        support = path.support(count)
        assert len(support) == count
        assert tuple(support) in on_path
        low, high = 0.0, float(path.lambdas[0])
        for _ in range(60):
            middle = (low + high) / 2
            coefficients = (
                SklearnLasso(middle / len(y), fit_intercept=False, tol=1e-10, max_iter=100_000).fit(z, y).coef_
            )
            found = np.flatnonzero(np.abs(coefficients) > 1e-8)
            if len(found) == count:
                assert tuple(found) in on_path
                break
            low, high = (middle, high) if len(found) > count else (low, middle)


def test_a_dropped_channel_leaves_the_smaller_supports_first() -> None:
    """A path that drops a channel: the ranking's first m are the first support of m wherever supports are nested."""
    dropping = 0
    for seed in range(60):
        z, y = problem(seed, channels=8, rows=20, correlation=3.0)
        path = lasso_path(z.T @ z, z.T @ y)
        counts = (path.coefficients != 0).sum(0)
        dropping += bool((np.diff(counts) < 0).any())
        order, lambdas = path.ranking()
        assert sorted(order) == list(range(8))
        assert (np.diff(lambdas) <= 0).all()
        seen: set[int] = set()
        for m in range(1, 9):
            new = set(path.support(m)) - seen
            assert set(path.support(m)) <= set(order[: len(seen | new)])
            seen |= new
            if len(seen) == m:
                assert set(order[:m]) == seen
    assert dropping >= 3


def test_channels_that_add_nothing_or_repeat_others_come_last() -> None:
    z, y = problem(0, channels=6)
    z = np.column_stack([z[:, :3], np.zeros(len(y)), z[:, 3:], z[:, 1], 1e-3 * z[:, 0]])
    path = lasso_path(z.T @ z, z.T @ y)
    order, _ = path.ranking()
    assert sorted(order) == list(range(9))
    assert order[-1] == 3
    assert [len(path.support(m)) for m in range(1, 10)] == list(range(1, 10))


@pytest.mark.parametrize("name", READ.split())
def test_lasso_keeps_what_a_lasso_on_the_rows_keeps(name: str) -> None:
    """Readers stacked as rows, each divided by the root of its ‖Y‖²."""
    model, x, groups, scores = scored(name, Lasso(None))
    for g in groups:
        parts, whole = explicit(model, x, g), energies(model, x, g, centred=True)
        rows = np.concatenate(
            [(z - z.mean(1, keepdims=True)).reshape(len(z), -1) / e**0.5 for z, e in zip(parts, whole, strict=True)], 1
        ).T
        expected = lasso_path(rows.T @ rows, rows.T @ rows.sum(1)).ranking()[0]
        assert scores[g.name].argsort(descending=True).tolist() == expected.tolist()
        # And at the λ in the middle of the path, by coordinate descent:
        count = g.size // 2
        kept = set(scores[g.name].argsort(descending=True)[:count].tolist())
        values = scores[g.name].sort(descending=True).values
        alpha = float(values[count - 1] + values[count]) / 2
        solved = SklearnLasso(alpha / len(rows), fit_intercept=False, tol=1e-12, max_iter=100_000).fit(
            rows, rows.sum(1)
        )
        if (solved.coef_ != 0).sum() == count:
            assert set(np.flatnonzero(solved.coef_).tolist()) == kept


# ThiNet


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", READ.split())
def test_thinet_removes_greedily(name: str, centred: bool) -> None:
    model, x, groups, scores = scored(name, ThiNet(None, centred))
    for g in groups:
        parts = explicit(model, x, g)
        parts = [z - z.mean(1, keepdims=True) for z in parts] if centred else parts
        whole, gone, errors = energies(model, x, g, centred), [], []
        while len(gone) < g.size:
            trials = {
                i: sum((z[[*gone, i]].sum(0) ** 2).sum() / e for z, e in zip(parts, whole, strict=True))
                for i in range(g.size)
                if i not in gone
            }
            gone.append(min(trials, key=lambda i: (round(trials[i], 12), i)))
            errors.append(trials[gone[-1]])
        assert scores[g.name].argsort().tolist() == gone
        expected = np.minimum.accumulate(errors[::-1])[::-1]
        np.testing.assert_allclose(scores[g.name].sort().values, expected, rtol=1e-3, atol=1e-4)


# The loss after a refit


@pytest.mark.parametrize(
    "name", ["residual", "concat", "dense", "perceptron", "flatten_7x7", "two_inputs", "one_dimensional"]
)
def test_refit_loss_is_that_of_removal_and_linear_regression(name: str) -> None:
    """One channel after the other: remove its columns from the explicit patches, fit the rest, measure."""
    images = 80 if name in ("flatten_7x7", "perceptron", "two_inputs") else 12
    model, x, groups, scores = scored(name, RefitLoss(None, ridge=1e-12), images)
    for g in groups:
        expected = np.zeros(g.size)
        for slot in g.consumers:
            expected += refit_losses(model, x, slot, g.size)
        np.testing.assert_allclose(scores[g.name], expected, rtol=1e-5, atol=1e-8)


def refit_losses(model: nn.Module, x: Any, slot: fxprune.Slot, channels: int) -> Any:
    layer = model.get_submodule(slot.tensor.removesuffix(".weight"))
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        model(*x)
        y = layer(seen[0])
    handle.remove()
    owner = np.full(slot.length, channels)
    owner[slot.positions] = slot.channels
    blocks = []
    for block, out in zip(
        seen[0].chunk(getattr(layer, "groups", 1), 1), y.chunk(getattr(layer, "groups", 1), 1), strict=True
    ):
        columns, target = rows_of(layer, block), out.transpose(1, -1).reshape(-1, out.shape[1]).numpy()
        blocks.append((columns, target))
    total = sum(((t - t.mean(0)) ** 2).sum() for _, t in blocks)
    losses = np.zeros(channels)
    for columns, target in blocks:
        k = columns.shape[1] // slot.length
        for i in range(channels):
            rest = columns[:, np.repeat(owner, k) != i]
            fit = LinearRegression().fit(rest, target)
            losses[i] += ((target - fit.predict(rest)) ** 2).sum() / total
    return losses


def rows_of(layer: Any, x: Tensor) -> Any:
    """Explicit patches, in the order in which `transpose(1, -1)` leaves an output's positions."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).numpy()
    if x.dim() == 3:
        x, kernel = x.unsqueeze(-1), (*layer.kernel_size, 1)
        stride, padding, dilation = (*layer.stride, 1), (*layer.padding, 0), (*layer.dilation, 1)
    else:
        kernel, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    unfolded = nn.functional.unfold(x, kernel, dilation, padding, stride)
    shape = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    # (images, columns, h, w) to rows in the order (images, w, h)
    return unfolded.unflatten(2, shape).permute(0, 3, 2, 1).reshape(-1, unfolded.shape[1]).numpy()


# What they have in common


@pytest.mark.parametrize("scorer", [Lasso(3), ThiNet(3), RefitLoss(3)])
def test_scores_are_usable_and_seeded(scorer: Any) -> None:
    _, _, groups, first = scored("residual", scorer)
    *_, again = scored("residual", scorer)
    *_, other = scored("residual", type(scorer)(3, seed=1))
    fxprune.scorers.check_scores(first, groups)
    assert all(bool((v >= 0).all()) and v.dtype == torch.float64 for v in first.values())
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize("scorer", [Lasso(3), ThiNet(3), RefitLoss(3)])
def test_a_groups_scores_do_not_depend_on_which_others_are_scored(scorer: Any) -> None:
    model, x, groups, scores = scored("residual", scorer)
    for g in groups:
        alone = scorer(model, groups.subset([g]), [x[0]])
        torch.testing.assert_close(alone[g.name], scores[g.name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scorer", [Lasso(), ThiNet(), RefitLoss()])
def test_groups_that_nothing_reads_are_named(scorer: Any) -> None:
    with pytest.raises(
        fxprune.InputError, match=r"no convolution or linear layer reads these channels in group b; .*L2Norm"
    ):
        scored("sum_of_channels", scorer)


@pytest.mark.parametrize("scorer", [Lasso(), ThiNet(), RefitLoss()])
def test_dead_inputs_score_nothing(scorer: Any) -> None:
    """All channels are zero: no error, and all scores are as good as equal."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(model[0].bias, -100)
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 3)))
    scores = scorer(model, groups, [torch.rand(5, 3)])
    fxprune.scorers.check_scores(scores, groups)
    assert float(scores["0"].max()) < 1e-3


def test_bad_settings_are_refused() -> None:
    for make in (Lasso, ThiNet, RefitLoss):
        with pytest.raises(fxprune.InputError, match="positions must be a positive integer"):
            make(0)
    for ridge in (0.0, -1.0, float("nan")):
        with pytest.raises(
            fxprune.InputError, match=r"ridge is not a number in \(0, inf\); seen: .*; remedy: give a pos"
        ):
            RefitLoss(ridge=ridge)


@pytest.mark.parametrize("scorer", [RefitLoss(), fxprune.scorers.JointElimination(ridge=1e-6)])
def test_sums_whose_rounding_is_above_the_ridge(scorer: Any) -> None:
    """Channels nearly alike, and large: the sums in float32 have eigenvalues below zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 3, padding=1))
    weight, bias = model[0].weight.data, model[0].bias.data
    weight.copy_(weight[:1] + 1e-4 * torch.randn_like(weight))
    bias.fill_(1.0)
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 1, 8, 8)))
    scores = scorer(model, groups, [100 * torch.rand(64, 1, 8, 8)])
    fxprune.scorers.check_scores(scores, groups)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e9])
def test_a_path_does_not_depend_on_the_unit(size: float) -> None:
    """One channel is 6000 times the others, of which two nearly cancel: the path ended at a λ of 1e-7."""
    base = np.random.default_rng(0).standard_normal((500, 4))
    q = np.linalg.qr(base - base.mean(0))[0] * 500**0.5
    x = np.stack([6000 * q[:, 0], q[:, 1], -q[:, 1] + 0.05 * q[:, 3], 0.8 * q[:, 2]], 1)
    y = x.sum(1)
    path = lasso_path(size * x.T @ x, size * x.T @ y)
    assert path.support(2).tolist() == [0, 3]
    assert len(path.lambdas) == 5
    assert path.lambdas[0] == pytest.approx(size * np.abs(x.T @ y).max())
