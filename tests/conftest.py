"""What every test may use: the shipped models and ten pictures of the published test part."""

from collections.abc import Generator
from pathlib import Path

import pytest

from app.artifact import Artifact, load_artifact
from tests.process import REPOSITORY, serving

PICTURES_FOLDER = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def models_dir() -> Path:
    return REPOSITORY / "models"


@pytest.fixture(scope="session")
def artifact(models_dir: Path) -> Artifact:
    """The newest shipped version of the default model."""
    versions = (models_dir / "fashion-mnist").iterdir()
    return load_artifact(max(versions, key=lambda folder: int(folder.name)))


@pytest.fixture(scope="session")
def pictures(artifact: Artifact) -> dict[str, bytes]:
    """Label -> PNG file of one 28x28 test picture, in the model's order of classes."""
    return {
        label: (PICTURES_FOLDER / f"{label.lower().replace('/', '-').replace(' ', '-')}.png").read_bytes()
        for label in artifact.card.class_names
    }


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """Address of a running `python -m app` with the default settings."""
    with serving(tmp_path_factory.mktemp("service") / "log") as (_, client):
        yield str(client.base_url).rstrip("/")
