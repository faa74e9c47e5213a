"""The hands-on's report of about three pages: problem, data, method, results, limits. HTML, and PDF where it can be."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jinja2
import matplotlib
from matplotlib.figure import Figure

from app.artifact import CARD_NAME, REPORT_NAME
from training.compare import LOG_NAME, RESULT_NAME
from training.config import FitConfig
from training.evaluate import suspected_label_errors, worst_failures
from training.exploration import ClassPair, plot_classes
from training.handson import DATA_NAME, GAPS_NAME, HandsOn, Rung
from training.networks import NetworkName
from training.pdf import print_pdf
from training.report import TEMPLATE_FOLDER, data_url, plot_confusion, plot_reliability, png_url

matplotlib.use("agg")  # no screen

TEMPLATE_NAME = "handson.html.j2"
PAGE_NAME, PDF_NAME = "report.html", "report.pdf"
NUM_FAILURES = 16
NUM_PAIRS = 3
DPI = 160  # for print

# What each network can do, for somebody who has just heard of it.
IDEAS: dict[NetworkName, str] = {
    "perceptron": "a weight for each pixel and class, threshold rule",
    "adaline": "a weight for each pixel and class, squared error",
    "softmax": "a weight for each pixel and class, probabilities",
    "mlp": "layers of units that see all of the layer before",
    "lenet5": "LeNet-5: small filters that look everywhere, means pooled, then dense layers",
    "cnn": "convolutions, maxima pooled, then a dense layer",
    "allconv": "convolutions alone, strides in place of pooling",
    "vgg": "many small convolutions stacked",
    "resnet": "convolutions around which a shortcut leads",
    "resnet20": "ResNet-20: convolutions around which a shortcut leads",
    "wide-resnet": "wide convolutions around which a shortcut leads",
}


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often pictures of two classes were taken for each other."""

    classes: tuple[str, str]
    num_images: int
    rank_of_means: int  # 1 for the two classes whose mean pictures are the most similar


def write_handson_report(done: HandsOn, folder: Path, *, author: str | None, serve: str) -> Path | None:
    """report.html into `folder`, and report.pdf, whose path is returned, where a browser is there to print it."""
    page = folder / PAGE_NAME
    page.write_text(render(done, folder, author=author, serve=serve, link_files=True), encoding="utf-8")
    # A file's link becomes an absolute one in a PDF: it would say where this folder is on this machine.
    printed = folder / f".{PAGE_NAME}"
    printed.write_text(render(done, folder, author=author, serve=serve, link_files=False), encoding="utf-8")
    try:
        return folder / PDF_NAME if print_pdf(printed, folder / PDF_NAME) else None
    finally:
        printed.unlink()


def render(done: HandsOn, folder: Path, *, author: str | None, serve: str, link_files: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    card, test = done.card, done.card.metrics["test"]
    temperature = card.thresholds.temperature
    labels, logits = done.splits.test.labels, done.test.logits
    failures = worst_failures(
        labels, logits, class_names=card.class_names, temperature=temperature, num_failures=NUM_FAILURES
    )
    images = done.splits.test.images
    page = environment.get_template(
        TEMPLATE_NAME
    ).render(
        author=author,
        today=date.today().isoformat(),  # the author's day
        serve=serve,
        link_files=link_files,
        data=done.exploration,
        comparison=done.comparison,
        rungs=done.rungs,
        chosen=done.chosen,
        readings={rung.tag: done.reading(rung) for rung in done.rungs},
        readings_in_words=readings_in_words(done),
        described={rung.tag: describe(rung.fitted.config) for rung in done.rungs},
        runner_up=runner_up(done),
        card=card,
        test=test,
        weakest=sorted(test.per_class, key=lambda row: row.recall)[:NUM_PAIRS],
        confusions=confusions(test.confusion_matrix, card.class_names, done.exploration.closest),
        num_wrong=test.num_images - round(test.accuracy * test.num_images),
        num_suspected=int(suspected_label_errors(logits, labels, temperature=temperature).sum()),
        classes=data_url(plot_classes(done.splits.train), dpi=DPI),
        ladder=data_url(plot_ladder(done), dpi=DPI),
        confusion=data_url(plot_confusion(test, card.class_names), dpi=DPI),
        reliability=data_url(plot_reliability(logits, labels, temperature=temperature), dpi=DPI),
        failures=[(failure, png_url(images[failure.index])) for failure in failures],
        files=files(done, folder),
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")  # a number keeps its unit


def files(done: HandsOn, folder: Path) -> dict[str, list[str]]:
    """By the tag that numbers refer to: the files that they stand in, seen from the report."""

    def of(*paths: Path) -> list[str]:
        return [Path(os.path.relpath(path, folder)).as_posix() for path in paths]

    runs = {rung.tag: of(rung.run / RESULT_NAME, rung.run / LOG_NAME) for rung in done.rungs}
    return {
        "D": of(folder / DATA_NAME),
        **runs,
        "C": of(folder / "comparison.json"),
        "G": of(folder / GAPS_NAME),
        "T": of(done.version / CARD_NAME, done.version / REPORT_NAME),
    }


def runner_up(done: HandsOn) -> Rung | None:
    """The next best row, None where there is no other."""
    others = [rung for rung in done.rungs if rung is not done.chosen]
    return max(others, key=lambda rung: rung.result.mean) if others else None


def readings_in_words(done: HandsOn) -> str:
    """As `R1 and R2 underfit; R3 overfits`: rows with the same reading together."""
    tags: dict[str, list[str]] = {}
    for rung in done.rungs:
        tags.setdefault(done.reading(rung), []).append(rung.tag)
    plural = {
        "underfits": "underfit",
        "overfits": "overfit",
        "underfits and overfits": "underfit and overfit",
        "fits": "do neither",
    }
    singular = {"fits": "does neither"}
    return "; ".join(
        f"{' and '.join(filter(None, [', '.join(of[:-1]), of[-1]]))} "
        + (plural[reading] if len(of) > 1 else singular.get(reading, reading))
        for reading, of in tags.items()
    )


def describe(config: FitConfig) -> dict[str, str]:
    """A row of the table of methods: what differs between networks, in words."""
    parts = [
        *([f"hidden layers of {_listed(config.hidden)}"] if config.hidden else []),
        *([f"channels {_listed(config.widths)}"] if config.widths else []),
        *([f"blocks {_listed(config.blocks)}"] if config.blocks else []),
        *([str(config.activation)] if config.activation else []),
        *([f"{config.norm} norm"] if config.norm not in (None, "none") else []),
        *([f"dropout {_listed(config.dropout)}"] if config.dropout and any(config.dropout) else []),
    ]
    momentum = f" with momentum {config.momentum:g}" if config.optimizer == "sgd" and config.momentum else ""
    seen = [
        *(["shifted"] if config.max_shift_pixels else []),
        *(["mirrored"] if config.flip else []),
        *(["partly erased"] if config.erase_probability else []),
        *(["turned"] if config.max_rotation_degrees else []),
        *([config.mix] if config.mix != "none" else []),
    ]
    return {
        "network": "; ".join([IDEAS[config.network], *parts]),
        "training": f"{config.optimizer}{momentum}, rate {config.learning_rate:g} {config.schedule}, "
        f"{config.epochs} epochs, batches of {config.batch_size or 'all'}",
        "pictures": ", ".join(seen) or "as they are",
    }


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def confusions(matrix: list[list[int]], class_names: list[str], closest: list[ClassPair]) -> list[Confusion]:
    """The pairs that are taken for each other most often, and where they stand among the most similar means."""
    rank = {frozenset(pair.classes): n for n, pair in enumerate(closest, start=1)}
    pairs = [
        Confusion(
            (class_names[i], class_names[j]),
            matrix[i][j] + matrix[j][i],
            rank[frozenset((class_names[i], class_names[j]))],
        )
        for i in range(len(matrix))
        for j in range(i + 1, len(matrix))
    ]
    return sorted(pairs, key=lambda pair: -pair.num_images)[:NUM_PAIRS]


def plot_ladder(done: HandsOn) -> Figure:
    """Validation error of each row over the epochs, and accuracy against parameters with its interval."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    error_axes, size_axes = figure.subplots(1, 2)
    by_size = sorted(done.rungs, key=lambda rung: rung.result.num_parameters)
    for rung in done.rungs:
        history = rung.fitted.history
        errors = [100 - 100 * record.validation_accuracy for record in history]
        error_axes.plot([record.epoch for record in history], errors, marker=".", label=f"{rung.tag} {rung.name}")
        low, high = rung.interval
        mean = 100 * rung.result.mean
        size_axes.errorbar(
            rung.result.num_parameters, mean, yerr=[[mean - 100 * low], [100 * high - mean]], fmt="o", capsize=3
        )
        side, shift = ("left", 5) if by_size.index(rung) % 2 else ("right", -5)  # neighbours do not cover each other
        place = (rung.result.num_parameters, mean)
        size_axes.annotate(rung.tag, place, xytext=(shift, 4), textcoords="offset points", ha=side, fontsize=8)
    error_axes.set(xlabel="epoch", ylabel="validation error (%), log scale", yscale="log")
    error_axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    error_axes.yaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    error_axes.legend(frameon=False, fontsize=8)
    error_axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    size_axes.set(xscale="log", xlabel="parameters", ylabel="validation accuracy (%)")
    size_axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    size_axes.margins(x=0.15)
    for axes in (error_axes, size_axes):
        axes.grid(alpha=0.3)
    return figure
