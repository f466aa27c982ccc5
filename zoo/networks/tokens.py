"""A vision transformer (Dosovitskiy et al. 2021) and a ConvNeXt (Liu et al. 2022) of torchvision, for small images."""

from functools import partial

from torch import nn

from zoo.networks.parts import require_positive


def vit(
    classes: int = 10,
    channels: int = 1,
    size: int = 28,
    patch: int = 4,
    depth: int = 4,
    heads: int = 4,
    width: int = 96,
    hidden: int = 192,
) -> nn.Module:
    """Build a vision transformer, in training mode.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        size: height and width of the input images.
        patch: height and width of a patch, of which each becomes a token.
        depth: number of blocks.
        heads: of each attention.
        width: of the tokens.
        hidden: width between the two linear layers of a block.

    Raises:
        ValueError: a size is out of range or does not divide.

    >>> sum(p.numel() for p in vit().parameters())
    306826
    """
    from torchvision.models import VisionTransformer  # type: ignore[import-untyped]

    require_positive("vit", classes=classes, channels=channels, patch=patch, depth=depth, heads=heads, hidden=hidden)
    if size % patch or width % heads:
        raise ValueError(f"vit: {patch=} must divide {size=}, and {heads=} {width=}")
    made: nn.Module = VisionTransformer(size, patch, depth, heads, width, hidden, num_classes=classes)
    made.conv_proj = nn.Conv2d(channels, width, patch, patch)
    return made


def convnext(classes: int = 10, channels: int = 1, width: int = 32, depths: tuple[int, int] = (2, 4)) -> nn.Module:
    """Build a ConvNeXt of two stages, in training mode; its stem halves the image.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        width: channels of the first stage; the second has twice as many.
        depths: blocks of each stage.

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in convnext().parameters())
    175338
    """
    from torchvision.models import ConvNeXt
    from torchvision.models.convnext import CNBlockConfig, LayerNorm2d  # type: ignore[import-untyped]

    require_positive("convnext", classes=classes, channels=channels, width=width, first=depths[0], second=depths[1])
    stages = [CNBlockConfig(width, 2 * width, depths[0]), CNBlockConfig(2 * width, None, depths[1])]
    made: nn.Module = ConvNeXt(stages, num_classes=classes, norm_layer=partial(LayerNorm2d, eps=1e-6))
    made.get_submodule("features.0")[0] = nn.Conv2d(channels, width, 2, 2)  # type: ignore[operator]
    return made
