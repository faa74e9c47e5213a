"""A first look at the data, before anything is trained: how much there is, how it looks, what is in it twice."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import BaseModel
from torch import Tensor

from training.data import CLASS_NAMES, Dataset, Splits

matplotlib.use("agg")  # no screen

NUM_SAMPLES = 3  # of each class, the first ones of the training part: chosen by nobody


class Picture(BaseModel):
    """Where a picture stands, and what it is labelled."""

    part: str
    index: int
    label: str


class ClassPair(BaseModel):
    """Two classes, and the Euclidean distance of their mean pictures in grey levels a pixel."""

    classes: tuple[str, str]
    distance: float


class Exploration(BaseModel):
    """What the look found; all but counts and copies is of the training part alone.

    `nearest_mean_accuracy` is what a picture's nearest class mean gets right on the validation part.
    """

    source: str
    sha256: dict[str, str]
    rule: str
    num_images: dict[str, dict[str, int]]
    copies: list[list[Picture]]
    mean_pixel: float
    share_black: float
    spread: dict[str, float]
    closest: list[ClassPair]
    nearest_mean_accuracy: float


def explore(splits: Splits) -> Exploration:
    parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    means, deviations = class_pictures(splits.train)
    spread = deviations.square().mean((1, 2)).sqrt()  # (K,)
    return Exploration(
        source=splits.source,
        sha256=splits.sha256,
        rule=splits.rule,
        num_images={part: class_counts(dataset) for part, dataset in parts.items()},
        copies=find_copies(parts),
        mean_pixel=splits.train.images.double().mean().item(),
        share_black=(splits.train.images == 0).double().mean().item(),
        spread=dict(zip(CLASS_NAMES, spread.tolist(), strict=True)),
        closest=closest_classes(means),
        nearest_mean_accuracy=nearest_mean_accuracy(means, splits.validation),
    )


def class_counts(dataset: Dataset) -> dict[str, int]:
    counts = torch.bincount(dataset.labels, minlength=len(CLASS_NAMES)).tolist()
    return dict(zip(CLASS_NAMES, counts, strict=True))


def class_pictures(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every pixel over the pictures of a class: two of float64 (K, 28, 28), 0 to 255."""
    means, deviations = [], []
    for label in range(len(CLASS_NAMES)):
        images = dataset.images[dataset.labels == label].double()
        means.append(images.mean(0))
        deviations.append(images.std(0, correction=0))
    return torch.stack(means), torch.stack(deviations)


def find_copies(parts: Mapping[str, Dataset]) -> list[list[Picture]]:
    """Groups of pictures that are the same byte for byte, found by SHA-256."""
    found: dict[bytes, list[Picture]] = defaultdict(list)
    for part, dataset in parts.items():
        for index, (image, label) in enumerate(zip(dataset.images.numpy(), dataset.labels.tolist(), strict=True)):
            digest = hashlib.sha256(image.tobytes()).digest()
            found[digest].append(Picture(part=part, index=index, label=CLASS_NAMES[label]))
    return [group for group in found.values() if len(group) > 1]


def closest_classes(means: Tensor) -> list[ClassPair]:
    """All pairs of classes, those with the most similar mean pictures (K, 28, 28) first."""
    flat = means.flatten(1)
    distances = torch.cdist(flat, flat) / flat.shape[1] ** 0.5  # (K, K)
    pairs = [
        ClassPair(classes=(CLASS_NAMES[i], CLASS_NAMES[j]), distance=distances[i, j].item())
        for i in range(len(means))
        for j in range(i + 1, len(means))
    ]
    return sorted(pairs, key=lambda pair: pair.distance)


def nearest_mean_accuracy(means: Tensor, dataset: Dataset) -> float:
    """Of giving each picture the class whose mean picture is nearest: the least that a network has to beat."""
    nearest = torch.cdist(dataset.images.flatten(1).double(), means.flatten(1)).argmin(1)
    return (nearest == dataset.labels).double().mean().item()


def plot_classes(dataset: Dataset) -> Figure:
    """A column a class: its first pictures, its mean, and where its pictures differ."""
    means, deviations = class_pictures(dataset)
    first = [dataset.images[dataset.labels == label][:NUM_SAMPLES] for label in range(len(CLASS_NAMES))]
    rows = [
        *(torch.cat([images[min(row, len(images) - 1)] for images in first], 1) for row in range(NUM_SAMPLES)),
        torch.cat(list(means), 1),
        torch.cat(list(deviations * (255 / deviations.max())), 1),  # (28, K * 28)
    ]
    side = dataset.images.shape[-1]
    sheet = torch.cat([row.double() for row in rows]).numpy()
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=255)
    axes.set_xticks(side * (np.arange(len(CLASS_NAMES)) + 0.5) - 0.5, CLASS_NAMES, fontsize=8)
    names = [*("" for _ in range(NUM_SAMPLES)), "mean", "deviation"]
    names[(NUM_SAMPLES - 1) // 2] = "pictures"
    axes.set_yticks(side * (np.arange(len(rows)) + 0.5) - 0.5, names, fontsize=8)
    axes.tick_params(length=0)
    axes.axhline(side * NUM_SAMPLES - 0.5, color="grey", linewidth=1)
    axes.spines[:].set_visible(False)
    return figure
