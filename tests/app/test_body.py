"""Multipart bodies, read in memory."""

from itertools import pairwise

import httpx
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from app.api.body import Upload, read_uploads
from app.settings import Settings

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
