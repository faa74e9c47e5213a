"""What every test may use: the shipped models, a made-up one, and ten pictures of the published test part."""

import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from app.artifact import Artifact
from app.engines import load_artifact
from tests.postgresql import postgresql
from tests.process import REPOSITORY, serving
from tests.tiny_wardrobe import write_tiny_wardrobe

# Of every service that a test starts, in this process or another, unless the test gives it a folder of its own.
os.environ["WARDROBE_STORAGE"] = "off"

# A shell's background job ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore = ["clients"]  # of another environment, see tests/test_stock_clients.py

PICTURES_FOLDER = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def models_dir() -> Path:
    return REPOSITORY / "models"


@pytest.fixture(scope="session")
def artifact(models_dir: Path) -> Artifact:
    """The newest shipped version of fashion-mnist."""
    versions = (models_dir / "fashion-mnist").glob("*/")
    return load_artifact(max(versions, key=lambda folder: int(folder.name)))


@pytest.fixture(scope="session")
def pictures(artifact: Artifact) -> dict[str, bytes]:
    """Label -> PNG file of one 28x28 test picture, in the model's order of classes."""
    return {
        label: (PICTURES_FOLDER / f"{label.lower().replace('/', '-').replace(' ', '-')}.png").read_bytes()
        for label in artifact.card.class_names
    }


@pytest.fixture(scope="session")
def two_models_dir(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped fashion-mnist and a made-up `wardrobe` that tells colours apart. Look, do not write."""
    models_dir = tmp_path_factory.mktemp("two-models")
    shutil.copytree(artifact.folder, models_dir / "fashion-mnist" / str(artifact.card.version))
    write_tiny_wardrobe(models_dir, template=artifact.card)
    return models_dir


@pytest.fixture(scope="session")
def postgresql_url() -> Generator[str, None, None]:
    """An empty database of a real server, where one is installed."""
    with postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """Address of a running `python -m app` with the default settings."""
    with serving(tmp_path_factory.mktemp("service") / "log") as (_, client):
        yield str(client.base_url).rstrip("/")
