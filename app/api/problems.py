"""Every error as an RFC 9457 problem document: one table from exception to status, one handler for each source."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app import errors
from app.api.middleware import REQUEST_ID_HEADER, REQUEST_ID_SCOPE_KEY, SECURITY_HEADERS
from app.api.schemas import Problem
from app.inference.predictor import InferenceError

PROBLEM_MEDIA_TYPE = "application/problem+json"
# One for all, or generated clients have a type for each route. It is a component because answers hold problems.
PROBLEM_SCHEMA = {"$ref": f"#/components/schemas/{Problem.__name__}"}

# exception -> (status, last part of the type URN, title)
TABLE: dict[type[errors.WardrobeError], tuple[int, str, str]] = {
    errors.NoImageError: (422, "no-image", "No image was sent"),
    errors.TooManyImagesError: (413, "too-many-images", "Too many images in one request"),
    errors.BodyTooLargeError: (413, "body-too-large", "The request body is too large"),
    errors.BodyTimeoutError: (408, "request-timeout", "The request took too long"),
    errors.HeadTooLargeError: (431, "headers-too-large", "The request's headers are too large"),
    errors.HeadTimeoutError: (408, "request-timeout", "The request took too long"),
    errors.MalformedMultipartError: (400, "malformed-multipart", "The multipart body is malformed"),
    errors.InvalidInferRequestError: (400, "invalid-infer-request", "The inference request is not valid"),
    errors.UnsupportedMediaTypeError: (415, "unsupported-media-type", "The request's media type is not accepted"),
    errors.UnsupportedContentEncodingError: (
        415,
        "unsupported-content-encoding",
        "The request's content encoding is not accepted",
    ),
    errors.UnauthorizedError: (401, "unauthorized", "An API key is needed"),
    errors.ModelNotFoundError: (404, "not-found", "Not found"),
    errors.ModelControlOffError: (403, "model-control-off", "Models cannot be loaded or unloaded"),
    errors.ReportNotFoundError: (404, "not-found", "Not found"),
    errors.NoHeatMapError: (404, "no-heat-map", "The model has no heat map"),
    errors.NoEmbeddingError: (404, "no-embedding", "The model cannot tell what is similar"),
    errors.ItemNotFoundError: (404, "not-found", "Not found"),
    errors.ItemChangedError: (412, "changed-meanwhile", "The item was changed meanwhile"),
    errors.NothingToUndoError: (409, "nothing-to-undo", "There is nothing to undo"),
    errors.UnknownLabelError: (422, "unknown-label", "The label is not known"),
    errors.InvalidCursorError: (422, "invalid-cursor", "The cursor is not valid"),
    errors.NotAnExportError: (422, "not-an-export", "This is not an export of a wardrobe"),
    errors.CrossSiteError: (403, "cross-site", "Pages of other sites may not change anything"),
    errors.UnknownHostError: (403, "unknown-host", "The service does not know itself by this name"),
    errors.StorageOffError: (409, "storage-off", "Nothing is kept here"),
    errors.NoRoomError: (507, "no-room", "There is no room for the picture"),
    errors.ImportedItemError: (422, "item-left-out", "The item cannot be taken over"),
    errors.EmptyImageError: (422, "empty-image", "The image file is empty"),
    errors.UnsupportedImageFormatError: (415, "unsupported-image-format", "The image format is not accepted"),
    errors.ImageTooLargeError: (413, "image-too-large", "The image has too many pixels"),
    errors.ImageTooComplexError: (422, "image-too-complex", "The image takes too much to decode"),
    errors.UndecodableImageError: (422, "undecodable-image", "The image cannot be decoded"),
    errors.BusyError: (429, "overloaded", "The service is busy"),
    errors.NotReadyError: (503, "not-ready", "The service is not ready"),
    errors.TooManyConnectionsError: (503, "too-many-connections", "Too many connections are open"),
    errors.StorageUnavailableError: (503, "storage-unavailable", "Items cannot be kept now"),
    InferenceError: (500, "internal-error", "Internal error"),
}
INVALID_PARAMETER: dict[int | str, dict[str, Any]] = {  # FastAPI would describe its own answer instead
    422: {
        "description": "A parameter is not valid",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}},
    }
}
INTERNAL_ERROR_DETAIL = "The service failed. It was logged under the id in 'instance'."

# The framework's own errors: 404 and 405 of the router.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HTTP_SLUGS = {404: ("not-found", "Not found"), 405: ("method-not-allowed", "Method not allowed")}

TORCHSERVE_TYPES = {
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    429: "ServiceUnavailableException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}

_EXTENSIONS = ("max_pixels", "max_bytes", "max_images", "timeout_seconds", "accepted", "revision")
_CLOSE_CONNECTION = (errors.BodyTooLargeError, errors.BodyTimeoutError)  # the rest of the body is not read


def describe(error: errors.WardrobeError, request: Request) -> Problem:
    status, slug, title = TABLE[type(error)]
    extensions = {name: getattr(error, name) for name in _EXTENSIONS if hasattr(error, name)}
    return _problem(request, status, slug, title, str(error), **extensions)


def code(error: errors.WardrobeError) -> str:
    """The kind of problem, as in the last part of its type."""
    return TABLE[type(error)][1]


def respond(problem: Problem, headers: dict[str, str] | None = None, *, path: str = "") -> JSONResponse:
    """The answer, in the shape that clients of the `path` expect."""
    match path.split("/")[1:2]:
        case ["v2"]:  # the Open Inference Protocol
            return JSONResponse({"error": problem.detail}, problem.status, headers=headers)
        case ["predictions"]:  # TorchServe
            kind = TORCHSERVE_TYPES.get(problem.status, "BadRequestException")
            content = {"code": problem.status, "type": kind, "message": problem.detail}
            return JSONResponse(content, problem.status, headers=headers)
        case ["image-classification"]:  # huggingface_hub shows this member of a problem
            problem.error = problem.detail  # type: ignore[attr-defined]  # an extension member, as below
    return JSONResponse(problem.model_dump(mode="json"), problem.status, headers=headers, media_type=PROBLEM_MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Register the handlers, so that no answer of the service has another shape."""
    app.add_exception_handler(errors.WardrobeError, _on_wardrobe_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameter)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_client_disconnect)
    app.add_exception_handler(Exception, _on_bug)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these problem answers."""
    return {
        status: {
            "description": "; ".join(dict.fromkeys(title for code, _, title in TABLE.values() if code == status)),
            "content": {PROBLEM_MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}},
        }
        for status in statuses
    }


async def _on_wardrobe_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.WardrobeError)
    headers = {}
    if isinstance(error, errors.ServiceError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, _CLOSE_CONNECTION):
        headers["Connection"] = "close"
    if isinstance(error, errors.UnsupportedMediaTypeError):  # RFC 9110, section 15.5.16
        headers["Accept"] = ", ".join(["multipart/form-data", "application/octet-stream", "image/*"])
    if isinstance(error, errors.UnsupportedContentEncodingError):
        headers["Accept-Encoding"] = "identity"
    return respond(describe(error, request), headers, path=request.scope["path"])


async def _on_invalid_parameter(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}, got {item['input']!r}" for item in error.errors()]
    problem = _problem(request, 422, "invalid-parameter", "A parameter is not valid", "; ".join(found) + ".")
    return respond(problem, path=request.scope["path"])


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    slug, title = HTTP_SLUGS.get(error.status_code, ("http-error", "The request cannot be answered"))
    detail = f"{request.method} {request.url.path}: {error.detail}. The routes are described under /docs."
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return respond(_problem(request, error.status_code, slug, title, detail), headers, path=request.scope["path"])


def _allowed_methods(request: Request) -> list[str]:
    """Of all routes of the path: the router itself names those of the first one that has it."""
    asked = {name: request.scope[name] for name in ("type", "path", "root_path")}
    return [
        method
        for method in METHODS
        if any(route.matches(asked | {"method": method})[0] is Match.FULL for route in request.app.router.routes)
    ]


async def _on_client_disconnect(request: Request, error: Exception) -> JSONResponse:
    """Nobody reads it; the status, which is nginx's, tells metrics and log that nobody is to blame."""
    return respond(_problem(request, 499, "client-left", "The client left", "It closed before it had its answer."))


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    problem = _problem(request, 500, "internal-error", "Internal error", INTERNAL_ERROR_DETAIL)
    # Sent from outside ObserveRequests, which adds these elsewhere.
    request_id = request.scope.get(REQUEST_ID_SCOPE_KEY, "")
    headers = {REQUEST_ID_HEADER: request_id, **SECURITY_HEADERS}
    return respond(problem, headers, path=request.scope["path"])


def _problem(request: Request, status: int, slug: str, title: str, detail: str, **extensions: Any) -> Problem:
    return Problem(
        type=f"urn:wardrobe:{slug}",
        title=title,
        status=status,
        detail=detail,
        instance=f"urn:wardrobe:request:{request.scope.get(REQUEST_ID_SCOPE_KEY, 'unknown')}",
        **extensions,
    )
