"""Figures of the exported file: every picture goes through the service's decoder, preprocessing and network."""

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from app.artifact import Artifact, ClassMetrics, Metrics, Robustness
from app.images import decode
from training.data import Dataset

BATCH_SIZE = 256
NUM_CALIBRATION_BINS = 15  # as in Guo et al. (2017)
MIN_TEMPERATURE = 0.05  # a few pictures that are all right would ask for 0; chosen, not tuned


@dataclass(frozen=True, slots=True)
class Failure:
    """A misclassified picture: its index in the part, what was said about it, and whether its label is suspected."""

    index: int
    target: str
    prediction: str
    probability: float
    loss: float
    suspected: bool


def to_png(image: np.ndarray) -> bytes:
    """uint8 (H, W) or (H, W, 3) -> PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def predict_files(artifact: Artifact, files: Iterable[bytes]) -> Tensor:
    """Logits (N, K) of image files, read as the service reads them."""
    inputs = np.stack([artifact.preprocess(decode(content).pixels) for content in files])
    starts = range(0, len(inputs), BATCH_SIZE)
    logits = [artifact.engine.outputs(inputs[start : start + BATCH_SIZE])[0] for start in starts]
    return torch.from_numpy(np.concatenate(logits))


def predict_dataset(artifact: Artifact, dataset: Dataset) -> Tensor:
    """Logits (N, K) of a part of the data, each picture as a PNG file."""
    return predict_files(artifact, (to_png(image.numpy()) for image in dataset.images))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the log loss: Guo et al., On calibration of modern neural networks (2017)."""
    log_temperature = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], lr=0.1, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return max(MIN_TEMPERATURE, log_temperature.exp().item())


def measure(logits: Tensor, labels: Tensor, *, class_names: list[str], temperature: float) -> Metrics:
    """All figures of one part of the data, with 95 % intervals."""
    num_classes = len(class_names)
    log_probabilities = torch.log_softmax(logits / temperature, 1)
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)  # (K, K), rows are true classes
    num_correct = confusion.diag()
    num_true, num_predicted = confusion.sum(1), confusion.sum(0)
    recall = num_correct / num_true.clamp(min=1)
    precision = num_correct / num_predicted.clamp(min=1)
    f1 = 2 * num_correct / (num_true + num_predicted).clamp(min=1)
    return Metrics(
        measured_at=datetime.now(UTC).replace(microsecond=0),
        num_images=len(labels),
        accuracy=num_correct.sum().item() / len(labels),
        accuracy_interval=wilson_interval(int(num_correct.sum()), len(labels)),
        log_loss=F.nll_loss(log_probabilities, labels).item(),
        calibration_error_uncalibrated=calibration_error(torch.softmax(logits, 1), labels),
        calibration_error=calibration_error(log_probabilities.exp(), labels),
        per_class=[
            ClassMetrics(
                label=label,
                num_images=int(num_true[k]),
                precision=precision[k].item(),
                recall=recall[k].item(),
                recall_interval=wilson_interval(int(num_correct[k]), int(num_true[k])),
                f1=f1[k].item(),
            )
            for k, label in enumerate(class_names)
        ],
        confusion_matrix=confusion.tolist(),
    )


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equally wide confidence bins."""
    error: Tensor = multiclass_calibration_error(
        probabilities, labels, probabilities.shape[1], n_bins=NUM_CALIBRATION_BINS
    )
    return error.item()


def wilson_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """95 % interval of a share: Wilson, Probable inference (1927)."""
    if num_images == 0:
        return 0.0, 1.0
    z = 1.959964  # 97.5 % quantile of the normal distribution
    share = num_correct / num_images
    centre = share + z**2 / (2 * num_images)
    half_width = z * (share * (1 - share) / num_images + z**2 / (4 * num_images**2)) ** 0.5
    scale = 1 + z**2 / num_images
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)


def worst_failures(
    labels: Tensor, logits: Tensor, *, class_names: list[str], temperature: float, num_failures: int
) -> list[Failure]:
    """Misclassified pictures, the highest loss first."""
    losses = F.cross_entropy(logits / temperature, labels, reduction="none")
    probabilities = torch.softmax(logits / temperature, 1)
    predictions = probabilities.argmax(1)
    suspected = suspected_label_errors(logits, labels, temperature=temperature)
    wrong = (predictions != labels).nonzero().flatten()
    worst = wrong[losses[wrong].argsort(descending=True)][:num_failures]
    return [
        Failure(
            index=index,
            target=class_names[int(labels[index])],
            prediction=class_names[int(predictions[index])],
            probability=probabilities[index].max().item(),
            loss=losses[index].item(),
            suspected=bool(suspected[index]),
        )
        for index in worst.tolist()
    ]


def suspected_label_errors(logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Bool (N,): confident learning, Northcutt et al. (2021), section 3.1, on pictures that were not trained on.

    A network is confident of a class when it gives it at least the mean probability that it gives it on pictures with
    that label. A label is suspected when the class it is confident of, the most probable of them, is another one.
    """
    probabilities = torch.softmax(logits / temperature, 1)
    thresholds = torch.full((logits.shape[1],), math.inf)
    for label in labels.unique().tolist():
        thresholds[label] = probabilities[labels == label, label].mean()
    confident = probabilities >= thresholds  # (N, K)
    best = probabilities.where(confident, torch.zeros(())).argmax(1)
    return confident.any(1) & (best != labels)


def measure_robustness(artifact: Artifact, dataset: Dataset) -> Robustness:
    """Accuracy on the same pictures in the forms in which people send them."""
    accuracies = {}
    for form, render in FORMS.items():
        files = [render(Image.fromarray(image.numpy())) for image in dataset.images]
        predictions = predict_files(artifact, files).argmax(1)
        accuracies[form] = (predictions == dataset.labels).double().mean().item()
    return Robustness(num_images=len(dataset), accuracy=accuracies)


def _save(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=85)
    return buffer.getvalue()


def _negative(image: Image.Image) -> Image.Image:
    return image.point([255 - value for value in range(256)])


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((400, 400), Image.Resampling.BICUBIC)


def _on_canvas(image: Image.Image) -> Image.Image:
    canvas = Image.new("L", (600, 800), 253)  # the #fdfdfd of the shop photos that the data set was made from
    canvas.paste(_enlarged(_negative(image)), (100, 200))
    return canvas


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "as published": lambda image: _save(image, "PNG"),
    "negated (dark on light)": lambda image: _save(_negative(image), "PNG"),
    "400 px": lambda image: _save(_enlarged(image), "PNG"),
    "400 px, negated, JPEG quality 85": lambda image: _save(_enlarged(_negative(image)), "JPEG"),
    "dark on a white 600x800 px page, JPEG quality 85": lambda image: _save(_on_canvas(image), "JPEG"),
}
