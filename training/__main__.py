"""Train the models. fit, export and evaluate are of Fashion-MNIST; photos is of real photos; the others of both."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.errors import WardrobeError
from training.config import ConfigError, FitConfig, Optimizer, Precision
from training.data import Splits, load_fashion_mnist
from training.export import evaluate_on_test, export
from training.fit import fit, load_fit_result
from training.options import (
    command_line,
    follow_up,
    joined,
    option,
    parse_counts,
    print_metrics,
    print_served,
    read_version,
    stoppable,
)
from training.photos.cli import cli as photos_cli
from training.promote import promote, rollback

DEFAULTS = FitConfig()
DATA, AUGMENTATION, NETWORK, OPTIMISATION = "Data", "Augmentation", "Network", "Optimisation"

cli = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
cli.add_typer(photos_cli, name="photos")


DATA_HELP = (
    "Folder with the four Fashion-MNIST files. Default: $FASHION_MNIST_DIR, then the Debian package "
    "dataset-fashion-mnist, then a download into ./data."
)
DataOption = Annotated[Path | None, option(DATA_HELP, DATA, "--data")]
RunOption = Annotated[Path, option("Folder of the run, with its checkpoint.", None, "--run")]
DEFAULT_RUN = Path("runs/fashion-mnist")


@cli.command("fit")
def fit_command(
    run: RunOption = DEFAULT_RUN,
    resume: Annotated[bool, option("Go on from the run's checkpoint.", None, "--resume")] = False,
    seed: Annotated[int, option("Of initialisation, split, shuffling and augmentation.")] = DEFAULTS.seed,
    data: DataOption = None,
    num_validation: Annotated[
        int, option("Training pictures set aside for validation.", DATA)
    ] = DEFAULTS.num_validation,
    max_shift_pixels: Annotated[
        int, option("Largest random shift along an axis, in pixels; 0 for none.", AUGMENTATION)
    ] = DEFAULTS.max_shift_pixels,
    erase_probability: Annotated[
        float, option("Share of pictures with a random rectangle erased, 0 to 1.", AUGMENTATION)
    ] = DEFAULTS.erase_probability,
    widths: Annotated[str, option("Channels at 28x28, 14x14, 7x7 ... pixels.", NETWORK)] = joined(DEFAULTS.widths),
    blocks: Annotated[str, option("Residual blocks at each of these.", NETWORK)] = joined(DEFAULTS.blocks),
    epochs: Annotated[int, option("Passes over the training pictures.", OPTIMISATION)] = DEFAULTS.epochs,
    batch_size: Annotated[int, option("Pictures in one step.", OPTIMISATION)] = DEFAULTS.batch_size,
    optimizer: Annotated[Optimizer, option("Nesterov SGD or AdamW.", OPTIMISATION)] = DEFAULTS.optimizer,
    learning_rate: Annotated[
        float, option("Peak learning rate, reached after the warm-up.", OPTIMISATION)
    ] = DEFAULTS.learning_rate,
    warmup_epochs: Annotated[
        float, option("Epochs of linear warm-up; then half a cosine down to 0.", OPTIMISATION)
    ] = DEFAULTS.warmup_epochs,
    label_smoothing: Annotated[
        float, option("Share of the target spread over all classes.", OPTIMISATION)
    ] = DEFAULTS.label_smoothing,
    weight_decay: Annotated[
        float, option("L2 penalty factor (sgd) or decoupled decay (adamw).", OPTIMISATION)
    ] = DEFAULTS.weight_decay,
    precision: Annotated[
        Precision,
        option(
            "auto: bfloat16 on CUDA, float32 on a CPU. bfloat16 is faster on CPUs with AVX512-BF16 or AMX.",
            OPTIMISATION,
        ),
    ] = DEFAULTS.precision,
) -> None:
    """Train the network. Ctrl-C stops, --resume goes on after the last finished epoch."""
    config = FitConfig(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        label_smoothing=label_smoothing,
        widths=parse_counts("widths", widths),
        blocks=parse_counts("blocks", blocks),
        max_shift_pixels=max_shift_pixels,
        erase_probability=erase_probability,
        num_validation=num_validation,
        seed=seed,
        precision=precision,
    )
    splits = load(data, num_validation=num_validation, seed=seed)
    with stoppable(run):
        fit(splits, config, run_folder=run, resume=resume, command=command_line())
    print(f"Done. Next: {follow_up('export', '--run', run)}")


@cli.command("export")
def export_command(
    run: RunOption = DEFAULT_RUN,
    data: DataOption = None,
    models: Annotated[Path, option("Folder that the service reads.")] = Path("models"),
    name: Annotated[str, option("Name of the model: lower-case letters, digits and hyphens.")] = "fashion-mnist",
) -> None:
    """Write the run as the model's next version: TorchScript, ONNX, card and report, with validation figures."""
    result = load_fit_result(run)
    if len(result.history) < result.config.epochs:
        raise ConfigError(
            f"{run} has finished {len(result.history)} of {result.config.epochs} epochs. Go on with fit --resume."
        )
    splits = load(data, num_validation=result.config.num_validation, seed=result.config.seed)
    print("Exporting, checking parity and measuring on the validation pictures ...")
    artifact = export(result, splits, models_folder=models, name=name)
    print_metrics("validation", artifact.card.metrics["validation"])
    print(f"Wrote {artifact.folder}. Next: {follow_up('evaluate', artifact.folder)}")
    print_served(artifact.folder)


@cli.command("evaluate")
def evaluate_command(
    folder: Annotated[Path, typer.Argument(help="An exported version, for instance models/fashion-mnist/1.")],
    data: DataOption = None,
) -> None:
    """Measure an exported model on the 10,000 test pictures and write the figures into its card, once.

    Called again it measures again, compares with the card, and changes nothing.
    """
    config = FitConfig.from_dict(read_version(folder).training.config)
    outcome = evaluate_on_test(folder, load(data, num_validation=config.num_validation, seed=config.seed))
    print_metrics("test", outcome.measured)
    if outcome.recorded is None:
        print(f"Written into {folder}.")
    elif outcome.recorded.confusion_matrix == outcome.measured.confusion_matrix:
        print(f"The card, measured at {outcome.recorded.measured_at}, says the same.")
    else:
        print(f"The card differs: it says {outcome.recorded.accuracy:.2%}.", file=sys.stderr)
        raise typer.Exit(1)


@cli.command("promote")
def promote_command(
    folder: Annotated[Path, typer.Argument(help="The version to serve, for instance models/wardrobe/3.")],
    anyway: Annotated[bool, option("Also if it was found worse, or not compared.", None, "--anyway")] = False,
) -> None:
    """Let services take this version from now on, running ones too, after checking it as they do."""
    card = read_version(folder)
    if promote(folder, anyway=anyway):
        print(f"{card.name}/{card.version} is served from now on; running services take it within seconds.")
        print(f"Back: {follow_up('rollback', folder.parent)}")
    else:
        print(f"{card.name}/{card.version} is what is served already.")


@cli.command("rollback")
def rollback_command(
    folder: Annotated[Path, typer.Argument(help="A model, for instance models/wardrobe.")],
) -> None:
    """Let services take the version again that they took before the last promotion."""
    pointer = rollback(folder)
    print(f"{folder.name}/{pointer.version} is served again; running services take it within seconds.")


def load(data: Path | None, *, num_validation: int, seed: int) -> Splits:
    splits = load_fashion_mnist(data, num_validation=num_validation, seed=seed)
    print(
        f"Fashion-MNIST from {splits.source}, digests verified: {len(splits.train)} training, "
        f"{len(splits.validation)} validation, {len(splits.test)} test pictures"
    )
    return splits


def main() -> None:
    """Run the command line; what the user can mend is one line, not a traceback."""
    try:
        cli()
    except (WardrobeError, FileExistsError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
