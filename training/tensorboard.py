"""The learning curve as TensorBoard shows it, where it is asked for: `pip install '.[tensorboard]'` brings it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.artifact import EpochRecord
from training.config import ConfigError
from training.distributed import rank


@contextmanager
def curve_for_tensorboard(folder: Path | None, *, num_done: int) -> Iterator[Callable[[EpochRecord], None]]:
    """What is called with each epoch's record; does nothing where `folder` is None.

    What an interrupted run wrote into `folder` after epoch `num_done` is hidden.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if folder is None or rank() > 0:
        yield lambda _record: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # most do without
    except ImportError as error:
        raise ConfigError("--tensorboard needs the package: pip install tensorboard") from error
    with SummaryWriter(str(folder), purge_step=num_done + 1) as writer:

        def write(record: EpochRecord) -> None:
            writer.add_scalar("loss/train", record.train_loss, record.epoch)
            writer.add_scalar("loss/validation", record.validation_loss, record.epoch)
            writer.add_scalar("accuracy/train", record.train_accuracy, record.epoch)
            writer.add_scalar("accuracy/validation", record.validation_accuracy, record.epoch)
            writer.add_scalar("learning rate", record.learning_rate, record.epoch)
            writer.flush()

        yield write
