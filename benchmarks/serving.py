"""The service against other ways to serve the same models, and against what this machine can do at all.

    pip install litserve psutil
    python -m benchmarks.serving --rounds 3 --seconds 5

starts each server, drives one after the other through every load, round after round, and prints images a second, the
median and the 99th percentile of the answers' times in milliseconds, the ratio to the ceiling (decode, preprocessing
and forward pass in this process's threads, no HTTP, the best engine and thread setting) and to the best peer; then
start-up times and memory; with `--requests 50000`, this service's memory while it answers so many thumbnails more.
Figures are medians over the rounds. The load comes from a process of its own on the same machine: where there are few
cores, all servers lose what it takes.
"""

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from PIL import Image

from app.artifact import read_card
from app.engines import installed_engines, load_verified
from app.images import decode
from app.inference.threads import available_cpus
from benchmarks.forward import photo

PORT = 8100
START_SECONDS = 120
BOUNDARY = "boundary-of-the-benchmark"
NEWEST = {
    name: max((Path("models") / name).iterdir(), key=lambda it: int(it.name)) for name in ("fashion-mnist", "wardrobe")
}


@dataclass(frozen=True, slots=True)
class Server:
    """How to start one, and where it says that it is ready."""

    name: str
    command: tuple[str, ...]
    ready_path: str
    environment: dict[str, str]
    is_peer: bool = False


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


def servers() -> list[Server]:
    def ours(name: str, port: int, **settings: str) -> Server:
        environment = {"WARDROBE_PORT": str(port), "WARDROBE_LOG_LEVEL": "WARNING", "WARDROBE_MAX_QUEUE_IMAGES": "4096"}
        environment |= {f"WARDROBE_{key.upper()}": value for key, value in settings.items()}
        return Server(name, (sys.executable, "-m", "app"), "/health/ready", environment)

    def peer(name: str, module: str, port: int) -> Server:
        return Server(name, (sys.executable, "-m", module, str(port)), "/health", {}, is_peer=True)

    return [
        ours("this service, ONNX Runtime", PORT, engine="onnxruntime"),
        ours("this service, TorchScript", PORT + 1, engine="torchscript"),
        peer("plain FastAPI", "benchmarks.peers", PORT + 2),
        peer("LitServe", "benchmarks.litserve_peer", PORT + 3),
    ]


def pictures() -> dict[str, bytes]:
    """Drawn here: the time depends on size and format, hardly on what is to be seen."""
    large = photo()
    small, thumbnail = io.BytesIO(), io.BytesIO()
    image = Image.open(io.BytesIO(large))
    image.resize((400, 300)).save(small, "JPEG", quality=90)
    image.convert("L").resize((28, 28)).save(thumbnail, "PNG")
    return {"28x28 PNG": thumbnail.getvalue(), "400 px photo": small.getvalue(), "12 MP photo": large}


def multipart(content: bytes, count: int) -> bytes:
    """A whole HTTP request but for its Host."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'.encode()
    body = (part + content + b"\r\n") * count + f"--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def drive(port: int, request: bytes, load: Load, seconds: float) -> tuple[list[float], int]:
    """Durations of the answers with status 200, in seconds, and how many others there were."""
    durations: list[float] = []
    num_failed = 0
    ends = time.perf_counter() + seconds

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, started: float) -> None:
        nonlocal num_failed
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(it[15:]) for it in head.lower().split(b"\r\n") if it.startswith(b"content-length:"))
        await reader.readexactly(length)
        if head.startswith(b"HTTP/1.1 200"):
            durations.append(time.perf_counter() - started)
        else:
            num_failed += 1

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < ends:
            await answer(reader, writer, started)
        writer.close()

    async def one(at: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await answer(reader, writer, at)
        writer.close()

    if load.rate is None:
        await asyncio.gather(*(client() for _ in range(load.concurrency)))
    else:
        async with asyncio.TaskGroup() as group:
            for index in range(int(load.rate * seconds)):
                at = ends - seconds + index / load.rate
                await asyncio.sleep(max(0, at - time.perf_counter()))
                group.create_task(one(at))
    return durations, num_failed


def drive_in_a_process(port: int, request: bytes, load: Load, seconds: float) -> tuple[list[float], int]:
    """`drive` apart from this process, whose threads would disturb it."""
    argument = json.dumps([port, load.concurrency, load.rate, seconds])
    command = [sys.executable, "-m", "benchmarks.serving", "--drive", argument]
    done = subprocess.run(command, input=request, capture_output=True, check=True)  # noqa: S603
    durations, num_failed = json.loads(done.stdout)
    return durations, num_failed


@contextmanager
def running(server: Server, port: int) -> Iterator[tuple[psutil.Process, float]]:
    """The started server's process, and the seconds until it was ready."""
    started = time.perf_counter()
    process = psutil.Popen(server.command, env=os.environ | server.environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{server.ready_path}", timeout=1):
                    break
            except OSError:
                if process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                    raise RuntimeError(f"{server.name} did not start") from None
                time.sleep(0.02)
        yield process, time.perf_counter() - started
    finally:
        if process.poll() is None:
            for it in [*process.children(recursive=True), process]:
                it.terminate()
        process.wait()


def megabytes(process: psutil.Process) -> float:
    """Memory of a process and its children, shared pages counted once in equal parts."""
    return sum(it.memory_full_info().pss for it in [process, *process.children(recursive=True)]) / 2**20


def ceiling(content: bytes, model: str, seconds: float) -> tuple[float, str]:
    """Images a second without HTTP, and with which engine and threads."""
    cpus, folder = available_cpus(), NEWEST[model]
    best = (0.0, "")
    for engine in installed_engines():
        for num_workers in sorted({1, cpus}):
            artifact = load_verified(folder, read_card(folder), engine=engine, num_threads=cpus // num_workers)
            for batch_size in (1, 8):
                rate = _threads_rate(
                    lambda a=artifact, n=batch_size: a.scores(
                        np.stack([a.preprocess(decode(content).pixels) for _ in range(n)])
                    ),
                    num_workers,
                    seconds,
                )
                best = max(best, (rate * batch_size, f"{engine}, {num_workers} at a time, batches of {batch_size}"))
    return best


def _threads_rate(work: Callable[[], object], num_workers: int, seconds: float) -> float:
    def loop() -> int:
        count = 0
        while time.perf_counter() < ends:
            work()
            count += 1
        return count

    with ThreadPoolExecutor(num_workers) as pool:
        list(pool.map(lambda _: work(), range(2 * num_workers)))
        started = time.perf_counter()
        ends = started + seconds
        total = sum(future.result() for future in [pool.submit(loop) for _ in range(num_workers)])
        return total / (time.perf_counter() - started)


def loads(*, quick: bool) -> list[Load]:
    if quick:
        return [Load(picture, 1, 8) for picture in pictures()]
    closed = [Load(picture, 1, concurrency) for picture in pictures() for concurrency in (1, 8, 32)]
    many = [Load(picture, 32, 1) for picture in pictures()]
    return [*closed, *many, Load("28x28 PNG", 1, 1, rate=200), Load("400 px photo", 1, 1, rate=40)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each load of each server in each round")
    parser.add_argument("--requests", type=int, default=0, help="after that, with the memory printed on the way")
    parser.add_argument("--quick", action="store_true", help="one concurrency only")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        port, concurrency, rate, seconds = json.loads(options.drive)
        load = Load("", 1, concurrency, rate)
        print(json.dumps(asyncio.run(drive(port, sys.stdin.buffer.read(), load, seconds))))
        return
    compare(servers(), loads(quick=options.quick), num_rounds=options.rounds, seconds=options.seconds)
    if options.requests:
        show_memory(servers()[0], num_requests=options.requests, seconds=options.seconds)


def compare(competitors: Sequence[Server], wanted: Sequence[Load], *, num_rounds: int, seconds: float) -> None:
    contents = pictures()
    ports = {server.name: PORT + index for index, server in enumerate(competitors)}
    with ExitStack() as stack:
        processes: dict[str, psutil.Process] = {}
        for server in competitors:
            processes[server.name], start = stack.enter_context(running(server, ports[server.name]))
            print(
                f"{server.name:<30}ready after {start:5.1f} s, {megabytes(processes[server.name]):6.0f} MB", flush=True
            )
        found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        ceilings: dict[str, list[tuple[float, str]]] = {}
        for load in wanted:
            request = multipart(contents[load.picture], load.images_per_request)
            model = "fashion-mnist" if load.picture.startswith("28x28") else "wardrobe"
            for turn in range(num_rounds):
                if len(ceilings.setdefault(load.picture, [])) < num_rounds:
                    ceilings[load.picture].append(ceiling(contents[load.picture], model, seconds / 4))
                first = turn % len(competitors)  # another one begins in each round
                for server in [*competitors[first:], *competitors[:first]]:
                    durations, num_failed = drive_in_a_process(ports[server.name], request, load, seconds)
                    images = len(durations) * load.images_per_request / seconds
                    if num_failed:
                        print(f"{server.name}: {num_failed} requests failed", flush=True)
                    p50, p99 = np.percentile(durations or [np.nan], [50, 99]) * 1000
                    found.setdefault((str(load), server.name), []).append((images, p50, p99))
            show(load, competitors, found, ceilings[load.picture])
        print()
        for server in competitors:
            print(f"{server.name:<30}{megabytes(processes[server.name]):6.0f} MB at the end")


def show_memory(server: Server, *, num_requests: int, seconds: float) -> None:
    """Print the memory of a fresh server about ten times while it answers thumbnails."""
    load = Load("28x28 PNG", 1, 8)
    request = multipart(pictures()[load.picture], load.images_per_request)
    print(f"\n{server.name}, {load}")
    with running(server, PORT) as (process, _):
        print(f"{'answered':>10}{'MB':>8}\n{0:>10}{megabytes(process):>8.1f}")
        num_answered, shown = 0, 0
        while num_answered < num_requests:
            durations, num_failed = drive_in_a_process(PORT, request, load, seconds)
            if not durations or num_failed:
                raise RuntimeError(f"{num_failed} requests failed, {len(durations)} did not")
            num_answered += len(durations)
            if num_answered - shown >= num_requests / 10 or num_answered >= num_requests:
                shown = num_answered
                print(f"{num_answered:>10}{megabytes(process):>8.1f}", flush=True)


def show(
    load: Load,
    competitors: Sequence[Server],
    found: dict[tuple[str, str], list[tuple[float, float, float]]],
    ceilings: Sequence[tuple[float, str]],
) -> None:
    top, how = median(rate for rate, _ in ceilings), max(ceilings)[1]
    print(f"\n{load}: the ceiling is {top:.1f} images/s ({how})")
    print(f"{'':<30}{'images/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'of ceiling':>12}{'of best peer':>14}")
    rates = {it.name: median(row[0] for row in found[str(load), it.name]) for it in competitors}
    best_peer = max(rates[it.name] for it in competitors if it.is_peer)
    for server in competitors:
        _, p50, p99 = (median(column) for column in zip(*found[str(load), server.name], strict=True))
        rate = rates[server.name]
        print(
            f"{server.name:<30}{rate:>10.1f}{p50:>9.1f}{p99:>9.1f}{rate / top:>12.2f}{rate / best_peer:>14.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
