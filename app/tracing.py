"""OpenTelemetry traces: a span for each request, with the stages of /predict, and its id in the logs.

Needs the extra `otel`, so nothing but `app.main` imports it, and only where OTEL_EXPORTER_OTLP_ENDPOINT is set. The
other OTEL_* variables of the SDK and the OTLP/HTTP exporter hold as well.
"""

import logging
from collections.abc import Callable

from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.api.middleware import REQUEST_ID_SCOPE_KEY, STAGES_SCOPE_KEY

UNTRACED = "/health/,/metrics"  # asked every few seconds for ever


class DescribeSpan:
    """Puts the request's id and the seconds of its stages into its span, before the answer's last byte ends it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_describe(message: Message) -> None:
            if message["type"] == "http.response.start":
                span = trace.get_current_span()
                span.set_attribute("wardrobe.request_id", scope[REQUEST_ID_SCOPE_KEY])
                for stage, seconds in scope.get(STAGES_SCOPE_KEY, {}).items():
                    span.set_attribute(f"wardrobe.{stage}_seconds", seconds)
            await send(message)

        await self.app(scope, receive, send_and_describe if scope["type"] == "http" else send)


class TraceIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
        return True


def install(app: FastAPI) -> Callable[[], None]:
    """Trace the application's requests and name the trace in the logs; returns what sends the last spans and ends."""
    named = Resource({"service.name": "wardrobe", "service.version": __version__})
    provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    app.add_middleware(DescribeSpan)
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        meter_provider=metrics.NoOpMeterProvider(),  # /metrics has them
        excluded_urls=UNTRACED,
        exclude_spans=["receive", "send"],
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(TraceIdFilter())
    return provider.shutdown
