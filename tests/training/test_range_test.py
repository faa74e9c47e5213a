from pathlib import Path

from training.config import FitConfig
from training.data import Splits
from training.range_test import range_test, write_range_test


def test_the_loss_falls_and_leaves(sample: Splits, tmp_path: Path) -> None:
    """Rates grow by one factor, a rate that learns is found, and one at which nothing is learned any more."""
    config = FitConfig(network="mlp", hidden=(32,), label_smoothing=0, batch_size=64)

    found = range_test(sample, config, num_steps=80)
    write_range_test(found, tmp_path / "rates.png")

    factors = [later / earlier for earlier, later in zip(found.rates, found.rates[1:], strict=False)]
    assert max(factors) - min(factors) < 1e-9
    lowest = min(found.losses)
    assert lowest < 0.8 * found.losses[0]
    assert len(found.rates) < 80 or found.losses[-1] > 1.5 * lowest
    assert 1e-4 < found.suggestion < 1
    assert (tmp_path / "rates.png").stat().st_size > 5_000
