from typing import Literal

import pytest
import torch
from torch import Tensor

from training.augment import augment, random_affine, random_erase, random_flip, random_shift
from training.config import FitConfig
from training.data import Splits


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augment_is_seeded_and_keeps_the_form(sample: Splits) -> None:
    """Shape and dtype stay; the same seed gives the same pictures, another seed others; the input is untouched."""
    images = sample.train.images[:100]
    before = images.clone()

    first, again, other = (augment(images, FitConfig(), generator=generator(seed)) for seed in (1, 1, 2))

    assert (first.shape, first.dtype) == (images.shape, torch.uint8)
    assert first.equal(again)
    assert not first.equal(other)
    assert images.equal(before)


def test_shift_by_zero_is_the_identity(sample: Splits) -> None:
    images = sample.train.images[:20]

    assert random_shift(images, max_shift_pixels=0, generator=generator()).equal(images)


def test_shift_moves_each_image_as_a_whole() -> None:
    """Every offset up to the limit along both axes occurs, none beyond, and what comes in is 0."""
    images = torch.randint(1, 256, (2_000, 6, 7), generator=generator(), dtype=torch.uint8)  # no 0 of its own

    shifted = random_shift(images, max_shift_pixels=2, generator=generator())

    candidates = {(dy, dx): _shift(images, dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    matches = torch.stack([(shifted == candidate).flatten(1).all(1) for candidate in candidates.values()])
    assert matches.sum(0).eq(1).all()  # each image is exactly one of the 25
    assert matches.sum(1).min() > 40  # 80 expected of each; 40 is 4.5 standard deviations below


def _shift(images: Tensor, dy: int, dx: int) -> Tensor:
    """The slow, plain way: pixel (y, x) comes from (y + dy, x + dx)."""
    shifted = torch.zeros_like(images)
    height, width = images.shape[1:]
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                shifted[:, y, x] = images[:, y + dy, x + dx]
    return shifted


def test_flip_mirrors_about_half(sample: Splits) -> None:
    """Each picture is itself or its left-right mirror image, independently of the others."""
    images = sample.train.images[:1_000]

    flipped = random_flip(images, generator=generator())

    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(2)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 430 < mirrored.sum() < 570  # 500 expected, 70 is 4.4 standard deviations


def test_erase_with_probability_zero_changes_nothing(sample: Splits) -> None:
    images = sample.train.images[:50]

    assert random_erase(images, probability=0, generator=generator()).equal(images)


def test_erase_overwrites_one_box_an_image() -> None:
    """With probability 1 every image gets noise in a box of 2 to 33 % of its area, and only there."""
    side = 28
    images = torch.zeros(2_000, side, side, dtype=torch.uint8)

    changed = random_erase(images, probability=1, generator=generator()) > 0  # noise is 0 once in 256 pixels

    shares = []
    for mask in changed:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shares.append(box.numel() / side**2)
        assert box.float().mean() > 0.8  # noise fills the box
    rounding = 1.15  # both sides of a box are rounded to whole pixels
    assert 0.02 / rounding <= min(shares) < 0.03
    assert 0.30 < max(shares) <= 0.33 * rounding


def test_erase_chooses_images_independently() -> None:
    """About the wanted share of images is touched, and the touched ones have different boxes."""
    images = torch.zeros(1_000, 28, 28, dtype=torch.uint8)

    changed = random_erase(images, probability=0.3, generator=generator()) > 0

    touched = changed.flatten(1).any(1)
    assert 240 < touched.sum() < 360  # 300 expected, 60 is 4.1 standard deviations
    assert changed[touched].flatten(1).unique(dim=0).shape[0] == touched.sum()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9)])
def test_augment_takes_any_batch(shape: tuple[int, ...]) -> None:
    images = torch.full(shape, 7, dtype=torch.uint8)

    assert augment(images, FitConfig(erase_probability=1), generator=generator()).shape == shape


def test_no_augmentation_draws_nothing(sample: Splits) -> None:
    """All of it off: the pictures as they are."""
    config = FitConfig(max_shift_pixels=0, flip=False, erase_probability=0)

    assert augment(sample.train.images[:20], config, generator=generator()).equal(sample.train.images[:20])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_affine_turns_by_up_to_the_limit(interpolation: Literal["nearest", "bilinear"]) -> None:
    """A bar through the centre ends at angles up to the limit, on both sides, and nearest makes no new grey."""
    images = torch.zeros(500, 29, 29, dtype=torch.uint8)
    images[:, 14, 14:] = 255  # from the centre to the right

    turned = random_affine(
        images, max_rotation_degrees=30, max_zoom=0, interpolation=interpolation, generator=generator()
    )

    rows, columns = torch.arange(29.0) - 14, torch.arange(29.0) - 14
    weights = turned.float() / turned.float().sum((1, 2), keepdim=True)
    angles = torch.atan2((weights.sum(2) * rows).sum(1), (weights.sum(1) * columns).sum(1)).rad2deg()
    assert -32 < angles.min() < -25
    assert 25 < angles.max() < 32
    assert (set(turned.unique().tolist()) == {0, 255}) == (interpolation == "nearest")


def test_affine_zooms_both_ways() -> None:
    """A square of 14 pixels has 0.8 to 1.2 times its side."""
    images = torch.zeros(500, 28, 28, dtype=torch.uint8)
    images[:, 7:21, 7:21] = 255

    zoomed = random_affine(
        images, max_rotation_degrees=0, max_zoom=0.2, interpolation="bilinear", generator=generator()
    )

    sides = (zoomed.double() / 255).sum((1, 2)).sqrt() / 14
    assert 0.78 < sides.min() < 0.83
    assert 1.17 < sides.max() < 1.22
