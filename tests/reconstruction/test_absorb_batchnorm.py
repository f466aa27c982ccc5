"""Settling of BatchNorm: evaluation mode as before, training mode like it, statistics by hand."""

import copy
from typing import Any

import pytest
import torch
from footprints import footprint, no_footprints, switches
from nets import CASES
from torch import Tensor, nn

import fxprune
from tests.reconstruction.test_recalibrate import SHAPE, good_then, net


def shaken(model: nn.Module) -> nn.Module:
    """With running statistics that are not those of any data."""
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(m.running_mean, -2, 2)
            nn.init.uniform_(m.running_var, 0.2, 3)
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.normal_(m.bias)
    return model.eval()


@pytest.mark.parametrize("sizes", [(12,), (5, 4, 3)])
def test_statistics_are_those_of_the_inputs_and_outputs_stay(sizes: tuple[int, ...]) -> None:
    model, x = shaken(net()).double(), torch.randn(12, *SHAPE, dtype=torch.float64)
    read = {i: model[:i](x) for i in (1, 5)}
    before = model(x)
    assert fxprune.absorb_batchnorm(model, list(x.split(sizes))) == 2
    for i, value in read.items():
        torch.testing.assert_close(model[i].running_mean, value.mean((0, 2, 3)))
        torch.testing.assert_close(model[i].running_var, value.var((0, 2, 3), correction=0))
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["batch_norm_of_features", "three_dimensional", "one_dimensional"])
def test_training_mode_computes_what_evaluation_mode_does(name: str) -> None:
    case = CASES[name]
    model, x = shaken(case.build()).double(), case.inputs(24)[0].double()
    before = model(x)
    assert not torch.allclose(model.train()(x), before, atol=0.1)
    shaken(model)
    before = model(x)
    fxprune.absorb_batchnorm(model, [x])
    torch.testing.assert_close(model(x), before, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.train()(x), before, rtol=1e-6, atol=1e-6)


class Residual(nn.Module):
    """A branch whose norm's input is to repair the shortcut, which a layer before it changes in mean and spread."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.stem, self.first = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 3, padding=1)
        self.second, self.norm, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(torch.relu(self.early(x))))
        return self.head(torch.relu(x + self.norm(self.second(torch.relu(self.first(x))))))


def test_what_was_reconstructed_survives_training_mode() -> None:
    model, x = Residual().double(), 2 * torch.randn(64, 3, 6, 6, dtype=torch.float64)
    nn.init.constant_(model.norm.weight, 0.1)  # what repairs a shortcut has to be large before such a norm
    fxprune.recalibrate_batchnorm(model, [x])
    model.eval()
    groups = fxprune.find_groups(fxprune.trace(model, x[:1]))
    plan = groups.plan({"early": [0, 1]})

    def away(settled: bool, training: bool) -> float:
        small = fxprune.rewrite(model, plan).eval()
        fxprune.reconstruct(model, small, plan, [x])
        wanted = small(x).detach()
        if settled:
            fxprune.absorb_batchnorm(small, [x])
        return float((small.train(training)(x).detach() - wanted).square().mean() / wanted.var())

    assert away(settled=False, training=True) > 1e-3
    assert away(settled=True, training=False) < 1e-12
    assert away(settled=True, training=True) < 1e-8


def test_a_norm_that_runs_twice_takes_both_and_outputs_stay() -> None:
    shared = nn.BatchNorm2d(3)
    model, x = shaken(nn.Sequential(shared, nn.Conv2d(3, 3, 1), shared)).double(), torch.randn(4, *SHAPE).double()
    before, second = model(x), model[:2](x)
    assert fxprune.absorb_batchnorm(model, [x]) == 1
    torch.testing.assert_close(shared.running_mean, torch.cat([x, second]).mean((0, 2, 3)))
    torch.testing.assert_close(model(x), before)


def test_a_norm_whose_dtype_cannot_hold_the_statistics_stays() -> None:
    """The variance of large activations is beyond float16, and an infinite one would make the outputs constant."""
    model = shaken(nn.Sequential(nn.BatchNorm2d(3), nn.Tanh(), nn.BatchNorm2d(3))).half()
    x = torch.randn(8, 3, 4, 4).half() * 1000
    before = {name: t.clone() for name, t in model[0].state_dict().items()}
    assert fxprune.absorb_batchnorm(model, [x]) == 1
    assert all(torch.equal(t, before[name]) for name, t in model[0].state_dict().items())
    assert all(bool(t.isfinite().all()) for t in model.state_dict().values())


def test_what_cannot_be_made_up_for_stays() -> None:
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    second.weight = first.weight
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False), first, second
    )
    x = torch.randn(4, *SHAPE)
    with no_footprints(model):
        assert fxprune.absorb_batchnorm(model, [x]) == 0


def test_nothing_but_the_norms_changes() -> None:
    model = shaken(net())
    model[4].train()
    data = [(torch.randn(4, *SHAPE), torch.arange(4))]
    before, process = footprint(model), switches()
    fxprune.absorb_batchnorm(model, data)
    after = footprint(model)
    assert switches() == process
    for name in before:
        changed = {k for k in before[name] if before[name][k] != after[name][k]}
        assert changed <= ({"_parameters", "_buffers"} if name in ("1", "5") else set())
    for i in (1, 5):
        assert model[i].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "the data holds no batch"),
        (torch.randn(4, *SHAPE), "the data is one batch"),
        (good_then(torch.randn(4, 2, 8, 8)), "the model's forward fails on the data in batch 2"),
        (
            good_then(torch.full((4, *SHAPE), float("inf"))),
            "batch norm are not finite in 1; .*look for NaN",
        ),
    ],
)
def test_bad_data_is_refused_and_the_model_left_alone(data: Any, text: str) -> None:
    model = net()
    with no_footprints(model), pytest.raises(fxprune.InputError, match=text):
        fxprune.absorb_batchnorm(model, data)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.conv(x))  # type: ignore[no-any-return]


def test_a_norm_that_gets_its_input_by_name() -> None:
    net, x = ByName().eval(), torch.randn(4, 3, 8, 8)
    before = net(x)
    fxprune.absorb_batchnorm(net, [x])
    torch.testing.assert_close(net(x), before)
    torch.testing.assert_close(net.norm.running_mean, net.conv(x).mean((0, 2, 3)).detach())


class OnePlus(nn.BatchNorm2d):
    """Its scale is 1 + weight."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, 1 + self.weight, self.bias)


class OtherEps(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=0.5)


class ReadTwice(nn.Module):
    """The scale of its norm is the scale of another layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x)) * self.norm.weight[:, None, None]


@pytest.mark.parametrize("build", [lambda: OnePlus(3), lambda: OtherEps(3), ReadTwice], ids=["1+w", "eps", "twice"])
def test_norms_whose_tensors_are_read_otherwise_stay(build: Any) -> None:
    model, x = shaken(nn.Sequential(build(), nn.BatchNorm2d(3))), torch.randn(16, *SHAPE) * 3 + 1
    before = model(x)
    assert fxprune.absorb_batchnorm(model, [x]) == 1  # the other one
    torch.testing.assert_close(model(x), before)


class Lends(nn.Module):
    """Its norm's scale tells another tensor its type."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.type_as(self.norm.weight).to(self.norm.bias))


def test_types_may_be_lent() -> None:
    model = shaken(Lends())
    assert fxprune.absorb_batchnorm(model, [torch.randn(16, *SHAPE)]) == 1


def test_what_is_made_up_for_is_the_rounded_mean() -> None:
    """A mean of 30 is rounded to steps of an eighth in bfloat16: outputs must not move by that."""
    model = shaken(nn.Sequential(nn.BatchNorm2d(64)))
    model[0].running_mean.copy_(torch.linspace(-30, 30, 64))
    nn.init.ones_(model[0].running_var)
    nn.init.zeros_(model[0].bias)
    model = model.to(torch.bfloat16)
    x = (torch.randn(64, 64, 8, 8) + torch.linspace(-30, 30, 64)[:, None, None] * 1.01).to(torch.bfloat16)
    before = copy.deepcopy(model).double()(x.double())
    assert fxprune.absorb_batchnorm(model, [x]) == 1
    moved = (model.double()(x.double()) - before).mean((0, 2, 3)).abs().max()
    assert moved < 0.01  # the exact mean, rounded afterwards, moves them by 0.1
