"""/v2, the Open Inference Protocol: what it answers, and that its errors have the protocol's shape everywhere.

What the protocol's own clients make of it is in tests/clients.
"""

import asyncio
import base64
import hashlib
import io
import json
import struct
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.artifact import Artifact
from app.settings import Settings
from tests.app.service import parts, running, wait_for
from tests.odd_files import save
from tests.process import WARDROBE_VERSIONS

OLDER, SERVED = WARDROBE_VERSIONS[-2:]
INFER = "/v2/models/fashion-mnist/infer"


def image_request(*contents: bytes, **rest: Any) -> dict[str, Any]:
    data = [base64.b64encode(content).decode() for content in contents]
    return {"inputs": [{"name": "image", "shape": [len(data), 1], "datatype": "BYTES", "data": data}], **rest}


def by_name(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output for output in answer.json()["outputs"]}


def error_of(response: httpx.Response, status: int) -> str:
    """The text of an error, after checking that it is the protocol's."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert list(response.json()) == ["error"]
    text: str = response.json()["error"]
    assert " " in text
    return text


async def test_it_says_what_predict_says(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    contents = [pictures["Bag"], pictures["Coat"]]
    predicted = (await client.post("/predict?model=fashion-mnist&top_k=10", files=parts(*contents))).json()

    answer = await client.post(INFER, json=image_request(*contents, id="7"))

    assert {key: answer.json()[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "fashion-mnist",
        "model_version": "1",
        "id": "7",
    }
    outputs = by_name(answer)
    assert list(outputs) == ["probabilities", "label", "decision"]
    assert outputs["label"]["data"] == ["Bag", "Coat"]
    assert outputs["decision"]["data"] == [it["decision"] for it in predicted["predictions"]]
    assert outputs["probabilities"]["shape"] == [2, 10]
    found = np.array(outputs["probabilities"]["data"]).reshape(2, 10)
    for row, prediction in zip(found, predicted["predictions"], strict=True):
        expected = sorted((candidate["probability"] for candidate in prediction["top_k"]), reverse=True)
        np.testing.assert_allclose(sorted(row, reverse=True), expected, atol=1e-6)
        assert row.argmax() == list(pictures).index(prediction["label"])
    assert answer.headers["Server-Timing"].startswith("wait;dur=")


async def test_a_model_that_knows_garments_says_how_sure_it_is(client: httpx.AsyncClient) -> None:
    picture = save(Image.new("RGB", (100, 100), "white"), "PNG")

    outputs = by_name(await client.post("/v2/models/wardrobe/infer", json=image_request(picture)))

    assert outputs["decision"]["data"] == ["not_a_garment"]
    assert 0 <= outputs["garment_score"]["data"][0] < 0.5


async def test_what_the_network_takes_gives_what_the_picture_gives(
    client: httpx.AsyncClient, artifact: Artifact, pictures: dict[str, bytes]
) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(pictures["Bag"])).convert("RGB"))
    prepared = artifact.preprocess(pixels)[None]
    tensor = {"name": "prepared", "shape": prepared.shape, "datatype": "FP32", "data": prepared.ravel().tolist()}

    outputs = by_name(await client.post(INFER, json={"inputs": [tensor]}))

    expected = by_name(await client.post(INFER, json=image_request(pictures["Bag"])))
    np.testing.assert_allclose(outputs["probabilities"]["data"], expected["probabilities"]["data"], atol=1e-4)


async def test_the_best_classes_come_first(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    wanted = [{"name": "probabilities", "parameters": {"classification": 2}}]

    outputs = by_name(await client.post(INFER, json=image_request(pictures["Bag"], outputs=wanted)))

    assert (outputs["probabilities"]["datatype"], outputs["probabilities"]["shape"]) == ("BYTES", [1, 2])
    (first, _) = outputs["probabilities"]["data"]
    value, index, label = first.split(":")
    assert (index, label) == ("8", "Bag")
    assert 0.9 < float(value) <= 1


async def test_no_more_classes_are_named_than_there_are(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    wanted = [{"name": "probabilities", "parameters": {"classification": 99}}]

    outputs = by_name(await client.post(INFER, json=image_request(pictures["Bag"], outputs=wanted)))

    assert outputs["probabilities"]["shape"] == [1, 10]


async def test_a_file_alone_is_answered_in_binary(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    headers = {"Inference-Header-Content-Length": "0"}

    answer = await client.post(INFER, content=pictures["Bag"], headers=headers)

    assert answer.status_code == 200
    num_json = int(answer.headers["Inference-Header-Content-Length"])
    outputs = json.loads(answer.content[:num_json])["outputs"]
    assert [output["parameters"]["binary_data_size"] for output in outputs] == [40, 7, 10]
    assert answer.content[num_json + 40 : num_json + 47] == struct.pack("<I", 3) + b"Bag"


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_it_says_what_it_can(client: httpx.AsyncClient, path: str) -> None:
    answer = (await client.get(path)).json()

    assert set(answer) == {"name", "version", "extensions"}
    assert "binary_tensor_data" in answer["extensions"]


async def test_metadata_and_configuration_agree(client: httpx.AsyncClient) -> None:
    metadata = (await client.get("/v2/models/wardrobe")).json()
    config = (await client.get("/v2/models/wardrobe/config")).json()

    assert {tensor["name"]: tensor["shape"] for tensor in metadata["inputs"]} == {
        "image": [-1, 1],
        "prepared": [-1, 3, 224, 224],
    }
    for kind in ("input", "output"):
        described = {tensor["name"]: tensor["shape"][1:] for tensor in metadata[f"{kind}s"]}
        assert described == {tensor["name"]: tensor["dims"] for tensor in config[kind]}
    assert config["max_batch_size"] == 128
    assert config["input"][1]["format"] == "FORMAT_NCHW"
    assert (await client.get(f"/v2/models/wardrobe/versions/{SERVED}")).json() == metadata


async def test_only_the_served_version_is_ready(client: httpx.AsyncClient) -> None:
    ready = [
        (await client.get(f"/v2/models/{path}/ready")).status_code
        for path in (
            "wardrobe",
            f"wardrobe/versions/{SERVED}",
            f"wardrobe/versions/{OLDER}",
            "wardrobe/versions/0",
            "auto",
        )
    ]

    assert ready == [200, 200, 404, 404, 404]
    index = (await client.post("/v2/repository/index", json={"ready": True})).json()
    assert [(entry["name"], entry["version"]) for entry in index] == [("fashion-mnist", "1"), ("wardrobe", str(SERVED))]
    index = (await client.post("/v2/repository/index")).json()
    reason = f"version {SERVED} is served"
    assert {"name": "wardrobe", "version": str(OLDER), "state": "UNAVAILABLE", "reason": reason} in index


async def test_what_was_done_is_counted(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    async def counted() -> dict[str, Any]:
        (found,) = (await client.get("/v2/models/fashion-mnist/versions/1/stats")).json()["model_stats"]
        return {"count": found["inference_count"], "ns": found["inference_stats"]["compute_infer"]["ns"]}

    before = await counted()
    await client.post(INFER, json=image_request(*[pictures["Bag"]] * 3))

    after = await counted()
    assert after["count"] == before["count"] + 3
    assert after["ns"] > before["ns"]
    everything = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert [found["name"] for found in everything] == ["fashion-mnist", "wardrobe"]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "text"),
    [
        ("GET", "/v2/nowhere", b"", 404, "/v2/nowhere"),
        ("GET", "/v2/models/tents", b"", 404, "no model tents"),
        ("GET", "/v2/models/wardrobe/versions/9/config", b"", 404, "no model wardrobe, version 9"),
        ("GET", "/v2/models/wardrobe/versions/x", b"", 404, "/v2/models/wardrobe/versions/x"),
        ("GET", f"/v2/models/{'a' * 65}", b"", 422, "at most 64 characters"),
        ("DELETE", "/v2/models/wardrobe", b"", 405, "Method Not Allowed"),
        ("POST", "/v2/models/tents/infer", b"", 404, "no model tents"),
        ("POST", "/v2/models/auto/infer", b"", 404, "no model auto"),
        ("POST", f"/v2/models/wardrobe/versions/{OLDER}/infer", b"", 404, f"There is: wardrobe/{SERVED}"),
        ("POST", INFER, b"{", 400, "JSON cannot be read"),
        ("POST", INFER, json.dumps(image_request(b"")).encode(), 422, "The file is empty"),
        ("POST", INFER, json.dumps(image_request(b"a", b"b")).encode(), 415, "Image 0: The file is not an image"),
        (
            "POST",
            INFER,
            json.dumps(image_request(b"a", outputs=[{"name": "logits"}])).encode(),
            400,
            "no output 'logits', but probabilities, label, decision",
        ),
        (
            "POST",
            INFER,
            json.dumps(image_request(b"a", outputs=[{"name": "label", "parameters": {"classification": 1}}])).encode(),
            400,
            "only 'probabilities'",
        ),
        (
            "POST",
            INFER,
            json.dumps(
                image_request(b"a", outputs=[{"name": "label", "parameters": {"shared_memory_region": "r"}}])
            ).encode(),
            400,
            "no shared memory",
        ),
        ("POST", "/v2/repository/index", b"[]", 400, "its JSON is no object"),
        ("POST", "/v2/repository/models/wardrobe/load", b"", 403, "model folder"),
        ("POST", "/v2/repository/models/wardrobe/unload", b"", 403, "model folder"),
    ],
)
async def test_every_error_is_the_protocols(
    client: httpx.AsyncClient, method: str, path: str, content: bytes, status: int, text: str
) -> None:
    response = await client.request(method, path, content=content)

    assert text in error_of(response, status)


async def test_the_limits_are_those_of_predict(small_client: httpx.AsyncClient) -> None:
    """Four images, 20,000 bytes."""
    response = await small_client.post(INFER, json=image_request(*[b"a"] * 5))
    assert "at most 4 in one request" in error_of(response, 413)
    response = await small_client.post(INFER, content=b" " * 20_001)
    assert "at most 20000 are accepted" in error_of(response, 413)
    response = await small_client.post(INFER, json={}, headers={"Content-Encoding": "gzip"})
    assert "gzip" in error_of(response, 415)


@pytest.fixture(scope="module")
def small(settings: Settings, two_models_dir: Path) -> Settings:
    """Of services that are soon ready."""
    return settings.model_copy(update={"models_dir": two_models_dir, "engine": "torchscript"})


async def test_a_full_queue_says_when_to_come_back(
    small: Settings, pictures: dict[str, bytes], gate: threading.Event
) -> None:
    tiny = small.model_copy(update={"max_queue_images": 1, "max_images_per_request": 1})
    async with running(tiny) as client:
        await wait_for(client, "/v2/health/ready")
        gate.clear()
        first = asyncio.create_task(client.post(INFER, json=image_request(pictures["Bag"])))
        await wait_for(client, "/metrics", "wardrobe_queue_images 1.0")

        second = await client.post(INFER, json=image_request(pictures["Bag"]))
        gate.set()

        assert "may" in error_of(second, 429)
        assert int(second.headers["Retry-After"]) >= 1
        assert (await first).status_code == 200


async def test_a_bug_is_told_in_the_protocols_shape(
    small: Settings, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(small) as client:
        await wait_for(client, "/v2/health/ready")
        monkeypatch.setattr(Artifact, "scores", lambda self, batch: 1 / 0)

        response = await client.post(INFER, json=image_request(pictures["Bag"]))

    assert "failed on this image" in error_of(response, 500)


async def test_while_loading_it_is_alive_and_not_ready(small: Settings, gate: threading.Event) -> None:
    gate.clear()
    async with running(small) as client:
        alive = await client.get("/v2/health/live")
        ready = await client.get("/v2/health/ready")
        gate.set()

        assert alive.json() == {"live": True}
        assert "being loaded" in error_of(ready, 503)
        assert (await wait_for(client, "/v2/health/ready")).json() == {"ready": True}


async def test_keys_hold_here_too_and_probes_need_none(small: Settings) -> None:
    locked = small.model_copy(update={"api_key_sha256": (hashlib.sha256(b"key").hexdigest(),)})
    async with running(locked) as client:
        await wait_for(client, "/v2/health/ready")

        refused = await client.post(INFER, json={})
        allowed = await client.get("/v2/models/wardrobe", headers={"Authorization": "Bearer key"})

    assert "API key" in error_of(refused, 401)
    assert allowed.status_code == 200
