"""Items through the Python clients, against a service in a process of its own that keeps them."""

import csv
import itertools
import threading
import zipfile
from collections.abc import AsyncGenerator, Callable, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from app.api.item_schemas import AddedItem, ChangedItem, DeletedItem, FailedItem, ItemPublic, SimilarPicture
from app.api.schemas import FailedImagePublic
from app.client import AsyncWardrobeClient, InvalidRequestError, NotFoundError, UnreachableError, WardrobeClient
from app.client import calls as client_calls
from tests.process import serving
from tests.tiny_wardrobe import plain

SIDE_PIXELS = 80  # larger than a thumbnail of Fashion-MNIST
shades = itertools.count(30)


@pytest.fixture(scope="module")
def url(two_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    folder = tmp_path_factory.mktemp("kept")
    settings = {"MODELS_DIR": str(two_models_dir), "ENGINE": "torchscript", "NUM_THREADS": "1"}
    with serving(folder / "log", STORAGE="on", DATA_DIR=str(folder / "data"), **settings) as (_, client):
        yield str(client.base_url)


@pytest.fixture
def client(url: str) -> Generator[WardrobeClient, None, None]:
    with WardrobeClient(url) as client:
        yield client


@pytest.fixture
async def async_client(url: str) -> AsyncGenerator[AsyncWardrobeClient, None]:
    async with AsyncWardrobeClient(url) as client:
        yield client


def unsure() -> bytes:
    """A dress or a shirt, of a shade that no other test has sent."""
    return plain(200, 150, next(shades), side_pixels=SIDE_PIXELS)


def added(client: WardrobeClient, *pictures: bytes) -> list[ItemPublic]:
    entries = client.add(pictures)
    return [entry.item for entry in entries if isinstance(entry, AddedItem)]


def test_pictures_are_added_once_and_broken_ones_named(client: WardrobeClient) -> None:
    picture = unsure()

    first, broken = client.add([picture, b"no picture"])
    again = client.add(picture)[0]

    assert isinstance(first, AddedItem)
    assert isinstance(again, AddedItem)
    assert isinstance(broken, FailedImagePublic)
    assert (first.duplicate, again.duplicate, broken.error.status) == (False, True, 415)
    assert again.item == first.item == client.item(first.item.id)
    assert client.picture(first.item.id) == picture


def test_all_items_are_walked_through_page_by_page(client: WardrobeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_calls, "PAGE_ITEMS", 2)
    items = added(client, *(unsure() for _ in range(5)))

    newest = list(itertools.islice(client.items(drawers=["review"]), 5))
    oldest = list(client.items(drawers=["review", "bags"], sort="added"))

    assert [item.id for item in newest] == [item.id for item in reversed(items)]
    assert oldest[-5:] == items
    assert list(client.items(labels=["hoodie"], words="none")) == []


def test_items_are_corrected_and_corrections_taken_back(client: WardrobeClient) -> None:
    first, second = added(client, unsure(), unsure())

    corrected = client.correct([first, second.id], label="hoodie", drawer="tops")
    outdated = client.correct(first, drawer="bags")[0]
    found = list(client.items(labels=["hoodie"], corrected=True))
    undone = client.undo(second.id)[0]

    assert [entry.item.label for entry in corrected if isinstance(entry, ChangedItem)] == ["hoodie", "hoodie"]
    assert isinstance(outdated, FailedItem)
    assert outdated.error.status == 412
    assert {item.id for item in found} == {first.id, second.id}
    assert isinstance(undone, ChangedItem)
    assert undone.item.drawer == "review"


def test_more_items_than_the_service_takes_at_once_are_sent_in_parts(
    client: WardrobeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_calls, "MAX_BATCH_ITEMS", 2)
    items = added(client, *(unsure() for _ in range(3)))

    deleted = client.delete([*items, "0" * 64])

    assert [type(entry) for entry in deleted] == [DeletedItem, DeletedItem, DeletedItem, FailedItem]
    with pytest.raises(NotFoundError):
        client.item(items[0].id)


def test_a_wardrobe_goes_into_a_file_and_comes_back(client: WardrobeClient, tmp_path: Path) -> None:
    item, _ = added(client, unsure(), unsure())
    for name in ("wardrobe.zip", "wardrobe.csv"):
        client.export(tmp_path / name)
    client.delete(item)

    imported = client.import_zip(tmp_path / "wardrobe.zip")

    assert (imported.added, imported.failed) == (1, [])
    assert client.item(item.id) == item
    assert item.id in {row["id"] for row in csv.DictReader((tmp_path / "wardrobe.csv").read_text().splitlines())}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wardrobe.csv", "wardrobe.zip"]
    with pytest.raises(ValueError, match=r"neither a \.zip nor a \.csv"):
        client.export(tmp_path / "wardrobe.tar")


def test_similar_items_are_found_and_twins_kept(client: WardrobeClient) -> None:
    red = next(shades)
    item, other = added(client, *(plain(red, 60, side, side_pixels=SIDE_PIXELS) for side in (70, 71)))
    same = plain(red, 60, 70, side_pixels=SIDE_PIXELS + 1)

    by_picture, broken = client.similar([same, b"no picture"], limit=1)
    by_item = client.similar_items(item.id, limit=1)
    (twin,) = added(client, same)
    asked = list(client.items(possible_duplicate=True))
    kept = client.keep_both(twin.id)

    assert isinstance(by_picture, SimilarPicture)
    assert [found.item for found in by_picture.items] == [item]
    assert isinstance(broken, FailedImagePublic)
    assert [found.item for found in by_item.items] == [other]
    assert twin.possible_duplicate_of == item.id
    assert (twin in asked, kept.possible_duplicate_of) == (True, None)


async def test_the_async_client_does_the_same(async_client: AsyncWardrobeClient, tmp_path: Path) -> None:
    pictures = [unsure(), unsure()]

    entries = await async_client.add(pictures)
    first, second = [entry.item for entry in entries if isinstance(entry, AddedItem)]
    corrected = await async_client.correct([first, second], drawer="bags")
    undone = await async_client.undo(first.id)
    found = [item async for item in async_client.items(drawers=["bags"])]
    similar = await async_client.similar(pictures[0], limit=1)
    by_item = await async_client.similar_items(second.id, limit=1)
    both = await async_client.keep_both(second.id)
    await async_client.export(tmp_path / "wardrobe.zip")
    picture = await async_client.picture(first.id)
    deleted = await async_client.delete([first.id, second.id])
    imported = await async_client.import_zip(tmp_path / "wardrobe.zip")

    assert [type(entry) for entry in [*corrected, *undone, *deleted]] == [ChangedItem] * 3 + [DeletedItem] * 2
    assert [item.id for item in found] == [second.id]
    assert isinstance(similar[0], SimilarPicture)
    assert similar[0].items[0].item.id == first.id
    assert len(by_item.items) == 1
    assert both.id == second.id
    assert picture == pictures[0]
    assert imported.added == 2
    assert (await async_client.item(second.id)).drawer == "bags"
    assert zipfile.ZipFile(tmp_path / "wardrobe.zip").testzip() is None


def test_the_services_words_are_raised(client: WardrobeClient, tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"no archive")

    with pytest.raises(InvalidRequestError, match="not an export"):
        client.import_zip(tmp_path / "no.zip")


@pytest.mark.parametrize(
    ("act", "is_sent_again"),
    [(lambda client: client.correct("0" * 64, drawer="bags"), False), (lambda client: client.delete("0" * 64), True)],
    ids=["correct", "delete"],
)
def test_what_would_count_twice_is_not_sent_again_when_the_connection_breaks(
    act: Callable[[WardrobeClient], object], is_sent_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a correction nobody knows then whether it arrived; to remove something twice does no harm."""
    monkeypatch.setattr(client_calls, "FIRST_RETRY_SECONDS", 0.01)
    requests: list[str] = []

    class Breaking(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            requests.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = True

        def do_POST(self) -> None:
            self.do_PATCH()

    with HTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with WardrobeClient(url, retry_seconds=1) as client, pytest.raises(UnreachableError):
            act(client)
        server.shutdown()

    assert (len(requests) > 1) == is_sent_again


def test_a_busy_service_is_asked_again_also_for_items() -> None:
    """429 with Retry-After was not done: it may be sent again, whatever it is."""
    answers = iter([429, 200])

    class Busy(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status = next(answers)
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(b'{"items": []}')

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with WardrobeClient(f"http://127.0.0.1:{server.server_port}") as client:
            assert client.undo("0" * 64) == []
        server.shutdown()

    assert list(answers) == []
