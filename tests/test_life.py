"""Life and death of a real process: overload, stops, kills, and a machine that gives it neither disk nor network."""

import io
import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from PIL import Image
from torch import Tensor

from app.artifact import Artifact
from tests.app.service import parts
from tests.process import REPOSITORY, START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS, serving
from tests.tiny_wardrobe import ColourReader, plain, write_tiny_wardrobe

# The small model in the engine that starts in a second: these tests are not about models.
QUICK = {"ENGINE": "onnxruntime", "DEFAULT_MODEL": "fashion-mnist"}


@pytest.fixture(scope="module")
def small_models_dir(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    models_dir = tmp_path_factory.mktemp("models")
    shutil.copytree(artifact.folder, models_dir / "fashion-mnist" / str(artifact.card.version))
    return models_dir


def large_picture() -> bytes:
    """49 megapixels in a small file."""
    buffer = io.BytesIO()
    Image.new("RGB", (7_000, 7_000)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def num_waiting(client: httpx.Client) -> float:
    (found,) = re.findall(r"^wardrobe_queue_images (\S+)", client.get("/metrics").text, flags=re.MULTILINE)
    return float(found)


def wait_for_queue(client: httpx.Client, *, more_than: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while num_waiting(client) <= more_than:
        assert time.monotonic() < deadline


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    """Of a service whose log cannot be read: it is on the port it was given."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"the service did not get ready; its exit code is {process.poll()}")


def test_a_full_queue_over_sockets_and_a_stop_while_it_works(
    small_models_dir: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    """Three requests of 12 pictures fill the queue of one thread; one leaves, the others are answered after SIGTERM."""
    log, bag = tmp_path / "log", pictures["Bag"]
    many = httpx.Request("POST", "http://a/predict", files=parts(*[large_picture()] * 12))
    body, head = many.read(), "".join(f"{name}: {value}\r\n" for name, value in many.headers.items())
    settings = QUICK | {"NUM_THREADS": "1", "MAX_QUEUE_IMAGES": "36", "MAX_IMAGES_PER_REQUEST": "12"}
    with (
        serving(log, MODELS_DIR=str(small_models_dir), **settings) as (process, client),
        ThreadPoolExecutor() as pool,
    ):
        address = (client.base_url.host, client.base_url.port or 80)
        post = partial(httpx.post, f"{client.base_url}/predict", timeout=60)
        staying = [pool.submit(post, content=body, headers=many.headers) for _ in range(2)]
        wait_for_queue(client, more_than=12)
        with socket.create_connection(address) as leaving:
            leaving.sendall(f"POST /predict HTTP/1.1\r\n{head}\r\n".encode() + body)
            wait_for_queue(client, more_than=24)
            refused = client.post("/predict", content=body, headers=many.headers)
        while (accepted := client.post("/predict", content=bag)).status_code == 429:
            pass  # until the service has noticed that one left
        num_answered = sum(answer.done() for answer in staying)
        process.send_signal(signal.SIGTERM)
        answers = [answer.result() for answer in staying]
        exit_code = process.wait(STOP_TIMEOUT_SECONDS)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    assert num_answered == 0  # all of this happened while they were at work
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:wardrobe:overloaded")
    assert int(refused.headers["Retry-After"]) >= 1
    assert accepted.status_code == 200
    assert [len(answer.json()["predictions"]) for answer in answers] == [12, 12]
    assert exit_code == 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [entry for entry in entries if entry.get("path") == "/predict"]
    assert [entry["status"] for entry in requests if entry["status"] != 429] == [499, 200, 200, 200]
    assert {"request_id", "wait_seconds", "decode_seconds", "queue_seconds", "infer_seconds"} <= set(requests[-1])


def test_killed_it_starts_again_on_the_same_port(
    small_models_dir: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    with serving(tmp_path / "log", MODELS_DIR=str(small_models_dir), **QUICK) as (process, client):
        port = str(client.base_url.port)
        process.kill()
        process.wait()
        with serving(tmp_path / "log-2", MODELS_DIR=str(small_models_dir), **QUICK, PORT=port) as (_, second):
            answer = second.post("/predict", content=pictures["Bag"])

    assert str(second.base_url) == str(client.base_url)
    assert answer.json()["predictions"][0]["label"] == "Bag"


def no_file_may_grow() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_a_full_disk_stops_nothing(small_models_dir: Path, pictures: dict[str, bytes]) -> None:
    """No byte can be written to any file, the log included; an upload beyond what frameworks keep in memory is read."""
    port = free_port()
    environment = os.environ | {f"WARDROBE_{name}": value for name, value in QUICK.items()}
    environment |= {"WARDROBE_PORT": str(port), "WARDROBE_MODELS_DIR": str(small_models_dir)}
    with Path("/dev/full").open("wb") as full, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            cwd=REPOSITORY,
            env=environment,
            stderr=full,
            preexec_fn=no_file_may_grow,  # noqa: PLW1509  # only a system call, before any thread
        )
        try:
            wait_until_ready(client, process)
            answer = client.post("/predict", files={"file": pictures["Bag"].ljust(5_000_000, b"\0")})
        finally:
            process.terminate()
            exit_code = process.wait(STOP_TIMEOUT_SECONDS)

    assert answer.json()["predictions"][0]["label"] == "Bag"
    assert exit_code == 0


CUT_OFF = """
set -e
ip link set lo up
grep -o '^[^-]*' /proc/self/mountinfo | while read -r _ _ _ _ mount options _; do
    case "$options" in rw*) mount -o remount,bind,ro "$mount" ;; esac
done
mount -t tmpfs log "$1"
if touch "$2/written" 2>/dev/null || touch /tmp/written 2>/dev/null; then exit 1; fi
exec "$3" -c "
import sys
from pathlib import Path
from tests.process import serving
with serving(Path(sys.argv[1]) / 'log') as (process, client):
    print(client.post('/predict', content=Path('tests/data/bag.png').read_bytes()).json()['predictions'][0]['label'])
" "$1"
"""


def test_without_network_and_on_a_read_only_disk_it_starts_and_predicts(small_models_dir: Path, tmp_path: Path) -> None:
    """In namespaces of its own, with loopback and nothing else, and every mounted file system read-only."""
    if shutil.which("ip") is None or subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode:
        pytest.skip("needs unshare, the right to use it, and ip")
    environment = os.environ | {f"WARDROBE_{name}": value for name, value in QUICK.items()}
    environment |= {"WARDROBE_MODELS_DIR": str(small_models_dir), "PYTHONPATH": str(REPOSITORY)}

    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", CUT_OFF, "sh", tmp_path, REPOSITORY, sys.executable],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "Bag\n"), done.stderr


class BreaksOnBlue(ColourReader):
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        colour = batch.mean(dim=(2, 3))  # (N, 3)
        if float(colour[:, 2].max()) > 0.9:
            raise RuntimeError("secret text of the network")
        return 8 * colour, 20 * (colour.amax(dim=1) - 0.1)


def test_a_broken_network_tells_the_client_nothing_of_our_insides(artifact: Artifact, tmp_path: Path) -> None:
    write_tiny_wardrobe(tmp_path, template=artifact.card, network=BreaksOnBlue)
    log = tmp_path / "log"
    with serving(log, MODELS_DIR=str(tmp_path), ENGINE="torchscript") as (_, client):
        broken = client.post("/predict", content=plain(0, 0, 255))
        good = client.post("/predict", content=plain(255, 0, 0))

    assert (broken.status_code, broken.json()["type"]) == (500, "urn:wardrobe:internal-error")
    assert not any(word in broken.text for word in ("secret", "Traceback", ".py", str(tmp_path), str(REPOSITORY)))
    assert good.json()["predictions"][0]["label"] == "dress"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    (error,) = [entry for entry in entries if entry["level"] == "ERROR"]
    assert "secret text of the network" in error["exc_info"]
    assert error["request_id"] == broken.headers["X-Request-ID"]


def test_at_a_terminal_a_person_is_told_where_the_page_is_or_at_once_why_it_cannot_be(
    small_models_dir: Path,
) -> None:
    """The same command twice: the second one finds the port taken, and loads nothing."""
    port = free_port()
    settings = QUICK | {"PORT": str(port), "MODELS_DIR": str(small_models_dir)}
    environment = os.environ | {f"WARDROBE_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "app"]
    terminal, stdout = pty.openpty()
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stdout, stderr=subprocess.DEVNULL) as first:
        try:
            shown = os.read(terminal, 1000).decode()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until_ready(client, first)
            second = subprocess.run(
                command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
            )
        finally:
            first.terminate()
            os.close(stdout)
            os.close(terminal)

    assert f"Open http://127.0.0.1:{port} in a browser." in shown
    assert second.returncode == 2
    assert second.stderr.splitlines() == [
        f"WARDROBE_HOST, WARDROBE_PORT: cannot listen on 127.0.0.1, port {port}: Address already in use."
    ]
