from pathlib import Path

import torch

from training.config import FitConfig
from training.data import Splits
from training.preview import preview, write_preview

OFF = {"max_shift_pixels": 0, "flip": False, "erase_probability": 0.0}


def test_the_sheet_begins_with_the_pictures_themselves(sample: Splits, tmp_path: Path) -> None:
    """Ten rows, nine columns; without augmentation all columns are the first one."""
    plain, augmented = preview(sample, FitConfig.from_dict(OFF)), preview(sample, FitConfig(mix="cutmix"))
    write_preview(sample, FitConfig(), tmp_path / "sheet.png")

    assert plain.shape == augmented.shape == (280, 252)
    assert plain.equal(plain[:, :28].repeat(1, 9))
    assert augmented[:, :28].equal(plain[:, :28])
    assert not augmented[:, 28:].equal(plain[:, 28:])
    assert (tmp_path / "sheet.png").stat().st_size > 1_000


def test_a_preview_is_seeded(sample: Splits) -> None:
    assert torch.equal(preview(sample, FitConfig(mix="mixup")), preview(sample, FitConfig(mix="mixup")))
