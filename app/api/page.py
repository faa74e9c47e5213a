"""The page: static files, which need no key themselves; what they ask the service for does."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)

WEB_FOLDER = Path(__file__).parent.parent / "web"

# Its own files and the service's answers, nothing from elsewhere and nothing inline; blob: is what a picture is shown
# from before it is sent, and where a key is needed, which <img> cannot send.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag: page and service change together
}

_files = StaticFiles(directory=WEB_FOLDER, check_dir=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def wardrobe_page(request: Request) -> Response:
    return await web_file("index.html", request)


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def web_file(name: str, request: Request) -> Response:
    response = await _files.get_response(name, request.scope)
    response.headers.update(PAGE_HEADERS)
    return response
