"""Health, metrics and request ids."""

import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.app.service import parts


async def samples(client: httpx.AsyncClient, name: str) -> list[dict[str, str]]:
    """The label sets under which a metric was counted."""
    text = (await client.get("/metrics")).text
    return [
        sample.labels
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_health(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_every_metric_is_there_after_a_request(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    await client.post("/predict", files=parts(pictures["Bag"], b"broken"))

    response = await client.get("/metrics")

    assert response.headers["Content-Type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert {
        "wardrobe_requests",
        "wardrobe_request_seconds",
        "wardrobe_stage_seconds",
        "wardrobe_images",
        "wardrobe_queue_images",
        "wardrobe_batch_size",
    } <= set(families)
    stages = {sample.labels["stage"] for sample in families["wardrobe_stage_seconds"].samples}
    assert stages == {"wait", "decode", "preprocess", "queue", "infer"}


async def test_images_are_counted_by_label_and_outcome(client: httpx.AsyncClient, pictures: dict[str, bytes]) -> None:
    await client.post("/predict", files=parts(pictures["Bag"], b"broken"))

    counted = await samples(client, "wardrobe_images_total")

    assert {"model": "fashion-mnist", "label": "Bag", "outcome": "sorted"} in counted
    assert {"model": "", "label": "", "outcome": "refused"} in counted


async def test_the_route_label_is_the_template(client: httpx.AsyncClient) -> None:
    await client.get("/models/fashion-mnist")
    await client.get("/models/some-other-name")

    counted = await samples(client, "wardrobe_requests_total")

    assert {"method": "GET", "route": "/models/{name}", "status": "200"} in counted
    assert {"method": "GET", "route": "/models/{name}", "status": "404"} in counted
    assert not any("name" in labels["route"].replace("{name}", "") for labels in counted)


async def test_unknown_paths_share_one_label(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.get(f"/scan-{number}.php")

    counted = await samples(client, "wardrobe_requests_total")

    assert {"method": "GET", "route": "unknown", "status": "404"} in counted
    assert not any("scan" in labels["route"] for labels in counted)


async def test_a_wrong_method_is_counted_under_its_route(client: httpx.AsyncClient) -> None:
    await client.get("/predict")

    counted = await samples(client, "wardrobe_requests_total")

    assert {"method": "GET", "route": "/predict", "status": "405"} in counted


@pytest.mark.parametrize("request_id", ["a", "A-b_c.9", "x" * 64])
async def test_a_request_id_is_echoed(client: httpx.AsyncClient, request_id: str) -> None:
    response = await client.get("/nowhere", headers={"X-Request-ID": request_id})

    assert response.headers["X-Request-ID"] == request_id
    assert response.json()["instance"] == f"urn:wardrobe:request:{request_id}"


@pytest.mark.parametrize("request_id", ["", "x" * 65, "two words", "<script>", "caf\xe9", "a\tb"])
async def test_an_id_that_could_break_headers_or_logs_is_replaced(client: httpx.AsyncClient, request_id: str) -> None:
    response = await client.get("/health/live", headers={"X-Request-ID": request_id.encode("latin-1")})

    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])


async def test_each_request_without_an_id_gets_its_own(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/health/live")).headers["X-Request-ID"] for _ in range(3)}

    assert len(ids) == 3
