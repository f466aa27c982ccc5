"""The networks of the zoo: the costs that their papers print, any small image size, and pruning."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.costs.macs import Cost
from zoo.networks import NETWORKS, build

CIFAR = (1, 3, 32, 32)


@dataclass(frozen=True)
class Published:
    """Figures as printed. ``step`` is the last printed digit; ``weights``: norms and biases were not counted."""

    network: str
    source: str
    parameters: tuple[float, float] | None = None  # figure, step
    macs: tuple[float, float] | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    images: tuple[int, ...] = CIFAR
    weights: bool = False

    def __str__(self) -> str:
        return f"{self.network}-{self.arguments}-{self.source}"


def resnet(depth: int, source: str, parameters: tuple[float, float], macs: tuple[float, float] | None) -> Published:
    return Published("resnet", source, parameters, macs, {"depth": depth})


HE, SFP = "He et al. 2016, table 6", "SFP (He et al. 2018), CIFAR-10"
HRANK, ABC = "HRank (Lin et al. 2020), CIFAR-10", "ABCPruner (Lin et al. 2020), CIFAR-10"
PUBLISHED = (
    resnet(20, HE, (0.27e6, 1e4), None),
    resnet(32, HE, (0.46e6, 1e4), None),
    resnet(44, HE, (0.66e6, 1e4), None),
    resnet(56, HE, (0.85e6, 1e4), None),
    resnet(110, HE, (1.7e6, 1e5), None),
    resnet(20, SFP, (0.27e6, 1e4), (4.06e7, 1e5)),
    resnet(32, SFP, (0.46e6, 1e4), (6.89e7, 1e5)),
    resnet(56, HRANK, (0.85e6, 1e4), (125.49e6, 1e4)),
    resnet(110, HRANK, (1.72e6, 1e4), (252.89e6, 1e4)),
    Published("vgg16", "Li et al. 2017, table 1", (1.5e7, 1e6), (3.13e8, 1e6)),
    Published("vgg16", HRANK, (14.98e6, 1e4), (313.73e6, 3e5), weights=True),  # biases add 0.28 M MACs there
    Published("vgg16", ABC, (14.73e6, 1e4), None, {"hidden": 0}),
    Published("googlenet", HRANK, (6.15e6, 1e4), (1.52e9, 1e7), weights=True),
    Published("googlenet", ABC, (6.17e6, 1e4), None),
    Published("densenet40", HRANK, (1.04e6, 1e4), (282.00e6, 1e6), weights=True),
    Published("densenet40", "network slimming (Liu et al. 2017), table 1", (1.02e6, 1e4), None, {"stem": 16}),
    Published(
        "mobilenetv2",
        "Sandler et al. 2018, table 4",
        (3.4e6, 2e5),  # torchvision counts the same network as 3.50 M
        (300e6, 1e6),
        {"classes": 1000, "small": False},
        (1, 3, 224, 224),
    ),
    # Weights 0.5 K, 25 K, 400 K, 5 K; 4,586 K operations, two a multiply-accumulate.
    Published("lenet", "Han et al. 2015, table 3", (431e3, 1e3), (4586e3 / 2, 1e3), images=(1, 1, 28, 28)),
)


@cache
def counted(network: str, arguments: tuple[tuple[str, object], ...], images: tuple[int, ...]) -> tuple[nn.Module, Cost]:
    """A network on the meta device and its cost; several papers print that of the same one."""
    with torch.device("meta"):
        net = build(network, dict(arguments)).eval()
        return net, fxprune.cost(fxprune.find_groups(fxprune.trace(net, torch.zeros(images))))


@pytest.mark.parametrize("published", PUBLISHED, ids=str)
def test_costs_are_those_published(published: Published) -> None:
    net, cost = counted(published.network, tuple(published.arguments.items()), published.images)
    if published.parameters:
        figure, step = published.parameters
        weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
        assert abs((weights if published.weights else cost.parameters) - figure) < step
    if published.macs:
        figure, step = published.macs
        assert abs(cost.macs - figure) < step


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_exact_counts_of_public_code() -> None:
    """torchvision's networks differ from the small ones by stem and classifier only."""
    classifier = (1000 - 10) * (1024 + 1)
    stem = 64 * 3 * (7 * 7 - 3 * 3) + 2 * 64  # the larger kernel, and its batch norm
    dense = torchvision.models.densenet121()
    assert parameters(build("densenet121", {})) == parameters(dense) - classifier - stem
    mobile = torchvision.models.mobilenet_v2(num_classes=10)
    assert parameters(build("mobilenetv2", {})) == parameters(mobile)
    assert parameters(build("alexnet", {})) == 2_472_266  # 23,296 + 307,392 + 663,936 + 884,992 + 590,080 + 2,570


SMALL: dict[str, dict[str, object]] = {
    "resnet A": {"depth": 20},
    "resnet B": {"depth": 20, "option": "B"},
    "resnet110 A": {"depth": 110},
    "vgg16": {},
    "vgg16 without hidden layer": {"hidden": 0},
    "googlenet": {},
    "densenet40": {},
    "densenet121": {},
    "alexnet": {},
    "mobilenetv2": {},
}


def network_of(case: str) -> str:
    return re.sub(r"\d* .*", "", case) if case.startswith("resnet") else case.split(" ")[0]


def small(case: str, **more: object) -> nn.Module:
    return build(network_of(case), {**SMALL[case], **more}).eval()


@pytest.mark.parametrize("case", SMALL)
def test_macs_are_those_of_torchs_counter(case: str) -> None:
    net, cost = counted(network_of(case), tuple(SMALL[case].items()), CIFAR)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(CIFAR, device="meta"))
    assert cost.macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize("case", SMALL)
def test_fashion_mnist_fits(case: str) -> None:
    """One channel, 28 x 28, and as many logits as asked for."""
    with torch.device("meta"):
        net = small(case, channels=1, classes=7)
    assert net(torch.zeros(2, 1, 28, 28, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("case", SMALL)
def test_it_can_be_pruned(case: str) -> None:
    result = fxprune.prune(small(case), torch.randn(CIFAR), 0.5)
    assert result.report.deviation is not None
    assert result.report.deviation <= 1e-5
    assert not result.report.groups.unknown_ops
    left = result.report.after.parameters / result.report.before.parameters
    # Option A pads channels, so the stream between blocks stays whole and only the blocks' insides shrink.
    assert left < (0.56 if case.endswith(" A") else 0.27)


def test_lenet_can_be_pruned() -> None:
    result = fxprune.prune(build("lenet", {"channels": 3, "size": 32}), torch.randn(CIFAR), 0.5)
    assert result.report.deviation is not None
    assert result.report.deviation <= 1e-5
    assert [g.size for g in result.report.groups] == [20, 50, 500]


@pytest.mark.parametrize("option", ["A", "B"])
def test_both_shortcuts_map_images_to_logits(option: str) -> None:
    net = build("resnet", {"depth": 8, "classes": 7, "channels": 1, "width": 6, "option": option}).eval()
    assert net(torch.zeros(3, 1, 9, 8)).shape == (3, 7)
    assert net.layer2[0].shortcut(torch.zeros(3, 6, 9, 8)).shape == (3, 12, 5, 4)


def test_option_a_pads_zeros_around_every_second_pixel() -> None:
    x = torch.randn(2, 4, 6, 6)
    padded = build("resnet", {"depth": 8, "width": 4}).layer2[0].shortcut(x)
    assert torch.equal(padded[:, 2:6], x[:, :, ::2, ::2])
    assert not padded[:, :2].any()
    assert not padded[:, 6:].any()


def test_widths_scale() -> None:
    assert parameters(build("vgg16", {"width": 16})) < parameters(build("vgg16", {})) / 12
    assert parameters(build("googlenet", {"multiplier": 0.25})) < parameters(build("googlenet", {})) / 12
    half = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5)
    assert parameters(build("mobilenetv2", {"multiplier": 0.5})) == parameters(half)


def test_torchvisions_networks_get_ones_own_classifier() -> None:
    net = build("torchvision", {"name": "resnet18", "classes": 31, "bottleneck": 256}).eval()
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 31)
    assert net.fc.narrow.out_features == 256
    plain = build("torchvision", {"name": "mobilenet_v3_small", "classes": 4})
    assert plain.classifier[-1].out_features == 4


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet", {"depth": 18}, "depth must be 6n + 2 with n >= 1 (8, 14, 20, ...), got 18"),
        ("resnet", {"depth": 2}, "got 2"),
        ("resnet", {"depth": 20, "option": "C"}, 'option must be "A" or "B", got \'C\''),
        ("resnet", {"depth": 20, "width": 15}, "so width must be even, got 15"),
        ("resnet", {"depth": 20, "classes": 0}, "resnet: sizes must be above 0, got classes=0"),
        ("vgg16", {"hidden": -1}, "vgg16: sizes must be above 0"),
        ("googlenet", {"multiplier": 0.0}, "googlenet: sizes must be above 0"),
        ("lenet", {"size": 8}, "lenet: images must be at least 16 x 16, got size=8"),
        ("torchvision", {"name": "resnet19", "classes": 2}, "torchvision: no network 'resnet19'"),
        ("torchvision", {"name": "squeezenet1_0", "classes": 2}, "'squeezenet1_0' has no linear layer"),
        ("vgg", {}, f"no network 'vgg'; there are {', '.join(NETWORKS)}"),
        ("vgg16", {"deep": 8}, "network 'vgg16' does not take {'deep': 8}"),
    ],
)
def test_an_impossible_network_is_refused(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(name, arguments)
