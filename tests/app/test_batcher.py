"""The batcher: what waits goes together, an error stays with its image, nothing submitted is lost."""

import threading
from collections.abc import Generator

import pytest
import torch
from torch import Tensor

from app.inference.batcher import Batcher
from app.metrics import Metrics

TIMEOUT_SECONDS = 10


class Doubler:
    """A "network" that doubles, refuses negative numbers, notes its batch sizes, and can be held."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self.started = threading.Event()
        self.opened = threading.Event()

    def __call__(self, batch: Tensor) -> Tensor:
        self.batch_sizes.append(len(batch))
        self.started.set()
        assert self.opened.wait(TIMEOUT_SECONDS)
        if batch.min() < 0:
            raise ValueError("negative")
        return batch * 2


@pytest.fixture
def network() -> Doubler:
    return Doubler()


@pytest.fixture
def batcher(network: Doubler) -> Generator[Batcher, None, None]:
    batcher = Batcher(network, max_batch_size=4, metrics=Metrics())
    yield batcher
    network.opened.set()
    batcher.close()


def test_what_waits_goes_together_up_to_the_limit(network: Doubler, batcher: Batcher) -> None:
    first = batcher.submit(torch.tensor([0.0]))
    assert network.started.wait(TIMEOUT_SECONDS)  # and holds: the next nine have to wait

    others = [batcher.submit(torch.tensor([float(value)])) for value in range(1, 10)]
    network.opened.set()

    results = [future.result(TIMEOUT_SECONDS).item() for future in [first, *others]]
    assert results == [2.0 * value for value in range(10)]
    assert network.batch_sizes == [1, 4, 4, 1]


def test_a_single_image_does_not_wait_for_others(network: Doubler, batcher: Batcher) -> None:
    network.opened.set()

    assert batcher.submit(torch.tensor([3.0])).result(TIMEOUT_SECONDS).item() == 6
    assert network.batch_sizes == [1]


def test_an_error_stays_with_its_image(network: Doubler, batcher: Batcher) -> None:
    batcher.submit(torch.tensor([0.0]))
    assert network.started.wait(TIMEOUT_SECONDS)
    good, bad, other = (batcher.submit(torch.tensor([value])) for value in (1.0, -1.0, 2.0))
    network.opened.set()

    assert good.result(TIMEOUT_SECONDS).item() == 2
    assert other.result(TIMEOUT_SECONDS).item() == 4
    with pytest.raises(ValueError, match="negative"):
        bad.result(TIMEOUT_SECONDS)
    assert batcher.submit(torch.tensor([5.0])).result(TIMEOUT_SECONDS).item() == 10  # it goes on


def test_images_of_different_shapes_do_not_fail_each_other(network: Doubler, batcher: Batcher) -> None:
    batcher.submit(torch.tensor([0.0]))
    assert network.started.wait(TIMEOUT_SECONDS)
    one, two = batcher.submit(torch.tensor([1.0])), batcher.submit(torch.tensor([1.0, 2.0]))
    network.opened.set()

    assert one.result(TIMEOUT_SECONDS).tolist() == [2]
    assert two.result(TIMEOUT_SECONDS).tolist() == [2, 4]


def test_a_cancelled_image_is_not_run(network: Doubler, batcher: Batcher) -> None:
    batcher.submit(torch.tensor([0.0]))
    assert network.started.wait(TIMEOUT_SECONDS)
    cancelled, kept = batcher.submit(torch.tensor([1.0])), batcher.submit(torch.tensor([2.0]))

    assert cancelled.cancel()
    network.opened.set()

    assert kept.result(TIMEOUT_SECONDS).item() == 4
    assert network.batch_sizes == [1, 1]


def test_close_finishes_what_was_submitted(network: Doubler) -> None:
    batcher = Batcher(network, max_batch_size=4, metrics=Metrics())
    futures = [batcher.submit(torch.tensor([float(value)])) for value in range(50)]

    network.opened.set()
    batcher.close()

    assert all(future.done() for future in futures)
    assert [future.result().item() for future in futures] == [2.0 * value for value in range(50)]


def test_batch_sizes_are_measured(network: Doubler) -> None:
    metrics = Metrics()
    batcher = Batcher(network, max_batch_size=4, metrics=metrics)
    network.opened.set()

    batcher.submit(torch.tensor([1.0])).result(TIMEOUT_SECONDS)
    batcher.close()

    assert metrics.registry.get_sample_value("wardrobe_batch_size_count") == 1
    assert metrics.registry.get_sample_value("wardrobe_stage_seconds_count", {"stage": "infer"}) == 1
