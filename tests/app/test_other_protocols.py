"""Hugging Face's task and TorchServe's API: the same answers as /predict, in the words of others."""

import base64
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests.app.service import parts, problem_of, running, wait_for

TASK = "/image-classification"


async def five_best(client: httpx.AsyncClient, content: bytes) -> dict[str, float]:
    """Label -> probability, as /predict says it."""
    answer = (await client.post("/predict?top_k=5", content=content)).json()
    return {candidate["label"]: candidate["probability"] for candidate in answer["predictions"][0]["top_k"]}


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", ""])
async def test_the_task_takes_the_bytes_of_an_image(
    client: httpx.AsyncClient, pictures: dict[str, bytes], content_type: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    answer = await client.post(TASK, content=pictures["Bag"], headers=headers)

    assert {found["label"]: found["score"] for found in answer.json()} == await five_best(client, pictures["Bag"])
    assert answer.json()[0]["label"] == "Bag"
    assert answer.headers["Server-Timing"].startswith("wait;dur=")


async def test_the_task_takes_parameters(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    body = {
        "inputs": base64.b64encode(pictures["Bag"]).decode(),
        "parameters": {"top_k": 1, "function_to_apply": "softmax"},
    }

    (best,) = (await client.post(f"{TASK}?model=fashion-mnist", json=body)).json()

    assert best["label"] == "Bag"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"inputs": "YQ"}, "not given as base64"),
        ({"inputs": 1}, "inputs: "),
        ({}, "inputs: "),
        ([], "the body: "),
        ({"inputs": "YQ==", "parameters": {"top_k": 0}}, "parameters.top_k: "),
        ({"inputs": "YQ==", "parameters": {"function_to_apply": "sigmoid"}}, "parameters.function_to_apply: "),
        ({"inputs": "YQ==", "parameters": {"candidate_labels": []}}, "parameters.candidate_labels: "),
    ],
)
async def test_what_the_task_cannot_do_is_told(client: httpx.AsyncClient, body: Any, reason: str) -> None:
    problem = problem_of(await client.post(TASK, json=body), 400, "invalid-infer-request")

    assert reason in problem["detail"]


async def test_errors_of_the_task_are_also_said_as_hugging_face_says_them(client: httpx.AsyncClient) -> None:
    unreadable = problem_of(await client.post(TASK, content=b"text"), 415, "unsupported-image-format")
    unknown = problem_of(await client.post(f"{TASK}?model=tents", content=b"text"), 404, "not-found")

    assert unreadable["error"] == unreadable["detail"]
    assert unknown["error"] == unknown["detail"]


@pytest.mark.parametrize("path", ["/predictions/fashion-mnist", "/predictions/fashion-mnist/1", "/predictions/auto"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_torchserves_predictions(
    client: httpx.AsyncClient, pictures: dict[str, bytes], path: str, method: str
) -> None:
    answer = await client.request(method, path, content=pictures["Bag"])

    assert answer.json() == await five_best(client, pictures["Bag"])
    assert next(iter(answer.json())) == "Bag"


@pytest.mark.parametrize("field", ["data", "body"])
async def test_torchserves_forms(client: httpx.AsyncClient, pictures: dict[str, bytes], field: str) -> None:
    answer = await client.post("/predictions/auto", files={field: ("bag.png", pictures["Bag"])})

    assert next(iter(answer.json())) == "Bag"


@pytest.mark.parametrize(
    ("path", "content", "status", "kind"),
    [
        ("/predictions/tents", b"text", 404, "ModelNotFoundException"),
        ("/predictions/wardrobe/1", b"text", 404, "ModelNotFoundException"),
        ("/predictions/auto/1", b"text", 404, "ModelNotFoundException"),
        ("/predictions/wardrobe", b"text", 415, "BadRequestException"),
    ],
)
async def test_torchserves_errors(client: httpx.AsyncClient, path: str, content: bytes, status: int, kind: str) -> None:
    response = await client.post(path, content=content)

    assert response.status_code == status
    answer = response.json()
    assert (answer["code"], answer["type"]) == (status, kind)
    assert " " in answer["message"]


async def test_torchserve_takes_one_image_at_a_time(client: httpx.AsyncClient) -> None:
    response = await client.post("/predictions/auto", files=parts(b"one", b"two"))

    assert (response.status_code, response.json()["code"]) == (413, 413)


async def test_ping_says_when_it_is_ready(settings: Settings, two_models_dir: Path, gate: threading.Event) -> None:
    small = settings.model_copy(update={"models_dir": two_models_dir, "engine": "torchscript"})
    gate.clear()
    async with running(small) as client:
        loading = await client.get("/ping")
        gate.set()
        ready = await wait_for(client, "/ping")

    assert (loading.status_code, loading.json()) == (503, {"status": "Unhealthy"})
    assert ready.json() == {"status": "Healthy"}
