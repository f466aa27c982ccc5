"""Patches: what a layer multiplies its weights with, and what it makes of them, as rows of matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.statistics.observe import Contraction

PIECE = 2**22
"""Numbers that one piece of the patches holds at most, or as many as a layer's S has: 32 MiB in float64."""
LARGEST = 2**24
"""Numbers that a piece of wide patches holds at most: 64 MiB in float32."""


def draw(seen: Contraction, images: int, count: int | None, generator: torch.Generator) -> Tensor:
    """Output positions of each image, of shape (images, m): all of them, or `count` drawn anew for each image.

    A linear layer's rows count as the positions of the images that they belong to, in order; where the rows are no
    multiple of the images, each row is an image of its own.
    """
    shape = _spread(seen.output, images).shape
    most = prod(shape[2:])
    if count is None or count >= most:
        return torch.arange(most, device="cpu").expand(shape[0], most)
    return torch.rand(shape[0], most, generator=generator, device="cpu").topk(count, dim=1).indices.sort(1).values


def most_varied(seen: Contraction, images: int, count: int) -> Tensor:
    """The `count` output positions of each image where the outputs' variance over channels is largest, ascending.

    Of equals the first are taken. Shape (images, m), with positions and images as in `draw`.
    """
    y = _spread(seen.output, images).flatten(2)
    spread = (y if y.dtype == torch.float64 else y.float()).var(1, correction=0)
    return spread.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(1).values.cpu()


def inputs_at(seen: Contraction, where: Tensor) -> Iterator[Tensor]:
    """The patches under output positions, in pieces of shape (rows, groups, n), image after image.

    Args:
        seen: a call of a convolution or linear layer.
        where: positions, of shape (images, m), from `draw`.

    The n entries of a patch have the order of `Contraction.kernels()`, so that output = kernel · patch + bias.
    """
    x, kernel, stride, dilation, turned = _ordinary(seen, len(where))
    step, offsets = _indices(x.shape[2:], seen, where, kernel, stride, dilation, turned)
    flat, channels, k = x.flatten(2), x.shape[1], len(offsets)
    n = channels // seen.groups * k
    for images, columns in _pieces(where.shape, channels * k, min(LARGEST, max(PIECE, seen.groups * n * n))):
        index = (step[images, columns, None] + offsets).flatten(1)[:, None].expand(-1, channels, -1)
        found = flat[images].gather(2, index).unflatten(2, (-1, k))
        yield found.transpose(1, 2).reshape(-1, seen.groups, n)


def outputs_at(y: Tensor, where: Tensor) -> Tensor:
    """The values of a layer's output, or of a tensor of its shape, at positions, of shape (rows, channels)."""
    flat = _spread(y, len(where)).flatten(2)
    index = where.to(y.device)[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).flatten(0, 1)


def _spread(t: Tensor, images: int) -> Tensor:
    """(rows, features) as (images, features, positions); other tensors as they are."""
    if t.dim() > 2:
        return t
    rows = images if t.shape[0] % images == 0 else t.shape[0]
    return t.reshape(rows, -1, t.shape[1]).transpose(1, 2)


def _ordinary(seen: Contraction, images: int) -> tuple[Tensor, list[int], list[int], list[int], bool]:
    """The input of the ordinary convolution without padding that computes the same.

    Returns:
        The input, of shape (images, channels, *positions); kernel size, stride, dilation; and whether the kernel is
        turned, as in a transposed convolution, which is one over an input with stride - 1 zeros between its values.
    """
    if seen.options is None:
        return _spread(seen.x, images), [1], [1], [1], False
    stride, padding, dilation, transposed, output_padding, _ = seen.options
    dims = seen.x.dim() - 2
    stride, padding, dilation = (_each(v, dims) for v in (stride, padding, dilation))
    kernel = list(seen.weight.shape[2:])
    if not transposed:
        return _padded(seen.x, padding, padding), kernel, stride, dilation, False
    x = seen.x
    for d in range(dims):
        x = _stuffed(x, d + 2, stride[d])
    before = [dilation[d] * (kernel[d] - 1) - padding[d] for d in range(dims)]
    after = [b + o for b, o in zip(before, _each(output_padding, dims), strict=True)]
    return _padded(x, before, after), kernel, [1] * dims, dilation, True


def _each(values: list[int], dims: int) -> list[int]:
    return list(values) * dims if len(values) == 1 else list(values)


def _padded(x: Tensor, before: list[int], after: list[int]) -> Tensor:
    pads = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    return F.pad(x, pads) if any(pads) else x


def _stuffed(x: Tensor, dim: int, stride: int) -> Tensor:
    """`x` with stride - 1 zeros between neighbours along a dim."""
    if stride == 1:
        return x
    zeros = torch.zeros_like(x).unsqueeze(dim + 1).repeat_interleave(stride - 1, dim + 1)
    stuffed = torch.cat([x.unsqueeze(dim + 1), zeros], dim + 1).flatten(dim, dim + 1)
    return stuffed.narrow(dim, 0, (x.shape[dim] - 1) * stride + 1)


def _indices(
    space: torch.Size,
    seen: Contraction,
    where: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    turned: bool,
) -> tuple[Tensor, Tensor]:
    """Flat indices into the padded input: each patch's first entry, like `where`, and the steps from there to all."""
    reach = torch.tensor([prod(space[d + 1 :]) for d in range(len(space))], device="cpu")
    sizes = seen.output.shape[2:] if seen.options is not None else space
    corners = torch.stack(_unravelled(where, sizes), -1)
    step = (corners * torch.tensor(stride, device="cpu") * reach).sum(-1)
    grid = torch.cartesian_prod(*[torch.arange(n, device="cpu") for n in kernel]).view(-1, len(kernel))
    offsets = (grid * torch.tensor(dilation, device="cpu") * reach).sum(-1)
    return step.to(seen.x.device), (offsets.flip(0) if turned else offsets).to(seen.x.device)


def _unravelled(places: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The indices in each dim. `torch.unravel_index` imports sympy, which an interrupt may leave half imported."""
    return [places // prod(sizes[d + 1 :]) % n for d, n in enumerate(sizes)]


def _pieces(shape: torch.Size, entries: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of an (images, positions) grid that hold at most so many numbers, a position having `entries`."""
    images, positions = shape
    columns = max(1, min(positions, most // entries))
    rows = max(1, most // (entries * positions)) if columns == positions else 1
    for i in range(0, images, rows):
        for j in range(0, positions, columns):
            yield slice(i, i + rows), slice(j, j + columns)
