"""How far a run is: a bar with the time left on a terminal, elsewhere a line now and then. On standard error."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 10.0


class FileProgress:
    def __init__(self, what: str, total: int) -> None:
        console = Console(stderr=True)
        self._what, self._total, self._num_done = what, total, 0
        self._started = self._logged = time.monotonic()
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=total, pace="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def advance(self, num_files: int = 1) -> None:
        self._num_done += num_files
        now = time.monotonic()
        per_second = self._num_done / max(now - self._started, 1e-9)
        self._bar.update(self._task, advance=num_files, pace=f"{per_second:.0f} files/s, left")
        if self._bar.disable and now - self._logged > LOG_SECONDS:
            self._logged = now
            seconds_left = (self._total - self._num_done) / per_second
            print(f"{self._what} {self._num_done:,} of {self._total:,}, {seconds_left:.0f} s left", file=sys.stderr)
