"""What comes before a body, and around its chunks, ends early: over a raw socket, where no client mends it."""

import json
import re
import resource
import select
import socket
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.body import MAX_JSON_BYTES
from app.api.protocol import MAX_HEAD_BYTES, MAX_HEADERS
from app.artifact import Artifact
from tests.process import small_service

GET = b"GET /health/live HTTP/1.1\r\nHost: wardrobe\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: wardrobe\r\nTransfer-Encoding: chunked\r\n\r\n"
CHANGE = b"POST /items/delete HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ENDLESS = b"a" * 64 * 2**20  # more than fits the buffers of both ends


@pytest.fixture(scope="module")
def address(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, int], None, None]:
    log = tmp_path_factory.mktemp("protocol") / "log"
    with small_service(artifact, log, BODY_TIMEOUT_SECONDS="1", MAX_UPLOAD_BYTES="100000") as (_, client):
        url = urlsplit(str(client.base_url))
        assert url.hostname
        assert url.port
        yield url.hostname, url.port
    assert "Traceback" not in log.read_text()


def exchange(address: tuple[str, int], *sent: bytes, pause_seconds: float = 0.0) -> tuple[int, bytes]:
    """Send it all, or as much as is taken; status and body of the last answer, 0 where there is none."""
    with socket.create_connection(address, timeout=30) as connection:
        try:
            for piece in sent:
                connection.sendall(piece)
                time.sleep(pause_seconds)
        except ConnectionError:
            pass  # it was closed before the end
        received = b""
        try:
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionError:
            pass  # closed with unread bytes of ours on the way
    head, _, body = received.rpartition(b"\r\n\r\n")
    status = head[head.rfind(b"HTTP/1.1 ") :].split(b" ")
    return int(status[1]) if len(status) > 1 else 0, body


CLOSE = b"Connection: close\r\n\r\n"


def headers(number: int, *, num_bytes: int = 0) -> bytes:
    """As many headers, the last of which fills up the size."""
    lines = b"".join(b"X-%d: a\r\n" % index for index in range(number - 1))
    return lines + b"X-Last: " + b"a" * max(0, num_bytes - len(lines) - len(b"X-Last: \r\n")) + b"\r\n"


NUM_OWN = 2  # Host and Connection
OWN_BYTES = len(b"/health/live") + len(b"Host: wardrobe\r\n") + len(b"Connection: close\r\n")


@pytest.mark.parametrize(
    "fields",
    [headers(MAX_HEADERS - NUM_OWN), headers(1, num_bytes=MAX_HEAD_BYTES - OWN_BYTES)],
    ids=["as many as allowed", "as large as allowed"],
)
def test_headers_at_the_limit_are_taken(address: tuple[str, int], fields: bytes) -> None:
    assert exchange(address, GET + fields + CLOSE)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        [GET + headers(MAX_HEADERS - NUM_OWN + 1) + CLOSE],
        [GET + headers(1, num_bytes=MAX_HEAD_BYTES - OWN_BYTES + 1) + CLOSE],
        [b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n" + CLOSE],
    ],
    ids=["one too many", "one byte too large", "a long path"],
)
def test_headers_over_the_limit_get_a_431(address: tuple[str, int], sent: list[bytes]) -> None:
    status, body = exchange(address, *sent)

    problem = json.loads(body)
    assert (status, problem["status"], problem["type"]) == (431, 431, "urn:wardrobe:headers-too-large")


@pytest.mark.parametrize(
    "start",
    [
        GET + b"X-Endless: ",
        GET + b"X-Endless-Name-",
        b"GET /",
        CHUNKED + b"1;extension=",
        CHUNKED + b"1\r\na\r\n0\r\nX-Trailer: ",
    ],
    ids=["value", "name", "path", "chunk extension", "trailer"],
)
def test_what_never_ends_is_cut(address: tuple[str, int], start: bytes) -> None:
    """A 431 where there was time to read it: with unread bytes the kernel resets the connection."""
    assert exchange(address, start, ENDLESS)[0] in (0, 431)


def test_trailers_count_as_headers(address: tuple[str, int]) -> None:
    status, _ = exchange(address, CHUNKED + b"1\r\na\r\n0\r\n" + headers(MAX_HEADERS + 1) + b"\r\n")

    assert status in (0, 431)


@pytest.mark.parametrize(
    "sent",
    [[], [b"\r\n"] * 30, [b"GET /hea"], [GET + b"X-A: ", *[b"a"] * 30], [GET, *[b"X-B: b\r\n"] * 30]],
    ids=["nothing", "empty lines", "cut request line", "trickling value", "trickling headers"],
)
def test_a_slow_head_gets_a_408(address: tuple[str, int], sent: list[bytes]) -> None:
    """The limit is of the whole: a byte now and then does not move it."""
    with socket.create_connection(address, timeout=10) as connection:
        assert timed_out(connection, *sent)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /nowhere HTTP/1.1\r\nHost: wardrobe\r\nContent-Length: 1000\r\n\r\n",
        b"GET /predict HTTP/1.1\r\nHost: wardrobe\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["announced", "chunked"],
)
@pytest.mark.parametrize("rest", [[b"1"], [b"1"] * 30], ids=["a byte", "trickling"])
def test_a_body_that_is_not_wanted_gets_no_time_of_its_own(
    address: tuple[str, int], head: bytes, rest: list[bytes]
) -> None:
    """It was answered without being read; what comes of it afterwards must not keep the connection open."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)

        assert answer.startswith(b"HTTP/1.1 40")
        assert timed_out(connection, *rest)


def timed_out(connection: socket.socket, *sent: bytes) -> bool:
    """Whether the answer to these pieces is a 408 and then the end; a `TimeoutError` if it stays open."""
    pieces, received = list(sent), b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ready, _, _ = select.select([connection], [], [], 0.1)
        if ready:
            piece = connection.recv(65_536)
            if not piece:
                break
            received += piece
        elif pieces and not received:
            connection.sendall(pieces.pop(0))
    else:
        raise TimeoutError
    problem = json.loads(received.rpartition(b"\r\n\r\n")[2])
    return received.startswith(b"HTTP/1.1 408") and problem["type"] == "urn:wardrobe:request-timeout"


REPORT = b"GET /models/fashion-mnist/report HTTP/1.1\r\nHost: wardrobe\r\n"
NUM_REPORTS = 30  # 7 MB: more than the kernel buffers


def keep_sending(connection: socket.socket, piece: bytes) -> None:
    """For ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        connection.send(piece)
        time.sleep(0.1)


def test_who_takes_nothing_of_the_answers_is_cut_off(address: tuple[str, int]) -> None:
    """Else they, and the bodies of requests behind them, would stay in memory as long as the client likes."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(address)
        connection.sendall((REPORT + b"\r\n") * NUM_REPORTS)

        with pytest.raises(ConnectionError):
            keep_sending(connection, b"\r\n")


def test_who_reads_slowly_gets_all_answers(address: tuple[str, int]) -> None:
    received = bytearray()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.connect(address)
        connection.sendall((REPORT + b"\r\n") * (NUM_REPORTS - 1) + REPORT + CLOSE)
        while piece := connection.recv(65_536):
            received += piece
            time.sleep(0.03)  # more than 3 s in all, three times the limit

    assert received.count(b"HTTP/1.1 200 ") == NUM_REPORTS
    assert received.endswith(b"</html>")


def test_an_idle_connection_is_told_before_it_is_closed(address: tuple[str, int]) -> None:
    status, body = exchange(address)

    assert (status, json.loads(body)["type"]) == (408, "urn:wardrobe:request-timeout")


@pytest.mark.parametrize(
    "start",
    [
        CHUNKED + b"5\r\nabc",
        b"POST /predict HTTP/1.1\r\nHost: wardrobe\r\nContent-Length: 5\r\n\r\nabc",
        CHANGE + b"Content-Length: 5\r\n\r\n{",
    ],
    ids=["chunked", "announced", "JSON"],
)
def test_a_slow_body_gets_a_408(address: tuple[str, int], start: bytes) -> None:
    status, body = exchange(address, start)

    assert (status, json.loads(body)["type"]) == (408, "urn:wardrobe:request-timeout")


def test_an_endless_chunked_body_gets_a_413(address: tuple[str, int]) -> None:
    chunks = b"%x\r\n" % 50_000 + b"a" * 50_000 + b"\r\n"

    status, body = exchange(address, CHUNKED, chunks, chunks, chunks)

    assert (status, json.loads(body)["type"]) == (413, "urn:wardrobe:body-too-large")


@pytest.mark.parametrize("is_chunked", [False, True], ids=["announced", "chunked"])
def test_json_has_a_limit_of_its_own(address: tuple[str, int], is_chunked: bool) -> None:
    def send(num_bytes: int) -> tuple[int, bytes]:
        content = (b'{"items": [{"id": "%s"}]}' % (b"0" * 64)).ljust(num_bytes)
        if is_chunked:
            framed = b"Transfer-Encoding: chunked\r\n" + CLOSE + b"%x\r\n%s\r\n0\r\n\r\n" % (num_bytes, content)
        else:
            framed = b"Content-Length: %d\r\n" % num_bytes + CLOSE + content
        return exchange(address, CHANGE + framed)

    largest, _ = send(MAX_JSON_BYTES)
    status, body = send(MAX_JSON_BYTES + 1)

    assert largest == 409  # it was read: this service keeps no items
    problem = json.loads(body)
    assert (status, problem["type"], problem["max_bytes"]) == (413, "urn:wardrobe:body-too-large", MAX_JSON_BYTES)
    assert f"{MAX_JSON_BYTES + 1} bytes" in problem["detail"]


@pytest.mark.parametrize(
    "part",
    [
        b"X-A: a\r\n" * 1_000,
        b"X-A: " + b"a" * 90_000 + b"\r\n",
        b"X" * 90_000 + b": a\r\n",
        b'Content-Disposition: form-data; name="file"; filename="a\r\n',
    ],
    ids=["many headers", "a long value", "a long name", "a broken name"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_part_headers_over_the_limits_are_the_clients_fault(
    address: tuple[str, int], part: bytes, chunked: bool
) -> None:
    body = b"--b\r\n" + part + b"\r\nabc\r\n--b--\r\n"
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = b"POST /predict HTTP/1.1\r\nHost: w\r\nContent-Type: multipart/form-data; boundary=b\r\n%s\r\n" % length

    status, answer = exchange(
        address, head + CLOSE + (b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
    )

    assert 400 <= status < 500, answer
    assert json.loads(answer)["status"] == status


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
    ],
    ids=["TLS", "HTTP/2", "two lengths", "a NUL", "a negative length", "a chunk of exabytes"],
)
def test_what_is_not_http_is_refused(address: tuple[str, int], sent: bytes) -> None:
    assert 400 <= exchange(address, sent)[0] < 500


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
def test_an_upgrade_is_not_made(address: tuple[str, int], upgrade: bytes) -> None:
    fields = (
        b"Upgrade: %s\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n\r\n"
    )

    assert exchange(address, GET + fields % upgrade)[0] == 200


def test_requests_in_one_piece_are_answered_in_turn(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall((GET + b"\r\n") * 3 + GET + CLOSE)
        received = b""
        while piece := connection.recv(65_536):
            received += piece

    assert received.count(b"HTTP/1.1 200 OK") == 4


def num_counted(address: tuple[str, int], status: int) -> float:
    """Requests with this answer, of all methods and routes."""
    metrics = httpx.get(f"http://{address[0]}:{address[1]}/metrics").text
    lines = re.findall(rf'^wardrobe_requests_total{{.*status="{status}".*', metrics, re.MULTILINE)
    return sum(float(line.split()[-1]) for line in lines)


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET\r\n\r\n", 400), (b"", 408), (GET + headers(MAX_HEADERS + 1) + CLOSE, 431)],
)
def test_what_is_refused_before_its_route_is_known_is_counted(
    address: tuple[str, int], sent: bytes, status: int
) -> None:
    before = num_counted(address, status)

    assert exchange(address, sent)[0] == status

    assert num_counted(address, status) == before + 1


def test_a_client_that_leaves_is_counted_as_such(address: tuple[str, int]) -> None:
    before = num_counted(address, 499)

    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: w\r\nContent-Length: 1000\r\n\r\nabc")

    deadline = time.monotonic() + 10
    while num_counted(address, 499) == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_connections_beyond_what_the_files_allow_are_told(artifact: Artifact, tmp_path: Path) -> None:
    """Of 128 files, 64 may be connections; when one ends, the next is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))  # the service inherits it
    with ExitStack() as stack:
        try:
            _, client = stack.enter_context(small_service(artifact, tmp_path / "log"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        url = urlsplit(str(client.base_url))
        client.close()
        taken = [stack.enter_context(socket.create_connection((url.hostname, url.port), 30)) for _ in range(64)]
        with socket.create_connection((url.hostname, url.port), 30) as refused:
            answer = b""
            while piece := refused.recv(65_536):
                answer += piece
        taken[0].sendall(GET + CLOSE)
        while taken[0].recv(65_536):
            pass
        response = httpx.get(f"http://{url.netloc}/health/live")

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: " in answer
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["type"] == "urn:wardrobe:too-many-connections"
    assert response.status_code == 200
