"""/items over HTTP: the whole application with a made-up model that tells colours apart."""

import asyncio
import base64
import csv
import fcntl
import hashlib
import io
import itertools
import threading
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from torch import Tensor

from app.api.examples import ITEM
from app.api.item_schemas import ItemPublic
from app.artifact import Artifact
from app.inference.explanation import FULL_NATS, MAX_ALPHA
from app.settings import Settings
from tests.app.service import parts, problem_of, running, wait_for
from tests.odd_files import save
from tests.tiny_wardrobe import ColourReader, write_tiny_wardrobe

numbers = itertools.count(1)
ZIP = {"Content-Type": "application/zip"}


def colour(red: int, green: int, blue: int) -> bytes:
    """A picture of one colour whose bytes no other test has sent."""
    image = Image.new("RGB", (28, 28), (red, green, blue))
    image.putpixel((0, 0), (next(numbers), 0, 0))
    return save(image, "PNG")


def red() -> bytes:
    return colour(255, 0, 0)  # dress, sorted


def dim_green() -> bytes:
    return colour(0, 100, 0)  # shirt or another one: review


def black() -> bytes:
    return colour(0, 0, 0)  # no garment


@pytest.fixture(scope="module")
def settings(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("items")
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


@pytest.fixture(scope="module")
async def other_client(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Any, None]:
    """Of a service with an empty wardrobe that holds at most 100,000 bytes."""
    folder = tmp_path_factory.mktemp("other") / "data"
    async with running(settings.model_copy(update={"data_dir": folder, "max_stored_bytes": 100_000})) as client:
        await wait_for(client, "/health/ready")
        yield client


async def add(client: httpx.AsyncClient, *contents: bytes) -> list[dict[str, Any]]:
    response = await client.post("/items?model=wardrobe", files=parts(*contents))
    assert response.status_code in (200, 201), response.text
    return [entry["item"] for entry in response.json()["items"]]


async def test_pictures_are_classified_and_kept(client: httpx.AsyncClient) -> None:
    contents = [red(), dim_green(), black()]

    response = await client.post("/items?model=wardrobe", files=parts(*contents))

    assert response.status_code == 201
    items = [entry["item"] for entry in response.json()["items"]]
    assert [item["drawer"] for item in items] == ["dresses", "review", "not_a_garment"]
    assert [item["filename"] for item in items] == ["0.png", "1.png", "2.png"]
    for content, item in zip(contents, items, strict=True):
        predicted = (await client.post("/predict?model=wardrobe&top_k=100", content=content)).json()["predictions"][0]
        assert item["prediction"] == {key: value for key, value in predicted.items() if key != "filename"}
        picture = await client.get(item["urls"]["picture"])
        assert (picture.content, picture.headers["Content-Type"]) == (content, "image/png")
        assert (await client.get(f"/items/{item['id']}")).json() == item


async def test_the_same_bytes_again_give_the_item_that_is_there(client: httpx.AsyncClient) -> None:
    content = red()

    first = await client.post("/items", files=parts(content, content))
    await client.patch(f"/items/{first.json()['items'][0]['item']['id']}", json={"label": "shirt"})
    second = await client.post("/items", content=content)

    assert [entry["duplicate"] for entry in first.json()["items"]] == [False, True]
    assert second.status_code == 200
    (entry,) = second.json()["items"]
    assert (entry["duplicate"], entry["filename"], entry["item"]["filename"]) == (True, None, "0.png")
    assert entry["item"]["label"] == "shirt"


async def test_a_broken_picture_does_not_affect_the_others(client: httpx.AsyncClient) -> None:
    response = await client.post("/items", files=parts(b"a text", red(), red()[:60]))

    assert response.status_code == 201
    text, _, broken = response.json()["items"]
    assert [text["error"]["status"], broken["error"]["status"]] == [415, 422]
    assert text["filename"] == "0.png"


async def test_if_all_are_broken_the_answer_has_the_status_of_the_first(client: httpx.AsyncClient) -> None:
    response = await client.post("/items", files=parts(b"a text", red()[:60]))

    problem = problem_of(response, 415, "unsupported-image-format")
    assert [entry["error"]["status"] for entry in problem["errors"]] == [415, 422]


async def test_a_correction_can_be_taken_back(client: httpx.AsyncClient) -> None:
    (item,) = await add(client, dim_green())

    corrected = await client.patch(f"/items/{item['id']}", json={"label": "longsleeve"}, headers={"If-Match": '"1"'})
    undone = await client.patch(f"/items/{item['id']}", json={"undo": True}, headers={"If-Match": '"2"'})
    again = await client.patch(f"/items/{item['id']}", json={"undo": True})

    assert (corrected.json()["label"], corrected.json()["drawer"], corrected.headers["ETag"]) == (
        "longsleeve",
        "other",
        '"2"',
    )
    assert (undone.json()["drawer"], undone.json()["corrected"]) == ("review", False)
    assert [correction["label"] for correction in undone.json()["corrections"]] == ["longsleeve"]
    problem_of(again, 409, "nothing-to-undo")


async def test_of_two_tabs_the_second_is_told_what_the_first_did(client: httpx.AsyncClient) -> None:
    (item,) = await add(client, dim_green())
    await client.patch(f"/items/{item['id']}", json={"label": "dress"}, headers={"If-Match": '"1"'})

    response = await client.patch(f"/items/{item['id']}", json={"label": "shirt"}, headers={"If-Match": '"1"'})
    deletion = await client.delete(f"/items/{item['id']}", headers={"If-Match": '"1"'})

    problem = problem_of(response, 412, "changed-meanwhile")
    assert (problem["revision"], problem["item"]["label"]) == (2, "dress")
    problem_of(deletion, 412, "changed-meanwhile")


async def test_many_are_moved_and_moved_back(client: httpx.AsyncClient) -> None:
    items = await add(client, red(), dim_green())
    seen = [{"id": item["id"], "revision": 1} for item in items]

    moved = await client.patch("/items", json={"items": [*seen, {"id": "0" * 64}], "change": {"drawer": "outerwear"}})
    back = await client.patch(
        "/items", json={"items": [entry | {"revision": 2} for entry in seen], "change": {"undo": True}}
    )

    assert [entry["item"]["drawer"] for entry in moved.json()["items"][:2]] == ["outerwear", "outerwear"]
    assert moved.json()["items"][2]["error"]["status"] == 404
    assert [entry["item"]["drawer"] for entry in back.json()["items"]] == ["dresses", "review"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"undo": False},
        {"undo": 1},
        {"undo": True, "label": "shirt"},
        {"label": ""},
        {"label": "a\u0000b"},
        {"label": "a" * 101},
        {"drawer": "attic"},
        {"colour": "red"},
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(client: httpx.AsyncClient, change: dict[str, Any]) -> None:
    response = await client.patch(f"/items/{'0' * 64}", json=change)

    problem_of(response, 422, "invalid-parameter")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/items", "GET, POST, PATCH"),
        ("PUT", f"/items/{'0' * 64}", "GET, PATCH, DELETE"),
        ("PATCH", "/items/delete", "POST"),
        ("DELETE", "/items/import", "POST"),
        ("PATCH", "/items/export.zip", "GET"),
    ],
)
async def test_a_wrong_method_is_told_all_that_are_right(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)

    problem_of(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == allowed


@pytest.mark.parametrize("item_id", ["0" * 63, "0" * 65, "A" * 64, "export"])
async def test_what_is_no_id_is_not_there(client: httpx.AsyncClient, item_id: str) -> None:
    problem_of(await client.get(f"/items/{item_id}"), 404, "not-found")


async def test_an_own_label_needs_a_drawer(client: httpx.AsyncClient) -> None:
    (item,) = await add(client, red())

    without = await client.patch(f"/items/{item['id']}", json={"label": "hoodie"})
    with_one = await client.patch(f"/items/{item['id']}", json={"label": "hoodie", "drawer": "tops"})

    assert "longsleeve" in problem_of(without, 422, "unknown-label")["detail"]
    assert (with_one.json()["label"], with_one.json()["drawer"]) == ("hoodie", "tops")


async def test_deleted_is_gone(client: httpx.AsyncClient) -> None:
    one, two, three = await add(client, red(), red(), red())
    await client.get(one["urls"]["thumbnail"])

    single = await client.delete(f"/items/{one['id']}")
    many = await client.post("/items/delete", json={"items": [{"id": two["id"]}, {"id": one["id"]}]})

    assert single.status_code == 204
    assert many.json()["items"][0] == {"id": two["id"], "deleted": True}
    assert many.json()["items"][1]["error"]["status"] == 404
    for path in (f"/items/{one['id']}", one["urls"]["picture"], one["urls"]["thumbnail"]):
        problem_of(await client.get(path), 404, "not-found")
    assert (await client.get(three["urls"]["picture"])).status_code == 200


async def test_pages_filters_and_orders(client: httpx.AsyncClient) -> None:
    tag = f"page{next(numbers)}"
    files = [("file", (f"{tag}-{name}.png", content)) for name, content in (("a", red()), ("b", dim_green()))]
    await client.post("/items?model=wardrobe", files=files)

    first = (await client.get("/items", params={"q": tag, "limit": 1, "sort": "filename"})).json()
    second = (
        await client.get("/items", params={"q": tag, "limit": 1, "sort": "filename", "cursor": first["next"]})
    ).json()
    tray = (await client.get("/items", params={"q": tag.upper(), "drawer": ["review", "bags"]})).json()

    assert [page["items"][0]["filename"] for page in (first, second)] == [f"{tag}-a.png", f"{tag}-b.png"]
    assert (first["total"], second["next"]) == (2, None)
    assert [item["filename"] for item in tray["items"]] == [f"{tag}-b.png"]
    assert tray["drawers"]["dresses"] >= 1


@pytest.mark.parametrize(
    ("sort", "content"),
    [
        ("added", "no JSON"),
        ("added", '["a"]'),
        ("added", '[1, "a"]'),
        ("added", '["0001-01-01T00:00:00+14:00", "a"]'),
        ("added", '["9999-12-31T23:59:59-12:00", "a"]'),
        ("probability", f'[1{"0" * 400}, "a"]'),
        ("label", f'[1{"0" * 400}, "a"]'),
        ("label", '["a\\u0000", "a"]'),
        ("label", '["a", "\\ud800"]'),
        ("label", "[" * 1400),
    ],
)
async def test_a_cursor_of_somebody_elses_making_is_refused(client: httpx.AsyncClient, sort: str, content: str) -> None:
    cursor = base64.urlsafe_b64encode(content.encode()).decode()

    for text in (cursor, cursor[1:]):
        problem_of(await client.get("/items", params={"sort": sort, "cursor": text}), 422, "invalid-cursor")


async def test_a_thumbnail_is_small_and_upright(client: httpx.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    buffer = io.BytesIO()
    Image.new("RGB", (600, 400), (next(numbers), 0, 0)).save(buffer, "TIFF", exif=exif, compression="tiff_lzw")
    (item,) = await add(client, buffer.getvalue())

    responses = [await client.get(item["urls"]["thumbnail"], params={"size": 160}) for _ in range(2)]

    for response in responses:
        image = Image.open(io.BytesIO(response.content))
        assert (image.format, image.size) == ("JPEG", (107, 160))
    problem_of(await client.get(item["urls"]["thumbnail"], params={"size": 161}), 422, "invalid-parameter")


@pytest.mark.parametrize("path", ["picture", "thumbnail?size=160"])
async def test_a_picture_runs_nothing_in_a_browser_and_is_not_sent_twice_nor_shown_after_its_removal(
    client: httpx.AsyncClient, path: str
) -> None:
    (item,) = await add(client, red())
    url = f"/items/{item['id']}/{path}"

    response = await client.get(url)
    seen = {"If-None-Match": response.headers["ETag"]}
    again = await client.get(url, headers=seen)
    of_another_size = await client.get(f"/items/{item['id']}/thumbnail?size=960", headers=seen)
    await client.delete(f"/items/{item['id']}")
    removed = await client.get(url, headers=seen)

    assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "private, no-cache"  # a browser asks each time
    assert (again.status_code, again.content, of_another_size.status_code) == (304, b"", 200)
    problem_of(removed, 404, "not-found")


async def test_a_heat_map_lies_over_the_picture(client: httpx.AsyncClient) -> None:
    """Of an item and of a prediction: all of a red picture speaks for a dress, nothing for a shirt.

    By 8 / 2 nats, a logit's distance divided by the temperature; FULL_NATS are as opaque as it gets, in every picture.
    """
    content = save(Image.new("RGB", (30, 20), "red"), "PNG")
    (item,) = await add(client, content)

    dress = await client.get(item["urls"]["explanation"])
    shirt = await client.get(item["urls"]["explanation"], params={"label": "shirt"})
    unknown = await client.get(item["urls"]["explanation"], params={"label": "hoodie"})
    predicted = await client.post("/predict?explain=true", content=content)

    assert dress.headers["Content-Type"] == "image/png"
    alphas = [Image.open(io.BytesIO(png.content)).getchannel("A").getextrema() for png in (dress, shirt)]
    opaque = int(MAX_ALPHA / FULL_NATS * 4)
    assert alphas == [(opaque, opaque), (0, 0)]
    problem_of(unknown, 422, "unknown-label")
    explanation = predicted.json()["predictions"][0]["explanation"]
    assert explanation == {
        "label": "dress",
        "png_base64": base64.b64encode(dress.content).decode(),
        "input_png_base64": base64.b64encode((await client.get(item["urls"]["input"])).content).decode(),
        "reason": None,
    }
    assert "explanation" not in (await client.post("/predict", content=content)).json()["predictions"][0]


async def test_weak_evidence_looks_weak(client: httpx.AsyncClient) -> None:
    dark, bright = await add(client, colour(60, 40, 0), colour(250, 40, 0))

    maps = [await client.get(item["urls"]["explanation"]) for item in (dark, bright)]

    weak, strong = [Image.open(io.BytesIO(png.content)).getchannel("A").getextrema()[1] for png in maps]
    opaque = MAX_ALPHA / FULL_NATS * 4
    assert (weak, strong) == pytest.approx((opaque * 20 / 255, opaque * 210 / 255), abs=1.5)


async def test_the_picture_that_the_network_gets_is_shown_as_it_is(client: httpx.AsyncClient) -> None:
    """This one gets 8x8 pixels of the mean colour."""
    (item,) = await add(client, save(Image.new("RGB", (30, 20), (250, 100, 3)), "PNG"))

    response = await client.get(item["urls"]["input"])

    image = Image.open(io.BytesIO(response.content))
    assert (response.headers["Content-Type"], image.format, image.size) == ("image/png", "PNG", (8, 8))
    assert image.getcolors() == [(64, (250, 100, 3))]


async def test_an_explanation_may_not_take_longer_than_a_prediction(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    monkeypatch.setattr(Artifact, "evidence", lambda self, pixels: opened.wait(20) or None)
    short = settings.model_copy(update={"data_dir": tmp_path / "data", "predict_timeout_seconds": 1})
    async with running(short) as client:
        await wait_for(client, "/health/ready")
        (item,) = await add(client, red())

        response = await client.get(item["urls"]["explanation"])
        opened.set()

    assert "within 1 s" in problem_of(response, 429, "overloaded")["detail"]


class TwoOutputs(ColourReader):
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        colour = batch.mean(dim=(2, 3))
        return 8 * colour, 20 * (colour.amax(dim=1) - 0.1)


async def test_a_model_without_a_heat_map_says_so(settings: Settings, artifact: Artifact, tmp_path: Path) -> None:
    write_tiny_wardrobe(tmp_path / "models", template=artifact.card, network=TwoOutputs)
    older = settings.model_copy(update={"models_dir": tmp_path / "models", "data_dir": tmp_path / "data"})
    async with running(older) as client:
        await wait_for(client, "/health/ready")
        (item,) = await add(client, red())

        explanation = await client.get(item["urls"]["explanation"])
        predicted = await client.post("/predict?explain=true", content=red())

    assert "wardrobe/1" in problem_of(explanation, 404, "no-heat-map")["detail"]
    explained = predicted.json()["predictions"][0]["explanation"]
    assert (explained["png_base64"], explained["reason"]) == (None, explanation.json()["detail"])
    assert explained["input_png_base64"] is not None


async def test_a_wardrobe_moves(client: httpx.AsyncClient, other_client: httpx.AsyncClient) -> None:
    """Exported, imported where there is nothing, and again: the same items, corrections and pictures."""
    contents = [red(), dim_green(), black()]
    items = await add(client, *contents)
    await client.patch(f"/items/{items[0]['id']}", json={"label": "hoodie", "drawer": "tops"})
    await client.patch(f"/items/{items[1]['id']}", json={"label": "shirt"})
    await client.patch(f"/items/{items[1]['id']}", json={"undo": True})
    ids = {item["id"] for item in items}
    archive = await client.get("/items/export.zip")

    imported = await other_client.post("/items/import", content=archive.content, headers=ZIP)
    twice = await other_client.post("/items/import", content=archive.content, headers=ZIP)

    everything = (await client.get("/items?limit=500&sort=added")).json()
    assert imported.json() == {"added": everything["total"], "merged": 0, "unchanged": 0, "failed": []}
    assert twice.json() == {"added": 0, "merged": 0, "unchanged": everything["total"], "failed": []}
    assert (await other_client.get("/items?limit=500&sort=added")).json() == everything
    for content, item in zip(contents, items, strict=True):
        assert (await other_client.get(item["urls"]["picture"])).content == content
    assert ids <= {item["id"] for item in everything["items"]}


async def test_an_import_adds_the_corrections_that_are_missing_and_overwrites_none(client: httpx.AsyncClient) -> None:
    (item,) = await add(client, dim_green())
    await client.patch(f"/items/{item['id']}", json={"label": "dress"})
    archive = (await client.get("/items/export.zip")).content
    await client.delete(f"/items/{item['id']}")
    (item,) = await add(client, (await _picture(archive, item["id"])))
    await client.patch(f"/items/{item['id']}", json={"label": "shirt"})

    response = await client.post("/items/import", content=archive, headers=ZIP)

    assert response.json()["merged"] == 1
    now = (await client.get(f"/items/{item['id']}")).json()
    assert [correction["label"] for correction in now["corrections"]] == ["dress", "shirt"]
    assert now["label"] == "shirt"


async def _picture(archive: bytes, item_id: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(next(name for name in opened.namelist() if item_id in name))


async def test_what_is_wrong_in_an_archive_is_left_out_and_named(client: httpx.AsyncClient) -> None:
    good, exchanged, odd = await add(client, red(), red(), red())
    archive = (await client.get("/items/export.zip")).content
    for item in (good, exchanged, odd):
        await client.delete(f"/items/{item['id']}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = red() if exchanged["id"] in name else old.read(name)
            if name == "items.jsonl":
                lines = content.decode().splitlines(keepends=True)
                content = "".join(
                    line.replace('"probability":', '"likelihood":', 1) if odd["id"] in line else line for line in lines
                ).encode()
            new.writestr(name, content)

    response = await client.post("/items/import", content=buffer.getvalue(), headers=ZIP)

    assert response.json()["added"] == 1
    failed = {entry["name"]: entry["error"]["detail"] for entry in response.json()["failed"]}
    assert len(failed) == 2
    assert "not the picture" in failed[f"pictures/dresses/{exchanged['id']}.png"]
    assert "probability" in failed[f"pictures/dresses/{odd['id']}.png"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)], ids=["empty", "text", "no items"])
async def test_what_is_no_export_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    problem_of(await client.post("/items/import", content=content, headers=ZIP), 422, "not-an-export")


async def test_the_table_is_for_people(client: httpx.AsyncClient) -> None:
    """A file name is no formula, and the order is that of adding."""
    await client.post("/items?model=wardrobe", files=[("file", ("=cmd(), über.png", red()))])

    response = await client.get("/items/export.csv", params={"q": "cmd"})

    (row,) = csv.DictReader(io.StringIO(response.text))
    assert (row["filename"], row["drawer"], row["model"]) == ("'=cmd(), über.png", "dresses", "wardrobe/1")
    assert response.headers["Content-Disposition"].startswith('attachment; filename="wardrobe-')


async def test_a_full_wardrobe_answers_507(client: httpx.AsyncClient, other_client: httpx.AsyncClient) -> None:
    noise = Image.effect_noise((400, 400), 90)

    response = await other_client.post("/items", content=save(noise, "PNG"))

    assert problem_of(response, 507, "no-room")["max_bytes"] == 100_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://example.org"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://wardrobe:81"}, 403),
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://wardrobe"}, 201),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
    ],
)
async def test_a_page_of_another_site_changes_nothing(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await client.post("/items", content=red(), headers=headers)

    assert response.status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8000", 200),
        ("192.168.1.5", 200),
        ("[::1]:8000", 200),
        ("wardrobe:80", 200),
        ("rebound.example:8000", 403),
        ("localhost.rebound.example", 403),
        ("127.0.0.1.rebound.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_the_wardrobe_is_not_shown_under_a_name_that_a_site_gave_it(
    client: httpx.AsyncClient, host: str, status: int
) -> None:
    """Its pages would be of the same origin: neither Origin nor Sec-Fetch-Site tells them apart."""
    headers = {"Host": host, "Sec-Fetch-Site": "same-origin"}

    shown = await client.get("/items", headers=headers)
    changed = await client.post("/items/delete", json={"items": [{"id": "0" * 64}]}, headers=headers)
    classified = await client.post("/predict", content=red(), headers=headers)

    assert (shown.status_code, changed.status_code, classified.status_code) == (status, status, 200)
    if status == 403:
        assert "WARDROBE_HOST_NAMES" in problem_of(shown, 403, "unknown-host")["detail"]


async def test_without_storage_the_classifier_goes_on(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    off = settings.model_copy(update={"storage": "off"})
    broken = settings.model_copy(update={"data_dir": tmp_path / "file" / "data"})

    for without, status, slug in ((off, 409, "storage-off"), (broken, 503, "storage-unavailable")):
        async with running(without) as client:
            await wait_for(client, "/health/ready")
            responses = [
                await client.get("/items"),
                await client.post("/items", content=red()),
                await client.get("/items/export.zip"),
                await client.post("/items/import", content=b"", headers=ZIP),
            ]
            predicted = await client.post("/predict", content=red())

        for response in responses:
            problem_of(response, status, slug)
        assert predicted.status_code == 200


async def test_an_api_key_is_wanted_for_items_too_and_opens_them_under_any_name(settings: Settings) -> None:
    key = "tests-only"
    digest = hashlib.sha256(key.encode()).hexdigest()
    keyed = settings.model_copy(update={"api_key_sha256": (digest,)})

    async with running(keyed) as client:
        responses = [await client.get("/items"), await client.post("/items/delete", json={"items": []})]
        named = {"Host": "any.example", "Authorization": f"Bearer {key}"}
        opened = await client.get("/items", headers=named)

    for response in responses:
        problem_of(response, 401, "unauthorized")
    assert opened.status_code == 200


async def test_a_slow_disk_does_not_hold_up_others(client: httpx.AsyncClient, settings: Settings) -> None:
    """While another process removes something, additions wait for it; the event loop does not."""
    with (settings.data_dir / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        adding = asyncio.create_task(add(client, red()))
        answers = [await client.post("/predict", content=red()) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert not adding.done()
    (item,) = await adding
    assert item["drawer"] == "dresses"


def test_the_example_in_the_api_description_is_an_item() -> None:
    assert ItemPublic.model_validate(ITEM).drawer == ITEM["drawer"]
