"""Label-safe augmentation of whole batches on whatever device they are on, one random draw per image.

torchvision's transforms draw once per batch, so a batch would need a loop over its images: 30 times slower on a CPU.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import NUM_CLASSES, FitConfig, Interpolation

Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def augment(images: Tensor, config: FitConfig, *, generator: torch.Generator) -> Tensor:
    """Shift, turn, zoom, flip left-right and erase. uint8 (N, H, W) in, uint8 (N, H, W) out; the background is 0."""
    images = random_shift(images, max_shift_pixels=config.max_shift_pixels, generator=generator)
    if config.max_rotation_degrees or config.max_zoom:
        images = random_affine(
            images,
            max_rotation_degrees=config.max_rotation_degrees,
            max_zoom=config.max_zoom,
            interpolation=config.interpolation,
            generator=generator,
        )
    if config.flip:
        images = random_flip(images, generator=generator)
    return random_erase(images, probability=config.erase_probability, generator=generator)


def build_mix(config: FitConfig) -> Mixer:
    """Pictures (N, 1, H, W) and labels (N,) -> blended ones and the share of each class (N, K); or both as they are."""
    if config.mix == "none":
        return lambda images, labels: (images, labels)
    from torchvision.transforms import v2  # noqa: PLC0415  # takes seconds to load

    blend = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[config.mix]
    return blend(alpha=config.mix_alpha, num_classes=NUM_CLASSES)  # type: ignore[no-any-return]


def random_shift(images: Tensor, *, max_shift_pixels: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to `max_shift_pixels` along both axes; what comes in is background."""
    num_images, height, width = images.shape
    padded = F.pad(images, [max_shift_pixels] * 4)  # (N, H + 2 shift, W + 2 shift)
    device = images.device
    offsets = torch.randint(0, 2 * max_shift_pixels + 1, (2, num_images, 1), generator=generator, device=device)
    rows = offsets[0] + torch.arange(height, device=device)  # (N, H)
    columns = offsets[1] + torch.arange(width, device=device)  # (N, W)
    return padded[torch.arange(num_images, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_affine(
    images: Tensor,
    *,
    max_rotation_degrees: float,
    max_zoom: float,
    interpolation: Interpolation,
    generator: torch.Generator,
) -> Tensor:
    """Turn each image about its centre and zoom it, each by up to so much either way; what comes in is background."""
    num_images, height, width = images.shape
    turn, zoom = 2 * torch.rand(2, num_images, generator=generator, device=images.device) - 1  # -1 to 1
    angle, scale = turn * math.radians(max_rotation_degrees), 1 / (1 + zoom * max_zoom)
    cosine, sine, zero = scale * angle.cos(), scale * angle.sin(), torch.zeros_like(angle)
    rows = [torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)]
    theta = torch.stack(rows, 1)  # (N, 2, 3): where each pixel comes from
    grid = F.affine_grid(theta, [num_images, 1, height, width], align_corners=False)
    moved = F.grid_sample(images[:, None].float(), grid, mode=interpolation, align_corners=False)
    return moved[:, 0].round().to(torch.uint8)


def random_flip(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mirror each image left-right with probability one half."""
    flip = torch.rand(len(images), 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flip, images.flip(-1), images)


def random_erase(images: Tensor, *, probability: float, generator: torch.Generator) -> Tensor:
    """Overwrite a random rectangle of each chosen image with noise: Zhong et al., Random erasing (2017)."""
    erased = random_rectangles(images, probability=probability, generator=generator)
    noise = torch.randint(0, 256, images.shape, generator=generator, device=images.device, dtype=torch.uint8)
    return torch.where(erased, noise, images)


def random_rectangles(images: Tensor, *, probability: float, generator: torch.Generator) -> Tensor:
    """Bool (N, H, W): a random rectangle of each chosen image of (N, ..., H, W), nothing of the others.

    Area 2 to 33 % of the image and aspect ratio 0.3 to 3.3, as in Zhong et al., section 4.
    """
    num_images, height, width = len(images), images.shape[-2], images.shape[-1]
    device = images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(num_images, generator=generator, device=device) * (high - low) + low

    chosen = uniform(0, 1) < probability
    area = uniform(0.02, 0.33) * height * width
    log_aspect = uniform(-1.2, 1.2)  # ln 0.3 = -1.2, ln 3.3 = 1.2
    box_height = (area * log_aspect.exp()).sqrt().round().clamp(1, height)
    box_width = (area / log_aspect.exp()).sqrt().round().clamp(1, width)
    top = (uniform(0, 1) * (height - box_height + 1)).floor()
    left = (uniform(0, 1) * (width - box_width + 1)).floor()

    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= top[:, None]) & (rows < (top + box_height)[:, None])  # (N, H)
    in_columns = (columns >= left[:, None]) & (columns < (left + box_width)[:, None])  # (N, W)
    return in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
