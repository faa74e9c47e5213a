"""Two models in one service, as a process of its own on a real socket: who answers, and what is decided."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.app.service import parts, problem_of, running, wait_for
from tests.odd_files import garment, save
from tests.process import serving
from tests.tiny_wardrobe import RED_GARMENT_SCORE, RED_PROBABILITIES, plain

RED, BLACK = plain(255, 0, 0), plain(0, 0, 0, side_pixels=100)
YELLOW, DIM_GREEN = plain(255, 255, 0), plain(0, 100, 0)
BROKEN = RED[:60]


@pytest.fixture(scope="module")
def client(two_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client, None, None]:
    log = tmp_path_factory.mktemp("service") / "log"
    with serving(log, MODELS_DIR=str(two_models_dir), DEFAULT_MODEL="wardrobe", NUM_THREADS="1") as (_, client):
        yield client


def predict(client: httpx.Client, *contents: bytes, query: str = "") -> list[dict[str, object]]:
    response = client.post(f"/predict{query}", files=parts(*contents))
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"predictions"}
    predictions: list[dict[str, object]] = response.json()["predictions"]
    return predictions


def models_of(predictions: list[dict[str, object]]) -> list[str]:
    return [prediction["model"]["name"] for prediction in predictions]


@pytest.mark.parametrize(
    ("content", "model"),
    [
        (save(garment(28, 28).convert("L"), "PNG"), "fashion-mnist"),
        (save(garment(28, 28), "PNG"), "wardrobe"),
        (save(garment(65, 65).convert("L"), "PNG"), "wardrobe"),
        (save(garment(400, 400).convert("L"), "JPEG"), "wardrobe"),
    ],
    ids=["28 px grey", "28 px colour", "65 px grey", "400 px grey"],
)
@pytest.mark.parametrize("query", ["", "?model=auto"])
def test_auto_chooses_by_the_picture(client: httpx.Client, content: bytes, model: str, query: str) -> None:
    assert models_of(predict(client, content, query=query)) == [model]


def test_one_request_may_be_answered_by_both_models(client: httpx.Client, pictures: dict[str, bytes]) -> None:
    sneaker, broken, red, bag, black = predict(client, pictures["Sneaker"], BROKEN, RED, pictures["Bag"], BLACK)

    assert models_of([sneaker, red, bag, black]) == ["fashion-mnist", "wardrobe", "fashion-mnist", "wardrobe"]
    assert [p["label"] for p in (sneaker, red, bag)] == ["Sneaker", "dress", "Bag"]
    assert set(broken) == {"filename", "error"}
    assert (broken["filename"], broken["error"]["type"]) == ("1.png", "urn:wardrobe:undecodable-image")


@pytest.mark.parametrize("model", ["fashion-mnist", "wardrobe"])
def test_a_model_asked_for_by_name_answers_everything(
    client: httpx.Client, pictures: dict[str, bytes], two_models_dir: Path, model: str
) -> None:
    predictions = predict(client, pictures["Sneaker"], RED, BLACK, query=f"?model={model}")

    (card_path,) = (two_models_dir / model).glob("*/card.json")
    card = json.loads(card_path.read_text())
    expected = {"name": model, "version": card["version"], "digest": card["sha256"]["model.pt"]}
    assert [prediction["model"] for prediction in predictions] == [expected] * 3


@pytest.mark.parametrize(
    ("content", "decision", "label", "prediction_set", "reason"),
    [
        (RED, "sorted", "dress", ["dress"], "Most probably dress, with a probability of 96.5%."),
        (YELLOW, "review", "dress", ["dress", "shirt"], r"Could be dress \(49.5%\) or shirt \(49.5%\): .+"),
        (DIM_GREEN, "review", "shirt", ["shirt"], r"Most probably shirt, but the probability is only 70\.\d%; .+"),
        (BLACK, "not_a_garment", "dress", ["dress", "shirt", "longsleeve"], r"This does not .+ score is 0\.119, .+"),
    ],
    ids=["red", "yellow", "dim green", "black"],
)
def test_a_decision_with_its_reason(
    client: httpx.Client, content: bytes, decision: str, label: str, prediction_set: list[str], reason: str
) -> None:
    (prediction,) = predict(client, content)

    assert (prediction["decision"], prediction["label"]) == (decision, label)
    assert prediction["prediction_set"] == prediction_set
    assert re.fullmatch(reason, prediction["reason"])


def test_scores_are_those_computed_by_hand(client: httpx.Client) -> None:
    (prediction,) = predict(client, RED)

    assert [c["probability"] for c in prediction["top_k"]] == pytest.approx(RED_PROBABILITIES, abs=1e-6)
    assert prediction["garment_score"] == pytest.approx(RED_GARMENT_SCORE, abs=1e-6)


def test_a_model_without_rules_sorts_everything_and_says_so(client: httpx.Client) -> None:
    (prediction,) = predict(client, BLACK, query="?model=fashion-mnist")

    assert prediction["decision"] == "sorted"
    assert (prediction["prediction_set"], prediction["garment_score"]) == (None, None)


def test_images_are_counted_by_model_label_and_decision(client: httpx.Client, pictures: dict[str, bytes]) -> None:
    before = counts(client)
    predict(client, RED, YELLOW, BLACK, pictures["Bag"], BROKEN, pictures["Bag"])
    after = counts(client)

    assert {
        labels: after[labels] - before.get(labels, 0) for labels in after if after[labels] != before.get(labels)
    } == {
        ("wardrobe", "dress", "sorted"): 1,
        ("wardrobe", "dress", "review"): 1,
        ("wardrobe", "dress", "not_a_garment"): 1,
        ("fashion-mnist", "Bag", "sorted"): 2,
        ("", "", "refused"): 1,
    }


def counts(client: httpx.Client) -> dict[tuple[str, ...], float]:
    return {
        (sample.labels["model"], sample.labels["label"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "wardrobe_images_total"
    }


def test_the_list_of_models_says_what_auto_means(client: httpx.Client) -> None:
    body = client.get("/models").json()

    assert (body["default_model"], body["thumbnail_model"]) == ("wardrobe", "fashion-mnist")
    assert [model["name"] for model in body["models"]] == ["fashion-mnist", "wardrobe"]


def test_the_card_has_the_thresholds_and_not_the_golden_pictures(client: httpx.Client, two_models_dir: Path) -> None:
    on_disk = json.loads((two_models_dir / "wardrobe" / "1" / "card.json").read_text())

    card = client.get("/models/wardrobe").json()

    assert on_disk.pop("golden")
    assert card.pop("serving")["engine"] == "torchscript"  # its ONNX file is none
    assert card == on_disk
    assert card["thresholds"]["prediction_set"]["level"] == 0.95
    assert card["classes"][2]["group"] == "other"


def test_without_the_thumbnail_model_the_default_one_answers(
    two_models_dir: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    shutil.copytree(two_models_dir / "wardrobe", tmp_path / "models" / "wardrobe")
    with serving(tmp_path / "log", MODELS_DIR=str(tmp_path / "models"), DEFAULT_MODEL="wardrobe") as (_, client):
        predictions = predict(client, pictures["Bag"], RED)
        models = client.get("/models").json()

    assert models_of(predictions) == ["wardrobe", "wardrobe"]
    assert (models["default_model"], models["thumbnail_model"]) == ("wardrobe", None)


async def test_both_models_share_one_queue(
    settings: Settings, two_models_dir: Path, pictures: dict[str, bytes], gate: threading.Event
) -> None:
    limits = {"max_queue_images": 4, "max_images_per_request": 4}
    models = {"models_dir": two_models_dir, "default_model": "wardrobe"}
    async with running(settings.model_copy(update=limits | models)) as client:
        await wait_for(client, "/health/ready")
        gate.clear()
        waiting = [
            asyncio.create_task(client.post("/predict", files=parts(*contents)))
            for contents in ([RED, pictures["Bag"]], [pictures["Coat"]])
        ]
        await wait_for(client, "/metrics", "wardrobe_queue_images 3.0")

        refused = [await client.post("/predict", files=parts(*pair)) for pair in ([RED] * 2, [pictures["Bag"]] * 2)]
        waiting.append(asyncio.create_task(client.post("/predict", content=RED)))
        await wait_for(client, "/metrics", "wardrobe_queue_images 4.0")
        gate.set()
        answered = await asyncio.gather(*waiting)
        await wait_for(client, "/metrics", "wardrobe_queue_images 0.0")

    for response in refused:
        assert "3 images are waiting and at most 4 may" in problem_of(response, 429, "overloaded")["detail"]
    assert [response.status_code for response in answered] == [200, 200, 200]
