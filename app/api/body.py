"""The images in a request body, multipart or raw, within the limits and in memory."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from app.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    MalformedMultipartError,
    NoImageError,
    TooManyImagesError,
    UnsupportedContentEncodingError,
    UnsupportedMediaTypeError,
)
from app.settings import Settings

FILE_FIELD = "file"
MAX_OTHER_FIELDS = 16  # browsers' forms send a few; they are ignored


@dataclass(frozen=True, slots=True)
class Upload:
    """One image file as sent."""

    filename: str | None
    content: bytes


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """Read the body once, in full.

    Raises:
        RequestError: what is wrong with the request as a whole.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedContentEncodingError(encoding)
    content_type = request.headers.get("Content-Type", "")
    media_type = parse_options_header(content_type)[0].decode("latin-1")
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            if media_type == "multipart/form-data":
                return await _read_multipart(request, settings)
            # A body without a type is looked at like any other: RFC 9110, section 8.3, and httpx sends none.
            if media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
                return [Upload(None, b"".join([chunk async for chunk in _limited(request, settings)]))]
    except TimeoutError as error:
        raise BodyTimeoutError(settings.body_timeout_seconds) from error
    raise UnsupportedMediaTypeError(content_type)


async def _limited(request: Request, settings: Settings) -> AsyncGenerator[bytes, None]:
    """The body's chunks, refused by its announced length before any is read, and by its real length on the way."""
    max_bytes = settings.max_upload_bytes
    announced = request.headers.get("Content-Length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise BodyTooLargeError(max_bytes)
        yield chunk


class _StrictMultiPartParser(MultiPartParser):
    """Starlette's parser, which takes a cut body for a whole one, with an eye on the closing boundary."""

    _complete = False

    def on_end(self) -> None:
        self._complete = True

    async def parse(self) -> FormData:
        self.stream = self._to_the_end(self.stream)
        return await super().parse()  # closes every part when the stream raises

    async def _to_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self._complete:
            raise MultiPartException("it ends before its closing boundary")


async def _read_multipart(request: Request, settings: Settings) -> list[Upload]:
    max_images = settings.max_images_per_request
    charset = parse_options_header(request.headers["Content-Type"])[1].get(b"charset", b"utf-8")
    # RFC 7578 knows no such parameter, and some of Python's codecs raise or give characters that JSON cannot hold.
    if charset.lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise MalformedMultipartError(f"its charset is {charset.decode('latin-1')!r}, not utf-8")
    parser = _StrictMultiPartParser(
        request.headers, _limited(request, settings), max_files=max_images, max_fields=MAX_OTHER_FIELDS
    )
    parser.spool_max_size = settings.max_upload_bytes  # never to disk: the root may be read-only
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooManyImagesError(max_images) from error
        raise MalformedMultipartError(error.message) from error
    try:
        files = [part for part in form.getlist(FILE_FIELD) if isinstance(part, UploadFile)]
        if not files:
            raise NoImageError
        return [Upload(file.filename or None, await file.read()) for file in files]
    finally:
        await form.close()
