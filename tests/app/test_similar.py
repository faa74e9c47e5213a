"""/similar and what belongs to it over HTTP: a made-up model whose pictures are similar by the shades they share."""

import itertools
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from torch import Tensor

from app.artifact import Artifact
from app.settings import Settings
from tests.app.service import parts, problem_of, running, wait_for
from tests.tiny_wardrobe import ColourReader, plain, write_tiny_wardrobe

shades = itertools.count(20)
sides = itertools.count(30)


@pytest.fixture(scope="module")
def settings(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("similar")
    write_tiny_wardrobe(folder / "models", template=artifact.card)
    return Settings(
        models_dir=folder / "models",
        engine="torchscript",
        num_threads=1,
        host_names=("wardrobe",),
        storage="on",
        data_dir=folder / "data",
    )


@pytest.fixture(scope="module")
async def client(settings: Settings) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with running(settings) as client:
        await wait_for(client, "/health/ready")
        yield client


def twin(red: int, green: int, blue: int) -> bytes:
    """Another picture of the same colour: other bytes, similarity 1."""
    return plain(red, green, blue, side_pixels=next(sides))


async def add(client: httpx.AsyncClient, *contents: bytes) -> list[dict[str, Any]]:
    response = await client.post("/items", files=parts(*contents))
    assert response.status_code == 201, response.text
    return [entry["item"] for entry in response.json()["items"]]


def similarities(found: list[dict[str, Any]], *items: dict[str, Any]) -> list[float]:
    """How similar those items are, by what was found."""
    by_id = {entry["item"]["id"]: entry["similarity"] for entry in found}
    return [by_id[item["id"]] for item in items]


async def test_the_items_most_similar_to_an_item_are_named(client: httpx.AsyncClient) -> None:
    red, green, blue = (next(shades) for _ in range(3))
    item, two_shared, one_shared = await add(
        client, plain(red, green, blue), plain(red, green, 250), plain(red, 251, 252)
    )

    response = await client.get(item["urls"]["similar"], params={"limit": 2})

    assert response.status_code == 200
    answer = response.json()
    assert [entry["item"] for entry in answer["items"]] == [two_shared, one_shared]
    assert [entry["similarity"] for entry in answer["items"]] == pytest.approx([2 / 3, 1 / 3], abs=1e-3)
    assert answer["num_waiting"] == 0


async def test_the_items_most_similar_to_a_picture_are_named_and_it_is_not_kept(client: httpx.AsyncClient) -> None:
    red, green, blue = (next(shades) for _ in range(3))
    (item,) = await add(client, plain(red, green, blue))
    picture = twin(red, green, 253)
    num_items = (await client.get("/items")).json()["total"]

    many = await client.post("/similar?limit=1", files=parts(picture, b"no picture", twin(red, green, blue)))
    raw = await client.post("/similar?limit=1", content=picture, headers={"Content-Type": "image/png"})
    none = await client.post("/similar", content=b"no picture")

    first, failed, second = many.json()["pictures"]
    assert [entry["item"] for entry in first["items"]] == [item]
    assert similarities(first["items"], item) == pytest.approx([2 / 3], abs=1e-3)
    assert similarities(second["items"], item) == pytest.approx([1], abs=1e-3)
    assert (failed["filename"], failed["error"]["status"]) == ("1.png", 415)
    assert raw.json()["pictures"] == [first | {"filename": None}]
    problem_of(none, 415, "unsupported-image-format")
    assert (await client.get("/items")).json()["total"] == num_items


async def test_a_garment_that_comes_twice_is_pointed_out_until_both_are_wanted(client: httpx.AsyncClient) -> None:
    red = next(shades)
    (first,) = await add(client, plain(red, 1, 1))

    second, other = await add(client, twin(red, 1, 1), plain(red, 1, 100))
    asked = (await client.get("/items?possible_duplicate=true")).json()["items"]
    kept = await client.delete(f"/items/{second['id']}/possible-duplicate")
    again = await client.delete(f"/items/{second['id']}/possible-duplicate")

    assert first["possible_duplicate_of"] is None
    assert second["possible_duplicate_of"] == first["id"]
    assert other["possible_duplicate_of"] is None
    assert (second in asked, first in asked, other in asked) == (True, False, False)
    assert second not in (await client.get("/items?possible_duplicate=true")).json()["items"]
    assert kept.json() == second | {"possible_duplicate_of": None} == again.json()
    assert (await client.get(f"/items/{second['id']}")).json() == kept.json()
    problem_of(await client.delete(f"/items/{'0' * 64}/possible-duplicate"), 404, "not-found")


async def test_imported_items_are_found_too(client: httpx.AsyncClient, settings: Settings, tmp_path: Path) -> None:
    """They come without embeddings and get them in the background; a broken picture does not hold the others up."""
    red = next(shades)
    item, other = await add(client, plain(red, 2, 2), plain(red, 2, 200))
    archive = (await client.get("/items/export.zip")).content

    async with running(settings.model_copy(update={"data_dir": tmp_path / "data"})) as moved:
        await wait_for(moved, "/health/ready")
        imported = await moved.post("/items/import", content=archive, headers={"Content-Type": "application/zip"})
        assert imported.json()["failed"] == []
        at_once = await moved.get(item["urls"]["similar"])
        answer = (await wait_for(moved, item["urls"]["similar"], '"num_waiting":0')).json()

    assert at_once.status_code == 200
    assert similarities(answer["items"], other) == pytest.approx([2 / 3], abs=1e-3)


class ThreeOutputs(ColourReader):
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        colour = batch.mean(dim=(2, 3))
        return 8 * colour, 20 * (colour.amax(dim=1) - 0.1), 8 * batch


async def test_a_model_without_embeddings_says_so_and_a_newer_one_embeds_what_is_there(
    settings: Settings, artifact: Artifact, tmp_path: Path
) -> None:
    write_tiny_wardrobe(tmp_path / "old", template=artifact.card, network=ThreeOutputs)
    data_dir = tmp_path / "data"
    async with running(settings.model_copy(update={"models_dir": tmp_path / "old", "data_dir": data_dir})) as client:
        await wait_for(client, "/health/ready")
        item, same = await add(client, plain(9, 9, 9), twin(9, 9, 9))
        answers = [await client.get(item["urls"]["similar"]), await client.post("/similar", content=plain(9, 9, 9))]

    assert same["possible_duplicate_of"] is None
    for answer in answers:
        assert "wardrobe/1" in problem_of(answer, 404, "no-embedding")["detail"]
    async with running(settings.model_copy(update={"data_dir": data_dir})) as client:
        await wait_for(client, "/health/ready")
        found = (await wait_for(client, item["urls"]["similar"], '"num_waiting":0')).json()["items"]
    assert similarities(found, same) == pytest.approx([1], abs=1e-3)


@pytest.mark.parametrize(("method", "path"), [("POST", "/similar"), ("GET", "/items/{id}/similar")])
async def test_what_is_similar_is_shown_to_no_other_site(client: httpx.AsyncClient, method: str, path: str) -> None:
    (item,) = await add(client, plain(next(shades), 3, 3))
    url = path.format(id=item["id"])

    response = await client.request(method, url, content=plain(1, 1, 1), headers={"Host": "rebound.example"})

    problem_of(response, 403, "unknown-host")


async def test_without_storage_nothing_is_similar(settings: Settings) -> None:
    async with running(settings.model_copy(update={"storage": "off"})) as client:
        await wait_for(client, "/health/ready")

        responses = [
            await client.post("/similar", content=plain(1, 1, 1)),
            await client.get(f"/items/{'0' * 64}/similar"),
        ]

    for response in responses:
        problem_of(response, 409, "storage-off")
