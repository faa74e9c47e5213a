"""Where in a picture a model sees a class: a transparent image to lay over it."""

import io

import numpy as np
from PIL import Image

from app.decoder import BudgetedDecoder
from app.errors import NoHeatMapError, UnknownLabelError
from app.inference.decision import ranking
from app.inference.scheduler import ModelChooser

SIDE_PIXELS = 112  # the network's map has 7 or 8 a side; more would show no more
COLOUR = (255, 64, 0)  # chosen, not tuned: rare in clothes
MAX_ALPHA = 200  # the picture shines through


def heat_map(
    content: bytes, *, decoder: BudgetedDecoder, choose: ModelChooser, label: str | None, max_pixels: int
) -> tuple[str, bytes]:
    """The class shown, by default the most probable one, and an RGBA PNG with its evidence as opacity.

    Stretched to the picture's size it fits, because the network sees the whole picture squeezed to a square. Opaque is
    the place that speaks most for the class; what speaks against it is clear. Takes as long as a prediction.

    Raises:
        NoHeatMapError: the model has none.
        UnknownLabelError: the model does not know the class.
        ImageError: the picture cannot be decoded.
    """
    image = decoder.decode(content, max_pixels=max_pixels)
    artifact = choose(image).artifact
    evidence = artifact.evidence(image.pixels)  # (K, h, w)
    card = artifact.card
    if evidence is None:
        raise NoHeatMapError(f"{card.name}/{card.version}")
    if label is None:
        label = card.class_names[ranking(evidence.mean((1, 2)))[0]]
    elif label not in card.class_names:
        raise UnknownLabelError(label, card.class_names)
    return label, _png(evidence[card.class_names.index(label)])


def _png(evidence: np.ndarray) -> bytes:
    positive = evidence.clip(min=0)
    alpha = Image.fromarray((positive * (MAX_ALPHA / max(positive.max(), 1e-6))).astype(np.float32))
    alpha = alpha.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC)
    layer = Image.new("RGB", alpha.size, COLOUR).convert("RGBA")
    layer.putalpha(Image.fromarray(np.asarray(alpha).clip(0, MAX_ALPHA).astype(np.uint8)))
    buffer = io.BytesIO()
    layer.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
