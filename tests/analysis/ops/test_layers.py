"""Layers whose ops need other inputs than a feature map, and ops whose MACs and groups are worked out by hand."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import ROUNDING, deviation, random_plan
from torch import Tensor, nn
from torch.nn.utils import parametrizations, rnn
from torch.torch_version import TorchVersion
from torchvision.ops import DeformConv2d

import fxprune


def examine(model: nn.Module, x: Any, sizes: dict[str, int]) -> fxprune.Groups:
    """The groups are those given, no op lacks a rule, and a plan passes the oracle."""
    model.eval()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert not groups.unknown_ops
    assert {g.name: g.size for g in groups} == sizes
    plan = groups.plan({name: range(size // 2) for name, size in sizes.items()})
    assert fxprune.verify(model, plan, x) <= ROUNDING
    return groups


class Recurrent(nn.Module):
    """A layer in the middle of a model whose control flow reads data, so that it is traced on real tensors."""

    def __init__(self, layer: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.a, self.layer, self.c = nn.Conv1d(3, 16, 3), layer, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2 if x.max() > 1e9 else x
        return self.c(self.layer(self.a(x).transpose(1, 2))[0])  # type: ignore[no-any-return]


def test_a_recurrent_layer_as_one_op() -> None:
    """Traced on real tensors, an LSTM is one op, with four gates in one weight."""
    model = Recurrent(nn.LSTM(16, 12, batch_first=True))
    x = torch.rand(2, 3, 20)
    assert "mkldnn_rnn_layer" in {getattr(n.target, "_opname", "") for n in fxprune.trace(model.eval(), x).fx.nodes}
    groups = examine(model, x, {"a": 16, "layer.weight_ih_l0": 12})
    small = fxprune.rewrite(model, groups.plan({"layer.weight_ih_l0": [0, 5]}))
    assert small.layer.hidden_size == 2
    kept = [g * 12 + i for g in range(4) for i in (0, 5)]
    torch.testing.assert_close(small.layer.weight_hh_l0, model.layer.weight_hh_l0[kept][:, [0, 5]])  # type: ignore[index]


class Started(nn.Module):
    """A recurrent layer whose first state is made from a width that the model holds itself."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.width = 40
        self.layer, self.c = kind(8, 40, 2, batch_first=True), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(2, x.size(0), self.width).to(x.device)
        start = (h, torch.zeros_like(h)) if isinstance(self.layer, nn.LSTM) else h
        return self.c(self.layer(x, start)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_first_states_follow_the_hidden_width(kind: type[nn.RNNBase]) -> None:
    model = Started(kind).eval()
    groups = fxprune.find_groups(fxprune.trace(model, torch.rand(2, 6, 8)))
    assert groups
    small = fxprune.rewrite(model, groups.plan({g.name: range(g.size // 2) for g in groups}))
    assert (small.width, small.layer.hidden_size) == (20, 20)
    assert small(torch.rand(3, 4, 8)).shape == (3, 5)


class Packed(nn.Module):
    """A recurrent layer over sequences of several lengths."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a, self.layer, self.c = nn.Linear(3, 16), layer, nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(self.a(x), torch.tensor([5, 2]), batch_first=True)
        return self.c(rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences(kind: type[nn.RNNBase]) -> None:
    model = Packed(kind(16, 12, batch_first=True))
    groups = fxprune.find_groups(fxprune.trace(model.eval(), torch.rand(2, 5, 3)))
    assert sorted(g.size for g in groups) == [12, 16]
    examine(model, torch.rand(2, 5, 3), {g.name: g.size for g in groups})


class Experts(nn.Module):
    """Two experts, one after another in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 16), nn.Linear(32, 3)
        self.w = nn.Parameter(torch.randn(2, 16, 32))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 6], dtype=torch.int32)
        return self.c(torch._grouped_mm(self.a(x), self.w, offs=ends))  # type: ignore[no-any-return]


@pytest.mark.skipif(torch.__version__ < TorchVersion("2.9"), reason="PyTorch has no kernel for the CPU")
def test_a_mixture_of_experts() -> None:
    model, x = Experts().eval(), torch.randn(6, 4)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert not groups.unknown_ops
    assert {(s.tensor, s.dim): len(s.positions) for s in groups["a"].slots} == {
        ("a.weight", 0): 16,
        ("a.bias", 0): 16,
        ("w", 1): 16,
    }
    assert [(s.tensor, s.dim) for g in groups for s in g.slots if g.name != "a"] == [("w", 2), ("c.weight", 1)]
    assert fxprune.cost(groups).macs == 6 * (4 * 16 + 16 * 32 + 32 * 3)
    small = fxprune.rewrite(model, groups.plan({g.name: range(0, g.size, 2) for g in groups}))
    assert small.w.shape == (2, 8, 16)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.w[:, 1::2] = 0
        masked.c.weight[:, 1::2] = 0
    torch.testing.assert_close(small(x), masked(x))


@pytest.mark.skipif(torch.__version__ < TorchVersion("2.9"), reason="PyTorch has no kernel for the CPU")
@pytest.mark.parametrize("ratio", [0.3, 0.45, 0.7])
def test_a_mixture_of_experts_keeps_widths_that_its_kernel_takes(ratio: float) -> None:
    """Rows of 16 bytes: four numbers of float32."""
    model, x = Experts().eval(), torch.randn(6, 4)
    result = fxprune.prune(model, x, ratio)
    assert result.report.deviation is not None
    assert all(count % 4 == 0 for count in result.report.kept.values())
    assert result.model.w.shape[1] < 16
    assert result.model(x).shape == (6, 3)
    half = fxprune.find_groups(fxprune.trace(model.bfloat16(), x.bfloat16()))
    assert {g.multiple for g in half} == {8}


@pytest.mark.parametrize(("groups", "sizes"), [(1, {"stem": 8, "conv": 12}), (2, {"stem": 4, "conv": 6})])
def test_deformable_convolution(groups: int, sizes: dict[str, int]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.offset, self.mask = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 18, 1), nn.Conv2d(3, 9, 1)
            self.conv, self.head = DeformConv2d(8, 12, 3, padding=1, groups=groups), nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.stem(x), self.offset(x), self.mask(x).sigmoid())
            return self.head(y.relu())  # type: ignore[no-any-return]

    found = examine(Net(), torch.randn(2, 3, 5, 5), sizes)
    assert fxprune.cost(found).macs == 2 * 25 * (3 * (8 + 18 + 9) + 8 * 12 * 9 // groups + 12 * 2)


def test_gated_halves_live_or_die_together() -> None:
    class Glu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b, self.c = nn.Conv1d(3, 32, 1), nn.Conv1d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(F.glu(self.b(x), 1))  # type: ignore[no-any-return]

    groups = examine(Glu(), torch.rand(2, 3, 9), {"b": 16})
    (weight, *_) = groups["b"].slots
    assert weight.positions[weight.channels == 3].tolist() == [3, 19]


class Selected(nn.Module):
    """The best tokens, by an index that is the same for all channels."""

    def __init__(self, select: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.b, self.c, self.score, self.select = nn.Linear(5, 32), nn.Linear(32, 7), nn.Linear(32, 1), select

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(x)
        best = self.score(x).squeeze(-1).topk(4, dim=1).indices
        return self.c(self.select(x, best).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "select",
    [
        lambda x, i: x.gather(1, i[..., None].repeat(1, 1, x.shape[-1])),
        lambda x, i: x.gather(1, i[..., None].expand(-1, -1, x.shape[-1])),
        lambda x, i: torch.take_along_dim(x, i[..., None], 1),
        lambda x, i: x.scatter(1, i[..., None].expand(-1, -1, x.shape[-1]), 0.0),
        lambda x, i: x.scatter_add(1, i[..., None].expand(-1, -1, x.shape[-1]), x[:, :4]),
    ],
    ids=["repeat", "expand", "take_along_dim", "scatter", "scatter_add"],
)
def test_channels_pass_where_tokens_are_selected(select: Callable[[Tensor, Tensor], Tensor]) -> None:
    examine(Selected(select), torch.rand(2, 9, 5), {"b": 32})


@pytest.mark.parametrize(
    "norm", [parametrizations.weight_norm, parametrizations.spectral_norm], ids=["weight", "spectral"]
)
def test_weights_that_are_computed(norm: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(
        nn.Conv1d(3, 16, 3), nn.ReLU(), norm(nn.Conv1d(16, 16, 3)), nn.ReLU(), nn.Conv1d(16, 4, 1)
    ).eval()
    groups = fxprune.find_groups(fxprune.trace(model, torch.rand(2, 3, 9)))
    assert not groups.unknown_ops
    assert [g.size for g in groups] == [16, 16]
    assert (
        fxprune.verify(model, groups.plan({g.name: range(9) for g in groups if not g.mixed_by}), torch.rand(2, 3, 9))
        <= ROUNDING
    )


class Reads(nn.Module):
    """A parameter that only a reduction reads."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.w, self.read = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.rand(5, 3)), read

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * self.read(self.w))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["sum", "mean", "max", "norm", "std"])
def test_a_parameter_that_only_a_reduction_reads(name: str) -> None:
    """Nothing crashes; what only a sum reads stays, the others count or compare elements."""
    model, x = Reads(lambda w: getattr(w, name)()).eval(), torch.rand(2, 4)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    own = [g for g in groups if any(s.tensor == "w" for s in g.slots)]
    assert all(g.mixed_by for g in own)
    assert not own or name not in ("sum", "norm")
    assert fxprune.verify(model, groups.plan({"a": [0, 3]}), x) <= ROUNDING


def test_any_tells_a_masked_element_from_a_removed_one() -> None:
    """0 > -1.5 is true: once w's elements are gone, the answer is another."""
    model = Reads(lambda w: 1 + (w - 3 > -1.5).any().to(w.dtype))
    groups = fxprune.find_groups(fxprune.trace(model.eval(), torch.rand(2, 4)))
    assert {g.mixed_by.partition(" ")[0] for g in groups if g.name.startswith("w")} == {"aten.any.default"}


def test_marks_of_a_profiler_are_no_ops() -> None:
    class Marked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.profiler.record_function("all"):
                return super().forward(x)  # type: ignore[no-any-return]

    examine(Marked(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(2, 3), {"0": 8})


class NeighbouringChannels(nn.Module):
    """Channel attention by a filter along the pooled channels."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.filter = nn.Conv1d(1, 1, 3, bias=False, **settings)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        gate = self.filter(y.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1)
        return self.b(y * gate.sigmoid() if gate.shape[1] == y.shape[1] else y)


def test_a_filter_along_channels_mixes_them() -> None:
    """It runs at any width; each channel then sees other neighbours, so that pruned and masked differ."""
    model, x = NeighbouringChannels(padding=1), torch.rand(2, 3, 6, 6)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size, "convolution" in g.mixed_by) for g in groups] == [("a", 8, True)]
    small = fxprune.rewrite(model, groups.plan({"a": [1, 4, 5]}))
    assert small(x).shape == model(x).shape
    gate = F.conv1d(model.a(x).mean((2, 3))[:, None, [1, 4, 5]], model.filter.weight, padding=1).sigmoid()
    expected = model.a(x)[:, [1, 4, 5]] * gate[:, 0, :, None, None]
    torch.testing.assert_close(small(x), F.conv2d(expected, model.b.weight[:, [1, 4, 5]], model.b.bias))


def test_a_filter_that_shortens_fixes_what_it_sweeps() -> None:
    groups = fxprune.find_groups(fxprune.trace(NeighbouringChannels(), torch.rand(2, 3, 6, 6)))
    assert "a" not in groups


class Masked(nn.Module):
    """Tokens that a mask names are computed apart, in one of three ways, and put back."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.i, self.o, self.way = nn.Linear(5, 12), nn.Linear(12, 3), way
        self.m = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12))
        self.t = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.i(x)
        match self.way:
            case "index":
                y = torch.zeros_like(x)
                y[mask] = self.m(x[mask])
                y[~mask] = self.t
            case "rows":
                y = x.flatten(0, 1)
                y = y.index_put((mask.flatten(),), self.m(y[mask.flatten(), :])).view(x.shape)
            case _:
                wide = mask.unsqueeze(-1).expand_as(x).to(x.device)
                y = x.masked_scatter(wide, self.m(x.flatten(0, 1)))
        return self.o(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", ["index", "rows", "scatter"])
def test_channels_of_tokens_that_a_mask_names(way: str) -> None:
    x = torch.randn(2, 6, 5), torch.tensor([[1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 1, 1]]).bool()
    model = Masked(way).eval()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: g.size for g in groups} == {"i": 12, "m.0": 8}
    plan = groups.plan({"i": [0, 3, 4, 9, 11], "m.0": [1, 2, 7]})
    assert deviation(model, plan, x) <= 1e-9
    fxprune.rewrite(model, plan)(torch.cat([x[0]] * 2), torch.cat([~x[1]] * 2)).sum().backward()


def test_positions_in_a_mask_of_channels_stay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y.masked_scatter(y > 0, y.flip(0)))  # type: ignore[no-any-return]

    groups = fxprune.find_groups(fxprune.trace(Model().eval(), torch.randn(4, 5)))
    assert not len(groups)
    assert any(f.reason == "selected by a mask" for f in groups.fixed)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_distances_add_up_over_channels(p: float) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.b = nn.Linear(5, 12), nn.Parameter(torch.randn(7, 12)), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.exp(-torch.cdist(self.a(x), self.c.expand(len(x), -1, -1), p)))  # type: ignore[no-any-return]

    model, x = Model().eval(), (torch.randn(2, 4, 5),)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: (g.size, g.mixed_by) for g in groups} == {"a": (12, ""), "c": (7, "")}
    assert deviation(model, groups.plan({"a": [1, 5, 6]}), x) <= 1e-9


def overwritten(x: Tensor, v: Tensor) -> Tensor:
    x = x.clone()
    x[x > 0.5] = 0.5
    x[x.isnan()] = 0
    return x


def row_by_row(x: Tensor, v: Tensor) -> Tensor:
    x = x.clone()
    x[torch.tensor([[True, False, True, False], [False] * 4])] = v
    x[:, torch.tensor([False, True, False, False])] = v[None]
    return x


@pytest.mark.parametrize("write", [overwritten, row_by_row])
def test_what_a_mask_names_gets_one_value(write: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.v, self.b = nn.Linear(5, 12), nn.Parameter(torch.randn(12)), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(write(self.a(x), self.v))  # type: ignore[no-any-return]

    model, x = Model().eval(), (torch.randn(2, 4, 5),)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: g.size for g in groups} == {"a": 12}
    assert deviation(model, groups.plan({"a": [1, 5, 6]}), x) <= 1e-9


class Quantised(nn.Conv2d):
    """Weights in steps of a part of the largest, of all or of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        step = self.weight.detach().abs().max() / 127
        return F.conv2d(x / x.max(), (self.weight / step).round().clamp(-127, 127) * step, self.bias)


def test_the_largest_of_all_numbers_has_no_position() -> None:
    model, x = nn.Sequential(Quantised(3, 16, 3), nn.ReLU(), Quantised(16, 8, 3)).eval(), torch.rand(2, 3, 9, 9)
    result = fxprune.prune(model, x, 0.5)
    assert result.plan.kept_counts() == {"0": 8}
    assert result.model(x).shape == (2, 8, 5, 5)


def quantised(kind: str) -> nn.Sequential:
    """A network that is trained for integers: activations by one scale, weights by one for each channel."""
    from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, PerChannelMinMaxObserver

    observer = {"tensor": MovingAverageMinMaxObserver, "channel": PerChannelMinMaxObserver}[kind]
    options = {} if kind == "tensor" else {"ch_axis": 1, "qscheme": torch.per_channel_affine}
    fake = FakeQuantize(observer, **options)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), fake, nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    net(torch.randn(2, 3, 12, 12))
    fake.disable_observer()
    return net.eval()


class ForIntegers(nn.Module):
    """As PyTorch prepares it: stubs around layers whose weights and results are rounded during training."""

    def __init__(self) -> None:
        super().__init__()
        from torch.ao.quantization import DeQuantStub, QuantStub

        self.inside, self.a, self.norm = QuantStub(), nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.b, self.out, self.outside = nn.Conv2d(16, 24, 3), nn.Linear(24, 4), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.norm(self.a(self.inside(x))).relu())
        return self.outside(self.out(x.mean((2, 3))))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of what it will drop, and of observers that have seen little
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("version", [0, 1])
def test_networks_that_are_trained_for_integers(backend: str, version: int) -> None:
    from torch.ao import quantization

    net, x = ForIntegers().train(), torch.randn(2, 3, 9, 9)
    net.qconfig = quantization.get_default_qat_qconfig(backend, version=version)  # type: ignore[assignment]
    quantization.prepare_qat(net, inplace=True)
    net(x)
    net.apply(quantization.disable_observer)
    result = fxprune.prune(net.eval(), x, 0.5)
    assert result.plan.kept_counts() == {"a": 8, "b": 12}
    assert result.model(x).shape == (2, 4)
    result.model.train()(x).sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["tensor", "channel"])
def test_fake_quantisation_lets_channels_pass(kind: str) -> None:
    net, x = quantised(kind), torch.randn(2, 3, 12, 12)
    groups = fxprune.find_groups(fxprune.trace(net, x))
    assert {g.name: g.size for g in groups} == {"0": 16, "3": 16}
    if kind == "tensor":  # PyTorch has no such op in float64 for scales of channels
        assert deviation(net, random_plan(net, groups, 0.5), (x,)) <= ROUNDING
    assert fxprune.prune(net, x, 0.5).report.deviation == 0
