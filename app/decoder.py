"""Decoding within a budget of CPU seconds and memory, whatever the file holds.

Parsers of image files have ways to be slow that no header shows. Measured, each within the limits of body and pixels:
a JPEG padded with 32 MB of 0xFF took 18 s of CPU, a PNG of empty chunks 11 s; a PNG of colour profiles, a BMP of runs
and a GIF of comments did not end before a wall-clock limit on a busy machine (CPU not read); HEIF, AVIF and TIFF hold
whole codecs, whose streams may be larger than the header says. So the files that `is_cheap()` proves harmless, which
nearly all JPEGs and PNGs are, are decoded in this process, and all others in one of their own, which the kernel
kills: a thread cannot be. Not every file is sent there: a thumbnail is decoded in less time than a hop to a process
should take (reasoned, not measured).
"""

import contextlib
import json
import logging
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from app.errors import BusyError, ImageTooComplexError, ImageTooLargeError, UndecodableImageError, WardrobeError
from app.images import DecodedImage, decode, is_cheap, sniff_format

# Honest pictures of 50 megapixels took at most 1.2 s of CPU (PNG, 16-bit RGBA) and 770 MB (WebP), each format tried.
MAX_CPU_SECONDS = 5
MAX_MEMORY_BYTES = 1024 * 2**20  # with what the interpreter and the libraries hold
MAX_WALL_SECONDS = 60.0  # for one that sleeps
RETRY_START_SECONDS = 5  # after one could not be started; chosen, not tuned

_REQUEST = struct.Struct("<QQQ")  # CPU seconds, most pixels, bytes of the file that follow
_ANSWER = struct.Struct("<QQ")  # bytes of JSON, bytes of pixels after it

logger = logging.getLogger(__name__)


class BudgetedDecoder:
    """decode() for many threads; keeps the processes that it had to start, as many as threads asked at a time."""

    def __init__(self, *, max_cpu_seconds: int = MAX_CPU_SECONDS, max_memory_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._max_cpu_seconds = max_cpu_seconds
        self._max_memory_bytes = max_memory_bytes
        self._idle: list[_Process] = []

    def decode(self, content: bytes, *, max_pixels: int) -> DecodedImage:
        """As app.images.decode().

        Raises:
            ImageError: as there; ImageTooComplexError also if the budget was used up.
            BusyError: the machine can start no further process now.
        """
        image_format = sniff_format(content)
        if image_format is None or is_cheap(content):
            return decode(content, max_pixels=max_pixels)
        process = self._take()
        try:
            image = process.decode(content, image_format, max_pixels)
        finally:
            if process.alive:
                self._idle.append(process)
        return image

    def _take(self) -> "_Process":
        while True:
            try:
                process = self._idle.pop()
            except IndexError:
                break
            if process.is_running():
                return process
            process.end()  # somebody killed it, most probably the kernel for its memory: no fault of this picture
        try:
            return _Process(self._max_cpu_seconds, self._max_memory_bytes)
        except OSError as error:  # too many processes or files are open, or there is no memory
            raise _cannot_start(error) from error

    def close(self) -> None:
        """End the idle processes; one that works ends with its picture."""
        while self._idle:
            self._idle.pop().end()


class _Process:
    def __init__(self, max_cpu_seconds: int, max_memory_bytes: int) -> None:
        self._max_cpu_seconds = max_cpu_seconds
        self._max_memory_bytes = max_memory_bytes
        self._popen = subprocess.Popen(  # noqa: S603  # nothing of a request is in it
            [sys.executable, "-m", "app.decoder", str(max_memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],  # -m looks here first: this app, and no app.py where a command was given
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # else a stack for each core
        )
        self.alive = True

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def decode(self, content: bytes, image_format: str, max_pixels: int) -> DecodedImage:
        watchdog = threading.Timer(MAX_WALL_SECONDS, self._popen.kill)
        try:
            watchdog.start()
        except RuntimeError as error:  # no further thread
            raise _cannot_start(error) from error
        try:
            answer, pixels = self._ask(content, max_pixels)
        except OSError as error:  # it is gone, most probably over its budget
            code = self._popen.wait()
            self.end()
            if code in (-signal.SIGXCPU, -signal.SIGKILL):
                raise self._too_complex() from error
            logger.warning("a decoder process died of a file", extra={"exit_code": code, "format": image_format})
            raise UndecodableImageError(image_format) from error
        except BaseException:
            self.end()
            raise
        finally:
            watchdog.cancel()
        match answer.pop("error", None):
            case None:
                height, width = answer.pop("shape")
                array = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
                return DecodedImage(pixels=array, **answer | {"notes": tuple(answer["notes"])})
            case "memory":
                self.end()
                raise self._too_complex()
            case "ImageTooLargeError":
                raise ImageTooLargeError(max_pixels, answer["size"] and tuple(answer["size"]))
            case "ImageTooComplexError":
                self.end()  # it may be that of memory: nothing may stay
                raise ImageTooComplexError(answer["reason"])
            case _:
                raise UndecodableImageError(image_format)

    def _ask(self, content: bytes, max_pixels: int) -> tuple[dict[str, Any], bytes]:
        stdin, stdout = self._popen.stdin, self._popen.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(_REQUEST.pack(self._max_cpu_seconds, max_pixels, len(content)))
        stdin.write(content)
        stdin.flush()
        num_json, num_pixels = _ANSWER.unpack(_read(stdout, _ANSWER.size))
        # JSON, not pickle: a process that a file took over must not give us code.
        answer: dict[str, Any] = json.loads(_read(stdout, num_json))
        return answer, _read(stdout, num_pixels)

    def end(self) -> None:
        """Kill it: it holds nothing that has to be saved."""
        self.alive = False
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # of what was still to be flushed
                pipe.close()

    def _too_complex(self) -> ImageTooComplexError:
        return ImageTooComplexError(
            f"It takes more than {self._max_cpu_seconds} s or {self._max_memory_bytes >> 20} MB"
        )


def _cannot_start(error: Exception) -> BusyError:
    logger.warning("no decoder process can be started", extra={"reason": str(error)})
    return BusyError("This machine can start no further process for a picture.", RETRY_START_SECONDS)


def _read(stdout: IO[bytes], num_bytes: int) -> bytes:
    content = stdout.read(num_bytes)
    if len(content) < num_bytes:
        raise BrokenPipeError
    return content


def main() -> None:
    """Decode what comes on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us when it is done
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # Linux: where a container's memory ends, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    while len(header := stdin.read(_REQUEST.size)) == _REQUEST.size:
        cpu_seconds, max_pixels, num_bytes = _REQUEST.unpack(header)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime) + cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))  # then SIGXCPU kills
        pixels = b""
        try:
            image = decode(stdin.read(num_bytes), max_pixels=max_pixels)
            answer = asdict(image) | {"shape": image.pixels.shape[:2]}
            pixels = answer.pop("pixels").tobytes()
        except MemoryError:
            answer = {"error": "memory"}
        except WardrobeError as error:
            answer = {"error": type(error).__name__, **vars(error)}
        text = json.dumps(answer).encode()
        stdout.write(_ANSWER.pack(len(text), len(pixels)) + text)
        stdout.write(pixels)
        stdout.flush()


if __name__ == "__main__":
    main()
