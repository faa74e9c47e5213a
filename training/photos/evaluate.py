"""Figures of an exported photo model: every photo goes through the service's decoder, preprocessing and network."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from app.artifact import (
    Artifact,
    GroupedMetrics,
    Metrics,
    PredictionSetMetrics,
    RefusalMetrics,
    Robustness,
    SliceMetrics,
)
from app.images import decode
from training.evaluate import measure, wilson_interval
from training.photos.dataset import Row

NUM_BOOTSTRAP_SAMPLES = 2_000  # an interval's end then moves by about a tenth of its half-width; chosen, not tuned
BATCH_SIZE = 32
# Of `middle_luma`; chosen, not tuned.
DARK_BELOW, LIGHT_ABOVE = 80.0, 160.0


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the exported file said about N photos, and how bright their middle was.

    `logits` (N, K); `garment` (N,) in 0..1, or None; `luma` (N,) in 0..255.
    """

    logits: Tensor
    garment: Tensor | None
    luma: Tensor

    def subset(self, chosen: Tensor) -> "Predictions":
        """`chosen` bool (N,) or indices."""
        garment = None if self.garment is None else self.garment[chosen]
        return Predictions(self.logits[chosen], garment, self.luma[chosen])


def predict_rows(
    artifact: Artifact,
    rows: Sequence[Row],
    *,
    description: str,
    change: Callable[[Image.Image], Image.Image] | None = None,
) -> Predictions:
    """Read each file as the service reads it, `change` it if asked, and run the exported network."""

    def prepare(row: Row) -> tuple[np.ndarray, float]:
        pixels = decode(row.path.read_bytes()).pixels
        if change is not None:
            pixels = np.asarray(change(Image.fromarray(pixels)))
        return artifact.preprocess(pixels), middle_luma(pixels)

    logits: list[np.ndarray] = []
    garment: list[np.ndarray] = []
    luma: list[float] = []
    with ThreadPoolExecutor() as pool:
        for start in track(range(0, len(rows), BATCH_SIZE), description=description):
            images, lumas = zip(*pool.map(prepare, rows[start : start + BATCH_SIZE]), strict=True)
            class_logits, garment_logits = artifact.engine.outputs(np.stack(images))
            logits.append(class_logits)
            garment += [] if garment_logits is None else [garment_logits]
            luma += lumas
    garment_scores = torch.from_numpy(np.concatenate(garment)).sigmoid() if garment else None
    return Predictions(torch.from_numpy(np.concatenate(logits)), garment_scores, torch.tensor(luma))


def measure_photos(
    predictions: Predictions,
    labels: Tensor,
    groups: Sequence[str],
    *,
    class_names: list[str],
    temperature: float,
    sets: Tensor,
    level: float,
    review_below: float,
    slices: Mapping[str, Tensor],
) -> Metrics:
    """All figures of N photos with `labels` (N,) and `groups`, within which photos are not independent of each other.

    `sets` bool (N, K) are their prediction sets, made for `level`. `slices` name masks, bool (N,), of photos to report
    apart.
    """
    confidence, predicted = torch.softmax(predictions.logits / temperature, 1).max(1)
    correct = predicted == labels
    accuracy_interval, recall_interval = bootstrap_by_group(correct, labels, groups)
    covered = sets.gather(1, labels[:, None])[:, 0]
    sizes = sets.sum(1)
    alone = (sizes == 1) & (confidence >= review_below)
    parts = {
        "decision: sorted": alone,
        "decision: review": ~alone,
        "dark garments": predictions.luma < DARK_BELOW,
        "light garments": predictions.luma > LIGHT_ABOVE,
        "garments between dark and light": (predictions.luma >= DARK_BELOW) & (predictions.luma <= LIGHT_ABOVE),
        **slices,
    }
    return measure(predictions.logits, labels, class_names=class_names, temperature=temperature).model_copy(
        update={
            "grouped": GroupedMetrics(
                num_groups=len(set(groups)),
                accuracy_interval=accuracy_interval,
                macro_recall=macro_recall(correct, labels),
                macro_recall_interval=recall_interval,
            ),
            "prediction_sets": PredictionSetMetrics(
                level=level,
                coverage=covered.double().mean().item(),
                coverage_interval=bootstrap_by_group(covered, labels, groups)[0],
                mean_size=sizes.double().mean().item(),
                share_of_size_one=(sizes == 1).double().mean().item(),
            ),
            "slices": {name: _slice(correct[chosen]) for name, chosen in parts.items() if chosen.any()},
        }
    )


def measure_refusals(pictures: str, garment_scores: Tensor, *, threshold: float, is_garment: bool) -> RefusalMetrics:
    """How many of these pictures are called no garment."""
    num_refused = int((garment_scores < threshold).sum())
    return RefusalMetrics(
        pictures=pictures,
        is_garment=is_garment,
        num_images=len(garment_scores),
        refused=num_refused / len(garment_scores),
        refused_interval=wilson_interval(num_refused, len(garment_scores)),
    )


def measure_photo_robustness(artifact: Artifact, rows: Sequence[Row], labels: Tensor, *, logits: Tensor) -> Robustness:
    """Accuracy on the same photos in the forms in which people send them.

    `labels` (N,) are those of the rows, `logits` (N, K) what the network says of them as they are.
    """
    forms = {"as they are": logits}
    for form, change in FORMS.items():
        forms[form] = predict_rows(artifact, rows, description=form, change=change).logits
    accuracies = {form: (found.argmax(1) == labels).double().mean().item() for form, found in forms.items()}
    return Robustness(num_images=len(rows), accuracy=accuracies)


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((100, 100))
    return image


def _on_page(image: Image.Image) -> Image.Image:
    width, height = image.size
    page = Image.new("RGB", (2 * max(width, height), max(width, height)), "white")
    page.paste(image, (max(width, height) - width // 2, 0))
    return page


FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "100 px": _small,
    "a third of the light": lambda image: image.point([value // 3 for value in range(256)] * 3),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "in the middle of a page twice as wide as high": _on_page,
}


def macro_recall(correct: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the share of their pictures that is right."""
    return float(np.mean([correct[labels == label].double().mean().item() for label in labels.unique()]))


def bootstrap_by_group(
    correct: Tensor, labels: Tensor, groups: Sequence[str], *, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % percentile intervals of the share that is `correct` and of its mean over classes.

    Whole groups are drawn with replacement: Efron and Tibshirani, An introduction to the bootstrap (1993), chapter 13;
    Field and Welsh, Bootstrapping clustered data (2007).
    """
    group_index = {group: index for index, group in enumerate(sorted(set(groups)))}
    num_classes = int(labels.max()) + 1
    num_correct = np.zeros((len(group_index), num_classes))
    num_images = np.zeros_like(num_correct)
    for group, label, right in zip(groups, labels.tolist(), correct.tolist(), strict=True):
        num_images[group_index[group], label] += 1
        num_correct[group_index[group], label] += right
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(
        len(group_index), np.full(len(group_index), 1 / len(group_index)), NUM_BOOTSTRAP_SAMPLES
    )
    total_correct, total = drawn @ num_correct, drawn @ num_images  # (samples, classes)
    accuracy = total_correct.sum(1) / np.maximum(total.sum(1), 1)
    with np.errstate(invalid="ignore"):
        recall = np.nanmean(np.where(total > 0, total_correct / total, np.nan), axis=1)
    return _percentiles(accuracy), _percentiles(recall)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def middle_luma(pixels: np.ndarray) -> float:
    """Mean luma, 0..255, of the middle third of a photo (H, W, 3), where the garment is."""
    height, width, _ = pixels.shape
    rows = slice(height // 3, max(height // 3 + 1, 2 * height // 3))
    columns = slice(width // 3, max(width // 3 + 1, 2 * width // 3))
    return float((pixels[rows, columns] @ np.array([0.299, 0.587, 0.114])).mean())


def _slice(correct: Tensor) -> SliceMetrics:
    num_correct = int(correct.sum())
    return SliceMetrics(
        num_images=len(correct),
        accuracy=num_correct / len(correct),
        accuracy_interval=wilson_interval(num_correct, len(correct)),
    )
