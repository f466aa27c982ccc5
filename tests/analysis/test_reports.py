"""Networks of public bug reports: they shrink as their users expected, and do what a user does then."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import reported_nets as nets
import torch
import torch.nn.functional as F
from oracle import ROUNDING, check, check_outputs, check_training, deviation, random_plan, without_mixed
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torchvision.ops import DeformConv2d

import fxprune

Build = Callable[[], nn.Module]


class Deformable(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.offset, self.mask = nn.Conv2d(i, 18, 3, padding=1), nn.Conv2d(i, 9, 3, padding=1)
        self.conv, self.bn = DeformConv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x, self.offset(x), torch.sigmoid(self.mask(x)))))


class DeformableNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.d1, self.d2, self.fc = Deformable(32, 48), Deformable(48, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.d2(F.max_pool2d(self.d1(self.stem(x)), 2)).mean((2, 3)))  # type: ignore[no-any-return]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(20, 64, 5, padding=2), nn.Conv1d(32, 40, 3, padding=1)
        self.out = nn.Conv1d(20, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.glu(self.second(F.glu(self.first(x), 1)), 1))  # type: ignore[no-any-return]


def plugged(kind: Any) -> Build:
    def build() -> nn.Module:
        nets.Plugged.plug = staticmethod(kind)
        return nets.Plugged()

    return build


REPORTS: dict[str, tuple[Build, tuple[tuple[int, ...], ...], float]] = {
    "glu": (Gated, ((20, 60),), 0.42),
    "unrolled_gru": (nets.UnrolledRecurrence, ((7, 10),), 0.29),
    "swin_v2": (nets.ShiftedWindows, ((3, 32, 32),), 0.28),
    "fastsurfer": (nets.CompetitiveUNet, ((3, 16, 16),), 0.27),
    "shufflefacenet": (nets.ShuffleFace, ((3, 32, 32),), 0.36),
    "starganv2": (nets.StarGAN, ((3, 16, 16), (8,)), 0.28),
    "stylegan2": (nets.StyleGAN2, ((8,),), 0.28),
    "yolov10": (nets.PartialAttention, ((3, 32, 32),), 0.3),
    **{
        kind.__name__: (plugged(kind), ((3, 10, 10),), 0.29)
        for kind in (nets.Coordinates, nets.CBAM, nets.ECA, nets.SimAM, nets.EMA, nets.ShuffleAttention)
    },
}


@pytest.mark.parametrize("name", REPORTS)
def test_report(name: str) -> None:
    make, shapes, most = REPORTS[name]

    def build() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        return tuple(torch.randn(max(batch, 2), *shape, generator=generator) for shape in shapes)

    plan, model = check(build, inputs, 0.5), build()
    small = fxprune.rewrite(model, plan)
    assert sum(p.numel() for p in small.parameters()) < most * sum(p.numel() for p in model.parameters())
    exact = without_mixed(fxprune.find_groups(fxprune.trace(model, inputs(1))), plan)
    assert deviation(model, exact, inputs(3)) <= ROUNDING


def test_deformable_convolutions() -> None:
    """PyTorch's counter of operations, which `check` compares with, does not know them."""
    model, x = DeformableNet().eval(), (torch.randn(2, 3, 16, 16),)
    plan = random_plan(model, fxprune.find_groups(fxprune.trace(model, x)), 0.5)
    small = fxprune.rewrite(model, plan)
    assert sum(p.numel() for p in small.parameters()) < 0.35 * sum(p.numel() for p in model.parameters())
    assert deviation(model, plan, x) <= ROUNDING
    check_outputs(model, small, (torch.randn(3, 3, 12, 20),))
    check_training(model, small, x)


@pytest.mark.parametrize("heads", ["num_heads", "head_dim"])
@pytest.mark.parametrize("build", [nets.ShiftedWindows, nets.PartialAttention])
def test_both_choices_of_heads(build: Build, heads: str) -> None:
    model, x = build().eval(), (torch.randn(2, 3, 32, 32),)
    groups = fxprune.find_groups(fxprune.trace(model, x), heads=heads)
    plan = random_plan(model, groups, 0.5)
    assert fxprune.rewrite(model, plan)(torch.randn(3, 3, 32, 32)) is not None
    assert deviation(model, without_mixed(groups, plan), x) <= ROUNDING


class Temporal(nn.Module):
    """Dilated convolutions whose weights are computed before each forward."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        widths = ((4, 32), (32, 32), (32, 48), (48, 48))
        self.layers = nn.ModuleList(wrap(nn.Conv1d(i, o, 3, padding=1)) for i, o in widths)
        self.down, self.fc = nn.Conv1d(32, 48, 1), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = self.layers
        x = F.relu(b(F.relu(a(x))))
        return self.fc(F.relu(d(F.relu(c(x))) + self.down(x))[:, :, -1])  # type: ignore[no-any-return]


def masked(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", amount=0.3)
    return layer


COMPUTED = (weight_norm, parametrizations.weight_norm, spectral_norm, parametrizations.spectral_norm, masked)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("wrap", COMPUTED, ids=lambda w: f"{w.__module__}.{w.__name__}")
def test_weights_that_are_computed(wrap: Any) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Temporal(wrap).eval()

    model, x = build(), torch.randn(2, 4, 20)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = random_plan(model, groups, 0.5)
    small = fxprune.rewrite(model, plan)
    assert sum(p.numel() for p in small.parameters()) < 0.27 * sum(p.numel() for p in model.parameters())
    assert small(torch.randn(3, 4, 17)).shape == (3, 5)
    assert fxprune.verify(model, without_mixed(groups, plan), x) <= ROUNDING
    again = fxprune.rewrite(build(), plan)
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1, self.c2, self.b2 = (
            nn.Conv2d(3, 16, 3),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 32, 3),
            nn.BatchNorm2d(32),
        )
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x)))))).mean((2, 3)))  # type: ignore[no-any-return]


def test_batchnorm_of_several_devices() -> None:
    model, x = nn.SyncBatchNorm.convert_sync_batchnorm(Wrapped()).eval(), torch.randn(2, 3, 10, 10)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.size for g in groups] == [16, 32]
    plan = random_plan(model, groups, 0.5)
    assert deviation(model, plan, (x,)) <= ROUNDING
    assert fxprune.rewrite(model, plan)(torch.randn(3, 3, 12, 10)).shape == (3, 4)


def test_a_plan_of_the_bare_model_is_wrapped_again() -> None:
    result = fxprune.prune(Wrapped().eval(), torch.randn(1, 3, 10, 10), pruning_ratio=0.5)
    parallel = nn.DataParallel(copy.deepcopy(result.model))
    parallel(torch.randn(3, 3, 12, 10)).sum().backward()


@pytest.mark.parametrize("heads", [pytest.param("", marks=pytest.mark.slow), "num_heads"])
def test_grouped_queries_of_transformers(heads: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        vocab_size=60,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = transformers.Qwen2ForCausalLM(config).eval()
    ids = {"input_ids": torch.randint(1, 60, (1, 9))}
    groups = fxprune.find_groups(fxprune.trace(model, ids), heads=heads)
    plan = random_plan(model, groups, 0.5)
    small = fxprune.rewrite(model, plan)
    assert sum(p.numel() for p in small.parameters()) < 0.55 * sum(p.numel() for p in model.parameters())
    assert fxprune.verify(model, without_mixed(groups, plan), ids) <= ROUNDING
    assert small.generate(torch.randint(1, 60, (2, 5)), max_new_tokens=4).shape == (2, 9)


class Recurrent(nn.Module):
    """Makes its first state as tutorials do."""

    def __init__(self, kind: type[nn.RNNBase], mode: str) -> None:
        super().__init__()
        self.mode, self.hidden_size, self.num_layers = mode, 40, 2
        self.rnn, self.fc = kind(8, 40, 2, batch_first=True), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        width = self.rnn.hidden_size if self.mode == "layer" else self.hidden_size
        n = (self.num_layers, x.size(0), width)
        h = {"no device": torch.zeros, "to": lambda *n: torch.zeros(*n).to(x.device)}.get(self.mode, x.new_zeros)(*n)
        state = (h.to(x.dtype), torch.zeros_like(h, dtype=x.dtype)) if isinstance(self.rnn, nn.LSTM) else h.to(x.dtype)
        return self.fc(self.rnn(x, state)[0][:, -1, :])  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["to", "new_zeros", "layer", "no device"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_first_states(kind: type[nn.RNNBase], mode: str) -> None:
    model, x = Recurrent(kind, mode).eval(), torch.randn(2, 6, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.size for g in groups] == [40]
    plan = random_plan(model, groups, 0.5)
    assert deviation(model, plan, (x,)) <= ROUNDING
    assert fxprune.rewrite(model, plan)(torch.randn(3, 4, 8)).shape == (3, 5)
    assert math.isclose(fxprune.rewrite(model, plan).rnn.hidden_size, 20)
