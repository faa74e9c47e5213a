"""What people corrected in their wardrobe, as training pictures: the export of `GET /items/export.zip`.

A correction is used if the model knows the label that the person gave; if only a drawer was named, and the model has
one class in it, that class; and "not a garment" teaches what no garment is. Every other one is listed with the reason.
A fifth of the pictures, by their digest, is held out: nothing is trained on them, `compare` asks for them.
"""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError

from app.artifact import Card
from app.exported import JSONL_NAME, ExportedItem
from training.data import DatasetError
from training.photos.dataset import Dropped, PhotoDataset, Photos, Row, read_images
from training.photos.labels import LabelMap
from training.photos.splits import TRAIN

HELD_OUT_OF = 5  # one of so many; chosen, not tuned
# A corrected garment is shown so often in an epoch: a few among thousands would hardly be seen. Chosen, not tuned.
REPEATS = 5
USUAL_NEGATIVE = "not-a-garment"


class UnusedError(Exception):
    """Why nothing can be learned from a correction."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Corrected pictures with the label that the person gave, and those that cannot be used.

    The rows' names are the SHA-256 of the pictures.
    """

    train: list[Row]
    held_out: list[Row]
    unused: list[Dropped]

    def summary(self) -> str:
        """How many are used for what, and each that is not, with its reason."""
        counts = f"{len(self.train)} to learn from, {len(self.held_out)} held out, {len(self.unused)} not used"
        return "\n".join([f"corrections: {counts}", *(f"not used: {it.path} ({it.reason})" for it in self.unused)])

    def without(self, digests: Collection[str]) -> "Corrections":
        """Those whose picture the data does not have already: there, the data's label and part count."""
        known = [
            Dropped(row.path, "the data has this picture already")
            for row in (*self.train, *self.held_out)
            if row.name in digests
        ]
        return Corrections(
            train=[row for row in self.train if row.name not in digests],
            held_out=[row for row in self.held_out if row.name not in digests],
            unused=[*self.unused, *known],
        )


@contextmanager
def read_corrections(export: Path, card: Card, label_map: LabelMap) -> Iterator[Corrections]:
    """Those of this model's answers in a ZIP, or in the folder that it was unpacked into. The files last as long.

    Raises:
        DatasetError: the export cannot be read.
    """
    train: list[Row] = []
    held_out: list[Row] = []
    unused: list[Dropped] = []
    with tempfile.TemporaryDirectory(prefix="corrections-") as folder:
        try:
            root = export if export.is_dir() else zipfile.Path(export)
            lines = (root / JSONL_NAME).read_bytes().splitlines()
            items = [ExportedItem.model_validate_json(line) for line in lines]
            for item in items:
                if item.standing_correction is None:
                    continue
                try:
                    label = label_of(item, card, label_map)
                    content = _picture(root / item.picture, item.id)
                except UnusedError as error:
                    unused.append(Dropped(Path(item.filename or item.picture), str(error)))
                    continue
                path = Path(folder) / item.id
                path.write_bytes(content)
                row = Row(path, label, group=item.id, name=item.id, part=TRAIN, repeat=REPEATS)
                (held_out if is_held_out(item.id) else train).append(row)
        except (OSError, zipfile.BadZipFile) as error:
            raise DatasetError(
                f"{export} is no export of a wardrobe (GET /items/export.zip), packed or unpacked: {error}."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DatasetError(f"{export} has an item that is none: {place}: {first['msg']}.") from error
        yield Corrections(train, held_out, unused)


def label_of(item: ExportedItem, card: Card, label_map: LabelMap) -> str:
    """The label to learn from an item's correction, as the label map knows it.

    Raises:
        UnusedError: there is none, and why.
    """
    correction = item.standing_correction
    assert correction is not None
    model = item.prediction.get("model")
    answered_by = model.get("name") if isinstance(model, dict) else None
    if answered_by != card.name:
        raise UnusedError(f"answered by {answered_by}, not by {card.name}")
    if correction.drawer == "review":
        raise UnusedError("put into the tray for review")
    if correction.drawer == "not_a_garment":
        if not label_map.negatives:
            raise UnusedError(f"{card.name} does not tell what is no garment")
        return USUAL_NEGATIVE if USUAL_NEGATIVE in label_map.negatives else min(label_map.negatives)
    if correction.label is None:
        classes = [name for name, group in label_map.classes.items() if group == correction.drawer]
        if len(classes) != 1:
            raise UnusedError(f"only the drawer {correction.drawer} was named, with {len(classes)} classes in it")
        return classes[0]
    if label_map.rename.get(correction.label, correction.label) not in label_map.outputs:
        raise UnusedError(f"{correction.label!r} is no class of {card.name}")
    return correction.label


def is_held_out(item_id: str) -> bool:
    """By the picture's SHA-256: the same ones in every export."""
    return int(item_id[:8], 16) % HELD_OUT_OF == 0


def add_corrections(dataset: PhotoDataset, corrections: Corrections) -> PhotoDataset:
    """The data set with the corrections in its training part; the other parts stay as they are."""
    rows = corrections.train
    if not rows:
        raise DatasetError("The export has no correction to learn from.")
    with tempfile.TemporaryDirectory(prefix="corrections-") as cache:
        images, digests, unreadable = read_images([row.path for row in rows], Path(cache))
        assert not unreadable, unreadable  # the wardrobe takes no picture that it cannot decode
        identity = sorted([digest, row.label] for digest, row in zip(digests, rows, strict=True))
        targets = torch.tensor([dataset.label_map.target(row.label) for row in rows])
        photos = dataset.photos
        return replace(
            dataset,
            photos=Photos(
                [*photos.rows, *rows], torch.cat([photos.images, images]), torch.cat([photos.targets, targets])
            ),
            num_corrections=len(rows),
            corrections_sha256=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        )


def _picture(path: Path | zipfile.Path, item_id: str) -> bytes:
    try:
        content = path.read_bytes()
    except (OSError, KeyError) as error:
        raise UnusedError("the export has no such picture") from error
    if hashlib.sha256(content).hexdigest() != item_id:
        raise UnusedError("it is not the picture that was corrected")
    return content
