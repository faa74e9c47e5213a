"""A wardrobe as CSV for people and as ZIP to move: `items.jsonl`, `items.csv` and the pictures in their drawers."""

import csv
import hashlib
import io
import itertools
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from app.artifact import Sha256
from app.errors import ImageError, ImportedItemError, ItemNotFoundError, NotAnExportError, WardrobeError
from app.images import sniff_format
from app.store.tables import Correction, Drawer, Item
from app.store.wardrobe import MAX_FILENAME_CHARACTERS, Filter, Wardrobe

JSONL_NAME, CSV_NAME = "items.jsonl", "items.csv"
MAX_LINE_BYTES = 2**20  # chosen, not tuned: an item of a hundred classes and a hundred corrections has 40 KB
CSV_COLUMNS = (
    "id",
    "filename",
    "drawer",
    "label",
    "corrected",
    "predicted_label",
    "probability",
    "decision",
    "reason",
    "model",
    "added_at",
    "changed_at",
)


class _Exported(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExportedCorrection(_Exported):
    id: str = Field(max_length=64)
    label: str | None = Field(max_length=100)
    drawer: Drawer
    made_at: AwareDatetime
    taken_back_at: AwareDatetime | None


class ExportedItem(_Exported):
    """A line of items.jsonl."""

    id: Sha256
    revision: int = Field(ge=1, lt=2**31)
    filename: str | None = Field(max_length=MAX_FILENAME_CHARACTERS)
    added_at: AwareDatetime
    changed_at: AwareDatetime
    prediction: dict[str, Any]
    corrections: list[ExportedCorrection] = Field(max_length=1000)
    picture: str = Field(description="Its file in the archive.")


@dataclass(slots=True)
class Imported:
    """How many items were taken over; `failed` have the file's or line's name and why not."""

    added: int = 0
    merged: int = 0
    unchanged: int = 0
    failed: list[tuple[str, WardrobeError]] = field(default_factory=list)


def export_csv(items: Iterable[Item]) -> Iterator[str]:
    """Lines for a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(CSV_COLUMNS)
    for item in items:
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        prediction = item.prediction
        model = f"{prediction['model']['name']}/{prediction['model']['version']}"
        writer.writerow(
            [
                item.id,
                _no_formula(item.filename or ""),
                item.drawer,
                _no_formula(item.label or ""),
                str(item.corrected).lower(),
                prediction["label"],
                prediction["probability"],
                prediction["decision"],
                prediction["reason"],
                model,
                item.added_at.isoformat(),
                item.changed_at.isoformat(),
            ]
        )
    yield buffer.getvalue()


def export_zip(wardrobe: Wardrobe, chosen: Filter) -> Iterator[bytes]:
    """The archive in pieces, as it is written; nothing but one picture and the lines is in memory.

    What is removed while it runs is left out.
    """
    sink = _Sink()
    lines: list[bytes] = []
    items = []
    with zipfile.ZipFile(sink, "w") as archive:
        for item in wardrobe.walk(chosen):
            try:
                content = wardrobe.picture(item.id)
            except ItemNotFoundError:
                continue
            suffix = (sniff_format(content) or "bin").lower()
            name = f"pictures/{item.drawer}/{item.id}.{suffix}"
            archive.writestr(_entry(name, item.added_at), content)
            lines.append(_line(item, name))
            items.append(item)
            yield sink.take()
        now = max((item.changed_at for item in items), default=datetime(2026, 1, 1))
        archive.writestr(_entry(JSONL_NAME, now), b"".join(lines), zipfile.ZIP_DEFLATED)
        archive.writestr(_entry(CSV_NAME, now), "".join(export_csv(items)), zipfile.ZIP_DEFLATED)
    yield sink.take()


def import_zip(
    wardrobe: Wardrobe,
    file: IO[bytes],
    *,
    parse_prediction: Callable[[dict[str, Any]], dict[str, Any]],
    max_picture_bytes: int,
) -> Imported:
    """Take over what `export_zip` wrote; an item that is wrong does not keep the others out.

    `parse_prediction` raises a ValidationError for what is no prediction.

    Raises:
        NotAnExportError: no such archive.
    """
    imported = Imported()
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise NotAnExportError("it is no ZIP archive") from error
    with archive:
        if JSONL_NAME not in archive.NameToInfo:
            raise NotAnExportError(f"it has no {JSONL_NAME}")
        with archive.open(JSONL_NAME) as lines:
            for number in itertools.count(1):
                name = f"{JSONL_NAME}, line {number}"
                try:
                    line = lines.readline(MAX_LINE_BYTES + 1)
                    if not line:
                        return imported
                    if len(line) > MAX_LINE_BYTES:
                        raise NotAnExportError(f"{name} is longer than {MAX_LINE_BYTES} bytes")
                    if b"\\u0000" in line:
                        raise ImportedItemError("it has a character that no database takes")
                    exported = ExportedItem.model_validate_json(line)
                    name = exported.picture
                    prediction = parse_prediction(exported.prediction)
                    content = _picture(archive, exported, max_picture_bytes)
                    outcome = wardrobe.merge(_row(exported, prediction, len(content)), content)
                    setattr(imported, outcome, getattr(imported, outcome) + 1)
                except ImageError as error:
                    imported.failed.append((name, error))
                except ValidationError as error:
                    first = error.errors()[0]
                    reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
                    imported.failed.append((name, ImportedItemError(reason)))
                except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
                    raise NotAnExportError(f"it is damaged ({error})") from error
    raise AssertionError("unreachable")


def _picture(archive: zipfile.ZipFile, exported: ExportedItem, max_bytes: int) -> bytes:
    try:
        with archive.open(exported.picture) as file:
            content = file.read(max_bytes + 1)
    except KeyError as error:
        raise ImportedItemError("the archive has no such file") from error
    if len(content) > max_bytes:
        raise ImportedItemError(f"it is larger than {max_bytes} bytes")
    if hashlib.sha256(content).hexdigest() != exported.id:
        raise ImportedItemError("it is not the picture that its item was made from")
    if sniff_format(content) is None:
        raise ImportedItemError("it is no picture")
    return content


def _line(item: Item, picture: str) -> bytes:
    exported = ExportedItem(
        id=item.id,
        revision=item.revision,
        filename=item.filename,
        added_at=item.added_at,
        changed_at=item.changed_at,
        prediction=item.prediction,
        corrections=[
            ExportedCorrection(
                id=correction.id,
                label=correction.label,
                drawer=correction.drawer,
                made_at=correction.made_at,
                taken_back_at=correction.taken_back_at,
            )
            for correction in item.corrections
        ],
        picture=picture,
    )
    return exported.model_dump_json().encode() + b"\n"


def _row(exported: ExportedItem, prediction: dict[str, Any], num_bytes: int) -> Item:
    corrections = sorted(exported.corrections, key=lambda correction: correction.made_at)
    return Item(
        **exported.model_dump(exclude={"corrections", "picture", "prediction"}),
        prediction=prediction,
        num_bytes=num_bytes,
        probability=prediction["probability"],
        corrections=[Correction(**correction.model_dump()) for correction in corrections],
    )


def _entry(name: str, time: datetime) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=time.timetuple()[:6])


def _no_formula(text: str) -> str:
    """A file name that a spreadsheet would run as a formula, made text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


class _Sink(io.RawIOBase):
    """Where zipfile writes to; what it wrote is taken piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
