import math

import numpy as np
import pytest
import torch
from torch import Tensor

from app.artifact import Metrics
from training.evaluate import wilson_interval
from training.photos.evaluate import (
    Predictions,
    bootstrap_by_group,
    macro_recall,
    measure_photos,
    measure_refusals,
    middle_luma,
)


def test_interval_of_independent_photos_is_the_plain_one() -> None:
    """Each photo its own sender: 90 % of 400 is known to within 1.96 sqrt(0.9 0.1 / 400) = 2.9 %."""
    correct = torch.arange(400) % 10 > 0
    labels = torch.zeros(400, dtype=torch.long)

    (low, high), recall = bootstrap_by_group(correct, labels, [str(index) for index in range(400)])

    assert (low + high) / 2 == pytest.approx(0.9, abs=0.005)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.9 * 0.1 / 400), rel=0.1)
    assert recall == (low, high)  # of a single class


def test_interval_of_photos_that_err_together_is_wider() -> None:
    """Ten photos of each sender all right or all wrong are worth one: the interval is sqrt(10) times as wide."""
    labels = torch.zeros(400, dtype=torch.long)
    together = (torch.arange(400) // 10) % 10 > 0

    (low, high), _ = bootstrap_by_group(together, labels, [str(index // 10) for index in range(400)])

    assert high - low == pytest.approx(math.sqrt(10) * 2 * 1.96 * math.sqrt(0.9 * 0.1 / 400), rel=0.15)


def test_bootstrap_is_repeatable() -> None:
    correct, labels = torch.arange(50) % 3 > 0, torch.arange(50) % 2
    groups = [str(index // 4) for index in range(50)]

    assert bootstrap_by_group(correct, labels, groups) == bootstrap_by_group(correct, labels, groups)


def test_macro_recall_counts_classes_alike() -> None:
    """2 of 3 and 1 of 1, of classes that occur: (2/3 + 1) / 2."""
    correct = torch.tensor([True, True, False, True])

    assert macro_recall(correct, torch.tensor([0, 0, 0, 4])) == pytest.approx(5 / 6)


@pytest.fixture
def measured() -> Metrics:
    """Four photos of three senders: right and sure, right and unsure, wrong with two in the set, wrong and sure."""
    sure, unsure = [4.0, 0.0], [1.0, 0.0]
    return measure_photos(
        Predictions(torch.tensor([sure, unsure, unsure, sure]), None, torch.tensor([10.0, 80.0, 160.0, 200.0])),
        torch.tensor([0, 0, 1, 1]),
        ["a", "a", "b", "c"],
        class_names=["shirt", "hat"],
        temperature=1.0,
        sets=torch.tensor([[True, False], [True, False], [True, True], [True, False]]),
        level=0.95,
        review_below=0.9,
        slices={"kids": torch.tensor([True, False, False, True]), "nobody": torch.zeros(4, dtype=torch.bool)},
    )


def test_prediction_sets_are_counted(measured: Metrics) -> None:
    """Three of four hold the true class, sizes are 1, 1, 2, 1."""
    sets = measured.prediction_sets

    assert sets is not None
    assert (sets.level, sets.coverage, sets.mean_size, sets.share_of_size_one) == (0.95, 0.75, 1.25, 0.75)
    assert sets.coverage_interval[0] <= 0.75 <= sets.coverage_interval[1]


def test_figures_over_senders(measured: Metrics) -> None:
    assert measured.accuracy == 0.5
    assert measured.grouped is not None
    assert measured.grouped.num_groups == 3
    assert measured.grouped.macro_recall == 0.5
    assert measured.grouped.accuracy_interval == (0.0, 1.0)


def test_slices_report_their_photos_apart(measured: Metrics) -> None:
    """By decision, by brightness with its limits in the middle, and by mark; what is empty is left out."""
    counts = {name: (row.num_images, row.accuracy) for name, row in measured.slices.items()}

    assert counts == {
        "decision: sorted": (2, 0.5),
        "decision: review": (2, 0.5),
        "dark garments": (1, 1.0),
        "garments between dark and light": (2, 0.5),
        "light garments": (1, 0.0),
        "kids": (2, 0.5),
    }
    assert measured.slices["kids"].accuracy_interval == wilson_interval(1, 2)


def test_refusals_are_scores_below_the_threshold() -> None:
    """A score at the threshold is kept, as the service keeps it."""
    row = measure_refusals("faces", torch.tensor([0.25, 0.5, 0.9]), threshold=0.5, is_garment=False)

    assert (row.pictures, row.is_garment, row.num_images) == ("faces", False, 3)
    assert row.refused == pytest.approx(1 / 3)
    assert row.refused_interval == wilson_interval(1, 3)


def test_subset_keeps_scores_together() -> None:
    predictions = Predictions(torch.eye(3), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0]))

    subset = predictions.subset(torch.tensor([True, False, True]))

    garment: Tensor | None = subset.garment
    assert garment is not None
    assert (subset.logits.argmax(1).tolist(), subset.luma.tolist()) == ([0, 2], [1.0, 3.0])
    assert garment.tolist() == pytest.approx([0.1, 0.3])


def test_luma_is_of_the_middle() -> None:
    """Whatever surrounds a garment does not make it light; a picture of one pixel has a middle too."""
    pixels = np.full((9, 30, 3), 255, np.uint8)
    pixels[3:6, 10:20] = (100, 0, 0)

    assert middle_luma(pixels) == pytest.approx(29.9)
    assert middle_luma(np.full((1, 1, 3), 200, np.uint8)) == pytest.approx(200)
