"""Shapes that einops computes carry their sources, and each tensor's are its own."""

import copy
import pickle

import pytest
import torch
from oracle import check
from torch import Tensor, nn

import fxprune

einops = pytest.importorskip("einops")
pytest.importorskip("einops.layers.torch")


class Patches(nn.Module):
    """A small vision transformer: patches, a class token, and heads split by a pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = 4, 8**-0.5
        layer = einops.layers.torch.Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4)
        self.patches = nn.Sequential(layer, nn.Linear(48, 32))
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.qkv, self.o, self.out = nn.Linear(32, 96, bias=False), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = torch.cat((einops.repeat(self.token, "1 1 d -> b 1 d", b=len(x)), x), 1)
        q, k, v = (einops.rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in self.qkv(x).chunk(3, -1))
        y = ((q @ k.mT) * self.scale).softmax(-1) @ v
        x = x + self.o(einops.rearrange(y, "b h n d -> b n (h d)"))
        return self.out(einops.reduce(x, "b n d -> b d", "mean"))  # type: ignore[no-any-return]


class Layers(nn.Module):
    """Attention whose layers hold the heads or their width, by name; keys and values share one."""

    def __init__(self, lengths: dict[str, int]) -> None:
        super().__init__()
        split = einops.layers.torch.Rearrange
        self.embed = nn.Conv2d(3, 24, 4, 4)
        self.q, self.k, self.v = (nn.Linear(24, 48, bias=False) for _ in range(3))
        self.split, self.split_both = (split("b n (h d) -> b h n d", **lengths) for _ in range(2))
        self.merge = split("b h n d -> b n (h d)")
        self.o, self.out = nn.Linear(48, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        q, k, v = self.split(self.q(x)), self.split_both(self.k(x)), self.split_both(self.v(x))
        y = (q @ k.mT * 0.3).softmax(-1) @ v
        return self.out((x + self.o(self.merge(y))).mean(1))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Two streams of the same shape, of which one is shuffled in front of a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(3, 32, 3, padding=1)
        self.grouped, self.out = nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.Conv2d(64, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), einops.rearrange(self.b(x), "n c h w -> n (h w) c").relu()
        a = self.grouped(einops.rearrange(a, "n (g c) h w -> n (c g) h w", g=4))
        b = einops.rearrange(b, "n (h w) c -> n c h w", h=x.shape[2])
        return self.out(torch.cat((a, b), 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Patches, Shuffled])
def test_widths_in_patterns_follow(make: type[nn.Module]) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    def inputs(batch: int) -> tuple[Tensor]:
        return (torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch)),)

    plan = check(build, inputs, 0.5)
    small = fxprune.rewrite(build(), plan)
    assert sum(p.numel() for p in small.parameters()) < 0.4 * sum(p.numel() for p in build().parameters())
    assert small(*inputs(3)).shape == build()(*inputs(3)).shape


@pytest.mark.parametrize("lengths", [{"h": 4}, {"d": 12}])
@pytest.mark.parametrize("heads", ["num_heads", "head_dim"])
def test_lengths_that_layers_hold_follow(lengths: dict[str, int], heads: str) -> None:
    """Such layers are copied and pickled by another attribute than they run by."""
    torch.manual_seed(0)
    net, x = Layers(lengths).eval(), torch.randn(2, 3, 16, 16)
    result = fxprune.prune(net, x, pruning_ratio=0.5, heads=heads)
    small = result.model
    held = (2 if heads == "num_heads" else 4) if "h" in lengths else (12 if heads == "num_heads" else 6)
    name = next(iter(lengths))
    assert small.split.axes_lengths == small.split_both.axes_lengths == {name: held}
    assert small.q.out_features == small.v.out_features == 24
    for made in (
        copy.deepcopy(small),
        pickle.loads(pickle.dumps(small)),
        fxprune.rewrite(Layers(lengths), result.plan),
    ):
        made.load_state_dict(small.state_dict())
        assert torch.equal(made.eval()(x), small(x))
    assert net.split.axes_lengths == dict(net.split._axes_lengths) == lengths
