"""Wiring: settings -> metrics, model store, predictor, routes."""

import asyncio
import importlib
import importlib.util
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from app import __version__
from app.api import (
    image_classification,
    items,
    models,
    open_inference,
    operations,
    page,
    predict,
    problems,
    similar,
    torchserve,
    transfer,
)
from app.api.access import DESCRIBE_KEY, RequireKey
from app.api.body import BoundBodies
from app.api.middleware import ObserveRequests
from app.embedder import Embedder
from app.errors import StorageOffError, StorageUnavailableError
from app.inference.predictor import Predictor
from app.inference.scheduler import Scheduler
from app.inference.store import ModelStore
from app.inference.threads import available_cpus
from app.metrics import Metrics
from app.settings import Settings
from app.store.wardrobe import Wardrobe

REFRESH_SECONDS = 2  # between looks for other versions: chosen, a look at three versions takes 1 ms

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, *, one_of_several: bool = False) -> FastAPI:
    """Build the service. Nothing is opened or started before the application's lifespan begins.

    `one_of_several` takes no request before its models are loaded: the others answer meanwhile.
    """
    settings = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Metrics], None]:
        store = app.state.store = ModelStore(settings)
        scheduler = Scheduler(
            metrics,
            num_workers=settings.num_threads or max(1, available_cpus() // settings.workers),
            max_image_pixels=settings.max_image_pixels,
        )
        predictor = app.state.predictor = Predictor(settings, metrics, scheduler)
        wardrobe = app.state.wardrobe = Wardrobe(settings)
        embedder = app.state.embedder = Embedder(settings, store, predictor, wardrobe)
        # In the background: until it is done the service is alive, says 503 and why.
        loading = asyncio.create_task(_load(store))
        opening = asyncio.create_task(_open(wardrobe))
        watching = asyncio.create_task(_watch(store, loading))
        embedding = asyncio.create_task(embedder.run())
        if one_of_several:
            await asyncio.wait((loading,))
        yield {"metrics": metrics}  # app.api.protocol counts there what it refuses
        await loading
        watching.cancel()
        await opening
        embedding.cancel()
        await asyncio.wait((embedding,))
        await asyncio.to_thread(wardrobe.close)
        await asyncio.to_thread(scheduler.close)
        await asyncio.to_thread(send_last_traces)

    app = FastAPI(
        title="Self-sorting wardrobe",
        description="Classifies images of clothes, says how sure it is, and describes its models.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # app.api.operations has it, with a policy of its own
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.add_middleware(BoundBodies, max_bytes=settings.max_pending_bytes)
    if settings.api_key_sha256:
        app.add_middleware(RequireKey, key_digests=settings.api_key_sha256)
    app.add_middleware(ObserveRequests, metrics=metrics)  # outermost: it sees what is turned away
    send_last_traces = _trace(app)
    problems.install(app)
    has_keys = bool(settings.api_key_sha256)
    described = DESCRIBE_KEY if has_keys else None
    refused = problems.responses(401) if has_keys else None
    for module in (predict, items, transfer, similar, models, image_classification):
        app.include_router(module.router, responses=refused, dependencies=described)
    refused_in_v2 = open_inference.errors(401) if has_keys else None
    app.include_router(open_inference.router, responses=refused_in_v2, dependencies=described)
    app.include_router(torchserve.router)
    app.include_router(operations.metrics_router, responses=refused, dependencies=described)
    app.include_router(operations.router)
    app.include_router(page.router)
    return app


def _trace(app: FastAPI) -> Callable[[], None]:
    """Trace requests where the standard variable says to whom; returns what sends the last of them."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return lambda: None
    if importlib.util.find_spec("opentelemetry.instrumentation") is None:
        logger.warning("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra 'otel' is not installed")
        return lambda: None
    tracing = importlib.import_module("app.tracing")
    send_last: Callable[[], None] = tracing.install(app)
    return send_last


async def _load(store: ModelStore) -> None:
    try:
        await asyncio.to_thread(store.load)
    except Exception:  # nobody awaits this before shutdown: say it now
        logger.exception("loading the models failed")
        raise


async def _watch(store: ModelStore, loading: asyncio.Task[None]) -> None:
    """Serve what is promoted, until cancelled."""
    await asyncio.wait((loading,))
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        try:
            await asyncio.to_thread(store.refresh)
        except Exception:  # what is served goes on
            logger.exception("looking for other models failed")


async def _open(wardrobe: Wardrobe) -> None:
    with suppress(StorageOffError, StorageUnavailableError):  # logged there; each request to /items says why
        await asyncio.to_thread(wardrobe.open)
