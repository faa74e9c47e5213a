import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.config import ConfigError
from training.evaluate import calibration_error
from training.fit import ResumeError
from training.photos.config import PhotoConfig
from training.photos.dataset import Columns, PhotoDataset
from training.photos.fit import load_photo_run, predict_photos
from training.photos.folds import (
    HEADER,
    FoldPredictions,
    cross_validate,
    measure_folds,
    prediction_lines,
    suspect_lines,
    write_lines,
)

CLASSES = ["shirt", "pants", "hat"]


@pytest.fixture(scope="session")
def one_epoch(tiny_photo_config: PhotoConfig) -> PhotoConfig:
    return replace(tiny_photo_config, epochs=(1,))


@pytest.fixture(scope="session")
def folds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="session")
def predictions(drawn: PhotoDataset, one_epoch: PhotoConfig, folds_folder: Path) -> FoldPredictions:
    """Two folds of the drawn data."""
    return cross_validate(drawn, one_epoch, num_folds=2, run_folder=folds_folder)


def test_every_photo_with_a_class_is_predicted_once(predictions: FoldPredictions, drawn: PhotoDataset) -> None:
    """But for the test part, which is not looked at."""
    expected = [row.path for row in drawn.photos.with_class(3).rows if row.part != "test"]

    found = [row.path for row in predictions.photos.rows]

    assert sorted(found) == sorted(expected)
    assert len(set(found)) == len(found)
    assert predictions.logits.shape == (len(found), 3)
    assert predictions.logits.any(1).all()
    assert set(predictions.folds.tolist()) == {0, 1}


def test_no_network_predicts_a_sender_it_was_trained_on(predictions: FoldPredictions, folds_folder: Path) -> None:
    """Senders are in one fold each, and each fold's logits are those of that fold's own run."""
    senders = {(row.group, fold) for row, fold in zip(predictions.photos.rows, predictions.folds.tolist(), strict=True)}
    assert len(senders) == len({group for group, _ in senders})
    for fold in (0, 1):
        chosen = (predictions.folds == fold).nonzero().flatten()
        network = load_photo_run(folds_folder / f"fold-{fold}").network

        logits, _ = predict_photos(network, predictions.photos.subset(chosen.tolist()), size_pixels=32, device="cpu")

        assert logits[:, :3].allclose(predictions.logits[chosen], atol=1e-4)


def test_finished_folds_are_not_trained_again(
    predictions: FoldPredictions, drawn: PhotoDataset, one_epoch: PhotoConfig, folds_folder: Path
) -> None:
    """The same command finds the same predictions; other choices are refused rather than mixed with old folds."""
    checkpoints = sorted(folds_folder.glob("fold-*/checkpoint.pt"))
    before = [path.stat().st_mtime_ns for path in checkpoints]

    again = cross_validate(drawn, one_epoch, num_folds=2, run_folder=folds_folder)
    with pytest.raises(ResumeError, match="seed was 0, is 1"):  # it would split into other folds
        cross_validate(drawn, replace(one_epoch, seed=1), num_folds=2, run_folder=folds_folder)

    assert len(checkpoints) == 2
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    assert again.logits.equal(predictions.logits)
    assert again.folds.equal(predictions.folds)


def test_one_fold_is_refused(drawn: PhotoDataset, one_epoch: PhotoConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two folds: got 1"):
        cross_validate(drawn, one_epoch, num_folds=1, run_folder=tmp_path)


def test_figures_are_over_all_folds(predictions: FoldPredictions) -> None:
    """Temperatures do not change the best class, so the accuracy is that of the plain logits."""
    metrics = measure_folds(predictions, CLASSES, Columns(slice="kids"))

    right = predictions.logits.argmax(1) == predictions.photos.targets
    assert metrics.num_images == len(right)
    assert metrics.accuracy == pytest.approx(right.double().mean().item())
    assert metrics.grouped is not None
    assert metrics.grouped.num_groups == len({row.group for row in predictions.photos.rows})
    num_marked = sum(row.in_slice for row in predictions.photos.rows)
    assert metrics.slices["photos marked 'kids' in the data"].num_images == num_marked


def test_uncalibrated_error_is_that_of_the_plain_logits(predictions: FoldPredictions) -> None:
    """And not of logits that are scaled already; no decision is measured, since no threshold was fitted."""
    overconfident = replace(predictions, logits=8 * predictions.logits)

    metrics = measure_folds(overconfident, CLASSES, Columns())

    plain = calibration_error(torch.softmax(overconfident.logits, 1), overconfident.photos.targets)
    assert metrics.calibration_error_uncalibrated == pytest.approx(plain)
    assert metrics.calibration_error != pytest.approx(plain, abs=1e-3)
    assert not [name for name in metrics.slices if name.startswith("decision")]


@pytest.fixture
def lines(predictions: FoldPredictions, tmp_path: Path) -> Callable[[list[list[float]]], list[dict[str, str]]]:
    """Give the first photos these logits and read the file of suspects."""

    def write(logits: list[list[float]]) -> list[dict[str, str]]:
        photos = predictions.photos.subset(range(len(logits)))
        photos = replace(photos, targets=torch.zeros(len(logits), dtype=torch.long))
        made_up = FoldPredictions(photos, predictions.folds[: len(logits)], torch.tensor(logits))
        write_lines(tmp_path / "suspects.csv", suspect_lines(prediction_lines(made_up, CLASSES)))
        with (tmp_path / "suspects.csv").open(newline="") as file:
            reader = csv.DictReader(file)
            found = list(reader)
            assert reader.fieldnames == HEADER
        return found

    return write


def test_suspects_are_sure_mistakes(
    lines: Callable[[list[list[float]]], list[dict[str, str]]], predictions: FoldPredictions
) -> None:
    """All labelled shirt: surely pants and more surely a hat are listed, the surest first; what is in doubt is not."""
    right = [[6.0, 0.0, 0.0]] * 50

    found = lines([[0.0, 5.0, 0.0], [0.0, 0.0, 7.0], [0.0, 0.5, 0.0], *right])

    names = [row.name for row in predictions.photos.rows]
    assert [(line["image"], line["label"], line["prediction"]) for line in found] == [
        (names[1], "shirt", "hat"),
        (names[0], "shirt", "pants"),
    ]
    assert all(float(line["label_probability"]) < 0.05 for line in found)
    assert all(float(line["prediction_probability"]) > 0.8 for line in found)


def test_file_of_suspects_has_a_header_when_there_are_none(
    lines: Callable[[list[list[float]]], list[dict[str, str]]],
) -> None:
    assert lines([[6.0, 0.0, 0.0]] * 5) == []
