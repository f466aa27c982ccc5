"""Shift: data of another kind than those of training are told by what batch norms read."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.statistics.shift import ENOUGH, LARGE, Shift, shift
from zoo.checkpoints import load
from zoo.data import load as load_data
from zoo.train_recipe import WEIGHTS


def trained() -> nn.Module:
    return load(WEIGHTS / "digits-resnet20.safetensors")[0].eval()


def images(count: int = 64) -> Tensor:
    return load_data("digits").train.images[:count]


def normal(channels: int, *rows: int) -> Tensor:
    return torch.randn(*rows, channels, generator=torch.Generator().manual_seed(0))


def test_of_normal_inputs_it_is_the_formula() -> None:
    norm = nn.BatchNorm1d(3, eps=0).double().eval()
    norm.running_mean, norm.running_var = torch.tensor([1.0, -2, 0]).double(), torch.tensor([4.0, 1, 9]).double()
    x = normal(3, 500).double() * torch.tensor([1.0, 3, 2]) + torch.tensor([2.0, 0, 1])
    mean, variance = x.mean(0), x.var(0, unbiased=False)
    told = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()),
        torch.distributions.Normal(norm.running_mean, norm.running_var.sqrt()),
    )
    found = shift(norm, [x])
    assert found is not None
    assert found.divergence == pytest.approx(float(told.median()), rel=1e-4)


def test_the_farthest_layer_is_named_and_batches_count_by_their_rows() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2) * 9)
        net[0].running_mean.fill_(0.1)  # not what a new one has
        net[2].running_mean.fill_(0.1)
    x = normal(2, 96)
    whole, parts = shift(net, [x]), shift(net, [x[:7], x[7:64], x[64:]])
    assert whole is not None
    assert parts is not None
    assert whole.layer == parts.layer == "2"
    assert whole.divergence == pytest.approx(parts.divergence, rel=1e-4)


@pytest.mark.parametrize("net", [nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)])
def test_nothing_is_told_where_no_statistics_were_trained(net: nn.Module) -> None:
    assert shift(net, [normal(2, 64)]) is None


def test_no_more_is_read_than_is_enough_and_the_model_stays() -> None:
    net = trained().train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    read = []

    def data():
        for part in images(4 * ENOUGH).split(50):
            read.append(len(part))
            yield part

    assert shift(net, data()) is not None
    assert sum(read) - read[-1] < ENOUGH <= sum(read)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(m.training and not m._forward_pre_hooks for m in net.modules())


LAST = ["layer3.2.conv1"]  # so that little is to be repaired

CHANGES = {
    "its own": (lambda x: x, False),
    "bytes": (lambda x: x * 255, True),
    "another normalisation": (lambda x: x / 4 + 0.5, True),
    "inverted": (lambda x: x.amin() + x.amax() - x, True),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_prune_warns_of_data_of_another_kind(kind: str) -> None:
    change, far = CHANGES[kind]
    net, x = trained(), change(images())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = fxprune.prune(net, x[:1], 0.5, only=LAST, data=[x], scorer=fxprune.scorers.L2Norm()).report
    lines = [str(w.message) for w in caught if "another kind than those of training" in str(w.message)]
    assert len(lines) == far
    assert (report.shift is not None) == far
    if report.shift is not None:
        assert report.shift.divergence > LARGE
        assert lines == [str(report.shift)]
        assert lines[0] in str(report)
        assert f"'{report.shift.layer}'" in lines[0]


def test_random_data_are_not_compared() -> None:
    report = fxprune.prune(trained(), images(1), 0.5, only=LAST, data="random").report
    assert report.shift is None


def test_the_sentence_names_layer_number_and_remedy() -> None:
    told = str(Shift("features.1", 33150.2))
    assert "'features.1' reads is 3.3e+04 nats" in told
    assert "normalisation" in told


def test_repair_warns_too() -> None:
    net, x = trained(), images()
    plan = fxprune.find_groups(fxprune.trace(net, x[:1])).plan({"layer1.0.conv1": range(8)})
    small = fxprune.rewrite(net, plan)
    fxprune.repair(net, small, plan, [x])
    with pytest.warns(UserWarning, match="another kind than those of training"):
        fxprune.repair(net, small, plan, [x * 255])
