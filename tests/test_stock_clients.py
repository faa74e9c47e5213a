"""Other projects' clients, unmodified, against a running service.

They have an environment of their own, `make test` installs it as `clients` inside the first one: they want older
versions of some packages than the rest does. The tests that run in it are in tests/clients; here they are started.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from app.artifact import Artifact
from tests.process import REPOSITORY, small_service
from tests.test_readme import python_blocks

CLIENTS = Path(sys.prefix) / "clients" / "bin"
TIMEOUT_SECONDS = 300
FILE_TYPES = ("image/*", "image/jpeg", "image/png", "application/zip")  # the generator does not know them as such

pytestmark = pytest.mark.skipif(not CLIENTS.exists(), reason="the clients are not installed: make test does it")


@pytest.fixture(scope="module")
def url(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """A service of fashion-mnist alone, which keeps items."""
    folder = tmp_path_factory.mktemp("stock-clients")
    with small_service(artifact, folder / "log", STORAGE="on", DATA_DIR=str(folder / "data")) as (_, client):
        yield str(client.base_url).rstrip("/")


def run_tests(name: str, url: str, **environment: str) -> None:
    """Run one file of tests/clients in the clients' environment."""
    command = [CLIENTS / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--confcutdir=tests/clients"]
    done = subprocess.run(
        [*command, f"tests/clients/{name}"],
        check=False,  # what it printed says more than its status
        cwd=REPOSITORY,
        env={**os.environ, "SERVICE_URL": url, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("client", "printed"), [("tritonclient", "b'Bag' b'sorted'\n"), ("huggingface_hub", "Bag\n")])
def test_the_readmes_code_for_a_stock_client_runs(client: str, printed: str, url: str) -> None:
    (code,) = [block for block in python_blocks() if client in block]
    code = code.replace("http://127.0.0.1:8000", url).replace("127.0.0.1:8000", url.removeprefix("http://"))

    done = subprocess.run([CLIENTS / "python", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout == printed


@pytest.mark.parametrize("client", ["tritonclient", "huggingface_hub"])
def test_a_stock_client_is_answered(client: str, url: str) -> None:
    run_tests(f"test_{client}.py", url)


def test_a_client_generated_from_the_description_works(url: str, tmp_path: Path) -> None:
    """No route or answer is left out of it: the generator warns of those that it does not understand."""
    description = tmp_path / "openapi.json"
    description.write_text(httpx.get(f"{url}/openapi.json").text)
    config = tmp_path / "config.yml"
    config.write_text(json.dumps({"content_type_overrides": dict.fromkeys(FILE_TYPES, "application/octet-stream")}))
    generate = ["generate", "--path", description, "--meta", "none", "--output-path", tmp_path / "wardrobe_client"]

    generated = subprocess.run(
        [CLIENTS / "openapi-python-client", *generate, "--config", config],
        env={**os.environ, "PATH": f"{CLIENTS}:{os.environ['PATH']}"},  # it calls ruff
        capture_output=True,
        text=True,
        check=True,
    )

    assert "WARNING" not in generated.stdout + generated.stderr
    run_tests("test_generated.py", url, PYTHONPATH=str(tmp_path))
