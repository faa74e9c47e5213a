"""Two processes on one port, over real sockets. One service for all, stopped by the last test."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.odd_files import garment, save
from tests.process import START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS, serving

NUM_CLIENTS = 8


@dataclass
class Service:
    """Every request is made on a connection of its own, so that either process may get it."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def predict(self, *contents: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", files=[("file", ("a.png", it)) for it in contents], timeout=60)

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=60).text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def entries(self, **fields: object) -> list[dict[str, Any]]:
        """The whole lines of the log that have these fields."""
        entries = [json.loads(line) for line in self.log.read_text().split("\n")[:-1]]
        return [entry for entry in entries if fields.items() <= entry.items()]

    def workers(self) -> set[int]:
        """Those that ever began to serve."""
        return {entry["process"] for entry in self.entries(message="Application startup complete.")}

    def answered_by(self, path: str) -> set[int]:
        return {entry["process"] for entry in self.entries(message="request", path=path)}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service, None, None]:
    log = tmp_path_factory.mktemp("workers") / "log"
    with serving(log, WORKERS="2", ENGINE="onnxruntime") as (process, client):
        service = Service(process, str(client.base_url).rstrip("/"), log)
        wait_until(lambda: len(service.workers()) == 2)
        yield service


def test_both_answer_and_either_counts_for_both(service: Service, pictures: dict[str, bytes]) -> None:
    num_sent = 0
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        while service.answered_by("/predict") != service.workers():
            answers = list(pool.map(lambda _: service.predict(pictures["Bag"]), range(NUM_CLIENTS)))
            assert {answer.status_code for answer in answers} == {200}
            num_sent += NUM_CLIENTS

        while service.answered_by("/metrics") != service.workers():
            counted = pool.map(lambda _: service.metric("wardrobe_images_total"), range(NUM_CLIENTS))
            assert set(counted) == {num_sent}


def test_a_killed_worker_costs_its_own_requests_and_returns(service: Service, pictures: dict[str, bytes]) -> None:
    before, counted = service.workers(), service.metric("wardrobe_images_total")
    broken: list[httpx.TransportError] = []
    stop = threading.Event()

    def ask() -> int:
        num_answered = 0
        while not stop.is_set():
            try:
                assert service.predict(pictures["Coat"]).status_code == 200
                num_answered += 1
            except httpx.TransportError as error:  # the connection ended
                broken.append(error)
        return num_answered

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        asking = [pool.submit(ask) for _ in range(NUM_CLIENTS)]
        try:
            wait_until(lambda: service.metric("wardrobe_images_total") > counted)
            os.kill(min(before), signal.SIGKILL)
            wait_until(lambda: len(service.workers()) == 3)
            (new,) = service.workers() - before
            wait_until(lambda: new in service.answered_by("/predict"))
        finally:
            stop.set()
        num_answered = sum(future.result() for future in asking)

    assert len(broken) <= NUM_CLIENTS  # at most the one that each had under way
    assert service.metric("wardrobe_images_total") >= counted + num_answered  # what the dead one counted stays
    assert service.metric("wardrobe_queue_images") == 0  # what it held does not


def test_sigterm_answers_what_was_accepted_and_exits_cleanly(service: Service) -> None:
    photo = save(garment(2_500, 2_500), "JPEG")
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(service.predict, *[photo] * 50) for _ in range(2)]
        wait_until(lambda: service.metric("wardrobe_queue_images") == 100)

        service.process.send_signal(signal.SIGTERM)
        predictions = [len(answer.result().json()["predictions"]) for answer in answers]
        exit_code = service.process.wait(STOP_TIMEOUT_SECONDS)

    assert predictions == [50, 50]
    assert exit_code == 0
    assert [entry for entry in service.entries() if entry["level"] not in ("INFO", "DEBUG")] == []
