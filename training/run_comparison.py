"""What a comparison found: mean and spread of each row, paired differences, a table and a plot."""

import csv
import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import BaseModel
from torch import Tensor

from training.config import ConfigError

matplotlib.use("agg")  # no screen

# 97.5 % quantiles of Student's t for 1, 2, 3 ... degrees of freedom; beyond, the last one is a little too wide.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class RunResult(BaseModel):
    """One row with one seed. `right` has a 1 for each picture that was classified right, else a 0."""

    row: str
    seed: int
    part: str
    config: dict[str, Any]
    accuracy: float
    num_parameters: int
    seconds: float
    device: str
    right: str


class Against(BaseModel):
    """A row less the row that it is compared with, in shares of the pictures.

    `interval` is over the seeds: 95 %, paired, Student's t; there is none for one seed. `p_value` is over the pictures:
    McNemar's test, with the mean over the seeds in place of right or wrong.
    """

    row: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float


class RowResult(BaseModel):
    """A row over all its seeds; `spread` is the sample standard deviation of the accuracies."""

    row: str
    accuracies: list[float]
    mean: float
    spread: float | None
    num_parameters: int
    seconds: float
    against: Against | None
    config: dict[str, Any]


class Comparison(BaseModel):
    """What was found, and how it was made."""

    command: str
    made_at: datetime
    device: str
    part: str
    num_images: int
    rows: list[RowResult]


def compared(results: Sequence[RunResult], *, against: str, command: str) -> Comparison:
    """All rows over all seeds, each with its difference from the row `against`.

    Raises:
        ConfigError: there is no such row.
    """
    return Comparison(
        command=command,
        made_at=datetime.now(UTC).replace(microsecond=0),
        device=results[0].device,
        part=results[0].part,
        num_images=len(results[0].right),
        rows=summarise(results, against=against),
    )


def summarise(results: Sequence[RunResult], *, against: str) -> list[RowResult]:
    """Mean and spread of each row, and its difference from the row `against`.

    Raises:
        ConfigError: there is no such row.
    """
    by_row = {row: [result for result in results if result.row == row] for row in dict.fromkeys(r.row for r in results)}
    if against not in by_row:
        raise ConfigError(f"There is no row {against}. There are: {'; '.join(by_row)}.")
    rows = []
    for row, runs in by_row.items():
        accuracies = [run.accuracy for run in runs]
        rows.append(
            RowResult(
                row=row,
                accuracies=accuracies,
                mean=statistics.fmean(accuracies),
                spread=statistics.stdev(accuracies) if len(runs) > 1 else None,
                num_parameters=runs[0].num_parameters,
                seconds=statistics.fmean(run.seconds for run in runs),
                against=None if row == against else paired(runs, by_row[against]),
                config=runs[0].config,
            )
        )
    return rows


def paired(first: Sequence[RunResult], second: Sequence[RunResult]) -> Against:
    """`first` less `second`, seed by seed and picture by picture: every run is measured on the same pictures."""
    differences = [a.accuracy - b.accuracy for a, b in zip(first, second, strict=True)]
    mean, num_seeds = statistics.fmean(differences), len(differences)
    interval = None
    if num_seeds > 1:
        quantile = T_QUANTILES[min(num_seeds - 1, len(T_QUANTILES)) - 1]
        half_width = quantile * statistics.stdev(differences) / num_seeds**0.5
        interval = (mean - half_width, mean + half_width)
    # For one seed this is McNemar's statistic, (b - c) / sqrt(b + c), of the pictures that only one of them gets right.
    per_picture = _share_right(first) - _share_right(second)  # (N,) in -1 to 1
    z = per_picture.sum() / per_picture.square().sum().sqrt().clamp(min=1e-12)
    return Against(
        row=second[0].row, difference=mean, interval=interval, p_value=math.erfc(abs(z.item()) / math.sqrt(2))
    )


def _share_right(runs: Sequence[RunResult]) -> Tensor:
    return torch.tensor([[int(digit) for digit in run.right] for run in runs], dtype=torch.float64).mean(0)


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """comparison.json, comparison.csv and comparison.png."""
    (folder / "comparison.json").write_text(comparison.model_dump_json(indent=1) + "\n")
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "mean", "spread", "n", "parameters", "seconds", "against", "difference", "p"])
        for row in comparison.rows:
            compared = [row.against.row, row.against.difference, row.against.p_value] if row.against else ["", "", ""]
            n = len(row.accuracies)
            writer.writerow([row.row, row.mean, row.spread, n, row.num_parameters, round(row.seconds, 1), *compared])
    plot_comparison(comparison).savefig(folder / "comparison.png", dpi=110)


def table(comparison: Comparison) -> str:
    """As Markdown: accuracy and differences in percent and points."""
    reference = next(row.row for row in comparison.rows if row.against is None)
    lines = [
        f"| | {comparison.part} accuracy, % | n | parameters | seconds | less {reference}, points | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in comparison.rows:
        accuracy = f"{100 * row.mean:.2f}" + ("" if row.spread is None else f" ± {100 * row.spread:.2f}")
        difference, p_value = "", ""
        if row.against is not None:
            difference, p_value = f"{100 * row.against.difference:+.2f}", f"{row.against.p_value:.2g}"
            if row.against.interval is not None:
                low, high = row.against.interval
                difference += f" ({100 * low:+.2f} to {100 * high:+.2f})"
        lines.append(
            f"| {row.row} | {accuracy} | {len(row.accuracies)} | {row.num_parameters:,} | {row.seconds:.0f} "
            f"| {difference} | {p_value} |"
        )
    return "\n".join(lines)


def plot_comparison(comparison: Comparison) -> Figure:
    """Each run a dot and each row's mean a line; and the means, a colour each, against parameters and seconds."""
    rows = comparison.rows
    figure = Figure(figsize=(13, 1.8 + 0.3 * max(6, len(rows))), layout="constrained")
    axes, size_axes, time_axes = figure.subplots(1, 3, width_ratios=[2, 1, 1])
    for position, row in enumerate(rows):
        accuracies = [100 * accuracy for accuracy in row.accuracies]
        color = colormaps["turbo"](position / len(rows))
        axes.plot(accuracies, [position] * len(accuracies), "o", color=color, alpha=0.6, markersize=5)
        axes.plot([100 * row.mean] * 2, [position - 0.3, position + 0.3], color=color, linewidth=2)
        size_axes.plot(row.num_parameters, 100 * row.mean, "o", color=color)
        time_axes.plot(max(row.seconds, 0.1), 100 * row.mean, "o", color=color)
    axes.set_yticks(range(len(rows)), [row.row for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel=f"{comparison.part} accuracy (%), n = {comparison.num_images}")
    size_axes.set(xscale="log", xlabel="parameters", ylabel="mean accuracy (%)")
    time_axes.set(xscale="log", xlabel="seconds of training")
    for each in (axes, size_axes, time_axes):
        each.grid(alpha=0.3)
    for each in (size_axes, time_axes):
        low, high = each.get_xlim()
        if high < 10 * low:  # less than a decade: a logarithmic axis would have no or too many numbers
            each.set(xscale="linear")
            each.xaxis.set_major_locator(MaxNLocator(3))
    return figure
