"""One image's way: bytes -> decode -> choose model -> preprocess -> batch -> scores -> decision."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from app.artifact import Artifact, ClassInfo, Scores
from app.errors import BusyError, ImageError, WardrobeError
from app.images import DecodedImage, decode
from app.inference.batcher import Batcher
from app.inference.decision import Verdict, decide, ranking
from app.metrics import Metrics
from app.settings import Settings

logger = logging.getLogger(__name__)

NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model and the thread that runs its network."""

    artifact: Artifact
    batcher: Batcher[Scores]


ModelChooser = Callable[[DecodedImage], ServedModel]


class InferenceError(WardrobeError):
    """Our own fault: the network raised on an image that was decoded well."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A class and its calibrated probability."""

    info: ClassInfo
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """One classified image, without its pixels; `candidates` are sorted, most probable first."""

    artifact: Artifact
    image: DecodedImage
    candidates: Sequence[Candidate]
    verdict: Verdict
    garment_score: float | None


@dataclass(frozen=True, slots=True)
class _Submitted:
    """An image that waits for its network."""

    artifact: Artifact
    image: DecodedImage
    scores: "Future[Scores]"


class Predictor:
    """Answers many images at a time with the models chosen for them, within one bounded queue."""

    def __init__(self, settings: Settings, metrics: Metrics, *, num_threads: int) -> None:
        """`num_threads` decode and preprocess."""
        self._max_queue_images = settings.max_queue_images
        self._max_image_pixels = settings.max_image_pixels
        self._timeout_seconds = settings.predict_timeout_seconds
        self._metrics = metrics
        self._workers = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._num_pending = 0  # touched on the event loop only
        self._seconds_per_image = 0.01  # moving average; the first value is a guess

    async def predict(
        self, contents: Sequence[bytes], *, choose: ModelChooser, top_k: int
    ) -> list[Prediction | WardrobeError]:
        """Classify image files, in order. What is wrong with one image stands in its place.

        Raises:
            BusyError: the queue has no room for all of them, or they were not done in time.
        """
        if self._num_pending + len(contents) > self._max_queue_images:
            raise BusyError(
                f"{self._num_pending} images are waiting and at most {self._max_queue_images} may.",
                self._seconds_to_drain(),
            )
        self._num_pending += len(contents)
        self._metrics.queue_images.inc(len(contents))
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                outcomes = await asyncio.gather(*(self._predict_one(content, choose, top_k) for content in contents))
        except TimeoutError as error:
            raise BusyError(
                f"The answer was not ready within {self._timeout_seconds:g} s.", self._seconds_to_drain()
            ) from error
        finally:
            self._num_pending -= len(contents)
            self._metrics.queue_images.dec(len(contents))
        self._seconds_per_image += 0.1 * (
            (time.perf_counter() - started) / max(1, len(contents)) - self._seconds_per_image
        )
        return outcomes

    def close(self) -> None:
        """Hand what was accepted to the models, then end the threads."""
        self._workers.shutdown()

    def _seconds_to_drain(self) -> int:
        return max(1, math.ceil(self._num_pending * self._seconds_per_image))

    async def _predict_one(self, content: bytes, choose: ModelChooser, top_k: int) -> Prediction | WardrobeError:
        model_name = ""  # until one is chosen
        started = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            submitted = await loop.run_in_executor(self._workers, self._submit, content, choose, started)
            model_name = submitted.artifact.card.name
            scores = await asyncio.wrap_future(submitted.scores)
        except ImageError as error:
            self._metrics.images.labels(model_name, "", "refused").inc()
            return error
        except Exception as error:
            logger.exception("inference failed")
            self._metrics.images.labels(model_name, "", "failed").inc()
            failure = InferenceError("The model failed on this image. The failure was logged.")
            failure.__cause__ = error
            return failure
        card = submitted.artifact.card
        candidates = [
            Candidate(card.classes[index], scores.probabilities[index].item())
            for index in ranking(scores.probabilities)[:top_k]
        ]
        verdict = decide(scores, card)
        self._metrics.images.labels(model_name, candidates[0].info.label, verdict.decision).inc()
        return Prediction(submitted.artifact, submitted.image, candidates, verdict, scores.garment)

    def _submit(self, content: bytes, choose: ModelChooser, submitted: float) -> _Submitted:
        """On a worker thread: decode, choose the model, preprocess and hand to its batcher, without another hop."""
        stage_seconds = self._metrics.stage_seconds
        started = time.perf_counter()
        image = decode(content, max_pixels=self._max_image_pixels)
        model = choose(image)
        decoded = time.perf_counter()
        tensor = model.artifact.preprocess(image.pixels)
        preprocessed = time.perf_counter()
        stage_seconds.labels("wait").observe(started - submitted)
        stage_seconds.labels("decode").observe(decoded - started)
        stage_seconds.labels("preprocess").observe(preprocessed - decoded)
        # The pixels have done their work: a request of 128 images would keep gigabytes until its last one is done.
        return _Submitted(model.artifact, replace(image, pixels=NO_PIXELS), model.batcher.submit(tensor))
