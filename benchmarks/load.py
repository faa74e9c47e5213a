"""Clients for `benchmarks.serving`, in a process of their own that imports little.

    python -m benchmarks.load '[PORT, CONCURRENCY, RATE or null, SECONDS]' <REQUEST

sends the whole HTTP request from its standard input again and again and prints an `Outcome` as JSON.
"""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field

BOUNDARY = "boundary-of-the-benchmark"
PAUSE_SECONDS = 0.05  # after a failure, before the client connects again; chosen, not tuned


@dataclass(frozen=True, slots=True)
class Load:
    """Closed: `concurrency` clients that each send the next request when they have their answer.

    Open, with a `rate`: so many requests a second, whether the last ones were answered or not.
    """

    picture: str
    images_per_request: int
    concurrency: int
    rate: float | None = None

    def __str__(self) -> str:
        how = f"{self.concurrency} clients" if self.rate is None else f"{self.rate:g}/s"
        many = f", {self.images_per_request} a request" if self.images_per_request > 1 else ""
        return f"{self.picture}, {how}{many}"


@dataclass(slots=True)
class Outcome:
    """Durations of the answers with status 200, how many requests failed, and when the last answer came.

    All in seconds. Requests under way when the time is over are waited for, so rates are to be taken over
    `last_seconds`.
    """

    durations: list[float] = field(default_factory=list)
    num_failed: int = 0
    last_seconds: float = 0.0


def multipart(content: bytes, count: int) -> bytes:
    """A whole HTTP request with so many times this file."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'.encode()
    body = (part + content + b"\r\n") * count + f"--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client:
    """One connection, opened again when it was closed."""

    def __init__(self, port: int, request: bytes, outcome: Outcome, started: float) -> None:
        self._port, self._request, self._outcome, self._started = port, request, outcome, started
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, since: float) -> None:
        """Send the request and count its answer, which is late from `since` on."""
        try:
            is_ok = await self._exchange()
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            is_ok = False
        now = time.perf_counter()
        if is_ok:
            self._outcome.durations.append(now - since)
            self._outcome.last_seconds = now - self._started
        else:
            self._outcome.num_failed += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _exchange(self) -> bool:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(int(it[15:]) for it in head.split(b"\r\n") if it.startswith(b"content-length:"))
        await reader.readexactly(length)
        if b"\r\nconnection: close" in head:
            self.close()
        return head.startswith(b"http/1.1 200")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()  # whatever is still unsent
            self._streams = None


async def drive(port: int, request: bytes, load: Load, seconds: float) -> Outcome:
    """Send this load for so many seconds and wait for the last answers."""
    outcome, started = Outcome(), time.perf_counter()

    async def closed() -> None:
        client = Client(port, request, outcome, started)
        while (now := time.perf_counter()) < started + seconds:
            await client.ask(now)
        client.close()

    async def one(at: float) -> None:
        client = Client(port, request, outcome, started)
        await client.ask(at)
        client.close()

    async with asyncio.TaskGroup() as group:
        if load.rate is None:
            for _ in range(load.concurrency):
                group.create_task(closed())
        else:
            for index in range(int(load.rate * seconds)):
                at = started + index / load.rate
                await asyncio.sleep(max(0, at - time.perf_counter()))
                group.create_task(one(at))
    return outcome


def drive_in_a_process(port: int, request: bytes, load: Load, seconds: float) -> Outcome:
    """`drive` apart from this process, whose threads would disturb it."""
    argument = json.dumps([port, load.concurrency, load.rate, seconds])
    command = [sys.executable, "-m", "benchmarks.load", argument]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True)  # noqa: S603
    return Outcome(**json.loads(done.stdout))


def main() -> None:
    port, concurrency, rate, seconds = json.loads(sys.argv[1])
    load = Load("", 1, concurrency, rate)
    print(json.dumps(asdict(asyncio.run(drive(port, sys.stdin.buffer.read(), load, seconds)))))


if __name__ == "__main__":
    main()
