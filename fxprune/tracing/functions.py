"""Functions: what is known of PyTorch's functions, by the names under which the model's code calls them.

They are not ops: `x.view(2, 512)` and `x.flatten()` issue the same ATen call, but only the first takes sizes. A method
and a function of one name are one entry. What is known of ops stands in `fxprune.analysis.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple


class Takes(Enum):
    """What the sizes among a function's arguments are."""

    SHAPE = "the lengths of the result's dims, one after another or as a sequence"
    LIKE = "a tensor that has the result's shape"
    LAST_DIMS = "the lengths of the result's last dims"
    UNFLATTENED = "the lengths of the dims that one dim becomes"
    PARTS = "the lengths of the parts of a dim"
    SECTIONS = "into how many equal parts a dim is cut, or where"
    CHUNKS = "into how many parts a dim is cut, the last of which may be shorter"
    START_AND_LENGTH = "the first index and the length of a part of a dim"
    REPEATS = "how often each dim is repeated"
    REPEATED = "the length of a dim, each of whose indices is repeated"
    GROUPS = "into how many groups the channels fall"
    AMOUNTS = "how many indices a dim gains or loses, before and behind, from the last dim on"
    IMAGES = "the size of a batch of images, of which the channels do not count"
    SCALE = "a number that scales, in place of one that follows a width"
    HEADS = "the width of all heads, and their number"
    INDEX = "the bounds of slices"


class SizeArguments(NamedTuple):
    """Where the sizes stand among a function's arguments.

    Attributes:
        takes: what they are.
        first: the number of the first, or of the sequence of them.
        names: the keywords that may hold them.
        dim: the dim that they are of, where no argument tells.
    """

    takes: Takes
    first: int = 0
    names: tuple[str, ...] = ()
    dim: int = 0


_CONVOLUTIONS = tuple(f"conv{way}{dims}d" for way in ("", "_transpose") for dims in (1, 2, 3))
_SECTIONS = ("indices_or_sections", "sections", "indices", "tensor_indices_or_sections")
LIKE = ("view_as", "reshape_as", "expand_as")  # of a second tensor they take the shape alone
_SECTIONED = {"tensor_split": 0, "vsplit": 0, "hsplit": 1, "dsplit": 2}
SIZED = {
    **dict.fromkeys(
        (
            "view",
            "reshape",
            "expand",
            "broadcast_to",
            "new_zeros",
            "new_ones",
            "new_full",
            "new_empty",
            "new_empty_strided",
        ),
        SizeArguments(Takes.SHAPE, 1, ("shape", "size")),
    ),
    **dict.fromkeys(
        ("zeros", "ones", "empty", "empty_permuted", "empty_strided", "full", "rand", "randn"),
        SizeArguments(Takes.SHAPE, 0, ("size",)),
    ),
    **dict.fromkeys(LIKE, SizeArguments(Takes.LIKE, 1, ("other",))),
    **dict.fromkeys(("layer_norm", "rms_norm"), SizeArguments(Takes.LAST_DIMS, 1, ("normalized_shape",))),
    "unflatten": SizeArguments(Takes.UNFLATTENED, 2, ("sizes", "unflattened_size")),
    "split": SizeArguments(Takes.PARTS, 1, ("split_size_or_sections",)),
    "split_with_sizes": SizeArguments(Takes.PARTS, 1, ("split_sizes",)),
    **{name: SizeArguments(Takes.SECTIONS, 1, _SECTIONS, dim) for name, dim in _SECTIONED.items()},
    "chunk": SizeArguments(Takes.CHUNKS, 1, ("chunks",)),
    "narrow": SizeArguments(Takes.START_AND_LENGTH, 2, ("start", "length")),
    **dict.fromkeys(("repeat", "tile"), SizeArguments(Takes.REPEATS, 1, ("repeats", "dims"))),
    "repeat_interleave": SizeArguments(Takes.REPEATED, 3, ("output_size",)),
    "group_norm": SizeArguments(Takes.GROUPS, 1, ("num_groups",)),
    **dict.fromkeys(_CONVOLUTIONS, SizeArguments(Takes.GROUPS, 6, ("groups",))),
    "pad": SizeArguments(Takes.AMOUNTS, 1, ("pad",)),
    "affine_grid": SizeArguments(Takes.IMAGES, 1, ("size",)),
    "scaled_dot_product_attention": SizeArguments(Takes.SCALE, names=("scale",)),
    "multi_head_attention_forward": SizeArguments(Takes.HEADS, 3, ("embed_dim", "num_heads")),
    **dict.fromkeys(("__getitem__", "__setitem__"), SizeArguments(Takes.INDEX, 1)),
}


def called(name: str, args: Sequence[Any]) -> str:
    """What a function does: `x.new(2, 3)` is `new_empty` of these sizes, `x.new([2, 3])` a tensor of two numbers."""
    sizes = name == "new" and len(args) > 1 and all(isinstance(a, int) for a in args[1:])
    return "new_empty" if sizes else name


# They refuse a state that the code has made on another device before any ATen call is made.
RECURRENT = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])
# They make a tensor of numbers: what follows it follows them.
OF_NUMBERS = frozenset(["tensor", "as_tensor", "scalar_tensor"])
PLAIN_LAYER = "a plain layer"  # stands for the function in which the calls of a plain layer are made
# Their views take all sizes from tensors that they are given.
RELATIVE = frozenset(
    (
        *("flatten", "linear", "chunk", "matmul", "__matmul__", "adaptive_avg_pool2d", "adaptive_avg_pool1d"),
        *(*RECURRENT, "_pad_packed_sequence", PLAIN_LAYER),
    )
)
