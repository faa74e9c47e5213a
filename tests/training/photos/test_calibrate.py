import pytest
import torch
from torch import Tensor

from app.artifact import PredictionSetRule
from training.photos.calibrate import (
    fit_garment_threshold,
    fit_prediction_set,
    fit_review_threshold,
)


def two_classes(*first: float) -> Tensor:
    """Probabilities (N, 2) from those of the first class."""
    return torch.tensor([[p, 1 - p] for p in first])


@pytest.mark.parametrize(("num_images", "rank"), [(19, 0), (20, 0), (39, 1), (40, 1), (59, 2)])
def test_prediction_set_threshold_is_the_conformal_quantile(num_images: int, rank: int) -> None:
    """By hand: ceil(0.95 (N + 1)) of N true classes must be at or above it, 19 of 19, 20 of 20, 38 of 39 ..."""
    true = [(index + 1) / 100 for index in range(num_images)]
    shuffled = torch.tensor(true)[torch.randperm(num_images, generator=torch.Generator().manual_seed(0))]

    rule = fit_prediction_set(two_classes(*shuffled.tolist()), torch.zeros(num_images, dtype=torch.long))

    assert rule.level == 0.95
    assert rule.min_probability == pytest.approx(true[rank], abs=1e-7)


def test_too_few_pictures_put_every_class_into_every_set() -> None:
    """18 pictures cannot tell 95 %."""
    rule = fit_prediction_set(two_classes(*[0.9] * 18), torch.zeros(18, dtype=torch.long))

    assert rule.min_probability == 0
    assert rule.members(two_classes(1.0)).all()


def test_the_picture_at_the_threshold_keeps_its_class() -> None:
    """The threshold is one of the probabilities bit for bit, so the picture that it came from is covered."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        true = torch.rand(19, generator=generator) * 0.01  # where 1 - p rounds
        probabilities = torch.stack([true, 1 - true], 1)

        rule = fit_prediction_set(probabilities, torch.zeros(19, dtype=torch.long))

        assert rule.members(probabilities)[:, 0].all()


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_coverage_is_the_level_on_new_pictures(level: float, sharpness: float) -> None:
    """Of a calibrated and of a far too sure network: on average over 300 draws of 99 pictures, as is proven."""
    covered, num_classes = [], 6
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(599, num_classes, generator=generator) * 2
        labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator)[:, 0]
        probabilities = torch.softmax(sharpness * logits, 1)

        rule = fit_prediction_set(probabilities[:99], labels[:99], level=level)
        sets = rule.members(probabilities[99:])
        covered.append(sets.gather(1, labels[99:, None]).double().mean().item())

    mean = sum(covered) / len(covered)
    assert level - 0.008 < mean < level + 0.02  # a draw's standard deviation is 0.04, the mean's 0.0025


def test_best_class_is_always_in_the_set() -> None:
    """However improbable it is; others are in at the threshold and above."""
    rule = PredictionSetRule(level=0.95, min_probability=0.5)
    probabilities = torch.tensor([[0.4, 0.35, 0.25], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])

    sets = rule.members(probabilities)

    assert sets.tolist() == [[True, False, False], [True, True, False], [True, False, False]]


RULE = PredictionSetRule(level=0.95, min_probability=0.3)


@pytest.mark.parametrize(("accuracy", "threshold"), [(0.97, 0.95), (0.75, 0.8), (0.6, 0.8)])
def test_review_threshold_is_the_lowest_that_keeps_the_accuracy(accuracy: float, threshold: float) -> None:
    """Right at .99, .95, wrong at .9, right at .8: 1, 1, 2/3, 3/4. The .6 has a set of two and does not count."""
    probabilities = two_classes(0.6, 0.9, 0.99, 0.8, 0.95)
    labels = torch.tensor([1, 1, 0, 0, 0])

    found = fit_review_threshold(probabilities, labels, RULE, accuracy=accuracy)

    assert found == pytest.approx(threshold, abs=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (two_classes(0.9, 0.8), [1, 0]),  # the surest is wrong
        (two_classes(0.6, 0.5), [0, 0]),  # no set of one
    ],
)
def test_review_threshold_is_one_when_no_label_can_be_trusted(probabilities: Tensor, labels: list[int]) -> None:
    assert fit_review_threshold(probabilities, torch.tensor(labels), RULE) == 1.0


@pytest.mark.parametrize("labels", [[0, 1], [1, 0]])
def test_equally_sure_labels_count_together(labels: list[int]) -> None:
    """Of two at .9 one is right: no threshold lets only that one pass."""
    assert fit_review_threshold(two_classes(0.9, 0.9), torch.tensor(labels), RULE) == 1.0


@pytest.mark.parametrize(
    ("garment", "other", "num_refused", "num_lost"),
    [
        ([0.6, 0.7, 0.8, 0.9], [0.1, 0.2, 0.3, 0.4], 3, 0),  # three of four are to be refused: the fourth is kept
        ([0.6, 0.7, 0.8, 0.9], [0.1, 0.2, 0.65, 0.7], 3, 1),  # it costs one garment of four, and one may be lost
        ([0.2, 0.3, 0.8, 0.9], [0.1, 0.5, 0.6, 0.7], 1, 1),  # it would cost two: garments come first
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], 0, 0),  # not to be told apart: nothing is refused
    ],
)
def test_garment_threshold(garment: list[float], other: list[float], num_refused: int, num_lost: int) -> None:
    """Refuses the wanted share of other pictures, no more, unless that would lose more garments than allowed."""
    garment_scores, other_scores = torch.tensor(garment), torch.tensor(other)

    threshold = fit_garment_threshold(garment_scores, other_scores, min_refused=0.75, min_kept=0.75)

    assert int((other_scores < threshold).sum()) == num_refused
    assert int((garment_scores < threshold).sum()) == num_lost
