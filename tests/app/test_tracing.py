"""Traces, where the extra is installed: sent to a collector's socket, named in the logs; nothing without an address."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.app.service import parts
from tests.process import REPOSITORY, serving

otlp = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="needs the extra otel")

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # the example of W3C Trace Context


class Collector(HTTPServer):
    """Takes OTLP/HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), TakeSpans)
        self.exports: list[otlp.ExportTraceServiceRequest] = []


class TakeSpans(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.exports.append(otlp.ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Generator[Collector, None, None]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_a_request_is_a_span_of_the_callers_trace_and_the_work_on_its_pictures_is_below_it(
    collector: Collector, pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    log = tmp_path / "log"
    with serving(log, ENGINE="onnxruntime") as (_, client):  # which also asks /health/ready
        headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "X-Request-ID": "mine"}
        client.post("/predict", files=parts(pictures["Bag"], b"broken", pictures["Coat"]), headers=headers)

    (sent,) = [it for export in collector.exports for it in export.resource_spans]
    assert "wardrobe" in [it.value.string_value for it in sent.resource.attributes if it.key == "service.name"]
    spans = [span for scope in sent.scope_spans for span in scope.spans]
    (span,) = [span for span in spans if span.name == "POST /predict"]
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("POST /predict", TRACE_ID, SPAN_ID)
    attributes = {it.key: it.value for it in span.attributes}
    assert attributes["wardrobe.request_id"].string_value == "mine"
    assert all(f"wardrobe.{it}_seconds" in attributes for it in ("wait", "decode", "preprocess", "queue", "infer"))
    work = [it for it in spans if it.parent_span_id == span.span_id]
    assert [it.name for it in work] == ["decode", "preprocess", "infer"] * 2
    assert [it.attributes[0].value.int_value for it in work] == [0, 0, 0, 2, 2, 2]
    for stages in (work[:3], work[3:]):
        edges = [span.start_time_unix_nano]
        edges += [edge for it in stages for edge in (it.start_time_unix_nano, it.end_time_unix_nano)]
        assert sorted(edges) == edges
        assert edges[-1] <= span.end_time_unix_nano
    (entry,) = [it for it in map(json.loads, log.read_text().splitlines()) if it.get("path") == "/predict"]
    assert entry["trace_id"] == TRACE_ID


def test_without_an_address_the_sdk_is_not_imported() -> None:
    code = (
        "import sys; from app.main import create_app; create_app();"
        "print([it for it in ('app.tracing', 'opentelemetry.sdk') if it in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
