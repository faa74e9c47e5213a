"""The service against other ways to serve the same models, and against what this machine can do at all.

    pip install litserve psutil
    python -m benchmarks.serving --rounds 3 --seconds 3 --requests 50000

starts each server, drives one after the other through every load, round after round, and prints images a second, the
median and the 99th percentile of the answers' times in milliseconds, the ratio to the ceiling (decode, preprocessing
and forward pass in this process's threads, no HTTP, the best engine and thread setting) and to the best peer; then
start-up times and memory; with `--requests 50000`, this service's memory while it answers so many thumbnails more.
Figures are medians over the rounds; images a second are counted up to the last answer. The load comes from a process of
its own on the same machine: where there are few cores, all servers lose what it takes. Peers are stopped while another
server is driven: LitServe, when it batches, asks its queue every millisecond: 0.14 of a core taken from the others.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
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
from benchmarks.load import Load, drive_in_a_process, multipart

PORT = 8100
START_SECONDS, STOP_SECONDS = 120, 20
# Of one drive, beyond its seconds: the clients' start and the last answers. An estimate; large forms take longer.
EXTRA_SECONDS = 1.0
WARM_UP_SECONDS = 1.0
NEWEST = {
    name: max((Path("models") / name).glob("*/"), key=lambda it: int(it.name)) for name in ("fashion-mnist", "wardrobe")
}


@dataclass(frozen=True, slots=True)
class Server:
    """How to start one, and where it says that it is ready."""

    name: str
    command: tuple[str, ...]
    ready_path: str
    environment: dict[str, str]
    is_peer: bool = False


def servers() -> list[Server]:
    def ours(name: str, port: int, **settings: str) -> Server:
        settings |= {"port": str(port), "log_level": "WARNING", "max_queue_images": "4096"}
        settings |= {"max_upload_bytes": str(2**27)}  # 32 photos of 12 megapixels are 48 MB
        environment = {f"WARDROBE_{key.upper()}": value for key, value in settings.items()}
        return Server(name, (sys.executable, "-m", "app"), "/health/ready", environment)

    def peer(name: str, module: str, port: int) -> Server:
        return Server(name, (sys.executable, "-m", module, str(port)), "/health", {}, is_peer=True)

    return [
        ours("this service, ONNX Runtime", PORT, engine="onnxruntime"),
        ours("this service, TorchScript", PORT + 1, engine="torchscript"),
        ours("this service, ONNX, WORKERS=2", PORT + 2, engine="onnxruntime", workers="2"),
        peer("plain FastAPI", "benchmarks.peers", PORT + 3),
        peer("LitServe", "benchmarks.litserve_peer", PORT + 4),
    ]


def pictures() -> dict[str, bytes]:
    """Drawn here: the time depends on size and format, hardly on what is to be seen."""
    large = photo()
    small, thumbnail = io.BytesIO(), io.BytesIO()
    image = Image.open(io.BytesIO(large))
    image.resize((400, 300)).save(small, "JPEG", quality=90)
    image.convert("L").resize((28, 28)).save(thumbnail, "PNG")
    return {"28x28 PNG": thumbnail.getvalue(), "400 px photo": small.getvalue(), "12 MP photo": large}


@contextmanager
def running(server: Server, port: int) -> Iterator[tuple[psutil.Process, float]]:
    """The started server's process, and the seconds until it was ready."""
    with tempfile.TemporaryDirectory() as data_dir:
        started = time.perf_counter()
        environment = os.environ | server.environment | {"WARDROBE_DATA_DIR": data_dir}
        process = psutil.Popen(server.command, env=environment, stderr=subprocess.DEVNULL)
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
            family = _family(process)
            for it in family:  # the parent first, or it would start new ones; LitServe leaves its children alone
                with suppress(psutil.NoSuchProcess):
                    it.terminate()
            for left in psutil.wait_procs(family, STOP_SECONDS)[1]:
                left.kill()


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)] if process.is_running() else []


@contextmanager
def awake(server: Server, process: psutil.Process) -> Iterator[None]:
    """Let a peer run, which otherwise is stopped."""
    if not server.is_peer:
        yield
        return
    _resume(process)
    try:
        yield
    finally:
        for it in _family(process):
            it.suspend()


def megabytes(process: psutil.Process) -> float:
    """Memory of a process and its children, shared pages counted once in equal parts."""
    return sum(it.memory_full_info().pss for it in _family(process)) / 2**20


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
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    compare(servers(), loads(quick=options.quick), num_rounds=options.rounds, seconds=options.seconds)
    if options.requests:
        show_memory(servers()[0], num_requests=options.requests, seconds=options.seconds)


def compare(competitors: Sequence[Server], wanted: Sequence[Load], *, num_rounds: int, seconds: float) -> None:
    num_drives = len(wanted) * num_rounds * len(competitors)
    print(f"{num_drives} drives of {seconds:g} s: about {num_drives * (seconds + EXTRA_SECONDS) / 60:.0f} minutes\n")
    began = time.perf_counter()
    contents = pictures()
    ports = {server.name: PORT + index for index, server in enumerate(competitors)}
    with ExitStack() as stack:
        processes: dict[str, psutil.Process] = {}
        for server in competitors:
            process, start = stack.enter_context(running(server, ports[server.name]))
            processes[server.name] = process
            print(f"{server.name:<30}ready after {start:5.1f} s, {megabytes(process):6.0f} MB", flush=True)
            stack.callback(_resume, process)  # or it could not end
            with awake(server, process):
                for content in list(contents.values())[:2]:  # one for each model
                    load = Load("", 1, 8)
                    drive_in_a_process(ports[server.name], multipart(content, 1), load, WARM_UP_SECONDS)
        found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        ceilings: dict[str, list[tuple[float, str]]] = {}
        for number, load in enumerate(wanted, 1):
            request = multipart(contents[load.picture], load.images_per_request)
            model = "fashion-mnist" if load.picture.startswith("28x28") else "wardrobe"
            for turn in range(num_rounds):
                if len(ceilings.setdefault(load.picture, [])) < num_rounds:
                    ceilings[load.picture].append(ceiling(contents[load.picture], model, seconds / 4))
                first = turn % len(competitors)  # another one begins in each round
                for server in [*competitors[first:], *competitors[:first]]:
                    with awake(server, processes[server.name]):
                        outcome = drive_in_a_process(ports[server.name], request, load, seconds)
                    rate = len(outcome.durations) * load.images_per_request / max(outcome.last_seconds, 1e-9)
                    if outcome.num_failed:
                        print(f"{load}, {server.name}: {outcome.num_failed} requests failed", flush=True)
                    p50, p99 = np.percentile(outcome.durations or [np.nan], [50, 99]) * 1000
                    found.setdefault((str(load), server.name), []).append((rate, p50, p99))
            show(load, competitors, found, ceilings[load.picture])
            minutes = (time.perf_counter() - began) / 60
            print(f"(load {number} of {len(wanted)}, {minutes:.1f} minutes)", file=sys.stderr, flush=True)
        print()
        for server in competitors:
            print(f"{server.name:<30}{megabytes(processes[server.name]):6.0f} MB at the end")


def _resume(process: psutil.Process) -> None:
    for it in _family(process):
        it.resume()


def show_memory(server: Server, *, num_requests: int, seconds: float) -> None:
    """Print the memory of a fresh server about ten times while it answers thumbnails."""
    load = Load("28x28 PNG", 1, 8)
    request = multipart(pictures()[load.picture], load.images_per_request)
    print(f"\n{server.name}, {load}")
    with running(server, PORT) as (process, _):
        print(f"{'answered':>10}{'MB':>8}\n{0:>10}{megabytes(process):>8.1f}")
        num_answered, shown = 0, 0
        while num_answered < num_requests:
            outcome = drive_in_a_process(PORT, request, load, seconds)
            if not outcome.durations or outcome.num_failed:
                raise RuntimeError(f"{outcome.num_failed} requests failed, {len(outcome.durations)} did not")
            num_answered += len(outcome.durations)
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
