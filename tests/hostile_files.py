"""Hundreds of files that want a service to fail, each made here; what may be answered stands beside them."""

import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator

from PIL import Image

from app.images import ACCEPTED_FORMATS
from tests.odd_files import (
    HTML,
    PDF,
    SVG,
    bmp_of_runs,
    garment,
    jpeg_segment,
    orientation_exif,
    png_chunk,
    png_header_only,
    save,
    webp_bomb,
)

Answers = frozenset[str | None]  # slugs of problems; None for a classified picture
Named = tuple[str, bytes, Answers]

GOOD: Answers = frozenset([None])
NO_IMAGE: Answers = frozenset(["unsupported-image-format"])
TOO_LARGE: Answers = frozenset(["image-too-large"])
DAMAGED: Answers = frozenset(["undecodable-image"])
REFUSED: Answers = frozenset(
    ["undecodable-image", "image-too-large", "image-too-complex", "unsupported-image-format", "empty-image"]
)
ANYTHING = GOOD | REFUSED

NUM_FUZZED = 25  # of each format
SHARES = (0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999)


def hostile_files() -> list[Named]:
    """Name, content and possible answers; the same at every call."""
    return [*_no_pictures(), *_headers(), *_damaged(), *_many_frames(), *_metadata(), *_polyglots(), *_dear()]


def plain_files() -> dict[str, bytes]:
    return {image_format: save(garment(60, 40), image_format) for image_format in ACCEPTED_FORMATS}


def _no_pictures() -> Iterator[Named]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../etc/passwd", "root")
    for name, content in {
        "SVG": SVG,
        "HTML": HTML,
        "PDF": PDF,
        "PDF, then a JPEG": PDF + save(garment(60, 40), "JPEG"),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
        "MVG": b"push graphic-context\nimage over 0,0 0,0 'ephemeral:/etc/passwd'\npop graphic-context\n",
        "pickle": pickle.dumps([1, 2, 3]),
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(200),
        "ZIP": archive.getvalue(),
        "gzip": b"\x1f\x8b\x08" + bytes(100),
        "entities": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><a>&d;</a>',
        "PHP": b"<?php system($_GET['a']); ?>",
        "shell script": b"#!/bin/sh\nrm -rf /\n",
        "zeros": bytes(1_000_000),
        "one byte": b"\xff",
        "line ends": b"\r\n" * 1_000,
        "JPEG 2000": save(garment(60, 40), "JPEG2000"),
        "ICO": save(garment(32, 32), "ICO"),
        "PPM": save(garment(60, 40), "PPM"),
        "TGA": save(garment(60, 40), "TGA"),
        "PCX": save(garment(60, 40), "PCX"),
    }.items():
        yield name, content, NO_IMAGE
    yield "empty", b"", frozenset(["empty-image"])


def _headers() -> Iterator[Named]:
    """Sizes that nothing behind them has."""
    plain, most = plain_files(), 65_535
    size = struct.pack(">HH", most, most)
    start_of_frame = plain["JPEG"].index(b"\xff\xc0") + 5
    jpeg = plain["JPEG"][:start_of_frame] + size + plain["JPEG"][start_of_frame + 4 :]
    yield "JPEG of 65,535", jpeg, TOO_LARGE
    yield "progressive of 65,535", jpeg.replace(b"\xff\xc0", b"\xff\xc2"), TOO_LARGE
    yield "PNG of 65,535", png_header_only(most, most), TOO_LARGE
    yield "PNG of 2^31", png_header_only(2**31 - 1, 2**31 - 1), TOO_LARGE | DAMAGED
    yield "PNG without a size", png_header_only(0, 0), DAMAGED
    yield "GIF of 65,535", plain["GIF"][:6] + b"\xff" * 4 + plain["GIF"][10:], TOO_LARGE
    frame = b",\0\0\0\0" + struct.pack("<HH", 13_000, 13_000) + b"\0\x02\x01\x44\0;"
    yield "GIF whose frame is larger", b"GIF89a\1\0\1\0\xf0\0\0" + bytes(6) + frame, TOO_LARGE
    yield "WebP of 16,383", webp_bomb(), TOO_LARGE
    yield "BMP of 65,535", plain["BMP"][:18] + struct.pack("<ii", most, most) + plain["BMP"][26:], TOO_LARGE
    yield "TIFF of 65,535", _with_tiff_size(plain["TIFF"], most), TOO_LARGE
    for image_format in ("AVIF", "HEIF"):  # ispe: ISO/IEC 23008-12, section 6.5.3
        content, at = plain[image_format], plain[image_format].index(b"ispe") + 8
        lying = content[:at] + struct.pack(">II", most, most) + content[at + 8 :]
        yield f"{image_format} of 65,535", lying, TOO_LARGE | DAMAGED
        yield f"{image_format} of 1", content[:at] + struct.pack(">II", 1, 1) + content[at + 8 :], ANYTHING
    yield "BMP of negative width", plain["BMP"][:18] + struct.pack("<ii", -60, 40) + plain["BMP"][26:], REFUSED


def _with_tiff_size(content: bytes, side: int) -> bytes:
    for tag in (0x100, 0x101):
        at = content.index(struct.pack("<HH", tag, 3)) if struct.pack("<HH", tag, 3) in content else 0
        at = at or content.index(struct.pack("<HH", tag, 4))
        content = content[: at + 2] + struct.pack("<HII", 4, 1, side) + content[at + 12 :]
    return content


def _damaged() -> Iterator[Named]:
    rng = random.Random(0)
    for image_format, content in plain_files().items():
        for at in sorted({*range(1, 24, 2), *(int(share * len(content)) for share in SHARES)}):
            yield f"{image_format} cut at {at}", content[:at], ANYTHING
        for number in range(NUM_FUZZED):
            fuzzed = bytearray(content)
            for _ in range(rng.choice([1, 4, 32])):
                at = int(len(fuzzed) * rng.random() ** 3)  # headers most of all
                fuzzed[at] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            yield f"{image_format} fuzzed, number {number}", bytes(fuzzed), ANYTHING


def _many_frames() -> Iterator[Named]:
    gif = save(garment(8, 8).quantize(), "GIF")
    frame = gif.index(b",", 13 + (3 << ((gif[10] & 7) + 1)))
    yield "GIF of 10,000 frames", gif[:frame] + gif[frame:-1] * 10_000 + b";", GOOD
    png = save(garment(8, 8), "PNG")
    pixels = zlib.compress((b"\0" + bytes(24)) * 8)
    frames = b"".join(
        png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * n, 8, 8, 0, 0, 1, 100, 0, 0))
        + png_chunk(b"fdAT", struct.pack(">I", 2 * n + 1) + pixels)
        for n in range(10_000)
    )
    control = png_chunk(b"acTL", struct.pack(">II", 10_000, 0))
    yield "PNG of 10,000 frames", png[:33] + control + png[33:-12] + frames + png[-12:], ANYTHING
    still = save(garment(8, 8), "WEBP", lossless=True)[12:]
    size = (7).to_bytes(3, "little") * 2
    one = b"ANMF" + struct.pack("<I", 16 + len(still)) + bytes(6) + size + bytes(4) + still
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + size + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    chunks += one * 10_000
    yield "WebP of 10,000 frames", b"RIFF" + struct.pack("<I", len(chunks)) + chunks, ANYTHING


def _metadata() -> Iterator[Named]:
    jpeg, png = save(garment(60, 40), "JPEG"), save(garment(60, 40), "PNG")
    for orientation in (*range(11), 255, 65_535):
        yield f"orientation {orientation}", save(garment(60, 40), "JPEG", exif=orientation_exif(orientation)), GOOD
    for name, segments in {
        "EXIF of zeros": jpeg_segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 100,
        "EXIF of tags": jpeg_segment(0xE1, b"Exif\0\0" + _many_tags(65_000, 4_000)),
        "profile": b"".join(
            jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, 100]) + bytes(65_000)) for n in range(100)
        ),
        "XMP": jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<a>" * 20_000) * 20,
        "comments": jpeg_segment(0xFE, b"<script>" * 8_000) * 50,
        "empty segments": jpeg_segment(0xED, b"") * 9_000,
        "padding": b"\xff" * 500_000,
    }.items():
        yield f"JPEG with {name}", jpeg[:2] + segments + jpeg[2:], ANYTHING
    text = zlib.compress(bytes(2**20 - 1), 9)
    large_text = zlib.compress(bytes(50_000_000), 9)
    for name, chunks in {
        "a compressed text of 50 MB": png_chunk(b"zTXt", b"a\0\0" + large_text),
        "an international text of 50 MB": png_chunk(b"iTXt", b"a\0\1\0\0\0" + large_text),
        "a profile of 50 MB": png_chunk(b"iCCP", b"a\0\0" + large_text),
        "a hundred compressed texts": b"".join(png_chunk(b"zTXt", b"a%d\0\0" % n + text) for n in range(100)),
        "a hundred profiles": png_chunk(b"iCCP", b"a\0\0" + text) * 100,
        "a long text": png_chunk(b"tEXt", b"a\0" + b"b" * 2_000_000),
        "EXIF of tags": png_chunk(b"eXIf", _many_tags(500_000, 100)),
        "empty chunks": png_chunk(b"IDAT", b"") * 50_000,
    }.items():
        yield f"PNG with {name}", png[:33] + chunks + png[33:], ANYTHING
    gif = save(garment(60, 40).quantize(), "GIF")
    start = 13 + (3 << ((gif[10] & 7) + 1))
    yield "GIF with comments", gif[:start] + b"\x21\xfe\1a\0" * 5_000 + gif[start:], ANYTHING
    yield (
        "GIF with a long comment",
        gif[:start] + b"\x21\xfe" + (b"\xff" + b"a" * 255) * 4_000 + b"\0" + gif[start:],
        GOOD,
    )
    yield "TIFF of tags", _many_tags(500_000, 100), ANYTHING


def _many_tags(num_bytes: int, num_tags: int) -> bytes:
    """TIFF or EXIF whose tags each hold nearly all of the file."""
    tags = b"".join(struct.pack("<HHII", 0x9000 + n, 7, num_bytes - 8, 8) for n in range(num_tags))
    ifd = struct.pack("<H", num_tags) + tags + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + ifd + bytes(max(0, num_bytes - 8 - len(ifd)))


def _polyglots() -> Iterator[Named]:
    plain = plain_files()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.js", "alert(1)")
    yield "PNG and ZIP", plain["PNG"] + archive.getvalue(), GOOD
    yield "JPEG and HTML", plain["JPEG"][:2] + jpeg_segment(0xFE, HTML) + plain["JPEG"][2:], GOOD
    yield "GIF and script", plain["GIF"] + b"/*<script>alert(1)</script>*/", GOOD
    yield "JPEG and PDF", plain["JPEG"] + PDF, GOOD
    yield "BMP and script", plain["BMP"] + b"*/alert(1)", GOOD


def _dear() -> Iterator[Named]:
    """What costs most within the limits, one of a kind: the run has to stay short."""
    rows = zlib.compress((b"\4" + bytes(8 * 2_000)) * 2_000, 9)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2_000, 2_000, 16, 6, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    yield "PNG of 4 megapixels in 400 kB", png, GOOD
    blank = Image.new("RGB", (4_000, 3_000))
    for image_format in ("JPEG", "WEBP", "TIFF"):
        options = {"compression": "tiff_adobe_deflate"} if image_format == "TIFF" else {}
        yield f"{image_format} of 12 megapixels", save(blank, image_format, **options), GOOD
    progressive = save(Image.new("L", (4_000, 4_000), 128), "JPEG", progressive=True)
    at = progressive.rindex(b"\xff\xda")
    scan = progressive[at:-2]
    too_complex: Answers = frozenset(["image-too-complex"])
    yield "JPEG of 1,506 scans", progressive[:at] + scan * 1_500 + progressive[-2:], too_complex
    cover = b"\xff\x01" + jpeg_segment(0xC4, b"")  # if TEM had a length, it would be 65,476: over all those scans
    yield "JPEG of hidden scans", progressive[:-2] + cover + scan * 1_000 + progressive[-2:], too_complex
    yield "BMP that is skipped", bmp_of_runs(40_000_000, 1, skip=b"\0\2\xff\xff"), ANYTHING
