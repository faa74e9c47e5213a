"""What is kept: adding, finding, correcting and removing items. Blocking: call it from a worker thread.

A file is written before its row and removed after it, so that whenever the process is killed every row has its
picture; at the next start, what was left unfinished is removed and a picture without a row put aside.
"""

import errno
import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import (
    ImportedItemError,
    ItemChangedError,
    ItemNotFoundError,
    NoRoomError,
    NothingToUndoError,
    StorageOffError,
    StorageUnavailableError,
    UnknownLabelError,
    WardrobeError,
)
from app.exported import MAX_FILENAME_CHARACTERS
from app.settings import Settings
from app.store.database import Database, database_url
from app.store.pictures import Pictures
from app.store.similar import Embedded, nearest, unpack
from app.store.tables import Correction, Embedding, Identity, Item, PossibleDuplicate

SPARE_BYTES = 256 * 2**20  # of the disk, left to others; chosen, not tuned
RETRY_OPENING_SECONDS = 2
MAX_NAMED_IN_LOG = 20
DUPLICATE_SIMILARITY = 0.97  # measured by benchmarks/similar.py: README, "Keep it"

SortKey = Literal["added", "changed", "label", "filename", "probability"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewItem:
    """A picture with what a model said of it; `prediction` is kept as it is."""

    id: str
    filename: str | None
    content: bytes
    prediction: dict[str, Any]
    embedded: Embedded | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """An item, and whether it was not there before."""

    item: Item
    is_new: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A label, a drawer or both; or that the last correction is taken back."""

    label: str | None = None
    drawer: str | None = None
    undo: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items; `words` must all be in file name, label or drawer, in any case.

    `possible_duplicate`: those that look much like another one, or those that do not.
    """

    drawers: Sequence[str] = ()
    labels: Sequence[str] = ()
    corrected: bool | None = None
    words: Sequence[str] = ()
    possible_duplicate: bool | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found = [Item.search.contains(word.casefold(), autoescape=True) for word in self.words]
        if self.drawers:
            found.append(Item.drawer.in_(self.drawers))
        if self.labels:
            found.append(Item.label.in_(self.labels))
        if self.corrected is not None:
            found.append(Item.corrected.is_(self.corrected))
        if self.possible_duplicate is not None:
            has_one = Item.possible_duplicate.has()
            found.append(has_one if self.possible_duplicate else ~has_one)
        return found


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the items, where the next page begins (None: nowhere), and counts.

    `num_matching` are those of the filter, `drawers` all there are.
    """

    items: list[Item]
    next: tuple[Any, str] | None
    num_matching: int
    drawers: dict[str, int] = field(default_factory=dict)


class Wardrobe:
    """Everything raises StorageOffError where nothing is kept, StorageUnavailableError where it cannot be now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pictures = Pictures(settings.data_dir)
        self._opening = threading.Lock()
        self._opened: Database | None = None
        self._failure: StorageUnavailableError | None = None
        self._failed_at = 0.0

    def open(self) -> None:
        """Make or update folder and tables, and sweep up; does nothing when that was done.

        Where it fails, the next call after RETRY_OPENING_SECONDS tries again: a database may start after us.
        """
        self._database()

    def close(self) -> None:
        self._pictures.close()
        if self._opened is not None:
            self._opened.engine.dispose()

    def find(self, ids: Sequence[str]) -> dict[str, Item]:
        """Those of the items that are there."""
        with self._reading() as session:
            return {item.id: item for item in session.scalars(select(Item).where(Item.id.in_(ids)))}

    def get(self, item_id: str) -> Item:
        found = self.find([item_id]).get(item_id)
        if found is None:
            raise ItemNotFoundError(item_id)
        return found

    def add(self, new_items: Sequence[NewItem]) -> dict[str, Added | WardrobeError]:
        """Keep pictures, each of other bytes; by id the item or why there is none.

        One that looks much like another one says so. All embeddings are of one model.
        """
        outcomes: dict[str, Added | WardrobeError] = {}
        self.open()
        with self._locked(exclusive=False):
            room = self._room()
            for new in new_items:
                if len(new.content) > room:
                    outcomes[new.id] = NoRoomError(self._settings.max_stored_bytes)
                    continue
                try:
                    self._pictures.write(new.id, new.content)
                except OSError as error:
                    outcomes[new.id] = self._no_room_or_raise(error)
                    continue
                room -= len(new.content)
            kept = [new for new in new_items if new.id not in outcomes]
            made = [_made(new) for new in kept]
            embedded = {new.id: new.embedded for new in kept if new.embedded is not None}
            twins = self._twins(embedded)
            with self._writing() as session:
                added = {}
                # In one order, so that two requests with the same pictures cannot wait for each other.
                for item in sorted(made, key=lambda item: item.id):
                    added[item.id] = _insert(session, item)
                for item_id, outcome in added.items():
                    if outcome.is_new and item_id in embedded:
                        session.add(_row_of(item_id, embedded[item_id]))
                    if outcome.is_new and item_id in twins:
                        outcome.item.possible_duplicate = PossibleDuplicate(other_id=twins[item_id])
        return outcomes | added

    def page(
        self,
        chosen: Filter,
        *,
        sort: SortKey = "added",
        descending: bool = True,
        limit: int = 100,
        after: tuple[Any, str] | None = None,
    ) -> Page:
        """Items in an order that others' additions and removals do not disturb, from behind `after` on."""
        column = _sort_column(sort)
        conditions = chosen.conditions()
        query = select(Item).where(*conditions)
        place = tuple_(column, Item.id)
        if after is not None:
            query = query.where(place < after if descending else place > after)
        order = [part.desc() if descending else part.asc() for part in (column, Item.id)]
        with self._reading() as session:
            found = list(session.scalars(query.order_by(*order).limit(limit + 1)))
            num_matching = session.scalar(select(func.count()).select_from(Item).where(*conditions)) or 0
            counts = session.execute(select(Item.drawer, func.count()).group_by(Item.drawer))
            drawers = dict(counts.all())
        items = found[:limit]
        following = (_sort_value(items[-1], sort), items[-1].id) if len(found) > limit else None
        return Page(items, following, num_matching, drawers)

    def walk(self, chosen: Filter, *, page_size: int = 200) -> Iterator[Item]:
        """Every matching item, oldest first, each page in a transaction of its own."""
        after: tuple[Any, str] | None = None
        while True:
            page = self.page(chosen, descending=False, limit=page_size, after=after)
            yield from page.items
            if page.next is None:
                return
            after = page.next

    def change(self, wanted: Sequence[tuple[str, int | None]], change: Change) -> list[Item | WardrobeError]:
        """Correct items given by id and the revision that was seen (None: whatever it is); in one transaction."""
        with self._writing() as session:
            found = _for_update(session, [item_id for item_id, _ in wanted])
            outcomes: list[Item | WardrobeError] = []
            for item_id, revision in wanted:
                try:
                    item = _seen(found, item_id, revision)
                    _apply(item, change)
                    outcomes.append(item)
                except WardrobeError as error:
                    outcomes.append(error)
        return outcomes

    def delete(self, wanted: Sequence[tuple[str, int | None]]) -> list[WardrobeError | None]:
        """Remove items given by id and the revision that was seen: rows, picture and thumbnails.

        Raises:
            StorageUnavailableError: files of some are left, though their rows are gone.
        """
        outcomes: list[WardrobeError | None] = []
        self.open()
        with self._locked(exclusive=True):
            removed = []
            with self._writing() as session:
                found = _for_update(session, [item_id for item_id, _ in wanted])
                for item_id, revision in wanted:
                    try:
                        session.delete(_seen(found, item_id, revision))
                    except WardrobeError as error:
                        outcomes.append(error)
                        continue
                    removed.append(found.pop(item_id).id)
                    outcomes.append(None)
            failures = [error for item_id in removed for error in self._pictures.remove(item_id)]
        if failures:
            raise self._failed(failures[0])
        return outcomes

    def merge(self, item: Item, content: bytes) -> Literal["added", "merged", "unchanged"]:
        """Take over an item of another wardrobe; one that is here gets the corrections that it did not have.

        Raises:
            NoRoomError: its picture does not fit.
            ImportedItemError: somebody else is adding it.
        """
        self.open()
        with self._locked(exclusive=False):
            if item.id not in self.find([item.id]):
                if len(content) > self._room():
                    raise NoRoomError(self._settings.max_stored_bytes)
                try:
                    self._pictures.write(item.id, content)
                except OSError as error:
                    raise self._no_room_or_raise(error) from error
            with self._writing() as session:
                try:
                    with session.begin_nested():
                        return _merge(session, item)
                except IntegrityError as error:
                    raise ImportedItemError(
                        "it, or a correction of it, was added by somebody else meanwhile"
                    ) from error

    def keep_both(self, item_id: str) -> Item:
        """Somebody looked: this is no duplicate."""
        with self._writing() as session:
            item = _seen(_for_update(session, [item_id]), item_id, None)
            item.possible_duplicate = None
        return item

    def embedding(self, item_id: str, *, model: str) -> Embedded | None:
        """The one that is kept, if it is of this model."""
        with self._reading() as session:
            found = session.get(Embedding, item_id)
        return unpack(found) if found is not None and found.model == model else None

    def keep_embedding(self, item_id: str, embedded: Embedded) -> None:
        """In place of an older one; does nothing where the item is gone. An empty vector says that there is none."""
        with self._writing() as session, suppress(IntegrityError), session.begin_nested():
            session.merge(_row_of(item_id, embedded))

    def without_embedding(self, model: str, *, limit: int) -> list[str]:
        """Items that have none of this model, newest first."""
        query = select(Item.id).where(_has_no_embedding(model)).order_by(Item.added_at.desc()).limit(limit)
        with self._reading() as session:
            return list(session.scalars(query))

    def num_without_embedding(self, model: str) -> int:
        with self._reading() as session:
            return session.scalar(select(func.count()).select_from(Item).where(_has_no_embedding(model))) or 0

    def nearest(self, wanted: Sequence[Embedded], *, limit: int) -> list[list[tuple[float, Item]]]:
        """For each picture the items most similar to it, nearest first, with the cosine similarity."""
        with self._reading() as session:
            found = nearest(session, wanted, limit=limit)
        items = self.find(list({item_id for neighbours in found for _, item_id in neighbours}))
        return [
            [(similarity, items[item_id]) for similarity, item_id in neighbours if item_id in items]
            for neighbours in found
        ]

    def spool(self) -> IO[bytes]:
        """A nameless file for an upload that does not fit into memory; gone when it is closed or we are killed."""
        self.open()
        try:
            return tempfile.TemporaryFile(dir=self._settings.data_dir)
        except OSError as error:
            raise self._failed(error) from error

    def write_to_spool(self, file: IO[bytes], data: bytes) -> None:
        """Append, as long as the disk has room.

        Raises:
            NoRoomError: it has none.
        """
        if len(data) > shutil.disk_usage(self._settings.data_dir).free - SPARE_BYTES:
            raise NoRoomError(self._settings.max_stored_bytes)
        try:
            file.write(data)
        except OSError as error:
            raise self._no_room_or_raise(error) from error

    def has_picture(self, item_id: str) -> bool:
        """Whether the original is there, without reading it."""
        self.open()
        return self._pictures.has(item_id)

    def picture(self, item_id: str) -> bytes:
        """The bytes of the original."""
        self.open()
        with self._missing_file_is_missing_item(item_id):
            return self._pictures.read(item_id)

    def thumbnail(self, item_id: str, *, size_pixels: int) -> bytes:
        """A JPEG; `size_pixels` is one of THUMBNAIL_SIZES_PIXELS."""
        self.open()
        with self._missing_file_is_missing_item(item_id):
            return self._pictures.thumbnail(
                item_id, size_pixels=size_pixels, max_pixels=self._settings.max_image_pixels
            )

    def _database(self) -> Database:
        if not self._settings.keeps_items:
            raise StorageOffError
        with self._opening:
            if self._opened is not None:
                return self._opened
            if self._failure is not None and time.monotonic() - self._failed_at < RETRY_OPENING_SECONDS:
                raise self._failure
            try:
                self._opened = self._open()
            except Exception as error:  # whatever a disk, a driver or a migration raises: the classifier goes on
                logger.exception("items cannot be kept")
                self._failed_at = time.monotonic()
                self._failure = _unavailable(error, self._settings.data_dir)
                raise self._failure from error
            return self._opened

    def _open(self) -> Database:
        url = self._settings.database_url
        database = Database(database_url(url.get_secret_value() if url else None, self._settings.data_dir))
        self._pictures.prepare()
        with self._pictures.locked(exclusive=True):
            database.migrate()
            _check_identity(database, self._pictures)
            with database.read.begin() as session:
                known = set(session.scalars(select(Item.id)))
            num_removed, moved = self._pictures.sweep(known)
        logger.info(
            "%d items in %s; %d unfinished or stray files removed", len(known), self._settings.data_dir, num_removed
        )
        if moved:
            named = ", ".join(moved[:MAX_NAMED_IN_LOG]) + (", ..." if len(moved) > MAX_NAMED_IN_LOG else "")
            logger.warning("%d pictures without an item moved to %s: %s", len(moved), self._pictures.stray, named)
        return database

    def _twins(self, embedded: dict[str, Embedded]) -> dict[str, str]:
        """Of new pictures those that look much like one that is here, or like one before them; by id the other's."""
        with self._reading() as session:
            kept = dict(zip(embedded, nearest(session, list(embedded.values()), limit=1), strict=True))
        twins, before = {}, dict[str, np.ndarray]()
        for item_id, its in embedded.items():
            unit = its.unit()
            similar = [*kept[item_id], *((float(other @ unit), other_id) for other_id, other in before.items())]
            similarity, other_id = max(similar, default=(0.0, ""))
            if similarity >= DUPLICATE_SIMILARITY:
                twins[item_id] = other_id
            before[item_id] = unit
        return twins

    @contextmanager
    def _reading(self) -> Generator[Session, None, None]:
        database = self._database()
        with self._database_errors(), database.read.begin() as session:
            yield session

    @contextmanager
    def _writing(self) -> Generator[Session, None, None]:
        database = self._database()
        with self._database_errors(), database.write.begin() as session:
            yield session

    @contextmanager
    def _database_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except SQLAlchemyError as error:  # of the database, of a value that it does not take, of the connection pool
            logger.exception("the database failed")
            raise _unavailable(error, self._settings.data_dir) from error

    @contextmanager
    def _locked(self, *, exclusive: bool) -> Generator[None, None, None]:
        try:
            held = self._pictures.locked(exclusive=exclusive)
            held.__enter__()
        except OSError as error:
            raise self._failed(error) from error
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    @contextmanager
    def _missing_file_is_missing_item(self, item_id: str) -> Generator[None, None, None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ItemNotFoundError(item_id) from error
        except OSError as error:
            raise self._failed(error) from error

    def _room(self) -> int:
        """Bytes that may still be written: to the limit, and to what is left to others of the disk."""
        with self._reading() as session:
            num_stored = session.scalar(select(func.coalesce(func.sum(Item.num_bytes), 0))) or 0
        on_disk = shutil.disk_usage(self._settings.data_dir).free - SPARE_BYTES
        return min(self._settings.max_stored_bytes - num_stored, on_disk)

    def _no_room_or_raise(self, error: OSError) -> NoRoomError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoRoomError(self._settings.max_stored_bytes)
        raise self._failed(error) from error

    def _failed(self, error: OSError) -> StorageUnavailableError:
        logger.error("the picture folder failed", exc_info=error)
        return _unavailable(error, self._settings.data_dir)


def _check_identity(database: Database, pictures: Pictures) -> None:
    """Refuse a database and a folder that do not belong together: sweeping would put every picture aside."""
    with database.write.begin() as session:
        identity = session.scalar(select(Identity.id))
        if identity is None:
            identity = uuid.uuid4().hex
            session.add(Identity(id=identity))
    said = pictures.identity()
    if said is None and not pictures.any():  # new, or killed here the first time
        pictures.set_identity(identity)
    elif identity != said:
        raise StorageUnavailableError(
            f"The pictures under {pictures.folder} belong to another database than the one given. Give the one "
            "that belongs to them, or another WARDROBE_DATA_DIR.",
            RETRY_OPENING_SECONDS,
        )


def _unavailable(error: Exception, folder: Path) -> StorageUnavailableError:
    if isinstance(error, StorageUnavailableError):
        return error
    if isinstance(error, OSError):
        reason = f"the folder {folder} cannot be written ({error.strerror})"
    elif isinstance(error, SQLAlchemyError):
        reason = "the database cannot be reached or is too busy"
    else:
        reason = f"the database cannot be used ({error})"
    return StorageUnavailableError(f"Items cannot be kept now: {reason}. POST /predict goes on.", RETRY_OPENING_SECONDS)


def _made(new: NewItem) -> Item:
    now = datetime.now(UTC)
    name = new.filename and new.filename.replace("\x00", "")[-MAX_FILENAME_CHARACTERS:]  # PostgreSQL takes no NUL
    item = Item(
        id=new.id,
        revision=1,
        filename=name or None,
        num_bytes=len(new.content),
        added_at=now,
        changed_at=now,
        prediction=new.prediction,
        probability=new.prediction["probability"],
        corrections=[],
        possible_duplicate=None,
    )
    item.settle()
    return item


def _insert(session: Session, item: Item) -> Added:
    """Add a row; if another request was faster, its item."""
    present = session.get(Item, item.id)
    if present is not None:
        return Added(present, is_new=False)
    try:
        with session.begin_nested():
            session.add(item)
    except IntegrityError:  # between the two lines above; not on SQLite, where there is one writer
        return Added(session.get_one(Item, item.id), is_new=False)
    return Added(item, is_new=True)


def _has_no_embedding(model: str) -> ColumnElement[bool]:
    return ~select(Embedding.item_id).where(Embedding.item_id == Item.id, Embedding.model == model).exists()


def _row_of(item_id: str, embedded: Embedded) -> Embedding:
    return Embedding(item_id=item_id, model=embedded.model, vector=embedded.pack())


def _for_update(session: Session, ids: Sequence[str]) -> dict[str, Item]:
    """Locked against other writers, in one order, so that two of them cannot wait for each other."""
    query = select(Item).where(Item.id.in_(ids)).order_by(Item.id).with_for_update()
    return {item.id: item for item in session.scalars(query)}


def _seen(found: dict[str, Item], item_id: str, revision: int | None) -> Item:
    item = found.get(item_id)
    if item is None:
        raise ItemNotFoundError(item_id)
    if revision is not None and revision != item.revision:
        raise ItemChangedError(item_id, seen=revision, revision=item.revision)
    return item


def _apply(item: Item, change: Change) -> None:
    """Add a correction, or take the last one back."""
    last = item.corrections[-1].made_at if item.corrections else item.added_at
    now = max(datetime.now(UTC), last + timedelta(microseconds=1))  # in their order, even if the clock was put back
    if change.undo:
        if not item.standing:
            raise NothingToUndoError(item.id)
        item.standing[-1].taken_back_at = now
    else:
        item.corrections.append(
            Correction(
                id=str(uuid.uuid4()),
                label=change.label,
                drawer=change.drawer or _drawer_of(item, change.label),
                made_at=now,
                taken_back_at=None,
            )
        )
    _changed(item, now)


def _changed(item: Item, now: datetime) -> None:
    item.revision += 1
    item.changed_at = now
    item.settle()


def _drawer_of(item: Item, label: str | None) -> str:
    groups = {top["label"]: top["group"] for top in item.prediction["top_k"]}
    if label not in groups:
        raise UnknownLabelError(str(label), sorted(groups))
    return str(groups[label])


def _merge(session: Session, item: Item) -> Literal["added", "merged", "unchanged"]:
    present = _for_update(session, [item.id]).get(item.id)
    if present is None:
        item.settle()
        other_id = item.possible_duplicate_of
        if other_id is not None and session.get(Item, other_id) is None:  # it did not come along
            item.possible_duplicate = None
        session.add(item)
        return "added"
    return "merged" if _take_over_corrections(present, item.corrections) else "unchanged"


def _take_over_corrections(present: Item, others: Sequence[Correction]) -> bool:
    """Add the corrections that are not there and take back those taken back elsewhere; True if anything changed."""
    known = {correction.id: correction for correction in present.corrections}
    different = False
    for other in others:
        here = known.get(other.id)
        if here is None:
            present.corrections.append(
                Correction(
                    id=other.id,
                    label=other.label,
                    drawer=other.drawer,
                    made_at=other.made_at,
                    taken_back_at=other.taken_back_at,
                )
            )
            different = True
        elif here.taken_back_at is None and other.taken_back_at is not None:
            here.taken_back_at = other.taken_back_at
            different = True
    if different:
        present.corrections.sort(key=lambda correction: correction.made_at)
        _changed(present, datetime.now(UTC))
    return different


_SORT_COLUMNS: dict[SortKey, InstrumentedAttribute[Any]] = {
    "added": Item.added_at,
    "changed": Item.changed_at,
    "label": Item.label,
    "filename": Item.filename,
    "probability": Item.probability,
}


def _sort_column(sort: SortKey) -> ColumnElement[Any]:
    column = _SORT_COLUMNS[sort]
    return func.coalesce(column, "") if sort in ("label", "filename") else column.expression


def _sort_value(item: Item, sort: SortKey) -> Any:
    value = getattr(item, _SORT_COLUMNS[sort].key)
    return "" if value is None else value
