"""The Python client against a service in a process of its own."""

import asyncio
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from app import client as client_module
from app import errors
from app.api.problems import TABLE
from app.api.schemas import FailedImagePublic, PredictionPublic
from app.client import (
    AsyncWardrobeClient,
    BusyError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    UnexpectedAnswerError,
    UnreachableError,
    WardrobeClient,
)
from app.inference.predictor import InferenceError
from tests.app.conftest import Narrow
from tests.conftest import PICTURES_FOLDER
from tests.odd_files import garment, save
from tests.process import REPOSITORY, STOP_TIMEOUT_SECONDS

BOOT = PICTURES_FOLDER / "ankle-boot.png"
BAG = PICTURES_FOLDER / "bag.png"


@pytest.fixture
def client(narrow: Narrow) -> Generator[WardrobeClient, None, None]:
    with WardrobeClient(narrow.url, api_key=narrow.api_key) as client:
        yield client


@pytest.fixture
async def async_client(narrow: Narrow) -> AsyncGenerator[AsyncWardrobeClient, None]:
    async with AsyncWardrobeClient(narrow.url, api_key=narrow.api_key) as client:
        yield client


def labels(answers: list[client_module.Answer]) -> list[str]:
    return [answer.label if isinstance(answer, PredictionPublic) else answer.error.type for answer in answers]


def test_paths_bytes_and_open_files_are_answered_in_order(client: WardrobeClient) -> None:
    with BAG.open("rb") as file:
        answers = client.predict([BOOT, str(BAG), BOOT.read_bytes(), file, io.BytesIO(BAG.read_bytes())])

    assert labels(answers) == ["Ankle boot", "Bag", "Ankle boot", "Bag", "Bag"]
    assert [answer.filename for answer in answers] == ["ankle-boot.png", "bag.png", "2", "bag.png", "4"]


def test_one_picture_needs_no_list(client: WardrobeClient) -> None:
    assert labels(client.predict(BOOT)) == ["Ankle boot"]


async def test_the_async_client_answers_as_the_blocking_one(
    client: WardrobeClient, async_client: AsyncWardrobeClient
) -> None:
    pictures = [BOOT, BAG.read_bytes(), b"no picture"]

    answers = await async_client.predict(pictures, top_k=2)

    assert labels(answers) == labels(client.predict(pictures, top_k=2))
    assert await async_client.models() == client.models()
    assert await async_client.card("wardrobe") == client.card("wardrobe")


@pytest.mark.parametrize("others", [[], [b""], [BOOT]])
def test_a_broken_picture_has_the_services_words_in_its_place(
    client: WardrobeClient, others: list[bytes | Path]
) -> None:
    """Alone, among broken ones only, and among good ones: the service answers each of these in another form."""
    answer = client.predict([b"no picture", *others])[0]

    assert isinstance(answer, FailedImagePublic)
    assert answer.error.status == 415
    assert answer.error.detail.startswith("The file is not an image of an accepted format.")


def test_more_pictures_than_the_service_takes_are_sent_in_parts(client: WardrobeClient) -> None:
    assert labels(client.predict([BOOT] * 9 + [BAG])) == ["Ankle boot"] * 9 + ["Bag"]


@pytest.fixture(scope="module")
def large() -> bytes:
    """A picture that takes a while."""
    return save(garment(2_000, 1_500), "PNG")


async def test_a_busy_service_is_asked_again(narrow: Narrow, async_client: AsyncWardrobeClient, large: bytes) -> None:
    turned_away = narrow.num_turned_away()

    answers = await asyncio.gather(*(async_client.predict([large] * 4) for _ in range(4)))

    assert [len(several) for several in answers] == [4] * 4
    assert all(isinstance(answer, PredictionPublic) for several in answers for answer in several)
    assert narrow.num_turned_away() > turned_away


async def test_who_does_not_want_to_wait_is_told_that_the_service_is_busy(narrow: Narrow, large: bytes) -> None:
    async with AsyncWardrobeClient(narrow.url, api_key=narrow.api_key, retry_seconds=0) as client:
        outcomes = await asyncio.gather(*(client.predict([large] * 4) for _ in range(3)), return_exceptions=True)

    busy = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert busy
    assert all(isinstance(error, BusyError) and "Try again in" in str(error) for error in busy)


def test_an_error_of_the_request_is_raised_with_the_services_words(client: WardrobeClient) -> None:
    with pytest.raises(NotFoundError, match=r"There is no model none\. There is: fashion-mnist, wardrobe\.") as raised:
        client.predict(BOOT, model="none")

    assert raised.value.problem.status == 404


def test_a_wrong_parameter_is_raised(client: WardrobeClient) -> None:
    with pytest.raises(InvalidRequestError, match="top_k"):
        client.predict(BOOT, top_k=0)


def test_a_missing_key_is_raised(narrow: Narrow) -> None:
    with WardrobeClient(narrow.url) as client, pytest.raises(KeyRefusedError, match="API key"):
        client.models()


def test_the_models_are_described(client: WardrobeClient) -> None:
    assert [model.name for model in client.models().models] == ["fashion-mnist", "wardrobe"]
    assert client.card("wardrobe")["serving"]["engine"] == "onnxruntime"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_nobody_there_is_said_after_the_time_to_retry() -> None:
    with (
        WardrobeClient(f"http://127.0.0.1:{free_port()}", retry_seconds=0.5) as client,
        pytest.raises(UnreachableError, match="cannot be reached"),
    ):
        client.models()


def test_a_service_that_is_only_starting_is_waited_for() -> None:
    """First nothing listens, then it says 503 until its models are loaded."""
    port = free_port()
    environment = {**os.environ, "WARDROBE_ENGINE": "onnxruntime"}
    command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
    try:
        with WardrobeClient(f"http://127.0.0.1:{port}") as client:
            assert labels(client.predict(BOOT)) == ["Ankle boot"]
    finally:
        process.terminate()
        assert process.wait(STOP_TIMEOUT_SECONDS) == 0


def test_an_answer_that_is_not_the_services_is_no_success() -> None:
    """A login page, for instance."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request).start()
        with (
            WardrobeClient(f"http://127.0.0.1:{server.server_port}") as client,
            pytest.raises(UnexpectedAnswerError, match="not of this service"),
        ):
            client.models()


def test_the_problems_of_a_picture_are_those_of_the_service() -> None:
    of_a_picture = (errors.ImageError, errors.BodyTooLargeError, InferenceError)
    slugs = {slug for kind, (_, slug, _) in TABLE.items() if issubclass(kind, of_a_picture)}
    only_of_items = {"no-room", "item-left-out"}

    assert slugs - only_of_items == client_module.IMAGE_PROBLEMS
