"""A sheet of pictures as the network sees them in training."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from training.augment import augment, build_mix
from training.config import FitConfig
from training.data import Splits

NUM_VERSIONS = 8
SCALE = 3  # pixels a pixel


def preview(splits: Splits, config: FitConfig) -> Tensor:
    """uint8 (10 * 28, 9 * 28): a row a class, the picture itself and then as it is augmented each time."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    train = splits.train
    first = torch.stack([(train.labels == label).nonzero()[0, 0] for label in train.labels.unique()])
    originals = train.images[first]  # (10, 28, 28)
    columns = [originals]
    for _ in range(NUM_VERSIONS):
        pictures = augment(originals, config, generator=generator)
        mixed, _shares = build_mix(config)(pictures[:, None].float(), train.labels[first])
        columns.append(mixed[:, 0].round().to(torch.uint8))
    return torch.cat([column.flatten(0, 1) for column in columns], 1)


def write_preview(splits: Splits, config: FitConfig, path: Path) -> None:
    """As PNG."""
    sheet = Image.fromarray(preview(splits, config).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((SCALE * sheet.width, SCALE * sheet.height), Image.Resampling.NEAREST).save(path)
