"""Who may ask: holders of a key, where the operator has given keys; for the wardrobe, no page of another site."""

import hashlib
import hmac
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Depends
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.api.dependencies import SettingsDependency
from app.api.middleware import PROBE_PATHS
from app.errors import CrossSiteError, UnauthorizedError, UnknownHostError

# Probes have no key; the page and the description of the API ask for one, and their files are the same for everybody.
OPEN_BELOW = (*PROBE_PATHS, "/web/", "/docs/")
OPEN_PATHS = ("/", "/docs", "/openapi.json")


class RequireKey:
    """Answers 401 to what brings none of the keys, RFC 6750 section 2.1; plain ASGI, before anything is read."""

    def __init__(self, app: ASGIApp, key_digests: Sequence[str]) -> None:
        """`key_digests` are SHA-256 of the keys, in hexadecimal: the settings hold no key that could be used."""
        self.app = app
        self._digests = [bytes.fromhex(digest) for digest in key_digests]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_BELOW)
        if is_open or self._knows(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        problem = problems.describe(UnauthorizedError(), Request(scope))
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        await problems.respond(problem, headers, path=scope["path"])(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()  # as Starlette decodes headers
        # Every one is compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


async def refuse_other_names(request: Request, settings: SettingsDependency) -> None:
    """A site can give its own name our address, loopback too (DNS rebinding): its pages then are of our origin.

    The name stays in Host. An address there, or localhost, is no site's name; with API keys it could not ask anyway.
    The classifier is left out: a proxy may call it what it likes, there is nothing to see or to change.

    Raises:
        UnknownHostError: the request came by a name that may be another site's.
    """
    if settings.api_key_sha256:
        return
    host = request.headers.get("Host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name not in ("localhost", *map(str.lower, settings.host_names)):
            ip_address(name)
    except ValueError as error:
        raise UnknownHostError(host) from error


async def refuse_other_sites(request: Request) -> None:
    """Pages of other sites can send a browser's requests here, to loopback too: they may change nothing.

    The rule of Go's net/http.CrossOriginProtection: Sec-Fetch-Site where the browser sends it, else Origin against
    Host; a client that is no browser sends neither.

    Raises:
        CrossSiteError: a page of another site asks for a change.
    """
    if request.method in ("GET", "HEAD"):
        return
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise CrossSiteError(origin or site)
    elif origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        raise CrossSiteError(origin)


# Tells of the key in the description of the API; RequireKey asks for it.
DESCRIBE_KEY = [Depends(HTTPBearer(auto_error=False, description="An API key, such as `wardrobe key` makes."))]
OWN_PAGES_ONLY = [Depends(refuse_other_names), Depends(refuse_other_sites)]
