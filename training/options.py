"""What the command lines of both models share."""

from typing import Any

import typer

from app.artifact import Metrics
from training.config import ConfigError


def option(text: str, panel: str | None = None, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


def joined(counts: tuple[int, ...]) -> str:
    return ",".join(map(str, counts))


def parse_counts(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--{name} {text!r} is not a list of whole numbers like 32,64,128.") from error


def print_metrics(part: str, metrics: Metrics) -> None:
    low, high = metrics.accuracy_interval
    print(
        f"{part} accuracy {metrics.accuracy:.2%} (n = {metrics.num_images}, 95 % interval {low:.2%} to {high:.2%}), "
        f"calibration error {metrics.calibration_error:.4f} ({metrics.calibration_error_uncalibrated:.4f} uncalibrated)"
    )
