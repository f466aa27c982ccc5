"""Which output positions count: the informative ones against a literal choice, and random ones as they always were."""

from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from nets import CASES
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

import fxprune
from fxprune.module.batches import batches
from fxprune.scorers import Informative, Lasso, PerWeight, RefitLoss, ThiNet
from fxprune.search.describe import describe
from fxprune.statistics.gram.collect import Sampling, responses
from fxprune.statistics.observe import Contraction, observing
from tests.reconstruction.test_reconstruct import Two, halves, kernels, rows, seen_by
from tests.statistics.test_gram import LAYERS, contributions, inputs, watch

COUNT = 3


def informative(y: Tensor, count: int = COUNT) -> list[list[int]]:
    """The literal choice: for each image (channels, positions...) every position's variance, the largest ones."""
    chosen = []
    for image in y:
        values = [np.var([float(c) for c in image.flatten(1)[:, p]]) for p in range(image[0].numel())]
        chosen.append(sorted(sorted(range(len(values)), key=lambda p: (-values[p], p))[:count]))
    return chosen


def positions_of(sampling: Sampling, layer: nn.Module, x: Tensor) -> tuple[Tensor, Contraction]:
    """What a sampling takes of the layer's call, and the call."""
    found: list[tuple[Tensor, Contraction]] = []
    choose = sampling.start()
    watch(layer, x, lambda seen: found.append((choose(seen, len(x)), seen)))
    return found[0]


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("linear", "tokens")])
def test_the_positions_of_largest_variance_over_channels_count(name: str) -> None:
    shape, make = LAYERS[name]
    where, seen = positions_of(Sampling(Informative(COUNT)), make(), inputs(shape))
    assert where.tolist() == informative(seen.output)


def test_rows_of_a_linear_layer_are_positions_of_their_image() -> None:
    shape, make = LAYERS["tokens"]
    x = inputs(shape)
    where, seen = positions_of(Sampling(Informative(2)), make(), x)
    assert where.tolist() == informative(seen.output.view(len(x), 4, -1).mT, 2)
    flat, _ = positions_of(Sampling(Informative(2)), LAYERS["linear"][1](), inputs((6,)))
    assert flat.tolist() == [[0], [0], [0]]  # one position an image, which counts


def test_of_equals_the_first_are_taken_and_fewer_are_all() -> None:
    where, _ = positions_of(Sampling(Informative(2)), nn.Conv2d(2, 1, 1), inputs((2, 3, 3)))
    assert where.tolist() == [[0, 1]] * 3  # one channel does not vary
    where, _ = positions_of(Sampling(Informative(100)), nn.Conv2d(2, 4, 1), inputs((2, 3, 3)))
    assert where.tolist() == [list(range(9))] * 3


def test_random_positions_are_those_of_before() -> None:
    """A generator a layer, seeded by its name; the largest of uniform numbers. No other choice touches it."""
    where, _ = positions_of(Sampling(COUNT, seed=5), nn.Conv2d(2, 4, 1), inputs((2, 4, 4)))
    generator = torch.Generator().manual_seed(crc32(b"5 0.weight"))
    assert torch.equal(where, torch.rand(3, 16, generator=generator).topk(COUNT, dim=1).indices.sort(1).values)


def test_random_positions_do_not_depend_on_what_the_layer_gives() -> None:
    """In reconstruction they are drawn for the original's call in place of the pruned model's: the same ones."""
    wide, narrow = (positions_of(Sampling(COUNT), nn.Conv2d(2, n, 1), inputs((2, 4, 4)))[0] for n in (8, 3))
    assert torch.equal(wide, narrow)


@pytest.mark.parametrize("name", ["residual", "concat", "one_dimensional", "transposed"])
def test_responses_are_those_of_the_chosen_rows(name: str) -> None:
    """A = Σ (Z_i - mean_i)·(Z_j - mean_j) over the chosen rows alone, of what each channel adds to the output."""
    case = CASES[name]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(4))
    groups = fxprune.find_groups(fxprune.trace(model, x))
    found = responses(model, groups, [x if len(x) > 1 else x[0]], Sampling(Informative(COUNT)))
    for g in groups:
        for slot, response in zip(g.consumers, found[g.name], strict=True):
            layer = model.get_submodule(slot.tensor.removesuffix(".weight"))
            if isinstance(layer, nn.Linear):
                continue
            z = contributions(model, x, slot, g.size).flatten(3)  # (channels + 1, images, outputs, positions)
            chosen = informative(seen_by(model, slot.tensor.removesuffix(".weight"), x)[1])
            picked = torch.cat([z[:, i, :, p] for i, p in enumerate(chosen)], 2)  # (channels + 1, outputs, rows)
            picked = (picked - picked.mean(2, keepdim=True)).flatten(1)
            assert response.rows == 4 * min(COUNT, z.shape[3])
            torch.testing.assert_close(response.a, picked @ picked.T, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("order", ["sequential", "at_once"])
def test_weights_are_those_of_linear_regression_on_the_chosen_rows(order: Any) -> None:
    """The positions are the original's, also where the pruned model's own outputs vary elsewhere."""
    model = Two((8, 6, 6), nn.Conv2d(8, 5, 3, padding=1)).double()
    x = torch.randn(60, 8, 6, 6, dtype=torch.float64)
    plan = halves(model, x)
    small = fxprune.rewrite(model, plan)
    y, read = seen_by(model, "reader", x)[1], seen_by(small, "reader", x)[0]
    chosen = informative(y)
    assert chosen != informative(seen_by(small, "reader", x)[1])
    fxprune.reconstruct(model, small, plan, [x[:20], x[20:]], ridge=0, positions=Informative(COUNT), order=order)
    index = [i * 36 + p for i, image in enumerate(chosen) for p in image]
    ((columns, target),) = rows(small.reader, read, y)
    exact = LinearRegression().fit(columns[index], target[index])
    np.testing.assert_allclose(kernels(small.reader)[0], exact.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(small.reader.bias.detach(), exact.intercept_, rtol=1e-6, atol=1e-8)


def test_background_has_no_say() -> None:
    """Channel 0 is large where nothing else happens, channel 1 on the object: informative positions keep channel 1."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2)[:, :, None, None])
        model[1].weight.copy_(torch.tensor([[1.0, 4.0], [1.0, 0.0]])[:, :, None, None])
    x = torch.zeros(40, 2, 8, 8)
    x[:, 0] = torch.randn(40, 8, 8)  # moves both outputs alike: no variance over channels
    x[:, 0, 2:4, 2:4] = 0.0
    x[:, 1, 2:4, 2:4] = torch.randn(40, 2, 2) + 1
    groups = fxprune.find_groups(fxprune.trace(model, x[:1]))
    anywhere, informed = (Lasso(p)(model, groups, [x])["0"].argmax() for p in (None, Informative(4)))
    assert (int(anywhere), int(informed)) == (0, 1)


@pytest.mark.parametrize("scorer", [Lasso, ThiNet, RefitLoss])
def test_scorers_take_them(scorer: Any) -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs(6)[0]
    groups = fxprune.find_groups(fxprune.trace(model, x))
    scores = scorer(Informative(2))(model, groups, [x])
    fxprune.scorers.check_scores(scores, groups)
    assert any(not torch.equal(scores[n], s) for n, s in scorer(2)(model, groups, [x]).items())


def test_another_choice_is_another_search() -> None:
    told = [describe(Lasso(p)) for p in (10, Informative(10), Informative(5))]
    assert told[0] != told[1] != told[2]


@pytest.mark.parametrize("count", [0, -1, 2.5, None])
def test_bad_counts_are_refused(count: Any) -> None:
    with pytest.raises(fxprune.InputError, match=r"positions must be a positive integer; seen: .*10 is usual"):
        Informative(count)


def test_a_small_last_batch_counts_for_no_more_than_its_images() -> None:
    """Which a whole batch's rows from it would."""
    net, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), torch.randn(65, 3, 32, 32)
    sampling = Sampling(PerWeight(20)).over([0, 1])
    positions = sampling.start()
    counted = []
    with observing(net, {"1.weight"}, lambda seen: counted.append(positions(seen, len(seen.x)).shape)) as run:
        for batch in batches(net, [images[:64], images[64:]]):
            run(batch)
    assert counted == [(64, 12), (1, 12)]  # 20 rows for each of 72 weights, from 128 images
