"""Figures of an exported photo model: every photo goes through the service's decoder, preprocessing and network."""

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pillow_heif
import torch
from PIL import ExifTags, Image, ImageFilter
from rich.progress import track
from torch import Tensor

from app.artifact import (
    Artifact,
    GroupedMetrics,
    Metrics,
    Part,
    PredictionSetMetrics,
    RefusalMetrics,
    Robustness,
    SliceMetrics,
)
from app.images import decode
from training.evaluate import measure, to_png, wilson_interval
from training.photos.dataset import Row

MIN_GROUPS = 5  # fewer drawn with replacement say nothing of others: chosen, not tuned
NUM_BOOTSTRAP_SAMPLES = 2_000  # an interval's end then moves by about a tenth of its half-width; chosen, not tuned
BATCH_SIZE = 32
# Of `middle_luma`; chosen, not tuned.
DARK_BELOW, LIGHT_ABOVE = 80.0, 160.0


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the exported file said about N photos, and how bright their middle was.

    `logits` (N, K); `garment` (N,) in 0..1, or None; `luma` (N,) in 0..255; `embeddings` (N, D), or None.
    """

    logits: Tensor
    garment: Tensor | None
    luma: Tensor
    embeddings: Tensor | None = None

    def subset(self, chosen: Tensor) -> "Predictions":
        """`chosen` bool (N,) or indices."""
        garment = None if self.garment is None else self.garment[chosen]
        embeddings = None if self.embeddings is None else self.embeddings[chosen]
        return Predictions(self.logits[chosen], garment, self.luma[chosen], embeddings)


def predict_rows(
    artifact: Artifact,
    rows: Sequence[Row],
    *,
    description: str,
    change: Callable[[bytes], bytes] | None = None,
) -> Predictions:
    """Read each file, `change`d into another one if asked, as the service reads it, and run the exported network."""

    def prepare(row: Row) -> tuple[np.ndarray, float]:
        content = row.path.read_bytes()
        pixels = decode(change(content) if change else content).pixels
        return artifact.preprocess(pixels), middle_luma(pixels)

    logits: list[np.ndarray] = []
    garment: list[np.ndarray] = []
    luma: list[float] = []
    embeddings: list[np.ndarray] = []
    with ThreadPoolExecutor() as pool:
        for start in track(range(0, len(rows), BATCH_SIZE), description=description):
            images, lumas = zip(*pool.map(prepare, rows[start : start + BATCH_SIZE]), strict=True)
            outputs = artifact.engine.outputs(np.stack(images))
            logits.append(outputs.logits)
            garment += [] if outputs.garment is None else [outputs.garment]
            embeddings += [] if outputs.embedding is None else [outputs.embedding]
            luma += lumas
    garment_scores = torch.from_numpy(np.concatenate(garment)).sigmoid() if garment else None
    return Predictions(
        logits=torch.from_numpy(np.concatenate(logits)),
        garment=garment_scores,
        luma=torch.tensor(luma),
        embeddings=torch.from_numpy(np.concatenate(embeddings)) if embeddings else None,
    )


def measure_photos(
    predictions: Predictions,
    labels: Tensor,
    groups: Sequence[str],
    *,
    class_names: list[str],
    temperature: float,
    sets: Tensor,
    level: float,
    review_below: float | None,
    garment_score: float | None,
    slices: Mapping[str, Tensor],
) -> Metrics:
    """All figures of N photos with `labels` (N,) and `groups`, within which photos are not independent of each other.

    `sets` bool (N, K) are their prediction sets, made for `level`. `slices` name masks, bool (N,), of photos to report
    apart; so are the service's decisions by `review_below` and `garment_score`, unless `review_below` is None.
    """
    confidence, predicted = torch.softmax(predictions.logits / temperature, 1).max(1)
    correct = predicted == labels
    accuracy_interval, recall_interval = bootstrap_by_group(correct, labels, groups)
    covered = sets.gather(1, labels[:, None])[:, 0]
    sizes = sets.sum(1)
    decisions = {}
    if review_below is not None:
        sure, refused = (sizes == 1) & (confidence >= review_below), is_refused(predictions, garment_score)
        decisions = {
            "decision: sorted": sure & ~refused,
            "decision: review": ~sure & ~refused,
            "decision: not_a_garment": refused,
        }
    parts = {
        **decisions,
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
            "slices": {name: _slice(correct, groups, chosen) for name, chosen in parts.items() if chosen.any()},
        }
    )


def is_refused(predictions: Predictions, garment_score: float | None) -> Tensor:
    """Bool (N,): which pictures the service calls no garment with this threshold; none without one."""
    if predictions.garment is None or garment_score is None:
        return torch.zeros(len(predictions.logits), dtype=torch.bool)
    return predictions.garment < garment_score


def measure_refusals(
    pictures: str,
    garment_scores: Tensor,
    groups: Sequence[str],
    *,
    threshold: float,
    is_garment: bool,
    part: Part,
) -> RefusalMetrics:
    """How many of these pictures, `garment_scores` (N,) with `groups` (N,), are called no garment."""
    refused = garment_scores < threshold
    return RefusalMetrics(
        pictures=pictures,
        is_garment=is_garment,
        part=part,
        num_images=len(refused),
        num_groups=len(set(groups)),
        refused=refused.double().mean().item(),
        refused_interval=interval_by_group(refused, groups),
    )


def measure_photo_robustness(
    artifact: Artifact, rows: Sequence[Row], labels: Tensor, *, predictions: Predictions
) -> Robustness:
    """Figures of the same photos in the forms in which people send them.

    `labels` (N,) are those of the rows, `predictions` what the network says of them as they are.
    """
    forms = {"as they are": predictions}
    for form, change in FORMS.items():
        forms[form] = predict_rows(artifact, rows, description=form, change=change)
    garment_score = artifact.card.thresholds.garment_score
    return Robustness(
        num_images=len(rows),
        accuracy={form: _share(found.logits.argmax(1) == labels) for form, found in forms.items()},
        refused={}
        if garment_score is None
        else {form: _share(is_refused(found, garment_score)) for form, found in forms.items()},
    )


def _redrawn(change: Callable[[Image.Image], Image.Image]) -> Callable[[bytes], bytes]:
    """The change of a decoded picture as one of a file."""
    return lambda content: to_png(np.asarray(change(Image.fromarray(decode(content).pixels))))


def _turned_by_exif(content: bytes) -> bytes:
    """As phones write them: a JPEG whose pixels lie on their side, and a tag that says how to turn them back."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise
    buffer = io.BytesIO()
    turned = Image.fromarray(decode(content).pixels).transpose(Image.Transpose.ROTATE_90)
    turned.save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


def _heic(content: bytes) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(decode(content).pixels)).save(buffer, quality=80)
    return buffer.getvalue()


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((100, 100))
    return image


def _on_page(image: Image.Image) -> Image.Image:
    width, height = image.size
    page = Image.new("RGB", (2 * max(width, height), max(width, height)), "white")
    page.paste(image, (max(width, height) - width // 2, 0))
    return page


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "JPEG, turned by EXIF": _turned_by_exif,
    "HEIC": _heic,
    "turned by 90 degrees": _redrawn(lambda image: image.transpose(Image.Transpose.ROTATE_90)),
    "upside down": _redrawn(lambda image: image.transpose(Image.Transpose.ROTATE_180)),
    "100 px": _redrawn(_small),
    "blurred": _redrawn(lambda image: image.filter(ImageFilter.GaussianBlur(0.012 * image.width))),
    "a third of the light": _redrawn(lambda image: image.point([value // 3 for value in range(256)] * 3)),
    "grey": _redrawn(lambda image: image.convert("L").convert("RGB")),
    "in the middle of a page twice as wide as high": _redrawn(_on_page),
}


def macro_recall(correct: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the share of their pictures that is right."""
    return float(np.mean([correct[labels == label].double().mean().item() for label in labels.unique()]))


def bootstrap_by_group(
    correct: Tensor, labels: Tensor, groups: Sequence[str], *, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % percentile intervals of the share that is `correct` and of its mean over classes.

    Whole groups are drawn with replacement: Efron and Tibshirani, An introduction to the bootstrap (1993), chapter 13;
    Field and Welsh, Bootstrapping clustered data (2007). Where all or none are right, every sample would say the same:
    then it is Wilson's for as many pictures as there are groups.
    """
    if correct.all() or not correct.any():
        num_groups = len(set(groups))
        interval = wilson_interval(num_groups * int(correct.all()), num_groups)
        return interval, interval
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


def interval_by_group(flags: Tensor, groups: Sequence[str]) -> tuple[float, float] | None:
    """95 % interval of the share of `flags`, bool (N,), that are set; None with fewer than MIN_GROUPS groups."""
    if len(set(groups)) < MIN_GROUPS:
        return None
    return bootstrap_by_group(flags, torch.zeros(len(flags), dtype=torch.long), groups)[0]


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def middle_luma(pixels: np.ndarray) -> float:
    """Mean luma, 0..255, of the middle third of a photo (H, W, 3), where the garment is."""
    height, width, _ = pixels.shape
    rows = slice(height // 3, max(height // 3 + 1, 2 * height // 3))
    columns = slice(width // 3, max(width // 3 + 1, 2 * width // 3))
    return float((pixels[rows, columns] @ np.array([0.299, 0.587, 0.114])).mean())


def _share(flags: Tensor) -> float:
    return flags.double().mean().item()


def _slice(correct: Tensor, groups: Sequence[str], chosen: Tensor) -> SliceMetrics:
    groups = [groups[index] for index in chosen.nonzero().flatten().tolist()]
    return SliceMetrics(
        num_images=len(groups),
        num_groups=len(set(groups)),
        accuracy=correct[chosen].double().mean().item(),
        accuracy_interval=interval_by_group(correct[chosen], groups),
    )
