"""What a training run shows of itself on standard error: a bar within an epoch, a line after each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.processes import is_main

B = TypeVar("B")


@dataclass(frozen=True)
class EpochLog:
    """One finished epoch.

    ``epoch`` counts from 1; ``loss`` is the mean training loss of a sample; ``lr`` the rate of the last step;
    ``val_accuracy`` in [0, 1], None without a validation split; ``seconds`` of wall clock with validation.
    """

    epoch: int
    loss: float
    lr: float
    val_accuracy: float | None
    seconds: float


class Display:
    """A ``rich`` display, or none where ``shown`` is false or another process is the main one.

    The bar appears on a terminal only.
    """

    def __init__(self, epochs: int, shown: bool) -> None:
        self.console = Console(stderr=True, quiet=not (shown and is_main()), highlight=False, soft_wrap=True)
        self.epochs = epochs

    def steps(self, batches: Iterable[B], count: int, epoch: int) -> Iterator[B]:
        """The batches, ``count`` of them, with a bar that follows."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = self.console.quiet or not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as bar:
            yield from bar.track(batches, total=count, description=f"epoch {epoch}/{self.epochs}")

    def line(self, log: EpochLog) -> None:
        """Print a finished epoch."""
        val = "" if log.val_accuracy is None else f"  val {100 * log.val_accuracy:.2f} %"
        self.console.print(
            f"epoch {log.epoch}/{self.epochs}  loss {log.loss:.4f}{val}  lr {log.lr:.4f}  {log.seconds:.1f} s"
        )
