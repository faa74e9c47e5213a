"""The service and the sorting of folders on a Ray cluster of two nodes, one of which is killed under load.

The nodes are processes of this machine, started as the README says, each with an address of its own.
"""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from app.artifact import Artifact
from tests.app.test_command_line import CommandLine
from tests.odd_files import save
from tests.process import REPOSITORY

NUM_CLIENTS = 8
NUM_PICTURES, NUM_BROKEN = 2_000, 20
LONGEST_SECONDS = 180
STORE_BYTES = 80 * 2**20  # Ray wants 75 MB at least

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"),
]


@dataclass
class Cluster:
    """Nodes are `ray start` in the foreground, with all that they start below them."""

    folder: Path
    environment: dict[str, str]
    address: str
    nodes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A program that comes with Ray, in the background; what it says goes to a file."""
        with (self.folder / f"{name}-{time.monotonic_ns()}.log").open("wb") as log:
            return subprocess.Popen(
                [Path(sys.executable).with_name(name), *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def add_node(self, host: str, *arguments: str) -> None:
        options = ["--block", f"--node-ip-address={host}", "--num-cpus=2", f"--object-store-memory={STORE_BYTES}"]
        ports = ["--dashboard-agent-listen-port=0", "--metrics-export-port=0"]  # of two nodes on one machine
        self.nodes.append(self.start("ray", "start", *options, *ports, *arguments))

    def kill_node(self) -> None:
        """As if its power went: all its processes, none of them asked."""
        node = self.nodes.pop()
        for pid in (node.pid, *descendants(node.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()


def descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):  # it has ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from descendants(int(child))
            yield int(child)


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster, None, None]:
    """With fashion-mnist alone and one engine: ready soon, and small."""
    model = tmp_path_factory.mktemp("models") / artifact.card.name / str(artifact.card.version)
    model.parent.mkdir()
    model.symlink_to(artifact.folder, target_is_directory=True)
    head, port = "127.0.0.2", free_port("127.0.0.2")
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "WARDROBE_MODELS_DIR": str(model.parents[1]),
        "WARDROBE_DEFAULT_MODEL": artifact.card.name,
        "WARDROBE_ENGINE": "onnxruntime",
        "WARDROBE_PUBLISHED_HOST": "127.0.0.1",
    }
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets are in it
    cluster = Cluster(folder, {**os.environ, **environment}, f"{head}:{port}")
    try:
        cluster.add_node(head, "--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")
        cluster.add_node("127.0.0.3", f"--address={cluster.address}")
        yield cluster
    finally:
        while cluster.nodes:
            cluster.kill_node()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(cluster: Cluster) -> Generator[str, None, None]:
    """The service with the numbers of app.ray_serve, so with a replica on each node, behind the head's proxy."""
    port = free_port("127.0.0.1")
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [{"name": "wardrobe", "route_prefix": "/", "import_path": "app.ray_serve:application"}],
    }
    (cluster.folder / "serve.yaml").write_text(yaml.safe_dump(config))
    process = cluster.start("serve", "run", f"--address={cluster.address}", "serve.yaml")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: num_replicas(cluster) == 2)
    wait_until(lambda: is_ready(url))
    yield url
    with killed_at_last(process):
        process.send_signal(signal.SIGINT)
        process.wait(LONGEST_SECONDS)


def num_replicas(cluster: Cluster) -> int:
    """Those that said so in their logs, which the nodes of one machine have in one folder."""
    logs = (cluster.folder / "session_latest" / "logs" / "serve").glob("replica_*.log")
    return sum("Finished initializing replica" in log.read_text() for log in logs)


def is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/ready").status_code == 200
    return False


def test_a_killed_node_costs_the_requests_that_it_had(url: str, cluster: Cluster, pictures: dict[str, bytes]) -> None:
    stop = threading.Event()
    answered, broken = [0] * NUM_CLIENTS, [0] * NUM_CLIENTS

    def ask(client: int) -> None:
        with httpx.Client(base_url=url, timeout=LONGEST_SECONDS) as connection:
            while not stop.is_set():
                answer = connection.post("/predict", content=pictures["Coat"])
                counts = answered if answer.status_code == 200 else broken
                counts[client] += 1

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        asking = [pool.submit(ask, client) for client in range(NUM_CLIENTS)]
        try:
            wait_until(lambda: min(answered) > 20)
            cluster.kill_node()
            before = answered.copy()
            wait_until(lambda: all(now > then + 20 for now, then in zip(answered, before, strict=True)))
        finally:
            stop.set()
        for future in asking:
            future.result()

    assert max(broken) <= 1  # what a client had under way there; all that it asked later was answered


def test_a_folder_is_sorted_though_the_command_and_then_a_node_are_killed(
    cluster: Cluster, models_dir: Path, tmp_path: Path
) -> None:
    """Each file once, the broken ones with their reason, as this process does it alone."""
    cluster.add_node("127.0.0.4", f"--address={cluster.address}")
    fill(tmp_path / "photos")
    command_line = CommandLine(tmp_path, models_dir)
    command_line.environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    results = tmp_path / "ray.csv"
    sort = ("sort", "photos", "--model", "fashion-mnist", "--csv")

    with command_line.start(*sort, "ray.csv", "--engine", "ray") as process, killed_at_last(process):
        wait_until(lambda: num_lines(results) > 100 or process.poll() is not None)
    known = num_lines(results) - 2  # without the header and, perhaps, a line that was cut
    with command_line.start(*sort, "ray.csv", "--engine", "ray") as process, killed_at_last(process):
        wait_until(lambda: num_lines(results) > known + 50 or process.poll() is not None)
        cluster.kill_node()
        out, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 0, err
    command_line.run(*sort, "local.csv")

    assert known < NUM_PICTURES
    (said,) = re.findall(r"^([\d,]+) of [\d,]+ pictures are known already\.$", err, flags=re.MULTILINE)
    assert int(said.replace(",", "")) >= known
    assert f"{NUM_BROKEN} cannot be read" in out
    assert results.read_bytes() == (tmp_path / "local.csv").read_bytes()


@contextlib.contextmanager
def killed_at_last(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Whatever happens: else a test that has failed would wait for it, for ever."""
    try:
        yield
    finally:
        process.kill()


def fill(folder: Path) -> None:
    """Grey noise, broken files, and one whose name is no UTF-8."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES + NUM_BROKEN):
        content = save(Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)), "PNG")
        (folder / f"{number:04}.png").write_bytes(content if number < NUM_PICTURES else content[:100])
    (folder / "0000.png").rename(folder / os.fsdecode(b"caf\xe9.png"))


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
