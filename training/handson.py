"""The course's hands-on in one go: look at the data, train a ladder, choose, test once, export, write it up.

    python -m training handson

leaves in runs/handson

    data.json                   what the first look at the data found
    <row>/seed-0/               each run: checkpoint, log and result
    comparison.json, .csv, .png the ladder
    gaps.json                   what each network gets right of its own training pictures
    models/fashion-mnist/1/     the chosen network as the service takes it, with its card and its own report
    report.html, report.pdf     what is handed in

Killed, the same command goes on: finished epochs, runs and the export are not made again.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from app.artifact import Card, read_card
from training.compare import Definition, Run, compare, configs_of, plan
from training.config import ConfigError
from training.data import Dataset, Splits, load_for, stratified
from training.evaluate import wilson_interval
from training.exploration import Exploration, explore
from training.export import TestOutcome, evaluate_on_test, export
from training.fit import FitResult, load_fit_result, predict
from training.gap import Gap
from training.promote import promote
from training.run_comparison import Comparison, RowResult, compared, summarise, write_comparison

MODEL_NAME = "fashion-mnist"
MODELS_FOLDER, DATA_NAME, GAPS_NAME = "models", "data.json", "gaps.json"
NUM_GAP_IMAGES = 5_000  # training pictures, as many as the default validation part has


@dataclass(frozen=True, slots=True)
class Rung:
    """A row of the ladder: its figures over all seeds, and its first run, for what is shown of one run."""

    tag: str  # by which the report refers to it
    result: RowResult
    run: Path
    fitted: FitResult
    gap: Gap

    @property
    def name(self) -> str:
        return self.result.row

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean accuracy, as if it were one network's: 95 %, Wilson."""
        n = self.gap.num_validation
        return wilson_interval(round(self.result.mean * n), n)


@dataclass(frozen=True, slots=True)
class HandsOn:
    """Everything that the report is about; `splits` are those that the chosen network was trained on."""

    exploration: Exploration
    comparison: Comparison
    rungs: list[Rung]
    chosen: Rung
    splits: Splits
    version: Path
    card: Card
    test: TestOutcome

    def reading(self, rung: Rung) -> str:
        return rung.gap.reading(max(other.result.mean for other in self.rungs))


def handson(
    definition: Definition, *, folder: Path, data: Path | None, num_jobs: int, num_threads: int, command: str
) -> HandsOn:
    """All of it but the report; says on the way what it does.

    Raises:
        ConfigError: the ladder is measured on the test part, or `folder` holds runs of another one.
        DatasetError: there is no data set.
    """
    if definition.part != "validation":
        raise ConfigError("A ladder for the hands-on is measured on the validation part: the test part is for the end.")
    configs = configs_of(definition)
    folder.mkdir(parents=True, exist_ok=True)

    print("1. Look at the data", flush=True)
    exploration = explore(load_for(next(iter(configs.values())), data))
    (folder / DATA_NAME).write_text(exploration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    counts = ", ".join(f"{sum(of.values())} {part}" for part, of in exploration.num_images.items())
    print(
        f"Fashion-MNIST from {exploration.source}, digests verified: {counts} pictures, {len(exploration.copies)} of "
        f"them twice; the nearest class mean is right for {exploration.nearest_mean_accuracy:.2%}."
    )

    print("2. Train the ladder", flush=True)
    runs = plan(configs, definition, folder=folder, data=data, num_threads=num_threads, command=command)
    results = compare(runs, num_jobs=num_jobs)

    print("3. Choose by the validation part", flush=True)
    best = best_row(summarise(results, against=results[0].row))
    comparison = compared(results, against=best, command=command)
    write_comparison(comparison, folder)
    first_runs = {run.row: run for run in reversed(runs)}
    rungs = [climb(f"R{n}", row, first_runs[row.row]) for n, row in enumerate(comparison.rows, start=1)]
    gaps = {rung.name: asdict(rung.gap) for rung in rungs}
    (folder / GAPS_NAME).write_text(json.dumps(gaps, indent=1) + "\n", encoding="utf-8")
    chosen = next(rung for rung in rungs if rung.name == best)
    print(f"{best}: {chosen.result.mean:.2%} of {comparison.num_images} validation pictures.")

    print("4. Export it, and measure it once on the test part", flush=True)
    splits = load_for(chosen.fitted.config, data)
    version = exported(chosen.fitted, splits, folder / MODELS_FOLDER)
    test = evaluate_on_test(version, splits)
    return HandsOn(exploration, comparison, rungs, chosen, splits, version, read_card(version), test)


def best_row(rows: list[RowResult]) -> str:
    """The one with the highest mean accuracy, of equals the smaller one."""
    return max(rows, key=lambda row: (row.mean, -row.num_parameters)).row


def climb(tag: str, row: RowResult, run: Run) -> Rung:
    """A finished row as the report shows it, with what its first network gets right of its own training pictures."""
    fitted = load_fit_result(run.folder)
    splits = load_for(run.config, run.data)
    train = splits.train
    some = train.subset(stratified(train.labels, min(NUM_GAP_IMAGES, len(train)), seed=0))
    gap = Gap(
        train_accuracy=accuracy(fitted, some),
        num_train=len(some),
        validation_accuracy=accuracy(fitted, splits.validation),
        num_validation=len(splits.validation),
    )
    return Rung(tag, row, run.folder, fitted, gap)


def accuracy(fitted: FitResult, dataset: Dataset) -> float:
    logits = predict(fitted.network, dataset, mean=fitted.mean, std=fitted.std, device="cpu")
    return (logits.argmax(1) == dataset.labels).double().mean().item()


def exported(fitted: FitResult, splits: Splits, models_folder: Path) -> Path:
    """The version that was made of this run: the one that is there, or a new one, which is served from now on."""
    for folder in (models_folder / MODEL_NAME).glob("[0-9]*"):
        card = read_card(folder)
        if card.training.config == fitted.config.to_dict() and card.data.sha256 == splits.sha256:
            return folder
    folder = export(fitted, splits, models_folder=models_folder, name=MODEL_NAME).folder
    promote(folder, anyway=True)
    return folder
