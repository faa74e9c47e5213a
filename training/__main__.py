"""Train the models. fit, export and evaluate are of Fashion-MNIST; photos is of real photos; the others of both."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.errors import WardrobeError
from training.compare import compare, configs_of, plan, read_definition
from training.config import DATA, ConfigError, FitConfig
from training.data import Splits, load_for
from training.distributed import from_first, torchrun_processes
from training.export import evaluate_on_test, export
from training.fit import fit, is_finished, load_fit_result
from training.handson import MODEL_NAME, handson
from training.handson_report import PAGE_NAME, write_handson_report
from training.options import (
    MlflowOption,
    SafetensorsOption,
    command_line,
    follow_up,
    option,
    print_metrics,
    print_served,
    read_version,
    stoppable,
    with_config,
)
from training.photos.cli import cli as photos_cli
from training.photos.own_classes import relabel_command, teach_command
from training.preview import write_preview
from training.promote import promote, rollback
from training.range_test import range_test, write_range_test
from training.run_comparison import compared, table, write_comparison
from training.tracking import log_version, require_mlflow
from training.worked_examples import write_page

cli = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
photos_cli.command("teach")(teach_command)
photos_cli.command("relabel")(relabel_command)
cli.add_typer(photos_cli, name="photos")


DATA_HELP = (
    "Folder with the four Fashion-MNIST files. Default: $FASHION_MNIST_DIR, then the Debian package "
    "dataset-fashion-mnist, then a download into ./data."
)
DataOption = Annotated[Path | None, option(DATA_HELP, DATA.title, "--data")]
RunOption = Annotated[Path, option("Folder of the run, with its checkpoint.", None, "--run")]
JobsOption = Annotated[int, option("Runs at a time. Default: one for each core.")]
DEFAULT_RUN = Path("runs/fashion-mnist")


@cli.command("fit")
@with_config
def fit_command(
    run: RunOption = DEFAULT_RUN,
    resume: Annotated[bool, option("Go on from the run's checkpoint.", None, "--resume")] = False,
    mlflow: MlflowOption = False,
    tensorboard: Annotated[Path | None, option("Folder for TensorBoard's logs. Default: none are written.")] = None,
    data: DataOption = None,
    *,
    config: FitConfig,
) -> None:
    """Train the network. Ctrl-C stops, --resume goes on after the last finished epoch."""
    if mlflow:
        require_mlflow()
    with torchrun_processes():
        splits = from_first(lambda: load(data, config))
        with stoppable(run):
            fit(
                splits,
                config,
                run_folder=run,
                resume=resume,
                command=command_line(),
                mlflow=mlflow,
                tensorboard=tensorboard,
            )
        print(f"Done. Next: {follow_up('export', '--run', run)}")


@cli.command("preview")
@with_config
def preview_command(
    out: Annotated[Path, option("The PNG to write.")] = Path("runs/preview.png"),
    data: DataOption = None,
    *,
    config: FitConfig,
) -> None:
    """Show what the augmentation makes of a picture of each class."""
    write_preview(load(data, config), config, out)
    print(f"Wrote {out}: a picture of each class, and what is made of it.")


@cli.command("range-test")
@with_config
def range_test_command(
    out: Annotated[Path, option("The PNG to write.")] = Path("runs/range-test.png"),
    steps: Annotated[int, option("Steps from the lowest rate to the highest.")] = 300,
    data: DataOption = None,
    *,
    config: FitConfig,
) -> None:
    """Raise the learning rate from step to step and plot the loss, to find a rate."""
    result = range_test(load(data, config), config, num_steps=steps)
    write_range_test(result, out)
    print(f"Wrote {out}. A tenth of the rate with the lowest loss: --learning-rate {result.suggestion:.2g}")


@cli.command("export")
def export_command(
    run: RunOption = DEFAULT_RUN,
    data: DataOption = None,
    models: Annotated[Path, option("Folder that the service reads.")] = Path("models"),
    name: Annotated[str, option("Name of the model: lower-case letters, digits and hyphens.")] = "fashion-mnist",
    safetensors: SafetensorsOption = False,
) -> None:
    """Write the run as the model's next version: TorchScript, ONNX, card and report, with validation figures."""
    result = load_fit_result(run)
    if not is_finished(result):
        raise ConfigError(
            f"{run} has finished {len(result.history)} of {result.config.epochs} epochs. Go on with fit --resume."
        )
    splits = load(data, result.config)
    print("Exporting, checking parity and measuring on the validation pictures ...")
    artifact = export(result, splits, models_folder=models, name=name, safetensors=safetensors)
    log_version(run, artifact)
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
    outcome = evaluate_on_test(folder, load(data, config))
    print_metrics("test", outcome.measured)
    if outcome.recorded is None:
        print(f"Written into {folder}.")
    elif outcome.recorded.confusion_matrix == outcome.measured.confusion_matrix:
        print(f"The card, measured at {outcome.recorded.measured_at}, says the same.")
    else:
        print(f"The card differs: it says {outcome.recorded.accuracy:.2%}.", file=sys.stderr)
        raise typer.Exit(1)


@cli.command("compare")
def compare_command(
    definition: Annotated[str, typer.Argument(help="A TOML file (see training/compare.py), or the name of a ladder.")],
    out: Annotated[Path | None, option("Folder of the runs and the result. Default: runs/compare/<name>.")] = None,
    jobs: JobsOption = 0,
    against: Annotated[str | None, option("Row that the others are compared with. Default: the first.")] = None,
    data: DataOption = None,
) -> None:
    """Train every row with every seed and compare them. Called again, it goes on where it was stopped."""
    defined, name = read_definition(definition)
    configs = configs_of(defined)
    folder = out or Path("runs") / "compare" / name
    num_jobs, num_threads = share_cores(jobs)
    runs = plan(configs, defined, folder=folder, data=data, num_threads=num_threads, command=command_line())
    with going_on(folder):
        results = compare(runs, num_jobs=num_jobs)
    comparison = compared(results, against=against or results[0].row, command=command_line())
    write_comparison(comparison, folder)
    print(f"\n{table(comparison)}\n\nWrote comparison.json, .csv and .png into {folder}.")


@cli.command("handson")
def handson_command(
    out: Annotated[Path, option("Folder of the runs, the model and the report.")] = Path("runs/handson"),
    ladder: Annotated[str, option("What to train: a TOML file (see training/compare.py), or a ladder.")] = "handson",
    author: Annotated[str | None, option("Whose name stands on the report.")] = None,
    jobs: JobsOption = 0,
    data: DataOption = None,
) -> None:
    """Do the course's hands-on: look at the data, train a ladder, choose, test, export, report. Goes on if stopped."""
    definition, _ = read_definition(ladder)
    num_jobs, num_threads = share_cores(jobs)
    with going_on(out):
        done = handson(
            definition, folder=out, data=data, num_jobs=num_jobs, num_threads=num_threads, command=command_line()
        )
        print_metrics("test", done.card.metrics["test"])
        print("5. Write it up", flush=True)
        serve = f"WARDROBE_MODELS_DIR={shlex.quote(str(done.version.parents[1]))} WARDROBE_DEFAULT_MODEL={MODEL_NAME}"
        pdf = write_handson_report(done, out, author=author, serve=f"{serve} python -m app")
    print(f"Wrote {out / PAGE_NAME}" + (f" and {pdf.name}." if pdf else "."))
    if pdf is None:
        print("No PDF: no Chromium, Chrome or Edge was found to print it. Any browser prints the page.")
    print(f"Serve the result: {serve} {shlex.quote(sys.orig_argv[0])} -m app")


@cli.command("examples")
def examples_command(
    out: Annotated[Path, option("The page to write.")] = Path("runs/worked-examples.html"),
) -> None:
    """Write a page with the examples that the slides work by hand."""
    write_page(out)
    print(f"Wrote {out}.")


@cli.command("promote")
def promote_command(
    folder: Annotated[Path, typer.Argument(help="The version to serve, for instance models/wardrobe/4.")],
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


def share_cores(jobs: int) -> tuple[int, int]:
    """Runs at a time, one for each core where `jobs` is 0, and threads of each."""
    num_cores = os.cpu_count() or 1
    num_jobs = jobs or num_cores
    return num_jobs, max(1, num_cores // num_jobs)


@contextmanager
def going_on(folder: Path) -> Iterator[None]:
    """Ctrl-C ends the process with a line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nStopped. {folder} holds what is done; the same command goes on.")
        raise typer.Exit(130) from None


def load(data: Path | None, config: FitConfig) -> Splits:
    splits = load_for(config, data)
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
