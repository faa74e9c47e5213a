"""Files -> rows, many at a time: with the models in this process, or by a running service."""

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from app.cli.results import Row
from app.errors import ModelNotFoundError, NotReadyError, WardrobeError

# Chosen, not tuned: while one batch waits for its slowest picture and the next is read, the others keep every core
# busy. At most this many times the bytes of a batch, and one picture more, are in memory.
NUM_BATCHES_IN_FLIGHT = 4
MAX_BATCH_IMAGES, MAX_BATCH_BYTES = 16, 16 * 2**20
MAX_FILE_BYTES = 2**28  # chosen, not tuned: a larger file is no photo and would be read into memory


@dataclass(frozen=True, slots=True)
class Found:
    """What a classifier says of one picture: the fields of a Row, or what is wrong in `reason`."""

    reason: str
    label: str = ""
    group: str = ""
    probability: float | None = None
    decision: str = "error"
    model: str = ""
    model_sha256: str = ""


class NoModelError(WardrobeError):
    def __init__(self, models_dir: Path, model: str, reason: str) -> None:
        super().__init__(f"No model {model!r} can be run from {models_dir}. {reason} Say where it is with --models.")


class FileClassifier(Protocol):
    """Gives the rows of files, a few at a time. `served_sha256` are the digests of the models it uses."""

    served_sha256: frozenset[str]

    def rows(self, paths: Iterable[Path]) -> AsyncIterator[list[Row]]: ...


class Classifier(Protocol):
    """Answers for the contents of image files, in order, and with that for files."""

    served_sha256: frozenset[str]

    async def classify(self, contents: Sequence[bytes]) -> list[Found]: ...

    def rows(self, paths: Iterable[Path]) -> AsyncIterator[list[Row]]:
        return _rows(paths, self)


def wanted_sha256(models_dir: Path, model: str) -> frozenset[str]:
    """Digests of the models that `local_classifier` would most probably use, without loading them."""
    from app.artifact import read_card
    from app.served_version import read_pointer

    found = set()
    for folder in models_dir.glob("[!.]*"):
        if model not in ("auto", folder.name):
            continue
        versions = [int(path.name) for path in folder.glob("*/") if path.name.isdecimal()]
        with suppress(WardrobeError):
            pointer = read_pointer(folder)
            version = pointer.version if pointer else max(versions, default=0)
            found.add(read_card(folder / str(version)).sha256["model.pt"])
    return frozenset(found)


@asynccontextmanager
async def local_classifier(models_dir: Path, *, model: str, num_threads: int = 0) -> AsyncGenerator[Classifier, None]:
    """The models of a folder, loaded into this process, on so many cores; 0: on every one that it may use."""
    from app.inference.predictor import Predictor
    from app.inference.scheduler import Scheduler
    from app.inference.store import AUTO, ModelStore
    from app.inference.threads import available_cpus
    from app.metrics import Metrics
    from app.settings import Settings

    # The queue and the time limit guard a service from its clients; here there is one, and it can wait.
    settings = Settings(host="127.0.0.1", models_dir=models_dir, max_queue_images=2**31, predict_timeout_seconds=3600)
    store = ModelStore(settings)
    await asyncio.to_thread(store.load)
    try:
        choose = store.chooser(model)
    except (ModelNotFoundError, NotReadyError) as error:
        refused = " ".join(refusal.reason for refusal in store.refusals)
        known = f"There is: {', '.join(store.names) or 'none'}."
        raise NoModelError(models_dir, settings.default_model if model == AUTO else model, refused or known) from error
    metrics = Metrics()
    num_workers = num_threads or settings.num_threads or available_cpus()
    scheduler = Scheduler(metrics, num_workers=num_workers, max_image_pixels=settings.max_image_pixels)
    predictor = Predictor(settings, metrics, scheduler)

    class Local(Classifier):
        served_sha256 = frozenset(
            store.card(name)[1].sha256["model.pt"] for name in store.names if model in (AUTO, name)
        )

        async def classify(self, contents: Sequence[bytes]) -> list[Found]:
            found = []
            for outcome in await predictor.predict(contents, choose=choose, top_k=1):
                if isinstance(outcome, WardrobeError):
                    found.append(Found(str(outcome)))
                    continue
                card, best, verdict = outcome.artifact.card, outcome.candidates[0], outcome.verdict
                found.append(
                    Found(
                        reason=verdict.reason,
                        label=best.info.label,
                        group=best.info.group,
                        probability=best.probability,
                        decision=verdict.decision,
                        model=f"{card.name}/{card.version}",
                        model_sha256=outcome.artifact.digest,
                    )
                )
            return found

    try:
        yield Local()
    finally:
        await asyncio.to_thread(scheduler.close)


@asynccontextmanager
async def remote_classifier(url: str, *, api_key: str | None, model: str) -> AsyncGenerator[Classifier, None]:
    """A running service, which may be busy with others as well."""
    from app.api.schemas import PredictionPublic
    from app.client import AsyncWardrobeClient

    async with AsyncWardrobeClient(url, api_key=api_key) as client:
        names = [summary.name for summary in (await client.models()).models if model in ("auto", summary.name)]
        cards = [await client.card(name) for name in names]

        class Remote(Classifier):
            served_sha256 = frozenset(card["sha256"]["model.pt"] for card in cards)

            async def classify(self, contents: Sequence[bytes]) -> list[Found]:
                return [
                    Found(
                        reason=answer.reason,
                        label=answer.label,
                        group=answer.group,
                        probability=answer.probability,
                        decision=answer.decision,
                        model=f"{answer.model.name}/{answer.model.version}",
                        model_sha256=answer.model.digest,
                    )
                    if isinstance(answer, PredictionPublic)
                    else Found(answer.error.detail)
                    for answer in await client.predict(contents, model=model, top_k=1)
                ]

        yield Remote()


async def _rows(paths: Iterable[Path], classifier: Classifier) -> AsyncIterator[list[Row]]:
    """Of a few files at a time, in the order of `paths`."""
    running: deque[asyncio.Task[list[Row]]] = deque()
    batches = _batches(paths)
    try:
        while True:
            while len(running) < NUM_BATCHES_IN_FLIGHT and (batch := next(batches, None)):
                running.append(asyncio.create_task(_classify(batch, classifier)))
            if not running:
                return
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _batches(paths: Iterable[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    num_bytes = 0
    for path in paths:
        try:
            size = path.lstat().st_size
        except OSError:  # reading it will say so
            size = 0
        if batch and (len(batch) == MAX_BATCH_IMAGES or num_bytes + size > MAX_BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(path)
        num_bytes += size
    if batch:
        yield batch


async def _classify(paths: list[Path], classifier: Classifier) -> list[Row]:
    read = await asyncio.to_thread(lambda: [_read(path) for path in paths])
    contents = [content for content, _ in read if content is not None]
    found = iter(await classifier.classify(contents) if contents else [])
    return [row if content is None else _filled(row, next(found)) for content, row in read]


def _read(path: Path) -> tuple[bytes | None, Row]:
    """The content of a file and its row without an answer; no content where the file itself is at fault."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > MAX_FILE_BYTES:
                return None, Row(str(path), reason=f"The file has {status.st_size:,} bytes, too many for a picture.")
            content = file.read()
    except OSError as error:
        return None, Row(str(path), reason=f"The file cannot be read: {error.strerror or error}.")
    row = Row(
        str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )
    return content, row


def _filled(row: Row, found: Found) -> Row:
    probability = None if found.probability is None else round(found.probability, 4)
    return replace(
        row,
        label=found.label,
        group=found.group,
        probability=probability,
        decision=found.decision,
        reason=found.reason,
        model=found.model,
        model_sha256=found.model_sha256,
    )
