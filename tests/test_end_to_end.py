"""A real process, a real socket: what curl would see, how it stops, and the published accuracy."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.artifact import Artifact
from tests.process import REPOSITORY, STOP_TIMEOUT_SECONDS, serving
from training.data import DatasetError, load_fashion_mnist
from training.evaluate import FORMS, to_png

IMAGES_PER_REQUEST = 100
FASHION_MNIST = "/predict?model=fashion-mnist"  # for pictures that are not thumbnails any more


@pytest.fixture
def client(service_url: str) -> Generator[httpx.Client, None, None]:
    with httpx.Client(base_url=service_url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_gets_its_label(client: httpx.Client, pictures: dict[str, bytes], form: str) -> None:
    files = [FORMS[form](Image.open(io.BytesIO(content))) for content in pictures.values()]

    response = client.post(FASHION_MNIST, files=[("file", ("garment", content)) for content in files])

    assert [prediction["label"] for prediction in response.json()["predictions"]] == list(pictures)


def test_a_raw_body_over_a_socket(client: httpx.Client, pictures: dict[str, bytes]) -> None:
    response = client.post("/predict", content=pictures["Sneaker"], headers={"Content-Type": "image/png"})

    assert response.status_code == 200
    assert response.json()["predictions"][0]["label"] == "Sneaker"


def test_a_body_over_the_limit_is_refused_over_a_socket(client: httpx.Client) -> None:
    response = client.post("/predict", content=bytes(40_000_000))

    assert response.status_code == 413
    assert response.json()["type"] == "urn:wardrobe:body-too-large"


def test_sigterm_answers_what_runs_and_exits_cleanly(pictures: dict[str, bytes], tmp_path: Path) -> None:
    log = tmp_path / "log"
    big_files = [_jpeg_of(content, size_pixels=2_500) for content in pictures.values()]
    files = [("file", ("garment.jpg", content)) for content in big_files * 10]
    with serving(log, NUM_THREADS="1") as (process, client), ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, f"{client.base_url}{FASHION_MNIST}", files=files, timeout=60)
        while "wardrobe_queue_images 100.0" not in client.get("/metrics").text:
            assert not answer.done(), "answered before the signal could be sent"

        process.send_signal(signal.SIGTERM)
        response = answer.result()
        exit_code = process.wait(STOP_TIMEOUT_SECONDS)

    assert response.status_code == 200
    assert [prediction["label"] for prediction in response.json()["predictions"]] == list(pictures) * 10
    assert exit_code == 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    (request,) = [entry for entry in entries if entry.get("path") == "/predict"]
    assert request["request_id"] == response.headers["X-Request-ID"]
    assert [entry for entry in entries if entry["level"] not in ("INFO", "DEBUG")] == []


def test_a_setting_out_of_bounds_is_said_at_the_start() -> None:
    environment = os.environ | {"WARDROBE_MAX_BATCH_SIZE": "0"}

    result = subprocess.run(
        [sys.executable, "-m", "app"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )

    assert result.returncode != 0
    assert "WARDROBE_MAX_BATCH_SIZE" in result.stderr


@pytest.mark.slow
def test_the_running_service_has_the_accuracy_of_its_card(client: httpx.Client, artifact: Artifact) -> None:
    """All 10,000 published test pictures over HTTP; the same number correct as the card says, not about the same."""
    try:
        test = load_fashion_mnist().test
    except DatasetError as error:
        pytest.skip(f"Fashion-MNIST is not on this machine: {error}")
    class_names = artifact.card.class_names
    labels = [class_names[label] for label in test.labels.tolist()]

    num_correct = 0
    for start in range(0, len(test), IMAGES_PER_REQUEST):
        images = test.images[start : start + IMAGES_PER_REQUEST].numpy()
        files = [("file", (f"{start + i}.png", to_png(image))) for i, image in enumerate(images)]
        predictions = client.post("/predict", files=files).raise_for_status().json()["predictions"]
        num_correct += sum(
            prediction["label"] == label
            for prediction, label in zip(predictions, labels[start : start + IMAGES_PER_REQUEST], strict=True)
        )

    card = json.loads((artifact.folder / "card.json").read_text())
    assert num_correct / len(test) == card["metrics"]["test"]["accuracy"]


def _jpeg_of(content: bytes, *, size_pixels: int) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(content)).resize((size_pixels, size_pixels), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
