"""The learning-rate range test: Smith, Cyclical learning rates for training neural networks (2015), section 3.3."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

from training.augment import augment
from training.config import FitConfig
from training.data import Splits
from training.fit import batches, build_network, normalization, normalize
from training.optimisation import build_loss, build_optimizer

matplotlib.use("agg")  # no screen

LOWEST, HIGHEST = 1e-5, 10.0
SMOOTHING = 0.9  # of the loss, a step; chosen, not tuned
DIVERGED = 4.0  # times the lowest loss


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The smoothed loss at each rate, and the rate a tenth below the lowest one: far enough from where it diverges."""

    rates: list[float]
    losses: list[float]

    @property
    def suggestion(self) -> float:
        return self.rates[self.losses.index(min(self.losses))] / 10


def range_test(splits: Splits, config: FitConfig, *, num_steps: int = 300) -> RangeTest:
    """Raise the learning rate by the same factor each step until the loss leaves."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    images, labels = splits.train.images, splits.train.labels
    mean, std = normalization(splits.train, config.scaling)
    network = build_network(config).train()
    optimizer, loss_of = build_optimizer(network, config), build_loss(config)
    epochs = (batches(len(labels), config.batch_size or len(labels), generator) for _ in itertools.count())
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step, indices in zip(range(num_steps), itertools.chain.from_iterable(epochs), strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (num_steps - 1))
        optimizer.param_groups[0]["lr"] = rate
        batch = augment(images[indices], config, generator=generator)
        loss = loss_of(network(normalize(batch, mean=mean, std=std)), labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        average = SMOOTHING * average + (1 - SMOOTHING) * loss.item()
        smoothed = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (losses and smoothed > DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
    return RangeTest(rates, losses)


def write_range_test(result: RangeTest, path: Path) -> None:
    """The loss over the rate, as PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(result.rates, result.losses)
    axes.axvline(result.suggestion, color="C1", linestyle="--", label=f"{result.suggestion:.2g}: a tenth of the lowest")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
