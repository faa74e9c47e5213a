"""The service in this process: the real application and its lifespan, and HTTP without a socket."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.main import create_app
from app.settings import Settings

START_TIMEOUT_SECONDS = 60.0


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of the started application; loading goes on in the background."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://wardrobe") as client,
    ):
        yield client


async def wait_for(client: httpx.AsyncClient, path: str, text: str = "") -> httpx.Response:
    """Ask again and again until `path` answers with 200 and `text` in it."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while (response := await client.get(path)).status_code != 200 or text not in response.text:
        assert time.monotonic() < deadline, response.text
        await asyncio.sleep(0.02)
    return response


def problem_of(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem document of an answer, after checking what all of them promise."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:wardrobe:{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert " " in problem["detail"]
    assert problem["instance"] == f"urn:wardrobe:request:{response.headers['X-Request-ID']}"
    return problem


def parts(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """Multipart parts named `file`."""
    return [("file", (f"{index}.png", content)) for index, content in enumerate(contents)]
