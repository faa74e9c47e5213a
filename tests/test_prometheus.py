"""A real Prometheus scrapes a real service as compose tells it to, and answers what the dashboard asks."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.process import REPOSITORY

MONITORING = REPOSITORY / "monitoring"
PANELS = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
FOUND = {
    "__meta_kubernetes_namespace": "shop",
    "__meta_kubernetes_pod_name": "wardrobe-0",
    "__meta_kubernetes_pod_label_app_kubernetes_io_name": "wardrobe",
    "__meta_kubernetes_pod_container_port_name": "http",
}
LONGEST_SECONDS = 60

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, service_url: str) -> Path:
    """Compose's and Kubernetes', but for the service's address, the place of the key and the time between two looks."""
    text = (MONITORING / "prometheus.yml").read_text()
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "key").touch()  # as where no key is given
    for compose, here in {
        "wardrobe:8000": service_url.removeprefix("http://"),
        "/tmp/metrics-key": str(folder / "key"),
        "15s": "1s",
    }.items():
        assert text.count(compose) == 1
        text = text.replace(compose, here)
    config = yaml.safe_load(text)
    (job,) = yaml.safe_load((KUBERNETES / "prometheus-scrape.yaml").read_text())["scrape_configs"]
    del job["kubernetes_sd_configs"]  # what it would find:
    job["static_configs"] = [{"targets": [service_url.removeprefix("http://")], "labels": FOUND}]
    job["authorization"]["credentials_file"] = str(folder / "key")
    config["scrape_configs"].append(job | {"job_name": "kubernetes"})
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def prometheus(config: Path, pictures: dict[str, bytes], service_url: str) -> Generator[httpx.Client, None, None]:
    """It has seen pictures, good and bad, and then more of them: a rate wants a first value."""
    log = config.with_name("log")
    data = config.with_name("data")
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stderr=file)
    try:
        with httpx.Client(base_url=address(log)) as client:
            for seen in ('wardrobe_images_total{label="Bag"}', 'increase(wardrobe_images_total{label="Bag"}[1m]) > 0'):
                files = [("file", picture) for picture in pictures.values()]
                httpx.post(f"{service_url}/predict", files=[*files, ("file", b"no picture")], timeout=LONGEST_SECONDS)
                wait_for(client, seen)
            yield client
    finally:
        process.terminate()
        process.wait(LONGEST_SECONDS)


def address(log: Path) -> str:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not (found := re.search(r'"Listening on" address=([\d.]+:\d+)', log.read_text())):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return f"http://{found[1]}"


def ask(client: httpx.Client, query: str) -> list[dict[str, object]]:
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    series: list[dict[str, object]] = answer["data"]["result"]
    return series


def wait_for(client: httpx.Client, query: str) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not ask(client, query):
        assert time.monotonic() < deadline, query
        time.sleep(0.1)


def test_the_configuration_is_one(config: Path) -> None:
    subprocess.run(["promtool", "check", "config", config], check=True, capture_output=True)


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_dashboard_is_answered(prometheus: httpx.Client, query: str) -> None:
    """Of what did not happen, busy or failed answers, there is nothing to show."""
    found = ask(prometheus, query.replace("$__rate_interval", "1m"))

    assert found or "429" in query or "5.." in query


def test_the_query_that_replicas_are_counted_by_is_answered(prometheus: httpx.Client) -> None:
    """With what prometheus-adapter puts into << >> for the pods of a namespace, which are what its rule finds."""
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter-rules.yaml").read_text())["rules"]
    query = rule["metricsQuery"]
    for name, value in {
        "<<.Series>>": "wardrobe_queue_images",
        "<<.LabelMatchers>>": 'namespace="shop",pod=~"wardrobe-0"',
        "<<.GroupBy>>": "pod",
    }.items():
        assert query.count(name) == 1
        query = query.replace(name, value)

    assert len(ask(prometheus, rule["seriesQuery"])) == 1
    assert [it["metric"] for it in ask(prometheus, query)] == [{"pod": "wardrobe-0"}]
