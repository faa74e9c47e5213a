import itertools
from pathlib import Path

import pytest
import torch

from training.worked_examples import (
    backpropagation_step,
    batch_norm,
    default_bounds,
    descend,
    dropout_means,
    fit_xor,
    num_right,
    slides_step,
    write_page,
)


def test_the_2_2_1_network_of_the_slides_to_its_printed_digits() -> None:
    """0.0625, 0.0313, 0.0313 at the output, 0.00048907, 0.00048907, 0 at each hidden unit."""
    step = slides_step()

    assert step.output.tolist() == pytest.approx([0.0625, 0.0313, 0.0313], abs=5.1e-5)
    assert [[f"{value:.8f}" for value in row] for row in step.hidden.tolist()] == [
        ["0.00048907", "0.00048907", "0.00000000"]
    ] * 2


def test_the_gradient_leaves_hidden_units_behind_weights_of_zero() -> None:
    step = backpropagation_step()

    assert step.output.tolist() == pytest.approx([0.0625, 0.03125, 0.03125])
    assert step.hidden.eq(0).all()


@pytest.mark.parametrize("seed", range(3))
def test_xor_needs_a_bend(seed: int) -> None:
    assert num_right(fit_xor("relu", seed=seed)) == 4
    assert num_right(fit_xor("identity", seed=seed)) < 4


def test_gradient_descent_crawls_arrives_overshoots_and_diverges() -> None:
    """On w^2 each step multiplies by 1 - 2 eta."""
    crawling, arriving, overshooting, diverging = (descend(rate) for rate in (0.01, 0.3, 0.95, 1.05))

    assert crawling[-1] == pytest.approx(0.98**30, rel=1e-4)
    assert abs(arriving[-1]) < 1e-6
    assert all(a * b < 0 for a, b in itertools.pairwise(overshooting))
    assert abs(overshooting[-1]) < 1 < abs(diverging[-1])


def test_default_weights_fill_their_bounds() -> None:
    bound = 784**-0.5

    low, high = default_bounds(784, 75)

    assert -bound <= low < -0.999 * bound
    assert 0.999 * bound < high <= bound


def test_inverted_dropout_keeps_the_expectation() -> None:
    """Three standard errors of the mean: 3 * 1.25 * sqrt(0.8 * 0.2 / 100,000)."""
    in_training, kept, in_evaluation = dropout_means(0.2)

    assert in_training == pytest.approx(1, abs=0.0048)
    assert kept == pytest.approx(1.25)
    assert in_evaluation == 1


def test_batch_norm_has_two_lives() -> None:
    """1, 2, 3, 6: mean 3, variance 3.5, or 14/3 with n - 1."""
    example = batch_norm()

    scale = (3.5 + 1e-5) ** 0.5
    assert example.in_training == pytest.approx([-2 / scale, -1 / scale, 0, 3 / scale], abs=1e-6)
    assert example.running_mean == pytest.approx(0.3)
    assert example.running_variance == pytest.approx(0.9 + 0.1 * 14 / 3)
    expected = [(x - 0.3) / (example.running_variance + 1e-5) ** 0.5 for x in example.batch]
    assert example.in_evaluation == pytest.approx(expected, abs=1e-6)


def test_the_page_shows_the_numbers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    write_page(tmp_path / "examples.html")

    page = (tmp_path / "examples.html").read_text()

    for text in ("0.00048907", "0.03125", "With ReLU 4 of the 4", "1.25", "0.3000, 1.3667"):
        assert text in page
    assert page.count("data:image/png;base64,") == 2
