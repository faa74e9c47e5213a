"""Give an exported photo model classes of your own, without training it again.

    python -m training photos teach models/wardrobe/4 my-photos
    python -m training photos relabel models/wardrobe/4 my-labels.toml

The first adds a class for each folder of a dozen pictures; the second renames, merges and moves classes to other
drawers. Both write the next version of the model.

wardrobe/3, three classes of 12 pictures (2026-11-25, one draw): 18 of 37 held-out ones found in 31 s of processor time;
with --data 22 of 37 in 187 s, and 374 of 421 validation photos of its ten classes right, 382 before.
"""

import time
from pathlib import Path
from typing import Annotated, get_args

import typer

from app.artifact import Card, DrawerGroup, Study, verify_digests
from app.engines import load_artifact, load_verified
from training.config import ConfigError
from training.options import command_line, option, print_served, read_version
from training.photos.cli import (
    CACHE_FOLDER,
    COLUMNS,
    DATA,
    load_again,
    print_photo_figures,
    recipe_of,
)
from training.photos.dataset import load_photos, read_rows
from training.photos.derived import Base
from training.photos.labels import LabelMap, read_label_map
from training.photos.network import load_exported
from training.photos.relabel import relabel, relabelling
from training.photos.splits import TRAIN, VALIDATION
from training.photos.teach import CROSS_VALIDATION, check_enough, new_labels, taught_label_map, teach

VersionArgument = Annotated[Path, typer.Argument(help="An exported version, for instance models/wardrobe/4.")]
OriginalOption = Annotated[
    list[Path] | None,
    option(
        "The data that the version was trained on, one --data for each source: new classes are learned against it, and "
        "thresholds fitted and figures measured on its validation photos.",
        DATA,
        "--data",
    ),
]


def teach_command(
    folder: VersionArgument,
    pictures: Annotated[
        Path,
        typer.Argument(
            help="A folder with a folder of about a dozen pictures for each new class. Folders called as classes that "
            "are there already show what is not new: a few of each help where --data is not at hand."
        ),
    ],
    data: OriginalOption = None,
    drawer: Annotated[
        list[str] | None, option("Drawer of a new class, for instance poncho=outerwear. May be repeated.", DATA)
    ] = None,
) -> None:
    """Add classes to an exported model and write its next version. The network is not trained."""
    started = time.perf_counter()
    card = read_version(folder)
    config, label_map, _ = recipe_of(card)
    network = load_exported(folder, num_outputs=len(label_map.outputs), backbone=config.backbone)
    new = new_labels(read_rows(pictures, COLUMNS)[0], label_map)
    classes = drawers_of(new, drawer or [])
    original = load_again(folder, card, data) if data else None
    own = load_photos(
        [pictures],
        label_map=taught_label_map(label_map, classes),
        columns=COLUMNS,
        cache_folder=CACHE_FOLDER,
        shares={TRAIN: 1.0},
        seed=config.seed,
        known=original.digests if original is not None else frozenset(),
    )
    for line in own.left_out():
        print(line)
    check_enough(own.photos.rows, new)
    for label in sorted({row.label for row in own.photos.rows}):
        number = sum(row.label == label for row in own.photos.rows)
        print(f"{label:<24}{number:>4} pictures, {f'new, in {classes[label]}' if label in classes else 'known'}")
    print_drawers(classes)
    verify_digests(folder, card)
    base = Base(load_verified(folder, card, engine="onnxruntime"), label_map)
    artifact = teach(base, network, own, original, models_folder=folder.parent.parent, command=command_line())
    print_outcome(artifact.card)
    print(f"Wrote {artifact.folder} in {time.perf_counter() - started:.0f} s.")
    if original is None:
        print("With --data, the photos that it was trained on, the effect on its other classes is measured too.")
    print_served(artifact.folder)


def relabel_command(
    folder: VersionArgument,
    labels: Annotated[
        Path, typer.Argument(help="TOML file: [rename] old = 'new', twice the same to merge; [classes] new = 'drawer'.")
    ],
    data: OriginalOption = None,
) -> None:
    """Rename, merge and move classes of an exported model, without training, and write its next version."""
    card = read_version(folder)
    _, label_map, _ = recipe_of(card)
    change = relabelling(label_map, read_label_map(labels))
    original = load_again(folder, card, data) if data else None
    base = Base(load_artifact(folder), label_map)
    artifact = relabel(base, change, original, models_folder=folder.parent.parent, command=command_line())
    names = list(label_map.classes)
    for (name, group), members in zip(change.classes.items(), change.members, strict=True):
        print(f"{' + '.join(names[index] for index in members):<32} -> {name}, in {group}")
    print(f"Wrote {artifact.folder}.")
    print_served(artifact.folder)


def drawers_of(labels: list[str], words: list[str]) -> dict[str, DrawerGroup]:
    """Of each new class: as said (label=drawer), else as its name says, else `other`.

    Raises:
        ConfigError: what is said is of no new class or no drawer.
    """
    drawers = dict(LabelMap(classes={}).for_labels(labels).classes)
    there: tuple[DrawerGroup, ...] = get_args(DrawerGroup)
    for word in words:
        label, _, drawer = word.rpartition("=")
        if label not in drawers:
            raise ConfigError(
                f"--drawer {word!r} is of no new class. It must be label=drawer; new: {', '.join(labels)}."
            )
        if drawer not in there:
            raise ConfigError(f"--drawer {word!r} names no drawer. There are: {', '.join(there)}.")
        drawers[label] = there[there.index(drawer)]
    return drawers


def print_drawers(classes: dict[str, DrawerGroup]) -> None:
    others = [label for label, drawer in classes.items() if drawer == "other"]
    if others:
        print(f"in the drawer `other`: {', '.join(others)}. --drawer {others[0]}=tops would put it into another one.")


def print_outcome(card: Card) -> None:
    part = VALIDATION if VALIDATION in card.metrics else CROSS_VALIDATION
    words = "held-out photos of old and new classes" if part == VALIDATION else "own pictures, held out in turn:"
    print_photo_figures(words, card.metrics[part], [])
    for study in card.studies[-2:]:
        print_study(study)


def print_study(study: Study) -> None:
    """Title, text and table as the report has them."""
    table = [study.columns, *study.rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"\n{study.title}\n{study.text}")
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
