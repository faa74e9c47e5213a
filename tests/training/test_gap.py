import pytest

from training.gap import NOTABLE, Gap


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
