"""Cross-validation by group: every photo predicted by a network that never saw its sender.

The predictions tell how good a recipe is on unseen senders, and which labels look wrong.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from app.artifact import Metrics
from training.config import ConfigError
from training.evaluate import calibration_error, fit_temperature
from training.fit import CHECKPOINT_NAME
from training.photos.calibrate import PREDICTION_SET_LEVEL, fit_prediction_set, members
from training.photos.config import PhotoConfig
from training.photos.dataset import Columns, PhotoDataset, Photos
from training.photos.evaluate import Predictions, measure_photos, middle_luma
from training.photos.fit import fit_photos, predict_photos
from training.photos.splits import TEST, TRAIN, VALIDATION, split_by_group

PREDICTIONS_NAME = "predictions.csv"
SUSPECTS_NAME = "suspects.csv"
METRICS_NAME = "cross-validation.json"
HEADER = ["image", "group", "label", "prediction", "label_probability", "prediction_probability"]
# A label is suspect when the network gives it less than this and another class more than that: chosen, not tuned.
MAX_GIVEN_PROBABILITY = 0.05
MIN_OTHER_PROBABILITY = 0.80


@dataclass(frozen=True, slots=True)
class FoldPredictions:
    """The photos with a class, the fold of each, and what a network that saw no photo of that fold says.

    `folds` int64 (N,), `logits` (N, K).
    """

    photos: Photos
    folds: Tensor
    logits: Tensor


def cross_validate(
    dataset: PhotoDataset, config: PhotoConfig, *, num_folds: int, run_folder: Path, command: str = ""
) -> FoldPredictions:
    """Fit once for each fold of everything but the test part, and predict that fold.

    Finished folds are taken from their checkpoints and an unfinished one goes on, so the same command resumes.

    Raises:
        ConfigError: fewer than two folds.
        ResumeError: a fold's checkpoint is of another config or other data.
    """
    if num_folds < 2:
        raise ConfigError(f"There must be at least two folds: got {num_folds}.")
    photos = dataset.photos.subset(i for i, row in enumerate(dataset.photos.rows) if row.part != TEST)
    shares = {str(fold): 1 / num_folds for fold in range(num_folds)}
    fold_of = split_by_group(
        [row.label for row in photos.rows], [row.group for row in photos.rows], shares, seed=config.seed
    )
    num_classes = len(dataset.label_map.classes)
    logits = torch.zeros(len(photos), num_classes)
    for fold in shares:
        parts = [VALIDATION if part == fold else TRAIN for part in fold_of]
        rows = [replace(row, part=part) for row, part in zip(photos.rows, parts, strict=True)]
        digest = hashlib.sha256(f"{dataset.sha256} fold {fold} of {num_folds}".encode()).hexdigest()
        fold_dataset = replace(dataset, photos=Photos(rows, photos.images, photos.targets), sha256=digest)
        folder = run_folder / f"fold-{fold}"
        started = (folder / CHECKPOINT_NAME).exists()
        print(f"fold {int(fold) + 1} of {num_folds}", flush=True)
        # A finished run has nothing left to do, but is refused if it is of another config or split.
        result = fit_photos(fold_dataset, config, run_folder=folder, resume=started, command=command)
        held_out = [i for i, part in enumerate(parts) if part == VALIDATION]
        predicted, _ = predict_photos(
            result.network, photos.subset(held_out), size_pixels=config.size_pixels, device="cpu"
        )
        logits[held_out] = predicted[:, :num_classes]
    chosen = photos.has_class(num_classes).nonzero().flatten()
    folds = torch.tensor([int(fold) for fold in fold_of])
    return FoldPredictions(photos.subset(chosen.tolist()), folds[chosen], logits[chosen])


def measure_folds(predictions: FoldPredictions, class_names: list[str], columns: Columns) -> Metrics:
    """Figures over all folds; each fold's temperature and prediction sets are fitted on the other folds.

    Decisions are not among them: their thresholds are a model's, and here are as many models as folds.
    """
    photos, labels = predictions.photos, predictions.photos.targets
    logits = torch.zeros_like(predictions.logits)
    sets = torch.zeros_like(logits, dtype=torch.bool)
    for fold in predictions.folds.unique():
        others, held_out = predictions.folds != fold, predictions.folds == fold
        temperature = fit_temperature(predictions.logits[others], labels[others])
        rule = fit_prediction_set(torch.softmax(predictions.logits[others] / temperature, 1), labels[others])
        logits[held_out] = predictions.logits[held_out] / temperature
        sets[held_out] = members(rule, torch.softmax(logits[held_out], 1))
    luma = torch.tensor([middle_luma(image.permute(1, 2, 0).numpy()) for image in photos.images])
    metrics = measure_photos(
        Predictions(logits, None, luma),
        labels,
        [row.group for row in photos.rows],
        class_names=class_names,
        temperature=1.0,
        sets=sets,
        level=PREDICTION_SET_LEVEL,
        review_below=None,
        garment_score=None,
        slices={columns.slice_name: torch.tensor([row.in_slice for row in photos.rows])},
    )
    uncalibrated = calibration_error(torch.softmax(predictions.logits, 1), labels)
    return metrics.model_copy(update={"calibration_error_uncalibrated": uncalibrated})


def prediction_lines(predictions: FoldPredictions, class_names: Sequence[str]) -> list[list[str]]:
    """A line for each photo, with the columns of HEADER."""
    photos = predictions.photos
    temperature = fit_temperature(predictions.logits, photos.targets)
    probabilities = torch.softmax(predictions.logits / temperature, 1)
    lines = []
    for row, target, p in zip(photos.rows, photos.targets.tolist(), probabilities, strict=True):
        best = int(p.argmax())
        lines.append(
            [row.name, row.group, class_names[target], class_names[best], f"{p[target]:.4f}", f"{p[best]:.4f}"]
        )
    return lines


def suspect_lines(lines: Sequence[list[str]]) -> list[list[str]]:
    """Those of `prediction_lines` whose label looks wrong, the surest first."""
    suspects = [
        line for line in lines if float(line[4]) < MAX_GIVEN_PROBABILITY and float(line[5]) > MIN_OTHER_PROBABILITY
    ]
    return sorted(suspects, key=lambda line: float(line[4]))


def write_lines(path: Path, lines: Sequence[list[str]]) -> None:
    """A CSV file with these lines under HEADER."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *lines])
