"""One image's way: bytes -> decode -> preprocess -> batch -> probabilities -> prediction."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from app.artifact import Artifact, ClassInfo
from app.errors import BusyError, ImageError, WardrobeError
from app.images import DecodedImage, decode
from app.inference.batcher import Batcher
from app.metrics import Metrics

logger = logging.getLogger(__name__)

NO_PIXELS = np.empty((0, 0, 3), np.uint8)


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

    image: DecodedImage
    candidates: Sequence[Candidate]


class Predictor:
    """Answers many images at a time with one model, within a bounded queue."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        workers: ThreadPoolExecutor,
        metrics: Metrics,
        max_batch_size: int,
        max_queue_images: int,
        max_image_pixels: int,
        timeout_seconds: float,
    ) -> None:
        self.artifact = artifact
        self._workers = workers
        self._metrics = metrics
        self._max_queue_images = max_queue_images
        self._max_image_pixels = max_image_pixels
        self._timeout_seconds = timeout_seconds
        self._num_pending = 0  # touched on the event loop only
        self._seconds_per_image = 0.01  # moving average; the first value is a guess
        self._batcher = Batcher(artifact.probabilities, max_batch_size=max_batch_size, metrics=metrics)

    async def predict(self, contents: Sequence[bytes], *, top_k: int) -> list[Prediction | WardrobeError]:
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
                outcomes = await asyncio.gather(*(self._predict_one(content, top_k) for content in contents))
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
        self._batcher.close()

    def _seconds_to_drain(self) -> int:
        return max(1, math.ceil(self._num_pending * self._seconds_per_image))

    async def _predict_one(self, content: bytes, top_k: int) -> Prediction | WardrobeError:
        name = self.artifact.card.name
        submitted = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            image, row = await loop.run_in_executor(self._workers, self._prepare, content, submitted)
            probabilities = await asyncio.wrap_future(row)
        except ImageError as error:
            self._metrics.images.labels(name, "", "refused").inc()
            return error
        except Exception as error:
            logger.exception("inference failed")
            self._metrics.images.labels(name, "", "failed").inc()
            failure = InferenceError("The model failed on this image. The failure was logged.")
            failure.__cause__ = error
            return failure
        best = probabilities.topk(min(top_k, len(probabilities)))
        classes = self.artifact.card.classes
        candidates = [
            Candidate(classes[index], probability)
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        self._metrics.images.labels(name, candidates[0].info.label, "sorted").inc()
        return Prediction(image, candidates)

    def _prepare(self, content: bytes, submitted: float) -> tuple[DecodedImage, "Future[Tensor]"]:
        """On a worker thread: decode, preprocess and hand to the batcher, without another hop."""
        stage_seconds = self._metrics.stage_seconds
        started = time.perf_counter()
        image = decode(content, max_pixels=self._max_image_pixels)
        decoded = time.perf_counter()
        tensor = self.artifact.preprocess(image.pixels)
        preprocessed = time.perf_counter()
        stage_seconds.labels("wait").observe(started - submitted)
        stage_seconds.labels("decode").observe(decoded - started)
        stage_seconds.labels("preprocess").observe(preprocessed - decoded)
        # The pixels have done their work: a request of 128 images would keep gigabytes until its last one is done.
        return replace(image, pixels=NO_PIXELS), self._batcher.submit(tensor)
