"""Attention and its kin in the idioms of vision libraries, with hand-written answers: its groups, and what stays.

Each block is our own code, written the way such code is usually written: fused projections, views with attributes,
position tables, windows, tokens. A case names its groups as (size, places), in the shorthand of `nets`; a pair of sizes
stands for (head width pruned, number of heads pruned), None where the group exists in one of the two only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from nets import Members, Place, places
from torch import Tensor, nn

WIDTH, HEADS, HEAD, HIDDEN = 24, 4, 6, 20
MODES = ("head_dim", "num_heads")


@dataclass(frozen=True)
class Mode:
    """The answers for one choice of what shrinks in attention.

    Attributes:
        groups: the expected groups as (size, places).
        fixed: a part of the reason for each place that must stay.
        ties: names of groups that must keep the same part.
        mixed: names of groups that a norm, mean or softmax runs over, beside the protected ones.
        follows: modules whose width the code computes from a protected one.
    """

    groups: tuple[Members, ...]
    fixed: Mapping[Place, str]
    ties: tuple[frozenset[str], ...]
    mixed: frozenset[str]
    follows: frozenset[str]


@dataclass(frozen=True, eq=False)
class Case:
    """A net with its answers.

    Attributes:
        name: of the case.
        build: makes the net.
        example: shapes of the inputs without the batch dim.
        ignored: modules of the normed stream; the comparison of pruned and masked needs them whole.
        modes: the answers by choice of heads.
        finer: the choice that "" stands for.
        rounding: how far pruned and masked may differ.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Sequence[tuple[int, ...]]
    ignored: tuple[str, ...]
    modes: Mapping[str, Mode]
    finer: str = "head_dim"
    rounding: float = 1e-9

    def net(self, seed: int = 0) -> nn.Module:
        """A fresh instance; every parameter and running statistic is drawn, so that no two channels are alike."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.build().eval()
            for name, t in [*net.named_parameters(), *net.named_buffers()]:
                if t.is_floating_point() and t.dim() == 1 and not name.endswith("bias"):
                    t.data.uniform_(0.5, 1.5)
        return net

    def inputs(self, batch: int = 1, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in self.example)

    def mode(self, heads: str) -> Mode:
        return self.modes[heads or self.finer]


CASES: dict[str, Case] = {}
Size = int | tuple[int | None, int | None]
EDGES = {"model input": "stem.weight:1", "model output": "head>"}


def case(
    name: str,
    build: Callable[[], nn.Module],
    groups: Sequence[tuple[Size, str]],
    *,
    example: Sequence[tuple[int, ...]] = ((9, 5),),
    fixed: Mapping[str, str] | None = None,
    fixed_width: Mapping[str, str] | None = None,
    fixed_count: Mapping[str, str] | None = None,
    ties: Sequence[str] = (),
    ties_width: Sequence[str] = (),
    ties_count: Sequence[str] = (),
    mixed: str = "",
    mixed_width: str = "",
    mixed_count: str = "",
    ignored: str = "stem",
    follows: str = "",
    **options: Any,
) -> None:
    """Register a net. Reasons are given as {part of the reason: places}, ties and mixed groups by names.

    Beside the `EDGES`, `fixed` must be complete. `mixed` leaves out what `ignored` names.
    """
    own = {"head_dim": (fixed_width, ties_width, mixed_width), "num_heads": (fixed_count, ties_count, mixed_count)}
    modes = {}
    for k, mode in enumerate(MODES):
        stays, tied, marked = own[mode]
        reasons = {**EDGES, **(fixed or {})}, stays or {}
        modes[mode] = Mode(
            tuple((s, places(text)) for size, text in groups if (s := size[k] if isinstance(size, tuple) else size)),
            {place: why for part in reasons for why, text in part.items() for place in places(text)},
            tuple(frozenset(t.split()) for t in (*ties, *tied)),
            frozenset(f"{mixed} {marked}".split()),
            frozenset(follows.split()),
        )
    CASES[name] = Case(name, build, example, tuple(ignored.split()), modes, **options)


# The nets around the blocks


class Mlp(nn.Module):
    def __init__(self, dim: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(0.0)
        self.norm = nn.Identity()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(self.drop1(self.act(self.fc1(x)))))


class Encoder(nn.Module):
    """One pre-norm block between a stem and a head, on tokens."""

    def __init__(self, attn: nn.Module, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Linear(5, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = attn
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = mlp or Mlp()
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.attn(self.norm1(x), *context)
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x).mean(1))


BARE = "stem> norm1> norm2> norm> >head"
STREAM = f"{BARE} mlp.fc2> >mlp.fc1"
MLP: tuple[Size, str] = (HIDDEN, "mlp.fc1> >mlp.fc2")


class Maps(nn.Module):
    """One block between a stem and a head, on feature maps."""

    def __init__(self, block: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block = block
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


IMAGE = ((3, 8, 8),)
KERNELS = {"kernel size": "stem.weight:2 stem.weight:3"}


# Fused projections: one linear layer for queries, keys and values


class FusedAttention(nn.Module):
    """The classic form: sizes from the input's width; the result is reshaped to it."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        attn = self.attn_drop(attn.softmax(dim=-1))
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


case(
    "fused_by_input_width",
    lambda: Encoder(FusedAttention()),
    [(24, STREAM + " >attn.qkv attn.proj>"), ((6, 4), "attn.qkv> >attn.proj"), MLP],
    ties=["stem attn.qkv"],
    follows="attn.qkv",
)


class HeadDimAttention(nn.Module):
    """Sizes in attributes; queries and keys are indexed; the fused kernel."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS, qk_norm: bool = False, fused: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.attn_dim = num_heads * self.head_dim
        self.scale = self.head_dim**-0.5
        self.fused_attn = fused
        self.qkv = nn.Linear(dim, self.attn_dim * 3)
        self.q_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(self.attn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0)
        else:
            attn = (q * self.scale) @ k.transpose(-2, -1)
            x = attn.softmax(dim=-1) @ v
        x = x.transpose(1, 2).reshape(B, N, self.attn_dim)
        return self.proj(x)


FUSED = [(24, STREAM + " >attn.qkv attn.proj>"), ((6, 4), "attn.qkv> >attn.proj"), MLP]
case("fused_by_attributes", lambda: Encoder(HeadDimAttention()), FUSED)
case("fused_by_attributes_plain", lambda: Encoder(HeadDimAttention(fused=False)), FUSED)
for plain in (False, True):
    case(
        f"query_and_key_norms{'_plain' * plain}",
        lambda plain=plain: Encoder(HeadDimAttention(qk_norm=True, fused=not plain)),
        [
            FUSED[0],
            ((6, None), "attn.qkv> >attn.proj attn.q_norm> attn.k_norm>"),
            ((None, 4), "attn.qkv> >attn.proj"),
            MLP,
        ],
        fixed_count={"another factor": "attn.q_norm> attn.k_norm>"},
        mixed_width="attn.qkv",
    )


class ChunkedAttention(nn.Module):
    """chunk(3), einsum, and a width of its own."""

    def __init__(self, dim: int = WIDTH, heads: int = HEADS, dim_head: int = HEAD) -> None:
        super().__init__()
        inner_dim = dim_head * heads
        self.heads = heads
        self.scale = dim_head**-0.5
        self.to_qkv = nn.Linear(dim, inner_dim * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, dim), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = (t.reshape(b, n, self.heads, -1).permute(0, 2, 1, 3) for t in qkv)
        dots = torch.einsum("b h i d, b h j d -> b h i j", q, k) * self.scale
        out = torch.einsum("b h i j, b h j d -> b h i d", dots.softmax(dim=-1), v)
        return self.to_out(out.permute(0, 2, 1, 3).reshape(b, n, -1))


case(
    "chunked_with_einsum",
    lambda: Encoder(ChunkedAttention()),
    [
        (24, STREAM + " >attn.to_qkv attn.to_out.0>"),
        ((6, None), "attn.to_qkv)"),  # chunks need equal numbers, not equal indices
        ((6, None), "attn.to_qkv) >attn.to_out.0"),
        ((None, 4), "attn.to_qkv) >attn.to_out.0"),
        MLP,
    ],
    ties_width=["attn.to_qkv attn.to_qkv#2"],
)


# Separate projections


class SelfAttention(nn.Module):
    """transpose_for_scores, all_head_size, and a scale computed on the way."""

    def __init__(self, hidden_size: int = WIDTH, num_attention_heads: int = HEADS) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.attention_head_size = int(hidden_size / num_attention_heads)
        self.all_head_size = self.num_attention_heads * self.attention_head_size
        self.query = nn.Linear(hidden_size, self.all_head_size)
        self.key = nn.Linear(hidden_size, self.all_head_size)
        self.value = nn.Linear(hidden_size, self.all_head_size)
        self.dense = nn.Linear(self.all_head_size, hidden_size)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        new_x_shape = x.size()[:-1] + (self.num_attention_heads, self.attention_head_size)  # noqa: RUF005
        return x.view(new_x_shape).permute(0, 2, 1, 3)

    def forward(self, hidden_states: Tensor) -> Tensor:
        mixed_query_layer = self.query(hidden_states)
        key_layer = self.transpose_for_scores(self.key(hidden_states))
        value_layer = self.transpose_for_scores(self.value(hidden_states))
        query_layer = self.transpose_for_scores(mixed_query_layer)
        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        attention_scores = attention_scores / math.sqrt(self.attention_head_size)
        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
        context_layer = torch.matmul(attention_probs, value_layer)
        context_layer = context_layer.permute(0, 2, 1, 3).contiguous()
        new_context_layer_shape = context_layer.size()[:-2] + (self.all_head_size,)  # noqa: RUF005
        return self.dense(context_layer.view(new_context_layer_shape))


case(
    "transpose_for_scores",
    lambda: Encoder(SelfAttention()),
    [
        (24, STREAM + " >attn.query >attn.key >attn.value attn.dense>"),
        ((6, None), "attn.query> attn.key>"),
        ((6, None), "attn.value> >attn.dense"),
        ((None, 4), "attn.query> attn.key> attn.value> >attn.dense"),
        MLP,
    ],
    ties_width=["attn.query attn.value"],
)


class StarredAttention(SelfAttention):
    """`view(*x.size()[:-1], heads, width)`, and the fused kernel."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        query, key, value = (
            layer(hidden_states)
            .view(*hidden_states.size()[:-1], self.num_attention_heads, self.attention_head_size)
            .transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        context = F.scaled_dot_product_attention(query, key, value, scale=self.attention_head_size**-0.5)
        return self.dense(context.transpose(1, 2).reshape(*hidden_states.size()[:-1], self.all_head_size))


case(
    "starred_views",
    lambda: Encoder(StarredAttention()),
    [
        (24, STREAM + " >attn.query >attn.key >attn.value attn.dense>"),
        ((6, None), "attn.query> attn.key>"),
        ((6, None), "attn.value> >attn.dense"),
        ((None, 4), "attn.query> attn.key> attn.value> >attn.dense"),
        MLP,
    ],
    ties_width=["attn.query attn.value"],
)


def repeat_kv(hidden_states: Tensor, n_rep: int) -> Tensor:
    batch, num_key_value_heads, slen, head_dim = hidden_states.shape
    if n_rep == 1:
        return hidden_states
    hidden_states = hidden_states[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep, slen, head_dim)
    return hidden_states.reshape(batch, num_key_value_heads * n_rep, slen, head_dim)


class GroupedQueryAttention(nn.Module):
    """Fewer heads of keys and values than of queries; only the head width is named."""

    def __init__(self, hidden_size: int = WIDTH, heads: int = 6, key_value_heads: int = 3, head_dim: int = 8) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.num_key_value_groups = heads // key_value_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(hidden_size, heads * self.head_dim)
        self.k_proj = nn.Linear(hidden_size, key_value_heads * self.head_dim)
        self.v_proj = nn.Linear(hidden_size, key_value_heads * self.head_dim)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden_size)

    def repeat(self, x: Tensor) -> Tensor:
        return repeat_kv(x, self.num_key_value_groups)

    def position(self, x: Tensor) -> Tensor:
        return x

    def forward(self, hidden_states: Tensor) -> Tensor:
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query_states = self.position(self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2))
        key_states = self.position(self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2))
        value_states = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        attn_weights = torch.matmul(query_states, self.repeat(key_states).transpose(2, 3)) * self.scaling
        attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query_states.dtype)
        attn_output = torch.matmul(attn_weights, self.repeat(value_states)).transpose(1, 2).contiguous()
        return self.o_proj(attn_output.reshape(*input_shape, -1).contiguous())


class InterleavedAttention(GroupedQueryAttention):
    def repeat(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.num_key_value_groups, dim=1)


GROUPED_QUERY: list[tuple[Size, str]] = [
    (24, STREAM + " >attn.q_proj >attn.k_proj >attn.v_proj attn.o_proj>"),
    ((8, None), "attn.q_proj> attn.k_proj>"),
    ((8, None), "attn.v_proj> >attn.o_proj"),
    ((None, 3), "attn.q_proj> attn.k_proj> attn.v_proj> >attn.o_proj"),
    MLP,
]
case(
    "grouped_query",
    lambda: Encoder(GroupedQueryAttention()),
    GROUPED_QUERY,
    ties_width=["attn.q_proj attn.v_proj"],
    rounding=1e-6,
)
case(
    "grouped_query_interleaved",
    lambda: Encoder(InterleavedAttention()),
    GROUPED_QUERY,
    ties_width=["attn.q_proj attn.v_proj"],
    rounding=1e-6,
)


class RotaryAttention(GroupedQueryAttention):
    """Rotary positions: channel j is turned together with channel j + head_dim / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (100.0 ** (torch.arange(0, 8, 2).float() / 8)))

    def position(self, x: Tensor) -> Tensor:
        t = torch.arange(x.shape[-2], dtype=self.inv_freq.dtype)
        freqs = t[:, None] * self.inv_freq[None, :]
        emb = torch.cat((freqs, freqs), dim=-1)
        x1 = x[..., : x.shape[-1] // 2]
        x2 = x[..., x.shape[-1] // 2 :]
        return x * emb.cos() + torch.cat((-x2, x1), dim=-1) * emb.sin()


case(
    "rotary",
    lambda: Encoder(RotaryAttention()),
    [
        GROUPED_QUERY[0],
        ((4, None), "attn.q_proj> attn.k_proj> attn.inv_freq:0"),
        ((8, None), "attn.v_proj> >attn.o_proj"),
        ((None, 3), "attn.q_proj> attn.k_proj> attn.v_proj> >attn.o_proj"),
        MLP,
    ],
    fixed_count={"another factor": "attn.inv_freq:0"},
    ties_width=["attn.q_proj attn.v_proj"],
    rounding=1e-6,
)


class CrossAttention(nn.Module):
    """Queries from the tokens, keys and values from another input."""

    def __init__(self, dim: int = WIDTH, context_dim: int = 7, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(context_dim, dim * 2)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        (B, N, _), M = x.shape, context.shape[1]
        q = self.q(x).reshape(B, N, self.num_heads, self.head_dim).permute(0, 2, 1, 3)
        k, v = self.kv(context).reshape(B, M, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).flatten(2))


case(
    "cross_attention",
    lambda: Encoder(CrossAttention()),
    [(24, STREAM + " >attn.q attn.proj>"), ((6, 4), "attn.q> attn.kv> >attn.proj"), MLP],
    example=((9, 5), (11, 7)),
    fixed={"model input": "stem.weight:1 attn.kv.weight:1"},
)


# Position tables, windows


class WindowAttention(nn.Module):
    """A table of biases, looked up with a buffer of indices."""

    def __init__(self, dim: int = WIDTH, window: int = 2, num_heads: int = HEADS) -> None:
        super().__init__()
        self.window_area = window * window
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, num_heads))
        coords = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.softmax = nn.Softmax(dim=-1)

    def _get_rel_pos_bias(self) -> Tensor:
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        return bias.view(self.window_area, self.window_area, -1).permute(2, 0, 1).contiguous().unsqueeze(0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B_, N, _C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q * self.scale) @ k.transpose(-2, -1) + self._get_rel_pos_bias()
        if mask is not None:
            num_win = mask.shape[0]
            attn = attn.view(-1, num_win, self.num_heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, N, N)
        x = (self.softmax(attn) @ v).transpose(1, 2).reshape(B_, N, -1)
        return self.proj(x)


def window_partition(x: Tensor, size: int) -> Tensor:
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, C)


def window_reverse(windows: Tensor, size: int, H: int, W: int) -> Tensor:
    C = windows.shape[-1]
    x = windows.view(-1, H // size, W // size, size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, H, W, C)


class ShiftedWindows(nn.Module):
    """Windows of a rolled map, with a mask for those that wrap around."""

    def __init__(self, grid: int = 4, window: int = 2, shift: int = 1) -> None:
        super().__init__()
        self.grid, self.window, self.shift = grid, window, shift
        self.attn = WindowAttention(window=window)
        label = torch.zeros(1, grid, grid, 1)
        slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
        for i, h in enumerate(slices):
            for j, w in enumerate(slices):
                label[:, h, w, :] = 3 * i + j
        windows = window_partition(label, window).view(-1, window * window)
        apart = windows.unsqueeze(1) - windows.unsqueeze(2)
        self.register_buffer("attn_mask", apart.masked_fill(apart != 0, -100.0))

    def forward(self, x: Tensor) -> Tensor:
        B, L, C = x.shape
        H = W = self.grid
        x = x.view(B, H, W, C)
        shifted_x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x_windows = window_partition(shifted_x, self.window).view(-1, self.window * self.window, C)
        attn_windows = self.attn(x_windows, mask=self.attn_mask)
        attn_windows = attn_windows.view(-1, self.window, self.window, C)
        shifted_x = window_reverse(attn_windows, self.window, H, W)
        x = torch.roll(shifted_x, shifts=(self.shift, self.shift), dims=(1, 2))
        return x.view(B, L, C)


case(
    "shifted_windows",
    lambda: Encoder(ShiftedWindows()),
    [
        (24, STREAM + " >attn.attn.qkv attn.attn.proj>"),
        ((6, None), "attn.attn.qkv> >attn.attn.proj"),
        ((None, 4), "attn.attn.qkv> >attn.attn.proj attn.attn.relative_position_bias_table:1"),
        MLP,
    ],
    example=((16, 5),),
    fixed={
        "index tensor": "attn.attn.relative_position_bias_table:0 "
        "attn.attn.relative_position_index:0 attn.attn.relative_position_index:1",
        "model input": "stem.weight:1 attn.attn_mask:1 attn.attn_mask:2",
        "split off": "attn.attn_mask:0",
    },
    fixed_width={"another factor": "attn.attn.relative_position_bias_table:1"},
)


class PatchMerging(nn.Module):
    """Strided slices, concatenated."""

    def __init__(self, dim: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, L, C = x.shape
        x = x.view(B, int(L**0.5), int(L**0.5), C)
        x = torch.cat([x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]], -1)
        x = x.view(B, -1, 4 * C)
        return self.reduction(self.norm(x))


class TwoStages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = ShiftedWindows()
        self.merge = PatchMerging()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.attn(self.norm1(x))
        return self.head(self.merge(x).mean(1))


case(
    "patch_merging",
    TwoStages,
    [
        (24, "stem> norm1> >attn.attn.qkv attn.attn.proj> merge.norm> >merge.reduction"),
        ((6, None), "attn.attn.qkv> >attn.attn.proj"),
        ((None, 4), "attn.attn.qkv> >attn.attn.proj attn.attn.relative_position_bias_table:1"),
        (24, "merge.reduction) >head"),
    ],
    example=((16, 5),),
    fixed={
        "index tensor": "attn.attn.relative_position_bias_table:0 "
        "attn.attn.relative_position_index:0 attn.attn.relative_position_index:1",
        "model input": "stem.weight:1 attn.attn_mask:1 attn.attn_mask:2",
        "split off": "attn.attn_mask:0",
    },
    fixed_width={"another factor": "attn.attn.relative_position_bias_table:1"},
)


class DecomposedPositions(nn.Module):
    """Biases that queries make with a table of relative rows and one of columns."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS, side: int = 3, scale: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.side = side
        self.scale = (dim // num_heads) ** -0.5 if scale else None
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.randn(2 * side - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.randn(2 * side - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        H = W = self.side
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, B * self.num_heads, N, -1).unbind(0)
        attn = (q * (self.scale or q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
        coords = torch.arange(H)[:, None] - torch.arange(H)[None, :] + H - 1
        r_q = q.reshape(B * self.num_heads, H, W, -1)
        rel_h = torch.einsum("bhwc,hkc->bhwk", r_q, self.rel_pos_h[coords.long()])
        rel_w = torch.einsum("bhwc,wkc->bhwk", r_q, self.rel_pos_w[coords.long()])
        attn = attn.view(B * self.num_heads, H, W, H, W) + rel_h[:, :, :, :, None] + rel_w[:, :, :, None, :]
        attn = attn.view(B * self.num_heads, N, N).softmax(dim=-1)
        x = (attn @ v).view(B, self.num_heads, H, W, -1).permute(0, 2, 3, 1, 4).reshape(B, N, -1)
        return self.proj(x)


case(
    "decomposed_positions",
    lambda: Encoder(DecomposedPositions()),
    [
        FUSED[0],
        ((6, None), "attn.qkv> >attn.proj attn.rel_pos_h:1 attn.rel_pos_w:1"),
        ((None, 4), "attn.qkv> >attn.proj"),
        MLP,
    ],
    fixed={"index tensor": "attn.rel_pos_h:0 attn.rel_pos_w:0"},
    fixed_count={"another factor": "attn.rel_pos_h:1 attn.rel_pos_w:1"},
)
case(
    "positions_from_unscaled_queries",  # a scale that follows the head width, on queries with another use beside it
    lambda: Encoder(DecomposedPositions(scale=False)),
    [FUSED[0], ((None, 4), "attn.qkv> >attn.proj"), MLP],
    fixed={"index tensor": "attn.rel_pos_h:0 attn.rel_pos_w:0"},
    fixed_width={"scalar": "attn.qkv> >attn.proj attn.rel_pos_h:1 attn.rel_pos_w:1"},
    fixed_count={"another factor": "attn.rel_pos_h:1 attn.rel_pos_w:1"},
    finer="num_heads",  # the code holds the width of a head
)


class SharedAttention(nn.Module):
    """One projection is queries and keys: what absorbed the scale of one would scale the other."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qk, v = (f(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for f in (self.qk, self.v))
        return self.proj(F.scaled_dot_product_attention(qk, qk, v).transpose(1, 2).flatten(2))


case(
    "queries_are_keys",
    lambda: Encoder(SharedAttention()),
    [
        (24, STREAM + " >attn.qk >attn.v attn.proj>"),
        ((6, None), "attn.v> >attn.proj"),
        ((None, 4), "attn.qk> attn.v> >attn.proj"),
        MLP,
    ],
    fixed_width={"scalar": "attn.qk>"},
    finer="num_heads",  # more of them can go
)


# Tokens, layer scale, whole nets


class LayerScale(nn.Module):
    def __init__(self, dim: int, init_values: float = 1e-5, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        self.gamma = nn.Parameter(init_values * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class PatchEmbed(nn.Module):
    def __init__(self, embed_dim: int = WIDTH) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=4, stride=4)
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class Distilled(nn.Module):
    """Class and distillation tokens, position embeddings, layer scale, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.dist_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 4 + 2, WIDTH))
        self.pos_drop = nn.Dropout(0.0)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = HeadDimAttention()
        self.ls1 = LayerScale(WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = Mlp()
        self.ls2 = LayerScale(WIDTH, inplace=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        self.head_dist = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.patch_embed(x)
        tokens = self.cls_token.expand(x.shape[0], -1, -1), self.dist_token.expand(x.shape[0], -1, -1)
        x = self.pos_drop(torch.cat((*tokens, x), dim=1) + self.pos_embed)
        x = x + self.ls1(self.attn(self.norm1(x)))
        x = x + self.ls2(self.mlp(self.norm2(x)))
        x = self.norm(x)
        x, x_dist = self.head(x[:, 0]), self.head_dist(x[:, 1])
        return (x, x_dist) if self.training else (x + x_dist) / 2


case(
    "class_and_distillation_tokens",
    Distilled,
    [
        (
            24,
            "patch_embed.proj> cls_token:2 dist_token:2 pos_embed:2 norm1> >attn.qkv attn.proj> ls1.gamma:0 "
            "norm2> >mlp.fc1 mlp.fc2> ls2.gamma:0 norm> >head >head_dist",
        ),
        ((6, 4), "attn.qkv> >attn.proj"),
        MLP,
    ],
    example=IMAGE,
    fixed={
        "model input": "patch_embed.proj.weight:1",
        "kernel size": "patch_embed.proj.weight:2 patch_embed.proj.weight:3",
        "model output": "head> head_dist>",
        "": "pos_embed:1",
    },
    ignored="patch_embed",
)


class ResampledPositions(nn.Module):
    """Position embeddings that are resized to the grid of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + 9, WIDTH))
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = HeadDimAttention()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        x = self.patch_embed(x)
        grid = self.pos_embed[:, 1:].reshape(1, 3, 3, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(H // 4, W // 4), mode="bicubic", align_corners=False)
        pos = torch.cat([self.pos_embed[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, x.shape[-1])], dim=1)
        x = torch.cat([self.cls_token.expand(B, -1, -1), x], dim=1) + pos
        x = x + self.attn(self.norm1(x))
        return self.head(x[:, 1:].mean(dim=1))


case(
    "resampled_positions",
    ResampledPositions,
    [
        (24, "patch_embed.proj> cls_token:2 pos_embed:2 norm1> >attn.qkv attn.proj> >head"),
        ((6, 4), "attn.qkv> >attn.proj"),
    ],
    example=IMAGE,
    fixed={
        "model input": "patch_embed.proj.weight:1",
        "kernel size": "patch_embed.proj.weight:2 patch_embed.proj.weight:3",
        "": "pos_embed:1",
    },
    ignored="patch_embed",
)


# Feed-forward nets of transformers


class GatedMlp(nn.Module):
    """A packed gate: chunk(2)."""

    def __init__(self, dim: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.norm(F.silu(gate) * x))


case(
    "gated_mlp",
    lambda: Encoder(HeadDimAttention(), GatedMlp()),
    [*FUSED[:2], (20, "mlp.fc1> mlp.norm> >mlp.fc2")],
    mixed="mlp.fc1",
)


class MixingMlp(nn.Module):
    """A depthwise convolution inside, and the hidden width in an attribute."""

    def __init__(self, dim: int = WIDTH, hidden_features: int = HIDDEN) -> None:
        super().__init__()
        self.hidden_features = hidden_features
        self.fc1 = nn.Linear(dim, hidden_features)
        self.dwconv = nn.Conv2d(hidden_features, hidden_features, 3, 1, 1, groups=hidden_features)
        self.fc2 = nn.Linear(hidden_features, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        H = W = int(N**0.5)
        x = self.fc1(x).transpose(1, 2).view(B, self.hidden_features, H, W)
        x = F.gelu(self.dwconv(x)).flatten(2).transpose(1, 2)
        return self.fc2(x)


case(
    "mlp_with_depthwise",
    lambda: Encoder(HeadDimAttention(), MixingMlp()),
    [*FUSED[:2], (20, "mlp.fc1> mlp.dwconv> >mlp.fc2")],
    fixed={"kernel size": "mlp.dwconv.weight:2 mlp.dwconv.weight:3"},
)


# Other mixers of tokens


class TalkingHeads(nn.Module):
    """Linear layers across the heads, before and after the softmax."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.proj_l = nn.Linear(num_heads, num_heads)
        self.proj_w = nn.Linear(num_heads, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        attn = q @ k.transpose(-2, -1)
        attn = self.proj_l(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        attn = attn.softmax(dim=-1)
        attn = self.proj_w(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, -1))


case(
    "talking_heads",
    lambda: Encoder(TalkingHeads()),
    [
        FUSED[0],
        ((6, None), "attn.qkv> >attn.proj"),
        ((None, 4), "attn.qkv> >attn.proj >attn.proj_l attn.proj_w>"),
        (4, "attn.proj_l> >attn.proj_w"),
        MLP,
    ],
    fixed_width={"another factor": ">attn.proj_l attn.proj_w>"},
)


class TalkingConvolutions(nn.Module):
    """The same with 1x1 convolutions and a norm over the maps of the heads; queries and keys from two layers."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.transform = nn.Sequential(nn.Conv2d(num_heads, num_heads, 1), nn.BatchNorm2d(num_heads))

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        q, k, v = (f(x).reshape(B, N, self.num_heads, -1).permute(0, 2, 1, 3) for f in (self.q, self.k, self.v))
        attn = self.transform(q @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, -1))


case(
    "talking_heads_by_convolution",
    lambda: Encoder(TalkingConvolutions()),
    [
        (24, STREAM + " >attn.q >attn.k >attn.v attn.proj>"),
        ((6, None), "attn.q> attn.k>"),
        ((6, None), "attn.v> >attn.proj"),
        ((None, 4), "attn.q> attn.k> >attn.transform.0"),
        ((None, 4), "attn.v> >attn.proj attn.transform.0> attn.transform.1@"),
        MLP,
    ],
    ties_count=["attn.q attn.v"],
    fixed_width={"another factor": ">attn.transform.0 attn.transform.0> attn.transform.1@"},
)


class ClassAttention(nn.Module):
    """Only the class token asks."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q = self.q(x[:, 0]).unsqueeze(1).reshape(B, 1, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        k = self.k(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        v = self.v(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        x_cls = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x_cls.transpose(1, 2).reshape(B, 1, C))


case(
    "class_attention",
    lambda: Encoder(ClassAttention()),
    [
        (24, STREAM + " >attn.q >attn.k >attn.v attn.proj>"),
        ((6, None), "attn.q> attn.k>"),
        ((6, None), "attn.v> >attn.proj"),
        ((None, 4), "attn.q> attn.k> attn.v> >attn.proj"),
        MLP,
    ],
    ties_width=["stem attn.q attn.v"],
    ties_count=["stem attn.q"],
    follows="attn.q attn.v",
)


class CrossCovariance(nn.Module):
    """Channels attend to channels; a temperature for each head."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 4, 1)
        q, k, v = qkv.unbind(0)
        q = F.normalize(q, p=2.0, dim=-1) * self.temperature
        k = F.normalize(k, p=2.0, dim=-1)
        attn = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).permute(0, 3, 1, 2).reshape(B, N, -1))


case(
    "cross_covariance",
    lambda: Encoder(CrossCovariance()),
    [
        FUSED[0],
        ((6, None), "attn.qkv> >attn.proj"),
        ((None, 4), "attn.qkv> >attn.proj attn.temperature:0"),
        MLP,
    ],
    fixed_width={"another factor": "attn.temperature:0"},
    mixed_width="attn.qkv",
)


class SpatialReduction(nn.Module):
    """Keys and values from a map reduced by a strided convolution."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS, sr_ratio: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, dim * 2)
        self.proj = nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        H = W = int(N**0.5)
        q = self.q(x).reshape(B, N, self.num_heads, -1).permute(0, 2, 1, 3)
        x_ = x.permute(0, 2, 1).reshape(B, C, H, W)
        x_ = self.sr(x_).reshape(B, C, -1).permute(0, 2, 1)
        kv = self.kv(self.norm(x_)).reshape(B, -1, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        attn = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).flatten(2))


case(
    "spatial_reduction",
    lambda: Encoder(SpatialReduction()),
    [
        (24, STREAM + " >attn.q >attn.sr attn.proj>"),
        (24, "attn.sr> attn.norm> >attn.kv"),
        ((6, 4), "attn.q> attn.kv> >attn.proj"),
        MLP,
    ],
    example=((16, 5),),
    fixed={"kernel size": "attn.sr.weight:2 attn.sr.weight:3"},
    ties=["stem attn.sr"],
    follows="attn.sr",
)


class LinearNorm(nn.Sequential):
    """A linear layer on tokens with BatchNorm."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.add_module("c", nn.Linear(a, b, bias=False))
        self.add_module("bn", nn.BatchNorm1d(b))

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class UnequalAttention(nn.Module):
    """Keys narrower than values, both split off one projection; a bias for each head and distance."""

    def __init__(self, dim: int = WIDTH, key_dim: int = 6, num_heads: int = HEADS, attn_ratio: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = key_dim**-0.5
        self.key_dim = key_dim
        self.val_dim = int(attn_ratio * key_dim)
        self.val_attn_dim = self.val_dim * num_heads
        self.qkv = LinearNorm(dim, self.val_attn_dim + key_dim * num_heads * 2)
        self.proj = nn.Sequential(nn.Hardswish(), LinearNorm(self.val_attn_dim, dim))
        self.attention_biases = nn.Parameter(torch.randn(num_heads, 9))
        points = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
        distance = (points[..., :, None] - points[..., None, :]).abs()
        self.register_buffer("attention_bias_idxs", distance[0] * 3 + distance[1])

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        q, k, v = self.qkv(x).view(B, N, self.num_heads, -1).split([self.key_dim, self.key_dim, self.val_dim], dim=3)
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        attn = (q @ k * self.scale + self.attention_biases[:, self.attention_bias_idxs]).softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B, N, self.val_attn_dim)
        return self.proj(x)


case(
    "keys_narrower_than_values",
    lambda: Encoder(UnequalAttention()),
    [
        (24, STREAM + " >attn.qkv.c attn.proj.1.c) attn.proj.1.bn@"),
        ((6, None), "attn.qkv.c) attn.qkv.bn@"),
        ((12, None), "attn.qkv.c) attn.qkv.bn@ >attn.proj.1.c"),
        ((None, 4), "attn.qkv.c) attn.qkv.bn@ >attn.proj.1.c attn.attention_biases:0"),
        MLP,
    ],
    fixed={"index": "attn.attention_biases:1 attn.attention_bias_idxs:0 attn.attention_bias_idxs:1"},
    fixed_width={"another factor": "attn.attention_biases:0"},
)


class TokenMixing(nn.Module):
    """A layer along the tokens: the tokens are spatial, its hidden width is not."""

    def __init__(self, tokens: int = 9, hidden: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tokens, hidden)
        self.fc2 = nn.Linear(hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x.transpose(1, 2)))).transpose(1, 2)


case(
    "token_mixing",
    lambda: Encoder(TokenMixing()),
    [(24, STREAM), (10, "attn.fc1> >attn.fc2"), MLP],
    fixed={"model input": "stem.weight:1 >attn.fc1 attn.fc2>"},
)


class SpatialGating(nn.Module):
    """Half of the channels, mixed along the tokens, gate the other half."""

    def __init__(self, dim: int = WIDTH, hidden: int = 40, tokens: int = 9) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.norm = nn.LayerNorm(hidden // 2)
        self.proj = nn.Linear(tokens, tokens)
        self.fc2 = nn.Linear(hidden // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.fc1(x)).chunk(2, dim=-1)
        v = self.proj(self.norm(v).transpose(-1, -2))
        return self.fc2(u * v.transpose(-1, -2))


case(
    "spatial_gating",
    lambda: Encoder(SpatialGating()),
    [(24, STREAM + " >attn.fc1 attn.fc2>"), (20, "attn.fc1> attn.norm> >attn.fc2"), MLP],
    fixed={"model input": "stem.weight:1 >attn.proj attn.proj>"},
    mixed="attn.fc1",
)


# Pooling by attention, decoders


class LatentPooling(nn.Module):
    """A learned query pools the tokens."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.latent = nn.Parameter(torch.randn(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, dim * 2)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        q_latent = self.latent.expand(B, -1, -1)
        q = self.q(q_latent).reshape(B, 1, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(x).reshape(B, N, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        x = self.proj(x.transpose(1, 2).reshape(B, 1, self.num_heads * self.head_dim))
        x = x + self.mlp(self.norm(x))
        return x[:, 0]


class Pooled(nn.Module):
    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Linear(5, WIDTH)
        self.pool = pool
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stem(x)))


case(
    "pooling_by_latent_query",
    lambda: Pooled(LatentPooling()),
    [
        (24, "stem> >pool.kv"),
        (24, "pool.latent:2 >pool.q"),
        ((6, 4), "pool.q> pool.kv> >pool.proj"),
        (24, "pool.proj> pool.norm> >pool.mlp.fc1 pool.mlp.fc2> >head"),
        (20, "pool.mlp.fc1> >pool.mlp.fc2"),
    ],
    ignored="pool.norm",
)


class ProbePooling(nn.Module):
    """The same with PyTorch's own attention."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.layernorm = nn.LayerNorm(dim)
        self.mlp = Mlp()

    def forward(self, hidden_state: Tensor) -> Tensor:
        probe = self.probe.repeat(hidden_state.shape[0], 1, 1)
        hidden_state = self.attention(probe, hidden_state, hidden_state)[0]
        return (hidden_state + self.mlp(self.layernorm(hidden_state)))[:, 0]


class ImagePooling(nn.Module):
    """The mean of a feature map asks; PyTorch's function with separate weights."""

    def __init__(self, side: int = 4, embed_dim: int = WIDTH, num_heads: int = HEADS, output_dim: int = 16) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, embed_dim))
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.c_proj = nn.Linear(embed_dim, output_dim)
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(start_dim=2).permute(2, 0, 1)
        x = torch.cat([x.mean(dim=0, keepdim=True), x], dim=0)
        x = x + self.positional_embedding[:, None, :].to(x.dtype)
        x, _ = F.multi_head_attention_forward(
            query=x[:1], key=x, value=x,
            embed_dim_to_check=x.shape[-1],
            num_heads=self.num_heads,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
            in_proj_weight=None,
            in_proj_bias=torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]),
            bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            use_separate_proj_weight=True,
            training=self.training,
            need_weights=False,
        )  # fmt: skip
        return x.squeeze(0)


class PooledImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.pool = ImagePooling()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stem(x)))


class Decoder(nn.Module):
    """Learned queries, positions added to queries and keys, self- and cross-attention of PyTorch's own."""

    def __init__(self, d_model: int = WIDTH, nhead: int = HEADS, queries: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(5, d_model)
        self.query_embed = nn.Embedding(queries, d_model)
        self.self_attn = nn.MultiheadAttention(d_model, nhead, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d_model, nhead, batch_first=True)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.mlp = Mlp()
        self.head = nn.Linear(d_model, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.stem(x)
        query_pos = self.query_embed.weight.unsqueeze(0).repeat(x.shape[0], 1, 1)
        tgt = torch.zeros_like(query_pos)
        q = k = tgt + query_pos
        tgt = self.norm1(tgt + self.self_attn(q, k, value=tgt)[0])
        tgt = self.norm2(tgt + self.multihead_attn(query=tgt + query_pos, key=memory, value=memory)[0])
        tgt = self.norm3(tgt + self.mlp(tgt))
        return self.head(tgt)


def inside_of_attention(name: str) -> tuple[Size, str]:
    """The group inside of nn.MultiheadAttention."""
    return (6, 4), f"{name}.in_proj_weight:0 {name}.in_proj_bias:0 {name}.out_proj.weight:1"


case(
    "pooling_by_probe",
    lambda: Pooled(ProbePooling()),
    [
        (24, "stem> pool.probe:2 pool.attention.in_proj_weight:1"),
        inside_of_attention("pool.attention"),
        (24, "pool.attention.out_proj> pool.layernorm> >pool.mlp.fc1 pool.mlp.fc2> >head"),
        (20, "pool.mlp.fc1> >pool.mlp.fc2"),
    ],
    ties=["stem pool.attention.in_proj_weight"],
    ignored="pool.layernorm",
)
case(
    "pooling_of_an_image",
    PooledImage,
    [
        (24, "stem> pool.positional_embedding:1 >pool.q_proj >pool.k_proj >pool.v_proj"),
        ((6, 4), "pool.q_proj> pool.k_proj> pool.v_proj> >pool.c_proj"),
        (16, "pool.c_proj> >head"),
    ],
    ties=["stem pool.q_proj"],
    example=IMAGE,
    fixed={**KERNELS, "": "pool.positional_embedding:0"},
    ignored="",
)
case(
    "decoder",
    Decoder,
    [
        (
            24,
            "stem> query_embed.weight:1 self_attn.in_proj_weight:1 self_attn.out_proj> norm1> norm2> norm3> "
            "multihead_attn.in_proj_weight:1 multihead_attn.out_proj> >mlp.fc1 mlp.fc2> >head",
        ),
        inside_of_attention("self_attn"),
        inside_of_attention("multihead_attn"),
        MLP,
    ],
    fixed={"model output": "head> query_embed.weight:0"},
    ties=["stem self_attn.in_proj_weight multihead_attn.in_proj_weight"],
)


# Blocks on feature maps


class InvertedBlock(nn.Module):
    """Depthwise convolution, channels last, a scale at the end; with or without response normalisation."""

    def __init__(self, dim: int = WIDTH, hidden: int = HIDDEN, response: bool = False) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.pwconv1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.randn(dim))
        if response:
            self.weight = nn.Parameter(torch.randn(hidden))
            self.bias = nn.Parameter(torch.randn(1, 1, 1, hidden))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.act(self.pwconv1(self.norm(x)))
        if hasattr(self, "weight"):
            response = x.norm(p=2, dim=(1, 2), keepdim=True)
            response = response / (response.mean(dim=-1, keepdim=True) + 1e-6)
            x = x + torch.addcmul(self.bias, self.weight.view(1, 1, 1, -1), x * response)
        x = self.pwconv2(x)
        return shortcut + x.mul(self.gamma).permute(0, 3, 1, 2)


INVERTED = "stem> block.dwconv> block.norm> >block.pwconv1 block.pwconv2> block.gamma:0 >head"
DEPTHWISE = {"kernel size": "stem.weight:2 stem.weight:3 block.dwconv.weight:2 block.dwconv.weight:3"}
case(
    "inverted_block",
    lambda: Maps(InvertedBlock()),
    [(24, INVERTED), (20, "block.pwconv1> >block.pwconv2")],
    example=IMAGE,
    fixed=DEPTHWISE,
)
case(
    "inverted_block_with_response",
    lambda: Maps(InvertedBlock(response=True)),
    [(24, INVERTED), (20, "block.pwconv1> >block.pwconv2 block.weight:0 block.bias:3")],
    example=IMAGE,
    fixed=DEPTHWISE,
    mixed="block.pwconv1",
)


class PoolingBlock(nn.Module):
    """Pooling in the place of attention, norms over whole maps, scales viewed as maps."""

    def __init__(self, dim: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.layer_scale1 = nn.Parameter(torch.randn(dim))
        self.norm2 = nn.GroupNorm(1, dim)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.res_scale = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.layer_scale1.view(-1, 1, 1) * (self.pool(y) - y)
        y = self.fc2(F.relu(self.fc1(self.norm2(x))).square())
        return x * self.res_scale.view((self.res_scale.shape[0], 1, 1)) + y


case(
    "pooling_block",
    lambda: Maps(PoolingBlock()),
    [
        (
            24,
            "stem> block.norm1> block.layer_scale1:0 block.norm2> >block.fc1 block.fc2> block.res_scale:0 >head",
        ),
        (20, "block.fc1> >block.fc2"),
    ],
    example=IMAGE,
    fixed=KERNELS,
)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int = WIDTH, rd_channels: int = 6) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, rd_channels, 1)
        self.fc2 = nn.Conv2d(rd_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x_se = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(x_se))))


class SqueezeLinear(nn.Module):
    """The same with linear layers and `view(b, c, 1, 1)`."""

    def __init__(self, channels: int = WIDTH, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1).expand_as(x)


case(
    "squeeze_and_excitation",
    lambda: Maps(SqueezeExcite()),
    [(24, "stem> >block.fc1 block.fc2> >head"), (6, "block.fc1> >block.fc2")],
    example=IMAGE,
    fixed=KERNELS,
)
case(
    "squeeze_and_excitation_linear",
    lambda: Maps(SqueezeLinear()),
    [(24, "stem> >block.fc.0 block.fc.2) >head"), (6, "block.fc.0) >block.fc.2")],
    example=IMAGE,
    fixed=KERNELS,
    ignored="",
)


class EfficientChannelAttention(nn.Module):
    """A convolution along the channels: each sees its neighbours, whichever are left."""

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=(kernel_size - 1) // 2, bias=False)
        self.expand = nn.Conv2d(WIDTH, HIDDEN, 1)
        self.reduce = nn.Conv2d(HIDDEN, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3)).view(x.shape[0], 1, -1)
        y = self.conv(y).view(x.shape[0], -1, 1, 1).sigmoid()
        x = x * y.expand_as(x)
        return x + self.reduce(F.relu(self.expand(x)))


case(
    "efficient_channel_attention",
    lambda: Maps(EfficientChannelAttention()),
    [(24, "stem> >block.expand block.reduce> >head"), (20, "block.expand> >block.reduce")],
    example=IMAGE,
    fixed={"kernel size": "stem.weight:2 stem.weight:3 block.conv.weight:2"},
)


class BottleneckAttention(nn.Module):
    """Channel attention from two poolings, then attention over places from the mean and the largest channel."""

    def __init__(self, channels: int = WIDTH, rd_channels: int = 6) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, rd_channels, 1, bias=False)
        self.fc2 = nn.Conv2d(rd_channels, channels, 1, bias=False)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x_avg = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        x_max = self.fc2(F.relu(self.fc1(x.amax((2, 3), keepdim=True))))
        x = x * F.sigmoid(x_avg + x_max)
        x_attn = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.bn(self.conv(x_attn)).sigmoid()


case(
    "channel_and_place_attention",
    lambda: Maps(BottleneckAttention()),
    [(24, "stem> >block.fc1 block.fc2) >head"), (6, "block.fc1) >block.fc2")],
    example=IMAGE,
    fixed={
        "kernel size": "stem.weight:2 stem.weight:3 block.conv.weight:2 block.conv.weight:3",
        "concatenated": ">block.conv",
    },
)


class NonLocal(nn.Module):
    """Embedded Gaussian: maps flattened with `view(b, inter_channels, -1)`."""

    def __init__(self, in_channels: int = WIDTH, inter_channels: int = 10) -> None:
        super().__init__()
        self.inter_channels = inter_channels
        self.g = nn.Conv2d(in_channels, inter_channels, 1)
        self.theta = nn.Conv2d(in_channels, inter_channels, 1)
        self.phi = nn.Conv2d(in_channels, inter_channels, 1)
        self.W = nn.Conv2d(inter_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch_size = x.size(0)
        g_x = self.g(x).view(batch_size, self.inter_channels, -1).permute(0, 2, 1)
        theta_x = self.theta(x).view(batch_size, self.inter_channels, -1).permute(0, 2, 1)
        phi_x = self.phi(x).view(batch_size, self.inter_channels, -1)
        f_div_C = F.softmax(torch.matmul(theta_x, phi_x), dim=-1)
        y = torch.matmul(f_div_C, g_x).permute(0, 2, 1).contiguous()
        return self.W(y.view(batch_size, self.inter_channels, *x.size()[2:])) + x


case(
    "non_local",
    lambda: Maps(NonLocal()),
    [
        (24, "stem> >block.g >block.theta >block.phi block.W> >head"),
        (10, "block.theta> block.phi>"),
        (10, "block.g> >block.W"),
    ],
    example=IMAGE,
    fixed=KERNELS,
    ties=["block.theta block.g"],
    ignored="",
)


class SelectiveKernel(nn.Module):
    """Two paths, and a softmax over the paths for each channel."""

    def __init__(self, channels: int = WIDTH, attn_channels: int = 8, num_paths: int = 2) -> None:
        super().__init__()
        self.num_paths = num_paths
        self.paths = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in (1, 2))
        self.fc_reduce = nn.Conv2d(channels, attn_channels, 1)
        self.fc_select = nn.Conv2d(attn_channels, channels * num_paths, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([path(x) for path in self.paths], dim=1)
        attn = self.fc_select(F.relu(self.fc_reduce(x.sum(1).mean((2, 3), keepdim=True))))
        B, C, H, W = attn.shape
        attn = torch.softmax(attn.view(B, self.num_paths, C // self.num_paths, H, W), dim=1)
        return torch.sum(x * attn, dim=1)


case(
    "selective_kernel",
    lambda: Maps(SelectiveKernel()),
    [
        (24, "stem> >block.paths.0 >block.paths.1"),
        (24, "block.paths.0> block.paths.1> >block.fc_reduce block.fc_select> >head"),
        (8, "block.fc_reduce> >block.fc_select"),
    ],
    example=IMAGE,
    fixed={
        "kernel size": "stem.weight:2 stem.weight:3 block.paths.0.weight:2 block.paths.0.weight:3 "
        "block.paths.1.weight:2 block.paths.1.weight:3"
    },
    ignored="",
)


class CoordinateAttention(nn.Module):
    """Means of rows and of columns, concatenated along the places and split again."""

    def __init__(self, channels: int = WIDTH, mid: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv_h = nn.Conv2d(mid, channels, 1)
        self.conv_w = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.size()
        x_h, x_w = x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True).permute(0, 1, 3, 2)
        y = F.hardswish(self.bn1(self.conv1(torch.cat([x_h, x_w], dim=2))))
        x_h, x_w = torch.split(y, [h, w], dim=2)
        return x * self.conv_h(x_h).sigmoid() * self.conv_w(x_w.permute(0, 1, 3, 2)).sigmoid()


case(
    "coordinate_attention",
    lambda: Maps(CoordinateAttention()),
    [
        (24, "stem> >block.conv1 block.conv_h> block.conv_w> >head"),
        (8, "block.conv1> block.bn1@ >block.conv_h >block.conv_w"),
    ],
    example=IMAGE,
    fixed=KERNELS,
    ignored="",
)


class AxialAttention(nn.Module):
    """Attention along the rows, then along the columns, of maps folded into the batch."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.rows = HeadDimAttention(dim, num_heads)
        self.columns = HeadDimAttention(dim, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        x = x.permute(0, 2, 3, 1).reshape(B * H, W, C)
        x = (x + self.rows(x)).view(B, H, W, C).permute(0, 2, 1, 3).reshape(B * W, H, C)
        return (x + self.columns(x)).view(B, W, H, C).permute(0, 3, 2, 1)


case(
    "axial_attention",
    lambda: Maps(AxialAttention()),
    [
        (24, "stem> >block.rows.qkv block.rows.proj> >block.columns.qkv block.columns.proj> >head"),
        ((6, 4), "block.rows.qkv> >block.rows.proj"),
        ((6, 4), "block.columns.qkv> >block.columns.proj"),
    ],
    example=IMAGE,
    fixed=KERNELS,
    ignored="",
)


class HaloAttention(nn.Module):
    """Blocks of queries; keys and values from larger windows, cut out with `unfold`."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS, dim_head: int = HEAD, dim_value: int = 8) -> None:
        super().__init__()
        self.num_heads, self.block_size, self.halo_size = num_heads, 4, 1
        self.win_size = self.block_size + 2 * self.halo_size
        self.dim_head_qk, self.dim_head_v = dim_head, dim_value
        self.dim_out_v = num_heads * dim_value
        self.scale = self.dim_head_qk**-0.5
        self.q = nn.Conv2d(dim, num_heads * dim_head, 1, bias=False)
        self.kv = nn.Conv2d(dim, num_heads * (dim_head + dim_value), 1, bias=False)
        self.proj = nn.Conv2d(self.dim_out_v, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        n_h, n_w = H // self.block_size, W // self.block_size
        num_blocks = n_h * n_w
        q = self.q(x)
        q = q.reshape(-1, self.dim_head_qk, n_h, self.block_size, n_w, self.block_size).permute(0, 1, 3, 5, 2, 4)
        q = q.reshape(B * self.num_heads, self.dim_head_qk, -1, num_blocks).transpose(1, 3)
        kv = F.pad(self.kv(x), [self.halo_size, self.halo_size, self.halo_size, self.halo_size])
        kv = kv.unfold(2, self.win_size, self.block_size).unfold(3, self.win_size, self.block_size)
        kv = kv.reshape(B * self.num_heads, self.dim_head_qk + self.dim_head_v, num_blocks, -1).permute(0, 2, 3, 1)
        k, v = torch.split(kv, [self.dim_head_qk, self.dim_head_v], dim=-1)
        attn = ((q @ k.transpose(-1, -2)) * self.scale).softmax(dim=-1)
        out = (attn @ v).transpose(1, 3)
        out = out.reshape(-1, self.block_size, self.block_size, n_h, n_w).permute(0, 3, 1, 4, 2).contiguous()
        return x + self.proj(out.view(B, self.dim_out_v, H, W))


case(
    "halo_attention",
    lambda: Maps(HaloAttention()),
    [
        (24, "stem> >block.q >block.kv block.proj> >head"),
        ((6, None), "block.q) block.kv)"),
        ((8, None), "block.kv) >block.proj"),
        ((None, 4), "block.q) block.kv) >block.proj"),
    ],
    example=IMAGE,
    fixed=KERNELS,
    ignored="",
)


class PositionedAttention(nn.Module):
    """Attention over a map with learned rows and columns, all in maps with channels first."""

    def __init__(self, dim: int = WIDTH, heads: int = HEADS, dim_head: int = HEAD, side: int = 8) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.dim_out = heads * dim_head
        self.scale = dim_head**-0.5
        self.qkv = nn.Conv2d(dim, self.dim_out * 3, 1, bias=False)
        self.height = nn.Parameter(torch.randn(side, dim_head))
        self.width = nn.Parameter(torch.randn(side, dim_head))
        self.proj = nn.Conv2d(self.dim_out, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        q, k, v = torch.split(self.qkv(x), [self.dim_out, self.dim_out, self.dim_out], dim=1)
        q, k, v = (t.reshape(B, self.heads, self.dim_head, H * W).transpose(-1, -2) for t in (q, k, v))
        emb = self.height.unsqueeze(1) + self.width.unsqueeze(0)
        emb = emb.reshape(H * W, -1)
        attn = (q @ k.transpose(-1, -2) + torch.einsum("bhid,jd->bhij", q, emb)) * self.scale
        out = attn.softmax(dim=-1) @ v
        return x + self.proj(out.transpose(-1, -2).reshape(B, self.dim_out, H, W))


case(
    "attention_on_a_map",
    lambda: Maps(PositionedAttention()),
    [
        (24, "stem> >block.qkv block.proj> >head"),
        ((6, None), "block.qkv) block.height:1 block.width:1 >block.proj"),
        ((None, 4), "block.qkv) >block.proj"),
    ],
    example=IMAGE,
    fixed={**KERNELS, "": "block.height:0 block.width:0"},
    fixed_count={"another factor": "block.height:1 block.width:1"},
    ignored="",
)


class OutlookAttention(nn.Module):
    """Weights for each window from its middle; values unfolded, and folded again."""

    def __init__(self, dim: int = WIDTH, num_heads: int = HEADS, kernel_size: int = 3) -> None:
        super().__init__()
        self.num_heads, self.kernel_size = num_heads, kernel_size
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.v = nn.Linear(dim, dim, bias=False)
        self.attn = nn.Linear(dim, kernel_size**4 * num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        B, H, W, _ = x.shape
        k = self.kernel_size
        v = F.unfold(self.v(x).permute(0, 3, 1, 2), k, padding=k // 2)
        v = v.reshape(B, self.num_heads, self.head_dim, k * k, H * W).permute(0, 1, 4, 3, 2)
        attn = self.attn(x).reshape(B, H * W, self.num_heads, k * k, k * k).permute(0, 2, 1, 3, 4)
        attn = (attn * self.scale).softmax(dim=-1)
        y = (attn @ v).permute(0, 1, 4, 3, 2).reshape(B, self.num_heads * self.head_dim * k * k, H * W)
        y = F.fold(y, output_size=(H, W), kernel_size=k, padding=k // 2)
        return (x + self.proj(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


case(
    "outlook_attention",
    lambda: Maps(OutlookAttention()),
    [
        (24, "stem> >block.v >block.attn block.proj> >head"),
        ((6, None), "block.v) >block.proj"),
        ((None, 4), "block.v) block.attn> >block.proj"),
    ],
    example=IMAGE,
    fixed=KERNELS,
    fixed_width={"another factor": "block.attn>"},
    ignored="",
)


class SoftSplit(nn.Module):
    """Overlapping patches of a token map: unfold, and a projection of channels times places."""

    def __init__(self, dim: int = WIDTH, out: int = 16) -> None:
        super().__init__()
        self.soft_split = nn.Unfold(kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim * 9)
        self.project = nn.Linear(dim * 9, out)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        side = int(N**0.5)
        x = x.transpose(1, 2).reshape(B, C, side, side)
        return self.project(self.norm(self.soft_split(x).transpose(1, 2)))


class SplitTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, WIDTH)
        self.split = SoftSplit()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.split(self.stem(x)).mean(1))


case(
    "soft_split",
    SplitTokens,
    [(24, "stem> split.norm> >split.project"), (16, "split.project> >head")],
    example=((16, 5),),
)


class SplitByList(nn.Module):
    """Parts of unequal width, whose sizes are a tuple of the module, go through convolutions of their own."""

    def __init__(self, dim: int = WIDTH, part: int = 5) -> None:
        super().__init__()
        self.split_indexes = (dim - 2 * part, part, part)
        self.norm = nn.BatchNorm2d(dim)
        self.dwconv_h = nn.Conv2d(part, part, (1, 3), padding=(0, 1), groups=part)
        self.dwconv_w = nn.Conv2d(part, part, (3, 1), padding=(1, 0), groups=part)
        self.fc1 = nn.Conv2d(dim, HIDDEN, 1)
        self.fc2 = nn.Conv2d(HIDDEN, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x_id, x_h, x_w = torch.split(x, self.split_indexes, dim=1)
        y = torch.cat((x_id, self.dwconv_h(x_h), self.dwconv_w(x_w)), dim=1)
        return x + self.fc2(F.gelu(self.fc1(self.norm(y))))


SPLIT = "stem> block.norm@ >block.fc1 block.fc2> >head"
case(
    "split_by_a_list",
    lambda: Maps(SplitByList()),
    [(14, SPLIT), (5, SPLIT + " block.dwconv_h>"), (5, SPLIT + " block.dwconv_w>"), (20, "block.fc1> >block.fc2")],
    example=IMAGE,
    fixed={"kernel size": "stem.weight:2 stem.weight:3 block.dwconv_h.weight:3 block.dwconv_w.weight:2"},
    ignored="",
)


class RootOfLength(nn.Module):
    """Queries and keys of eight dims, divided by the root of their number."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        return self.out((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ self.v(x))  # type: ignore[no-any-return]
