"""Multipart bodies, read in memory."""

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise

import httpx
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from app.api.body import Upload, read_uploads
from app.settings import Settings
from tests.app.service import problem_of, running, wait_for

# What could be taken for a boundary, and in what pieces it could arrive.
CONTENTS = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"b", b"x"]), max_size=12).map(b"".join)


def request_of(body: bytes, content_type: str, cuts: list[int]) -> Request:
    """A request whose body arrives in the pieces between `cuts`."""
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(edges)]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    return Request({"type": "http", "headers": [(b"content-type", content_type.encode())]}, receive)


@given(
    contents=st.lists(CONTENTS.filter(lambda content: b"\r\n--b" not in b"\r\n" + content), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 1_000), max_size=8),
)
async def test_files_are_what_was_sent_however_it_arrives(contents: list[bytes], cuts: list[int]) -> None:
    """httpx wrote it: our file, a file of another field and a text field around each."""
    sent = httpx.Request(
        "POST",
        "http://wardrobe",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        data={"text": ["1", "2"]},
        files=[
            part
            for number, content in enumerate(contents)
            for part in (("file", (f"{number}.png", content)), ("other", ("other.png", b"ignored")))
        ],
    )

    uploads = await read_uploads(request_of(sent.read(), sent.headers["Content-Type"], cuts), Settings())

    assert uploads == [Upload(f"{number}.png", content) for number, content in enumerate(contents)]


async def test_slow_large_bodies_together_stay_within_the_memory(
    settings: Settings, pictures: dict[str, bytes]
) -> None:
    """Forty clients each send 900 kB, then wait: four fit at most, the others are told, and all is given back."""
    small = settings.model_copy(update={"max_upload_bytes": 2**20, "max_pending_bytes": 4 * 2**20})
    go_on = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        for _ in range(9):
            yield bytes(100_000)
            await asyncio.sleep(0)
        await go_on.wait()

    async with running(small) as client:
        await wait_for(client, "/health/ready")
        sending = [asyncio.create_task(client.post("/predict", content=slow())) for _ in range(40)]
        refused, waiting = await asyncio.wait(sending, timeout=1)
        meanwhile = await client.post("/predict", content=pictures["Bag"])
        announced = await client.post("/predict", content=bytes(900_000))
        go_on.set()
        read = await asyncio.gather(*waiting)
        afterwards = await asyncio.gather(*(client.post("/predict", content=bytes(1_000_000)) for _ in range(4)))

    for response in [task.result() for task in refused] + [announced]:
        assert int(problem_of(response, 429, "overloaded")["detail"].split()[-2]) > 0
        assert int(response.headers["Retry-After"]) > 0
    assert 1 <= len(waiting) <= 4  # how many depends on who came first
    assert meanwhile.status_code == 200
    assert {response.status_code for response in [*read, *afterwards]} == {415}  # zeros are no picture
