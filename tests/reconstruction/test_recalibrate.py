"""Re-calibration of BatchNorm: against statistics by hand, and against PyTorch's own `update_bn`."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from footprints import footprint, no_footprints, switches
from nets import CASES
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import fxprune

SHAPE = (3, 8, 8)


def net() -> nn.Sequential:
    """Two norms, one behind the other; the second sees what the first, in training mode, gives."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )
    nn.init.uniform_(model[1].running_mean, 1, 2)
    return model.eval()


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (5, 2, 1)])
def test_statistics_are_those_of_the_batches(sizes: tuple[int, ...]) -> None:
    """By hand: each norm normalises by its batch; the mean over batches of mean and unbiased variance is kept."""
    model, data = net(), list(torch.randn(8, *SHAPE).split(sizes))
    means: dict[int, list[tuple[Tensor, Tensor]]] = {1: [], 5: []}
    with torch.no_grad():
        for x in data:
            for i, layer in enumerate(model):
                if i in means:
                    variance, mean = torch.var_mean(x, (0, 2, 3))
                    means[i].append((mean, variance))
                    biased = x.var((0, 2, 3), correction=0)
                    x = (x - mean[:, None, None]) / (biased + layer.eps).sqrt()[:, None, None]
                    x = x * layer.weight[:, None, None] + layer.bias[:, None, None]
                else:
                    x = layer(x)
    assert fxprune.recalibrate_batchnorm(model, data) == 2
    for i, found in means.items():
        for k, key in enumerate(("running_mean", "running_var")):
            expected = torch.stack([f[k] for f in found]).mean(0)
            torch.testing.assert_close(getattr(model[i], key), expected, rtol=1e-5, atol=1e-6)
        assert int(model[i].num_batches_tracked) == len(data)


@pytest.mark.parametrize(
    "name", ["projection_shortcut", "batch_norm_of_features", "three_dimensional", "one_dimensional"]
)
def test_the_same_as_update_bn_where_there_is_no_dropout(name: str) -> None:
    case = CASES[name]
    model = case.build()
    data = [case.inputs(6, seed)[0] for seed in range(3)]
    expected = copy.deepcopy(model)
    update_bn(data, expected)
    fxprune.recalibrate_batchnorm(model, data)
    for (key, value), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=key)


def test_nothing_but_statistics_changes() -> None:
    model = net()
    model[1].momentum = 0.3
    model[4].train()
    data = [(torch.randn(4, *SHAPE), torch.arange(4))]
    before, process = footprint(model), switches()
    fxprune.recalibrate_batchnorm(model, data)
    after = footprint(model)
    assert switches() == process
    for name in before:
        own = {k: v for k, v in before[name].items() if k != "_buffers"}
        assert {k: v for k, v in after[name].items() if k != "_buffers"} == own
        ids = [(k, t[:2]) for k, t in before[name]["_buffers"][1]]
        assert [(k, t[:2]) for k, t in after[name]["_buffers"][1]] == ids


def test_what_is_no_running_statistic_stays() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4))
    x = torch.randn(4, *SHAPE)
    with no_footprints(plain):
        assert fxprune.recalibrate_batchnorm(plain, [x]) == 0
    shared = nn.BatchNorm2d(4)
    twice = nn.Sequential(nn.Conv2d(3, 4, 1), shared, shared)
    assert fxprune.recalibrate_batchnorm(twice, [torch.randn(4, *SHAPE)]) == 1
    frozen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)).requires_grad_(False)
    assert fxprune.recalibrate_batchnorm(frozen, [torch.randn(4, *SHAPE)]) == 1


def test_it_repairs_a_scale() -> None:
    """A convolution made ten times as large is no different after its norm was re-calibrated."""
    model, x = net(), torch.randn(16, *SHAPE)
    fxprune.recalibrate_batchnorm(model, [x])
    before = model(x)
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[0].bias.mul_(10)
    assert not torch.allclose(model(x), before, atol=0.1)
    fxprune.recalibrate_batchnorm(model, [x])
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-4)


def good_then(bad: Any) -> Iterator[Any]:
    yield torch.randn(4, *SHAPE)
    yield bad


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "the data holds no batch"),
        (torch.randn(4, *SHAPE), "the data is one batch"),
        ([torch.randn(4, 2, 8, 8)], "the model's forward fails on the data in batch 1"),
        (good_then(torch.randn(4, 2, 8, 8)), "the model's forward fails on the data in batch 2"),
        (good_then(torch.full((4, *SHAPE), float("nan"))), "running statistics are not finite in 1; .*look for NaN"),
        ([torch.randn(1, 3, 5, 5)], "Expected more than 1 value per channel"),
    ],
)
def test_bad_data_is_refused_and_the_model_left_alone(data: Any, text: str) -> None:
    model = net()
    with no_footprints(model), pytest.raises(fxprune.InputError, match=text):
        fxprune.recalibrate_batchnorm(model, data)


def test_norms_of_branches_that_do_not_run_stay_as_they_are() -> None:
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
            for norm in (self.main, self.aside):
                nn.init.constant_(norm.running_mean, 5.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.main(x) + (self.aside(x) if self.training else 0)

    net = Branched()
    assert fxprune.recalibrate_batchnorm(net, [torch.randn(8, 3)]) == 1
    assert bool((net.main.running_mean.abs() < 3).all())
    assert bool((net.aside.running_mean == 5).all())
    assert net.aside.num_batches_tracked == 0


def test_a_norm_without_a_counter_is_recalibrated_as_others_are() -> None:
    """As in models that were saved before PyTorch counted batches."""
    data = [torch.randn(8, 4, 5, 5) + 3, torch.randn(6, 4, 5, 5)]
    counted, bare = nn.Sequential(nn.BatchNorm2d(4)), nn.Sequential(nn.BatchNorm2d(4))
    bare[0].num_batches_tracked = None
    assert [fxprune.recalibrate_batchnorm(m, data) for m in (counted, bare)] == [1, 1]
    torch.testing.assert_close(bare[0].running_mean, counted[0].running_mean)
    torch.testing.assert_close(bare[0].running_var, counted[0].running_var)
    assert bare[0].num_batches_tracked is None
