"""A wardrobe as CSV for people and as ZIP to move: `items.jsonl`, `items.csv` and the pictures in their drawers."""

import csv
import hashlib
import io
import itertools
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from pydantic import ValidationError

from app.errors import ImportedItemError, ItemNotFoundError, NoRoomError, NotAnExportError, WardrobeError
from app.exported import JSONL_NAME, ExportedCorrection, ExportedItem
from app.images import sniff_format
from app.store.tables import Correction, Item, PossibleDuplicate
from app.store.wardrobe import Filter, Wardrobe

CSV_NAME = "items.csv"
MAX_LINE_BYTES = 2**20  # chosen, not tuned: an item of a hundred classes and a hundred corrections has 40 KB
MAX_WRONG_ITEMS = 1000  # chosen, not tuned: a kilobyte of archive can unpack to a million lines
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


@dataclass(slots=True)
class Imported:
    """How many items were taken over, by what `Wardrobe.merge` said; `failed` have file or line, and why not."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, WardrobeError]] = field(default_factory=list)


def export_csv(items: Iterable[Item]) -> Iterator[str]:
    """Lines for a spreadsheet."""
    yield _csv_line(CSV_COLUMNS)
    for item in items:
        yield _csv_line(_csv_cells(item))


def export_zip(wardrobe: Wardrobe, chosen: Filter) -> Iterator[bytes]:
    """The archive in pieces, as it is written; nothing but one picture and the lines is in memory.

    What is removed while it runs is left out.
    """
    sink = _Sink()
    lines: list[bytes] = []
    csv_lines = [_csv_line(CSV_COLUMNS)]
    newest = datetime(2026, 1, 1, tzinfo=UTC)
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
            csv_lines.append(_csv_line(_csv_cells(item)))
            newest = max(newest, item.changed_at)
            yield sink.take()
        archive.writestr(_entry(JSONL_NAME, newest), b"".join(lines), zipfile.ZIP_DEFLATED)
        archive.writestr(_entry(CSV_NAME, newest), "".join(csv_lines), zipfile.ZIP_DEFLATED)
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
        NotAnExportError: no such archive, or too much of it is wrong; what was taken over before stays.
    """
    imported = Imported()
    seen: set[str] = set()
    num_wrong = 0
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise NotAnExportError("it is no ZIP archive") from error
    with archive:
        if JSONL_NAME not in archive.NameToInfo:
            raise NotAnExportError(f"it has no {JSONL_NAME}")
        with archive.open(JSONL_NAME) as lines:
            for number in itertools.count(1):
                if num_wrong > MAX_WRONG_ITEMS:
                    raise NotAnExportError(f"more than {MAX_WRONG_ITEMS} of its items are wrong")
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
                    if exported.id in seen:
                        raise ImportedItemError("it is in the archive twice")
                    seen.add(exported.id)
                    prediction = parse_prediction(exported.prediction)
                    content = _picture(archive, exported, max_picture_bytes)
                    imported.outcomes[wardrobe.merge(_row(exported, prediction, len(content)), content)] += 1
                except NoRoomError as error:  # at most once for each picture in the archive
                    imported.failed.append((name, error))
                except ImportedItemError as error:
                    num_wrong += 1
                    imported.failed.append((name, error))
                except ValidationError as error:
                    num_wrong += 1
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
        corrections=[ExportedCorrection.model_validate(it, from_attributes=True) for it in item.corrections],
        possible_duplicate_of=item.possible_duplicate_of,
        picture=picture,
    )
    return exported.model_dump_json().encode() + b"\n"


def _row(exported: ExportedItem, prediction: dict[str, Any], num_bytes: int) -> Item:
    corrections = sorted(exported.corrections, key=lambda correction: correction.made_at)
    other_id = exported.possible_duplicate_of
    return Item(
        **exported.model_dump(exclude={"corrections", "picture", "prediction", "possible_duplicate_of"}),
        prediction=prediction,
        num_bytes=num_bytes,
        probability=prediction["probability"],
        corrections=[Correction(**correction.model_dump()) for correction in corrections],
        possible_duplicate=other_id and PossibleDuplicate(other_id=other_id),
    )


def _entry(name: str, time: datetime) -> zipfile.ZipInfo:
    year = min(max(time.year, 1980), 2107)  # what a ZIP can say
    return zipfile.ZipInfo(name, date_time=(year, *time.timetuple()[1:6]))


def _csv_line(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _csv_cells(item: Item) -> list[object]:
    prediction = item.prediction
    return [
        item.id,
        _no_formula(item.filename or ""),
        item.drawer,
        _no_formula(item.label or ""),
        str(item.corrected).lower(),
        prediction["label"],
        prediction["probability"],
        prediction["decision"],
        prediction["reason"],
        f"{prediction['model']['name']}/{prediction['model']['version']}",
        item.added_at.isoformat(),
        item.changed_at.isoformat(),
    ]


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
