"""Gram statistics against explicit patches, plain numpy and brute-force responses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import CASES
from torch import Tensor, nn

import fxprune
from fxprune.module.batches import batches
from fxprune.statistics.gram import collect, patches
from fxprune.statistics.gram.collect import Sampling, readings, responses
from fxprune.statistics.gram.patches import draw, inputs_at, outputs_at
from fxprune.statistics.gram.solve import MIXED, best_ridge, joined, mixed, unseen_error
from fxprune.statistics.gram.sums import Gram
from fxprune.statistics.observe import Contraction, observing

LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "1x1": ((5, 4, 4), lambda: nn.Conv2d(5, 4, 1)),
    "stride": ((2, 7, 7), lambda: nn.Conv2d(2, 4, (1, 3), stride=2)),
    "padding": ((3, 5, 5), lambda: nn.Conv2d(3, 4, (2, 1), padding=(1, 2))),
    "same": ((3, 5, 5), lambda: nn.Conv2d(3, 4, (1, 3), padding="same")),
    "circular": ((3, 5, 5), lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
    "dilation": ((2, 8, 8), lambda: nn.Conv2d(2, 4, (3, 1), dilation=2, padding=1)),
    "all at once": ((2, 9, 8), lambda: nn.Conv2d(2, 4, 3, dilation=(1, 2), padding=(2, 0), stride=(3, 2))),
    "no bias": ((3, 5, 5), lambda: nn.Conv2d(3, 4, (1, 2), bias=False)),
    "groups": ((4, 5, 5), lambda: nn.Conv2d(4, 6, (1, 3), groups=2)),
    "depthwise": ((3, 5, 5), lambda: nn.Conv2d(3, 9, (2, 3), groups=3)),
    "1-d": ((2, 9), lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1)),
    "3-d": ((1, 4, 5, 5), lambda: nn.Conv3d(1, 4, (1, 2, 3), padding=1)),
    "transposed": ((3, 4, 4), lambda: nn.ConvTranspose2d(3, 4, (1, 2), stride=2)),
    "transposed, padding": ((2, 4, 4), lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1)),
    "transposed, dilation": ((2, 5), lambda: nn.ConvTranspose1d(2, 4, 3, dilation=2)),
    "transposed, groups": ((4, 4, 4), lambda: nn.ConvTranspose2d(4, 6, (1, 3), stride=2, groups=2)),
    "linear": ((6,), lambda: nn.Linear(6, 5)),
    "tokens": ((4, 5), lambda: nn.Linear(5, 4)),
}


def watch(layer: nn.Module, x: Tensor, look: Callable[[Contraction], None]) -> None:
    """Run a layer once and look at the call."""
    net = nn.Sequential(layer).double()
    with observing(net, {"0.weight"}, look) as run:
        for batch in batches(net, [x]):
            run(batch)


def inputs(shape: tuple[int, ...], images: int = 3) -> Tensor:
    return torch.randn(images, *shape, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize(("shape", "make"), LAYERS.values(), ids=LAYERS)
def test_kernels_times_patches_are_the_output(
    shape: tuple[int, ...], make: Callable[[], nn.Module], count: int | None
) -> None:
    seen_rows = []

    def look(seen: Contraction) -> None:
        where = draw(seen, 3, count, torch.Generator().manual_seed(0))
        x, y = torch.cat(list(inputs_at(seen, where))), outputs_at(seen.output, where)
        made = torch.einsum("rgn,gon->rgo", x, seen.kernels()).flatten(1)
        torch.testing.assert_close(made if seen.bias is None else made + seen.bias, y, rtol=1e-12, atol=1e-12)
        seen_rows.append(len(x))

    watch(make(), inputs(shape), look)
    assert min(seen_rows) >= 3


def test_patches_are_those_of_unfold() -> None:
    x = inputs((3, 7, 6))
    layer = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(2, 3))
    expected = F.unfold(x, (3, 2), (2, 3), (1, 0), (2, 1)).transpose(1, 2).flatten(0, 1)

    def look(seen: Contraction) -> None:
        found = torch.cat(list(inputs_at(seen, draw(seen, 3, None, torch.Generator()))))
        assert torch.equal(found[:, 0], expected)

    watch(layer, x, look)


@pytest.mark.parametrize("piece", [1, 20, 100, 10**6])
def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Whatever a piece may hold, the same rows come in the same order."""

    def look(seen: Contraction) -> None:
        where = draw(seen, 3, 4, torch.Generator().manual_seed(0))
        whole = torch.cat(list(inputs_at(seen, where)))
        monkeypatch.setattr(patches, "PIECE", piece)
        monkeypatch.setattr(patches, "LARGEST", piece)
        parts = list(inputs_at(seen, where))
        assert torch.equal(torch.cat(parts), whole)
        assert all(p.numel() <= piece or len(p) == 1 for p in parts)

    watch(nn.Conv2d(4, 4, 3, groups=2), inputs((4, 5, 5)), look)


def test_positions_are_drawn_for_each_image_without_repetition() -> None:
    drawn = []

    def look(seen: Contraction) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn.extend(draw(seen, 3, 10, generator) for _ in range(2))

    watch(nn.Conv2d(2, 2, 1), inputs((2, 8, 8)), look)
    first, second = drawn
    assert first.shape == (3, 10)
    assert all(len(row.unique()) == 10 for row in first)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_streamed_sums_are_those_of_numpy_even_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1e6, 1, (500, 2, 3)), rng.normal(-1e6, 1, (500, 2, 4))
    gram = Gram.of(torch.from_numpy(x[:7]), torch.from_numpy(y[:7]))
    for part in (slice(7, 8), slice(8, 300), slice(300, 500)):
        gram.add(Gram.of(torch.from_numpy(x[part]), torch.from_numpy(y[part])))
    assert gram.rows == 500
    for g in range(2):
        whole = np.cov(x[:, g].T, y[:, g].T, bias=True) * 500
        np.testing.assert_allclose(gram.s[g], whole[:3, :3], rtol=1e-6, atol=1e-3)
        np.testing.assert_allclose(gram.r[g], whole[:3, 3:], rtol=1e-6, atol=1e-3)
        np.testing.assert_allclose(gram.yy[g], np.diag(whole)[3:], rtol=1e-6)
    np.testing.assert_allclose(gram.x_mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(gram.y_mean, y.mean(0), rtol=1e-14)


@pytest.mark.parametrize("n", [4, 300, 600])
def test_rows_that_are_taken_in_count_as_sums_that_are_added(n: int) -> None:
    """Of wide patches of float32 S is added to in blocks, and stays symmetric."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 2, n, generator=draw) + 3, torch.randn(90, 2, 5, generator=draw)
    taken, added = Gram.of(x[:40], y[:40]), Gram.of(x[:40], y[:40])
    taken.take(x[40:], y[40:])
    added.add(Gram.of(x[40:], y[40:]))
    centred = x.double() - x.double().mean(0)
    torch.testing.assert_close(taken.s, torch.einsum("rgi,rgj->gij", centred, centred), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(taken.s, taken.s.mT, rtol=1e-13, atol=1e-12)
    assert taken.rows == added.rows == 90
    for name in ("x_mean", "y_mean", "s", "r", "yy"):
        torch.testing.assert_close(getattr(taken, name), getattr(added, name), rtol=1e-12, atol=1e-10)


def contributions(model: nn.Module, x: Any, slot: fxprune.Slot, channels: int) -> Tensor:
    """What each channel adds to the output of the layer that reads it, by zeroing all its other weights.

    The last one is of the inputs that belong to no channel.
    """
    layer = model.get_submodule(slot.tensor.removesuffix(".weight"))
    owner = np.full(slot.length, channels)
    owner[slot.positions] = slot.channels
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda m, a, out: seen.append(out))
    whole, found = layer.weight.detach().clone(), []
    bias = getattr(layer, "bias", None)
    with torch.no_grad():
        for channel in range(channels + 1):
            keep = torch.from_numpy(owner == channel)
            layer.weight.copy_(whole * keep.view([-1 if d == slot.dim else 1 for d in range(whole.dim())]))
            seen.clear()
            model(*x)
            found.append(
                sum(out if bias is None else out - (bias if out.dim() == 2 else _beside(bias, out)) for out in seen)
            )
        layer.weight.copy_(whole)
    handle.remove()
    return torch.stack([torch.as_tensor(f) for f in found])


def _beside(bias: Tensor, out: Tensor) -> Tensor:
    return bias.view(1, -1, *[1] * (out.dim() - 2))


READ = "residual dense grouped_by_width flatten_7x7 one_dimensional two_inputs perceptron".split()


@pytest.mark.parametrize("name", READ)
def test_responses_are_what_channels_add(name: str) -> None:
    case = CASES[name]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(4))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    found = responses(model, groups, [(x,)] if len(x) > 1 else [x], Sampling(None))
    for g in groups:
        assert len(found[g.name]) == len(g.consumers)
        for slot, r in zip(g.consumers, found[g.name], strict=True):
            z = contributions(model, x, slot, g.size)
            if z.dim() > 3:
                z = z.transpose(2, -1)
            rows = z.reshape(len(z), -1, z.shape[-1])  # (channels + 1, rows, outputs)
            centred = rows - rows.mean(1, keepdim=True)
            torch.testing.assert_close(r.a, torch.einsum("irn,jrn->ij", centred, centred), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(r.raw(), torch.einsum("irn,jrn->ij", rows, rows), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["residual", "dense", "flatten_7x7"])
def test_batches_add_up(name: str) -> None:
    case = CASES[name]
    model = case.build().double()
    (x,) = (t.double() for t in case.inputs(6))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    whole, parts = (responses(model, groups, data, Sampling(None)) for data in ([x], [x[:1], x[1:3], x[3:]]))
    grams = [readings(model, groups, data, Sampling(None)) for data in ([x], [x[:1], x[1:3], x[3:]])]
    for g in groups:
        for one, other in zip(whole[g.name], parts[g.name], strict=True):
            torch.testing.assert_close(one.a, other.a, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(one.mean, other.mean, rtol=1e-9, atol=1e-12)
        for (_, (first,)), (_, (second,)) in zip(*(found[g.name] for found in grams), strict=True):
            torch.testing.assert_close(first.s, second.s, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("held", [0, 40_000])
def test_what_there_is_no_room_to_hold_is_reduced_at_once(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    case = CASES["residual"]
    model, x = case.build().double(), case.inputs(6)[0].double()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    whole = responses(model, groups, [x[:2], x[2:]], Sampling(3))
    monkeypatch.setattr(collect, "HELD", held)
    parts = responses(model, groups, [x[:2], x[2:]], Sampling(3))
    for g in groups:
        for one, other in zip(whole[g.name], parts[g.name], strict=True):
            torch.testing.assert_close(one.a, other.a, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(one.mean, other.mean, rtol=1e-9, atol=1e-12)


def test_bad_positions_are_refused() -> None:
    for positions in (0, -1, 2.5):
        with pytest.raises(fxprune.InputError, match=r"positions must be a positive integer; seen: .*None takes all"):
            Sampling(positions)  # type: ignore[arg-type]


def test_inputs_that_are_not_finite_are_refused() -> None:
    case = CASES["residual"]
    model = case.build()
    (x,) = case.inputs(2)
    x[0, 0, 0, 0] = float("nan")
    groups = fxprune.find_groups(fxprune.trace(model, x))
    with pytest.raises(fxprune.InputError, match=r"of a layer are not finite in .*look for NaN"):
        responses(model, groups, [x], Sampling(None))


def test_parts_take_every_other_batch() -> None:
    model, x = CASES["residual"].build().double(), CASES["residual"].inputs(6)[0].double()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    data = [x[:1], x[1:4], x[4:]]
    apart = readings(model, groups, data, Sampling(None), parts=2)
    for part, batches_of_it in enumerate(([x[:1], x[4:]], [x[1:4]])):
        alone = readings(model, groups, batches_of_it, Sampling(None))
        for g in groups:
            for (_, both), (_, (one,)) in zip(apart[g.name], alone[g.name], strict=True):
                torch.testing.assert_close(both[part].s, one.s, rtol=1e-9, atol=1e-9)
                assert both[part].rows == one.rows
    assert all(len(grams) == 1 for _, grams in readings(model, groups, [x], Sampling(None), parts=2)[groups[0].name])


def rows_and_targets(rows: int, seed: int) -> tuple[Any, Any, Gram]:
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (rows, 5))
    y = x @ rng.normal(size=(5, 3)) + rng.normal(size=(rows, 3))
    return x, y, Gram.of(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None])


def test_the_best_ridge_is_that_of_smallest_error_of_fits_to_the_other_rows() -> None:
    """Ridge regression towards given weights, by numpy's least squares with rows √ρ_j (W_j - W₀_j) added."""
    (xa, ya, a), (xb, yb, b) = rows_and_targets(12, 0), rows_and_targets(9, 1)
    start = np.random.default_rng(2).normal(size=(3, 5))
    weights, errors = torch.from_numpy(start)[None], {}
    for ridge in (0.01, 1.0, 100.0):
        found, expected = unseen_error(a, b, weights, ridge) + unseen_error(b, a, weights, ridge), 0.0
        for (x, y), (xh, yh) in (((xa, ya), (xb, yb)), ((xb, yb), (xa, ya))):
            centred, target = x - x.mean(0), y - y.mean(0)
            size, spread = (start**2).sum(0), (centred**2).sum(0)
            mean = (size * spread).mean()
            rho = (ridge * mean / np.maximum(size, 0.1 * mean / spread)) ** 0.5
            stacked = np.vstack([centred, np.diag(rho)]), np.vstack([target, rho[:, None] * start.T])
            w = np.linalg.lstsq(*stacked, rcond=None)[0]
            expected += ((yh - y.mean(0) - (xh - x.mean(0)) @ w) ** 2).sum()
        assert found == pytest.approx(expected, rel=1e-8)
        errors[ridge] = expected
    assert best_ridge([a, b], weights, tuple(errors)) == min(errors, key=lambda ridge: errors[ridge])


@pytest.mark.parametrize("noise", [0.1, 3.0, 30.0])
def test_mixtures_of_many_outputs_find_the_ridge_of_all(noise: float) -> None:
    torch.manual_seed(0)
    start = torch.randn(1, 300, 20, dtype=torch.float64)
    parts = []
    for _ in range(2):
        x = torch.randn(60, 1, 20, dtype=torch.float64)
        targets = x[:, 0] @ (start[0] + torch.randn(300, 20)).T + noise * torch.randn(60, 300)
        parts.append(Gram.of(x, targets[:, None]))
    ridges = (1e-3, 1e-1, 10.0, 1e3)
    errors = [unseen_error(*parts, start, r) + unseen_error(*reversed(parts), start, r) for r in ridges]
    assert best_ridge(parts, start, ridges) == ridges[errors.index(min(errors))]
    found, weights = mixed(parts, start)
    assert weights.shape == (1, MIXED, 20)
    assert found[0].r.shape == (1, 20, MIXED)
    shares = [float(p.r.square().sum() / q.r.square().sum()) for p, q in zip(found, parts, strict=True)]
    assert shares == pytest.approx([1, 1], abs=0.3)  # as large as all outputs on average


def test_wide_kernels_are_judged_in_float32_by_one_part_with_the_same_ridge() -> None:
    torch.manual_seed(0)
    mix, w = torch.randn(1100, 1100) / 33, torch.randn(3, 1100, dtype=torch.float64)
    parts = []
    for _ in range(2):
        x = torch.randn(1500, 1, 1100) @ mix
        parts.append(Gram.of(x, x.double() @ w.T + 20 * torch.randn(1500, 1, 3)))
    start, ridges = w[None] + 1, (1e-3, 1e-1, 10.0, 1e3)
    errors = [unseen_error(*parts, start, ridge) for ridge in ridges]
    assert best_ridge(parts, start, ridges) == ridges[errors.index(min(errors))]


def test_float32_products_of_wide_patches_are_those_of_float64() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(700, 1, 600) + 3, torch.randn(700, 1, 4)
    found, exact = Gram.of(x, y), Gram.of(x.double(), y.double())
    for name in ("x_mean", "s", "r", "yy"):
        wanted = getattr(exact, name)
        assert (getattr(found, name) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert torch.equal(found.s, found.s.mT)


def test_joined_parts_are_the_whole_and_stay_as_they_are() -> None:
    (xa, ya, a), (xb, yb, b) = rows_and_targets(12, 0), rows_and_targets(9, 1)
    whole = Gram.of(torch.from_numpy(np.vstack([xa, xb]))[:, None], torch.from_numpy(np.vstack([ya, yb]))[:, None])
    before = a.s.clone()
    torch.testing.assert_close(joined([a, b]).r, whole.r)
    torch.testing.assert_close(joined([a, b]).s, whole.s)
    assert torch.equal(a.s, before)


def test_a_grams_part_and_its_own_outputs_as_targets() -> None:
    x, _, gram = rows_and_targets(30, 3)
    w = torch.randn(1, 2, 5, dtype=torch.float64)
    entries = torch.tensor([[4, 0]])
    made = Gram.of(torch.from_numpy(x[:, [4, 0]])[:, None], (torch.from_numpy(x) @ w[0].T)[:, None])
    found = gram.towards(w).part(entries)
    for name in ("x_mean", "y_mean", "s", "r", "yy"):
        torch.testing.assert_close(getattr(found, name), getattr(made, name))
