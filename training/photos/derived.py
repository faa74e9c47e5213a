"""A version made from another one without training the network: what they share, and what its card can still say."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from app.artifact import Artifact, Card, ClassInfo, Thresholds
from training.export import digests, library_versions
from training.photos.calibrate import fit_prediction_set, fit_review_threshold
from training.photos.labels import LabelMap


@dataclass(frozen=True, slots=True)
class Base:
    """The version to start from, as it answers, and what became of which label in its training."""

    artifact: Artifact
    label_map: LabelMap

    @property
    def name(self) -> str:
        return f"{self.artifact.card.name}/{self.artifact.card.version}"


def derived_card(base: Base, label_map: LabelMap, folder: Path, *, command: str) -> Card:
    """The base's, for other classes and files, without what was measured with the old ones."""
    old = base.artifact.card
    config = {
        **old.training.config,
        "label_map": label_map.to_dict(),
        "started_from": f"{base.name}, SHA-256 of model.pt {base.artifact.digest}",
    }
    return old.model_copy(
        update={
            "version": int(folder.name),
            "description": f"Sorts photos of clothes into {', '.join(label_map.classes)}.",
            "classes": [ClassInfo(label=label, group=group) for label, group in label_map.classes.items()],
            "metrics": {},
            "robustness": None,
            "training": old.training.model_copy(
                update={
                    "command": command,
                    "config": config,
                    "exported_at": datetime.now(UTC).replace(microsecond=0),
                    "library_versions": library_versions(),
                }
            ),
            "sha256": digests(folder),
        }
    )


def refitted(old: Thresholds, logits: Tensor, labels: Tensor, *, temperature: float) -> Thresholds:
    """All but the garment score, whose part of the network has not changed, from held-out pictures."""
    probabilities = torch.softmax(logits / temperature, 1)
    rule = fit_prediction_set(probabilities, labels)
    return old.model_copy(
        update={
            "temperature": temperature,
            "prediction_set": rule,
            "review_below": fit_review_threshold(probabilities, labels, rule),
        }
    )
