import re

import pytest

from app.artifact import EpochRecord
from training.gap import NOTABLE, Gap, curves_in_words


def gap(train_accuracy: float, validation_accuracy: float) -> Gap:
    return Gap(train_accuracy, 5_000, validation_accuracy, 5_000)


def test_the_interval_is_that_of_two_shares() -> None:
    """Standard errors of 0.9 and 0.8 of 5,000: 0.004243 and 0.005657, together 0.007071."""
    assert gap(0.9, 0.8).interval == pytest.approx((0.1 - 1.96 * 0.007071, 0.1 + 1.96 * 0.007071), abs=1e-5)


@pytest.mark.parametrize(
    ("train_accuracy", "validation_accuracy", "reading"),
    [
        (0.95, 0.95, "fits"),
        (0.85, 0.85, "underfits"),  # the best gets 0.9 of what it has never seen
        (0.99, 0.90, "overfits"),
        (0.89, 0.80, "underfits and overfits"),
    ],
)
def test_a_gap_is_read_in_words(train_accuracy: float, validation_accuracy: float, reading: str) -> None:
    assert gap(train_accuracy, validation_accuracy).reading(0.9) == reading


def test_a_gap_that_may_be_chance_is_not_called_overfitting() -> None:
    """1.5 points: notable if it were known exactly, but its interval begins below."""
    uncertain = gap(0.915, 0.9)

    assert uncertain.difference > NOTABLE > uncertain.interval[0]
    assert not uncertain.overfits()


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        ([1.0, 0.8, 0.6, 0.4], [1.0, 0.7, 0.8, 0.9], r"lowest in epoch 2 and is 29% higher .*\(overfitting\)"),
        ([1.0, 0.8, 0.9, 2.0], [1.0, 0.7, 0.8, 2.9], "fell no further"),
        ([1.0, 0.8, 0.7, 0.6], [1.0, 0.9, 0.8, 0.7], r"still falling at the end: .*\(underfitting\)"),
        ([1.0, 0.8, 0.7, 0.6], [1.0, 0.7, 0.66, 0.67], "has levelled off"),
        ([1.0], [1.0], "Fewer than two epochs"),
    ],
)
def test_curves_are_read_in_words(train: list[float], validation: list[float], words: str) -> None:
    history = [
        EpochRecord(
            epoch=epoch,
            learning_rate=0.1,
            train_loss=loss,
            train_accuracy=0.5,
            validation_loss=validation_loss,
            validation_accuracy=0.5,
            seconds=1.0,
        )
        for epoch, (loss, validation_loss) in enumerate(zip(train, validation, strict=True), start=1)
    ]

    assert re.search(words, curves_in_words(history))
