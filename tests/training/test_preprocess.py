import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from training.data import Splits
from training.preprocess import ExportedClassifier, sharpen, to_grey, trim

MEAN, STD = 0.286, 0.353
SIZES = [(1, 1), (1, 500), (500, 1), (2, 2), (13, 17), (28, 28), (28, 29), (73, 51), (400, 400)]


@pytest.fixture(scope="module")
def classifier() -> ExportedClassifier:
    return ExportedClassifier(nn.Flatten(), mean=MEAN, std=STD).eval()


@pytest.fixture(scope="module")
def scripted(classifier: ExportedClassifier) -> torch.jit.ScriptModule:
    with pytest.warns(Warning, match="deprecated"):
        return torch.jit.script(classifier)


def rgb(grey: Tensor | np.ndarray) -> Tensor:
    """uint8 (H, W) -> (3, H, W)."""
    return torch.as_tensor(grey).expand(3, -1, -1)


def enlarged(grey: Tensor, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grey.numpy()).resize((size, size), Image.Resampling.BICUBIC))


def pixels(preprocessed: Tensor) -> np.ndarray:
    """The grey values 0..255 that were standardised."""
    return (preprocessed[0].numpy() * STD + MEAN) * 255


def test_data_set_pictures_pass_through(classifier: ExportedClassifier, sample: Splits) -> None:
    """Every 28x28 picture, light on dark, is only standardised; its negative gives exactly the same."""
    images = sample.train.images

    for image in images:
        expected = ((image.float() / 255 - MEAN) / STD)[None]
        assert classifier.preprocess(rgb(image)).equal(expected)
        assert classifier.preprocess(rgb(255 - image)).equal(expected)


def test_colour_becomes_luma(classifier: ExportedClassifier) -> None:
    """ITU-R 601, as Pillow has it: within one grey value, Pillow rounds otherwise."""
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"), dtype=np.float32)

    grey = to_grey(torch.from_numpy(colours.transpose(2, 0, 1).copy()))

    assert np.abs(grey.numpy() - expected).max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", ["black", "white", "grey", "noise"])
def test_any_picture_gives_the_networks_input(classifier: ExportedClassifier, size: tuple[int, int], fill: str) -> None:
    """Whatever the size and content: no error, (1, 28, 28), finite, within the range of pixels."""
    noise = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = {"black": noise * 0, "white": noise * 0 + 255, "grey": noise * 0 + 128, "noise": noise}[fill]

    result = classifier.preprocess(image)

    assert (result.shape, result.dtype) == ((1, 28, 28), torch.float32)
    assert result.isfinite().all()
    assert pixels(result).min() > -0.01
    assert pixels(result).max() < 255.01


@pytest.mark.parametrize("size", SIZES)
def test_scripted_equals_eager(
    classifier: ExportedClassifier, scripted: torch.jit.ScriptModule, size: tuple[int, int]
) -> None:
    """Exactly, not nearly: it is the same code."""
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    assert scripted.preprocess(image).equal(classifier.preprocess(image))


def test_trim_finds_the_garment() -> None:
    """Margins of any width go; their colour becomes black and white stays white. A plain picture stays whole."""
    picture = torch.full((60, 50), 20.0)
    picture[10:40, 5:45] = 255

    assert trim(picture).equal(torch.full((30, 40), 255.0))
    assert trim(torch.full((60, 50), 20.0)).shape == (60, 50)


def test_place_on_the_page_does_not_matter(classifier: ExportedClassifier, sample: Splits) -> None:
    """The same garment in another corner of a larger white page is the same picture to the network."""
    garment = 255 - enlarged(sample.train.images[0], 200)
    inputs = []
    for top, left in ((10, 10), (130, 60)):
        page = np.full((400, 300), 255, dtype=np.uint8)
        page[top : top + 200, left : left + 200] = garment
        inputs.append(classifier.preprocess(rgb(page)))

    assert inputs[0].equal(inputs[1])


def test_recipe_agrees_with_an_independent_one(classifier: ExportedClassifier, sample: Splits) -> None:
    """Enlarged pictures, dark on light, come out as Pillow and numpy make them by the same published recipe."""
    num_compared = 0
    for image in sample.train.images[:40]:
        page = 255 - enlarged(image, 400)
        expected = reference(page)
        if expected is None:
            continue

        found = pixels(classifier.preprocess(rgb(page)))

        assert np.abs(found - expected).mean() < 0.01  # of 255
        num_compared += 1
    assert num_compared >= 20


def reference(page: np.ndarray) -> np.ndarray | None:
    """A dark garment on a light page -> 28x28 grey values, with Pillow's resampling and a plain loop to sharpen.

    None where subsampling has to take one of two pixels equally near: either is right.
    """
    negative = 255.0 - page
    background = np.median([negative[0, 0], negative[0, -1], negative[-1, 0], negative[-1, -1]])
    rows, columns = np.nonzero(np.abs(negative - background) > 0.05 * 255)
    garment = negative[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    garment = np.clip(garment - background, 0, None) * 255 / (255 - background)

    thumbnail = _longest(Image.fromarray(garment.astype(np.float32)), 73, Image.Resampling.BILINEAR)
    subsampled = _longest(thumbnail, 28, Image.Resampling.NEAREST)
    for before, after in zip(thumbnail.size, subsampled.size, strict=True):
        if any((2 * i + 1) * before % (2 * after) == 0 for i in range(after)):
            return None
    small = np.asarray(subsampled)

    sharp = np.zeros_like(small)
    padded = np.pad(small, 1, mode="edge")
    kernel = np.array([[np.exp(-(dy**2 + dx**2) / 2) for dx in (-1, 0, 1)] for dy in (-1, 0, 1)])
    for y, x in np.ndindex(small.shape):
        blurred = (padded[y : y + 3, x : x + 3] * kernel).sum() / kernel.sum()
        sharp[y, x] = small[y, x] + (small[y, x] - blurred)

    square = np.zeros((28, 28))
    top, left = (28 - small.shape[0]) // 2, (28 - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = sharp
    return square.clip(0, 255).round()


def _longest(image: Image.Image, longest: int, resampling: Image.Resampling) -> Image.Image:
    scale = longest / max(image.size)
    width, height = (max(1, int(side * scale + 0.5)) for side in image.size)
    return image.resize((width, height), resampling)


def test_sharpening_leaves_flat_areas_alone() -> None:
    """An edge gets steeper, a plane stays what it is, up to the border."""
    flat = torch.full((5, 6), 77.0)
    step = torch.tensor([[0.0, 0.0, 100.0, 100.0]]).expand(4, -1)

    assert sharpen(flat).allclose(flat, atol=1e-4)
    low, high = sharpen(step)[1, 1:3].tolist()
    assert low < 0
    assert high > 100
