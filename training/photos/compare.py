"""Two exported versions on the same photos, each read through the service's decoder and run as exported."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from app.artifact import Artifact
from training.comparison import Comparison, Pairs, compare_pairs
from training.data import DatasetError
from training.photos.dataset import PhotoDataset, Row
from training.photos.evaluate import is_refused, predict_rows
from training.photos.labels import NOT_A_GARMENT, LabelMap


def compare_photos(old: Artifact, new: Artifact, dataset: PhotoDataset, *, part: str) -> Comparison:
    """On one part of the data: the labels of all photos with a class, of each class, and what is called no garment.

    Raises:
        DatasetError: the part has no photo with a class.
    """
    photos = dataset.photos.part(part)
    classes = list(dataset.label_map.classes)
    has_class = photos.has_class(len(classes)).numpy()
    if not has_class.any():
        raise DatasetError(f"The {part} part has no photo with a class.")
    targets = photos.targets.numpy()
    wanted = np.array([classes[target] if known else "" for target, known in zip(targets, has_class, strict=True)])
    answers = [_answers(artifact, photos.rows) for artifact in (old, new)]
    right = np.stack([labels == wanted for labels, _ in answers])  # (2, N)
    refused = np.stack([refused for _, refused in answers])  # (2, N)

    (overall,) = compare_pairs({"all photos with a class": right[:, has_class]})
    apart = {name: right[:, wanted == name] for name in classes}
    apart["garments that are called garments"] = ~refused[:, has_class]
    apart["no garments that are called none"] = refused[:, targets == NOT_A_GARMENT]
    return Comparison(
        old=f"{old.card.name}/{old.card.version}",
        new=f"{new.card.name}/{new.card.version}",
        old_sha256=old.digest,
        new_sha256=new.digest,
        part=part,
        measured_at=datetime.now(UTC).replace(microsecond=0),
        overall=overall,
        apart=compare_pairs({name: pairs for name, pairs in apart.items() if pairs.size}),
    )


def compare_corrections(old: Artifact, new: Artifact, rows: Sequence[Row], label_map: LabelMap) -> Pairs:
    """Whether each version answers corrected pictures as the person did; a garment that is refused is not right."""
    targets = [label_map.target(row.label) for row in rows]
    wanted = np.array([label_map.outputs[target] if target is not None and target >= 0 else "" for target in targets])
    is_garment = np.array([target != NOT_A_GARMENT for target in targets])
    answers = [_answers(artifact, rows) for artifact in (old, new)]
    right = np.stack([np.where(is_garment, (labels == wanted) & ~refused, refused) for labels, refused in answers])
    (pairs,) = compare_pairs({"held-out corrections": right})
    return pairs


def _answers(artifact: Artifact, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """The label of each photo, and whether it is called no garment."""
    predictions = predict_rows(artifact, rows, description=f"{artifact.card.name}/{artifact.card.version}")
    labels = np.array(artifact.card.class_names)[predictions.logits.argmax(1).numpy()]
    return labels, is_refused(predictions, artifact.card.thresholds.garment_score).numpy()
