"""Many pictures at a time, within one bounded queue: bytes -> scheduler -> scores -> decisions."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np

from app.artifact import Artifact, ClassInfo
from app.errors import BusyError, ImageError, WardrobeError
from app.images import DecodedImage
from app.inference.decision import Verdict, decide, ranking
from app.inference.explanation import Explained, explain
from app.inference.scheduler import Classified, Content, Failed, ModelChooser, Order, Scheduler
from app.metrics import Metrics
from app.settings import Settings

MAX_EXPLANATIONS_AT_ONCE = 2  # a picture of 50 million pixels takes 200 MB while it is decoded

logger = logging.getLogger(__name__)


class InferenceError(WardrobeError):
    """Our own fault: the network raised on an image that was decoded well."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A class and its calibrated probability."""

    info: ClassInfo
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """One classified image, without its pixels; `candidates` are sorted, most probable first.

    `embedding` float32 (D,) is None where the model gives none. `seconds` has the duration of each stage, one after the
    other from `submitted` on; where it was asked for, `explained` says what the model made of the picture, or why that
    cannot be said.
    """

    artifact: Artifact
    image: DecodedImage
    candidates: Sequence[Candidate]
    verdict: Verdict
    garment_score: float | None
    embedding: np.ndarray | None
    submitted: float
    seconds: Mapping[str, float]
    explained: Explained | WardrobeError | None = None


class Predictor:
    """Answers many images at a time with the models chosen for them."""

    def __init__(self, settings: Settings, metrics: Metrics, scheduler: Scheduler) -> None:
        self._max_queue_images = settings.max_queue_images
        self._max_image_pixels = settings.max_image_pixels
        self._timeout_seconds = settings.predict_timeout_seconds
        self._metrics = metrics
        self._scheduler = scheduler
        self._pending: set[Order] = set()  # touched on the event loop only
        self._idle = asyncio.Event()  # nothing is pending
        self._idle.set()
        self._explaining = ThreadPoolExecutor(MAX_EXPLANATIONS_AT_ONCE, thread_name_prefix="explain")
        self._can_explain = asyncio.Semaphore(MAX_EXPLANATIONS_AT_ONCE)

    async def predict(
        self,
        contents: Sequence[Content],
        *,
        choose: ModelChooser,
        top_k: int,
        explained: bool = False,
        explain_label: str | None = None,
    ) -> list[Prediction | WardrobeError]:
        """Classify image files, or what is prepared of them, in order. What is wrong with one stands in its place.

        `explained` adds what the model made of each, looking for `explain_label`, by default its label; until the last
        is done the images keep their place in the queue. Cancelled, it leaves undone what was not begun.

        Raises:
            BusyError: the queue has no room for all of them, they were not done in time, or one could not be begun.
        """
        async with self._classified(contents, choose) as outcomes:
            answers = [self._answer(outcome, top_k) for outcome in outcomes]
            if explained:
                for index, (answer, content) in enumerate(zip(answers, contents, strict=True)):
                    if isinstance(answer, Prediction) and isinstance(content, bytes):
                        label = explain_label or answer.candidates[0].info.label
                        answers[index] = replace(answer, explained=await self._explained(content, choose, label))
        return answers

    async def embed(self, content: bytes, *, choose: ModelChooser) -> tuple[Artifact, np.ndarray | None]:
        """The model chosen and its embedding float32 (D,) of a picture, None where it gives none; counted nowhere.

        Raises:
            ImageError: the picture cannot be decoded.
            InferenceError: the model failed on it.
            BusyError: as `predict`.
        """
        async with self._classified([content], choose) as (outcome,):
            if isinstance(outcome, Classified):
                return outcome.artifact, outcome.scores.embedding
            if isinstance(outcome.error, ImageError):
                raise outcome.error
            raise _inference_error(outcome.error)

    async def wait_until_idle(self) -> None:
        """Until nobody waits for an answer."""
        await self._idle.wait()

    @asynccontextmanager
    async def _classified(
        self, contents: Sequence[Content], choose: ModelChooser
    ) -> AsyncGenerator[list[Classified | Failed], None]:
        """What the networks say; until the block is left, within the time limit, the images keep their place.

        Raises:
            BusyError: as `predict`.
        """
        self.require_room(len(contents))
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(done.set)

        order = Order(contents, choose, tell)
        self._pending.add(order)
        self._idle.clear()
        self._metrics.queue_images.inc(len(contents))
        self._scheduler.submit(order)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await done.wait()
                for outcome in order.outcomes.values():
                    if isinstance(outcome, Failed) and isinstance(outcome.error, BusyError):
                        raise outcome.error
                yield [order.outcomes[index] for index in range(len(contents))]
        except TimeoutError as error:
            raise self._too_slow() from error
        finally:
            self._scheduler.drop(order)
            self._pending.remove(order)
            if not self._pending:
                self._idle.set()
            self._metrics.queue_images.dec(len(contents))

    async def explain(self, read: Callable[[], bytes], *, choose: ModelChooser, label: str | None) -> Explained:
        """As app.inference.explanation.explain(), in the time that a prediction may take.

        `read` gives the file, in a thread and not before it is this picture's turn: who waits holds none in memory.

        Raises:
            BusyError: it was not ready in time.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._explain(read, choose, label)
        except TimeoutError as error:
            raise self._too_slow() from error

    async def _explain(self, read: Callable[[], bytes], choose: ModelChooser, label: str | None) -> Explained:
        def explained() -> Explained:
            return explain(
                read(),
                decoder=self._scheduler.decoder,
                choose=choose,
                label=label,
                max_pixels=self._max_image_pixels,
            )

        # Waiting is done here: what is cancelled in the executor's own queue would stay there, with its file.
        await self._can_explain.acquire()
        explaining = asyncio.get_running_loop().run_in_executor(self._explaining, explained)
        explaining.add_done_callback(lambda _: self._can_explain.release())
        return await asyncio.shield(explaining)  # a thread that has begun goes on, and keeps its place until it ends

    async def _explained(self, content: bytes, choose: ModelChooser, label: str) -> Explained | WardrobeError:
        """Or why not: the prediction stands without it."""
        try:
            return await self._explain(lambda: content, choose, label)
        except WardrobeError as error:
            return error
        except Exception as error:  # whatever a network raises
            return _inference_error(error)

    def require_room(self, num_images: int = 1) -> None:
        """Do nothing if the queue can take so many images now.

        Raises:
            BusyError: it cannot.
        """
        num_pending = sum(len(order.contents) for order in self._pending)
        if num_pending + num_images > self._max_queue_images:
            raise BusyError(
                f"{num_pending} images are waiting and at most {self._max_queue_images} may.", self._seconds_to_drain()
            )

    def _too_slow(self) -> BusyError:
        return BusyError(f"The answer was not ready within {self._timeout_seconds:g} s.", self._seconds_to_drain())

    def _seconds_to_drain(self) -> int:
        num_left = sum(len(order.contents) - len(order.outcomes) for order in self._pending)
        return max(1, math.ceil(num_left * self._scheduler.seconds_per_image))

    def _answer(self, outcome: Classified | Failed, top_k: int) -> Prediction | WardrobeError:
        if isinstance(outcome, Failed) and isinstance(outcome.error, ImageError):
            self._metrics.images.labels("", "", "refused").inc()
            return outcome.error
        if isinstance(outcome, Failed):
            self._metrics.images.labels(outcome.model_name, "", "failed").inc()
            return _inference_error(outcome.error)
        card, scores = outcome.artifact.card, outcome.scores
        candidates = [
            Candidate(card.classes[index], float(scores.probabilities[index]))
            for index in ranking(scores.probabilities)[:top_k]
        ]
        verdict = decide(scores, card)
        self._metrics.images.labels(card.name, candidates[0].info.label, verdict.decision).inc()
        return Prediction(
            outcome.artifact,
            outcome.image,
            candidates,
            verdict,
            scores.garment,
            scores.embedding,
            outcome.submitted,
            outcome.seconds,
        )


def _inference_error(cause: Exception) -> InferenceError:
    logger.error("inference failed", exc_info=cause)
    failure = InferenceError("The model failed on this image. The failure was logged.")
    failure.__cause__ = cause
    return failure
