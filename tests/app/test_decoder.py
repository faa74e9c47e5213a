"""A picture costs what the budget allows and no more; what is refused leaves nothing behind."""

import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Generator

import numpy as np
import pytest
from PIL import Image

from app.decoder import BudgetedDecoder
from app.errors import BusyError, ImageTooComplexError, ImageTooLargeError, UndecodableImageError
from app.images import ACCEPTED_FORMATS, DEFAULT_MAX_IMAGE_PIXELS, decode, is_cheap
from tests.odd_files import bmp_of_runs, garment, jpeg_segment, png_chunk, save


@pytest.fixture
def decoder() -> Generator[BudgetedDecoder, None, None]:
    decoder = BudgetedDecoder(max_cpu_seconds=1)
    yield decoder
    decoder.close()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_phones_jpeg_is_cheap(progressive: bool) -> None:
    """Else every one would go to another process."""
    size = (1_200, 900) if progressive else (4_032, 3_024)

    assert is_cheap(save(garment(*size), "JPEG", progressive=progressive, exif=b"Exif\0\0" + bytes(60_000)))


def test_a_thumbnail_is_cheap() -> None:
    assert is_cheap(save(garment(28, 28), "PNG"))


JPEG, PNG = save(garment(60, 40), "JPEG"), save(garment(60, 40), "PNG")
SCAN = JPEG.index(b"\xff\xda")
SECOND_HEADER = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 7_000, 7_000, 8, 2, 0, 0, 0))
DEAR_FILES = {
    "fill bytes": JPEG[:2] + b"\xff" * 1_000 + JPEG[2:],
    "fill bytes behind the scan": JPEG[:-2] + b"\xff" * 1_000 + JPEG[-2:],
    "more bytes than its pixels need": JPEG[:-2] + bytes(500_000) + JPEG[-2:],
    "scans behind a marker without length": JPEG[:-2] + b"\xff\x01\xff\xc4" + JPEG[SCAN:-2] * 10 + JPEG[-2:],
    "a marker that nobody knows": JPEG[:-2] + b"\xff\x02\xff\xc4" + JPEG[-2:],
    "an image within": JPEG[:-2] + b"\xff\xd8\xff\xc4" + JPEG[-2:],
    "a frame behind the scan": JPEG[:-2] + JPEG[JPEG.index(b"\xff\xc0") :],
    "a segment without a length": JPEG[:SCAN] + b"\xff\xfe\0\0" + JPEG[SCAN:],
    "two headers": PNG[:33] + SECOND_HEADER + PNG[33:],
    "a header that is not the first": PNG[:8] + png_chunk(b"tEXt", PNG[16:29]) + SECOND_HEADER + PNG[33:],
    "a PNG of more bytes than its pixels need": PNG[:33] + png_chunk(b"IDAT", bytes(500_000)) + PNG[33:],
    "many segments": JPEG[:2] + jpeg_segment(0xE1, b"") * 1_000 + JPEG[2:],
    "large segments": JPEG[:2] + jpeg_segment(0xE1, bytes(60_000)) * 5 + JPEG[2:],
    "many scans of many pixels": save(garment(2_000, 1_500), "JPEG", progressive=True),
    "arithmetic coding": JPEG.replace(b"\xff\xc0", b"\xff\xc9"),
    "many empty chunks": PNG[:33] + png_chunk(b"IDAT", b"") * 3_000 + PNG[33:],
    "many colour profiles": PNG[:33] + png_chunk(b"iCCP", b"a\0\0") * 100 + PNG[33:],
    "a giant chunk": PNG[:33] + png_chunk(b"eXIf", bytes(1_000_000)) + PNG[33:],
    "many pixels": save(Image.new("1", (5_000, 4_000)), "PNG"),
}


@pytest.mark.parametrize("content", DEAR_FILES.values(), ids=DEAR_FILES.keys())
def test_what_the_markers_do_not_prove_is_not_cheap(content: bytes) -> None:
    assert not is_cheap(content)


@pytest.mark.parametrize("image_format", [f for f in ACCEPTED_FORMATS if f not in ("JPEG", "PNG")])
def test_the_other_process_gives_the_same(decoder: BudgetedDecoder, image_format: str) -> None:
    content = save(garment(60, 40), image_format)

    there, here = decoder.decode(content, max_pixels=10_000), decode(content, max_pixels=10_000)

    assert not is_cheap(content)
    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert (there.format, there.width, there.height, there.notes) == (here.format, 60, 40, here.notes)


def test_a_process_serves_many_pictures(decoder: BudgetedDecoder) -> None:
    """An error of one is not the end of it."""
    good = save(garment(60, 40), "BMP")
    decoder.decode(good, max_pixels=10_000)
    process = decoder._idle[0]

    with pytest.raises(UndecodableImageError):
        decoder.decode(good[:-1_000], max_pixels=10_000)
    with pytest.raises(ImageTooLargeError, match="60x40"):
        decoder.decode(good, max_pixels=1_000)
    decoder.decode(good, max_pixels=10_000)

    assert decoder._idle == [process]


def test_one_that_takes_too_long_is_killed(decoder: BudgetedDecoder) -> None:
    """A run of one pixel each: Pillow reads them in Python."""
    content = bmp_of_runs(7_000, 7_000, num_runs=10_000_000)

    with pytest.raises(ImageTooComplexError):
        decoder.decode(content, max_pixels=DEFAULT_MAX_IMAGE_PIXELS)

    assert decoder._idle == []
    assert decoder.decode(save(garment(60, 40), "BMP"), max_pixels=10_000).width == 60


def test_one_that_takes_too_much_memory_is_refused() -> None:
    decoder = BudgetedDecoder(max_memory_bytes=100 * 2**20)
    pixels = Image.new("RGB", (7_000, 7_000))  # 196 MB where Pillow decodes them

    with pytest.raises(ImageTooComplexError):
        decoder.decode(save(pixels, "TIFF", compression="tiff_adobe_deflate"), max_pixels=DEFAULT_MAX_IMAGE_PIXELS)

    assert decoder._idle == []


def test_a_process_that_was_killed_while_idle_is_replaced(decoder: BudgetedDecoder) -> None:
    """Where memory ends, the kernel kills decoders first: the next picture has nothing to do with it."""
    content = save(garment(60, 40), "BMP")
    decoder.decode(content, max_pixels=10_000)
    pid = decoder._idle[0]._popen.pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert decoder.decode(content, max_pixels=10_000).width == 60


@pytest.mark.parametrize("answer", ["", "QQ", "QQ{}"], ids=["no header", "no text", "no pixels"])
def test_a_process_that_dies_within_its_answer_is_over_its_budget(decoder: BudgetedDecoder, answer: str) -> None:
    content = save(garment(60, 40), "BMP")
    decoder.decode(content, max_pixels=10_000)
    code = f"""
import os, signal, struct, sys
sys.stdin.buffer.read({24 + len(content)})
sys.stdout.buffer.write({answer.encode()!r}.replace(b"QQ", struct.pack("<QQ", 2, 7_200)))
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGXCPU)
"""
    process = decoder._idle[0]
    honest, process._popen = (
        process._popen,
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE),
    )

    with pytest.raises(ImageTooComplexError):
        decoder.decode(content, max_pixels=10_000)

    assert decoder._idle == []
    honest.communicate()


def test_where_no_process_can_be_started_the_service_is_busy(decoder: BudgetedDecoder) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # what is open stays open
    try:
        with pytest.raises(BusyError):
            decoder.decode(save(garment(60, 40), "BMP"), max_pixels=10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_close_ends_the_processes() -> None:
    decoder = BudgetedDecoder()
    decoder.decode(save(garment(60, 40), "BMP"), max_pixels=10_000)
    process = decoder._idle[0]

    decoder.close()

    assert process._popen.returncode is not None
