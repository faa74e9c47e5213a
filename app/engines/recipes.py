"""What model.pt does to a picture, with NumPy and Pillow, for engines that have only the network.

The same steps as `training.preprocess` and `training.photos.preprocess`; golden predictions refuse a model for which
they are not, and tests compare both on pictures of many sizes.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

Recipe = Callable[[np.ndarray, int], np.ndarray]


def squeezed(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (3, S, S) in 0..255: the whole picture, squeezed to a square, averaged.

    In float32: rounding each pixel to 8 bits takes half the time, and gave 5 of 296 photos another label.
    """
    planes = (Image.fromarray(pixels[:, :, channel].astype(np.float32)) for channel in range(3))
    return np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR)) for plane in planes])


def thumbnail(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (1, S, S) in 0..255, light garment on dark: how Fashion-MNIST was made."""
    red, green, blue = pixels.astype(np.float32).transpose(2, 0, 1)
    grey = np.round(np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue)
    if _has_light_border(grey, max(1, min(grey.shape) // size)):
        grey = 255 - grey
    if grey.shape != (size, size):  # else it is a data set picture already
        grey = _fit_into_square(_trim(grey), size)
    squared: np.ndarray = grey[None]
    return squared


def _has_light_border(grey: np.ndarray, width: int) -> bool:
    inner = grey[width:-width, width:-width]
    return float(grey.sum(dtype=np.float64) - inner.sum(dtype=np.float64)) > 127.5 * (grey.size - inner.size)


def _trim(grey: np.ndarray) -> np.ndarray:
    """Cut off edges within 5 % of the corner colour, the lower median of the four, and make that colour black."""
    background = np.sort([grey[0, 0], grey[0, -1], grey[-1, 0], grey[-1, -1]])[1]
    foreground = np.abs(grey - background) > 0.05 * 255
    rows, columns = foreground.any(1).nonzero()[0], foreground.any(0).nonzero()[0]
    if not len(rows):
        return grey
    garment = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    trimmed: np.ndarray = (garment - background).clip(min=0) * (255 / max(255 - background, np.float32(1)))
    return trimmed


def _fit_into_square(grey: np.ndarray, size: int) -> np.ndarray:
    """Thumbnail of 73 pixels, subsample the longest edge to `size`, sharpen, and centre the picture on black."""
    height, width = _scaled_shape(grey.shape, 73)
    large = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR))
    height, width = _scaled_shape(large.shape, size)
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(int)
        for new, old in zip((height, width), large.shape, strict=True)
    )
    small = _sharpen(large[rows][:, columns])
    square = np.zeros((size, size), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = small.clip(0, 255).round()
    return square


def _scaled_shape(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    height, width = shape
    side = max(height, width)
    return max(1, (height * longest + side // 2) // side), max(1, (width * longest + side // 2) // side)


def _sharpen(grey: np.ndarray) -> np.ndarray:
    """Add what a Gaussian of radius 1 and sigma 1 takes away."""
    weights = np.exp(-np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]]) / 2).astype(np.float32)
    weights /= weights.sum()
    padded = np.pad(grey, 1, mode="edge")
    height, width = grey.shape
    sharpened = 2 * grey
    for y in range(3):
        for x in range(3):
            sharpened -= weights[y, x] * padded[y : y + height, x : x + width]
    return sharpened


RECIPES: dict[str | None, Recipe] = {"squeezed": squeezed, "thumbnail": thumbnail}
