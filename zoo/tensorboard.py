"""Write a run's numbers for TensorBoard, if that is installed."""

from pathlib import Path
from types import TracebackType

from zoo.errors import ZooError
from zoo.progress import EpochLog


class Scalars:
    """A TensorBoard log below ``folder``; epochs after ``finished`` that an earlier run wrote are purged.

    Raises:
        ZooError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, finished: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ZooError(
                f"the log in {folder} needs TensorBoard; 'pip install tensorboard', or do without"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=finished + 1)

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, log: EpochLog) -> None:
        """Append a finished epoch."""
        self._writer.add_scalar("loss/train", log.loss, log.epoch)
        self._writer.add_scalar("learning rate", log.lr, log.epoch)
        if log.val_accuracy is not None:
            self._writer.add_scalar("accuracy/val", log.val_accuracy, log.epoch)
        self._writer.flush()
