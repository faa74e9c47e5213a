"""The scheduler: what waits goes together, orders take turns, an error stays with its picture, nothing is lost."""

import threading
import time
import weakref
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from app.artifact import Artifact, Scores
from app.errors import EmptyImageError, UnsupportedImageFormatError
from app.images import DecodedImage
from app.inference.scheduler import Classified, Failed, Order, Scheduler, ServedModel
from app.metrics import Metrics
from tests.odd_files import save

TIMEOUT_SECONDS = 10
BLACK, UNPREPARED = 0, 13


class Reader:
    """A "model" that reads a picture's grey level, refuses two of them, notes its batches, and can be held."""

    def __init__(self) -> None:
        self.card = SimpleNamespace(name="reader")
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.opened = threading.Event()

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        if pixels[0, 0, 0] == UNPREPARED:
            raise RuntimeError("cannot be prepared")
        return pixels[0, 0, :1].astype(np.float32)

    def scores(self, batch: np.ndarray) -> list[Scores]:
        self.batches.append(batch[:, 0].astype(int).tolist())
        self.started.set()
        assert self.opened.wait(TIMEOUT_SECONDS)
        if batch.min() == BLACK:
            raise ValueError("black")
        return [Scores(row, None) for row in batch]


class Answer:
    """An order and the wait for it."""

    def __init__(self, contents: list[bytes], choose: Callable[[DecodedImage], ServedModel]) -> None:
        self.complete = threading.Event()
        self.order = Order(contents, choose, self.complete.set)

    @property
    def levels(self) -> list[int | type[Exception]]:
        """Grey levels found, or the kinds of error, once all are there."""
        assert self.complete.wait(TIMEOUT_SECONDS)
        found = [self.order.outcomes[index] for index in range(len(self.order.contents))]
        return [type(it.error) if isinstance(it, Failed) else int(it.scores.probabilities[0]) for it in found]


def grey(level: int) -> bytes:
    return save(Image.new("L", (2, 2), level), "PNG")


def served(reader: Reader, *, batch_size: int = 4) -> ServedModel:
    return ServedModel(cast("Artifact", reader), batch_size)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def scheduler(reader: Reader, metrics: Metrics) -> Generator[Scheduler, None, None]:
    """One worker, so that the order of things is known."""
    scheduler = Scheduler(metrics, num_workers=1, max_image_pixels=1_000)
    yield scheduler
    reader.opened.set()
    scheduler.close()


@pytest.fixture
def submit(scheduler: Scheduler, reader: Reader) -> Callable[..., Answer]:
    """Submit pictures of these grey levels, or files, as one order."""
    model = served(reader)

    def submit(*pictures: int | bytes, to: ServedModel = model) -> Answer:
        answer = Answer([grey(it) if isinstance(it, int) else it for it in pictures], lambda image: to)
        scheduler.submit(answer.order)
        return answer

    return submit


@pytest.fixture
def held(submit: Callable[..., Answer], reader: Reader) -> Answer:
    """The worker is busy with a picture of level 1 until the reader is opened."""
    answer = submit(1)
    assert reader.started.wait(TIMEOUT_SECONDS)
    return answer


def test_what_waits_goes_together_up_to_the_limit(submit: Callable[..., Answer], reader: Reader, held: Answer) -> None:
    others = [submit(level) for level in range(20, 29)]
    reader.opened.set()

    assert [answer.levels for answer in others] == [[level] for level in range(20, 29)]
    assert held.levels == [1]
    assert reader.batches == [[1], [20, 21, 22, 23], [24, 25, 26, 27], [28]]


def test_a_single_picture_does_not_wait_for_others(submit: Callable[..., Answer], reader: Reader) -> None:
    reader.opened.set()

    assert submit(3).levels == [3]
    assert reader.batches == [[3]]


@pytest.mark.usefixtures("held")
def test_orders_take_turns(submit: Callable[..., Answer], reader: Reader) -> None:
    """One picture that comes after eight of another client is answered with the first of them."""
    many, one = submit(*range(20, 28)), submit(30)
    reader.opened.set()

    assert one.levels == [30]
    assert many.levels == list(range(20, 28))
    assert 30 in reader.batches[1]


@pytest.mark.usefixtures("held")
def test_an_error_stays_with_its_picture(submit: Callable[..., Answer], reader: Reader) -> None:
    """Unreadable, impossible to prepare, refused by the network: the others of order and batch are answered."""
    mixed, other = submit(20, b"", b"no picture", UNPREPARED, BLACK, 21), submit(22)
    reader.opened.set()

    assert mixed.levels == [20, EmptyImageError, UnsupportedImageFormatError, RuntimeError, ValueError, 21]
    assert other.levels == [22]
    failed = [it.model_name for it in mixed.order.outcomes.values() if isinstance(it, Failed)]
    assert sorted(failed) == ["", "", "reader", "reader"]  # no model is chosen for what cannot be read
    assert submit(23).levels == [23]  # it goes on


@pytest.mark.usefixtures("held")
def test_what_was_not_begun_of_a_dropped_order_is_not_looked_at(
    scheduler: Scheduler, submit: Callable[..., Answer], reader: Reader
) -> None:
    dropped, kept = submit(20, 21), submit(22)
    scheduler.drop(dropped.order)
    reader.opened.set()

    assert kept.levels == [22]
    assert reader.batches == [[1], [22]]


@pytest.mark.usefixtures("held")
def test_a_dropped_order_leaves_no_file_in_memory(scheduler: Scheduler, reader: Reader) -> None:
    """Also while every worker is busy: who sends and leaves again and again must not fill it."""
    content = np.zeros((1, 2, 2), np.float32)
    left = weakref.ref(content)
    order = Order([content], lambda image: served(reader), lambda: None)
    scheduler.submit(order)

    scheduler.drop(order)
    del content, order

    assert left() is None


@pytest.mark.parametrize("closing", [False, True])
def test_dropped_orders_hold_up_nothing(metrics: Metrics, closing: bool) -> None:
    """A client leaves while the only picture of another is prepared: that one is run, not kept for the next order."""

    class Slow(Reader):
        def preprocess(self, pixels: np.ndarray) -> np.ndarray:
            self.started.set()
            assert self.opened.wait(TIMEOUT_SECONDS)
            return super().preprocess(pixels)

    slow = Slow()
    model = served(slow)
    scheduler = Scheduler(metrics, num_workers=1, max_image_pixels=1_000)
    kept, dropped = (Answer([grey(level)], lambda image: model) for level in (20, 21))
    scheduler.submit(kept.order)
    assert slow.started.wait(TIMEOUT_SECONDS)
    scheduler.submit(dropped.order)
    scheduler.drop(dropped.order)

    closer = threading.Thread(target=scheduler.close)
    if closing:
        closer.start()
    slow.opened.set()

    assert kept.levels == [20]
    assert slow.batches == [[20]]
    if not closing:
        closer.start()
    closer.join()


def test_no_picture_waits_for_a_stream_of_others(scheduler: Scheduler) -> None:
    """A batch of four that gets one picture runs after three more were prepared for another model, not after all."""
    rare, common = Reader(), Reader()
    common.opened.set()
    rare_model, common_model = served(rare), served(common, batch_size=1)

    answer = Answer(
        [grey(level) for level in (1, *range(20, 40))],
        lambda image: rare_model if image.pixels[0, 0, 0] == 1 else common_model,
    )
    scheduler.submit(answer.order)
    assert rare.started.wait(TIMEOUT_SECONDS)  # and holds the only worker
    assert common.batches == [[20], [21]]  # the third one is prepared
    rare.opened.set()

    assert answer.levels == [1, *range(20, 40)]


def test_close_finishes_what_was_submitted(reader: Reader, metrics: Metrics) -> None:
    scheduler = Scheduler(metrics, num_workers=3, max_image_pixels=1_000)
    model = served(reader)
    answers = [Answer([grey(level), grey(level + 1)], lambda image: model) for level in range(20, 90, 2)]
    for answer in answers:
        scheduler.submit(answer.order)

    reader.opened.set()
    scheduler.close()

    assert all(answer.complete.is_set() for answer in answers)
    assert [answer.levels for answer in answers] == [[level, level + 1] for level in range(20, 90, 2)]


def test_several_workers_run_at_once(metrics: Metrics) -> None:
    """Two pictures of two clients are in the network at the same time."""
    both = threading.Barrier(2)

    class Meeting(Reader):
        def scores(self, batch: np.ndarray) -> list[Scores]:
            both.wait(TIMEOUT_SECONDS)
            return [Scores(row, None) for row in batch]

    model = served(Meeting(), batch_size=1)
    scheduler = Scheduler(metrics, num_workers=2, max_image_pixels=1_000)
    answer = Answer([grey(20), grey(21)], lambda image: model)
    scheduler.submit(answer.order)

    assert answer.levels == [20, 21]
    scheduler.close()


@pytest.mark.parametrize("level", [20, BLACK, UNPREPARED], ids=["answered", "refused by the network", "not prepared"])
def test_the_service_rate_is_measured(scheduler: Scheduler, level: int) -> None:
    """Pictures that each take at least 50 ms of the one worker, whatever becomes of them.

    The mean moves there from its first guess of 10 ms.
    """

    class Slow(Reader):
        def preprocess(self, pixels: np.ndarray) -> np.ndarray:
            time.sleep(0.05)
            return super().preprocess(pixels)

    slow = Slow()
    slow.opened.set()
    model = served(slow)
    answer = Answer([grey(level)] * 6, lambda image: model)
    scheduler.submit(answer.order)

    assert len(answer.levels) == 6
    assert scheduler.seconds_per_image > 0.025


def test_stages_and_batches_are_measured(submit: Callable[..., Answer], reader: Reader, metrics: Metrics) -> None:
    reader.opened.set()

    answer = submit(20)

    assert answer.levels == [20]
    outcome = answer.order.outcomes[0]
    assert isinstance(outcome, Classified)
    assert set(outcome.seconds) == {"wait", "decode", "preprocess", "queue", "infer"}
    assert all(seconds >= 0 for seconds in outcome.seconds.values())
    assert metrics.registry.get_sample_value("wardrobe_batch_size_count", {"model": "reader"}) == 1
    for stage in outcome.seconds:
        labels = {"stage": stage, "model": "reader"}
        assert metrics.registry.get_sample_value("wardrobe_stage_seconds_count", labels) == 1
