"""The preprocessing without torch against the one in model.pt, on pictures of many sizes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.artifact import Artifact, read_card
from app.engines import load_artifact, load_verified
from app.images import decode
from tests.odd_files import garment

# None leaves a column one pixel wide: torch 2.14 shrinks such a column to its first pixel, which nobody sends.
SIZES = [(28, 28), (1, 1), (2, 3), (9, 90), (90, 1), (27, 28), (29, 31), (73, 51), (300, 400), (448, 900), (640, 31)]


@pytest.fixture(scope="session", params=["fashion-mnist", "wardrobe"])
def both(request: pytest.FixtureRequest, models_dir: Path) -> tuple[Artifact, Artifact]:
    """The newest version of a shipped model, run by TorchScript and by ONNX Runtime."""
    folder = max((models_dir / request.param).glob("*/"), key=lambda path: int(path.name))
    return load_artifact(folder), load_verified(folder, read_card(folder), engine="onnxruntime")


def shown(width: int, height: int) -> list[np.ndarray]:
    """A drawn shirt, its negative, and noise that is smooth, as photos are; uint8 (H, W, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    shirt = np.asarray(garment(width, height))
    return [shirt, 255 - shirt, np.asarray(smooth)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_both_engines_see_the_same(both: tuple[Artifact, Artifact], width: int, height: int) -> None:
    """The same pixels; a thumbnail's are rounded, where two libraries may differ by a level or two of 255."""
    torchscript, onnx = both
    levels = 0 if onnx.card.input.recipe == "squeezed" else 2
    for pixels in shown(width, height):
        expected, found = torchscript.preprocess(pixels), onnx.preprocess(pixels)

        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() * 255 * onnx.card.input.std <= levels + 0.01


def test_both_engines_say_the_same(both: tuple[Artifact, Artifact], pictures: dict[str, bytes]) -> None:
    """On the ten pictures of the data set and on drawn ones: within the tolerance of golden predictions."""
    torchscript, onnx = both
    for pixels in [*(decode(content).pixels for content in pictures.values()), *shown(300, 400)]:
        expected = torchscript.scores(torchscript.preprocess(pixels)[None])[0]
        found = onnx.scores(onnx.preprocess(pixels)[None])[0]

        assert found.probabilities.argmax() == expected.probabilities.argmax()
        assert np.abs(found.probabilities - expected.probabilities).max() < 1e-3
        assert (found.garment is None) == (expected.garment is None)
        assert abs((found.garment or 0) - (expected.garment or 0)) < 1e-3
