"""Sort pictures of clothes: serve the classifier, or use it on files and folders.

What a command needs is imported inside it: `serve` does without a command line's packages and `--help` without models.
"""

import asyncio
import importlib.util
import json
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from app import __version__
from app.errors import WardrobeError

if TYPE_CHECKING:
    from app.cli.classify import FileClassifier
    from app.cli.results import Row

cli = typer.Typer(
    help=__doc__.split("\n", maxsplit=1)[0],
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ABOVE_THE_PACKAGE = Path(__file__).parents[2]

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Ask the service at this address, for instance http://127.0.0.1:8000; default: in this process, on all "
        "cores.",
    ),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", envvar="WARDROBE_API_KEY", help="The service's API key, where it wants one.")
]
ModelOption = Annotated[str, typer.Option("--model", help="Name of a model; auto chooses for each picture.")]
ModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--models",
        envvar="WARDROBE_MODELS_DIR",
        help="Folder with the models. Default: ./models if there are any, else those that came with this command.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"wardrobe {__version__}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What is said before a command."""


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: $WARDROBE_HOST, 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: $WARDROBE_PORT, 8000.")
    ] = None,
) -> None:
    """Serve with the settings of the environment until Ctrl-C; `python -m app` alone does the same."""
    chosen = {"WARDROBE_HOST": host, "WARDROBE_PORT": port}
    os.environ.update({name: str(value) for name, value in chosen.items() if value is not None})
    _become("app")  # this process has imported 8 MB that a service does not need


@cli.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Pictures.", metavar="FILE...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list with all that is known.")] = False,
    server: ServerOption = None,
    api_key: KeyOption = None,
    model: ModelOption = "auto",
    models: ModelsOption = None,
) -> None:
    """Say of some pictures what they show. Exits with 1 if one of them cannot be read."""
    rows = asyncio.run(_predict(files, _classifier(server, api_key, model, models)))
    if as_json:
        hidden = ("target", "placed", "num_bytes", "mtime_ns")
        found = [{name: value for name, value in asdict(row).items() if name not in hidden} for row in rows]
        print(json.dumps(found, indent=2))
    else:
        _print_rows(rows)
    if any(row.decision == "error" for row in rows):
        raise typer.Exit(1)


@cli.command()
def sort(
    folder: Annotated[
        Path, typer.Argument(help="Looked through with all folders in it.", exists=True, file_okay=False)
    ],
    csv: Annotated[
        Path | None,
        typer.Option(help="The result, a row for each file. Default: wardrobe-FOLDER.csv in the current folder."),
    ] = None,
    into: Annotated[Path | None, typer.Option(help="Folder for the drawers. Default: only the CSV file.")] = None,
    how: Annotated[
        Literal["copy", "move", "hardlink", "symlink"],
        typer.Option(help="How a file gets into its drawer. Links take no room; a hard link and its original are one."),
    ] = "copy",
    apply: Annotated[
        bool,
        typer.Option("--apply/--dry-run", help="Do it, or only show what --into would do."),
    ] = False,
    rules: Annotated[
        Path | None, typer.Option(help="Which drawer is for what; 'wardrobe rules' prints the default.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Classify afresh what the CSV file has answers for.")] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="In this process, or on the Ray cluster that RAY_ADDRESS names; without it, one of this machine."
        ),
    ] = "local",
    server: ServerOption = None,
    api_key: KeyOption = None,
    model: ModelOption = "auto",
    models: ModelsOption = None,
) -> None:
    """Classify a folder of pictures into a CSV file and, with --into, sort them into drawers.

    Stopped, however hard, and given again, it goes on where it was. Broken files are listed and stop nothing. No file
    is ever written over; `wardrobe undo` takes everything back.
    """
    from app.cli.classify import wanted_sha256
    from app.cli.rules import read_rules
    from app.cli.sort import Drawn, how_to_go_on, sort_folder

    folder = folder.resolve()
    csv = (csv or Path(f"wardrobe-{folder.name}.csv")).resolve()
    if server and engine == "ray":
        raise typer.BadParameter("--engine ray and --server: one of them.")
    if apply and into is None:
        raise typer.BadParameter("--apply wants --into: there is nothing to do without drawers.")
    drawn = None if into is None else Drawn(into.resolve(), how, read_rules(rules), apply)
    try:
        done = sort_folder(
            folder,
            csv=csv,
            drawn=drawn,
            open_classifier=partial(_classifier, server, api_key, model, models, engine),
            expected_sha256=frozenset() if server else wanted_sha256(_models_dir(models), model),
            again=again,
        )
    except KeyboardInterrupt:
        print(how_to_go_on(csv, drawn), file=sys.stderr)
        raise typer.Exit(128 + signal.SIGINT) from None
    if not done:
        raise typer.Exit(1)


@cli.command()
def undo(
    into: Annotated[Path, typer.Argument(help="The folder that was given as --into.", exists=True, file_okay=False)],
    apply: Annotated[bool, typer.Option("--apply/--dry-run", help="Do it, or only show it.")] = False,
) -> None:
    """Take back all that was sorted into a folder, as its wardrobe-undo.jsonl tells it."""
    from app.cli.sort import undo

    if not undo(into.resolve(), apply=apply):
        raise typer.Exit(1)


@cli.command()
def rules() -> None:
    """Print the rules that `sort` goes by, to save in a file, edit, and give it with --rules."""
    from app.cli.rules import DEFAULT_RULES

    print(DEFAULT_RULES, end="")


@cli.command()
def key() -> None:
    """Make an API key: the key for a client, and its SHA-256 for the service, which holds nothing else."""
    import hashlib
    import secrets

    made = secrets.token_urlsafe(32)
    print(f"Authorization: Bearer {made}")
    print(f"WARDROBE_API_KEY_SHA256={hashlib.sha256(made.encode()).hexdigest()}")


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(context: typer.Context) -> None:
    """Train a model: the same as `python -m training`."""
    if not all(importlib.util.find_spec(package) for package in ("training", "torch", "torchvision", "torchmetrics")):
        raise WardrobeError(
            "What training needs is not installed. In a clone of the project: pip install '.[train]', or make install."
        )
    _become("training", *context.args)


def main() -> None:
    """Run the command line; what the user can mend is one line, not a traceback."""
    try:
        cli()
    except WardrobeError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _become(module: str, *arguments: str) -> NoReturn:
    """Run a module of this installation in place of this process, whatever is called app in the current folder."""
    paths = (str(ABOVE_THE_PACKAGE), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 our own interpreter


async def _predict(files: list[Path], opened: "AbstractAsyncContextManager[FileClassifier]") -> "list[Row]":
    async with opened as classifier:
        return [row async for rows in classifier.rows(files) for row in rows]


def _print_rows(rows: "list[Row]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "label", "probability", "decision"):
        # A long path takes more lines; the answer beside it is never cut.
        table.add_column(
            name, no_wrap=name != "file", overflow="fold", justify="right" if name == "probability" else "left"
        )
    for row in rows:
        probability = "" if row.probability is None else f"{row.probability:.1%}"
        table.add_row(*map(escape, (row.path, row.label, probability, row.decision)))
    out = Console(highlight=False, soft_wrap=True)
    out.print(table)
    for row in rows:
        if row.decision != "sorted":
            out.print(f"{row.path}: {row.reason}", markup=False)


def _classifier(
    server: str | None, api_key: str | None, model: str, models: Path | None, engine: str = "local"
) -> "AbstractAsyncContextManager[FileClassifier]":
    from app.cli.classify import local_classifier, remote_classifier

    if engine == "ray":
        return _on_cluster(_models_dir(models), model)
    if server:
        return remote_classifier(server, api_key=api_key, model=model)
    return local_classifier(_models_dir(models), model=model)


def _on_cluster(models_dir: Path, model: str) -> "AbstractAsyncContextManager[FileClassifier]":
    if importlib.util.find_spec("ray") is None:
        raise WardrobeError("Ray is not installed: pip install 'self-sorting-wardrobe[ray]'.")
    from app.cli.cluster import cluster_classifier

    return cluster_classifier(models_dir, model=model)


def _models_dir(models: Path | None) -> Path:
    from app.settings import default_models_dir

    return models or default_models_dir()
