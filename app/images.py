"""Bytes of an image file -> upright RGB pixels. The one decoder of serving, evaluation and training.

Uploads are hostile until decoded: the format is taken from the content, never from a name or header, and must be on
the list; the size is checked before pixels are allocated; whatever a decoder raises is the picture's error.
"""

import io
import math
import re
from dataclasses import dataclass

import numpy as np
import pillow_heif
from PIL import ExifTags, Image

from app.errors import (
    EmptyImageError,
    ImageError,
    ImageTooComplexError,
    ImageTooLargeError,
    UndecodableImageError,
    UnsupportedImageFormatError,
)

ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
# imgproxy's default for untrusted sources; twice a 24-megapixel phone photo.
DEFAULT_MAX_IMAGE_PIXELS = 50_000_000
# A picture is read at a fraction of its size as long as both sides keep this many pixels: twice the 224 of the largest
# network input, so that the resize that follows still averages. 2.8 times faster on a 12-megapixel JPEG (design study).
DRAFT_SIDE_PIXELS = 448
MAX_SIDE_PIXELS = 4096  # chosen, not tuned: bounds what a picture of 447 x 111,856 costs after decoding
# A progressive JPEG of under 1 MB with 1,506 scans took 18 to 35 s of CPU; ordinary encoders write about 10.
MAX_JPEG_SCANS = 100
MAX_JPEG_MARKERS = 10_000  # chosen, not tuned
# What is_cheap() vouches for. Chosen so that a phone's JPEG passes: one scan of 16 megapixels, ten of 1.6. The
# dearest tried at this size took 0.3 s of CPU (JPEG of noise, 66 MB) and 130 MB (one scan of a progressive CMYK).
MAX_CHEAP_PIXELS = 16_000_000
MAX_CHEAP_PNG_CHUNKS = 2_000  # of 8 kB, libpng's own size: a file of 16 MB
MAX_CHEAP_METADATA = 32  # segments or chunks; a compressed text in one may become 1 MB
MAX_CHEAP_METADATA_BYTES = 256_000
MAX_CHEAP_BYTES_PER_PIXEL = 9  # a PNG of 16-bit RGBA, one pixel wide, not compressed

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCIBLE_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I", "F")  # reduce() refuses 1, P and I;16
# Stuffed bytes and restart markers belong to a scan's data. TEM has no length either: libjpeg goes on right behind it.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_END_OF_SCAN_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # fill bytes and TEM end it too
# Tables, restart interval, application data and comments; not arithmetic coding, hierarchies or an early end.
_CHEAP_JPEG_MARKERS = {bytes([0xFF, code]) for code in (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Upright pixels and what was done to get them.

    `pixels` is uint8 (H, W, 3), RGB, possibly smaller than the `width` and `height` of the upright original. `notes`
    tell a person what changed on the way, one phrase each.
    """

    pixels: np.ndarray
    format: str
    width: int
    height: int
    notes: tuple[str, ...]


def decode(content: bytes, *, max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS) -> DecodedImage:
    """Decode the first frame of an image file.

    Raises:
        EmptyImageError: no bytes.
        UnsupportedImageFormatError: not one of ACCEPTED_FORMATS, whatever its name says.
        ImageTooLargeError: the header declares more than `max_pixels`.
        ImageTooComplexError: a JPEG of more than MAX_JPEG_SCANS scans, or a file that needs more memory than there is.
        UndecodableImageError: an accepted format, but cut short or damaged.
    """
    if not content:
        raise EmptyImageError
    image_format = sniff_format(content)
    if image_format is None:
        raise UnsupportedImageFormatError(ACCEPTED_FORMATS)
    if image_format == "WEBP":
        # Pillow allocates the whole canvas inside open(): 32 bytes can cost a gigabyte.
        _check_size(_webp_size(content), max_pixels)
    try:
        if image_format == "JPEG" and _num_jpeg_scans(content) > MAX_JPEG_SCANS:
            raise ImageTooComplexError(f"The JPEG has more than {MAX_JPEG_SCANS} scans")
        if image_format == "PNG":
            _verify_png(content, max_pixels)
        return _decode(content, image_format, max_pixels)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageTooComplexError("It takes more memory than there is") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(max_pixels) from error
    except Exception as error:  # decoders raise anything on damaged files, TypeError and IndexError included
        raise UndecodableImageError(image_format) from error


def is_cheap(content: bytes) -> bool:
    """Whether the markers prove that decode() will cost little time and memory: see MAX_CHEAP_PIXELS.

    False means that nothing was proven, not that it is dear.
    """
    match sniff_format(content):
        case "JPEG":
            return _is_cheap_jpeg(content)
        case "PNG":
            return _is_cheap_png(content)
        case _:
            return False


def sniff_format(content: bytes) -> str | None:
    """The accepted format that the first bytes announce, or None."""
    for signature, image_format in _SIGNATURES:
        if content.startswith(signature):
            return image_format
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        box_end = min(int.from_bytes(content[:4], "big"), 256)
        brands = {content[8:12]} | {content[i : i + 4] for i in range(16, box_end, 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    return None


def _decode(content: bytes, image_format: str, max_pixels: int) -> DecodedImage:
    with _open(content, image_format) as image:
        width, height = image.size
        _check_size((width, height), max_pixels)
        notes = []
        if (image_format == "GIF" and ("loop" in image.info or image.info.get("duration", 0) > 0)) or (
            image_format in ("WEBP", "PNG", "AVIF") and getattr(image, "is_animated", False)
        ):
            notes.append("first frame of an animation")
        if image_format == "JPEG":
            image.draft("RGB", (DRAFT_SIDE_PIXELS, DRAFT_SIDE_PIXELS))
        image.load()

        orientation, readable = _orientation(image)
        if not readable:
            notes.append("unreadable EXIF ignored")
        if orientation in _UPRIGHT:
            notes.append("rotated by EXIF" if orientation != 2 else "mirrored by EXIF")
            if orientation >= 5:
                width, height = height, width
            upright = _smaller(image).transpose(_UPRIGHT[orientation])
        else:
            upright = _smaller(image)
        pixels = np.asarray(_smaller(_to_rgb(upright, notes)))
    return DecodedImage(pixels=pixels, format=image_format, width=width, height=height, notes=tuple(notes))


def _open(content: bytes, image_format: str) -> Image.Image:
    if image_format == "HEIF":  # by its class: registering the plug-in would change Image.open for the whole process
        return pillow_heif.HeifImageFile(io.BytesIO(content))
    return Image.open(io.BytesIO(content), formats=[image_format])


def _smaller(image: Image.Image) -> Image.Image:
    """What draft() does for JPEG, for every format: bounds memory and time of all that follows.

    A picture whose mode cannot be averaged comes back as it is, and gets another chance when it is RGB.
    """
    factor = max(min(image.size) // DRAFT_SIDE_PIXELS, math.ceil(max(image.size) / MAX_SIDE_PIXELS))
    can_reduce = image.mode in _REDUCIBLE_MODES and "transparency" not in image.info  # no averaging of a key colour
    return image.reduce(factor) if factor > 1 and can_reduce else image


def _num_jpeg_scans(content: bytes) -> int:
    """Scans of a JPEG, found by walking its markers; one of more markers than any camera writes counts as endless."""
    position, num_scans = 2, 0
    for _ in range(MAX_JPEG_MARKERS):
        found = _JPEG_MARKER.search(content, position)
        if found is None or found[0] == b"\xff\xd9":  # end of image
            return num_scans
        num_scans += found[0] == b"\xff\xda"  # start of scan
        position = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return MAX_JPEG_SCANS + 1


def _is_cheap_jpeg(content: bytes) -> bool:
    """One Huffman-coded frame, sequential or progressive, with little metadata; ITU-T T.81, annex B.

    Every marker up to the end is one whose length libjpeg reads as here, and nothing fills the room between them.
    """
    position, num_pixels, num_scans, num_metadata, metadata_bytes = 2, 0, 0, 0, 0
    while num_metadata <= MAX_CHEAP_METADATA + num_scans and metadata_bytes <= MAX_CHEAP_METADATA_BYTES:
        marker, length = content[position : position + 2], int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == b"\xff\xd9" or (not marker and num_scans):
            within = position <= MAX_CHEAP_METADATA_BYTES + MAX_CHEAP_BYTES_PER_PIXEL * num_pixels
            return within and 0 < num_pixels * num_scans <= MAX_CHEAP_PIXELS
        if length < 2:
            return False
        if marker == b"\xff\xda":
            num_scans += 1
            found = _END_OF_SCAN_DATA.search(content, position + 2 + length)
            position = found.start() if found else len(content)
            if num_scans > MAX_JPEG_SCANS:
                return False
            continue
        if marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
            if num_pixels:
                return False
            height, width = content[position + 5 : position + 7], content[position + 7 : position + 9]
            num_pixels = int.from_bytes(height, "big") * int.from_bytes(width, "big")
        elif marker not in _CHEAP_JPEG_MARKERS:
            return False
        num_metadata += 1
        metadata_bytes += length
        position += 2 + length
    return False


def _is_cheap_png(content: bytes) -> bool:
    """One header, at the front: of two, Pillow would take the last."""
    num_pixels = int.from_bytes(content[16:20], "big") * int.from_bytes(content[20:24], "big")
    position, num_metadata, metadata_bytes = 8, 0, 0
    for _ in range(MAX_CHEAP_PNG_CHUNKS):
        length, kind = int.from_bytes(content[position : position + 4], "big"), content[position + 4 : position + 8]
        if not kind or kind == b"IEND":
            within = position <= MAX_CHEAP_METADATA_BYTES + MAX_CHEAP_BYTES_PER_PIXEL * num_pixels
            return within and num_pixels <= MAX_CHEAP_PIXELS
        if (kind == b"IHDR") != (position == 8):
            return False
        if kind != b"IDAT":
            num_metadata += 1
            metadata_bytes += length
        if num_metadata > MAX_CHEAP_METADATA or metadata_bytes > MAX_CHEAP_METADATA_BYTES:
            return False
        position += 12 + length
    return False


def _verify_png(content: bytes, max_pixels: int) -> None:
    """Check every chunk's CRC: load() skips those of the pixels."""
    with _open(content, "PNG") as image:
        _check_size(image.size, max_pixels)
        image.verify()


def _check_size(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size and size[0] * size[1] > max_pixels:
        raise ImageTooLargeError(max_pixels, size)


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height from a WebP header; RFC 9649, sections 2.5 to 2.7."""
    kind, header = content[12:16], content[20:30]
    if len(header) < 10:
        return None
    match kind:
        case b"VP8X":
            return 1 + int.from_bytes(header[4:7], "little"), 1 + int.from_bytes(header[7:10], "little")
        case b"VP8L":
            bits = int.from_bytes(header[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            return int.from_bytes(header[6:8], "little") & 0x3FFF, int.from_bytes(header[8:10], "little") & 0x3FFF
        case _:
            return None


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """EXIF orientation 1..8, and whether the EXIF block could be read; a broken block never costs the picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1), True
    except Exception:  # same reason as in decode()
        return 1, False


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Any Pillow mode to 8-bit RGB: deep greys are scaled, not clipped; transparency is put on white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        top = next((limit for limit in (1.0, 255.0, 65535.0) if values.max() <= limit), values.max())
        return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = _smaller(image.convert("RGBA"))
        if np.asarray(rgba.getchannel("A")).min() < 255:
            notes.append("transparency put on white")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return rgba.convert("RGB")
    return image.convert("RGB")
