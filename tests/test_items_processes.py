"""Two services, each a process of its own, on one wardrobe: nothing is lost."""

import hashlib
import itertools
import shutil
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from PIL import Image

from app.artifact import Artifact
from tests.odd_files import save
from tests.postgresql import emptied
from tests.process import serving

NUM_ROUNDS = 8
numbers = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def clients(
    request: pytest.FixtureRequest, artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Generator[list[httpx.Client], None, None]:
    """Of two processes that started at the same time on an empty folder, with one small model."""
    folder = tmp_path_factory.mktemp("items")
    shutil.copytree(artifact.folder, folder / "models" / "fashion-mnist" / str(artifact.card.version))
    settings = {
        "MODELS_DIR": str(folder / "models"),
        "DEFAULT_MODEL": "fashion-mnist",
        "ENGINE": "onnxruntime",
        "NUM_THREADS": "1",
        "STORAGE": "on",
        "DATA_DIR": str(folder / "data"),
    }
    if request.param == "postgresql":
        settings["DATABASE_URL"] = emptied(request.getfixturevalue("postgresql_url"))
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        services = [serving(folder / f"log-{index}", **settings) for index in range(2)]
        yield [client for _, client in pool.map(stack.enter_context, services)]


def picture() -> bytes:
    """Of bytes that no other test has sent."""
    return save(Image.new("L", (28, 28), next(numbers)), "PNG")


def add(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post("/items", content=content)


def test_the_same_picture_sent_to_both_at_once_is_one_item(clients: list[httpx.Client]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(NUM_ROUNDS):
            content = picture()

            answers = list(pool.map(add, clients * 2, [content] * 4))

            entries = [answer.json()["items"][0] for answer in answers]
            assert sorted(entry["duplicate"] for entry in entries) == [False, True, True, True]
            assert len({entry["item"]["id"] for entry in entries}) == 1


def test_of_corrections_that_saw_the_same_revision_one_is_taken(clients: list[httpx.Client]) -> None:
    (entry,) = clients[0].post("/items", content=picture()).json()["items"]
    path = f"/items/{entry['item']['id']}"

    def correct(client: httpx.Client, label: str, revision: int) -> int:
        return client.patch(path, json={"label": label}, headers={"If-Match": f'"{revision}"'}).status_code

    with ThreadPoolExecutor(2) as pool:
        for revision in range(1, NUM_ROUNDS + 1):
            statuses = list(pool.map(correct, clients, ["Coat", "Bag"], [revision] * 2))
            assert sorted(statuses) == [200, 412]
    assert len(clients[1].get(path).json()["corrections"]) == NUM_ROUNDS


def test_corrections_that_saw_no_revision_are_all_kept(clients: list[httpx.Client]) -> None:
    (entry,) = clients[0].post("/items", content=picture()).json()["items"]
    path = f"/items/{entry['item']['id']}"
    labels = [f"label {number}" for number in range(2 * NUM_ROUNDS)]

    def correct(client: httpx.Client, label: str) -> int:
        return client.patch(path, json={"label": label, "drawer": "tops"}).status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = set(pool.map(correct, clients * NUM_ROUNDS, labels))

    item = clients[0].get(path).json()
    assert statuses == {200}
    assert sorted(correction["label"] for correction in item["corrections"]) == sorted(labels)
    assert (item["revision"], item["label"]) == (1 + len(labels), item["corrections"][-1]["label"])


def test_what_is_added_and_deleted_at_once_is_whole_or_gone(clients: list[httpx.Client]) -> None:
    content = picture()
    item_id = hashlib.sha256(content).hexdigest()

    def work(client: httpx.Client, delete: bool) -> int:
        if delete:
            return client.delete(f"/items/{item_id}").status_code
        return client.post("/items", content=content).status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = set(pool.map(work, clients * NUM_ROUNDS, [False, False, True, True] * (NUM_ROUNDS // 2)))

    assert statuses <= {200, 201, 204, 404}
    there = [client.get(f"/items/{item_id}").status_code for client in clients]
    pictures = [client.get(f"/items/{item_id}/picture") for client in clients]
    assert there == [picture.status_code for picture in pictures]
    assert len(set(there)) == 1
    assert all(picture.content == content for picture in pictures if picture.status_code == 200)
