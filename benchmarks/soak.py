"""Minutes of good, bad and ill-behaved clients at once: does the service keep its word and its memory?

    pip install psutil
    python -m benchmarks.soak --minutes 10

starts the service with a small queue and short deadlines, and sends it pictures of three sizes, whole forms of them,
files that are no pictures (those of tests/odd_files.py), bodies that trickle, clients that hang up, and now and then
more than the queue holds. It prints the answers by kind and status with their times, the resident memory on the way,
and its slope: a line through the means of twenty equal parts of the time after the warm-up, with its 95 % interval.
The exit status is 1 if an answer was a 5xx or not the one that was due, took longer than a minute, or if the service
logged an error.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.load import multipart
from benchmarks.serving import megabytes, pictures
from tests.odd_files import ODD_FILES
from tests.process import serving

HANG_SECONDS = 60
NUM_CLIENTS = 8
BURST_SECONDS = 15  # between one time of more than the queue holds and the next
BODY_TIMEOUT_SECONDS = 5
SETTINGS = {
    "MAX_QUEUE_IMAGES": "64",
    "MAX_IMAGES_PER_REQUEST": "32",
    "BODY_TIMEOUT_SECONDS": str(BODY_TIMEOUT_SECONDS),
}
WARM_UP_SHARE = 0.2
NUM_PARTS = 20
STUDENT_T = 2.101  # 97.5 % quantile for 18 degrees of freedom: 20 parts, and a line
LEFT = "left"  # instead of a status: the client did not wait for one
CLOSED = "closed"  # the connection ended before an answer came


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to ask: how often among the others, what is sent, and which answers are right."""

    name: str
    weight: float
    request: Callable[[], bytes]
    due: frozenset[str]
    pause_seconds: float = 0  # between the two halves of the body
    leaves: bool = False


@dataclass(slots=True)
class Seen:
    """What came of it."""

    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds since the start, MB


def kinds() -> list[Kind]:
    contents = pictures()
    good = [multipart(content, 1) for content in contents.values()]
    odd = {name: file.make() for name, file in ODD_FILES.items()}
    form = multipart(contents["400 px photo"], 16)
    served = frozenset({"200", "429"})  # no 408: these bodies are sent at once, or with a pause that leaves them time

    def odd_kind(name: str, content: bytes) -> Kind:
        file = ODD_FILES[name]
        # A body over the limit is refused unread: who goes on sending may find the connection closed.
        due = {str(file.status), "429", *([CLOSED] if file.slug == "body-too-large" else [])}
        request = multipart(content, 1)
        return Kind(f"odd file: {name}", 3 / len(odd), lambda: request, frozenset(due))

    def raw(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()

    return [
        *(
            Kind(name, weight, lambda request=request: request, served)
            for (name, request), weight in zip(zip(contents, good, strict=True), (4, 4, 1), strict=True)
        ),
        Kind("16 in a form", 0.3, lambda: form, served),
        *(odd_kind(name, content) for name, content in odd.items()),
        Kind("cut multipart", 0.5, lambda: _cut(good[1]), frozenset({"400", "429"})),
        Kind("card", 0.5, lambda: raw("/models/wardrobe"), frozenset({"200"})),
        Kind("metrics", 0.5, lambda: raw("/metrics"), frozenset({"200"})),
        Kind("slow body", 0.2, lambda: good[1], served, pause_seconds=BODY_TIMEOUT_SECONDS / 3),
        Kind("too slow body", 0.2, lambda: good[1], frozenset({"408", "429"}), pause_seconds=3 * BODY_TIMEOUT_SECONDS),
        Kind("hangs up in the body", 1, lambda: _half(good[2]), frozenset({LEFT}), leaves=True),
        Kind("hangs up after it", 1, lambda: good[1], frozenset({LEFT}), leaves=True),
    ]


def _half(request: bytes) -> bytes:
    return request[: len(request) // 2]


def _cut(request: bytes) -> bytes:
    """A whole request whose multipart body ends early."""
    body = request.partition(b"\r\n\r\n")[2]
    head = request[: -len(body)].replace(str(len(body)).encode(), str(len(body) // 2).encode())
    return head + body[: len(body) // 2]


async def ask(port: int, kind: Kind, seen: Seen) -> None:
    """Send one request of this kind over a connection of its own."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(HANG_SECONDS):
            answer, text = await _exchange(port, kind)
    except TimeoutError:
        answer, text = "hang", f"no answer within {HANG_SECONDS} s"
    group = kind.name.partition(":")[0]  # one row for all odd files
    seen.answers[group][answer] += 1
    seen.seconds[group].append(time.perf_counter() - started)
    if answer not in kind.due:
        seen.wrong.append(f"{kind.name}: {answer} {text}")


async def _exchange(port: int, kind: Kind) -> tuple[str, str]:
    """The status, or what came instead of one, and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = kind.request()
    try:
        if kind.pause_seconds:
            writer.write(_half(request))
            await asyncio.sleep(kind.pause_seconds)
            request = request[len(request) // 2 :]
        writer.write(request)
        if kind.leaves:
            await writer.drain()
            return LEFT, ""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(int(it[15:]) for it in head.split(b"\r\n") if it.startswith(b"content-length:"))
        return head[9:12].decode(), (await reader.readexactly(length)).decode()
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return CLOSED, repr(error)
    finally:
        writer.transport.abort()  # whatever is still unsent or unread


async def soak(port: int, process: psutil.Process, *, seconds: float, seed: int) -> Seen:
    """Everything at once until the time is over."""
    seen = Seen()
    mixed = kinds()
    weights = np.array([kind.weight for kind in mixed])
    rng = np.random.default_rng(seed)
    full = multipart(pictures()["400 px photo"], 32)  # two of them fill the queue
    burst = Kind("burst of 4 x 32", 0, lambda: full, frozenset({"200", "429"}))
    started = time.perf_counter()
    ends = started + seconds

    async def client() -> None:
        while time.perf_counter() < ends:
            await ask(port, mixed[rng.choice(len(mixed), p=weights / weights.sum())], seen)

    async def bursts() -> None:
        while time.perf_counter() < ends - BURST_SECONDS:
            await asyncio.sleep(BURST_SECONDS)
            await asyncio.gather(*(ask(port, burst, seen) for _ in range(4)))

    async def watch() -> None:
        last_said = 0.0
        while (elapsed := time.perf_counter() - started) < seconds and process.is_running():
            seen.memory.append((elapsed, megabytes(process)))
            if elapsed - last_said >= seconds / 20:
                last_said = elapsed
                total = sum(map(Counter.total, seen.answers.values()))
                print(f"{elapsed:6.0f} s {total:8d} requests {seen.memory[-1][1]:7.1f} MB", flush=True)
            await asyncio.sleep(1)

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)), bursts(), watch())
    return seen


def slope_per_hour(memory: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """MB an hour after the warm-up, and half the width of its 95 % interval.

    The line goes through means of parts, since samples of neighbouring seconds are alike.
    """
    samples = np.array(memory)
    samples = samples[samples[:, 0] >= WARM_UP_SHARE * samples[-1, 0]]
    x, y = np.array([part.mean(0) for part in np.array_split(samples, NUM_PARTS)]).T
    x = (x - x.mean()) / 3600
    slope = (x @ y) / (x @ x)
    residuals = y - y.mean() - slope * x
    return float(slope), float(STUDENT_T * np.sqrt(residuals @ residuals / (NUM_PARTS - 2) / (x @ x)))


def show(seen: Seen) -> None:
    print(f"\n{'':<28}{'requests':>9}{'p50 ms':>9}{'p99 ms':>9}  answers")
    for name, answers in seen.answers.items():
        p50, p99 = np.percentile(seen.seconds[name], [50, 99]) * 1000
        found = ", ".join(f"{answer}: {count}" for answer, count in answers.most_common())
        print(f"{name:<28}{answers.total():>9}{p50:>9.1f}{p99:>9.1f}  {found}")
    totals = sum(seen.answers.values(), Counter())
    print(f"{'all':<28}{totals.total():>9}{'':>18}  {', '.join(f'{a}: {n}' for a, n in totals.most_common())}")
    slope, half_width = slope_per_hour(seen.memory)
    print(f"resident memory: {seen.memory[-1][1]:.0f} MB at the end, most {max(mb for _, mb in seen.memory):.0f} MB")
    print(f"slope after the warm-up: {slope:+.1f} MB an hour (95 % interval {slope - half_width:+.1f} to ", end="")
    print(f"{slope + half_width:+.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the order of the requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with serving(log, **SETTINGS) as (process, client):
            port = client.base_url.port or 80
            seen = asyncio.run(soak(port, psutil.Process(process.pid), seconds=60 * options.minutes, seed=options.seed))
            show(seen)
            process.terminate()
            started = time.perf_counter()
            process.wait(2 * HANG_SECONDS)
            print(f"stopped within {time.perf_counter() - started:.1f} s")
        entries = [json.loads(line) for line in log.read_text().splitlines()]
    wrong = [*seen.wrong, *(str(entry) for entry in entries if entry["level"] not in ("INFO", "WARNING"))]
    if process.returncode != 0:
        wrong.append(f"the service ended with status {process.returncode}")
    print(f"wrong answers, hangs, and errors in the log: {len(wrong)}")
    for text in wrong[:20]:
        print("  ", text[:500])
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
