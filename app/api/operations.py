"""What operators' tools ask: is it alive, is it ready, how is it doing."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api import problems
from app.api.dependencies import MetricsDependency, StoreDependency
from app.api.schemas import HealthResponse

router = APIRouter(tags=["operations"])


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


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(metrics: MetricsDependency) -> Response:
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
