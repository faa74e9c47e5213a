"""A few threads that decode pictures and run networks; which of the two comes next is decided here."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from app.artifact import Artifact, Scores
from app.decoder import BudgetedDecoder
from app.images import DecodedImage
from app.metrics import Metrics

NO_PIXELS = np.empty((0, 0, 3), np.uint8)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A loaded model, and how many pictures at a time it is fastest with."""

    artifact: Artifact
    batch_size: int


ModelChooser = Callable[[DecodedImage], ServedModel]
# The bytes of an image file, or what `Artifact.preprocess` would make of it: float32 (C, S, S).
Content = bytes | np.ndarray


@dataclass(frozen=True, slots=True)
class Classified:
    """What the network said about a picture, without its pixels, and how long each stage took in seconds.

    The stages follow each other from `submitted` on, a time of time.perf_counter().
    """

    artifact: Artifact
    image: DecodedImage
    scores: Scores
    submitted: float
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer; `model_name` is empty until a model was chosen."""

    error: Exception
    model_name: str = ""


@dataclass(slots=True, eq=False)
class Order:
    """The pictures of one request.

    `outcomes` fill up in any order; a worker calls `done` once, when the last one is there. What is wrong with one
    picture stands in its place. Images of a `dropped` order that were not begun are never looked at.
    """

    contents: Sequence[Content]
    choose: ModelChooser
    done: Callable[[], None]
    dropped: bool = False
    outcomes: dict[int, Classified | Failed] = field(default_factory=dict)
    num_taken: int = 0
    submitted: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A picture that waits for its network. `number` counts all pictures ever prepared."""

    order: Order
    index: int
    number: int
    model: ServedModel
    image: DecodedImage
    tensor: np.ndarray
    since: float
    seconds: dict[str, float]


class Scheduler:
    """Each worker takes the next thing to do, on one core, with no hop to another thread in between.

    Orders take turns picture by picture, so that one of a hundred does not hold up the one after it. A network runs on
    what was prepared as soon as nothing waits to be decoded or its batch is full: it never waits for more to come.
    """

    def __init__(self, metrics: Metrics, *, num_workers: int, max_image_pixels: int) -> None:
        self._metrics = metrics
        self._max_image_pixels = max_image_pixels
        self.decoder = BudgetedDecoder()
        self._condition = threading.Condition()
        self._orders: deque[Order] = deque()  # with pictures that nobody has taken
        self._prepared: dict[ServedModel, deque[_Prepared]] = {}
        self._num_prepared = 0
        self._closing = False
        self.seconds_per_image = 0.01  # of all workers together, moving average; the first value is a guess
        self._workers = [
            threading.Thread(target=self._work, name=f"worker-{index}", daemon=True) for index in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, order: Order) -> None:
        """Queue the pictures of an order, of which there must be one at least."""
        with self._condition:
            self._orders.append(order)
            self._condition.notify(len(order.contents))

    def drop(self, order: Order) -> None:
        """Nobody waits for this order any more: let go of it at once, however long the workers are busy.

        Only what was begun of it is finished. Its files are counted nowhere from now on: clients that leave one after
        the other could fill the memory with them.
        """
        with self._condition:
            order.dropped = True
            if order in self._orders:  # else all of its pictures were taken
                self._orders.remove(order)

    def close(self) -> None:
        """Do what was submitted, then end the threads."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for worker in self._workers:
            worker.join()
        self.decoder.close()

    def _work(self) -> None:
        while True:
            with self._condition:
                while (task := self._next_task()) is None:
                    if self._closing:  # what others prepare they run themselves
                        return
                    self._condition.wait()
            try:
                task()
            except Exception:  # a bug of ours: the worker must live on
                logger.exception("a worker failed")

    def _next_task(self) -> Callable[[], None] | None:
        for model, prepared in self._prepared.items():
            # Counted over all models: no picture waits while a stream of others for another one is decoded.
            if not self._orders or self._num_prepared - prepared[0].number + 1 >= model.batch_size:
                batch = [prepared.popleft() for _ in range(min(model.batch_size, len(prepared)))]
                if not prepared:
                    del self._prepared[model]  # another version may have taken its place: nothing holds it then
                return partial(self._run, model, batch)
        if not self._orders:
            return None
        order = self._orders.popleft()
        index = order.num_taken
        order.num_taken += 1
        if order.num_taken < len(order.contents):
            self._orders.append(order)
        return partial(self._prepare, order, index)

    def _prepare(self, order: Order, index: int) -> None:
        started = time.perf_counter()
        model = None
        try:
            content = order.contents[index]
            if isinstance(content, np.ndarray):
                image = DecodedImage(NO_PIXELS, "tensor", content.shape[2], content.shape[1], ())
            else:
                image = self.decoder.decode(content, max_pixels=self._max_image_pixels)
            model = order.choose(image)
            decoded = time.perf_counter()
            tensor = content if isinstance(content, np.ndarray) else model.artifact.preprocess(image.pixels)
        except Exception as error:
            failed = Failed(error, model.artifact.card.name if model else "")
            self._finish(order, index, failed, busy_seconds=time.perf_counter() - started)
            return
        preprocessed = time.perf_counter()
        seconds = {
            "wait": started - order.submitted,
            "decode": decoded - started,
            "preprocess": preprocessed - decoded,
        }
        # The pixels have done their work: a request of 128 images would keep gigabytes until its last one is done.
        image = replace(image, pixels=NO_PIXELS)
        with self._condition:
            self._num_prepared += 1
            waiting = self._prepared.setdefault(model, deque())
            waiting.append(_Prepared(order, index, self._num_prepared, model, image, tensor, preprocessed, seconds))

    def _run(self, model: ServedModel, batch: Sequence[_Prepared]) -> None:
        batch = [it for it in batch if not it.order.dropped]
        if not batch:
            return
        started = time.perf_counter()
        try:
            scores = model.artifact.scores(np.stack([it.tensor for it in batch]))
        except Exception as error:
            if len(batch) == 1:
                (it,) = batch
                busy = it.seconds["decode"] + it.seconds["preprocess"] + time.perf_counter() - started
                self._finish(it.order, it.index, Failed(error, model.artifact.card.name), busy_seconds=busy)
                return
            for it in batch:  # one picture broke the batch: let each fail or pass alone
                self._run(model, [it])
            return
        infer = time.perf_counter() - started
        name = model.artifact.card.name
        self._metrics.batch_size.labels(name).observe(len(batch))
        for it, found in zip(batch, scores, strict=True):
            seconds = {**it.seconds, "queue": started - it.since, "infer": infer}
            busy = seconds["decode"] + seconds["preprocess"] + infer / len(batch)
            for stage, value in seconds.items():
                self._metrics.stage_seconds.labels(stage, name).observe(value)
            classified = Classified(model.artifact, it.image, found, it.order.submitted, seconds)
            self._finish(it.order, it.index, classified, busy_seconds=busy)

    def _finish(self, order: Order, index: int, outcome: Classified | Failed, *, busy_seconds: float) -> None:
        with self._condition:
            self.seconds_per_image += 0.1 * (busy_seconds / len(self._workers) - self.seconds_per_image)
            order.outcomes[index] = outcome
            complete = len(order.outcomes) == len(order.contents)
        if complete:
            order.done()
