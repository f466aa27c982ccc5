"""The parts of adversarial training: gradient reversal, the domain head, and a tap on the features."""

import math
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError


@dataclass(frozen=True)
class Adversary:
    """The domain head and how strongly it acts on the features.

    Args:
        hidden: width of its two hidden layers.
        strength: largest factor of the reversed gradient.
        backbone: factor of the learning rate of all layers before the classifier; 0.1 for pretrained ones.
        classifier: name of the linear layer whose input are the features; "" for the last one of the model.

    Raises:
        ValueError: a number is out of range.
    """

    hidden: int = 1024
    strength: float = 1.0
    backbone: float = 1.0
    classifier: str = ""

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 <= self.strength < math.inf or not 0 <= self.backbone < math.inf:
            raise ValueError(
                f"adapt: hidden must be >= 1, strength and backbone finite and >= 0, got {self.hidden}, "
                f"{self.strength}, {self.backbone}"
            )

    def at(self, progress: float) -> float:
        """Strength at the share ``progress`` of the run: ``strength`` * (2 / (1 + e^(−10 p)) − 1).

        >>> [round(Adversary().at(p), 3) for p in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.462, 0.987, 1.0]
        """
        return self.strength * (2 / (1 + math.exp(-10 * progress)) - 1)

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON keeps them."""
        return asdict(self)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradients[0], None


def reverse(x: Tensor, strength: float) -> Tensor:
    """``x`` itself, whose gradient is multiplied by −``strength``.

    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    reversed_: Tensor = _Reverse.apply(x, strength)
    return reversed_


class DomainHead(nn.Module):
    """Features (n, width) -> one logit (n, 1): does the image come from the source?"""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, 1)."""
        logits: Tensor = self.body(x)
        return logits


class Tap:
    """Within the block, ``seen`` is what the classifier of ``model`` read in the last forward.

    Args:
        model: has the classifier.
        name: of the classifier; "" for the last linear layer.

    Raises:
        ZooError: there is no linear layer of that name.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with Tap(model) as tap:
    ...     logits = model(torch.ones(5, 2, 2))
    ...     tap.seen.shape
    torch.Size([5, 3])
    """

    def __init__(self, model: nn.Module, name: str = "") -> None:
        linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        if not linear or (name and name not in linear):
            raise ZooError(
                f"adapt: {type(model).__name__} has no linear layer {name!r} as its classifier; "
                f"it has {', '.join(linear) or 'none'}"
            )
        self.classifier = linear[name or list(linear)[-1]]
        self.width = self.classifier.in_features
        self.seen = torch.empty(0)

    def __enter__(self) -> "Tap":
        self._handle = self.classifier.register_forward_pre_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        self.seen = torch.empty(0)

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.seen = inputs[0]
