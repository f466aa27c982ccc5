"""Networks rebuilt from public bug reports against pruning libraries, smaller."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


# GRUs written out with linear layers, and a cell.
class UnrolledGRU(nn.Module):
    def __init__(self, n_in: Any, hidden: Any) -> None:
        super().__init__()
        self.hidden = hidden
        self.W_z, self.W_r, self.W_h = (nn.Linear(n_in, hidden) for _ in range(3))
        self.U_z, self.U_r, self.U_h = (nn.Linear(hidden, hidden) for _ in range(3))

    def forward(self, x: Any, h: Any = None) -> Any:
        if h is None:
            h = torch.zeros(x.size(0), self.hidden, device=x.device, dtype=x.dtype)
        outs = []
        for t in range(x.size(1)):
            z = torch.sigmoid(self.W_z(x[:, t]) + self.U_z(h))
            r = torch.sigmoid(self.W_r(x[:, t]) + self.U_r(h))
            n = torch.tanh(self.W_h(x[:, t]) + r * self.U_h(h))
            h = (1 - z) * n + z * h
            outs.append(h)
        return torch.stack(outs, 1), h


class UnrolledRecurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g1, self.g2 = UnrolledGRU(10, 48), UnrolledGRU(48, 32)
        self.cell = nn.GRUCell(32, 40)
        self.fc = nn.Linear(40 + 32, 6)

    def forward(self, x: Any) -> Any:
        a, _ = self.g1(x)
        b, h = self.g2(a)
        c = b.new_zeros(x.shape[0], self.cell.hidden_size)
        for t in range(b.shape[1]):
            c = self.cell(b[:, t], c)
        return self.fc(torch.cat([h, c], -1))


# Swin V2: cosine attention in shifted windows, a table of positions from a small network, merging of patches.
class CosineAttention(nn.Module):
    def __init__(self, dim: Any, heads: Any, ws: Any) -> None:
        super().__init__()
        self.num_heads, self.ws = heads, ws
        self.qkv = nn.Linear(dim, dim * 3, bias=False)
        self.q_bias = nn.Parameter(torch.randn(dim))
        self.v_bias = nn.Parameter(torch.randn(dim))
        self.proj = nn.Linear(dim, dim)
        self.logit_scale = nn.Parameter(torch.log(10 * torch.ones(heads, 1, 1)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 64), nn.ReLU(inplace=True), nn.Linear(64, heads, bias=False))
        r = torch.arange(-(ws - 1), ws).float()
        t = torch.stack(torch.meshgrid(r, r, indexing="ij")).permute(1, 2, 0).contiguous()[None] / (ws - 1) * 8
        self.register_buffer("table", torch.sign(t) * torch.log2(t.abs() + 1) / 3, persistent=False)
        c = torch.stack(torch.meshgrid(torch.arange(ws), torch.arange(ws), indexing="ij")).flatten(1)
        rel = (c[:, :, None] - c[:, None]).permute(1, 2, 0) + ws - 1
        self.register_buffer("index", rel[..., 0] * (2 * ws - 1) + rel[..., 1], persistent=False)

    def forward(self, x: Any, mask: Any = None) -> Any:
        B, N, C = x.shape
        b = torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, b).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        a = (
            F.normalize(q, dim=-1)
            @ F.normalize(k, dim=-1).transpose(-2, -1)
            * torch.clamp(self.logit_scale, max=4.6).exp()
        )
        bias = (
            self.cpb_mlp(self.table)
            .view(-1, self.num_heads)[self.index.view(-1)]
            .view(N, N, -1)
            .permute(2, 0, 1)
            .contiguous()
        )
        a = a + 16 * torch.sigmoid(bias).unsqueeze(0)
        if mask is not None:
            a = (a.view(B // mask.shape[0], mask.shape[0], self.num_heads, N, N) + mask[None, :, None]).view(
                -1, self.num_heads, N, N
            )
        return self.proj((a.softmax(-1) @ v).transpose(1, 2).reshape(B, N, C))


class CosineBlock(nn.Module):
    def __init__(self, dim: Any, heads: Any, res: Any, ws: Any, shift: Any) -> None:
        super().__init__()
        self.res, self.ws, self.shift = res, ws, shift
        self.attn, self.norm1, self.norm2 = CosineAttention(dim, heads, ws), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        m = None
        if shift:
            im = torch.zeros(1, res, res, 1)
            k = 0
            for h in (slice(0, -ws), slice(-ws, -shift), slice(-shift, None)):
                for w in (slice(0, -ws), slice(-ws, -shift), slice(-shift, None)):
                    im[:, h, w] = k
                    k += 1
            im = im.view(1, res // ws, ws, res // ws, ws, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, ws * ws)
            m = (im[:, None] - im[:, :, None]).ne(0).float() * -100
        self.register_buffer("mask", m)

    def forward(self, x: Any) -> Any:
        B, L, C = x.shape
        s = x
        x = x.view(B, self.res, self.res, C)
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        n = self.res // self.ws
        x = x.view(B, n, self.ws, n, self.ws, C).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.ws * self.ws, C)
        x = (
            self.attn(x, self.mask)
            .view(-1, n, n, self.ws, self.ws, C)
            .permute(0, 1, 3, 2, 4, 5)
            .contiguous()
            .view(B, self.res, self.res, -1)
        )
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        x = s + self.norm1(x.view(B, L, C))
        return x + self.norm2(self.mlp(x))


class PatchMerging(nn.Module):
    def __init__(self, res: Any, dim: Any) -> None:
        super().__init__()
        self.res = res
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Any) -> Any:
        B, _, C = x.shape
        x = x.view(B, self.res, self.res, C)
        return self.norm(
            self.reduction(
                torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1).view(
                    B, -1, 4 * C
                )
            )
        )


class ShiftedWindows(nn.Module):
    def __init__(self, d: Any = 24) -> None:
        super().__init__()
        self.embed, self.norm0 = nn.Conv2d(3, d, 4, 4), nn.LayerNorm(d)
        self.b = nn.Sequential(CosineBlock(d, 3, 8, 4, 0), CosineBlock(d, 3, 8, 4, 2))
        self.merge = PatchMerging(8, d)
        self.c = nn.Sequential(CosineBlock(2 * d, 6, 4, 4, 0))
        self.norm, self.head = nn.LayerNorm(2 * d), nn.Linear(2 * d, 7)

    def forward(self, x: Any) -> Any:
        x = self.norm0(self.embed(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(self.c(self.merge(self.b(x)))).mean(1))


# FastSurfer: the maximum of branches, unpooling by indices.
class Competitive(nn.Module):
    def __init__(self, c: Any, first: Any = 0) -> None:
        super().__init__()
        i = first or c
        self.first = first
        self.conv0 = nn.Conv2d(i, c, 3, padding=1)
        self.conv1 = nn.Conv2d(c, c, 3, padding=1)
        self.conv2 = nn.Conv2d(c, c, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(c), nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.prelu = nn.PReLU()
        self.bn0 = nn.BatchNorm2d(i)

    def forward(self, x: Any) -> Any:
        x0 = self.bn0(x) if self.first else self.prelu(x)
        x0 = self.bn1(self.conv0(x0))
        a = x0 if self.first else torch.max(torch.cat((x.unsqueeze(4), x0.unsqueeze(4)), 4), 4)[0]
        x1 = self.bn2(self.conv1(self.prelu(a)))
        b, _ = torch.max(torch.cat((a.unsqueeze(4), x1.unsqueeze(4)), 4), 4)
        return self.bn3(self.conv2(self.prelu(torch.maximum(b, a))))


class CompetitiveUNet(nn.Module):
    def __init__(self, c: Any = 32) -> None:
        super().__init__()
        self.e1, self.e2, self.neck, self.d2, self.d1 = (
            Competitive(c, 3),
            Competitive(c),
            Competitive(c),
            Competitive(c),
            Competitive(c),
        )
        self.pool, self.unpool, self.head = (
            nn.MaxPool2d(2, 2, return_indices=True),
            nn.MaxUnpool2d(2, 2),
            nn.Conv2d(c, 7, 1),
        )

    def forward(self, x: Any) -> Any:
        a = self.e1(x)
        p, i1 = self.pool(a)
        b = self.e2(p)
        q, i2 = self.pool(b)
        n = self.neck(q)
        u = self.unpool(n, i2, output_size=b.size())
        u, _ = torch.max(torch.cat((u.unsqueeze(4), b.unsqueeze(4)), 4), 4)
        u = self.d2(u)
        v = self.unpool(u, i1)
        v = torch.stack([v, a], 4).amax(4)
        return self.head(self.d1(v))


# ShuffleFaceNet: a shuffle, then slices that feed two branches.
def shuffle(x: Any, g: Any = 2) -> Any:
    b, n, h, w = x.size()
    return x.view(b, g, n // g, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


def normed(i: Any, o: Any, k: Any = 1, s: Any = 1, g: Any = 1, act: Any = True) -> Any:
    return nn.Sequential(
        nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), *([nn.PReLU(o)] if act else [])
    )


class ShuffleUnit(nn.Module):
    def __init__(self, i: Any, o: Any, stride: Any) -> None:
        super().__init__()
        self.stride = stride
        b = o // 2
        self.banch2 = nn.Sequential(normed(i if stride == 2 else b, b), normed(b, b, 3, stride, b, False), normed(b, b))
        self.banch1 = nn.Sequential(normed(i, i, 3, 2, i, False), normed(i, b)) if stride == 2 else None

    def forward(self, x: Any) -> Any:
        if self.stride == 1:
            x1 = x[:, : (x.shape[1] // 2), :, :]
            x2 = x[:, (x.shape[1] // 2) :, :, :]
            out = torch.cat((x1, self.banch2(x2)), 1)
        else:
            out = torch.cat((self.banch1(x), self.banch2(x)), 1)
        return shuffle(out)


class ShuffleFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = normed(3, 24, 3, 2)
        self.features = nn.Sequential(
            ShuffleUnit(24, 48, 2),
            ShuffleUnit(48, 48, 1),
            ShuffleUnit(48, 48, 1),
            ShuffleUnit(48, 64, 2),
            ShuffleUnit(64, 64, 1),
        )
        self.conv_last = normed(64, 96)
        self.gdconv = nn.Sequential(nn.Conv2d(96, 96, 4, groups=96, bias=False), nn.BatchNorm2d(96))
        self.linear = nn.Conv2d(96, 32, 1, bias=False)
        self.bn = nn.BatchNorm1d(32)

    def forward(self, x: Any) -> Any:
        x = self.linear(self.gdconv(self.conv_last(self.features(self.conv1(x)))))
        return self.bn(x.view(x.size(0), -1))


# StarGAN v2 and StyleGAN 2: styles that scale, modulated grouped convolutions.


class AdaIN(nn.Module):
    def __init__(self, s: Any, n: Any) -> None:
        super().__init__()
        self.norm, self.fc = nn.InstanceNorm2d(n, affine=False), nn.Linear(s, n * 2)

    def forward(self, x: Any, s: Any) -> Any:
        h = self.fc(s)
        h = h.view(h.size(0), h.size(1), 1, 1)
        g, b = torch.chunk(h, 2, 1)
        return (1 + g) * self.norm(x) + b


class AdainRes(nn.Module):
    def __init__(self, i: Any, o: Any, s: Any = 16, up: Any = False) -> None:
        super().__init__()
        self.conv1, self.conv2, self.norm1, self.norm2 = (
            nn.Conv2d(i, o, 3, 1, 1),
            nn.Conv2d(o, o, 3, 1, 1),
            AdaIN(s, i),
            AdaIN(s, o),
        )
        self.up = up
        self.sc = nn.Conv2d(i, o, 1, bias=False) if i != o else None

    def forward(self, x: Any, s: Any) -> Any:
        h = F.leaky_relu(self.norm1(x, s), 0.2)
        h = F.interpolate(h, scale_factor=2) if self.up else h
        h = self.conv2(F.leaky_relu(self.norm2(self.conv1(h), s), 0.2))
        r = F.interpolate(x, scale_factor=2) if self.up else x
        return (h + (r if self.sc is None else self.sc(r))) / math.sqrt(2)


class StarGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.from_rgb, self.n, self.b1, self.b2, self.to_rgb = (
            nn.Conv2d(3, 32, 3, 1, 1),
            nn.InstanceNorm2d(32, affine=True),
            AdainRes(32, 32),
            AdainRes(32, 24, up=True),
            nn.Sequential(nn.InstanceNorm2d(24, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(24, 3, 1)),
        )

    def forward(self, x: Any, z: Any) -> Any:
        s = self.map(z)
        x = self.n(F.avg_pool2d(self.from_rgb(x), 2))
        return self.to_rgb(self.b2(self.b1(x, s), s))


class ModConv(nn.Module):
    def __init__(self, i: Any, o: Any, k: Any = 3, s: Any = 16, demod: Any = True) -> None:
        super().__init__()
        self.i, self.o, self.k, self.demod = i, o, k, demod
        self.scale = 1 / math.sqrt(i * k * k)
        self.weight = nn.Parameter(torch.randn(1, o, i, k, k))
        self.modulation = nn.Linear(s, i)

    def forward(self, x: Any, s: Any) -> Any:
        b, c, h, w = x.shape
        s = self.modulation(s).view(b, 1, c, 1, 1)
        k = self.scale * self.weight * s
        if self.demod:
            k = k * torch.rsqrt(k.pow(2).sum([2, 3, 4]) + 1e-8).view(b, self.o, 1, 1, 1)
        out = F.conv2d(x.view(1, b * c, h, w), k.view(b * self.o, c, self.k, self.k), padding=self.k // 2, groups=b)
        return out.view(b, self.o, h, w)


class StyleGAN2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 16))
        self.input = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.c1, self.c2, self.c3, self.rgb = (
            ModConv(32, 32),
            ModConv(32, 24),
            ModConv(24, 24),
            ModConv(24, 3, 1, demod=False),
        )
        self.bias = nn.ParameterList([nn.Parameter(torch.randn(n)) for n in (32, 24, 24)])

    def forward(self, z: Any) -> Any:
        s = self.map(z)
        x = self.input.repeat(z.shape[0], 1, 1, 1)
        for i, c in enumerate((self.c1, self.c2, self.c3)):
            x = F.leaky_relu(c(x, s) + self.bias[i].view(1, -1, 1, 1), 0.2)
            x = F.interpolate(x, scale_factor=2, mode="bilinear") if i == 1 else x
        return self.rgb(x, s)


# YOLOv10: queries, keys and values of unequal widths in one view, depthwise position code.
class Conv(nn.Module):
    def __init__(self, a: Any, b: Any, k: Any = 1, s: Any = 1, g: Any = 1, act: Any = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(a, b, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(b)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.act(self.bn(self.conv(x)))


class Attention(nn.Module):
    def __init__(self, dim: Any, num_heads: Any = 4, attn_ratio: Any = 0.5) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.key_dim = int(self.head_dim * attn_ratio)
        self.scale = self.key_dim**-0.5
        h = dim + self.key_dim * num_heads * 2
        self.qkv, self.proj, self.pe = (
            Conv(dim, h, act=False),
            Conv(dim, dim, act=False),
            Conv(dim, dim, 3, 1, dim, False),
        )

    def forward(self, x: Any) -> Any:
        B, C, H, W = x.shape
        N = H * W
        qkv = self.qkv(x)
        q, k, v = qkv.view(B, self.num_heads, self.key_dim * 2 + self.head_dim, N).split(
            [self.key_dim, self.key_dim, self.head_dim], dim=2
        )
        a = ((q.transpose(-2, -1) @ k) * self.scale).softmax(-1)
        x = (v @ a.transpose(-2, -1)).view(B, C, H, W) + self.pe(v.reshape(B, C, H, W))
        return self.proj(x)


class PSA(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.c = c // 2
        self.cv1, self.cv2, self.attn = Conv(c, 2 * self.c), Conv(2 * self.c, c), Attention(self.c)
        self.ffn = nn.Sequential(Conv(self.c, self.c * 2), Conv(self.c * 2, self.c, act=False))

    def forward(self, x: Any) -> Any:
        a, b = self.cv1(x).split((self.c, self.c), dim=1)
        b = b + self.attn(b)
        b = b + self.ffn(b)
        return self.cv2(torch.cat((a, b), 1))


class SCDown(nn.Module):
    def __init__(self, a: Any, b: Any) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(a, b), Conv(b, b, 3, 2, b, False)

    def forward(self, x: Any) -> Any:
        return self.cv2(self.cv1(x))


class CIB(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.cv1 = nn.Sequential(
            Conv(c, c, 3, 1, c), Conv(c, 2 * c), Conv(2 * c, 2 * c, 3, 1, 2 * c), Conv(2 * c, c), Conv(c, c, 3, 1, c)
        )

    def forward(self, x: Any) -> Any:
        return x + self.cv1(x)


class C3k(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        h = c // 2
        self.cv1, self.cv2, self.cv3 = Conv(c, h), Conv(c, h), Conv(2 * h, c)
        self.m = CIB(h)

    def forward(self, x: Any) -> Any:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3k2(nn.Module):
    def __init__(self, a: Any, b: Any) -> None:
        super().__init__()
        self.c = b // 2
        self.cv1, self.cv2, self.m = Conv(a, 2 * self.c), Conv(3 * self.c, b), nn.ModuleList([C3k(self.c)])

    def forward(self, x: Any) -> Any:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class PartialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Sequential(Conv(3, 16, 3, 2), C3k2(16, 32), SCDown(32, 64), C3k2(64, 64), PSA(64))
        self.cls, self.reg = nn.Conv2d(64, 5, 1), nn.Conv2d(64, 4, 1)

    def forward(self, x: Any) -> Any:
        x = self.m(x)
        return self.cls(x), self.reg(x)


# Attention plug-ins for maps.
class Coordinates(nn.Module):
    def __init__(self, n: Any, few: Any = 8) -> None:
        super().__init__()
        self.squeeze, self.rows, self.cols = (
            nn.Sequential(nn.Conv2d(n, few, 1), nn.BatchNorm2d(few), nn.Hardswish()),
            nn.Conv2d(few, n, 1),
            nn.Conv2d(few, n, 1),
        )

    def forward(self, x: Any) -> Any:
        h, w = x.shape[-2:]
        both = self.squeeze(
            torch.cat((F.adaptive_avg_pool2d(x, (h, 1)), F.adaptive_avg_pool2d(x, (1, w)).transpose(2, 3)), 2)
        )
        r, c = both.split((h, w), 2)
        return x * torch.sigmoid(self.rows(r)) * torch.sigmoid(self.cols(c.transpose(2, 3)))


class CBAM(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Conv2d(c, c // 4, 1, bias=False), nn.ReLU(), nn.Conv2d(c // 4, c, 1, bias=False))
        self.sp = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Any) -> Any:
        x = x * torch.sigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)) + self.fc(F.adaptive_max_pool2d(x, 1)))
        return x * torch.sigmoid(self.sp(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)))


class ECA(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Any) -> Any:
        return (
            x
            * self.conv(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2))
            .transpose(-1, -2)
            .unsqueeze(-1)
            .sigmoid()
        )


class SimAM(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        return x * torch.sigmoid(d / (4 * (d.sum(dim=[2, 3], keepdim=True) / n + 1e-4)) + 0.5)


class EMA(nn.Module):
    def __init__(self, c: Any, factor: Any = 8) -> None:
        super().__init__()
        self.groups = factor
        n = c // factor
        self.softmax, self.agp, self.pool_h, self.pool_w = (
            nn.Softmax(-1),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.AdaptiveAvgPool2d((None, 1)),
            nn.AdaptiveAvgPool2d((1, None)),
        )
        self.gn, self.conv1x1, self.conv3x3 = nn.GroupNorm(n, n), nn.Conv2d(n, n, 1), nn.Conv2d(n, n, 3, padding=1)

    def forward(self, x: Any) -> Any:
        b, c, h, w = x.size()
        g = x.reshape(b * self.groups, -1, h, w)
        hw = self.conv1x1(torch.cat([self.pool_h(g), self.pool_w(g).permute(0, 1, 3, 2)], dim=2))
        xh, xw = torch.split(hw, [h, w], dim=2)
        x1 = self.gn(g * xh.sigmoid() * xw.permute(0, 1, 3, 2).sigmoid())
        x2 = self.conv3x3(g)
        a = self.softmax(self.agp(x1).reshape(b * self.groups, -1, 1).permute(0, 2, 1))
        p = x2.reshape(b * self.groups, c // self.groups, -1)
        d = self.softmax(self.agp(x2).reshape(b * self.groups, -1, 1).permute(0, 2, 1))
        q = x1.reshape(b * self.groups, c // self.groups, -1)
        return (g * (torch.matmul(a, p) + torch.matmul(d, q)).reshape(b * self.groups, 1, h, w).sigmoid()).reshape(
            b, c, h, w
        )


class ShuffleAttention(nn.Module):
    def __init__(self, c: Any, G: Any = 4) -> None:
        super().__init__()
        self.G = self.groups = G
        n = c // (2 * G)
        self.gn = nn.GroupNorm(n, n)
        self.cweight, self.cbias, self.sweight, self.sbias = (nn.Parameter(torch.randn(1, n, 1, 1)) for _ in range(4))

    def forward(self, x: Any) -> Any:
        b, _, h, w = x.shape
        x = x.view(b * self.G, -1, h, w)
        x0, x1 = x.chunk(2, dim=1)
        x0 = x0 * torch.sigmoid(self.cweight * F.adaptive_avg_pool2d(x0, 1) + self.cbias)
        x1 = x1 * torch.sigmoid(self.sweight * self.gn(x1) + self.sbias)
        out = torch.cat([x0, x1], 1).contiguous().view(b, -1, h, w)
        return out.reshape(b, 2, -1, h, w).permute(0, 2, 1, 3, 4).reshape(b, -1, h, w)


def block(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Plugged(nn.Module):
    plug: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.att, self.b, self.out = block(3, 32), self.plug(32), block(32, 48), nn.Conv2d(48, 5, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.b(self.att(self.a(x))))
