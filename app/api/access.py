"""API keys: who may ask, where the operator has given keys."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.errors import UnauthorizedError

# Probes have no key; the page asks for one, and its files are the same for everybody.
OPEN_PATHS = ("/health/", "/web/")
OPEN_PATH = "/"


class RequireKey:
    """Answers 401 to what brings none of the keys, RFC 6750 section 2.1; plain ASGI, before anything is read."""

    def __init__(self, app: ASGIApp, key_digests: Sequence[str]) -> None:
        """`key_digests` are SHA-256 of the keys, in hexadecimal: the settings hold no key that could be used."""
        self.app = app
        self._digests = [bytes.fromhex(digest) for digest in key_digests]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or scope["path"] == OPEN_PATH or scope["path"].startswith(OPEN_PATHS)
        if is_open or self._knows(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        problem = problems.describe(UnauthorizedError(), Request(scope))
        await problems.respond(problem, {"WWW-Authenticate": "Bearer", "Connection": "close"})(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()  # as Starlette decodes headers
        # Every one is compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)
