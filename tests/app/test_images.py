"""decode(): every accepted format and mode to upright RGB; hostile and damaged files to the right error."""

import base64
import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from app.artifact import Artifact
from app.engines import load_artifact
from app.errors import (
    EmptyImageError,
    ImageTooComplexError,
    ImageTooLargeError,
    UndecodableImageError,
    UnsupportedImageFormatError,
)
from app.images import ACCEPTED_FORMATS, DRAFT_SIDE_PIXELS, decode
from tests.odd_files import (
    HTML,
    PDF,
    SVG,
    animated_gif,
    garment,
    orientation_exif,
    png_header_only,
    save,
    webp_bomb,
    with_bad_checksum,
)
from tests.process import WARDROBE_VERSIONS

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}
LOSSY = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}, "AVIF": {"quality": 95}, "HEIF": {}}
WITH_EXIF = ("TIFF", "PNG", "WEBP", "AVIF", "HEIF")


@pytest.fixture(scope="module")
def quadrants() -> np.ndarray:
    """uint8 (40, 60, 3): red, green, blue and yellow corners, so that no turn or mirroring looks like another."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, :30], image[20:, 30:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 0),
    )
    return image


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF (CIPA DC-008, 4.6.4 A) says that a viewer shows: where row 0 and column 0 of `stored` belong."""
    return {
        1: lambda image: image,
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: image[::-1].swapaxes(0, 1),  # row 0 is the right side
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: image[:, ::-1].swapaxes(0, 1),  # row 0 is the left side
    }[orientation](stored)


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def jpeg_with_exif(image: Image.Image, payload: bytes) -> bytes:
    """A JPEG whose EXIF segment holds `payload`, whatever that is."""
    segment = b"Exif\0\0" + payload
    jpeg = save(image, "JPEG", quality=95)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


# Formats


@pytest.mark.parametrize("image_format", LOSSLESS)
def test_lossless_formats_give_every_pixel_back(image_format: str) -> None:
    image = garment(60, 40)

    decoded = decode(save(image, image_format, **LOSSLESS[image_format]))

    np.testing.assert_array_equal(decoded.pixels, np.asarray(image))
    assert (decoded.format, decoded.width, decoded.height, decoded.notes) == (image_format, 60, 40, ())


@pytest.mark.parametrize("image_format", LOSSY)
def test_lossy_formats_give_the_picture_back(image_format: str) -> None:
    image = garment(60, 40)

    decoded = decode(save(image, image_format, **LOSSY[image_format]))

    assert mean_difference(decoded.pixels, np.asarray(image)) < 3
    assert (decoded.format, decoded.width, decoded.height, decoded.notes) == (image_format, 60, 40, ())


def test_every_accepted_format_is_tested_above() -> None:
    assert {*LOSSLESS, *LOSSY, "GIF"} == set(ACCEPTED_FORMATS)


def test_gif_gives_its_first_frame() -> None:
    first_frame = garment(60, 40).quantize()

    decoded = decode(animated_gif())

    np.testing.assert_array_equal(decoded.pixels, np.asarray(first_frame.convert("RGB")))
    assert decoded.notes == ("first frame of an animation",)


def test_a_still_gif_is_not_called_an_animation() -> None:
    assert decode(save(garment(60, 40).quantize(), "GIF")).notes == ()


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "AVIF"])
def test_other_animations_give_their_first_frame(image_format: str) -> None:
    frames = [garment(60, 40), Image.new("RGB", (60, 40), "blue")]

    decoded = decode(save(frames[0], image_format, save_all=True, append_images=frames[1:], duration=100))

    assert mean_difference(decoded.pixels, np.asarray(frames[0])) < 3
    assert decoded.notes == ("first frame of an animation",)


# Orientation

# Pillow says so when an EXIF block is broken; the service logs it.
broken_exif_warns = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_upright(quadrants: np.ndarray, orientation: int) -> None:
    jpeg = save(Image.fromarray(quadrants), "JPEG", quality=95, subsampling=0, exif=orientation_exif(orientation))

    decoded = decode(jpeg)

    reference = upright(quadrants, orientation)
    assert mean_difference(decoded.pixels, reference) < 5
    assert (decoded.height, decoded.width) == reference.shape[:2]
    assert decoded.notes == (() if orientation == 1 else (decoded.notes[0],))


@pytest.mark.parametrize("orientation", [2, 6, 7])
@pytest.mark.parametrize("image_format", WITH_EXIF)
def test_other_formats_are_turned_upright_once(quadrants: np.ndarray, image_format: str, orientation: int) -> None:
    """libheif and libtiff may have turned the pixels already: never twice."""
    exif = orientation_exif(orientation)
    options = LOSSLESS.get(image_format, {})

    decoded = decode(
        save(
            Image.fromarray(quadrants),
            image_format,
            exif=exif.tobytes() if image_format == "HEIF" else exif,
            **options,
        )
    )

    reference = upright(quadrants, orientation)
    assert mean_difference(decoded.pixels, reference) < 5
    assert (decoded.height, decoded.width) == reference.shape[:2]


@broken_exif_warns
@pytest.mark.parametrize(
    "payload",
    [
        b"garbage" * 10,
        b"",
        b"II*\0\xff\xff\xff\xff",  # the directory lies outside
        b"II*\0\x08\0\0\0\xff\xff",  # 65,535 entries announced, none there
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",  # orientation 9
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0six\0\0\0\0\0",  # orientation "si"
    ],
    ids=["garbage", "empty", "offset outside", "cut directory", "orientation 9", "orientation in letters"],
)
def test_broken_exif_does_not_cost_the_picture(payload: bytes) -> None:
    image = garment(60, 40)

    decoded = decode(jpeg_with_exif(image, payload))

    assert mean_difference(decoded.pixels, np.asarray(image)) < 6


@broken_exif_warns
def test_no_damage_to_exif_costs_the_picture() -> None:
    """500 blocks with a few wrong bytes each, made from one with an orientation, texts, a fraction and a thumbnail."""
    exif = orientation_exif(6)
    exif[0x010F], exif[0x0110], exif[0x011A] = "Maker", "Model", 72.5
    exif.get_ifd(0x8769)[0x9003] = "2026:11:25 10:00:00"
    exif.get_ifd(0x8769)[0x927C] = bytes(50)
    intact = exif.tobytes().removeprefix(b"Exif\0\0")
    image = garment(60, 40)
    generator = random.Random(0)

    shapes = set()
    for _ in range(500):
        block = bytearray(intact)
        for _ in range(generator.randint(1, 4)):
            block[generator.randrange(len(block))] = generator.randrange(256)
        shapes.add(decode(jpeg_with_exif(image, bytes(block))).pixels.shape)

    assert shapes <= {(40, 60, 3), (60, 40, 3)}


# Modes


def test_cmyk_jpeg_keeps_its_colours() -> None:
    image = garment(60, 40)

    decoded = decode(save(image.convert("CMYK"), "JPEG", quality=95))

    assert mean_difference(decoded.pixels, np.asarray(image)) < 4


def test_palette_gives_its_colours() -> None:
    indices = np.array([[0, 1], [2, 0]], np.uint8)
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]], np.uint8)
    image = Image.frombytes("P", (2, 2), indices.tobytes())
    image.putpalette(colours.tobytes())

    decoded = decode(save(image, "PNG"))

    np.testing.assert_array_equal(decoded.pixels, colours[indices])


def test_transparent_palette_entry_becomes_white() -> None:
    indices = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.frombytes("P", (2, 2), indices.tobytes())
    image.putpalette(bytes([10, 20, 30, 200, 100, 50]))

    decoded = decode(save(image, "PNG", transparency=0))

    np.testing.assert_array_equal(decoded.pixels, np.array([[255, 255, 255], [200, 100, 50]], np.uint8)[indices])
    assert decoded.notes == ("transparency put on white",)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_put_on_white(mode: str) -> None:
    grey, alpha = np.array([[0, 60, 255]], np.uint8), np.array([[0, 128, 255]], np.uint8)
    channels = [grey] * (len(mode) - 1) + [alpha]
    image = Image.frombytes(mode, (3, 1), np.dstack(channels).tobytes())

    decoded = decode(save(image, "PNG"))

    opacity = alpha / 255
    expected = (grey * opacity + 255 * (1 - opacity))[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(decoded.pixels, expected, atol=1)


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    image = garment(60, 40)

    decoded = decode(save(image.convert("RGBA"), "PNG"))

    np.testing.assert_array_equal(decoded.pixels, np.asarray(image))
    assert decoded.notes == ()


def test_one_bit_becomes_black_and_white() -> None:
    bits = np.array([[True, False, True]])

    decoded = decode(save(Image.fromarray(bits), "PNG"))

    np.testing.assert_array_equal(decoded.pixels[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(image_format: str) -> None:
    values = np.linspace(0, 65_535, 2_400).reshape(40, 60).astype(np.uint16)

    decoded = decode(save(Image.fromarray(values), image_format))

    np.testing.assert_allclose(decoded.pixels[..., 0], values / 257, atol=1)


@pytest.mark.parametrize("top", [1.0, 255.0, 65_535.0, 1e6])
def test_float_tiff_is_scaled_to_its_range(top: float) -> None:
    values = np.linspace(0, top, 2_400, dtype=np.float32).reshape(40, 60)

    decoded = decode(save(Image.fromarray(values), "TIFF"))

    np.testing.assert_allclose(decoded.pixels[..., 0], values * (255 / top), atol=1)


def test_float_tiff_of_odd_numbers_is_still_a_picture() -> None:
    values = np.full((4, 6), -1, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf

    assert decode(save(Image.fromarray(values), "TIFF")).pixels.shape == (4, 6, 3)


# Size


@pytest.mark.parametrize("image_format", ACCEPTED_FORMATS)
def test_the_pixel_limit_is_the_last_size_accepted(image_format: str) -> None:
    content = save(garment(64, 48), image_format)

    assert decode(content, max_pixels=64 * 48).pixels.shape == (48, 64, 3)
    with pytest.raises(ImageTooLargeError, match="64x48 pixels; at most 3071"):
        decode(content, max_pixels=64 * 48 - 1)


def declaring(image_format: str, width: int, height: int) -> bytes:
    """A small file whose header was changed to announce another size."""
    content = save(garment(64, 64), image_format)
    old, new = {
        "JPEG": (struct.pack(">HH", 64, 64), struct.pack(">HH", height, width)),
        "GIF": (struct.pack("<HH", 64, 64), struct.pack("<HH", width, height)),
        "BMP": (struct.pack("<ii", 64, 64), struct.pack("<ii", width, height)),
        "AVIF": (b"ispe" + struct.pack(">III", 0, 64, 64), b"ispe" + struct.pack(">III", 0, width, height)),
        "HEIF": (b"ispe" + struct.pack(">III", 0, 64, 64), b"ispe" + struct.pack(">III", 0, width, height)),
    }[image_format]
    assert old in content
    return content.replace(old, new)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_header_only(20_000, 20_000), id="PNG"),
        pytest.param(png_header_only(9_000, 9_000), id="PNG below Pillow's own limit"),
        pytest.param(webp_bomb(), id="WEBP"),
        *(
            pytest.param(declaring(image_format, 9_000, 9_000), id=image_format)
            for image_format in ["JPEG", "GIF", "BMP", "AVIF", "HEIF"]
        ),
    ],
)
def test_a_huge_size_is_refused_before_decoding(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were asked for"))

    with pytest.raises(ImageTooLargeError):
        decode(content)


def test_the_webp_header_is_read_for_all_three_kinds() -> None:
    """Pillow would allocate before it can be asked; each header is cut right after the size."""
    lossy, lossless = save(garment(64, 48), "WEBP"), save(garment(64, 48), "WEBP", lossless=True)

    for header in (lossy[:30], lossless[:30], webp_bomb(64, 48)[:30]):
        with pytest.raises(ImageTooLargeError, match="64x48"):
            decode(header, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("size", [(2_000, 3_000), (3_000, 2_000)])
def test_a_big_jpeg_is_decoded_smaller(size: tuple[int, int]) -> None:
    decoded = decode(save(garment(*size), "JPEG"))

    height, width, _ = decoded.pixels.shape
    assert (decoded.width, decoded.height) == size
    assert DRAFT_SIDE_PIXELS <= min(height, width) < min(size)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


def test_a_big_jpeg_is_classified_as_if_decoded_in_full(artifact: Artifact, pictures: dict[str, bytes]) -> None:
    for label, picture in pictures.items():
        enlarged = Image.open(io.BytesIO(picture)).resize((1_800, 1_800), Image.Resampling.BICUBIC)
        jpeg = save(enlarged, "JPEG", quality=90)

        in_full, smaller = (
            artifact.scores(artifact.preprocess(pixels)[None])[0].probabilities
            for pixels in (np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")), decode(jpeg).pixels)
        )

        assert artifact.card.class_names[int(smaller.argmax())] == label
        assert in_full.argmax() == smaller.argmax()
        assert np.abs(in_full - smaller).max() < 0.1


def test_a_big_jpeg_is_no_other_photo_than_decoded_in_full(models_dir: Path) -> None:
    """The photo model's own golden pictures, eight times as large: all its probabilities, and the garment score."""
    photo_model = load_artifact(models_dir / "wardrobe" / str(WARDROBE_VERSIONS[-1]))
    for golden in photo_model.card.golden:
        picture = Image.open(io.BytesIO(base64.b64decode(golden.image_base64)))
        jpeg = save(picture.resize((1_200, 1_600), Image.Resampling.BICUBIC), "JPEG", quality=90)

        in_full, smaller = (
            photo_model.scores(photo_model.preprocess(pixels)[None])[0]
            for pixels in (np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")), decode(jpeg).pixels)
        )

        assert np.abs(in_full.probabilities - smaller.probabilities).max() < 0.05
        assert smaller.garment == pytest.approx(in_full.garment, abs=0.05)


# Files that are no pictures


@pytest.mark.parametrize("image_format", ACCEPTED_FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_is_refused(image_format: str, share: float) -> None:
    content = save(garment(300, 400), image_format)

    with pytest.raises(UndecodableImageError, match=image_format):
        decode(content[: int(len(content) * share)])


def test_every_cut_of_a_small_file_is_an_error_of_the_picture() -> None:
    """No cut makes the decoder raise anything else; only the last bytes may be missed by nobody."""
    for image_format in ACCEPTED_FORMATS:
        content = save(garment(20, 20), image_format)
        for length in range(1, len(content), 7):
            try:
                decode(content[:length])
            except (UndecodableImageError, UnsupportedImageFormatError):
                continue


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    with pytest.raises(UndecodableImageError):
        decode(with_bad_checksum(save(garment(60, 40), "PNG")))


@pytest.mark.parametrize(
    "content",
    [b"just text", HTML, SVG, PDF, b"\x7fELF\x02\x01\x01", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0", bytes(1_000)],
    ids=["text", "HTML", "SVG", "PDF", "ELF", "EPS", "one byte", "zeros"],
)
def test_other_files_are_refused_with_the_list_of_formats(content: bytes) -> None:
    with pytest.raises(UnsupportedImageFormatError, match="JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF"):
        decode(content)


@pytest.mark.parametrize("image_format", ["JPEG2000", "PPM", "ICO", "TGA", "DDS", "SGI"])
def test_formats_that_pillow_knows_but_the_list_does_not_are_refused(image_format: str) -> None:
    with pytest.raises(UnsupportedImageFormatError):
        decode(save(garment(64, 48), image_format))


def test_no_bytes_are_refused() -> None:
    with pytest.raises(EmptyImageError):
        decode(b"")


def test_a_jpeg_of_a_thousand_scans_is_refused_before_decoding() -> None:
    """Each scan is a pass over the whole picture: under a megabyte of them takes half a minute."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last_scan = content.rindex(b"\xff\xda")

    bomb = content[:last_scan] + content[last_scan:-2] * 1_000 + content[-2:]

    assert decode(content).pixels.shape == (64, 64, 3)
    with pytest.raises(ImageTooComplexError):
        decode(bomb)


def test_a_narrow_picture_is_read_small() -> None:
    """One of the greatest allowed area that the shorter side alone would leave at 150 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (440, 100_000)).save(buffer, "PNG")

    decoded = decode(buffer.getvalue())

    assert (decoded.width, decoded.height) == (440, 100_000)
    assert max(decoded.pixels.shape) <= 4096


def test_a_still_gif_is_no_animation() -> None:
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF", transparency=1)

    assert "first frame of an animation" not in decode(buffer.getvalue()).notes
