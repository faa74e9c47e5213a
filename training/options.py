"""What the command lines share; those of Fashion-MNIST have their options from the fields of FitConfig."""

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from pydantic.fields import FieldInfo

from app.artifact import CARD_NAME, Card, Metrics, read_card
from app.served_version import read_pointer
from training.config import LISTED, NETWORK_OPTIONS, ConfigError, FitConfig, Panel
from training.fit import CHECKPOINT_NAME
from training.presets import load_preset


def option(text: str, panel: str | None = None, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


MlflowOption = Annotated[
    bool, option("Log the run, and the version that it becomes, with MLflow: MLFLOW_TRACKING_URI.", None, "--mlflow")
]
SafetensorsOption = Annotated[
    bool, option("Write the weights alone as well, as model.safetensors.", "Output", "--safetensors")
]


def joined(counts: tuple[int, ...]) -> str:
    return ",".join(map(str, counts))


def parse_counts(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--{name} {text!r} is not a list of whole numbers like 32,64,128.") from error


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--preset` and an option for every field of FitConfig, in place of its parameter `config`.

    What is given on the command line goes over the preset, and that over the defaults.
    """

    @functools.wraps(command)
    def wrapper(*, context: typer.Context, preset: str | None, **arguments: Any) -> None:
        values = load_preset(preset) if preset is not None else {}
        for field in fields(FitConfig):
            value, source = arguments.pop(field.name), context.get_parameter_source(field.name)
            if source is not None and source.name == "COMMANDLINE":
                values[field.name] = value
        command(**arguments, config=FitConfig.from_dict(values))

    preset_option = option("Name of a preset, or a TOML file with any of the options below Data.")
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(command).parameters.values()
            if p.name != "config"
        ),
        _parameter("preset", str | None, None, preset_option),
        *config_parameters(),
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads both
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def config_parameters() -> list[inspect.Parameter]:
    """A parameter for each field of FitConfig, where its type, limits, default and meaning stand."""
    hints = get_type_hints(FitConfig, include_extras=True)
    parameters = []
    for field in fields(FitConfig):
        value_type, *metadata = get_args(hints[field.name])
        (text,) = (entry.description or "" for entry in metadata if isinstance(entry, FieldInfo))
        panel = next((entry.title for entry in metadata if isinstance(entry, Panel)), None)
        default = field.default
        if LISTED in metadata:
            value_type, default = str | None, _joined(default)
        info = option(text, panel)
        if field.name in NETWORK_OPTIONS:
            info.show_default = "the network's own"
        parameters.append(_parameter(field.name, value_type, default, info))
    return parameters


def _joined(values: Any) -> str | None:
    return None if values is None else ",".join(map(str, values))


def _parameter(name: str, value_type: Any, default: Any, info: Any) -> inspect.Parameter:
    annotation = Annotated[value_type, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


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
