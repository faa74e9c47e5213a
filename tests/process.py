"""The service as a process of its own, on a real socket."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.artifact import Artifact

REPOSITORY = Path(__file__).parent.parent
WARDROBE_VERSIONS = sorted(int(path.name) for path in (REPOSITORY / "models" / "wardrobe").glob("[0-9]*"))
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 30


@contextmanager
def serving(
    log: Path, *, command: Sequence[str] = (sys.executable, "-m", "app"), cwd: Path = REPOSITORY, **settings: str
) -> Generator[tuple[subprocess.Popen[bytes], httpx.Client], None, None]:
    """`python -m app` on a free port of its own choice, ready; its log goes to a file."""
    environment = os.environ | {"WARDROBE_PORT": "0"} | {f"WARDROBE_{name}": value for name, value in settings.items()}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stderr=file)
    try:
        with httpx.Client(base_url=_address(process, log), timeout=60) as client:
            _wait_until_ready(client)
            yield process, client
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_SECONDS)


@contextmanager
def small_service(
    artifact: Artifact, log: Path, **settings: str
) -> Generator[tuple[subprocess.Popen[bytes], httpx.Client], None, None]:
    """One that serves this model alone and with one engine: ready soon, and small."""
    models_dir = log.parent / "models"
    model = models_dir / artifact.card.name / str(artifact.card.version)
    model.parent.mkdir(parents=True)
    model.symlink_to(artifact.folder, target_is_directory=True)
    small = {"MODELS_DIR": str(models_dir), "DEFAULT_MODEL": artifact.card.name, "ENGINE": "onnxruntime"}
    with serving(log, **small | settings) as service:
        yield service


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"running on (http://[\d.]+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    pytest.fail(f"the service did not start:\n{log.read_text()}")


def _wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not _is_ready(client):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.ConnectError:  # with several workers: until one of them is ready
        return False
