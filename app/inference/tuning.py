"""Which engine runs a model fastest on this machine, and with how many pictures at a time: measured at start-up."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from app.artifact import Artifact, Card
from app.engines import EngineName, installed_engines, load_verified
from app.errors import ArtifactError

logger = logging.getLogger(__name__)

NUM_WARM_UP_PASSES = 3  # TorchScript profiles the first two passes and compiles in the next
MEASURE_SECONDS, MIN_RUNS = 0.1, 3  # of each candidate
# A larger batch must be this much faster for each picture: below, it only makes the first one wait.
MIN_GAIN = 1.05


@dataclass(frozen=True, slots=True)
class Tuning:
    """The engine taken, the largest batch, and what was measured.

    `seconds` for one picture, preprocessing and forward pass on one core, by engine; `refused` says why an engine
    was not taken into account; `seconds_in_batch` for each picture of a batch, by its size.
    """

    engine: str
    batch_size: int
    seconds: dict[str, float]
    refused: dict[str, str]
    seconds_in_batch: dict[int, float]


def load_fastest(
    folder: Path, card: Card, *, wanted: EngineName | None, max_batch_size: int
) -> tuple[Artifact, Tuning]:
    """Load a model whose digests were checked with the `wanted` engine, or with the fastest one that agrees.

    TorchScript, where it is installed, must agree with the golden predictions: it is the contract.

    Raises:
        ArtifactError: that engine, or the only one, cannot run the model.
    """
    first, *others = [wanted] if wanted else installed_engines()
    loaded: dict[str, Artifact] = {first: load_verified(folder, card, engine=first, num_threads=1)}
    refused: dict[str, str] = {}
    for engine in others:
        try:
            loaded[engine] = load_verified(folder, card, engine=engine, num_threads=1)
        except ArtifactError as error:
            refused[engine] = str(error)
    seconds = {engine: _seconds_for_one(artifact) for engine, artifact in loaded.items()}
    fastest = min(seconds, key=seconds.__getitem__)
    batch_size, in_batch = _seconds_in_batches(loaded[fastest], max_batch_size)
    logger.info(
        "%s/%d runs with %s in batches of up to %d; milliseconds for one picture: %s; in batches: %s%s",
        card.name,
        card.version,
        fastest,
        batch_size,
        {engine: round(1000 * value, 2) for engine, value in seconds.items()},
        {size: round(1000 * value, 2) for size, value in in_batch.items()},
        f"; refused: {refused}" if refused else "",
    )
    return loaded[fastest], Tuning(fastest, batch_size, seconds, refused, in_batch)


def _seconds_for_one(artifact: Artifact) -> float:
    rule = artifact.card.input
    picture = np.zeros((2 * rule.size_pixels, 2 * rule.size_pixels, 3), np.uint8)
    return _seconds(lambda: artifact.scores(artifact.preprocess(picture)[None]))


def _seconds_in_batches(artifact: Artifact, max_batch_size: int) -> tuple[int, dict[int, float]]:
    """The largest batch that still gains something, and the time of 1, 2, 4 ... pictures at a time up to there."""
    rule = artifact.card.input
    seconds: dict[int, float] = {}
    size = 1
    while size <= max_batch_size:
        batch = np.zeros((size, rule.channels, rule.size_pixels, rule.size_pixels), np.float32)
        seconds[size] = _seconds(partial(artifact.scores, batch)) / size
        if size > 1 and seconds[size // 2] < MIN_GAIN * seconds[size]:
            break
        size *= 2
    return size // 2, seconds


def _seconds(run: Callable[[], object]) -> float:
    """The least of a few runs, in this thread's own processor time: what else the machine does does not count."""
    for _ in range(NUM_WARM_UP_PASSES):
        run()
    durations: list[float] = []
    while len(durations) < MIN_RUNS or sum(durations) < MEASURE_SECONDS:
        started = time.thread_time()
        run()
        durations.append(time.thread_time() - started)
    return min(durations)
