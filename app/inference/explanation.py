"""What a model made of a picture: the square that it got, and where in it it sees a class."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.decoder import BudgetedDecoder
from app.errors import NoHeatMapError, UnknownLabelError, WardrobeError
from app.inference.decision import ranking
from app.inference.scheduler import ModelChooser

SIDE_PIXELS = 112  # of a heat map: the network's has 7 or 8 a side; more would show no more
COLOUR = (255, 64, 0)  # chosen, not tuned: rare in clothes
MAX_ALPHA = 200  # the picture shines through
FULL_NATS = 30.0  # the median of the strongest place's, of 120 photos with wardrobe/3; with 10 half a garment is opaque


@dataclass(frozen=True, slots=True)
class Explained:
    """`input_png` is the picture as the network gets it, in its size; `heat_map` the class shown and an RGBA PNG.

    Stretched to the picture's size the heat map fits, because the network sees the whole picture squeezed to a square.
    Instead of one it may be why there is none.
    """

    input_png: bytes
    heat_map: tuple[str, bytes] | WardrobeError


def explain(
    content: bytes, *, decoder: BudgetedDecoder, choose: ModelChooser, label: str | None, max_pixels: int
) -> Explained:
    """Look once more, at `label` or at the most probable class. Takes as long as a prediction.

    The heat map shows by how much each place speaks for the class and against its strongest rival: the mean of that is
    the logarithm of how many times as probable the class is. `FULL_NATS` of it are opaque in every picture, so that
    weak evidence looks weak; what speaks against the class is clear.

    Raises:
        ImageError: the picture cannot be decoded.
    """
    image = decoder.decode(content, max_pixels=max_pixels)
    artifact = choose(image).artifact
    card = artifact.card
    input_png = _png(Image.fromarray(artifact.input_picture(image.pixels)))
    evidence = artifact.evidence(image.pixels)  # (K, h, w)
    if evidence is None:
        return Explained(input_png, NoHeatMapError(f"{card.name}/{card.version}"))
    if label is not None and label not in card.class_names:
        return Explained(input_png, UnknownLabelError(label, card.class_names))
    best, second = ranking(evidence.mean((1, 2)))[:2]
    index = best if label is None else card.class_names.index(label)
    rival = second if index == best else best
    nats = (evidence[index] - evidence[rival]) / card.thresholds.temperature  # (h, w)
    return Explained(input_png, (card.class_names[index], _png(_layer(nats / FULL_NATS))))


def _layer(share: np.ndarray) -> Image.Image:
    """(h, w), where 1 is opaque and 0 clear -> RGBA."""
    alpha = Image.fromarray((share.clip(0, 1) * MAX_ALPHA).astype(np.float32))
    alpha = alpha.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC)
    layer = Image.new("RGB", alpha.size, COLOUR).convert("RGBA")
    layer.putalpha(Image.fromarray(np.asarray(alpha).clip(0, MAX_ALPHA).astype(np.uint8)))
    return layer


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
