"""A small real data set, and one tiny network trained and exported from it for the tests that only look at it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from app.artifact import Artifact
from training import data
from training.config import FitConfig
from training.data import Dataset, DatasetError, Splits, load_fashion_mnist, parse_idx, read_file, split
from training.export import export
from training.fit import FitResult, fit

SAMPLE_FOLDER = Path(__file__).parents[1] / "data" / "fashion-mnist-sample"


@pytest.fixture(scope="session")
def sample_folder() -> Path:
    return SAMPLE_FOLDER


@pytest.fixture(scope="session")
def sample_sha256() -> dict[str, str]:
    return {name: hashlib.sha256(read_file(SAMPLE_FOLDER, name)).hexdigest() for name in data.FASHION_MNIST_SHA256}


@pytest.fixture
def sample_is_published(sample_sha256: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `load_fashion_mnist` take the sample for the published files."""
    monkeypatch.setattr(data, "FASHION_MNIST_SHA256", sample_sha256)


@pytest.fixture(scope="session")
def sample(sample_sha256: dict[str, str]) -> Splits:
    """1,500 training, 500 validation and 500 test pictures."""
    train_images, train_labels, test_images, test_labels = (
        parse_idx(read_file(SAMPLE_FOLDER, name)) for name in sample_sha256
    )
    return split(
        Dataset(train_images, train_labels.long()),
        Dataset(test_images, test_labels.long()),
        num_validation=500,
        seed=0,
        source="sample",
        sha256=sample_sha256,
    )


@pytest.fixture(scope="session")
def published() -> Splits:
    """The real data set, where there is one; nothing is downloaded for a test."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(data, "_download", _no_download)
        try:
            return load_fashion_mnist()
        except DatasetError as error:
            pytest.skip(f"needs the real Fashion-MNIST: {error}")


def _no_download(root: Path) -> Path:
    raise DatasetError("neither the Debian package dataset-fashion-mnist nor $FASHION_MNIST_DIR is there")


@pytest.fixture(scope="session")
def tiny_config() -> FitConfig:
    """A network that gets about two thirds of the sample right after three seconds."""
    return FitConfig(
        epochs=4,
        batch_size=32,
        widths=(8, 16, 32),
        blocks=(0, 1, 1),
        warmup_epochs=0.5,
        erase_probability=0.25,
        num_validation=500,
    )


@pytest.fixture(scope="session")
def tiny_result(sample: Splits, tiny_config: FitConfig, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """Trained without interruption."""
    return fit(sample, tiny_config, run_folder=tmp_path_factory.mktemp("run"), device="cpu", command="a test")


@pytest.fixture(scope="session")
def exported(tiny_result: FitResult, sample: Splits, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Version 1 of fashion-mnist in a models folder of its own. Look, do not write: every test shares it."""
    return export(tiny_result, sample, models_folder=tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, hidden ones too, with its content."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
