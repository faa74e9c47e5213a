"""Which pictures count as thumbnails of Fashion-MNIST's kind, and what becomes of them."""

import io

import pytest
from PIL import Image

from app.images import decode
from app.inference.routing import MAX_GREY_DIFFERENCE, choose_model
from tests.odd_files import garment, orientation_exif, save
from tests.tiny_wardrobe import plain


def chosen(content: bytes, thumbnail_model: str | None = "small") -> str:
    return choose_model(decode(content), default_model="big", thumbnail_model=thumbnail_model)


def grey(width: int, height: int) -> Image.Image:
    return garment(width, height).convert("L")


@pytest.mark.parametrize(
    ("width", "height", "model"),
    [
        (28, 28, "small"),
        (1, 1, "small"),
        (64, 64, "small"),
        (65, 64, "big"),
        (64, 65, "big"),
        (65, 65, "big"),
        (1, 20_000, "big"),
        (400, 300, "big"),
    ],
)
def test_no_side_of_a_thumbnail_is_over_64_pixels(width: int, height: int, model: str) -> None:
    assert chosen(save(grey(width, height), "PNG")) == model


def test_the_size_is_that_of_the_original_not_of_the_pixels_kept() -> None:
    image = decode(save(grey(30_000, 64), "PNG"))

    assert image.pixels.shape[1] < image.width
    assert choose_model(image, default_model="big", thumbnail_model="small") == "big"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_grey_is_seen_in_the_pixels_whatever_the_mode(mode: str) -> None:
    assert chosen(save(grey(28, 28).convert(mode), "PNG")) == "small"


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "AVIF", "HEIF"])
def test_lossy_formats_keep_a_grey_picture_grey(pictures: dict[str, bytes], image_format: str) -> None:
    for content in pictures.values():
        picture = Image.open(io.BytesIO(content)).convert("RGB").resize((64, 64))
        assert chosen(save(picture, image_format)) == "small"


def test_a_rotated_thumbnail_is_a_thumbnail() -> None:
    assert chosen(save(grey(28, 28), "JPEG", exif=orientation_exif(6))) == "small"


@pytest.mark.parametrize(
    ("colour", "model"),
    [
        ((100, 100, 100), "small"),
        ((100, 100, 100 + MAX_GREY_DIFFERENCE), "small"),
        ((100 + MAX_GREY_DIFFERENCE + 1, 100, 100), "big"),
        ((100, 100 - MAX_GREY_DIFFERENCE - 1, 100), "big"),
        ((0, 0, 255), "big"),
        ((255, 0, 255), "big"),
    ],
)
def test_channels_differ_by_a_few_levels_at_most(colour: tuple[int, int, int], model: str) -> None:
    assert chosen(plain(*colour)) == model


def test_one_coloured_pixel_makes_a_picture_coloured() -> None:
    picture = grey(28, 28).convert("RGB")
    picture.putpixel((3, 25), (255, 0, 0))

    assert chosen(save(picture, "PNG")) == "big"


@pytest.mark.parametrize("content", [plain(9, 9, 9), plain(255, 0, 0)], ids=["grey", "red"])
def test_without_a_thumbnail_model_everything_is_for_the_default_model(content: bytes) -> None:
    assert chosen(content, thumbnail_model=None) == "big"
