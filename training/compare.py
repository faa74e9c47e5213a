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

`python -m training compare FILE.toml` carries it out.
"""

import itertools
import multiprocessing
import os
import re
import signal
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.errors import WardrobeError
from training.config import ConfigError, FitConfig
from training.data import load_for
from training.fit import CHECKPOINT_NAME, fit, predict
from training.presets import load_preset
from training.run_comparison import RunResult

LADDERS = Path(__file__).parent / "ladders"
RESULT_NAME, LOG_NAME = "result.json", "log.txt"
POLL_SECONDS = 1.0


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


@dataclass(frozen=True, slots=True)
class Run:
    """One row with one seed, and where it is kept."""

    row: str
    config: FitConfig
    folder: Path
    part: Literal["validation", "test"]
    data: Path | None
    num_threads: int
    command: str


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
    for combined in itertools.product(*definition.grid.values()) if definition.grid else ():
        combination = dict(zip(definition.grid, combined, strict=True))
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
    configs: dict[str, FitConfig],
    definition: Definition,
    *,
    folder: Path,
    data: Path | None,
    num_threads: int,
    command: str,
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
            command=command,
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
                num_done = sum(map(epochs_done, missing))
                progress.update(task, completed=num_done)
                minutes_left = (time.perf_counter() - started) / max(1, num_done - before) * (total - num_done) / 60
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
    return [done for run in runs if (done := read_result(run)) is not None]


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
        fitted = fit(splits, run.config, run_folder=run.folder, resume=resume, command=run.command)
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
