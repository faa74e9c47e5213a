"""The Grafana dashboard asks for nothing that /metrics does not have."""

import json
import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.app.service import parts
from tests.process import REPOSITORY

DASHBOARD = json.loads((REPOSITORY / "monitoring" / "grafana-dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def metrics_of(query: str) -> set[str]:
    return set(re.findall(r"wardrobe_\w+", query))


def labels_of(query: str) -> set[str]:
    """Those it selects and those it sums by."""
    selected = re.findall(r'(\w+)\s*[=!]~?\s*"', query)
    grouped = [name.strip() for names in re.findall(r"by \((.*?)\)", query) for name in names.split(",")]
    return {*selected, *grouped}


async def test_every_metric_and_label_of_its_queries_is_in_metrics(
    client: httpx.AsyncClient, pictures: dict[str, bytes]
) -> None:
    await client.post("/predict", files=parts(pictures["Bag"], b"broken"))

    text = (await client.get("/metrics")).text

    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for query in QUERIES:
        used = metrics_of(query)
        assert used, query
        assert used <= set(labels), query
        assert all(labels_of(query) <= labels[it] for it in used), query


async def test_every_metric_has_its_panel(client: httpx.AsyncClient) -> None:
    metrics = {it.name for it in client._transport.app.state.metrics.registry.collect()}

    shown = {re.sub("_(bucket|sum|count|total)$", "", it) for query in QUERIES for it in metrics_of(query)}

    assert shown == metrics
