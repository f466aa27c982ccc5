"""Random convolutional networks: a hypothesis strategy whose every value is a runnable model.

A network is a list of genes; each gene names an op and holds a few integers, which pick operands and widths modulo what
is possible at that point. So every list is a valid network, and hypothesis shrinks failures to few, small ops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import hypothesis.strategies as st
import random_idioms
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gene = tuple[str, int, int, int]
Shape = tuple[int, int]  # channels, height (maps are square)


@dataclass
class Draft:
    """A network under construction: the modules so far, and the shape of every value."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    steps: list[tuple[Callable[..., Tensor], tuple[int, ...], tuple[str, ...]]] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=lambda: [(3, 8)])

    def module(self, module: nn.Module) -> str:
        name = f"{type(module).__name__.lower()}{len(self.modules)}"
        self.modules[name] = module
        return name

    def add(
        self, run: Callable[..., Tensor], operands: Sequence[int], modules: Sequence[nn.Module], shape: Shape
    ) -> int:
        """Append a step `run(modules..., operands...)`; returns the index of its value."""
        self.steps.append((run, tuple(operands), tuple(self.module(m) for m in modules)))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def again(self, step: int, operand: int) -> int:
        """Run an earlier step's modules on another value of the same shape."""
        run, _, modules = self.steps[step]
        self.steps.append((run, (operand,), modules))
        self.shapes.append(self.shapes[step + 1])
        return len(self.shapes) - 1


class RandomNet(nn.Module):
    """The network that a list of genes describes."""

    def __init__(self, genes: Sequence[Gene]) -> None:
        super().__init__()
        draft = Draft()
        for op, a, b, w in [("conv", 0, 1, 5), *genes]:
            OPS[op](draft, a % len(draft.shapes), b, w)
        read = {operand for _, operands, _ in draft.steps for operand in operands}
        ends = [i for i in range(1, len(draft.shapes)) if i not in read or i == len(draft.shapes) // 2]
        for i in dict.fromkeys(ends):
            draft.add(_one, [i], [nn.Conv2d(draft.shapes[i][0], 3, 1)], (3, draft.shapes[i][1]))
        self.outputs = len(set(ends))
        self.steps = draft.steps
        for name, module in draft.modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for run, operands, modules in self.steps:
            values.append(run(*(getattr(self, m) for m in modules), *(values[i] for i in operands)))
        return tuple(values[-self.outputs :])


def build(genes: Sequence[Gene]) -> RandomNet:
    """A fresh instance, the same each time; running statistics are drawn as well."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = RandomNet(genes).eval()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                m.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net


def inputs(batch: int) -> tuple[Tensor]:
    return (torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


# Ops. Each appends steps to a draft, given an operand and two integers; where it is impossible it does nothing.


def _one(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)  # type: ignore[no-any-return]


def _divisor(n: int, choice: int) -> int:
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return divisors[choice % len(divisors)]


def convolution(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    stride = 2 if b % 3 == 2 and n >= 4 else 1
    kernel = 3 if b % 2 else 1
    d.add(_one, [a], [nn.Conv2d(c, w, kernel, stride, kernel // 2, bias=bool(w % 3))], (w, -(-n // stride)))


def grouped(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    groups = _divisor(c, b)
    out = groups * (1 + w % 4)
    d.add(_one, [a], [nn.Conv2d(c, out, 3, 1, 1, groups=groups)], (out, n))


def depthwise(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    out = c * (1 + w % 2)
    d.add(_one, [a], [nn.Conv2d(c, out, 3, 1, 1, groups=c)], (out, n))


def transposed(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    groups = _divisor(c, b) if w % 2 else 1
    out = groups * (1 + w % 5)
    if n <= 4:
        d.add(_one, [a], [nn.ConvTranspose2d(c, out, 2, 2, groups=groups)], (out, 2 * n))


def norm(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    kinds = [
        nn.BatchNorm2d(c),
        nn.BatchNorm2d(c, affine=False),
        nn.GroupNorm(_divisor(c, w), c),
        nn.InstanceNorm2d(c, affine=True),
    ]
    if n > 1:
        d.add(_one, [a], [kinds[(0, 0, 1, 2, 3)[b % 5]]], (c, n))


def activation(d: Draft, a: int, b: int, w: int) -> None:
    c, _ = d.shapes[a]
    kinds = [nn.ReLU(), nn.Sigmoid(), nn.SiLU(), nn.PReLU(c), nn.Hardswish(), nn.Dropout(0.3)]
    d.add(_one, [a], [kinds[b % len(kinds)]], d.shapes[a])


def _matched(d: Draft, a: int, b: int) -> int | None:
    """The value `b`, resampled to the size of `a`."""
    b %= len(d.shapes)
    n = d.shapes[a][1]
    if d.shapes[b][1] == n:
        return b
    return d.add(lambda x: F.interpolate(x, size=(n, n)), [b], [], (d.shapes[b][0], n))


def add(d: Draft, a: int, b: int, w: int) -> None:
    other = _matched(d, a, b)
    c, n = d.shapes[a]
    if d.shapes[other][0] != c:
        other = d.add(_one, [other], [nn.Conv2d(d.shapes[other][0], c, 1)], (c, n))
    run = [torch.add, torch.sub, lambda x, y: x * y.sigmoid(), torch.maximum][w % 4]
    d.add(run, [a, other], [], (c, n))


def cat(d: Draft, a: int, b: int, w: int) -> None:
    other = _matched(d, a, b)
    c, n = d.shapes[a]
    if c + d.shapes[other][0] <= 24:
        d.add(lambda x, y: torch.cat([x, y], 1), [a, other], [], (c + d.shapes[other][0], n))


def chunk(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    parts = _divisor(c, b)
    if 1 < parts < c:
        i = w % parts
        if w % 2:
            d.add(lambda x: x.chunk(parts, 1)[i], [a], [], (c // parts, n))
        else:
            d.add(lambda x: x.chunk(parts, 1)[0] * x.chunk(parts, 1)[-1].tanh(), [a], [], (c // parts, n))


def swapped_halves(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if c % 2 == 0:
        d.add(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), [a], [], (c, n))


def part(d: Draft, a: int, b: int, w: int) -> None:
    """A slice whose ends are numbers in the model's code."""
    c, n = d.shapes[a]
    start, stop = sorted((b % c, w % (c + 1)))
    if stop > start:
        d.add(lambda x: x[:, start:stop], [a], [], (stop - start, n))


def written_slice(d: Draft, a: int, b: int, w: int) -> None:
    """The first half is overwritten with a function of the second."""
    c, n = d.shapes[a]
    if c % 2 == 0:

        def run(x: Tensor) -> Tensor:
            y, half = x.clone(), x.shape[1] // 2
            y[:, :half] = x[:, half:].relu()
            return y

        d.add(run, [a], [], (c, n))


def gate(d: Draft, a: int, b: int, w: int) -> None:
    """Squeeze and excitation."""
    c, n = d.shapes[a]

    def run(down: nn.Module, up: nn.Module, x: Tensor) -> Tensor:
        return x * up(down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()  # type: ignore[no-any-return]

    d.add(run, [a], [nn.Conv2d(c, w, 1), nn.Conv2d(w, c, 1)], (c, n))


def linear_gate(d: Draft, a: int, b: int, w: int) -> None:
    """Flatten, two linear layers, and back to channels."""
    c, n = d.shapes[a]

    def run(first: nn.Module, second: nn.Module, x: Tensor) -> Tensor:
        return x + second(first(x.flatten(1)).relu())[:, :, None, None]  # type: ignore[no-any-return]

    d.add(run, [a], [nn.Linear(c * n * n, w), nn.Linear(w, c)], (c, n))


def pool(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    kinds = [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(n // 2 or 1), nn.MaxPool2d(3, 1, 1)]
    if n >= 2:
        kind = b % len(kinds)
        d.add(_one, [a], [kinds[kind]], (c, n if kind == 3 else n // 2))


def upsample(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if n <= 4:
        d.add(_one, [a], [nn.Upsample(scale_factor=2, mode=("nearest", "bilinear")[b % 2])], (c, 2 * n))


def shared(d: Draft, a: int, b: int, w: int) -> None:
    """One convolution, twice in a row, or an earlier one once more."""
    c, n = d.shapes[a]
    fitting = [
        i
        for i, (run, operands, m) in enumerate(d.steps)
        if m and len(operands) == 1 and d.shapes[operands[0]] == (c, n)
    ]
    if b % 2 and fitting:
        d.again(fitting[w % len(fitting)], a)
        return
    first = d.add(_one, [a], [nn.Conv2d(c, c, 3, 1, 1)], (c, n))
    d.again(first - 1, first)


def shuffle(d: Draft, a: int, b: int, w: int) -> None:
    """A channel shuffle that takes its sizes from the tensor."""
    c, n = d.shapes[a]
    groups = _divisor(c, b)

    def run(x: Tensor) -> Tensor:
        size, channels, height, width = x.shape
        return (
            x.view(size, groups, channels // groups, height, width)
            .transpose(1, 2)
            .reshape(size, channels, height, width)
        )

    def follows(x: Tensor) -> Tensor:
        return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)

    if 1 < groups < c:
        d.add(run if w % 2 else follows, [a], [], (c, n))


def pixels(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if b % 2 and c % 4 == 0 and n <= 4:
        d.add(_one, [a], [nn.PixelShuffle(2)], (c // 4, 2 * n))
    elif c <= 6 and n % 2 == 0:
        d.add(_one, [a], [nn.PixelUnshuffle(2)], (4 * c, n // 2))


def padded(d: Draft, a: int, b: int, w: int) -> None:
    """Zero channels on both sides; the numbers are the model's own."""
    c, n = d.shapes[a]
    before, after = b % 3, w % 3
    d.add(lambda x: F.pad(x, (0, 0, 0, 0, before, after)), [a], [], (c + before + after, n))


def attention(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if c > 1:
        d.add(_one, [a], [random_idioms.Attention(c, _divisor(c, b), 31 * b + 7 * w)], (c, n))


def two_heads(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if c % 2 == 0 and c > 2:
        d.add(_one, [a], [random_idioms.TwoHeads(c)], (c, n))


def dynamic(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    d.add(_one, [a], [random_idioms.Dynamic(c, w)], (w, n))


def branch(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    d.add(_one, [a], [random_idioms.Branch(b % (c + 1))], (c, n))


def far_apart(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    d.add(_one, [a], [random_idioms.FarApart(c, b % 5)], (c, n))


def by_chance(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    d.add(_one, [a], [random_idioms.ByChance(c)], (c, n))


def shuffled_groups(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    groups = _divisor(c, b)
    if 1 < groups < c:
        d.add(_one, [a], [random_idioms.ShuffledGroups(c, groups, bool(w % 2))], (c, n))


def crossed(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    d.add(_one, [a], [random_idioms.Crossed(c, _divisor(c, b), w)], (c, n))


def grouped_queries(d: Draft, a: int, b: int, w: int) -> None:
    d.add(_one, [a], [random_idioms.GroupedQueries(d.shapes[a][0], 1 + b % 3, w)], d.shapes[a])


def chunked(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if c > 1:
        d.add(_one, [a], [random_idioms.Chunked(c, _divisor(c, b))], (c, n))


def mixed_kernels(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    d.add(_one, [a], [random_idioms.MixedKernels(c, w)], (w, n))


def directions(d: Draft, a: int, b: int, w: int) -> None:
    d.add(_one, [a], [random_idioms.Directions(d.shapes[a][0], w)], d.shapes[a])


def windows(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if n >= 2 and n % 2 == 0 and c > 1:
        d.add(_one, [a], [random_idioms.Windows(c, _divisor(c, b), 4 if n % 4 == 0 and w % 2 else 2, b + w)], (c, n))


def rearranged(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if c > 1:
        d.add(_one, [a], [random_idioms.Rearranged(c, _divisor(c, b), b + w)], (c, n))


def split_attention(d: Draft, a: int, b: int, w: int) -> None:
    c, n = d.shapes[a]
    if c > 1:
        d.add(_one, [a], [random_idioms.SplitAttention(c, _divisor(c, b), 1 + w % 4, b + w)], (c, n))


OPS: dict[str, Callable[[Draft, int, int, int], None]] = {
    "conv": convolution,
    **{
        f.__name__: f
        for f in (
            *(grouped, depthwise, transposed, norm, activation, add, cat, chunk, swapped_halves, part, written_slice),
            *(gate, linear_gate, pool, upsample, shared, shuffle, pixels, padded),
            *(attention, two_heads, dynamic, branch, far_apart, by_chance, shuffled_groups),
            *(crossed, grouped_queries, chunked, mixed_kernels, directions),
            *(windows, rearranged, split_attention),
        )
    },
}

# The idioms that read widths.
IDIOMS = (
    "attention",
    "two_heads",
    "dynamic",
    "branch",
    "far_apart",
    "by_chance",
    "shuffled_groups",
    "crossed",
    "grouped_queries",
    "chunked",
    "mixed_kernels",
    "directions",
    "windows",
    "rearranged",
    "split_attention",
    "shuffle",
    "grouped",
)

_often = st.sampled_from(["conv", "conv", "conv", "norm", "activation", "add", "cat", *OPS])
genes: st.SearchStrategy[list[Gene]] = st.lists(
    st.tuples(_often, st.integers(0, 30), st.integers(0, 30), st.integers(2, 9)), min_size=2, max_size=14
)
"""Networks of up to about twenty layers."""
