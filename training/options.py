"""What the command lines of both models share."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from app.artifact import CARD_NAME, Card, Metrics, read_card
from app.served_version import read_pointer
from training.config import ConfigError
from training.fit import CHECKPOINT_NAME


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


def follow_up(*words: object) -> str:
    """A command to paste: `training` with these words, by the interpreter as it was called."""
    return shlex.join([sys.orig_argv[0], "-m", "training", *map(str, words)])


def read_version(folder: Path) -> Card:
    """The card of an exported version.

    Raises:
        ConfigError: there is none; the message says which there are.
        ArtifactError: it is not valid.
    """
    if not (folder / CARD_NAME).is_file():
        cards = [*folder.parent.glob(f"*/{CARD_NAME}"), *folder.glob(f"*/{CARD_NAME}")]
        found = ", ".join(str(path.parent) for path in sorted(cards))
        raise ConfigError(
            f"{folder} is no exported version. There {f'are: {found}' if found else 'is none beside it'}."
        )
    return read_card(folder)


def print_served(folder: Path) -> None:
    """After a version was exported: whether a service takes it, and the command that lets it."""
    pointer = read_pointer(folder.parent)
    if pointer and str(pointer.version) != folder.name:
        print(
            f"Services go on with version {pointer.version}. To let them take this one: {follow_up('promote', folder)}"
        )


def command_line() -> str:
    """What was typed, without --resume: the command that the run is of."""
    return shlex.join(["python", "-m", "training", *(word for word in sys.argv[1:] if word != "--resume")])


@contextmanager
def stoppable(run: Path) -> Iterator[None]:
    """Ctrl-C ends the process with a line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"\nStopped. {run / CHECKPOINT_NAME} holds what the finished epochs gave; "
            f"go on with: {follow_up(*(word for word in sys.argv[1:] if word != '--resume'), '--resume')}"
        )
        raise typer.Exit(130) from None


def print_metrics(part: str, metrics: Metrics) -> None:
    low, high = metrics.accuracy_interval
    print(
        f"{part} accuracy {metrics.accuracy:.2%} (n = {metrics.num_images}, 95 % interval {low:.2%} to {high:.2%}), "
        f"calibration error {metrics.calibration_error:.4f} ({metrics.calibration_error_uncalibrated:.4f} uncalibrated)"
    )
