"""What the second evaluation of a model compares, and what its card says of the split."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from app.artifact import Metrics, RefusalMetrics
from tests.training.photos.conftest import draw_garment, draw_noise
from training.photos.dataset import Columns, PhotoDataset
from training.photos.evaluate import measure_refusals
from training.photos.export import describe_split, find_differences


def refusals(pictures: str, *scores: float) -> RefusalMetrics:
    groups = [str(index) for index in range(len(scores))]
    return measure_refusals(pictures, torch.tensor(scores), groups, threshold=0.5, is_garment=False, part="test")


def test_same_figures_do_not_differ(metrics: Metrics) -> None:
    """Whenever they were measured, and whether or not the card is older than parts and groups of refusals."""
    now = refusals("faces", 0.1, 0.9)
    old = now.model_copy(update={"part": None, "num_groups": None, "refused_interval": (0.1, 0.9)})

    assert find_differences(metrics, [old], metrics.model_copy(update={"measured_at": None}), [now]) == []


def test_each_difference_is_named(metrics: Metrics) -> None:
    """Predictions, prediction sets, and refusals that are other, absent or new."""
    assert metrics.prediction_sets is not None
    sets = metrics.prediction_sets.model_copy(update={"coverage": 0.5})
    other = metrics.model_copy(update={"confusion_matrix": [[1, 0], [1, 0]], "prediction_sets": sets})

    found = find_differences(
        metrics,
        [refusals("faces", 0.1, 0.9), refusals("cats", 0.1), refusals("dogs", 0.1)],
        other,
        [refusals("faces", 0.1, 0.1), refusals("dogs", 0.1), refusals("cups", 0.1)],
    )

    assert found == [
        "confusion matrix",
        "prediction sets",
        "refusals of faces",
        "refusals of cats",
        "refusals of cups",
    ]


def test_split_rule_says_where_unknown_classes_are(
    drawn: PhotoDataset, read: Callable[..., PhotoDataset], tmp_path: Path
) -> None:
    """When there are any; they are the one thing that may share a source with training pictures."""
    for label in ("Hat", "Glove"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(8):
            image = draw_garment("Hat", index) if label == "Hat" else draw_noise(index)
            image.save(tmp_path / "photos" / label / f"{index}.png")
    with_unknown = read(tmp_path / "photos")

    assert describe_split(drawn, seed=3) == "no sender or source is in two parts; stratified by label, seed 3"
    assert describe_split(with_unknown, seed=3).startswith(describe_split(drawn, seed=3) + ". Pictures of unknown cl")
    assert "may come from senders or sources that training pictures come from" in describe_split(with_unknown, seed=3)
    own = replace(drawn, columns=Columns(part="split"))
    assert describe_split(own, seed=3) == "no sender or source is in two parts; the column 'split' of the data"
