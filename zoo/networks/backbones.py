"""torchvision's classification networks for images of about 224 x 224, with a classifier of one's own."""

from torch import Tensor, nn

from zoo.networks.parts import require_positive


class Bottleneck(nn.Module):
    """A classifier behind a narrow layer: linear, batch norm, ReLU, linear (Ganin et al. 2016; width 256)."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(inputs, width)
        self.bn = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) -> logits (n, classes)."""
        logits: Tensor = self.fc(nn.functional.relu(self.bn(self.narrow(x))))
        return logits


def torchvision_network(name: str, classes: int, bottleneck: int = 0, weights: str | None = None) -> nn.Module:
    """Build the network ``name`` of ``torchvision.models`` for ``classes``, in training mode.

    Args:
        name: such as "resnet50"; the last linear layer is replaced.
        classes: logits per image.
        bottleneck: width of a layer between backbone and classifier, for domain adaptation (256); 0 for none.
        weights: pretrained weights by their torchvision name, such as "IMAGENET1K_V2" (downloaded once), or None.

    Raises:
        ValueError: no such network or weights, or it has no linear layer at its end.

    >>> torchvision_network("resnet18", 31, bottleneck=256).fc.narrow
    Linear(in_features=512, out_features=256, bias=True)
    """
    from torchvision import models  # type: ignore[import-untyped]  # it imports PyTorch's compiler: seconds

    require_positive("torchvision", classes=classes, bottleneck=bottleneck + 1)
    try:
        model: nn.Module = models.get_model(name, weights=weights)
    except (KeyError, ValueError) as error:
        raise ValueError(f"torchvision: no network {name!r} with weights {weights!r} ({error})") from error
    layers = [(where, layer) for where, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(f"torchvision: {name!r} has no linear layer to replace by a classifier")
    where, last = layers[-1]
    model.set_submodule(where, _classifier(last.in_features, bottleneck, classes))
    return model


def _classifier(inputs: int, bottleneck: int, classes: int) -> nn.Module:
    return Bottleneck(inputs, bottleneck, classes) if bottleneck else nn.Linear(inputs, classes)
