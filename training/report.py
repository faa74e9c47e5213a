"""report.html: one self-contained page for people, made from the card and the predictions behind it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from app.artifact import Card, Metrics, Part
from training.evaluate import NUM_CALIBRATION_BINS, suspected_label_errors, to_png, worst_failures
from training.gap import curves_in_words

matplotlib.use("agg")  # no screen

NUM_FAILURES = 40
TEMPLATE_FOLDER = Path(__file__).parent
TEMPLATE_NAME = "report.html.j2"


def write_report(
    card: Card,
    path: Path,
    labels: Tensor,
    logits: Tensor,
    *,
    part: Part,
    names: Sequence[str],
    images: Tensor | None,
) -> None:
    """Write the page about `part`, whose metrics are in the card.

    `labels` (N,), `logits` (N, K), `names` and `images`, uint8 (N, H, W) or (N, H, W, 3), are of its N pictures.
    Without `images`, misclassified pictures are named and not shown.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    temperature = card.thresholds.temperature
    metrics = card.metrics[part]
    failures = worst_failures(
        labels, logits, class_names=card.class_names, temperature=temperature, num_failures=NUM_FAILURES
    )
    page = environment.get_template(TEMPLATE_NAME).render(
        card=card,
        part=part,
        metrics=metrics,
        curves=data_url(plot_curves(card)),
        reading=curves_in_words(card.training.history),
        confusion=data_url(plot_confusion(metrics, card.class_names)),
        reliability=data_url(plot_reliability(logits, labels, temperature=temperature)),
        failures=[
            (failure, names[failure.index], None if images is None else png_url(images[failure.index]))
            for failure in failures
        ],
        show_failures=images is not None,
        num_wrong=metrics.num_images - round(metrics.accuracy * metrics.num_images),
        num_suspected=int(suspected_label_errors(logits, labels, temperature=temperature).sum()),
    )
    path.write_text(page.replace(" %", "\N{NO-BREAK SPACE}%"), encoding="utf-8")  # a number keeps its unit


def plot_curves(card: Card) -> Figure:
    """Loss and error over the epochs."""
    history = card.training.history
    epochs = [record.epoch for record in history]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    loss_axes, error_axes = figure.subplots(1, 2)
    loss_axes.plot(epochs, [record.train_loss for record in history], label="train (as trained: smoothed, augmented)")
    loss_axes.plot(epochs, [record.validation_loss for record in history], label="validation")
    loss_name = card.training.config.get("loss", "cross-entropy")  # cards of photos, and older ones, have no other
    unit = "loss (nats)" if loss_name == "cross-entropy" else f"loss ({loss_name})"
    loss_axes.set(xlabel="epoch", ylabel=unit, ylim=(0, None))
    error_axes.plot(epochs, [100 - 100 * record.train_accuracy for record in history], label="train (augmented)")
    error_axes.plot(epochs, [100 - 100 * record.validation_accuracy for record in history], label="validation")
    error_axes.set(xlabel="epoch", ylabel="error (%), log scale", yscale="log")
    error_axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    error_axes.yaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    for axes in (loss_axes, error_axes):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def plot_confusion(metrics: Metrics, class_names: list[str]) -> Figure:
    """Counts, rows true, columns predicted: mistakes in orange, the diagonal in green by its share of the row."""
    counts = np.array(metrics.confusion_matrix)
    mistakes = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="Oranges", vmax=max(1, mistakes.max()))
    right = np.ma.masked_where(~np.eye(len(counts), dtype=bool), counts / np.maximum(counts.sum(1, keepdims=True), 1))
    axes.imshow(right, cmap="Greens", vmin=0, vmax=2)  # at most half as dark: black text stays readable
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            dark = mistakes[row, column] > 0.6 * mistakes.max()
            weight = "bold" if row == column else "normal"
            axes.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                color="white" if dark else "black",
                weight=weight,
            )
    axes.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def plot_reliability(logits: Tensor, labels: Tensor, *, temperature: float) -> Figure:
    """Accuracy against stated probability, before and after temperature scaling."""
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    least = min(10, max(1, len(labels) // NUM_CALIBRATION_BINS))  # fewer say nothing; a small part has no more
    for name, scale in (("before", 1.0), ("after calibration", temperature)):
        probability, prediction = torch.softmax(logits / scale, 1).max(1)
        bins = (probability * NUM_CALIBRATION_BINS).long().clamp(max=NUM_CALIBRATION_BINS - 1)
        filled = [k for k in range(NUM_CALIBRATION_BINS) if (bins == k).sum() >= least]
        axes.plot(
            [probability[bins == k].mean().item() for k in filled],
            [(prediction == labels)[bins == k].double().mean().item() for k in filled],
            marker="o",
            label=name,
        )
    axes.set(xlabel="stated probability", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def png_url(image: Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(to_png(image.numpy())).decode()


def data_url(figure: Figure, *, dpi: int = 110) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
