"""Train on photos of clothes, cross-validate, measure on the test photos.

    python -m training photos train FOLDER_OR_CSV ... --name NAME
    python -m training photos evaluate models/NAME/1 FOLDER_OR_CSV ...
    python -m training photos train FOLDER_OR_CSV ... --name NAME --from-corrections EXPORT.zip
    python -m training photos compare models/NAME/1 models/NAME/2 FOLDER_OR_CSV ...

The first fine-tunes, calibrates on the validation photos and writes models/NAME/1; the second measures on the test
part; the third goes on from the version that is served, with what people corrected; the fourth says which is better.
`teach` and `relabel`, which change the classes of a version: own_classes.py.

wardrobe/4 (4,138 photos, efficientnet-lite0, 8 epochs on from version 3, 2026-11-25): 89.4 % of 451 test photos (86.2
to 93.1 % over senders), 57 minutes of training on two cores beside other work. What else was tried: LOG.md.
"""

import csv
import math
import re
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from app.artifact import Artifact, Card, Metrics, RefusalMetrics, Robustness, Study
from app.engines import load_artifact
from training.comparison import COMPARISON_NAME, Comparison, table
from training.config import ConfigError
from training.data import DatasetError
from training.export import next_version
from training.options import (
    MlflowOption,
    SafetensorsOption,
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
from training.photos.compare import compare_corrections, compare_photos
from training.photos.config import NUM_BLOCKS, PhotoConfig
from training.photos.corrections import add_corrections, read_corrections
from training.photos.dataset import Columns, PhotoDataset, is_table, load_photos, read_rows
from training.photos.export import About, evaluate_photos_on_test, export_photos
from training.photos.fit import fit_photos
from training.photos.folds import (
    METRICS_NAME,
    PREDICTIONS_NAME,
    SUSPECTS_NAME,
    cross_validate,
    measure_folds,
    prediction_lines,
    suspect_lines,
    write_lines,
)
from training.photos.labels import DEFAULT_LABELS, LabelMap, every_label_a_class, read_label_map
from training.photos.network import PhotoNetwork, load_exported
from training.photos.splits import VALIDATION
from training.promote import served_version
from training.tracking import log_version, require_mlflow

DEFAULTS = PhotoConfig()
COLUMNS = Columns()
DEFAULT_SIZES, DEFAULT_EPOCHS = joined(DEFAULTS.sizes), joined(DEFAULTS.epochs)
DATA, OPTIMISATION, OUTPUT = "Data", "Optimisation", "Output"
CACHE_FOLDER = Path("data")
# From 39 on, 95 % prediction sets may miss one validation photo; below 19 no class can be ruled out.
ENOUGH_VALIDATION_PHOTOS = 40
NAME_PATTERN = "[a-z0-9][a-z0-9-]*"  # the card's; a bad name is refused before hours of training
# Of a run that goes on from a version with corrections: short and gentle, for that knows nearly everything already.
# Chosen, not tuned.
CORRECTION_EPOCHS, CORRECTION_LEARNING_RATE, CORRECTION_FROZEN_SHARE, CORRECTION_EMA_DECAY = 3, 2e-4, 0.6, 0.98
# What the version that a run goes on from says.
FIXED_BY_VERSION = (
    "labels",
    "image_column",
    "label_column",
    "group_column",
    "part_column",
    "slice_column",
    "backbone",
    "from_version",
    "teacher",
    "seed",
)
LIMITS = (
    "Knows the classes listed here and no others: a garment of another class is called no garment or gets the label of "
    "another one.",
    "One garment in a picture: of several it names one.",
    "Labels have errors, and neighbouring classes often have no sharp border: part of the error cannot be removed.",
)

cli = typer.Typer(help="Train on photos of clothes, cross-validate, measure on the test photos.", no_args_is_help=True)

SourcesArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Folders or CSV files: a CSV beside its pictures, or a folder with a folder of pictures for each class. "
        "A class folder called not-a-garment holds pictures of anything else."
    ),
]
LabelsOption = Annotated[
    Path | None,
    option(
        "TOML file that renames, merges and drops labels. Default: the public clothing data set's, with the classes "
        "that occur, for a CSV with its labels; every label a class otherwise.",
        DATA,
        "--labels",
    ),
]
ExcludeOption = Annotated[
    Path | None,
    option("CSV with a column `image`: training photos whose label is not to be trusted.", DATA, "--exclude"),
]
ImageColumnOption = Annotated[str, option("CSV column with the file name.", DATA)]
LabelColumnOption = Annotated[str, option("CSV column with the label.", DATA)]
GroupColumnOption = Annotated[str, option("CSV column that keeps photos together, for instance their sender.", DATA)]
PartColumnOption = Annotated[
    str, option("CSV column with train, validation or test; empty: split here, by group.", DATA)
]
SliceColumnOption = Annotated[str, option("CSV column that marks rows to report apart.", DATA)]
BackboneOption = Annotated[str, option(f"Network with ImageNet weights: {', '.join(NUM_BLOCKS)}.", OPTIMISATION)]
SizesOption = Annotated[str, option("Sides of the training pictures in pixels, one after the other.", OPTIMISATION)]
EpochsOption = Annotated[str, option("Epochs at each size.", OPTIMISATION)]
BatchSizeOption = Annotated[int, option("Pictures in a step.", OPTIMISATION)]
LearningRateOption = Annotated[float, option("Peak learning rate of the heads.", OPTIMISATION)]
FrozenBlocksOption = Annotated[int, option("Blocks, of 16 or 21, left as ImageNet taught them.", OPTIMISATION)]
SeedOption = Annotated[int, option("Of split, initialisation, shuffling and augmentation.", OPTIMISATION)]


CorrectionsOption = Annotated[
    Path | None,
    option(
        "Export of a wardrobe (GET /items/export.zip), packed or unpacked: go on from the version that is served, with "
        "the pictures that people corrected, and with the data that it was trained on.",
        DATA,
    ),
]


FromVersionOption = Annotated[
    Path | None,
    option(
        "An exported version with these classes: go on from its network instead of the ImageNet weights. What it was "
        "trained on must not be held out here: give its sources, in its order, and its --seed.",
        OPTIMISATION,
    ),
]
TeacherOption = Annotated[
    list[Path] | None,
    option(
        "An exported version with these classes and this last size, for instance models/wardrobe/4; several are "
        "averaged. Their answers are learned beside the labels.",
        OPTIMISATION,
        "--teacher",
    ),
]


@cli.command("train")
def train_command(
    context: typer.Context,
    sources: SourcesArgument,
    name: Annotated[str, option("Name of the model: lower-case letters, digits, hyphens.", OUTPUT)] = "wardrobe",
    models: Annotated[Path, option("Folder that the service reads.", OUTPUT)] = Path("models"),
    run: Annotated[
        Path | None,
        option("Folder of the run. Default: runs/<name>, or runs/<name>-<version> from corrections.", OUTPUT),
    ] = None,
    resume: Annotated[bool, option("Go on from the run's checkpoint.", OUTPUT, "--resume")] = False,
    mlflow: MlflowOption = False,
    gallery: Annotated[bool, option("Show misclassified photos in the report.", OUTPUT, "--gallery")] = False,
    safetensors: SafetensorsOption = False,
    data_name: Annotated[str, option("What the card calls the data.", OUTPUT)] = "photos of clothes",
    data_license: Annotated[str, option("The data's licence, for the card.", OUTPUT)] = "not stated",
    from_corrections: CorrectionsOption = None,
    labels: LabelsOption = None,
    exclude: ExcludeOption = None,
    image_column: ImageColumnOption = COLUMNS.image,
    label_column: LabelColumnOption = COLUMNS.label,
    group_column: GroupColumnOption = COLUMNS.group,
    part_column: PartColumnOption = COLUMNS.part,
    slice_column: SliceColumnOption = COLUMNS.slice,
    backbone: BackboneOption = DEFAULTS.backbone,
    sizes: SizesOption = DEFAULT_SIZES,
    epochs: EpochsOption = DEFAULT_EPOCHS,
    batch_size: BatchSizeOption = DEFAULTS.batch_size,
    learning_rate: LearningRateOption = DEFAULTS.learning_rate,
    frozen_blocks: FrozenBlocksOption = DEFAULTS.frozen_blocks,
    from_version: FromVersionOption = None,
    teacher: TeacherOption = None,
    seed: SeedOption = DEFAULTS.seed,
) -> None:
    """Fine-tune on photos and write the next version of the model. Ctrl-C stops, --resume goes on."""
    if mlflow:
        require_mlflow()
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"--name {name!r} may hold lower-case letters, digits and hyphens.")
    given = {
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    asked: dict[str, Any] = {
        "backbone": backbone,
        "sizes": parse_counts("sizes", sizes),
        "epochs": parse_counts("epochs", epochs),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "frozen_blocks": frozen_blocks,
        "seed": seed,
    }
    excluded = read_excluded(exclude)
    if from_corrections is not None:
        served = served_artifact(models / name)
        config = correction_config(served.card, {key: value for key, value in asked.items() if key in given}, given)
        begun_with: Artifact | None = served
        teachers: list[Artifact] = []
        start: PhotoNetwork | None = network_of(served, recipe_of(served.card)[1], config)
        dataset = load_again(served.folder, served.card, sources, exclude=excluded)
        dataset = with_corrections(dataset, from_corrections, served.card)
        run = run or Path("runs") / f"{name}-{next_version(models / name)}"
        data_name = data_name if "data_name" in given else served.card.data.name
        data_license = data_license if "data_license" in given else served.card.data.license
    else:
        begun_with = None if from_version is None else load_artifact(from_version)
        teachers = [load_artifact(folder) for folder in teacher or []]
        config = PhotoConfig(**asked, teachers=tuple(map(exact_name, teachers)))
        columns = Columns(image_column, label_column, group_column, part_column, slice_column)
        dataset = load(sources, choose_label_map(sources, labels, columns), columns, config, exclude=excluded)
        if labels is None:
            print_other_drawer(dataset.label_map)
        check_teachers(teachers, dataset.label_map, config)
        start = None if begun_with is None else network_of(begun_with, dataset.label_map, config)
        run = run or Path("runs") / name
    with stoppable(run):
        result = fit_photos(
            dataset,
            config,
            run_folder=run,
            resume=resume,
            command=command_line(),
            start=start,
            started_from="" if begun_with is None else exact_name(begun_with),
            teachers=[it.folder for it in teachers],
            mlflow=mlflow,
        )
    print("Exporting, checking parity, calibrating and measuring on the validation photos ...")
    artifact = export_photos(
        result,
        dataset,
        About(
            description=f"Sorts photos of clothes into {', '.join(dataset.label_map.classes)}.",
            data_name=data_name,
            data_license=data_license,
            limits=LIMITS,
        ),
        models_folder=models,
        name=name,
        gallery=gallery,
        safetensors=safetensors,
    )
    log_version(run, artifact)
    print_photo_figures(
        "validation (thresholds were fitted on it)", artifact.card.metrics["validation"], artifact.card.refusals
    )
    if artifact.card.robustness is not None:
        print_robustness(artifact.card.robustness)
    print_decisions(artifact.card.metrics["validation"], config)
    if from_corrections is None:
        next_command = follow_up("photos", "evaluate", artifact.folder, *sources)
    else:
        corrections = ("--corrections", from_corrections)
        next_command = follow_up("photos", "compare", served.folder, artifact.folder, *sources, *corrections)
    print(f"Wrote {artifact.folder}. Next: {next_command}")
    print_served(artifact.folder)


@cli.command("folds")
def folds_command(
    sources: SourcesArgument,
    run: Annotated[Path, option("Folder of the runs; called again, it goes on there.", OUTPUT)] = Path("runs/folds"),
    num_folds: Annotated[int, option("Number of folds.", OPTIMISATION)] = 4,
    labels: LabelsOption = None,
    image_column: ImageColumnOption = COLUMNS.image,
    label_column: LabelColumnOption = COLUMNS.label,
    group_column: GroupColumnOption = COLUMNS.group,
    part_column: PartColumnOption = COLUMNS.part,
    slice_column: SliceColumnOption = COLUMNS.slice,
    backbone: BackboneOption = DEFAULTS.backbone,
    sizes: SizesOption = DEFAULT_SIZES,
    epochs: EpochsOption = DEFAULT_EPOCHS,
    batch_size: BatchSizeOption = DEFAULTS.batch_size,
    learning_rate: LearningRateOption = DEFAULTS.learning_rate,
    frozen_blocks: FrozenBlocksOption = DEFAULTS.frozen_blocks,
    seed: SeedOption = DEFAULTS.seed,
) -> None:
    """Cross-validate by group on all but the test photos; list the labels that look wrong."""
    config = PhotoConfig(
        backbone=backbone,
        sizes=parse_counts("sizes", sizes),
        epochs=parse_counts("epochs", epochs),
        batch_size=batch_size,
        learning_rate=learning_rate,
        frozen_blocks=frozen_blocks,
        seed=seed,
    )
    columns = Columns(image_column, label_column, group_column, part_column, slice_column)
    dataset = load(sources, choose_label_map(sources, labels, columns), columns, config)
    predictions = cross_validate(dataset, config, num_folds=num_folds, run_folder=run, command=command_line())
    class_names = list(dataset.label_map.classes)
    metrics = measure_folds(predictions, class_names, columns)
    (run / METRICS_NAME).write_text(metrics.model_dump_json(indent=1) + "\n")
    lines = prediction_lines(predictions, class_names)
    suspects = suspect_lines(lines)
    write_lines(run / PREDICTIONS_NAME, lines)
    write_lines(run / SUSPECTS_NAME, suspects)
    print_photo_figures("cross-validation", metrics, [])
    print(f"{len(suspects)} labels look wrong: {run / SUSPECTS_NAME}, which --exclude takes.")


@cli.command("evaluate")
def evaluate_command(
    folder: Annotated[Path, typer.Argument(help="An exported version, for instance models/wardrobe/1.")],
    sources: SourcesArgument,
    study: Annotated[list[Path] | None, option("JSON file with a table for the report.", OUTPUT)] = None,
    gallery: Annotated[bool, option("Show misclassified photos in the report.", OUTPUT, "--gallery")] = False,
) -> None:
    """Measure an exported model on the test photos and write the figures into its card, once.

    Labels, columns and split are those of the card. Called again it measures again, compares, and changes nothing.
    """
    dataset = load_again(folder, read_version(folder), sources)
    try:
        studies = [Study.model_validate_json(path.read_bytes()) for path in study or []]
    except (OSError, ValidationError) as error:
        raise ConfigError(f"--study wants JSON with title, text, columns and rows: {error}.") from error
    outcome = evaluate_photos_on_test(folder, dataset, studies=studies, gallery=gallery)
    print_photo_figures("test", outcome.measured, outcome.refusals)
    if outcome.recorded is None:
        print(f"Written into {folder}.")
    elif not outcome.differences:
        print(f"The card, measured at {outcome.recorded.measured_at}, says the same.")
    else:
        print(
            f"The card, measured at {outcome.recorded.measured_at} with accuracy {outcome.recorded.accuracy:.2%}, "
            f"differs: {', '.join(outcome.differences)}.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@cli.command("compare")
def compare_command(
    old: Annotated[Path, typer.Argument(help="A version, for instance models/wardrobe/3.")],
    new: Annotated[Path, typer.Argument(help="Another version of the model, for instance models/wardrobe/4.")],
    sources: SourcesArgument,
    part: Annotated[Literal["validation", "test"], option("Photos that neither was trained on.", DATA)] = VALIDATION,
    corrections: Annotated[Path | None, option("Export whose held-out corrections are asked for apart.", DATA)] = None,
) -> None:
    """Say whether the new version is better, worse or not told apart, by a paired test on the same photos.

    The outcome is kept beside the new version, and promote goes by it. Exit status 1 if it is worse.
    """
    dataset = load_again(old, read_version(old), sources)
    if dataset.sha256 not in read_version(new).data.sha256.values():
        print(f"warning: {new} was trained on other data, perhaps on photos that it is asked about here.")
    artifacts = load_artifact(old), load_artifact(new)
    comparison = compare_photos(*artifacts, dataset, part=part)
    print(table([comparison.overall, *comparison.apart]))
    print("p: exact McNemar test; that of the rows below the first is made larger for their number (Holm).")
    if corrections is not None:
        with read_corrections(corrections, artifacts[0].card, dataset.label_map) as found:
            held_out = found.without(dataset.digests).held_out
            print(f"{len(held_out)} corrections were held out from training.")
            if held_out:
                print(table([compare_corrections(*artifacts, held_out, dataset.label_map)]))
                print("They were corrected because the old version was wrong: they say what was learned, no more.")
    (new / COMPARISON_NAME).write_text(comparison.model_dump_json(indent=1) + "\n")
    print_verdict(comparison, new)
    if comparison.verdict == "worse":
        raise typer.Exit(1)


def print_verdict(comparison: Comparison, new: Path) -> None:
    worse = ", ".join(row.pictures for row in (comparison.overall, *comparison.apart) if row.verdict == "worse")
    print(
        {
            "better": f"{comparison.new} is better than {comparison.old}, and in nothing worse.",
            "worse": f"{comparison.new} is worse than {comparison.old}: {worse}. It will not be promoted.",
            "not told apart": f"{comparison.new} and {comparison.old} are not told apart by these photos.",
        }[comparison.verdict]
    )
    if comparison.verdict != "worse":
        print(f"To let services take it: {follow_up('promote', new)}")


def served_artifact(model_folder: Path) -> Artifact:
    """The version to go on from.

    Raises:
        ConfigError: there is none, or it was not trained on photos.
    """
    version = served_version(model_folder)
    if version is None:
        raise ConfigError(f"{model_folder} has no version to correct. Train one without --from-corrections.")
    artifact = load_artifact(model_folder / str(version))
    recipe_of(artifact.card)
    return artifact


def exact_name(artifact: Artifact) -> str:
    return f"{artifact.card.name}/{artifact.card.version}, SHA-256 of model.pt {artifact.digest}"


def check_teachers(teachers: list[Artifact], label_map: LabelMap, config: PhotoConfig) -> None:
    """Refuse those that answer something else.

    Raises:
        ConfigError: a teacher has other classes, or takes pictures of another size.
    """
    for teacher in teachers:
        if teacher.card.class_names != list(label_map.classes):
            raise ConfigError(
                f"--teacher {teacher.folder} answers {', '.join(teacher.card.class_names)}; the data has "
                f"{', '.join(label_map.classes)}."
            )
        if teacher.card.input.size_pixels not in config.sizes or len(config.sizes) > 1:
            raise ConfigError(
                f"--teacher {teacher.folder} takes pictures of {teacher.card.input.size_pixels} px: --sizes must say "
                "that size alone."
            )


def network_of(start: Artifact, wanted: LabelMap, config: PhotoConfig) -> PhotoNetwork:
    """The network of a version to go on from, for the outputs of the label map `wanted`.

    Raises:
        ConfigError: it has another backbone or other classes.
        ArtifactError: its weights have no names.
    """
    old_config, label_map, _ = recipe_of(start.card)
    if (old_config.backbone, label_map.outputs) != (config.backbone, wanted.outputs):
        raise ConfigError(
            f"--from-version {start.folder} is {old_config.backbone} with {', '.join(label_map.outputs)}; asked for is "
            f"{config.backbone} with {', '.join(wanted.outputs)}."
        )
    return load_exported(start.folder, num_outputs=len(label_map.outputs), backbone=config.backbone)


def recipe_of(card: Card) -> tuple[PhotoConfig, LabelMap, Columns]:
    """What a photo model was trained with.

    Raises:
        ConfigError: it was not trained on photos.
    """
    values = dict(card.training.config)
    if "label_map" not in values:
        raise ConfigError(f"{card.name}/{card.version} was not trained on photos.")
    label_map, columns = LabelMap.from_dict(values.pop("label_map")), Columns(**values.pop("columns"))
    for name in ("num_excluded", "started_from"):
        values.pop(name, None)
    return PhotoConfig.from_dict(values), label_map, columns


def correction_config(card: Card, asked: Mapping[str, Any], given: Set[str]) -> PhotoConfig:
    """How to go on from a version: its own choices, gentler where nothing else was `asked`.

    `given` are the names of all options on the command line.

    Raises:
        ConfigError: an option was given that the version answers itself.
    """
    if fixed := sorted(given & set(FIXED_BY_VERSION)):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in fixed)
        raise ConfigError(f"{options}: {card.name}/{card.version}, which --from-corrections goes on from, says that.")
    config = recipe_of(card)[0]
    gentle = {
        "sizes": (config.size_pixels,),
        "epochs": (CORRECTION_EPOCHS,),
        "learning_rate": CORRECTION_LEARNING_RATE,
        "frozen_blocks": round(CORRECTION_FROZEN_SHARE * NUM_BLOCKS[config.backbone]),
        "teachers": (),
    }
    return PhotoConfig.from_dict({**config.to_dict(), "ema_decay": CORRECTION_EMA_DECAY, **gentle, **asked})


def load_again(folder: Path, card: Card, sources: list[Path], *, exclude: frozenset[str] = frozenset()) -> PhotoDataset:
    """The data that a version was trained on, split as it was then.

    Raises:
        ConfigError: it is other data, or the version was not trained on photos.
    """
    config, label_map, columns = recipe_of(card)
    other_data = f"{', '.join(map(str, sources))} is not the data that {folder} was trained and split on"
    try:
        dataset = load(sources, label_map, columns, config, exclude=exclude)
    except DatasetError as error:
        raise ConfigError(f"{other_data}: {error}") from error
    if dataset.sha256 not in card.data.sha256.values():
        raise ConfigError(f"{other_data}: pictures, labels or parts differ. To use what has changed, train again.")
    return dataset


def with_corrections(dataset: PhotoDataset, export: Path, card: Card) -> PhotoDataset:
    with read_corrections(export, card, dataset.label_map) as found:
        corrections = found.without(dataset.digests)
        print(corrections.summary())
        return add_corrections(dataset, corrections)


def choose_label_map(sources: list[Path], labels: Path | None, columns: Columns) -> LabelMap:
    """The map asked for; else the public data set's, with the classes that occur, if it fits; else every label a class.

    It fits where the first source is a CSV, the labels of all sources are known to it, and one of them is a class.
    """
    if labels is not None:
        return read_label_map(labels)
    found = {row.label for source in sources for row in read_rows(source, columns)[0]}
    default = read_label_map(DEFAULT_LABELS)
    narrowed = default.narrowed(found)
    if is_table(sources[0]) and narrowed.classes and all(map(default.knows, found)):
        return narrowed
    return every_label_a_class()


def read_excluded(path: Path | None) -> frozenset[str]:
    """The column `image` of a CSV.

    Raises:
        ConfigError: it cannot be read or has no such column.
    """
    if path is None:
        return frozenset()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header, lines = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a CSV file with a column `image`.") from error
    if "image" not in header:
        raise ConfigError(f"{path} is not a CSV file with a column `image`.")
    return frozenset(line["image"] for line in lines if line["image"])


def load(
    sources: list[Path],
    label_map: LabelMap,
    columns: Columns,
    config: PhotoConfig,
    *,
    exclude: frozenset[str] = frozenset(),
) -> PhotoDataset:
    dataset = load_photos(
        sources,
        label_map=label_map,
        columns=columns,
        cache_folder=CACHE_FOLDER,
        shares=config.shares,
        seed=config.seed,
        exclude=exclude,
    )
    print(dataset.summary())
    for index, source in enumerate(sources):
        groups = [row.group for row in dataset.photos.rows if row.source == index]
        if groups and len(set(groups)) == len(groups):
            how = (
                f"--group-column names the column of the sender (default: {COLUMNS.group})"
                if is_table(source)
                else "those that belong together go into one folder inside their class folder"
            )
            print(f"{source}: each picture counts as its own sender; {how}.")
    if exclude:
        print(f"labels not trusted: {dataset.num_excluded} of {len(exclude)} listed, in the training photos")
    return dataset


def print_photo_figures(part: str, metrics: Metrics, refusals: list[RefusalMetrics]) -> None:
    """What a person wants to know first; the card has the rest."""
    print_metrics(part, metrics)
    grouped, sets = metrics.grouped, metrics.prediction_sets
    assert grouped is not None
    assert sets is not None
    print(
        f"over {grouped.num_groups} senders: accuracy {spread(grouped.accuracy_interval)}, "
        f"macro recall {grouped.macro_recall:.2%} ({spread(grouped.macro_recall_interval)})"
    )
    print(f"{sets.level:.0%} prediction sets: coverage {sets.coverage:.2%}, mean size {sets.mean_size:.2f}")
    for name, figures in metrics.slices.items():
        of = f"{figures.num_images} of {figures.num_groups} senders"
        print(f"{name}: {figures.accuracy:.2%} of {of} ({spread(figures.accuracy_interval)})")
    for row in refusals:
        of = f"{row.num_images} {row.pictures} of {row.num_groups} senders or sources"
        print(f"called no garment: {row.refused:.2%} of {of} ({spread(row.refused_interval)})")


def print_other_drawer(label_map: LabelMap) -> None:
    others = [name for name, group in label_map.classes.items() if group == "other"]
    if others:
        print(f"in the drawer `other`: {', '.join(others)}. --labels takes a file that says otherwise, see README.md.")


def print_robustness(robustness: Robustness) -> None:
    for form, accuracy in robustness.accuracy.items():
        refused = f", called no garment {robustness.refused[form]:.2%}" if form in robustness.refused else ""
        print(f"validation photos, {form}: accuracy {accuracy:.2%}{refused}")


def print_decisions(validation: Metrics, config: PhotoConfig) -> None:
    """In words, what the service would do with the validation photos, and what to do where it would decide little."""
    counts = {
        decision: validation.slices[name].num_images if (name := f"decision: {decision}") in validation.slices else 0
        for decision in ("sorted", "review", "not_a_garment")
    }
    print(
        f"Of {validation.num_images} validation photos {counts['sorted']} would be sorted, {counts['review']} would be "
        f"for review (a person looks), {counts['not_a_garment']} would be called no garment."
    )
    if counts["review"] <= validation.num_images / 2:
        return
    if validation.num_images < ENOUGH_VALIDATION_PHOTOS:
        num_photos = math.ceil(ENOUGH_VALIDATION_PHOTOS / config.validation_share / 10) * 10
        print(
            f"Most are for review, for want of photos: a single odd one decides what can be ruled out. With about "
            f"{num_photos} photos of garments in all ({ENOUGH_VALIDATION_PHOTOS} for validation) one no longer does."
        )
    else:
        print(
            "Most are for review: the network is unsure. More photos of the classes that the report shows "
            "confused help."
        )


def spread(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "too few for an interval"
