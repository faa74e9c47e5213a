"""Progress of a fit: a live bar on a terminal, one line an epoch in a log file."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from app.artifact import EpochRecord

REFRESH_STEPS = 20  # reading the loss waits for the device: rarely enough not to slow a GPU


class FitProgress:
    """Counts steps over all epochs, so that the time left is that of the whole run."""

    def __init__(self, num_epochs: int, steps_per_epoch: int, *, num_done: int) -> None:
        self.console = Console()
        self.num_epochs = num_epochs
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/" + str(num_epochs)),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(
            "fit",
            total=num_epochs * steps_per_epoch,
            completed=num_done * steps_per_epoch,
            epoch=num_done + 1,
            figures="",
        )
        self._start_epoch()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def step(self, total_loss: Tensor, num_correct: Tensor, *, num_images: int) -> None:
        """Count one batch; `total_loss` and `num_correct` are sums over the epoch so far."""
        self.num_steps += 1
        self.num_images += num_images
        self.bar.advance(self.task)
        if self.console.is_terminal and self.num_steps % REFRESH_STEPS == 0:
            images_per_second = self.num_images / (time.perf_counter() - self.started)
            self.bar.update(
                self.task,
                figures=f"loss {total_loss.item() / self.num_images:.4f}  "
                f"accuracy {num_correct.item() / self.num_images:.2%}  {images_per_second:.0f} images/s",
            )

    def epoch(self, record: EpochRecord) -> None:
        """Print the finished epoch's row, with the time that the rest of the run will take at its pace."""
        minutes_left = (self.num_epochs - record.epoch) * record.seconds / 60
        self.console.print(
            f"epoch {record.epoch:3d}/{self.num_epochs}  loss {record.train_loss:.4f}  "
            f"train {record.train_accuracy:.2%}  validation {record.validation_accuracy:.2%}  "
            f"{self.num_images / record.seconds:.0f} images/s  {minutes_left:.0f} min left",
            highlight=False,
            soft_wrap=True,
        )
        self.bar.update(self.task, epoch=min(record.epoch + 1, self.num_epochs))
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.started = time.perf_counter()
        self.num_images = 0
        self.num_steps = 0
