"""Promote, roll back and damage under constant load: real processes, a connection for each request."""

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import httpx

from app.artifact import Artifact
from app.served_version import POINTER_NAME, ServedVersion
from tests.app.test_models import edit_card, install
from tests.process import START_TIMEOUT_SECONDS, serving
from training.promote import promote, rollback

NUM_CLIENTS = 3


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Load:
    """Asks again and again; the answers' status and versions, of each client in order."""

    url: str
    picture: bytes
    stopped: threading.Event = field(default_factory=threading.Event)
    answers: list[list[tuple[int, int]]] = field(default_factory=lambda: [[] for _ in range(NUM_CLIENTS)])

    def ask(self, index: int) -> None:
        one_by_one = httpx.Limits(max_keepalive_connections=0)  # so that either worker may get each
        with httpx.Client(base_url=self.url, timeout=60, limits=one_by_one) as client:
            while not self.stopped.is_set():
                answer = client.post("/predict", content=self.picture)
                version = answer.json()["predictions"][0]["model"]["version"] if answer.status_code == 200 else 0
                self.answers[index].append((answer.status_code, version))

    def is_answered_by(self, version: int) -> bool:
        """The latest answers of every client."""
        return all(answers and {it[1] for it in answers[-5:]} == {version} for answers in self.answers)


def served_in(log: Path, version: int) -> set[int]:
    """The processes that took this version."""
    entries = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    return {it["process"] for it in entries if re.match(rf"serving \S+ version {version}\b", it["message"])}


def test_versions_change_under_load_and_no_request_fails(
    artifact: Artifact, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    """Two workers, each looks for itself; a damaged version is refused by both and changes no answer."""
    models_dir, log = tmp_path / "models", tmp_path / "log"
    first = install(artifact, models_dir, 1)
    promote(first)
    second = install(artifact, models_dir, 2)
    settings = {"MODELS_DIR": str(models_dir), "DEFAULT_MODEL": "fashion-mnist", "ENGINE": "onnxruntime"}
    with serving(log, WORKERS="2", **settings) as (_, client), ThreadPoolExecutor() as pool:
        load = Load(str(client.base_url).rstrip("/"), pictures["Coat"])
        asking = [pool.submit(load.ask, index) for index in range(NUM_CLIENTS)]
        try:
            wait_until(lambda: len(served_in(log, 1)) == 2 and load.is_answered_by(1))

            promote(second)
            wait_until(lambda: len(served_in(log, 2)) == 2 and load.is_answered_by(2))

            assert rollback(first.parent) == ServedVersion(version=1)
            wait_until(lambda: log.read_text().count("version 1 in place of 2") == 2 and load.is_answered_by(1))

            damaged = install(artifact, models_dir, 3) / "model.onnx"
            damaged.write_bytes(damaged.read_bytes()[:-1])
            (first.parent / POINTER_NAME).write_text(ServedVersion(version=3, previous=(1,)).model_dump_json())
            edit_card(install(artifact, models_dir, 4), lambda card: card.update(version=5))
            wait_until(lambda: log.read_text().count("fashion-mnist/3 is refused") == 2)
            models = client.get("/models").json()
        finally:
            load.stopped.set()
        for future in asking:
            future.result()

    assert {status for answers in load.answers for status, _ in answers} == {200}
    assert all(answers[-1] == (200, 1) for answers in load.answers)
    assert models["models"][0]["served_version"] == 1
    assert {it["folder"] for it in models["refused"]} == {"fashion-mnist/3", "fashion-mnist/4"}
    assert all(len(list(groupby(answers))) >= 3 for answers in load.answers)  # 1, 2, 1, and with two workers back
