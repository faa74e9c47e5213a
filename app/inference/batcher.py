"""One thread that runs the network on whatever is already waiting."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from app.metrics import Metrics

Row = TypeVar("Row")


@dataclass(slots=True)
class _Job(Generic[Row]):
    item: Tensor
    future: "Future[Row]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Row]):
    """Turns single preprocessed images into batches.

    It never waits for more than what is there: under light load an image runs alone at once, under heavy load the
    batches fill by themselves while the one before them runs.
    """

    def __init__(self, run: Callable[[Tensor], Iterable[Row]], *, max_batch_size: int, metrics: Metrics) -> None:
        """`run` maps (N, C, S, S) to N rows, one for each image."""
        self._run = run
        self._max_batch_size = max_batch_size
        self._metrics = metrics
        self._jobs: queue.SimpleQueue[_Job[Row] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, item: Tensor) -> "Future[Row]":
        """Queue one image (C, S, S); its future yields its row or the error of its own forward pass."""
        job: _Job[Row] = _Job(item)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Run what was submitted, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        closing = False
        while not closing:
            jobs: list[_Job[Row]] = []
            job = self._jobs.get()
            while job is not None:
                if job.future.set_running_or_notify_cancel():  # nobody waits for a cancelled one
                    jobs.append(job)
                if len(jobs) == self._max_batch_size:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            closing = job is None
            if jobs:
                self._answer(jobs)

    def _answer(self, jobs: Sequence[_Job[Row]]) -> None:
        started = time.perf_counter()
        try:
            rows = self._run(torch.stack([job.item for job in jobs]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # one image broke the batch: let each fail or pass alone
                self._answer([job])
            return
        seconds = time.perf_counter() - started
        self._metrics.batch_size.observe(len(jobs))
        for job, row in zip(jobs, rows, strict=True):
            self._metrics.stage_seconds.labels("queue").observe(started - job.submitted)
            self._metrics.stage_seconds.labels("infer").observe(seconds)
            job.future.set_result(row)
