"""Compare configs: each with several seeds, in parallel processes, resumable, into one table with a plot.

seeds = 3                          # of initialisation, shuffling and augmentation; the split is the same for all
part = "validation"                # what is measured, once a run is over; "test" where a published figure is sought

[base]                             # of every row; `preset` is one of training/presets
preset = "mlp"
epochs = 10

[[rows]]                           # a list, and
name = "sigmoid"
activation = "sigmoid"

[grid]                             # every combination of these
learning_rate = [0.1, 0.01]
"""

import csv
import itertools
import math
import multiprocessing
import os
import re
import signal
import statistics
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from app.errors import WardrobeError
from training.config import ConfigError, FitConfig
from training.data import load_for
from training.fit import CHECKPOINT_NAME, fit, predict
from training.presets import load_preset

matplotlib.use("agg")  # no screen

LADDERS = Path(__file__).parent / "ladders"
RESULT_NAME, LOG_NAME = "result.json", "log.txt"
POLL_SECONDS = 1.0
# 97.5 % quantiles of Student's t for 1, 2, 3 ... degrees of freedom; beyond, the last one is a little too wide.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class CompareError(WardrobeError):
    """A process that carried out a run is gone."""


class Definition(BaseModel):
    """A comparison as its TOML file says it."""

    model_config = ConfigDict(extra="forbid")

    seeds: int = Field(default=3, ge=1)
    part: Literal["validation", "test"] = "validation"
    base: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    grid: dict[str, list[Any]] = {}


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


@dataclass(frozen=True, slots=True)
class Run:
    """One row with one seed, and where it is kept."""

    row: str
    config: FitConfig
    folder: Path
    part: Literal["validation", "test"]
    data: Path | None
    num_threads: int


def read_definition(name: str) -> tuple[Definition, str]:
    """The ladder of that name, or the file at that path; and what it is called.

    Raises:
        ConfigError: there is none, or it is not a comparison.
    """
    path = Path(name) if name.endswith(".toml") else LADDERS / f"{name}.toml"
    try:
        return Definition.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))), path.stem
    except FileNotFoundError as error:
        known = ", ".join(sorted(ladder.stem for ladder in LADDERS.glob("*.toml")))
        raise ConfigError(f"There is no comparison {name}. Give a TOML file, or one of: {known}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise ConfigError(f"{path} is not a comparison: {found}.") from error


def configs_of(definition: Definition) -> dict[str, FitConfig]:
    """Each row by its name: the preset, then base, then the row's own values.

    Raises:
        ConfigError: a row is not a config, has no name or another's; there is none.
    """
    rows = [dict(row) for row in definition.rows]
    for values in itertools.product(*definition.grid.values()) if definition.grid else ():
        combination = dict(zip(definition.grid, values, strict=True))
        rows.append({"name": ", ".join(f"{key} {value}" for key, value in combination.items()), **combination})
    configs: dict[str, FitConfig] = {}
    for row in rows:
        name = row.pop("name", None)
        if name is None or name in configs:
            raise ConfigError(f"Each row needs a name of its own; this one is called {name}: {row}.")
        values = {**definition.base, **row}
        preset = values.pop("preset", None)
        try:
            configs[name] = FitConfig.from_dict({**(load_preset(preset) if preset else {}), "split_seed": 0, **values})
        except ConfigError as error:
            raise ConfigError(f"Row {name}: {error}") from error
    if not configs:
        raise ConfigError("There is no row to compare: give [[rows]] or a [grid].")
    return configs


def plan(
    configs: dict[str, FitConfig], definition: Definition, *, folder: Path, data: Path | None, num_threads: int
) -> list[Run]:
    """Every row with every seed: all rows of the first seed first, so that a stopped comparison has them all."""
    return [
        Run(
            row=row,
            config=FitConfig.from_dict({**config.to_dict(), "seed": seed}),
            folder=folder / re.sub(r"[^a-z0-9.]+", "-", row.lower()).strip("-") / f"seed-{seed}",
            part=definition.part,
            data=data,
            num_threads=num_threads,
        )
        for seed in range(definition.seeds)
        for row, config in configs.items()
    ]


def compare(runs: Sequence[Run], *, num_jobs: int) -> list[RunResult]:
    """Carry out what is not done yet, and return everything. Interrupted, it goes on where it was when called again.

    Raises:
        ConfigError: a finished run in the folder is of another config.
        CompareError: a process ended without a result.
    """
    missing = [run for run in runs if read_result(run) is None]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are there; the others {num_jobs} at a time.")
    total, before = sum(run.config.epochs for run in missing), sum(map(epochs_done, missing))
    started = time.perf_counter()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeRemainingColumn())
    # A process of its own for each run; spawned, since torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns) as progress,
        ProcessPoolExecutor(num_jobs, mp_context=context, initializer=end_quietly) as pool,
    ):
        task = progress.add_task("compare", total=total, completed=before)
        waiting = {pool.submit(carry_out, run) for run in missing}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                done = sum(map(epochs_done, missing))
                progress.update(task, completed=done)
                minutes_left = (time.perf_counter() - started) / max(1, done - before) * (total - done) / 60
                for future in finished:
                    result = future.result()
                    progress.console.print(
                        f"{result.row}, seed {result.seed}: {result.accuracy:.2%} in {result.seconds:.0f} s; "
                        f"{len(waiting)} runs and {minutes_left:.0f} min left",
                        highlight=False,
                        soft_wrap=True,
                    )
        except BrokenProcessPool as error:
            raise CompareError(
                "A process ended without a result; was there enough memory? The same command goes on."
            ) from error
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return [result for run in runs if (result := read_result(run))]


def end_quietly() -> None:
    """Ctrl-C reaches every process: only the first one says something about it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def carry_out(run: Run) -> RunResult:
    """Fit and measure one run, from its checkpoint where there is one; what it prints goes to a log."""
    torch.set_num_threads(run.num_threads)
    run.folder.mkdir(parents=True, exist_ok=True)
    splits = load_for(run.config, run.data)
    resume = (run.folder / CHECKPOINT_NAME).exists()
    with (run.folder / LOG_NAME).open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log):
        fitted = fit(splits, run.config, run_folder=run.folder, resume=resume)
    dataset = splits.validation if run.part == "validation" else splits.test
    logits = predict(fitted.network, dataset, mean=fitted.mean, std=fitted.std, device="cpu")
    right = logits.argmax(1) == dataset.labels
    result = RunResult(
        row=run.row,
        seed=run.config.seed,
        part=run.part,
        config=run.config.to_dict(),
        accuracy=right.double().mean().item(),
        num_parameters=sum(parameter.numel() for parameter in fitted.network.parameters()),
        seconds=sum(record.seconds for record in fitted.history),
        device=fitted.device,
        right="".join(map(str, right.int().tolist())),
    )
    temporary = run.folder / f"{RESULT_NAME}.tmp"
    temporary.write_text(result.model_dump_json(indent=1) + "\n")
    os.replace(temporary, run.folder / RESULT_NAME)
    return result


def epochs_done(run: Run) -> int:
    """Read from the log, to which each run adds a line an epoch."""
    log = run.folder / LOG_NAME
    return log.read_text(encoding="utf-8").count("epoch ") if log.exists() else 0


def read_result(run: Run) -> RunResult | None:
    """What a finished run left, None if it is not finished.

    Raises:
        ConfigError: it is of another config.
    """
    path = run.folder / RESULT_NAME
    if not path.exists():
        return None
    result = RunResult.model_validate_json(path.read_text())
    wanted = {**run.config.to_dict(), "part": run.part}
    found = {**result.config, "part": result.part}
    changed = [f"{key} was {found.get(key)}, is {value}" for key, value in wanted.items() if found.get(key) != value]
    if changed:
        raise ConfigError(
            f"{path} is of another config: {'; '.join(changed)}. Delete its folder, or give another --out."
        )
    return result


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
    """Each run a dot and each row's mean a line; and the means against parameters and seconds."""
    rows = comparison.rows
    figure = Figure(figsize=(13, 1.8 + 0.3 * max(6, len(rows))), layout="constrained")
    axes, size_axes, time_axes = figure.subplots(1, 3, width_ratios=[2, 1, 1])
    for position, row in enumerate(rows):
        accuracies = [100 * accuracy for accuracy in row.accuracies]
        axes.plot(accuracies, [position] * len(accuracies), "o", color="C0", alpha=0.6, markersize=5)
        axes.plot([100 * row.mean] * 2, [position - 0.3, position + 0.3], color="C1", linewidth=2)
        size_axes.plot(row.num_parameters, 100 * row.mean, "o", color="C0")
        time_axes.plot(max(row.seconds, 0.1), 100 * row.mean, "o", color="C0")
        for beside, x in ((size_axes, row.num_parameters), (time_axes, max(row.seconds, 0.1))):
            beside.annotate(row.row, (x, 100 * row.mean), xytext=(3, 3), textcoords="offset points", fontsize=7)
    axes.set_yticks(range(len(rows)), [row.row for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel=f"{comparison.part} accuracy (%), n = {comparison.num_images}")
    size_axes.set(xscale="log", xlabel="parameters", ylabel="mean accuracy (%)")
    time_axes.set(xscale="log", xlabel="seconds of training")
    for each in (axes, size_axes, time_axes):
        each.grid(alpha=0.3)
    return figure
