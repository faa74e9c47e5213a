"""Label-safe augmentation of photos: whole batches on any device, one random draw per picture.

Strengths are chosen, not tuned: a garment must stay whole enough to tell a dress from a skirt, so crops are mild.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.augment import random_rectangles

MAX_ROTATION_DEGREES = 20.0
QUARTER_TURN_PROBABILITY = 0.15  # pictures of clothes on a bed are taken from any side
ZOOM = (0.72, 1.1)  # share of the picture's side that is seen; above 1 there is a mirrored margin
MAX_STRETCH = 1.33  # of width against height: a landscape photo is squeezed to the same square as a portrait one
PAGE_PROBABILITY = 0.12  # the whole picture on a page of one colour: product pages, drawings, screenshots of a gallery
MAX_PAGE = 2.8  # sides of the picture; a portrait photo in the middle of a page twice as wide as high: 2.7
BRIGHTNESS, CONTRAST, SATURATION = 0.3, 0.3, 0.4
CHANNEL_GAIN = 0.12  # lamps and white balance
GREY_PROBABILITY = 0.08
COARSE_PROBABILITY = 0.2  # small pictures, enlarged, and blurred ones
MAX_COARSENESS = 7.0
ERASE_PROBABILITY = 0.25


def augment(images: Tensor, *, size_pixels: int, generator: torch.Generator) -> Tensor:
    """uint8 (N, 3, C, C) -> float32 (N, 3, S, S) in 0..1: moved, turned, made coarse, relit and partly covered."""
    warped = random_affine(images.float() / 255, size_pixels=size_pixels, generator=generator)
    coarse = random_coarseness(warped, generator=generator)
    return random_cover(random_light(coarse, generator=generator), generator=generator)


def random_affine(images: Tensor, *, size_pixels: int, generator: torch.Generator) -> Tensor:
    """Zoom, stretch, rotate, flip and shift within the picture, or on a page around it: one bilinear resampling."""
    num_images = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(num_images, generator=generator, device=images.device) * (high - low) + low

    zoom = uniform(*ZOOM)
    stretch = uniform(-math.log(MAX_STRETCH), math.log(MAX_STRETCH)).exp().sqrt()
    width, height = (zoom * stretch).clamp(max=1.15), (zoom / stretch).clamp(max=1.15)
    on_page = uniform(0, 1) < PAGE_PROBABILITY
    narrower = uniform(0, 1) < 0.5  # either side of the page may be the longer one
    longer, shorter = uniform(1, MAX_PAGE), uniform(1, 1.3)
    width = torch.where(on_page, torch.where(narrower, longer, shorter), width)
    height = torch.where(on_page, torch.where(narrower, shorter, longer), height)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    quarter_turns = (uniform(0, 1) < QUARTER_TURN_PROBABILITY) * uniform(1, 4).floor()
    angle = uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES) * (math.pi / 180) + quarter_turns * (math.pi / 2)
    shift_x = uniform(-1, 1) * torch.where(on_page, 0.5 * (width - 1), (1 - width).clamp(min=0.05))
    shift_y = uniform(-1, 1) * torch.where(on_page, 0.5 * (height - 1), (1 - height).clamp(min=0.05))
    cosine, sine = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([cosine * width * flip, -sine * height, shift_x], 1),
            torch.stack([sine * width * flip, cosine * height, shift_y], 1),
        ],
        1,
    )  # (N, 2, 3): where in the picture each output pixel comes from
    grid = F.affine_grid(theta, [num_images, 3, size_pixels, size_pixels], align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    colour = torch.rand(num_images, 3, generator=generator, device=images.device)
    colour = torch.where((uniform(0, 1) < 0.6)[:, None], 1.0, colour)[:, :, None, None]  # mostly white
    beside = on_page[:, None, None] & (grid.abs() > 1).any(3)  # (N, S, S)
    return torch.where(beside[:, None], colour, moved)


def random_coarseness(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Shrink some of the pictures and enlarge them again: what small and blurred ones have lost.

    One factor for all that are chosen, which is a draw for each batch.
    """
    drawn = torch.rand(len(images) + 1, generator=generator, device=images.device)
    chosen = (drawn[1:] < COARSE_PROBABILITY).nonzero().flatten()
    if len(chosen) == 0:
        return images
    size_pixels = images.shape[-1]
    coarseness = 1.5 * (MAX_COARSENESS / 1.5) ** drawn[0].item()
    small = F.interpolate(images[chosen], size=max(8, round(size_pixels / coarseness)), mode="bilinear", antialias=True)
    return images.index_copy(0, chosen, F.interpolate(small, size=size_pixels, mode="bicubic").clamp(0, 1))


def random_light(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and the colour of the light; some pictures lose their colour."""

    def factor(strength: float, *shape: int) -> Tensor:
        drawn = torch.rand(len(images), *shape, 1, 1, generator=generator, device=images.device)
        return 1 + strength * (2 * drawn - 1)

    images = images * factor(BRIGHTNESS, 1) * factor(CHANNEL_GAIN, 3)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factor(CONTRAST, 1)
    grey = (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    saturation = factor(SATURATION, 1)
    lost = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < GREY_PROBABILITY
    return (grey + (images - grey) * saturation.masked_fill(lost, 0)).clamp(0, 1)


def random_cover(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Fill a rectangle of some pictures with one colour: Zhong et al., Random erasing (2017)."""
    covered = random_rectangles(images, probability=ERASE_PROBABILITY, generator=generator)
    colour = torch.rand(len(images), 3, 1, 1, generator=generator, device=images.device)
    return torch.where(covered[:, None], colour, images)
