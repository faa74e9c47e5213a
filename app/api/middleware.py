"""Request id, access log and request metrics. Plain ASGI: Starlette's BaseHTTPMiddleware costs a task per request."""

import logging
import re
import time
import uuid
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics import Metrics

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID_SCOPE_KEY = "request_id"
SERVER_TIMING_HEADER = "Server-Timing"  # https://www.w3.org/TR/server-timing/
PROBE_PATHS = ("/health/", "/v2/health/", "/ping")
STAGES_SCOPE_KEY = "stage_seconds"  # name -> seconds, set by the route that knows them
TIMELINES_SCOPE_KEY = "timelines"  # likewise, of each picture: index, start by time.perf_counter(), name -> seconds
# Of every answer. What has a policy of its own, as pages do, keeps it; everything else is to be shown nowhere.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
request_id: ContextVar[str] = ContextVar("request_id", default="")

logger = logging.getLogger("app.access")

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # an id goes into headers and logs: nothing that could break them


class ObserveRequests:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        sent_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        scope[REQUEST_ID_SCOPE_KEY] = sent_id if _ACCEPTABLE_ID.fullmatch(sent_id) else uuid.uuid4().hex
        token = request_id.set(scope[REQUEST_ID_SCOPE_KEY])
        status = 500  # what the server sends if nothing was sent from here

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = scope[REQUEST_ID_SCOPE_KEY]
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                durations = {**scope.get(STAGES_SCOPE_KEY, {}), "total": time.perf_counter() - started}
                headers[SERVER_TIMING_HEADER] = ", ".join(f"{it};dur={1000 * s:.2f}" for it, s in durations.items())
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request failed")  # here, while the id is known to the log
            raise
        finally:
            seconds = time.perf_counter() - started
            # The template, not the path: a scanner must not be able to fill the memory with label values.
            route = getattr(scope.get("route"), "path_format", "unknown")
            self.metrics.requests.labels(scope["method"], route, status).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            # Probes come every few seconds for ever: they would bury the rest.
            level = logging.DEBUG if scope["path"].startswith(PROBE_PATHS) else logging.INFO
            logger.log(
                level,
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(seconds, 6),
                    **{f"{stage}_seconds": round(value, 6) for stage, value in scope.get(STAGES_SCOPE_KEY, {}).items()},
                },
            )
            request_id.reset(token)
