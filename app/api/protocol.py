"""What uvicorn's HTTP protocol lacks: limits on heads and on unread answers, and a stop that loses no request.

Its httptools parser took 16 MB of a header without an answer. h11, the other one, has a limit of size but none of time,
and is several times slower.
"""

import asyncio
import logging
import resource
import uuid
from typing import Any

import httptools
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api import problems
from app.api.middleware import REQUEST_ID_HEADER, REQUEST_ID_SCOPE_KEY
from app.errors import HeadTimeoutError, HeadTooLargeError, ServiceError, TooManyConnectionsError, WardrobeError
from app.metrics import Metrics

MAX_HEAD_BYTES = 32 * 2**10  # twice h11's default for all of it, and four times nginx's for one line
MAX_HEADERS = 100  # Apache's LimitRequestFields, gunicorn's limit_request_fields
MAX_CONNECTIONS = 4_096  # chosen, not tuned: each may buffer up to 64 kB (uvicorn) of a body that nobody reads yet
RETRY_SECONDS = 5  # chosen, not tuned: idle connections are closed after as many
LAST_REQUEST_SECONDS = 0.1  # chosen, not tuned: what a client sent before it could know has come by then

logger = logging.getLogger(__name__)


def max_connections() -> int:
    """Half of the files that the process may have open: models, database and decoders want some of them as well."""
    most_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if most_files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, most_files // 2)


class LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose request line, headers, chunk extensions and trailers end early enough, of so many connections.

    A client that takes nothing of its answers for as long is cut off: they wait in memory, and what it sends meanwhile
    is never answered and so never given back. Slow ones are left alone, as by nginx's send_timeout.

    When the service stops, uvicorn closes connections whose request is on the way, also those of clients that it let in
    a moment before. This one reads on for LAST_REQUEST_SECONDS, and answers with `Connection: close`.
    """

    def __init__(self, *args: Any, timeout_seconds: float, max_connections: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timeout_seconds = timeout_seconds
        self._max_connections = max_connections
        self._timer: asyncio.TimerHandle | None = None  # of a head that is to come
        self._unread_timer: asyncio.TimerHandle | None = None  # of answers that are more than buffers hold
        self._answering: RequestResponseCycle | None = None  # `cycle` is the last one that was read
        self._error: WardrobeError | None = None
        self._head_bytes = 0
        self._unparsed_bytes = 0  # since the parser last told of anything
        self._parsed = False
        self._is_stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._refuse(TooManyConnectionsError("Too many connections are open.", RETRY_SECONDS))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True  # uvicorn tells `cycle` alone
            self._answering.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def shutdown(self) -> None:
        self._is_stopping = True
        self.loop.call_later(LAST_REQUEST_SECONDS, super().shutdown)

    def data_received(self, data: bytes) -> None:
        # An answer may come before its body is read: what is left of that body counts as the next head.
        if self._timer is None and (self.cycle is None or self.cycle.response_complete or not self.cycle.more_body):
            self._await_head()
        self._parsed = False
        super().data_received(data)
        self._unparsed_bytes = 0 if self._parsed else self._unparsed_bytes + len(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLargeError(MAX_HEAD_BYTES, MAX_HEADERS))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:  # a trailer too
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._parsed = True
        super().on_headers_complete()
        if self._is_stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._parsed = True
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        self._parsed = True

    def send_400_response(self, msg: str) -> None:
        """Called when a callback has raised, or the parser has."""
        if self._error is None:
            super().send_400_response(msg)
            self._observe(400)
        else:
            self._refuse(self._error)

    def _count(self, num_bytes: int) -> None:
        self._parsed = True
        self._head_bytes += num_bytes
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            self._error = HeadTooLargeError(MAX_HEAD_BYTES, MAX_HEADERS)
            raise httptools.HttpParserError

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self._timeout_seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(HeadTimeoutError(self._timeout_seconds))
        else:  # part of the next request came before the answer to this one
            self._await_head()

    def _await_reader(self) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(self._timeout_seconds, self._on_unread, unread_bytes)

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _on_unread(self, unread_bytes: int) -> None:
        if self.transport.get_write_buffer_size() < unread_bytes:
            self._await_reader()
        else:
            logger.warning("a client does not read its answers: it is cut off")
            self.transport.abort()

    def _observe(self, status: int) -> None:
        """Count what the application, which counts all others, never sees."""
        metrics: Metrics = self.app_state["metrics"]
        metrics.requests.labels("unknown", "unknown", status).inc()

    def _refuse(self, error: WardrobeError) -> None:
        """Answer, if no other answer is on its way, and close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            request_id = uuid.uuid4().hex
            problem = problems.describe(error, Request({"type": "http", REQUEST_ID_SCOPE_KEY: request_id}))
            content = problem.model_dump_json().encode()
            retry = f"retry-after: {error.retry_after_seconds}\r\n" if isinstance(error, ServiceError) else ""
            headers = (
                f"content-type: {problems.PROBLEM_MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n"
                f"{REQUEST_ID_HEADER.lower()}: {request_id}\r\nx-content-type-options: nosniff\r\n"
                f"{retry}connection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[problem.status] + headers.encode() + content)
            self._observe(problem.status)
            logger.warning("request refused", extra={"status": problem.status, "request_id": request_id})
        self.transport.close()
