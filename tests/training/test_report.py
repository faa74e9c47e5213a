import pytest
import torch

from training.report import plot_reliability


@pytest.mark.parametrize(("num_images", "num_points"), [(20, 2), (150, 1)])
def test_calibration_plot_has_points_for_a_small_part(num_images: int, num_points: int) -> None:
    """A bin needs ten pictures, or the average of all bins where that is less."""
    logits = torch.tensor([[8.0, 0.0]]).repeat(num_images, 1)
    logits[0, 0] = 1  # alone in its bin
    labels = torch.zeros(num_images, dtype=torch.long)

    figure = plot_reliability(logits, labels, temperature=1.0)

    _, before, after = figure.axes[0].lines
    assert len(before.get_xdata()) == len(after.get_xdata()) == num_points
