"""Files that people and attackers send in place of a plain picture, and what the service has to say to each."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pillow_heif
from PIL import ExifTags, Image


@dataclass(frozen=True, slots=True)
class OddFile:
    """How to make a file; `slug` is of the problem it must give, None for one that must be classified."""

    make: Callable[[], bytes]
    status: int = 200
    slug: str | None = None
    size: tuple[int, int] | None = None  # upright, where it is classified
    notes: list[str] = field(default_factory=list)


def garment(width: int, height: int) -> Image.Image:
    """A drawn light T-shirt on black, RGB."""
    y, x = np.mgrid[:height, :width]
    across, down = np.abs(x / width - 0.5), y / height
    shirt = ((across < 0.25) & (down > 0.1) & (down < 0.9)) | ((across < 0.45) & (down > 0.1) & (down < 0.35))
    shade = np.where(shirt, 180 + 60 * down, 0).astype(np.uint8)  # (H, W)
    return Image.fromarray(np.dstack([shade, shade // 2 + shade // 3, shade // 2]))


def save(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The bytes of a file; HEIF through pillow_heif without registering it."""
    buffer = io.BytesIO()
    if image_format == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=-1, **options)
    else:
        image.save(buffer, image_format, **options)
    return buffer.getvalue()


def orientation_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Portable Network Graphics (3rd edition), section 5.3."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that declares 8-bit RGB of this size and holds next to nothing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")


def webp_bomb(width: int = 16_383, height: int = 16_383) -> bytes:
    """An extended WebP file of a few bytes whose canvas is huge: RFC 9649, section 2.7."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def jpeg_segment(marker: int, content: bytes) -> bytes:
    """ITU-T T.81, section B.1.1.4."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def bmp_of_runs(width: int, height: int, *, num_runs: int = 0, skip: bytes = b"") -> bytes:
    """A run-length coded BMP of runs of one pixel, and a skip."""
    runs = b"\1\0" * num_runs + skip
    start = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + bytes(1024) + runs


def with_bad_checksum(png: bytes, kind: bytes = b"IDAT") -> bytes:
    """Break the CRC of the first chunk of this kind."""
    start = png.index(kind)
    (length,) = struct.unpack(">I", png[start - 4 : start])
    crc = start + 4 + length
    return png[:crc] + bytes([png[crc] ^ 0xFF]) + png[crc + 1 :]


def lying_bmp() -> bytes:
    """The header says 4,000x4,000, the pixels are those of 40x40."""
    bmp = save(garment(40, 40), "BMP")
    return bmp[:18] + struct.pack("<ii", 4_000, 4_000) + bmp[26:]


def sixteen_bit() -> bytes:
    grey = np.asarray(garment(60, 40).convert("L")).astype(np.uint16) * 257
    return save(Image.fromarray(grey), "PNG")


def transparent() -> bytes:
    image = garment(60, 40)
    image.putalpha(image.convert("L").point([0] * 128 + [255] * 128))
    return save(image, "PNG")


def animated_gif() -> bytes:
    frames = [garment(60, 40).quantize(), garment(60, 40).rotate(180).quantize()]
    return save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


def polyglot() -> bytes:
    """A GIF that is also a script: harmless as a picture, and only ever read as one."""
    return save(garment(60, 40).quantize(), "GIF") + b"/*<script>alert(1)</script>*/"


HTML = b"<!doctype html><title>boot.jpg</title><p>Not a picture."
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
PDF = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"

_WHITE = "transparency put on white"
ODD_FILES = {
    "truncated JPEG": OddFile(lambda: save(garment(300, 400), "JPEG")[:3_000], 422, "undecodable-image"),
    "1x1": OddFile(lambda: save(garment(1, 1), "PNG"), size=(1, 1)),
    "1x20000": OddFile(lambda: save(garment(1, 20_000), "PNG"), size=(1, 20_000)),
    "20000x1": OddFile(lambda: save(garment(20_000, 1), "PNG"), size=(20_000, 1)),
    "20,000x20,000 header": OddFile(lambda: png_header_only(20_000, 20_000), 413, "image-too-large"),
    "WebP bomb header": OddFile(webp_bomb, 413, "image-too-large"),
    "text renamed .png": OddFile(lambda: b"This is a text.\n", 415, "unsupported-image-format"),
    "HTML": OddFile(lambda: HTML, 415, "unsupported-image-format"),
    "SVG": OddFile(lambda: SVG, 415, "unsupported-image-format"),
    "PDF": OddFile(lambda: PDF, 415, "unsupported-image-format"),
    "JPEG 2000": OddFile(lambda: save(garment(60, 40), "JPEG2000"), 415, "unsupported-image-format"),
    "empty": OddFile(lambda: b"", 422, "empty-image"),
    "50 MB": OddFile(lambda: bytes(50_000_000), 413, "body-too-large"),
    "animated GIF": OddFile(animated_gif, size=(60, 40), notes=["first frame of an animation"]),
    "GIF of zero size": OddFile(lambda: b"GIF89a" + bytes(7) + b";", 422, "undecodable-image"),
    "CMYK JPEG": OddFile(lambda: save(garment(60, 40).convert("CMYK"), "JPEG"), size=(60, 40)),
    "16-bit PNG": OddFile(sixteen_bit, size=(60, 40)),
    "transparent PNG": OddFile(transparent, size=(60, 40), notes=[_WHITE]),
    "rotated phone photo": OddFile(
        lambda: save(garment(4_032, 3_024), "JPEG", exif=orientation_exif(6)),
        size=(3_024, 4_032),
        notes=["rotated by EXIF"],
    ),
    "HEIC": OddFile(lambda: save(garment(60, 40), "HEIF"), size=(60, 40)),
    "AVIF": OddFile(lambda: save(garment(60, 40), "AVIF"), size=(60, 40)),
    "PNG with a bad header CRC": OddFile(
        lambda: with_bad_checksum(save(garment(60, 40), "PNG"), b"IHDR"), 422, "undecodable-image"
    ),
    "PNG with a bad CRC": OddFile(lambda: with_bad_checksum(save(garment(60, 40), "PNG")), 422, "undecodable-image"),
    "BMP with a lying header": OddFile(lying_bmp, 422, "undecodable-image"),
    "polyglot": OddFile(polyglot, size=(60, 40)),
}
