import pytest
import torch
from torch import Tensor

from training.photos.augment import (
    augment,
    random_affine,
    random_coarseness,
    random_cover,
    random_light,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def blobs() -> Tensor:
    """64 pictures of a red disc, radius 20 of 64 pixels, on light grey, uint8."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (y - 32) ** 2 + (x - 32) ** 2 < 400
    picture = torch.full((3, 64, 64), 220, dtype=torch.uint8)
    picture[0, disc], picture[1, disc], picture[2, disc] = 200, 20, 20
    return picture.expand(64, 3, 64, 64).clone()


def redness(images: Tensor) -> Tensor:
    """Bool (N, S, S): pixels with clearly more red than green and blue."""
    return images[:, 0] > 1.3 * images[:, 1:].amax(1)


@pytest.mark.parametrize("size_pixels", [32, 96])
def test_augment_gives_pictures_of_the_wanted_size(blobs: Tensor, size_pixels: int) -> None:
    """float32 in 0..1, finite; the input is left alone."""
    before = blobs.clone()

    images = augment(blobs, size_pixels=size_pixels, generator=generator())

    assert (images.shape, images.dtype) == ((64, 3, size_pixels, size_pixels), torch.float32)
    assert images.isfinite().all()
    assert 0 <= images.min() <= images.max() <= 1
    assert blobs.equal(before)


def test_augment_follows_the_generator(blobs: Tensor) -> None:
    first, again, other = (augment(blobs, size_pixels=32, generator=generator(seed)) for seed in (1, 1, 2))

    assert first.equal(again)
    assert not first.equal(other)


def test_equal_pictures_of_a_batch_become_different_ones(blobs: Tensor) -> None:
    """Every step draws for each picture: moved, relit and covered apart from the others."""
    scaled = 0.1 + 0.4 * blobs.float() / 255  # so that no lamp makes all of a picture white

    moved = random_affine(scaled, size_pixels=32, generator=generator())
    relit = random_light(scaled, generator=generator())

    assert len(moved.flatten(1).unique(dim=0)) == 64
    assert len(relit.flatten(1).unique(dim=0)) == 64


def test_garment_stays_in_the_picture(blobs: Tensor) -> None:
    """A disc of 31 % of the picture keeps a quarter of its area in each of 64 draws, and some background."""
    moved = random_affine(blobs.float() / 255, size_pixels=64, generator=generator(3))

    area = redness(moved).float().mean((1, 2))
    assert area.min() > 0.07
    assert area.max() < 0.8
    assert area.std() > 0.02  # zoom does something


def test_colour_survives_the_light_of_most_pictures(blobs: Tensor) -> None:
    """Red stays red under every lamp, but in the few that lose their colour on purpose."""
    relit = random_light(blobs.float() / 255, generator=generator())

    grey = (relit.amax(1) - relit.amin(1)).flatten(1).amax(1) < 1e-6
    assert 0 < grey.sum() < 15  # 5 expected of 64
    assert redness(relit[~grey])[:, 32, 32].all()


def test_flip_and_quarter_turns_occur() -> None:
    """Of 2,000 pictures bright at the left, nearly half are bright at the right, and a few at top and bottom."""
    images = torch.zeros(2_000, 3, 32, 32)
    images[..., :10] = 1

    moved = random_affine(images, size_pixels=16, generator=generator())[:, 0]

    sides = torch.stack(
        [
            moved[:, :, :3].mean((1, 2)),
            moved[:, :, -3:].mean((1, 2)),
            moved[:, :3].mean((1, 2)),
            moved[:, -3:].mean((1, 2)),
        ]
    ).argmax(0)
    left, right, top, bottom = sides.bincount(minlength=4).tolist()
    assert min(left, right) > 800
    assert 60 < min(top, bottom) <= max(top, bottom) < 150  # 100 expected of each


def test_some_pictures_stand_on_a_page() -> None:
    """One colour around the whole picture, white in more than half of the cases."""
    images = torch.zeros(2_000, 3, 32, 32)

    moved = random_affine(images, size_pixels=32, generator=generator())

    paged = (moved > 0).any(1).flatten(1).float().mean(1) > 0.3  # of the area: the picture itself is black
    assert 100 < paged.sum() < 240  # of 240 on a page, those whose page is not much larger than the picture are missing
    corners = moved[paged][:, :, [0, 0, -1, -1], [0, -1, 0, -1]]  # (N, 3, 4)
    assert 0.45 < (corners == 1).all(1).any(1).float().mean() < 0.75


def test_coarseness_takes_detail_from_some_pictures() -> None:
    """A fifth of the pictures lose their finest stripes and keep their mean; the others are as they were."""
    stripes = (torch.arange(64) % 2).float().expand(500, 3, 64, 64).contiguous()

    coarse = random_coarseness(stripes, generator=generator())

    changed = (coarse != stripes).flatten(1).any(1)
    assert 70 < changed.sum() < 130
    assert coarse[changed].std((1, 2, 3)).max() < 0.3 < stripes[0].std()
    assert coarse[changed].mean().item() == pytest.approx(0.5, abs=0.02)


def test_cover_is_one_colour_in_a_rectangle(blobs: Tensor) -> None:
    """A quarter of the pictures, independently; the others are as they were."""
    images = (blobs.float() / 255).repeat(16, 1, 1, 1)

    covered = random_cover(images, generator=generator())

    changed = (covered != images).any(1)  # (N, H, W)
    touched = changed.flatten(1).any(1)
    assert 200 < touched.sum() < 312  # 256 expected of 1,024, standard deviation 14
    for picture, mask in zip(covered[touched][:50], changed[touched][:50], strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(picture[:, mask].unique(dim=1).T) == 1
