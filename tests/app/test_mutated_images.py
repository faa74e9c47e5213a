"""Property: whatever is done to an image file, the decoder gives bounded pixels or says that the file is at fault."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import ImageError
from app.images import ACCEPTED_FORMATS, MAX_SIDE_PIXELS, decode
from tests.odd_files import garment, orientation_exif, save

MAX_PIXELS = 200_000
FILES = {name: save(garment(60, 80), name) for name in ACCEPTED_FORMATS}
FILES["JPEG"] = save(garment(60, 80), "JPEG", exif=orientation_exif(6))
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"]

Mutation = tuple[str, float, bytes]
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "repeat", "cut", "largest"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def mutate(content: bytes, mutations: list[Mutation]) -> bytes:
    """Each at a place given as a share of the file, most often in its header, where sizes and counts are."""
    for kind, share, added in mutations:
        at = int(len(content) * share**3)
        before, after = content[:at], content[at:]
        content = {
            "overwrite": before + added + after[len(added) :],
            "insert": before + added + after,
            "delete": before + after[len(added) :],
            "repeat": before + after[:64] * len(added) + after,
            "cut": before,
            "largest": before + b"\xff" * len(added) + after[len(added) :],
        }[kind]
    return content


@pytest.mark.parametrize("image_format", ACCEPTED_FORMATS)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(mutations=MUTATIONS)
def test_a_mutated_file_is_decoded_or_at_fault(image_format: str, mutations: list[Mutation]) -> None:
    try:
        image = decode(mutate(FILES[image_format], mutations), max_pixels=MAX_PIXELS)
    except ImageError:
        return

    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape[2:] == (3,)
    assert 0 < max(image.pixels.shape) <= MAX_SIDE_PIXELS
    assert image.width * image.height <= MAX_PIXELS


@pytest.mark.parametrize("image_format", ACCEPTED_FORMATS)
def test_the_files_are_good_before(image_format: str) -> None:
    assert decode(FILES[image_format]).format == image_format


@settings(max_examples=200, deadline=None, derandomize=True)
@given(width=st.integers(1, 700), height=st.integers(1, 700), mode=st.sampled_from(MODES))
def test_any_mode_and_size_becomes_rgb(width: int, height: int, mode: str) -> None:
    """Every mode that Pillow can write as TIFF, of any size."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "TIFF")

    image = decode(buffer.getvalue())

    assert (image.width, image.height) == (width, height)
    assert image.pixels.shape[2] == 3
