"""How far calibration inputs of the right kind, and of wrong ones, are from what batch norms saw in training.

    PYTHONPATH=.:tools python -m benchmarks.shifts  # the zoo's networks: minutes on one core
    PYTHONPATH=.:tools python -m benchmarks.shifts efficientnet-lite0 ppocr-v4-rec --size 128  # need the extra `field`

`fxprune.prune(data=)` warns where the number, in nats, is above `fxprune.statistics.shift.LARGE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.comparison import chosen
from benchmarks.untrained_subjects import OfZoo, subject
from fxprune.statistics.shift import ENOUGH, LARGE, shift

NETWORKS = (
    *(f"digits-{name}" for name in ("resnet20", "mobilenetv2", "googlenet")),
    *(f"fashion-{name}" for name in ("resnet20", "resnet56", "vgg16", "googlenet")),
)
DATA = {"digits": ("digits", "fashion-mnist"), "fashion": ("fashion-mnist", "digits")}
"""A network's data set, and another one, by the first part of its name."""
DOMAINS = {"turned by up to 30 degrees": "rotated", "with noise of 48 of 256 levels": "noisy", "inverted": "inverted"}
"""By name: the domain of the zoo that is made so of a data set."""


def noisy(x: Tensor) -> Tensor:
    return x + x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "128 of its kind": lambda x: x,
    "32 of them": lambda x: x[:32],
    "16 of them": lambda x: x[:16],
    "inverted": lambda x: x.amin() + x.amax() - x,
    "with as much noise": noisy,
    "half as bright": lambda x: x / 2,
    "in other units (x / 4 + 0.5)": lambda x: x / 4 + 0.5,
    "in bytes (x · 255)": lambda x: x * 255,
}
"""By name: what is done to calibration inputs."""


def main(
    networks: Annotated[
        list[str] | None, typer.Argument(help="Names or patterns; the zoo's with BatchNorm if none.")
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="Of crops of photographs, in pixels.")] = 224,
) -> None:
    """Show the largest shift of each network on each kind of inputs."""
    torch.set_num_threads(1)
    names = chosen(networks, (*NETWORKS, "efficientnet-lite0", "ppocr-v4-rec"), "network") if networks else NETWORKS
    console = Console(width=None if Console().is_terminal else 160)
    made = Table("inputs", *names, title=f"nats; a warning above {LARGE}")
    columns = [column(name, size) for name in names]
    for kind in dict.fromkeys(kind for found in columns for kind in found):
        made.add_row(kind, *(f"{found[kind]:.2f}" if kind in found else "" for found in columns))
    console.print(made)


def column(name: str, size: int) -> dict[str, float]:
    """The largest shift of a network by the kind of inputs."""
    case = subject(name, ENOUGH, size, False, "cpu")
    inputs = torch.cat(list(case.calibration(ENOUGH, 0)))
    kinds = {kind: change(inputs) for kind, change in CHANGES.items()} | {"128 of the test set": case.test[:ENOUGH]}
    if isinstance(case, OfZoo):
        own, other = DATA[name.partition("-")[0]]
        domains = {kind: f"{own}-{domain}" for kind, domain in DOMAINS.items()} | {"of another data set": other}
        kinds |= {kind: torch.cat(case.calibration_from(domain, ENOUGH, 0)) for kind, domain in domains.items()}
    found = dict[str, float]()
    for kind, given in kinds.items():
        far = shift(case.model, [given])
        found |= {} if far is None else {kind: far.divergence}
    return found


if __name__ == "__main__":
    typer.run(main)
