import math

import pytest
import torch

from training.evaluate import (
    calibration_error,
    fit_temperature,
    measure,
    suspected_label_errors,
    wilson_interval,
    worst_failures,
)


@pytest.mark.parametrize(
    ("num_correct", "num_images"), [(0, 10), (1, 10), (9, 10), (10, 10), (50, 100), (9_400, 10_000)]
)
def test_wilson_interval_solves_its_equation(num_correct: int, num_images: int) -> None:
    """The bounds are where the observed share is 1.96 standard errors of the *assumed* share away: by bisection."""
    share = num_correct / num_images

    def excess(assumed: float) -> float:
        return abs(share - assumed) - 1.959964 * math.sqrt(assumed * (1 - assumed) / num_images)

    def bisect(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if excess(middle) < 0 else (inside, middle)
        return inside

    low = bisect(max(share, 1e-9), 0.0) if share > 0 else 0.0
    high = bisect(min(share, 1 - 1e-9), 1.0) if share < 1 else 1.0
    assert wilson_interval(num_correct, num_images) == pytest.approx((low, high), abs=1e-6)


def test_wilson_interval_known_values() -> None:
    """Two published ones, and nothing known from nothing seen."""
    assert wilson_interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def two_class(confidence: float, num_right: int, num_wrong: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class 0 is predicted each time with `confidence`, and is the true one `num_right` times."""
    probabilities = torch.tensor([[confidence, 1 - confidence]]).repeat(num_right + num_wrong, 1)
    return probabilities, torch.tensor([0] * num_right + [1] * num_wrong)


def test_calibration_error_is_the_gap_to_accuracy() -> None:
    """80 % sure and 60 % right is an error of 0.2; 80 % right is none."""
    assert calibration_error(*two_class(0.8, 60, 40)) == pytest.approx(0.2, abs=1e-5)
    assert calibration_error(*two_class(0.8, 80, 20)) == pytest.approx(0, abs=1e-5)


def test_calibration_error_weighs_bins_by_size() -> None:
    """Errors in opposite directions do not cancel: (150 * 0.2 + 50 * 0.4) / 200."""
    first, second = two_class(0.6, 120, 30), two_class(0.9, 25, 25)

    error = calibration_error(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]))

    assert error == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fit_temperature_recovers_the_true_one(temperature: float) -> None:
    """Labels drawn from softmax(logits / T) give T back."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(torch.softmax(logits / temperature, 1), 1, generator=generator).flatten()

    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_measure_on_a_hand_made_confusion_matrix() -> None:
    """Rows are true classes; precision, recall and F1 as worked out by hand; an absent class has zeros, not NaN."""
    confusion = [[8, 2, 0, 0], [1, 4, 0, 0], [0, 0, 0, 0], [3, 0, 0, 2]]
    pairs = [(t, p) for t, row in enumerate(confusion) for p, count in enumerate(row) for _ in range(count)]
    labels = torch.tensor([true for true, _ in pairs])
    logits = 3.0 * torch.eye(4)[[predicted for _, predicted in pairs]]

    metrics = measure(logits, labels, class_names=["a", "b", "c", "d"], temperature=2.0)

    assert metrics.confusion_matrix == confusion
    assert metrics.num_images == 20
    assert metrics.accuracy == pytest.approx(14 / 20)
    assert metrics.accuracy_interval == wilson_interval(14, 20)
    a, b, c, d = metrics.per_class
    assert (a.num_images, a.precision, a.recall, a.f1) == pytest.approx((10, 8 / 12, 8 / 10, 16 / 22))
    assert (b.num_images, b.precision, b.recall, b.f1) == pytest.approx((5, 4 / 6, 4 / 5, 8 / 11))
    assert (c.num_images, c.precision, c.recall, c.f1) == (0, 0, 0, 0)
    assert (d.num_images, d.precision, d.recall, d.f1) == pytest.approx((5, 1, 2 / 5, 4 / 7))
    assert d.recall_interval == wilson_interval(2, 5)
    sure, cool = (math.exp(3 / t) / (math.exp(3 / t) + 3) for t in (1, 2))
    assert metrics.log_loss == pytest.approx(-(14 * math.log(cool) + 6 * math.log((1 - cool) / 3)) / 20, abs=1e-5)
    assert metrics.calibration_error_uncalibrated == pytest.approx(sure - 0.7, abs=1e-5)
    assert metrics.calibration_error == pytest.approx(abs(cool - 0.7), abs=1e-5)


def test_log_loss_stays_finite() -> None:
    """A picture that is certainly wrong costs its logit difference, not infinity."""
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0]])

    metrics = measure(logits, torch.tensor([0, 1]), class_names=["a", "b"], temperature=1.0)

    assert metrics.log_loss == pytest.approx(100)


def test_worst_failures_come_first() -> None:
    """Only mistakes, the most confident ones first, at most as many as asked for."""
    logits = torch.tensor([[9.0, 0.0], [1.0, 0.0], [5.0, 0.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 1])

    failures = worst_failures(labels, logits, class_names=["shirt", "coat"], temperature=1.0, num_failures=2)

    assert [failure.index for failure in failures] == [2, 3]
    assert (failures[0].target, failures[0].prediction) == ("coat", "shirt")
    assert failures[0].probability == pytest.approx(1 / (1 + math.exp(-5)))


def test_a_label_is_suspected_where_the_network_is_confident_of_another_class() -> None:
    """Mean probability of a on its labels 0.6, of b 0.5875. The last picture is a mistake, but a is below its mean."""
    first = torch.tensor([0.9, 0.8, 0.1, 0.1, 0.3, 0.7, 0.55])  # of a; the rest is of b
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    logits = torch.stack([first, 1 - first], 1).log()

    suspected = suspected_label_errors(logits, labels, temperature=1.0)

    assert suspected.tolist() == [False, False, True, False, False, True, False]


def test_a_class_without_labels_suspects_nobody() -> None:
    logits = torch.tensor([[0.0, 0.0, 9.0], [3.0, 0.0, 9.0]])

    suspected = suspected_label_errors(logits, torch.tensor([0, 1]), temperature=1.0)

    assert not suspected[0]  # only the class that no picture is labelled with is more probable
