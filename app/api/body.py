"""Request bodies within their limits: images, multipart or raw, in memory; JSON; and what all bodies take there."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    BusyError,
    MalformedMultipartError,
    NoImageError,
    TooManyImagesError,
    UnsupportedContentEncodingError,
    UnsupportedMediaTypeError,
)
from app.settings import Settings

FILE_FIELD = "file"
MAX_OTHER_FIELDS = 16  # browsers' forms send a few; they are ignored
MAX_FIELD_BYTES = 2**20  # of such a field, as in Starlette
MAX_JSON_BYTES = (
    256 * 2**10
)  # chosen, not tuned: a thousand items, each with its revision on lines of its own, take half
STREAMED_PATH = "/items/import"  # its body goes to the disk, piece by piece
RETRY_SECONDS = 5  # chosen, not tuned: others' bodies are read and their pictures answered by then, or cut off later


class BoundBodies:
    """Answers 429 to what would make the bodies of all requests on the way take more memory; plain ASGI.

    A body counts from its first byte until its request is answered, by the bytes that came: a client that announces
    much and sends little takes no room from others.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == STREAMED_PATH:
            await self.app(scope, receive, send)
            return
        announced = _announced_bytes(Headers(scope=scope))
        if (
            self._max_bytes - self._num_bytes < announced <= self._max_bytes
        ):  # of more the route says that it is too much
            problem = problems.describe(self._busy(), Request(scope))
            headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
            await problems.respond(problem, headers, path=scope["path"])(scope, receive, send)
            return
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            more = len(message.get("body", b""))
            if self._num_bytes + more > self._max_bytes:
                raise self._busy()
            self._num_bytes += more
            num_bytes += more
            return message

        try:
            await self.app(scope, receive_counted, send)
        finally:
            self._num_bytes -= num_bytes

    def _busy(self) -> BusyError:
        return BusyError(f"The requests on the way may hold {self._max_bytes} bytes together.", RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class Upload:
    """One image file as sent."""

    filename: str | None
    content: bytes


async def read_uploads(request: Request, settings: Settings, fields: Collection[str] = (FILE_FIELD,)) -> list[Upload]:
    """Read the body once, in full; of a form, the files of these fields.

    Raises:
        RequestError: what is wrong with the request as a whole.
    """
    content_type = request.headers.get("Content-Type", "")
    media_type_bytes, options = parse_options_header(content_type)
    media_type = media_type_bytes.decode("latin-1")
    if media_type == "multipart/form-data":
        async with _in_time(request, settings):
            return await _read_multipart(request, settings, options, fields)
    # A body without a type is looked at like any other: RFC 9110, section 8.3, and httpx sends none.
    if media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
        return [Upload(None, await read_body(request, settings))]
    raise UnsupportedMediaTypeError(content_type)


async def read_body(request: Request, settings: Settings) -> bytes:
    """Read the body once, in full, whatever its type.

    Raises:
        RequestError: it is too large, too slow or compressed.
    """
    async with _in_time(request, settings):
        return b"".join([chunk async for chunk in _limited(request, settings.max_upload_bytes)])


@asynccontextmanager
async def _in_time(request: Request, settings: Settings) -> AsyncGenerator[None, None]:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedContentEncodingError(encoding)
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            yield
    except TimeoutError as error:
        raise BodyTimeoutError(settings.body_timeout_seconds) from error


class BoundedJsonRoute(APIRoute):
    """Reads the JSON body of a route that has one, within MAX_JSON_BYTES and in time.

    FastAPI reads it as long as it comes, and answers 400 to whatever is raised meanwhile.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def read_and_handle(request: Request) -> Response:
            timeout_seconds = request.app.state.settings.body_timeout_seconds
            try:
                async with asyncio.timeout(timeout_seconds):
                    body = b"".join([chunk async for chunk in _limited(request, MAX_JSON_BYTES)])
            except TimeoutError as error:
                raise BodyTimeoutError(timeout_seconds) from error

            async def receive_read() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await handle(Request(request.scope, receive_read))

        return read_and_handle


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks, refused by its announced length before any is read, and by its real length on the way."""
    announced = _announced_bytes(request.headers)
    if announced > max_bytes:
        raise BodyTooLargeError(max_bytes, announced)
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise BodyTooLargeError(max_bytes, num_bytes)
        yield chunk


def _announced_bytes(headers: Headers) -> int:
    announced = headers.get("Content-Length", "0")
    return int(announced) if announced.isdecimal() else 0


async def _read_multipart(
    request: Request, settings: Settings, options: dict[bytes, bytes], fields: Collection[str]
) -> list[Upload]:
    charset = options.get(b"charset", b"utf-8").lower()
    # RFC 7578 knows no such parameter, and some of Python's codecs raise or give characters that JSON cannot hold.
    if charset not in (b"utf-8", b"utf8", b"us-ascii"):
        raise MalformedMultipartError(f"its charset is {charset.decode('latin-1')!r}, not utf-8")
    if b"boundary" not in options:
        raise MalformedMultipartError("its Content-Type names no boundary")
    parts = _Parts(charset=charset.decode(), max_files=settings.max_images_per_request, fields=fields)
    try:
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.add_to_header_name,
                "on_header_value": parts.add_to_header_value,
                "on_header_end": parts.end_header,
                "on_headers_finished": parts.begin_content,
                "on_part_data": parts.add_content,
                "on_end": parts.end,
            },
        )
        async for chunk in _limited(request, settings.max_upload_bytes):
            parser.write(chunk)
    except FormParserError as error:
        raise MalformedMultipartError(str(error)) from error
    if not parts.complete:
        raise MalformedMultipartError("it ends before its closing boundary")
    if not parts.files:
        raise NoImageError
    return [Upload(filename, b"".join(chunks)) for filename, chunks in parts.files]


class _Parts:
    """Collects the files of some fields in memory, and minds the limits, while python_multipart's parser calls it.

    Starlette's own collector writes each file through a temporary one and takes a cut body for a whole one.
    """

    def __init__(self, *, charset: str, max_files: int, fields: Collection[str]) -> None:
        self.files: list[tuple[str | None, list[bytes]]] = []  # name and chunks
        self.complete = False  # the closing boundary has come
        self._charset = charset
        self._max_files = max_files
        self._fields = fields
        self._num_files = self._num_other_fields = 0
        self._header_name = self._header_value = self._disposition = b""
        self._chunks: list[bytes] | None = None  # of the part being read, if it is one of our files
        self._field_bytes_left: float = 0  # of the part being read; a file's are counted with the body's

    def begin(self) -> None:
        self._disposition = b""

    def add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def begin_content(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._chunks, self._field_bytes_left = None, math.inf
        if b"name" not in options:
            raise MalformedMultipartError("a part has no name in its Content-Disposition")
        if b"filename" not in options:
            self._field_bytes_left = MAX_FIELD_BYTES
            self._num_other_fields += 1
            if self._num_other_fields > MAX_OTHER_FIELDS:
                raise MalformedMultipartError(f"it has more than {MAX_OTHER_FIELDS} fields that are no files")
            return
        self._num_files += 1
        if self._num_files > self._max_files:
            raise TooManyImagesError(self._max_files)
        if self._text(options[b"name"]) in self._fields:
            self._chunks = []
            self.files.append((self._text(options[b"filename"]) or None, self._chunks))

    def add_content(self, data: bytes, start: int, end: int) -> None:
        self._field_bytes_left -= end - start
        if self._field_bytes_left < 0:
            raise MalformedMultipartError(f"a field that is no file is larger than {MAX_FIELD_BYTES} bytes")
        if self._chunks is not None:
            self._chunks.append(data[start:end])

    def end(self) -> None:
        self.complete = True

    def _text(self, value: bytes) -> str:
        try:
            return value.decode(self._charset)
        except UnicodeDecodeError:
            return value.decode("latin-1")
