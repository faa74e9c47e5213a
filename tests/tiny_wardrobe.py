"""A made-up model `wardrobe` with all four outputs, whose answers can be read off a picture's colour.

Red is a dress, green a shirt, blue a longsleeve; the brighter, the surer. What is nearly black is no garment. Two
pictures are as similar as the share of the three colours that have the same shade in both, of 256.
"""

import base64
import hashlib
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from app.artifact import Card
from tests.odd_files import save

SIZE_PIXELS = 8
LABELS = {"dress": "dresses", "shirt": "tops", "longsleeve": "other"}
THRESHOLDS = {
    "temperature": 2.0,
    "prediction_set": {"level": 0.95, "min_probability": 0.25},
    "review_below": 0.9,
    "garment_score": 0.5,
}
# The softmax of (8, 0, 0) / 2 and the sigmoid of 20 * (1 - 0.1), by hand.
RED_PROBABILITIES = [0.9646632, 0.0176684, 0.0176684]
RED_GARMENT_SCORE = 0.99999998


class ColourReader(nn.Module):
    """Logits are 8 times the mean of a colour in 0..1; the garment logit is 0 where the strongest one is 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.size_pixels = SIZE_PIXELS

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        colour = image.float().mean(dim=(1, 2)) / 255  # (3,)
        return colour[:, None, None].expand(3, self.size_pixels, self.size_pixels)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        colour = batch.mean(dim=(2, 3))  # (N, 3)
        shades = F.one_hot((255 * colour).round().long(), 256).flatten(1).float()  # (N, 768)
        return 8 * colour, 20 * (colour.amax(dim=1) - 0.1), 8 * batch, shades  # (N, 3), (N,), (N, 3, S, S), (N, 768)


def plain(red: int, green: int, blue: int, *, side_pixels: int = 28) -> bytes:
    """The PNG file of a square of one colour."""
    return save(Image.new("RGB", (side_pixels, side_pixels), (red, green, blue)), "PNG")


def write_tiny_wardrobe(models_dir: Path, *, template: Card, network: type[ColourReader] = ColourReader) -> Path:
    """Write wardrobe/1; whatever the tests do not look at is the template's."""
    folder = models_dir / "wardrobe" / "1"
    folder.mkdir(parents=True)
    with warnings.catch_warnings():  # deprecated in favour of torch.export, as in training.export
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network().eval()).save(folder / "model.pt")
    (folder / "model.onnx").write_bytes(b"the service does not load this file")
    card = template.model_dump(mode="json", exclude_unset=True) | {
        "name": "wardrobe",
        "version": 1,
        "description": "Tells colours apart.",
        "classes": [{"label": label, "group": group} for label, group in LABELS.items()],
        "input": {"channels": 3, "size_pixels": SIZE_PIXELS, "description": "The mean colour."},
        "thresholds": THRESHOLDS,
        "metrics": {},
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("model.pt", "model.onnx")
        },
        "golden": [
            {
                "image_base64": base64.b64encode(plain(255, 0, 0)).decode(),
                "probabilities": RED_PROBABILITIES,
                "garment_score": RED_GARMENT_SCORE,
            }
        ],
    }
    (folder / "card.json").write_text(Card.model_validate(card).model_dump_json(exclude_unset=True))
    return folder
