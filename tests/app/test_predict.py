"""POST /predict: what is answered, in what order, and what each wrong request is told."""

import asyncio
import hashlib
import logging
import resource
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.api.examples import PREDICT_RESPONSE
from app.api.schemas import PredictResponse
from app.artifact import Artifact, Scores
from app.errors import UndecodableImageError
from app.images import decode
from app.inference.predictor import MAX_EXPLANATIONS_AT_ONCE
from app.inference.scheduler import Order
from app.inference.store import ModelStore
from app.main import create_app
from app.settings import Settings
from tests.app.service import START_TIMEOUT_SECONDS, parts, problem_of, running, wait_for
from tests.odd_files import garment, save

BROKEN = save(garment(300, 400), "JPEG")[:3_000]


def multipart(*contents: bytes) -> tuple[bytes, str]:
    """A multipart body and its Content-Type, to be damaged."""
    request = httpx.Request("POST", "http://wardrobe", files=parts(*contents))
    return request.read(), request.headers["Content-Type"]


async def chunked(*chunks: bytes, pause_seconds: float = 0) -> AsyncGenerator[bytes, None]:
    """A body without Content-Length."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(pause_seconds)


# Good requests


async def test_the_answer_says_how_long_each_stage_took(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    """Milliseconds, as browsers show them; no stage is longer than the whole."""
    response = await client.post("/predict", files=parts(pictures["Coat"], b"broken", pictures["Bag"]))

    durations = {
        name: float(duration)
        for name, duration in (it.split(";dur=") for it in response.headers["Server-Timing"].split(", "))
    }
    assert list(durations) == ["wait", "decode", "preprocess", "queue", "infer", "total"]
    assert all(0 <= duration <= durations["total"] for duration in durations.values())


async def test_one_multipart_file(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    response = await client.post("/predict", files={"file": ("my boot.png", pictures["Ankle boot"], "image/png")})

    assert response.status_code == 200
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    (prediction,) = response.json()["predictions"]
    assert (prediction["filename"], prediction["label"], prediction["group"]) == (
        "my boot.png",
        "Ankle boot",
        "footwear",
    )
    assert prediction["image"] == {"format": "PNG", "width": 28, "height": 28, "notes": []}
    assert prediction["top_k"][0] == {key: prediction[key] for key in ("label", "group", "probability")}


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "IMAGE/PNG", "application/octet-stream", None])
async def test_raw_body(client: httpx.AsyncClient, pictures: dict[str, bytes], content_type: str | None) -> None:
    """The format is read from the content, whatever the type says."""
    headers = {"Content-Type": content_type} if content_type else {}

    response = await client.post("/predict", content=pictures["Dress"], headers=headers)

    assert response.status_code == 200
    (prediction,) = response.json()["predictions"]
    assert (prediction["filename"], prediction["label"]) == (None, "Dress")
    assert prediction["image"]["format"] == "PNG"


async def test_chunked_bodies(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    raw = pictures["Coat"]
    body, content_type = multipart(raw)

    for content, headers in ((raw, {}), (body, {"Content-Type": content_type})):
        response = await client.post("/predict", content=chunked(*(bytes([b]) for b in content)), headers=headers)
        assert response.json()["predictions"][0]["label"] == "Coat"


async def test_a_hundred_pictures_are_answered_in_order(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    response = await client.post("/predict", files=parts(*list(pictures.values()) * 10))

    assert response.status_code == 200
    predictions = response.json()["predictions"]
    assert [prediction["label"] for prediction in predictions] == list(pictures) * 10
    assert [prediction["filename"] for prediction in predictions] == [f"{index}.png" for index in range(100)]


async def test_probabilities_are_those_of_the_model_file(
    client: httpx.AsyncClient, pictures: dict[str, bytes], artifact: Artifact
) -> None:
    """An independent way: no batch with others, no threads."""
    response = await client.post("/predict?top_k=100", files=parts(*pictures.values()))

    for content, prediction in zip(pictures.values(), response.json()["predictions"], strict=True):
        expected = artifact.scores(artifact.preprocess(decode(content).pixels)[None])[0].probabilities.tolist()
        found = {candidate["label"]: candidate["probability"] for candidate in prediction["top_k"]}
        assert found == pytest.approx(dict(zip(artifact.card.class_names, expected, strict=True)), abs=1e-4)


async def test_broken_pictures_do_not_affect_the_others(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    response = await client.post("/predict", files=parts(pictures["Bag"], BROKEN, b"", pictures["Trouser"]))

    assert response.status_code == 200
    bag, broken, empty, trouser = response.json()["predictions"]
    assert (bag["label"], trouser["label"]) == ("Bag", "Trouser")
    assert (broken["filename"], empty["filename"]) == ("1.png", "2.png")
    assert (broken["error"]["type"], broken["error"]["status"]) == ("urn:wardrobe:undecodable-image", 422)
    assert (empty["error"]["type"], empty["error"]["status"]) == ("urn:wardrobe:empty-image", 422)
    assert broken["error"]["instance"] == f"urn:wardrobe:request:{response.headers['X-Request-ID']}"


async def test_if_all_are_broken_the_answer_has_the_status_of_the_first(client: httpx.AsyncClient) -> None:
    response = await client.post("/predict", files=parts(b"a text", BROKEN))

    problem = problem_of(response, 415, "unsupported-image-format")
    assert "PNG" in problem["accepted"]
    assert [entry["error"]["status"] for entry in problem["errors"]] == [415, 422]
    assert [entry["filename"] for entry in problem["errors"]] == ["0.png", "1.png"]


async def test_one_broken_picture_is_not_listed_twice(client: httpx.AsyncClient) -> None:
    response = await client.post("/predict", files=parts(BROKEN))

    assert "errors" not in problem_of(response, 422, "undecodable-image")


# Parameters


@pytest.mark.parametrize(("query", "num_candidates"), [("", 3), ("?top_k=1", 1), ("?top_k=10", 10), ("?top_k=100", 10)])
async def test_top_k(client: httpx.AsyncClient, pictures: dict[str, bytes], query: str, num_candidates: int) -> None:
    response = await client.post(f"/predict{query}", content=pictures["Shirt"])

    candidates = response.json()["predictions"][0]["top_k"]
    probabilities = [candidate["probability"] for candidate in candidates]
    assert len(candidates) == num_candidates
    assert probabilities == sorted(probabilities, reverse=True)
    if num_candidates == 10:
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("top_k", ["0", "101", "-1", "1e9", "NaN", "inf", "two", ""])
async def test_top_k_outside_its_bounds(client: httpx.AsyncClient, pictures: dict[str, bytes], top_k: str) -> None:
    response = await client.post("/predict", params={"top_k": top_k}, content=pictures["Shirt"])

    problem = problem_of(response, 422, "invalid-parameter")
    assert "top_k" in problem["detail"]
    assert repr(top_k) in problem["detail"]


@pytest.mark.parametrize("model", ["auto", "fashion-mnist"])
async def test_a_model_is_chosen_by_name(
    client: httpx.AsyncClient, pictures: dict[str, bytes], artifact: Artifact, model: str
) -> None:
    response = await client.post("/predict", params={"model": model}, content=pictures["Sandal"])

    digest = hashlib.sha256((artifact.folder / "model.pt").read_bytes()).hexdigest()
    (prediction,) = response.json()["predictions"]
    assert prediction["model"] == {"name": "fashion-mnist", "version": artifact.card.version, "digest": digest}


@pytest.mark.parametrize("model", ["curtains", "", "../fashion-mnist", "FASHION-MNIST"])
async def test_an_unknown_model(client: httpx.AsyncClient, pictures: dict[str, bytes], model: str) -> None:
    response = await client.post("/predict", params={"model": model}, content=pictures["Sandal"])

    assert "fashion-mnist" in problem_of(response, 404, "not-found")["detail"]


# Bodies that are not what they should be


@pytest.mark.parametrize(
    "request_parts",
    [
        {"files": {"image": ("boot.png", b"content")}},
        {"files": {"file": (None, b"text")}},
        {"content": b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    ],
    ids=["wrong field", "text field", "no parts"],
)
async def test_multipart_without_an_image(client: httpx.AsyncClient, request_parts: dict[str, object]) -> None:
    response = await client.post("/predict", **request_parts)

    assert "'file'" in problem_of(response, 422, "no-image")["detail"]


async def test_no_body(client: httpx.AsyncClient) -> None:
    problem_of(await client.post("/predict"), 422, "empty-image")


def _cut(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body[: len(body) // 2], content_type


def _without_end(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body.removesuffix(b"--\r\n"), content_type


def _without_boundary(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body, "multipart/form-data"


def _with_other_boundary(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body, "multipart/form-data; boundary=other"


def _with_empty_boundary(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body, "multipart/form-data; boundary="


def _with_long_boundary(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body, f"multipart/form-data; boundary={'b' * 300}"


def _with_boundary_not_ascii(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body, "multipart/form-data; boundary=b\xe4"


def _with_bad_part_header(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body.replace(b"Content-Disposition:", b"Content Disposition\x00"), content_type


def _with_long_part_header(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body.replace(b'filename="', b'filename="' + b"x" * 20_000), content_type


def _with_many_part_headers(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body.replace(b"Content-Type:", b"X-Header: 1\r\n" * 100 + b"Content-Type:"), content_type


def _without_name(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body.replace(b'name="file"; ', b""), content_type


def _nothing(body: bytes, content_type: str) -> tuple[bytes, str]:
    return b"", content_type


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _without_end,
        _without_boundary,
        _with_other_boundary,
        _with_empty_boundary,
        _with_long_boundary,
        _with_boundary_not_ascii,
        _with_bad_part_header,
        _with_long_part_header,
        _with_many_part_headers,
        _without_name,
        _nothing,
    ],
)
async def test_malformed_multipart(
    client: httpx.AsyncClient, pictures: dict[str, bytes], damage: Callable[[bytes, str], tuple[bytes, str]]
) -> None:
    body, content_type = damage(*multipart(pictures["Bag"]))

    response = await client.post("/predict", content=body, headers={"Content-Type": content_type.encode("latin-1")})

    problem_of(response, 400, "malformed-multipart")


async def test_other_fields_of_a_form_are_ignored(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    response = await client.post("/predict", files=parts(pictures["Bag"]), data={"comment": "mine", "_charset_": "x"})

    assert response.json()["predictions"][0]["label"] == "Bag"


async def test_too_many_other_fields(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    response = await client.post(
        "/predict", files=parts(pictures["Bag"]), data={f"field-{index}": "" for index in range(17)}
    )

    problem_of(response, 400, "malformed-multipart")


async def test_a_text_field_of_a_mebibyte_is_the_largest(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    async def post(size: int) -> httpx.Response:
        return await client.post("/predict", files=parts(pictures["Bag"]), data={"comment": "x" * size})

    assert (await post(2**20)).status_code == 200
    assert "1048576" in problem_of(await post(2**20 + 1), 400, "malformed-multipart")["detail"]


async def test_files_of_other_fields_are_ignored_but_counted(
    small_client: httpx.AsyncClient, pictures: dict[str, bytes]
) -> None:
    others = [("other", ("other.png", b"x"))]

    answered = await small_client.post("/predict", files=[*parts(pictures["Bag"]), *others * 3])
    refused = await small_client.post("/predict", files=[*parts(pictures["Bag"]), *others * 4])

    assert [prediction["filename"] for prediction in answered.json()["predictions"]] == ["0.png"]
    problem_of(refused, 413, "too-many-images")


@pytest.mark.parametrize("filename", ["../../etc/passwd", "<script>.png", "Schuh ä.png", "靴.png", 'a"b.png'])
async def test_a_file_name_is_only_text(client: httpx.AsyncClient, pictures: dict[str, bytes], filename: str) -> None:
    response = await client.post("/predict", files={"file": (filename, pictures["Bag"])})

    expected = filename.replace('"', "%22")  # as the HTML standard has browsers and httpx send it
    assert response.json()["predictions"][0]["filename"] == expected


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/xml", "application/x-www-form-urlencoded"]
)
async def test_other_request_types(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/predict", content=b"{}", headers={"Content-Type": content_type})

    assert content_type in problem_of(response, 415, "unsupported-media-type")["detail"]
    assert "multipart/form-data" in response.headers["Accept"]  # RFC 9110, section 15.5.16


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
async def test_compressed_bodies_are_not_inflated(
    client: httpx.AsyncClient, pictures: dict[str, bytes], encoding: str
) -> None:
    response = await client.post("/predict", content=pictures["Bag"], headers={"Content-Encoding": encoding})

    assert encoding in problem_of(response, 415, "unsupported-content-encoding")["detail"]
    assert response.headers["Accept-Encoding"] == "identity"


async def test_identity_is_no_compression(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    response = await client.post("/predict", content=pictures["Bag"], headers={"Content-Encoding": "identity"})

    assert response.status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_wrong_method(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, "/predict")

    problem_of(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", ["/web", "/predict/more", "/v1/predict", "/models/fashion-mnist/1/card.json"])
async def test_unknown_path(client: httpx.AsyncClient, path: str) -> None:
    problem_of(await client.get(path), 404, "not-found")


# Limits


async def test_the_image_limit_is_the_last_number_accepted(
    small_client: httpx.AsyncClient, pictures: dict[str, bytes]
) -> None:
    four, five = ([pictures["Bag"]] * number for number in (4, 5))

    assert (await small_client.post("/predict", files=parts(*four))).status_code == 200
    problem = problem_of(await small_client.post("/predict", files=parts(*five)), 413, "too-many-images")
    assert problem["max_images"] == 4


@pytest.mark.parametrize("with_length", [True, False], ids=["Content-Length", "chunked"])
async def test_the_body_limit_is_the_last_size_accepted(
    small_client: httpx.AsyncClient, pictures: dict[str, bytes], with_length: bool
) -> None:
    async def post(size: int) -> httpx.Response:
        body = pictures["Bag"].ljust(size, b"\0")  # bytes after the end of a PNG are nobody's
        content = body if with_length else chunked(body[:10_000], body[10_000:])
        return await small_client.post("/predict", content=content)

    assert (await post(20_000)).status_code == 200
    response = await post(20_001)
    assert problem_of(response, 413, "body-too-large")["max_bytes"] == 20_000
    assert response.headers["Connection"] == "close"


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=b"])
async def test_an_announced_body_over_the_limit_is_not_read(small_client: httpx.AsyncClient, content_type: str) -> None:
    num_chunks_read = 0

    async def body() -> AsyncGenerator[bytes, None]:
        nonlocal num_chunks_read
        num_chunks_read += 1
        yield bytes(10)

    headers = {"Content-Type": content_type, "Content-Length": "20001"}
    response = await small_client.post("/predict", content=body(), headers=headers)

    problem_of(response, 413, "body-too-large")
    assert num_chunks_read == 0


async def test_a_multipart_body_over_the_limit_is_refused_on_the_way(small_client: httpx.AsyncClient) -> None:
    body, content_type = multipart(bytes(25_000))

    response = await small_client.post(
        "/predict", content=chunked(body[:15_000], body[15_000:]), headers={"Content-Type": content_type}
    )

    problem_of(response, 413, "body-too-large")


@pytest.mark.parametrize("as_multipart", [True, False])
async def test_a_body_that_trickles_is_cut_off(
    small_client: httpx.AsyncClient, pictures: dict[str, bytes], as_multipart: bool
) -> None:
    body, content_type = multipart(pictures["Bag"]) if as_multipart else (pictures["Bag"], "image/png")
    trickle = chunked(*(body[i : i + 10] for i in range(0, len(body), 10)), pause_seconds=0.1)

    response = await small_client.post("/predict", content=trickle, headers={"Content-Type": content_type})

    assert problem_of(response, 408, "request-timeout")["timeout_seconds"] == 0.3
    assert response.headers["Connection"] == "close"


async def _post_and_leave(
    client: httpx.AsyncClient,
    *messages: dict[str, object],
    content_type: str = "image/png",
    query: str = "",
    after: threading.Event | None = None,
) -> None:
    """Send these ASGI messages to POST /predict, then, `after` something or at once, that the client has left."""
    coming = iter([*messages, {"type": "http.disconnect"}])

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0)
        message = next(coming)
        if after is not None and message["type"] == "http.disconnect":
            await asyncio.to_thread(after.wait, 20)
        return message

    async def send(message: dict[str, object]) -> None:
        pass

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict",
        "raw_path": b"/predict",
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"content-type", content_type.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await client._transport.app(scope, receive, send)


async def test_a_client_that_leaves_is_not_our_failure(settings: Settings) -> None:
    """An upload broken off must not raise out of the application: servers log that as a bug of ours."""
    async with running(settings) as client:
        await wait_for(client, "/health/ready")
        await _post_and_leave(client, {"type": "http.request", "body": b"abc", "more_body": True})
        metrics = (await client.get("/metrics")).text

    assert 'status="500"' not in metrics


async def test_a_picture_whose_client_has_left_costs_no_forward_pass(
    settings: Settings, pictures: dict[str, bytes], gate: threading.Event
) -> None:
    """Both workers are held; what comes next and leaves is dropped from the queue and never looked at."""
    async with running(settings.model_copy(update={"max_batch_size": 1})) as client:
        await wait_for(client, "/health/ready")
        gate.clear()
        held = [asyncio.create_task(client.post("/predict", content=pictures["Bag"])) for _ in range(2)]
        await wait_for(client, "/metrics", "wardrobe_queue_images 2.0")

        await _post_and_leave(client, {"type": "http.request", "body": pictures["Coat"], "more_body": False})
        queued = (await client.get("/metrics")).text
        gate.set()
        answers = await asyncio.gather(*held)
        metrics = (await client.get("/metrics")).text

    assert "wardrobe_queue_images 2.0" in queued
    assert [answer.status_code for answer in answers] == [200, 200]
    assert 'label="Coat"' not in metrics
    assert 'wardrobe_batch_size_count{model="fashion-mnist"} 2.0' in metrics


# Heat maps


class Drawing:
    """How many heat maps were begun; `opened` cleared holds them up, `fails` has what some raise instead."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.fails: list[Exception] = []
        self.begun = threading.Event()
        self.num_begun = 0

    def evidence(self, pixels: np.ndarray) -> np.ndarray:
        self.num_begun += 1
        self.begun.set()
        self.opened.wait(timeout=20)
        if self.fails:
            raise self.fails.pop()
        return np.ones((10, 7, 7), np.float32)


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Drawing:
    """The shipped model has no heat map: here it has one."""
    drawing = Drawing()
    monkeypatch.setattr(Artifact, "evidence", lambda self, pixels: drawing.evidence(pixels))
    return drawing


@pytest.fixture
def one_model(artifact: Artifact, tmp_path: Path) -> Settings:
    """A service that starts sooner than one with both models and engines."""
    folder = tmp_path / artifact.card.name
    folder.mkdir()
    (folder / str(artifact.card.version)).symlink_to(artifact.folder, target_is_directory=True)
    return Settings(models_dir=tmp_path, default_model=artifact.card.name, engine="onnxruntime", num_threads=1)


@pytest.mark.parametrize("failure", [UndecodableImageError("PNG"), RuntimeError("secret text of a library")])
async def test_a_heat_map_that_fails_costs_no_answer(
    client: httpx.AsyncClient, pictures: dict[str, bytes], drawing: Drawing, failure: Exception
) -> None:
    drawing.fails = [failure]

    response = await client.post("/predict?explain=true", files=parts(pictures["Bag"], pictures["Coat"]))

    failed, drawn = [prediction["explanation"] for prediction in response.json()["predictions"]]
    assert (failed["png_base64"], drawn["reason"], drawn["label"]) == (None, None, "Coat")
    assert failed["reason"]
    assert "secret" not in response.text


async def test_images_keep_their_place_in_the_queue_until_their_heat_maps_are_drawn(
    one_model: Settings, pictures: dict[str, bytes], drawing: Drawing
) -> None:
    tiny = one_model.model_copy(update={"max_queue_images": 2, "max_images_per_request": 2})
    async with running(tiny) as client:
        await wait_for(client, "/health/ready")
        drawing.opened.clear()
        explaining = asyncio.create_task(
            client.post("/predict?explain=true", files=parts(pictures["Bag"], pictures["Coat"]))
        )
        await asyncio.to_thread(drawing.begun.wait, 20)

        refused = await client.post("/predict", content=pictures["Coat"])
        drawing.opened.set()
        explained = await explaining
        afterwards = await client.post("/predict", content=pictures["Coat"])

    problem_of(refused, 429, "overloaded")
    assert (explained.status_code, afterwards.status_code) == (200, 200)


async def test_a_heat_map_may_not_take_longer_than_the_answer(
    one_model: Settings, pictures: dict[str, bytes], drawing: Drawing
) -> None:
    async with running(one_model.model_copy(update={"predict_timeout_seconds": 1})) as client:
        await wait_for(client, "/health/ready")
        drawing.opened.clear()

        response = await client.post("/predict?explain=true", content=pictures["Bag"])
        drawing.opened.set()

    assert "within 1 s" in problem_of(response, 429, "overloaded")["detail"]
    assert drawing.num_begun == 1


async def test_no_heat_map_is_drawn_for_a_client_that_has_left(
    one_model: Settings, pictures: dict[str, bytes], drawing: Drawing
) -> None:
    body, content_type = multipart(pictures["Bag"], pictures["Coat"])
    async with running(one_model) as client:
        await wait_for(client, "/health/ready")
        drawing.opened.clear()

        await _post_and_leave(
            client,
            {"type": "http.request", "body": body, "more_body": False},
            content_type=content_type,
            query="explain=true",
            after=drawing.begun,
        )
        drawing.opened.set()
        await client.post("/predict?explain=true", content=pictures["Dress"])

    assert drawing.num_begun == 2  # of the first picture, before its client left, and the other client's


def _wait_until_begun(drawing: Drawing, number: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while drawing.num_begun < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_what_waits_for_its_heat_map_is_let_go_with_its_client(
    one_model: Settings, pictures: dict[str, bytes], drawing: Drawing
) -> None:
    """Also while those of others take long; its file is not even read before it is its turn."""
    read: list[str] = []

    def reading(label: str) -> bytes:
        read.append(label)
        return pictures[label]

    async with running(one_model) as client:
        await wait_for(client, "/health/ready")
        state = client._transport.app.state
        explain = partial(state.predictor.explain, choose=state.store.chooser("fashion-mnist"), label=None)
        drawing.opened.clear()
        held = [asyncio.create_task(explain(partial(reading, "Bag"))) for _ in range(MAX_EXPLANATIONS_AT_ONCE)]
        await asyncio.to_thread(_wait_until_begun, drawing, MAX_EXPLANATIONS_AT_ONCE)

        leaving = asyncio.create_task(explain(partial(reading, "Coat")))
        await asyncio.wait((leaving,), timeout=0.1)
        leaving.cancel()
        await asyncio.wait((leaving,))
        num_left = state.predictor._explaining._work_queue.qsize()
        read_so_far = list(read)
        drawing.opened.set()
        explained = await asyncio.gather(*held)
        again = await explain(partial(reading, "Coat"))

    assert num_left == 0
    assert read_so_far == ["Bag"] * MAX_EXPLANATIONS_AT_ONCE
    assert explained[0] == explained[1] != again


# Overload


async def test_a_full_queue_answers_429_and_recovers(
    settings: Settings, pictures: dict[str, bytes], gate: threading.Event
) -> None:
    tiny = settings.model_copy(update={"max_queue_images": 4, "max_images_per_request": 4})
    async with running(tiny) as client:
        await wait_for(client, "/health/ready")
        gate.clear()
        waiting = [
            asyncio.create_task(client.post("/predict", files=parts(pictures["Bag"], pictures["Dress"])))
            for _ in range(2)
        ]
        await wait_for(client, "/metrics", "wardrobe_queue_images 4.0")

        refused = await client.post("/predict", content=pictures["Coat"])
        alive = await client.get("/health/live")
        gate.set()
        answered = await asyncio.gather(*waiting)
        afterwards = await client.post("/predict", content=pictures["Coat"])

    detail = problem_of(refused, 429, "overloaded")["detail"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert f"{refused.headers['Retry-After']} s" in detail
    assert alive.status_code == 200
    assert [response.status_code for response in answered] == [200, 200]
    assert afterwards.status_code == 200


def _wait_for_an_outcome(order: Order) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not order.outcomes:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_retry_after_is_what_is_left_at_the_measured_rate(
    settings: Settings, pictures: dict[str, bytes], gate: threading.Event
) -> None:
    """Two of three pictures are unanswered; the third is no picture and done with."""
    tiny = settings.model_copy(update={"max_queue_images": 3, "max_images_per_request": 3, "max_batch_size": 1})
    async with running(tiny) as client:
        await wait_for(client, "/health/ready")
        gate.clear()
        predictor = client._transport.app.state.predictor
        waiting = asyncio.create_task(client.post("/predict", files=parts(b"", pictures["Bag"], pictures["Dress"])))
        await wait_for(client, "/metrics", "wardrobe_queue_images 3.0")
        (order,) = predictor._pending
        await asyncio.to_thread(_wait_for_an_outcome, order)
        retry_after = []
        for predictor._scheduler.seconds_per_image in (0.1, 2.0, 30.0):
            refused = await client.post("/predict", content=pictures["Coat"])
            retry_after.append(refused.headers["Retry-After"])
        gate.set()
        await waiting

    assert retry_after == ["1", "4", "60"]


async def test_a_picture_that_no_process_can_be_started_for_may_be_sent_again(
    settings: Settings, pictures: dict[str, bytes]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    bmp = save(garment(60, 40), "BMP")
    async with running(settings) as client:
        await wait_for(client, "/health/ready")
        await client.post("/predict", files=parts(pictures["Bag"]))  # after it the client itself opens nothing more
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # what is open stays open
        try:
            refused = await client.post("/predict", files=parts(pictures["Bag"], bmp))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        answered = await client.post("/predict", files=parts(pictures["Bag"], bmp))

    problem_of(refused, 429, "overloaded")
    assert int(refused.headers["Retry-After"]) > 0
    assert [("error" in it) for it in answered.json()["predictions"]] == [False, False]


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=b"])
async def test_while_the_queue_is_full_no_body_is_read(
    settings: Settings, pictures: dict[str, bytes], gate: threading.Event, content_type: str
) -> None:
    num_chunks_read = 0

    async def body() -> AsyncGenerator[bytes, None]:
        nonlocal num_chunks_read
        num_chunks_read += 1
        yield bytes(10)

    tiny = settings.model_copy(update={"max_queue_images": 1, "max_images_per_request": 1})
    async with running(tiny) as client:
        await wait_for(client, "/health/ready")
        gate.clear()
        waiting = asyncio.create_task(client.post("/predict", content=pictures["Bag"]))
        await wait_for(client, "/metrics", "wardrobe_queue_images 1.0")
        refused = await client.post("/predict", content=body(), headers={"Content-Type": content_type})
        gate.set()
        await waiting

    problem_of(refused, 429, "overloaded")
    assert num_chunks_read == 0


async def test_an_answer_that_takes_too_long_is_429(
    settings: Settings, pictures: dict[str, bytes], gate: threading.Event
) -> None:
    async with running(settings.model_copy(update={"predict_timeout_seconds": 0.2})) as client:
        await wait_for(client, "/health/ready")
        gate.clear()
        response = await client.post("/predict", content=pictures["Coat"])
        gate.set()
        metrics = (await client.get("/metrics")).text

    problem_of(response, 429, "overloaded")
    assert "Retry-After" in response.headers
    assert "wardrobe_queue_images 0.0" in metrics


# Our own failures


async def test_a_failing_network_is_a_500_that_tells_nothing(
    settings: Settings,
    pictures: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scores = Artifact.scores
    failing = False

    def fail_at_will(self: Artifact, batch: np.ndarray) -> list[Scores]:
        if failing:
            raise RuntimeError("secret text of a library")
        return scores(self, batch)

    monkeypatch.setattr(Artifact, "scores", fail_at_will)
    async with running(settings) as client:
        await wait_for(client, "/health/ready")
        failing = True
        response = await client.post("/predict", content=pictures["Coat"])

    problem_of(response, 500, "internal-error")
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "secret" in str(record.exc_info)


async def test_a_bug_is_logged_under_the_id_that_the_client_gets(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: ModelStore, name: str) -> None:
        raise RuntimeError("secret text of a bug")

    monkeypatch.setattr(ModelStore, "chooser", fail)
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://wardrobe") as client,
    ):
        response = await client.post("/predict", content=b"x", headers={"X-Request-ID": "from-the-client"})

    problem = problem_of(response, 500, "internal-error")
    assert "secret" not in response.text
    assert problem["instance"].endswith("from-the-client")
    assert any("secret" in str(record.exc_info) for record in caplog.records if record.name == "app.access")


@pytest.mark.parametrize("charset", ["undefined", "utf-7", "unicode_escape"])
async def test_a_charset_that_could_break_the_answer_is_refused(client: httpx.AsyncClient, charset: str) -> None:
    body, content_type = multipart(b"x")

    response = await client.post(
        "/predict", content=body, headers={"Content-Type": f"{content_type}; charset={charset}"}
    )

    problem_of(response, 400, "malformed-multipart")


# Documentation


async def test_every_status_of_predict_is_in_its_openapi_description(client: httpx.AsyncClient) -> None:
    openapi = (await client.get("/openapi.json")).json()

    responses = openapi["paths"]["/predict"]["post"]["responses"]
    assert {"200", "400", "404", "408", "413", "415", "422", "429", "503"} <= set(responses)
    assert "application/problem+json" in responses["413"]["content"]
    assert "multipart/form-data" in openapi["paths"]["/predict"]["post"]["requestBody"]["content"]


async def test_an_answer_is_what_the_openapi_description_says(
    client: httpx.AsyncClient, pictures: dict[str, bytes]
) -> None:
    """The route writes it itself, past FastAPI's own check."""
    openapi = (await client.get("/openapi.json")).json()
    described = openapi["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]

    response = await client.post("/predict", files=parts(pictures["Bag"], b"broken"))

    assert described == {"$ref": "#/components/schemas/PredictResponse"}
    assert response.headers["Content-Type"] == "application/json"
    assert (
        PredictResponse.model_validate_json(response.content).model_dump(mode="json", exclude_unset=True)
        == response.json()
    )


async def test_the_decisions_are_in_the_openapi_description(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]

    assert schemas["PredictionPublic"]["properties"]["decision"]["enum"] == ["sorted", "review", "not_a_garment"]


def test_the_example_fits_the_schema() -> None:
    assert (
        PredictResponse.model_validate(PREDICT_RESPONSE).model_dump(mode="json", exclude_unset=True) == PREDICT_RESPONSE
    )
