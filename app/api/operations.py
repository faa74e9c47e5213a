"""What operators' tools ask: is it alive, is it ready, how is it doing; and the page that describes the API."""

import base64
import hashlib
import re

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.staticfiles import StaticFiles

from app.api import problems
from app.api.dependencies import MetricsDependency, StoreDependency
from app.api.schemas import HealthResponse

router = APIRouter(tags=["operations"])  # wants no key: probes and the description of the API
metrics_router = APIRouter(tags=["operations"])

_swagger_ui = StaticFiles(packages=[("fastapi_swagger", "resources")])  # its files alone, none of its code


@router.get("/health/live", operation_id="health_live", summary="The process answers")
async def live() -> HealthResponse:
    return HealthResponse()


@router.get(
    "/health/ready",
    operation_id="health_ready",
    summary="The default model is loaded and warm",
    responses=problems.responses(503),
)
async def ready(store: StoreDependency) -> HealthResponse:
    store.require_ready()  # raises the 503 that says why not
    return HealthResponse()


@metrics_router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(metrics: MetricsDependency) -> Response:
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Swagger UI, and a policy by which the page runs that and its own few lines, and asks nobody but this service."""
    app, root_path = request.app, request.scope.get("root_path", "").rstrip("/")
    response = get_swagger_ui_html(
        openapi_url=root_path + app.openapi_url,
        title=app.title,
        swagger_js_url=f"{root_path}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root_path}/docs/swagger-ui.css",
        swagger_favicon_url=f"{root_path}/docs/favicon-32x32.png",
    )
    (script,) = re.findall(rb"<script>(.*?)</script>", bytes(response.body), flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return response


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(name: str, request: Request) -> Response:
    response = await _swagger_ui.get_response(name, request.scope)
    response.headers["Cache-Control"] = "no-cache"  # kept, and asked for again with its ETag
    return response
