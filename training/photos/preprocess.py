"""Any picture -> the network's input. Scripted into model.pt, so that serving cannot do it differently."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What the ImageNet weights were trained with: pixels 0..255 become (pixel - 127) / 128.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255


class ExportedPhotoClassifier(nn.Module):
    """The network with its preprocessing, as TorchScript takes it."""

    def __init__(self, network: nn.Module, *, num_classes: int, size_pixels: int) -> None:
        """`network` maps (N, 3, S, S) to what `forward` gives, of at least `num_classes` classes."""
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.size_pixels = size_pixels  # attributes: TorchScript sees no module globals
        self.mean = PIXEL_MEAN
        self.std = PIXEL_STD

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, S, S) -> logits (N, K), garment logit (N,), evidence (N, K, h, w) and embedding (N, D)."""
        logits, garment, evidence, embedding = self.network(batch)
        return logits[:, : self.num_classes], garment, evidence[:, : self.num_classes], embedding

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """uint8 RGB (3, H, W) of any size -> float32 (3, S, S), standardised."""
        scaled = resize(image, self.size_pixels)
        return (scaled / 255 - self.mean) / self.std


def resize(image: Tensor, size_pixels: int) -> Tensor:
    """uint8 (3, H, W) -> float32 (3, S, S) in 0..255: the whole picture, squeezed to a square, averaged."""
    scaled = F.interpolate(image[None].float(), size=[size_pixels, size_pixels], mode="bilinear", antialias=True)
    return scaled[0]
