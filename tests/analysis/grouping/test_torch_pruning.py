"""A second opinion: the coupled layers that fxprune finds are those that Torch-Pruning finds, channel by channel.

The two share nothing: the peer follows autograd's tape from module to module with a rule for each layer type. On
torchvision's convolutional classifiers they differ in one thing only, listed in `DIFFERENCES`, where both are right; on
the ShuffleNets the peer fails. A test holds that every one of those classifiers is in one of the lists.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
import torch_pruning as tp
import torchvision
import torchvision_models as tv
from torch import Tensor, nn

import fxprune

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer warns of what it guesses

AGREE = (
    *("alexnet", "convnext_tiny", "convnext_small", "convnext_base", "convnext_large", "densenet121", "densenet161"),
    *("densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    *("efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_s"),
    *("efficientnet_v2_m", "efficientnet_v2_l", "googlenet", "inception_v3", "mnasnet0_5", "mnasnet0_75"),
    *("mnasnet1_0", "mnasnet1_3", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet34"),
    *("resnet50", "resnet101", "resnet152", "squeezenet1_0", "squeezenet1_1", "vgg11", "vgg13", "vgg16", "vgg19"),
    *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "wide_resnet50_2", "wide_resnet101_2"),
)

# The peer divides by zero where it maps the indices of the shuffle's reshape.
FAILS = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")

GROUPED = "resnext50_32x4d"
# Model: {pattern for the first layer of a differing set: why it differs}. A set that differs must be listed here, and
# each pattern must still match one.
WHOLE_GROUPS = (
    "fxprune removes whole groups of the grouped convolution, so what is in front of it and behind it shrink together; "
    "the peer removes columns of every group, so they shrink apart"
)
SAME_COLUMNS = (
    "both remove columns of every group of the grouped convolution; fxprune ties column i of all groups into one "
    "channel, where the peer leaves that to its pruner"
)


def of_stages(columns: str, whole: str = "") -> dict[str, str]:
    """The differences of a RegNet: the stages with the one, and those with the other."""
    reasons = {columns: SAME_COLUMNS, whole: WHOLE_GROUPS}
    return {f"trunk_output.block[{stages}].*.f.[ab].0": why for stages, why in reasons.items() if stages}


DIFFERENCES: dict[str, dict[str, str]] = {
    GROUPED: {"layer[123].*.conv[12]": WHOLE_GROUPS, "layer4.*.conv[12]": SAME_COLUMNS},
    "resnext101_32x8d": {"layer[12].*.conv[12]": WHOLE_GROUPS, "layer[34].*.conv[12]": SAME_COLUMNS},
    "resnext101_64x4d": {"layer[1234].*.conv[12]": WHOLE_GROUPS},
    "regnet_x_400mf": of_stages("123", "4"),
    "regnet_x_800mf": of_stages("12", "34"),
    "regnet_x_1_6gf": of_stages("123", "4"),
    "regnet_x_3_2gf": of_stages("1234"),
    "regnet_x_8gf": of_stages("234"),
    "regnet_x_16gf": of_stages("1234"),
    "regnet_x_32gf": of_stages("1234"),
    "regnet_y_400mf": of_stages("1", "234"),
    "regnet_y_800mf": of_stages("12", "34"),
    "regnet_y_1_6gf": of_stages("123", "4"),
    "regnet_y_3_2gf": of_stages("123", "4"),
    "regnet_y_8gf": of_stages("1234"),
    "regnet_y_16gf": of_stages("1234"),
    "regnet_y_32gf": of_stages("234"),
    "regnet_y_128gf": of_stages("1234"),
}

WEIGHTED = (nn.Conv2d, nn.Linear)
NORM = (nn.BatchNorm2d, nn.LayerNorm)

# One layer's part of a coupled set: (layer, 'out' or 'in', {indices of one channel, for each channel}).
Part = tuple[str, str, frozenset[frozenset[int]]]
Coupled = frozenset[Part]


def build(name: str) -> tuple[nn.Module, Tensor]:
    plain = {"aux_logits": False, "init_weights": False}
    options: dict[str, Any] = plain if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, **options).eval(), torch.rand(1, 3, 224, 224)


def classifier(model: nn.Module) -> nn.Module:
    """The layer that makes the output, whose width must stay; the peer has to be told."""
    return [m for m in model.modules() if isinstance(m, WEIGHTED)][-1]


def part(layer: str, module: nn.Module, side: str, pairs: Iterable[tuple[int, int]]) -> set[Part]:
    """What a set holds of one layer, from pairs (channel, index); norms and depthwise convolutions have one width."""
    owned: dict[int, set[int]] = {}
    for channel, index in pairs:
        owned.setdefault(int(channel), set()).add(int(index))
    indices = frozenset(map(frozenset, owned.values()))
    if isinstance(module, NORM):
        return {(layer, "out", indices)}
    if isinstance(module, nn.Conv2d) and 1 < module.groups == module.out_channels == module.in_channels:
        return {(layer, "out", indices), (layer, "in", indices)}
    return {(layer, side, indices)}


def ours(model: nn.Module, image: Tensor) -> set[Coupled]:
    layers = {f"{name}.weight": (name, m) for name, m in model.named_modules() if isinstance(m, WEIGHTED + NORM)}
    found = set()
    for group in fxprune.find_groups(fxprune.trace(model, image)):
        parts: set[Part] = set()
        for slot in group.slots:
            if slot.tensor in layers:
                side = "in" if slot.role == "consumer" else "out"
                parts |= part(*layers[slot.tensor], side, zip(slot.channels, slot.positions, strict=True))
        found.add(frozenset(parts))
    return found


def peers(model: nn.Module, image: Tensor) -> set[Coupled]:
    names = {m: name for name, m in model.named_modules()}
    graph = tp.DependencyGraph().build_dependency(model, (image,), verbose=False)
    found = set()
    for group in graph.get_all_groups([classifier(model)], root_module_types=list(WEIGHTED)):
        parts: set[Part] = set()
        for item in group.items:
            module = item.dep.target.module
            if isinstance(module, WEIGHTED + NORM):
                side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
                parts |= part(names[module], module, side, zip(item.root_idxs, item.idxs, strict=True))
        found.add(frozenset(parts))
    return found


def lead(coupled: Coupled, order: dict[str, int]) -> str:
    """The first layer that makes the channels of a set."""
    return min((layer for layer, side, _ in coupled if side == "out"), key=order.__getitem__)


def sides(coupled: Iterable[Part]) -> set[tuple[str, str]]:
    return {(layer, side) for layer, side, _ in coupled}


def joins_two(mine: Coupled, theirs: set[Coupled]) -> bool:
    """The set is two of the peer's, which meet at the two sides of one convolution."""
    made = {(layer, side) for layer, side in sides(mine) if side == "out"}
    parts = [c for c in theirs if sides(c) & made]
    consumed = sides(part for c in parts for part in c) - sides(mine)
    return len(parts) == 2 and [(layer, "out") in made and side == "in" for layer, side in consumed] == [True]


def ties_columns(mine: Coupled, theirs: set[Coupled]) -> bool:
    """The set has the layers of one of the peer's, with fewer channels, each of several indices."""
    same = [c for c in theirs if sides(c) == sides(mine)]
    return len(same) == 1 and min(len(i) for *_, i in same[0]) > max(len(i) for *_, i in mine)


FITS: dict[str, Callable[[Coupled, set[Coupled]], bool]] = {WHOLE_GROUPS: joins_two, SAME_COLUMNS: ties_columns}


def test_every_convolutional_classifier_is_listed_once() -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    convolutional = [n for n in names if tv.family(n) in ("convolutional", "shuffle")]
    assert sorted([*AGREE, *DIFFERENCES, *FAILS]) == sorted(convolutional)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGREE)
def test_coupled_channels_are_the_peers(name: str) -> None:
    model, image = build(name)
    mine, theirs = ours(model, image), peers(model, image)
    assert mine, "nothing to compare"
    assert mine == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILS)
def test_the_peer_fails(name: str) -> None:
    model, image = build(name)
    assert ours(model, image)
    with pytest.raises(ZeroDivisionError):
        peers(model, image)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENCES)
def test_every_difference_is_listed_and_as_explained(name: str) -> None:
    model, image = build(name)
    mine, theirs = ours(model, image), peers(model, image)
    order = {layer: i for i, (layer, _) in enumerate(model.named_modules())}
    listed = DIFFERENCES[name]
    leads = {lead(c, order) for c in mine ^ theirs}
    assert not [n for n in leads if not any(fnmatchcase(n, p) for p in listed)], "a difference is not listed"
    assert not [p for p in listed if not any(fnmatchcase(n, p) for n in leads)], "a listed difference no longer occurs"
    for coupled in mine - theirs:
        why = next(w for p, w in listed.items() if fnmatchcase(lead(coupled, order), p))
        assert FITS[why](coupled, theirs - mine), f"{lead(coupled, order)} differs, but not as listed: {why}"


# Who is right where they differ: both, if the peer's pruner does what its groups leave out.


@pytest.mark.slow
def test_where_they_differ_fxprune_equals_the_masked_model() -> None:
    model, image = build(GROUPED)
    groups = fxprune.find_groups(fxprune.trace(model, image))
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert fxprune.verify(model, plan, image) < 1e-9


@pytest.mark.slow
def test_where_they_differ_a_group_of_the_peer_alone_breaks_the_model() -> None:
    model, image = build(GROUPED)
    conv = model.get_submodule("layer1.0.conv1")
    tp.DependencyGraph().build_dependency(model, (image,)).get_pruning_group(
        conv, tp.prune_conv_out_channels, [5]
    ).prune()
    with pytest.raises(RuntimeError, match="groups=32"):
        model(image)


@pytest.mark.slow
def test_where_they_differ_the_peers_pruner_equals_the_masked_model() -> None:
    model, image = build(GROUPED)
    model, image = excited(model.double()), image.double()
    masked, names = copy.deepcopy(model), {m: name for name, m in model.named_modules()}
    pruner = tp.pruner.BasePruner(
        model,
        (image,),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[classifier(model)],
        in_channel_groups={},  # its mutable defaults would keep this model's layers
        out_channel_groups={},
        num_heads={},
    )
    for group in pruner.step(interactive=True):
        for item in group.items:
            if item.dep.target.module in names and pruner.DG.is_out_channel_pruning_fn(item.dep.handler):
                silence(masked.get_submodule(names[item.dep.target.module]), item.idxs)
        group.prune()
    with torch.no_grad():
        small, full = model(image), masked(image)
    assert model.get_submodule("layer1.0.conv2").weight.shape == (64, 2, 3, 3)
    assert (small - full).abs().max() < 1e-9 * full.abs().max()


def excited(model: nn.Module) -> nn.Module:
    """Scales and shifts drawn at random, so that channels differ."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, 0.5, 1.5)
    return model


def silence(module: nn.Module, channels: list[int]) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data[channels] = 0
