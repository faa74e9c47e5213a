"""Started services that the tests of this folder share; loading a model for each of them would take a minute."""

import hashlib
import re
import threading
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.artifact import Artifact, Scores
from app.settings import Settings
from tests.app.service import running, wait_for
from tests.process import serving


@pytest.fixture(scope="session")
def settings(models_dir: Path) -> Settings:
    """Defaults, on two threads wherever the tests run."""
    return Settings(models_dir=models_dir, num_threads=2)


@pytest.fixture(scope="session")
async def client(settings: Settings) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A ready service with the default limits."""
    async with running(settings) as client:
        await wait_for(client, "/health/ready")
        yield client


@pytest.fixture(scope="session")
async def small_client(settings: Settings) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A ready service with limits small enough to pass them: 4 images, 20,000 bytes, 0.3 s for a body."""
    limits = {"max_images_per_request": 4, "max_upload_bytes": 20_000, "body_timeout_seconds": 0.3}
    async with running(settings.model_copy(update=limits)) as client:
        await wait_for(client, "/health/ready")
        yield client


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While cleared, every forward pass of a model loaded after this waits."""
    opened = threading.Event()
    opened.set()
    scores = Artifact.scores

    def wait_and_run(self: Artifact, batch: np.ndarray) -> list[Scores]:
        opened.wait(timeout=20)
        return scores(self, batch)

    monkeypatch.setattr(Artifact, "scores", wait_and_run)
    return opened


@dataclass(frozen=True, slots=True)
class Narrow:
    """A service in a process of its own that wants a key and takes four pictures at a time."""

    url: str
    api_key: str

    def num_turned_away(self) -> float:
        """How many requests were answered with 429 so far."""
        metrics = httpx.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {self.api_key}"}).text
        return sum(float(n) for n in re.findall(r'wardrobe_requests_total\{.*status="429"\} (\S+)', metrics))


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Generator[Narrow, None, None]:
    key = "tests-only"
    limits = {"MAX_QUEUE_IMAGES": "4", "MAX_IMAGES_PER_REQUEST": "4", "NUM_THREADS": "1"}
    digest = hashlib.sha256(key.encode()).hexdigest()
    log = tmp_path_factory.mktemp("narrow") / "log"
    with serving(log, ENGINE="onnxruntime", API_KEY_SHA256=digest, **limits) as (_, client):
        yield Narrow(str(client.base_url).rstrip("/"), key)
