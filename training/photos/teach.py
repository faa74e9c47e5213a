"""New classes for an exported photo model, from a few pictures of each; the old ones keep their outputs."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from app.artifact import (
    TORCHSCRIPT_NAME,
    Artifact,
    Card,
    DrawerGroup,
    Part,
    PredictionSetRule,
    RefusalMetrics,
    Study,
    Thresholds,
)
from app.engines import load_artifact
from app.engines.torchscript import TorchScriptEngine, load_torchscript
from training.comparison import mcnemar
from training.config import ConfigError
from training.evaluate import fit_temperature, wilson_interval
from training.export import num_parameters, staged, write_card
from training.photos.calibrate import fit_prediction_set
from training.photos.dataset import PhotoDataset, Photos, Row
from training.photos.derived import Base, derived_card, refitted
from training.photos.evaluate import Predictions, interval_by_group, is_refused, measure_refusals, predict_rows
from training.photos.export import (
    NUM_PARITY_IMAGES,
    export_network,
    golden_predictions,
    measure_part,
    write_photo_report,
)
from training.photos.head import HeadRows, fit_rows, held_out_logits, joined, with_rows
from training.photos.labels import LabelMap, same_name
from training.photos.network import ExplainedNetwork, PhotoNetwork
from training.photos.splits import TRAIN, VALIDATION

MIN_PICTURES = 5  # of a new class: chosen, not tuned
MIN_GROUPS = 2  # of a new class: one is held back while the others teach
# Fewer pictures say nothing of a 95 % prediction set: see `fit_prediction_set`.
ENOUGH_FOR_SETS = 19
CROSS_VALIDATION: Part = "cross-validation"


def new_labels(rows: Sequence[Row], label_map: LabelMap) -> list[str]:
    """Labels of pictures that are no class yet. One that was only trained, and never answered, is new as well.

    Raises:
        ConfigError: there is none, or one is an old class in another spelling.
    """
    labels = sorted({row.label for row in rows})
    new = [
        label
        for label in labels
        if label_map.rename.get(label, label) not in label_map.classes and not label_map.is_special(label)
    ]
    if not new:
        raise ConfigError(f"There is no new class to teach: {', '.join(labels)} are no news to this model.")
    for label in new:
        for old in label_map.classes:
            if same_name(label, old):
                raise ConfigError(f"The model has a class {old!r} already: call the folder {label!r} so, or otherwise.")
    return new


def check_enough(rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Refuse classes that cannot be taught, or not be measured.

    Raises:
        ConfigError: one has too few pictures, or all in one group.
    """
    for label in labels:
        groups = [row.group for row in rows if row.label == label]
        if len(groups) < MIN_PICTURES:
            raise ConfigError(
                f"{label!r} has {len(groups)} pictures that can be used. At least {MIN_PICTURES} are needed, to learn "
                "from some and see how it does on the others; a dozen or more is better."
            )
        if len(set(groups)) < MIN_GROUPS:
            raise ConfigError(
                f"All pictures of {label!r} are in one folder inside its folder, as if of one garment: nothing can be "
                "held back to measure with. Put each garment's into a folder of its own, or all directly into it."
            )


def taught_label_map(label_map: LabelMap, classes: Mapping[str, DrawerGroup]) -> LabelMap:
    """With new classes after the old ones, which keep their places."""
    return replace(
        label_map,
        classes={**label_map.classes, **classes},
        auxiliary=tuple(name for name in label_map.auxiliary if name not in classes),
    )


def teach(
    base: Base,
    network: PhotoNetwork,
    own: PhotoDataset,
    original: PhotoDataset | None,
    *,
    models_folder: Path,
    command: str,
) -> Artifact:
    """Write the next version, which also knows the new classes of `own`, whose label map is the taught one.

    `network` is the base's; its head is changed. With the `original` data new classes are fitted against its training
    photos and all thresholds on its validation photos; without, see `widened`.

    Raises:
        ParityError: TorchScript or ONNX disagrees with the network.
    """
    started = time.perf_counter()
    label_map, seed = own.label_map, base.artifact.card.training.seed
    num_old, num_classes = len(base.label_map.classes), len(label_map.classes)
    num_new = num_classes - num_old
    photos = own.photos.with_class(num_classes)
    num_own = len(photos)
    seen = predict_rows(base.artifact, photos.rows, description="own pictures")
    others, other_targets = seen.subset(torch.zeros(len(photos), dtype=torch.bool)), photos.targets[:0]
    validation = photos.subset([])
    if original is not None:
        known = [(row, label_map.target(row.label)) for row in original.photos.rows]
        chosen = [(row, t) for row, t in known if row.part == TRAIN and t is not None and 0 <= t < num_classes]
        others = predict_rows(base.artifact, [row for row, _ in chosen], description="training photos")
        other_targets = torch.tensor([target for _, target in chosen])
        validation = original.photos.part(VALIDATION).labelled_by(label_map).with_class(num_classes)
    head = network.classes
    old = HeadRows(head.weight.detach()[:num_old], head.bias.detach()[:num_old])
    held_out = held_out_logits(seen, photos, others, other_targets, old, num_new=num_new, seed=seed)
    rows = fit_rows(joined(seen, others), torch.cat([photos.targets, other_targets]), old, num_new=num_new)
    network = with_rows(network, rows, old=base.label_map, new=label_map)

    with staged(models_folder, base.artifact.card.name) as folder:
        export_network(
            ExplainedNetwork(network),
            folder,
            num_classes=num_classes,
            size_pixels=base.artifact.card.input.size_pixels,
            images=photos.images[:NUM_PARITY_IMAGES],
        )
        engine = TorchScriptEngine(load_torchscript(folder / TORCHSCRIPT_NAME))
        card = derived_card(base, label_map, folder, command=command)
        measured, part = replace(seen, logits=held_out), CROSS_VALIDATION
        before, thresholds = seen.logits, widened(card.thresholds, held_out, photos.targets)
        if original is not None:
            part = VALIDATION
            before = torch.cat([predict_rows(base.artifact, validation.rows, description="before").logits, before])
            measured = joined(
                predict_rows(Artifact(folder, card, engine), validation.rows, description="after"), measured
            )
            photos = validation.joined(photos)
            temperature = fit_temperature(measured.logits, photos.targets)
            thresholds = refitted(card.thresholds, measured.logits, photos.targets, temperature=temperature)
        taught = taught_study(card, measured, before, photos, num_old=num_old)
        effect = effect_study(card, measured.logits, before, photos, num_old=num_old)
        card = card.model_copy(
            update={
                "thresholds": thresholds,
                "data": base.artifact.card.data.model_copy(
                    update={
                        "source": f"{base.artifact.card.data.source}, {own.source}",
                        "sha256": {**base.artifact.card.data.sha256, f"taught, {own.source}": own.sha256},
                        "num_train": base.artifact.card.data.num_train + num_own,
                        "split_rule": f"{base.artifact.card.data.split_rule}. The {num_own} pictures in {own.source} "
                        "are not among the parts: all teach, and figures about them are of a fit without them and "
                        "their group",
                    }
                ),
                "limits": [
                    *card.limits,
                    taught_limit(base, photos, card.class_names[num_old:], num_old=num_old, part=part),
                ],
                "studies": [*card.studies, taught, effect],
                "training": card.training.model_copy(
                    update={
                        "seconds": card.training.seconds + time.perf_counter() - started,
                        "num_parameters": num_parameters(network),
                    }
                ),
            }
        )
        card = card.model_copy(
            update={
                "golden": golden_predictions(Artifact(folder, card, engine)),
                "metrics": {part: measure_part(measured, photos, card)},
                "refusals": [*card.refusals, *_refusals(card, measured, photos, num_old=num_old)],
            }
        )
        write_card(card, folder)
        write_photo_report(card, folder, measured, photos, part=part, gallery=False)
    return load_artifact(models_folder / card.name / folder.name)


def widened(old: Thresholds, logits: Tensor, labels: Tensor) -> Thresholds:
    """What can be said without the original data: as they were, but for prediction sets, which may only grow.

    They take the classes that the held-out pictures of the new ones ask for, where these are enough to ask.
    """
    if old.prediction_set is None or len(labels) < ENOUGH_FOR_SETS:
        return old
    asked = fit_prediction_set(torch.softmax(logits / old.temperature, 1), labels, level=old.prediction_set.level)
    lowest = min(old.prediction_set.min_probability, asked.min_probability)
    rule = PredictionSetRule(level=old.prediction_set.level, min_probability=lowest)
    return old.model_copy(update={"prediction_set": rule})


def taught_study(card: Card, measured: Predictions, before: Tensor, photos: Photos, *, num_old: int) -> Study:
    """How the new classes' held-out pictures fare. `before` (N, num_old) are the base's logits of the same pictures."""
    predicted, refused = measured.logits.argmax(1), _is_refused(card, measured)
    rows = []
    for index, info in enumerate(card.classes[num_old:], start=num_old):
        of_class = photos.targets == index
        right, groups = predicted[of_class] == index, _groups(photos, of_class)
        names = Counter(card.class_names[label] for label in before[of_class].argmax(1).tolist())
        rows.append(
            [
                info.label,
                info.group,
                str(len(groups)),
                str(len(set(groups))),
                f"{int(right.sum())} of {len(groups)}",
                _spread(right, groups),
                str(int(refused[of_class].sum())),
                ", ".join(f"{name} {number}" for name, number in names.most_common(3)),
            ]
        )
    return Study(
        title=f"Taught classes: {', '.join(card.class_names[num_old:])}",
        text="Each picture as a fit without it and its group calls it. What is called no garment is so by the part of "
        "the network that teaching leaves alone.",
        columns=[
            "class",
            "drawer",
            "pictures",
            "groups",
            "found",
            "95 % interval",
            "called no garment",
            "called before",
        ],
        rows=rows,
    )


def effect_study(card: Card, logits: Tensor, before: Tensor, photos: Photos, *, num_old: int) -> Study:
    """What the classes that were there lose: of their own pictures where there are some, else of the new ones."""
    predicted, called = logits.argmax(1), before.argmax(1)
    title, old = "Effect on the classes that were there", card.class_names[:num_old]
    is_old = photos.targets < num_old
    if not is_old.any():
        rows = [
            [label, str(int((called == index).sum())), str(int((predicted == index).sum()))]
            for index, label in enumerate(old)
        ]
        return Study(
            title=title,
            text="There was no picture of theirs to measure with: how many of those the new classes take is not known. "
            "Of the new classes' pictures, held out, they were given and are still given:",
            columns=["class", "new pictures before", "new pictures now"],
            rows=rows,
        )
    was_right, is_right = called == photos.targets, predicted == photos.targets
    rows = []
    for label, mask in [*((label, photos.targets == index) for index, label in enumerate(old)), ("all", is_old)]:
        if mask.any():
            counts = [mask, mask & was_right, mask & is_right, mask & (predicted >= num_old)]
            rows.append([label, *(str(int(flags.sum())) for flags in counts)])
    only_before, only_now = (
        int((is_old & one & ~other).sum()) for one, other in ((was_right, is_right), (is_right, was_right))
    )
    return Study(
        title=title,
        text=f"On held-out pictures of theirs, paired: {only_before} were right before only, {only_now} are right now "
        f"only; exact McNemar test p = {mcnemar(only_before, only_now):.3f}.",
        columns=["class", "pictures", "right before", "right now", "taken by a new class"],
        rows=rows,
    )


def taught_limit(base: Base, photos: Photos, names: Sequence[str], *, num_old: int, part: Part) -> str:
    """What a reader of the card has to know of classes that were taught."""
    number = int((photos.targets >= num_old).sum())
    limit = (
        f"{', '.join(names)}: taught to {base.name} with few pictures; their figures are of {number} held-out ones. "
        "The network itself was not trained on them."
    )
    if part == VALIDATION:
        return limit
    number_old = int((photos.targets < num_old).sum())
    said = base.artifact.card.metrics.get("test") or base.artifact.card.metrics.get(VALIDATION)
    figure = f" (it named {said.accuracy:.1%} of {said.num_images} pictures right)" if said else ""
    return (
        f"{limit} How many pictures of the other classes they take was measured on {number_old} pictures: figures of "
        f"those classes are in the card of {base.name}{figure}. Temperature and review threshold are those of "
        f"{base.name}; its prediction sets may have grown, so that they hold the new classes as often as it promises."
    )


def _is_refused(card: Card, predictions: Predictions) -> Tensor:
    return is_refused(predictions, card.thresholds.garment_score)


def _groups(photos: Photos, chosen: Tensor) -> list[str]:
    return [photos.rows[index].group for index in chosen.nonzero().flatten().tolist()]


def _spread(flags: Tensor, groups: Sequence[str]) -> str:
    """95 % interval of the share that is set."""
    independent = len(set(groups)) == len(groups)
    interval = wilson_interval(int(flags.sum()), len(flags)) if independent else interval_by_group(flags, groups)
    return f"{interval[0]:.0%} to {interval[1]:.0%}" if interval else "too few groups"


def _refusals(card: Card, predictions: Predictions, photos: Photos, *, num_old: int) -> list[RefusalMetrics]:
    """How many pictures of each new class are called no garment."""
    threshold = card.thresholds.garment_score
    if threshold is None or predictions.garment is None:
        return []
    rows = []
    for index, label in enumerate(card.class_names[num_old:], start=num_old):
        chosen = photos.targets == index
        rows.append(
            measure_refusals(
                label,
                predictions.garment[chosen],
                _groups(photos, chosen),
                threshold=threshold,
                is_garment=True,
                part=CROSS_VALIDATION,
            )
        )
    return rows
