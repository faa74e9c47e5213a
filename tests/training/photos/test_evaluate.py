import math

import numpy as np
import pytest
import torch
from torch import Tensor

from app.artifact import Metrics
from app.images import decode
from training.evaluate import to_png, wilson_interval
from training.photos.evaluate import (
    FORMS,
    Predictions,
    bootstrap_by_group,
    interval_by_group,
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
        garment_score=None,
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
    assert measured.slices["kids"].num_groups == 2
    assert measured.slices["kids"].accuracy_interval is None  # of two senders


def test_refused_photos_are_neither_sorted_nor_for_review() -> None:
    """As the service decides: a garment score below the threshold goes before everything else."""
    measured = measure_photos(
        Predictions(torch.tensor([[4.0, 0.0]] * 3 + [[1.0, 0.0]]), torch.tensor([0.9, 0.5, 0.4, 0.1]), torch.zeros(4)),
        torch.tensor([0, 0, 1, 0]),
        ["a", "b", "c", "d"],
        class_names=["shirt", "hat"],
        temperature=1.0,
        sets=torch.tensor([[True, False]] * 4),
        level=0.95,
        review_below=0.9,
        garment_score=0.5,
        slices={},
    )

    found = {name: (row.num_images, row.accuracy) for name, row in measured.slices.items() if "decision" in name}
    assert found == {"decision: sorted": (2, 1.0), "decision: not_a_garment": (2, 0.5)}


def test_decisions_are_left_out_where_there_is_no_threshold(metrics: Metrics) -> None:
    assert list(metrics.slices) == ["dark garments"]


def test_refusals_are_scores_below_the_threshold() -> None:
    """A score at the threshold is kept, as the service keeps it."""
    scores = torch.tensor([0.25, 0.5, 0.9])

    row = measure_refusals("faces", scores, ["a", "b", "b"], threshold=0.5, is_garment=False, part="test")

    assert (row.pictures, row.is_garment, row.part, row.num_images) == ("faces", False, "test", 3)
    assert row.num_groups == 2
    assert row.refused == pytest.approx(1 / 3)
    assert row.refused_interval is None


def test_interval_is_over_groups() -> None:
    """That of the accuracy with few pictures of a group, none with fewer than five groups."""
    flags = torch.arange(40) % 4 > 0
    groups = [str(index // 8) for index in range(40)]

    assert interval_by_group(flags, groups) == bootstrap_by_group(flags, torch.zeros(40, dtype=torch.long), groups)[0]
    assert interval_by_group(flags[:32], groups[:32]) is None


def test_interval_of_all_or_nothing_is_no_point() -> None:
    """No sample of groups differs; five groups can still not prove a share of 0 or 1."""
    groups = [str(index // 8) for index in range(40)]

    assert interval_by_group(torch.zeros(40, dtype=torch.bool), groups) == wilson_interval(0, 5)
    assert interval_by_group(torch.ones(40, dtype=torch.bool), groups) == wilson_interval(5, 5)


@pytest.mark.parametrize(
    ("form", "size", "image_format", "tolerance"),
    [
        ("JPEG, turned by EXIF", (60, 80), "JPEG", 6),
        ("HEIC", (60, 80), "HEIF", 6),
        ("turned by 90 degrees", (80, 60), "PNG", 0),
        ("upside down", (60, 80), "PNG", 0),
        ("100 px", (60, 80), "PNG", 0),
        ("blurred", (60, 80), "PNG", 0),
        ("a third of the light", (60, 80), "PNG", 0),
        ("grey", (60, 80), "PNG", 0),
        ("in the middle of a page twice as wide as high", (160, 80), "PNG", 0),
    ],
)
def test_forms_are_files_as_people_send_them(
    form: str, size: tuple[int, int], image_format: str, tolerance: int
) -> None:
    """Whatever file it was, here a blue PNG with a red top: its size, and colours where they are to be."""
    pixels = np.full((80, 60, 3), (0, 0, 240), np.uint8)
    pixels[:40] = (240, 0, 0)

    found = decode(FORMS[form](to_png(pixels)))

    assert (found.width, found.height, found.format) == (*size, image_format)
    x, y = {"turned by 90 degrees": (10, 30), "in the middle of a page twice as wide as high": (80, 10)}.get(
        form, (30, 10)
    )
    expected = {"a third of the light": (80, 0, 0), "grey": (72, 72, 72), "upside down": (0, 0, 240)}.get(
        form, (240, 0, 0)
    )
    assert found.pixels[y, x].astype(int) == pytest.approx(expected, abs=tolerance)
    assert ("rotated by EXIF" in found.notes) == (form == "JPEG, turned by EXIF")


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
