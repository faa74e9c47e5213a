"""Which model a picture is for, when the request leaves the choice to the service."""

import numpy as np

from app.images import DecodedImage

MAX_THUMBNAIL_SIDE_PIXELS = 64  # chosen, not tuned: twice Fashion-MNIST's 28 and some; no photo is that small
# The ten pictures of tests/data as JPEG, WebP and AVIF of quality 30 to 85 come back with at most 3; twice that.
MAX_GREY_DIFFERENCE = 6


def choose_model(image: DecodedImage, *, default_model: str, thumbnail_model: str | None) -> str:
    """The name of the thumbnail model for a small grey picture, where there is one, else of the default model."""
    return thumbnail_model if thumbnail_model and is_grey_thumbnail(image) else default_model


def is_grey_thumbnail(image: DecodedImage) -> bool:
    """Whether no side is over 64 pixels and red, green and blue are nearly equal in every pixel."""
    if max(image.width, image.height) > MAX_THUMBNAIL_SIDE_PIXELS:
        return False
    return bool(np.ptp(image.pixels, axis=2).max() <= MAX_GREY_DIFFERENCE)
