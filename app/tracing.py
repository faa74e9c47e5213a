"""OpenTelemetry traces: a span for each request, with the work on each picture below it, and its id in the logs.

Needs the extra `otel`, so nothing but `app.main` imports it, and only where OTEL_EXPORTER_OTLP_ENDPOINT is set. The
other OTEL_* variables of the SDK and the OTLP/HTTP exporter hold as well.
"""

import logging
import time
from collections.abc import Callable, Mapping

from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.api.middleware import REQUEST_ID_SCOPE_KEY, STAGES_SCOPE_KEY, TIMELINES_SCOPE_KEY

UNTRACED = "/health/,/ping,/metrics"  # asked every few seconds for ever
WORK = ("decode", "preprocess", "infer")  # between them a picture waits


class DescribeSpan:
    """Puts the request's id and the seconds of its stages into its span, before the answer's last byte ends it.

    Below it, each picture gets a span for each stage of WORK.
    """

    def __init__(self, app: ASGIApp, tracer: trace.Tracer) -> None:
        self.app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_describe(message: Message) -> None:
            if message["type"] == "http.response.start":
                span = trace.get_current_span()
                span.set_attribute("wardrobe.request_id", scope[REQUEST_ID_SCOPE_KEY])
                for stage, seconds in scope.get(STAGES_SCOPE_KEY, {}).items():
                    span.set_attribute(f"wardrobe.{stage}_seconds", seconds)
                for index, submitted, stages in scope.get(TIMELINES_SCOPE_KEY, ()):
                    self._add_spans(index, submitted, stages)
            await send(message)

        await self.app(scope, receive, send_and_describe if scope["type"] == "http" else send)

    def _add_spans(self, index: int, submitted: float, stages: Mapping[str, float]) -> None:
        clock = time.time_ns() - time.perf_counter_ns()
        ended = clock + int(submitted * 1e9)
        for stage, seconds in stages.items():
            begun, ended = ended, ended + int(seconds * 1e9)
            if stage in WORK:
                attributes = {"wardrobe.image": index}
                self._tracer.start_span(stage, attributes=attributes, start_time=begun).end(ended)


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
    app.add_middleware(DescribeSpan, tracer=provider.get_tracer(__name__))
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
