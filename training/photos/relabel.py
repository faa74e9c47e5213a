"""Classes of an exported photo model under other names, in other drawers, or merged; nothing is trained."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from app.artifact import ONNX_NAME, TORCHSCRIPT_NAME, Artifact, DrawerGroup, Metrics
from app.engines import load_artifact
from app.engines.torchscript import TorchScriptEngine, load_torchscript
from training.config import ConfigError
from training.export import staged, write_card
from training.photos.dataset import PhotoDataset
from training.photos.derived import Base, derived_card, refitted
from training.photos.evaluate import predict_rows
from training.photos.export import (
    drawn_pictures,
    export_network,
    golden_predictions,
    measure_part,
    write_photo_report,
)
from training.photos.labels import LabelMap
from training.photos.network import ExplainedNetwork, MergedNetwork, load_exported
from training.photos.splits import VALIDATION


@dataclass(frozen=True, slots=True)
class Relabelling:
    """New classes in the order of the outputs, and of each the old ones that it is made of, by their places."""

    classes: dict[str, DrawerGroup]
    members: list[list[int]]
    label_map: LabelMap

    @property
    def merges(self) -> bool:
        return any(len(outputs) > 1 for outputs in self.members)


def relabelling(label_map: LabelMap, changes: LabelMap) -> Relabelling:
    """What `changes` make of the classes; what they do not name stays.

    `rename` gives an old class a new name, and merges where two get the same; `classes` says the drawer of a new name.

    Raises:
        ConfigError: they name a class that is not there, merge classes of two drawers without a word about which,
            or say more than that.
        DatasetError: a new name has another meaning in the label map.
    """
    said = changes.to_dict()
    if more := [key for key, values in said.items() if values and key not in ("classes", "rename")]:
        raise ConfigError(f"Of a version without training only classes and rename can be changed, not {more[0]}.")
    members: dict[str, list[int]] = {}
    for index, label in enumerate(label_map.classes):
        members.setdefault(changes.rename.get(label, label), []).append(index)
    there = ", ".join(label_map.classes)
    for label in (*changes.rename, *changes.classes):
        if label not in label_map.classes and label not in members:
            raise ConfigError(f"There is no class {label!r} to change. There are: {there}.")
    classes: dict[str, DrawerGroup] = {}
    old_groups = list(label_map.classes.values())
    for name, outputs in members.items():
        groups = {old_groups[index] for index in outputs}
        if name not in changes.classes and len(groups) > 1:
            raise ConfigError(f"{name!r} is made of classes in {', '.join(sorted(groups))}: say which under [classes].")
        classes[name] = changes.classes.get(name, old_groups[outputs[0]])
    if classes == dict(label_map.classes):
        raise ConfigError("The label file changes nothing.")
    new = replace(
        label_map,
        classes=classes,
        rename={
            **{label: changes.rename.get(name, name) for label, name in label_map.rename.items()},
            **{label: name for label, name in changes.rename.items() if label != name},
        },
    )
    return Relabelling(classes, list(members.values()), LabelMap.from_dict(new.to_dict()))


def relabel(
    base: Base, change: Relabelling, original: PhotoDataset | None, *, models_folder: Path, command: str
) -> Artifact:
    """Write the next version, with other names, drawers and merged classes; nothing is trained.

    Merging adds probabilities, at the temperature of the base, which is kept. With the `original` data prediction sets
    and review threshold are fitted again; without, they are kept, and figures too unless classes were merged.

    Raises:
        ArtifactError: classes are to be merged and the base's weights cannot be read.
        ParityError: TorchScript or ONNX disagrees with the network.
    """
    old = base.artifact.card
    with staged(models_folder, old.name) as folder:
        if change.merges:
            network = load_exported(
                base.artifact.folder,
                num_outputs=len(base.label_map.outputs),
                backbone=str(old.training.config["backbone"]),
            )
            export_network(
                MergedNetwork(
                    ExplainedNetwork(network), members=change.members, temperature=old.thresholds.temperature
                ),
                folder,
                num_classes=len(change.classes),
                size_pixels=old.input.size_pixels,
                images=torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1) for image in drawn_pictures()]),
            )
        else:
            for name in (TORCHSCRIPT_NAME, ONNX_NAME):
                shutil.copyfile(base.artifact.folder / name, folder / name)
        engine = TorchScriptEngine(load_torchscript(folder / TORCHSCRIPT_NAME))
        card = derived_card(base, change.label_map, folder, command=command)
        if original is None and not change.merges:
            card = card.model_copy(
                update={
                    "metrics": {part: _renamed(metrics, card.class_names) for part, metrics in old.metrics.items()},
                    "robustness": old.robustness,
                }
            )
        elif original is None:
            card = card.model_copy(update={"limits": [*card.limits, _merge_limit(base, change)]})
        else:
            photos = original.photos.part(VALIDATION).labelled_by(change.label_map).with_class(len(change.classes))
            found = predict_rows(Artifact(folder, card, engine), photos.rows, description="validation")
            thresholds = refitted(
                card.thresholds, found.logits, photos.targets, temperature=card.thresholds.temperature
            )
            card = card.model_copy(update={"thresholds": thresholds})
            card = card.model_copy(update={"metrics": {VALIDATION: measure_part(found, photos, card)}})
            write_photo_report(card, folder, found, photos, part=VALIDATION, gallery=False)
        write_card(card.model_copy(update={"golden": golden_predictions(Artifact(folder, card, engine))}), folder)
    return load_artifact(models_folder / old.name / folder.name)


def _renamed(metrics: Metrics, class_names: Sequence[str]) -> Metrics:
    rows = [row.model_copy(update={"label": label}) for row, label in zip(metrics.per_class, class_names, strict=True)]
    return metrics.model_copy(update={"per_class": rows})


def _merge_limit(base: Base, change: Relabelling) -> str:
    old = list(base.label_map.classes)
    merged = "; ".join(
        f"{name} of {' and '.join(old[index] for index in outputs)}"
        for name, outputs in zip(change.classes, change.members, strict=True)
        if len(outputs) > 1
    )
    return (
        f"Merged without pictures to measure with: {merged}. Figures of the classes before are in the card of "
        f"{base.name}. The thresholds are its: the right class is among those offered at least as often as before, for "
        "probabilities only add up; how often a sorted label is right was not measured again."
    )
