"""What is kept, on both databases: real files, a real server."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import exc

from app.errors import (
    ItemChangedError,
    ItemNotFoundError,
    NoRoomError,
    NothingToUndoError,
    StorageOffError,
    StorageUnavailableError,
    UnknownLabelError,
)
from app.settings import Settings
from app.store.database import Database, database_url
from app.store.tables import Base, Item
from app.store.wardrobe import Added, Change, Filter, Wardrobe
from tests.app.store.conftest import files, new_item
from tests.process import REPOSITORY

EVERYTHING = Filter()


def add(wardrobe: Wardrobe, *numbers: int) -> list[str]:
    new_items = [new_item(number) for number in numbers]
    wardrobe.add(new_items)
    return [new.id for new in new_items]


def change(wardrobe: Wardrobe, item_id: str, change: Change, revision: int | None = None) -> Item:
    outcome = wardrobe.change([(item_id, revision)], change)[0]
    assert isinstance(outcome, Item), outcome
    return outcome


def where(item: Item) -> tuple[str | None, str]:
    return item.label, item.drawer


def test_a_picture_is_kept_byte_for_byte(wardrobe: Wardrobe) -> None:
    new = new_item(1)

    wardrobe.add([new])

    assert wardrobe.picture(new.id) == new.content
    assert wardrobe.get(new.id).prediction == new.prediction


def test_the_same_bytes_are_one_item(wardrobe: Wardrobe) -> None:
    new = new_item(1)
    wardrobe.add([new])
    change(wardrobe, new.id, Change(label="shirt"))

    added = wardrobe.add([new])[new.id]

    assert isinstance(added, Added)
    assert (added.is_new, added.item.label, added.item.revision) == (False, "shirt", 2)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ({"decision": "sorted"}, ("dress", "dresses")),
        ({"decision": "review"}, ("dress", "review")),
        ({"decision": "not_a_garment"}, ("dress", "not_a_garment")),
    ],
)
def test_the_models_decision_names_the_drawer(
    wardrobe: Wardrobe, prediction: dict[str, str], expected: tuple[str, str]
) -> None:
    new = new_item(1, **prediction)

    wardrobe.add([new])

    assert where(wardrobe.get(new.id)) == expected


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        (Change(label="t-shirt"), ("t-shirt", "tops")),
        (Change(drawer="tops"), ("shirt", "tops")),
        (Change(drawer="bags"), (None, "bags")),
        (Change(label="hoodie", drawer="tops"), ("hoodie", "tops")),
        (Change(drawer="not_a_garment"), ("dress", "not_a_garment")),
    ],
    ids=["label", "drawer", "drawer the model does not know", "own label", "set aside"],
)
def test_a_correction_counts_more_than_the_model(
    wardrobe: Wardrobe, correction: Change, expected: tuple[str | None, str]
) -> None:
    (item_id,) = add(wardrobe, 1)

    change(wardrobe, item_id, correction)

    assert where(wardrobe.get(item_id)) == expected


def test_each_undo_takes_one_correction_back_and_none_is_forgotten(wardrobe: Wardrobe) -> None:
    (item_id,) = add(wardrobe, 1)
    for label in ("shirt", "t-shirt"):
        change(wardrobe, item_id, Change(label=label))

    labels = [change(wardrobe, item_id, Change(undo=True)).label for _ in range(2)]

    assert labels == ["shirt", "dress"]
    assert [correction.label for correction in wardrobe.get(item_id).corrections] == ["shirt", "t-shirt"]
    assert isinstance(wardrobe.change([(item_id, None)], Change(undo=True))[0], NothingToUndoError)


def test_a_change_of_what_was_changed_meanwhile_is_refused(wardrobe: Wardrobe) -> None:
    (item_id,) = add(wardrobe, 1)
    change(wardrobe, item_id, Change(label="shirt"), revision=1)

    refused = wardrobe.change([(item_id, 1)], Change(label="t-shirt"))[0]
    not_deleted = wardrobe.delete([(item_id, 1)])[0]

    assert isinstance(refused, ItemChangedError)
    assert isinstance(not_deleted, ItemChangedError)
    assert wardrobe.get(item_id).label == "shirt"


def test_in_a_change_of_many_each_has_its_own_outcome(wardrobe: Wardrobe) -> None:
    first, second = add(wardrobe, 1, 2)

    outcomes = wardrobe.change([(first, None), ("0" * 64, None), (second, 9)], Change(drawer="tops"))

    assert isinstance(outcomes[0], Item)
    assert isinstance(outcomes[1], ItemNotFoundError)
    assert isinstance(outcomes[2], ItemChangedError)
    assert where(wardrobe.get(first)) == ("shirt", "tops")


def test_a_label_that_the_model_does_not_know_needs_a_drawer(wardrobe: Wardrobe) -> None:
    (item_id,) = add(wardrobe, 1)

    outcome = wardrobe.change([(item_id, None)], Change(label="hoodie"))[0]

    assert isinstance(outcome, UnknownLabelError)
    assert "shirt" in str(outcome)


def test_of_what_is_deleted_nothing_is_left(wardrobe: Wardrobe, settings: Settings) -> None:
    first, second = add(wardrobe, 1, 2)
    for item_id in (first, second):
        change(wardrobe, item_id, Change(label="shirt"))
        wardrobe.thumbnail(item_id, size_pixels=160)

    wardrobe.delete([(first, None)])

    assert {path.name[:64] for path in files(settings.data_dir)} == {second}
    with pytest.raises(ItemNotFoundError):
        wardrobe.picture(first)
    with pytest.raises(ItemNotFoundError):
        wardrobe.thumbnail(first, size_pixels=160)
    assert [item.id for item in wardrobe.walk(EVERYTHING)] == [second]
    add(wardrobe, 1)
    assert wardrobe.get(first).corrections == []  # and does not come back


def test_a_file_that_cannot_be_removed_keeps_no_other_from_being_removed(settings: Settings) -> None:
    wardrobe = Wardrobe(settings)
    ids = add(wardrobe, 1, 2)
    for item_id in ids:
        wardrobe.thumbnail(item_id, size_pixels=960)
    in_the_way = settings.data_dir / "thumbnails" / ids[0][:2] / f"{ids[0]}-160.jpg"
    in_the_way.mkdir()

    with pytest.raises(StorageUnavailableError, match="cannot be written"):
        wardrobe.delete([(item_id, None) for item_id in ids])

    assert files(settings.data_dir) == []
    assert wardrobe.find(ids) == {}
    wardrobe.close()
    Wardrobe(settings).open()  # a folder that is not ours does not keep it from starting


def test_pages_hold_every_item_once_whatever_is_added_meanwhile(wardrobe: Wardrobe) -> None:
    ids = add(wardrobe, *range(7))

    first = wardrobe.page(EVERYTHING, limit=3)
    add(wardrobe, 100)
    second = wardrobe.page(EVERYTHING, limit=3, after=first.next)
    third = wardrobe.page(EVERYTHING, limit=3, after=second.next)

    assert [item.id for page in (first, second, third) for item in page.items] == ids[::-1]
    assert third.next is None
    assert (first.num_matching, third.num_matching) == (7, 8)


@pytest.mark.parametrize("sort", ["added", "changed", "label", "filename", "probability"])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_follow_every_order(wardrobe: Wardrobe, sort: str, descending: bool) -> None:
    """Also where many items are equal, or a label is absent."""
    ids = add(wardrobe, *range(6))
    change(wardrobe, ids[2], Change(drawer="bags"))
    found, after = [], None

    while True:
        page = wardrobe.page(EVERYTHING, sort=sort, descending=descending, limit=1, after=after)
        found += page.items
        after = page.next
        if after is None:
            break

    assert sorted(item.id for item in found) == sorted(ids)
    whole = wardrobe.page(EVERYTHING, sort=sort, descending=descending)
    assert [item.id for item in whole.items] == [item.id for item in found]


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        (Filter(words=["STRASSE"]), [1]),
        (Filter(words=["straße", "tops"]), [1]),
        (Filter(words=["50%"]), [2]),
        (Filter(words=["_"]), []),
        (Filter(drawers=["tops", "bags"]), [1]),
        (Filter(labels=["dress"]), [2, 3]),
        (Filter(corrected=True), [1]),
        (Filter(corrected=False, drawers=["review"]), [2, 3]),
    ],
)
def test_items_are_found_by_word_drawer_label_and_correction(
    wardrobe: Wardrobe, chosen: Filter, numbers: list[int]
) -> None:
    names = {1: "Straße.png", 2: "50%off.png", 3: None}
    ids = {}
    for number, name in names.items():
        new = new_item(number)
        ids[number] = new.id
        wardrobe.add([type(new)(new.id, name, new.content, new.prediction)])
    change(wardrobe, ids[1], Change(label="shirt"))

    page = wardrobe.page(chosen, descending=False)

    assert [item.id for item in page.items] == [ids[number] for number in numbers]
    assert page.drawers == {"tops": 1, "review": 2}


def test_nothing_is_lost_when_many_add_correct_and_delete_at_once(wardrobe: Wardrobe, settings: Settings) -> None:
    """Of each picture several threads add, correct, undo and delete: rows and files agree afterwards."""
    barrier = threading.Barrier(4)

    def work(seed: int) -> int:
        barrier.wait()
        num_corrected = 0
        for step in range(4):
            numbers = [(seed * 5 + step * 3 + offset) % 4 for offset in range(3)]
            ids = add(wardrobe, *numbers)
            outcomes = wardrobe.change([(item_id, None) for item_id in ids], Change(label="shirt"))
            num_corrected += sum(isinstance(outcome, Item) for outcome in outcomes)
            if seed == 0:
                wardrobe.delete([(ids[0], None)])
        return num_corrected

    with ThreadPoolExecutor(4) as pool:
        corrected = sum(pool.map(work, range(4)))

    assert corrected > 0
    items = list(wardrobe.walk(EVERYTHING))
    assert {path.name for path in files(settings.data_dir)} == {item.id for item in items}
    assert all(item.revision == 1 + len(item.corrections) for item in items)


def test_a_wardrobe_that_is_full_says_so_and_keeps_what_fits(settings: Settings) -> None:
    first, second = new_item(1), new_item(2)
    wardrobe = Wardrobe(settings.model_copy(update={"max_stored_bytes": len(first.content)}))

    outcomes = wardrobe.add([first, second])

    assert isinstance(outcomes[first.id], Added)
    assert isinstance(outcomes[second.id], NoRoomError)
    assert [path.name for path in files(settings.data_dir)] == [first.id]


def test_a_killed_process_leaves_rows_with_pictures_and_nothing_else(settings: Settings) -> None:
    """Killed again and again while it adds and deletes."""
    code = (
        "import sys; from app.settings import Settings; from app.store.wardrobe import Wardrobe;"
        "from tests.app.store.conftest import new_item;"
        f"wardrobe = Wardrobe(Settings(storage='on', data_dir={str(settings.data_dir)!r})); wardrobe.open();"
        "print('open', flush=True)\n"
        "for number in range(60_000):\n"
        "    new = new_item(number); wardrobe.add([new]); print(new.id, flush=True)\n"
        "    if number % 3 == 0: wardrobe.delete([(new.id, None)])\n"
    )
    for num_steps in (2, 9):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(num_steps):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    (settings.data_dir / "pictures" / "ab").mkdir(exist_ok=True)
    (settings.data_dir / "pictures" / "ab" / ("ab" * 32)).write_bytes(b"its row was never written")
    (settings.data_dir / "pictures" / "ab" / ".part-1").write_bytes(b"half a pict")

    wardrobe = Wardrobe(settings)
    items = list(wardrobe.walk(EVERYTHING))

    assert items
    assert all(len(wardrobe.picture(item.id)) == item.num_bytes for item in items)
    assert {path.name for path in files(settings.data_dir)} == {item.id for item in items}
    assert (settings.data_dir / "stray" / ("ab" * 32)).read_bytes() == b"its row was never written"


def test_an_older_database_put_back_costs_no_newer_picture(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    database, backup = settings.data_dir / "wardrobe.sqlite3", settings.data_dir.parent / "backup"
    wardrobe = Wardrobe(settings)
    (older,) = add(wardrobe, 1)
    wardrobe.close()
    shutil.copy(database, backup)
    (newer,) = add(wardrobe, 2)
    wardrobe.thumbnail(newer, size_pixels=160)
    wardrobe.close()
    shutil.copy(backup, database)

    Wardrobe(settings).open()

    assert {path.name for path in files(settings.data_dir)} == {older}
    assert (settings.data_dir / "stray" / newer).read_bytes() == new_item(2).content
    assert newer in caplog.text


def test_a_stray_picture_is_removed_after_a_month(settings: Settings) -> None:
    """It may be one that somebody removed just when the process was killed."""
    (older,) = add(Wardrobe(settings), 1)
    stray = settings.data_dir / "stray"
    stray.mkdir()
    for name, days in (("ab" * 32, 31), ("cd" * 32, 29)):
        (stray / name).write_bytes(b"a picture")
        os.utime(stray / name, (time.time() - 86_400 * days,) * 2)
    put_aside = settings.data_dir / "pictures" / "ef" / ("ef" * 32)
    put_aside.parent.mkdir()
    put_aside.write_bytes(b"a picture")
    os.utime(put_aside, (0, 0))  # old, but put aside only now

    for _ in range(2):
        Wardrobe(settings).open()

    assert {path.name for path in stray.iterdir()} == {"cd" * 32, "ef" * 32}
    assert [path.name for path in files(settings.data_dir)] == [older]


def test_a_database_of_another_folder_is_refused_before_pictures_are_put_aside(
    settings: Settings, tmp_path: Path
) -> None:
    add(Wardrobe(settings), 1)
    other = Settings(storage="on", data_dir=settings.data_dir, database_url=f"sqlite:///{tmp_path}/other.sqlite3")

    with pytest.raises(StorageUnavailableError, match="another database"):
        Wardrobe(other).open()

    assert len(files(settings.data_dir)) == 1


def test_a_folder_that_cannot_be_written_is_said_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    wardrobe = Wardrobe(Settings(storage="on", data_dir=tmp_path / "file" / "data"))

    with pytest.raises(StorageUnavailableError, match="cannot be written"):
        wardrobe.open()


def test_storage_that_is_off_makes_no_folder(tmp_path: Path) -> None:
    wardrobe = Wardrobe(Settings(storage="off", data_dir=tmp_path / "data"))

    with pytest.raises(StorageOffError):
        wardrobe.find([])

    assert list(tmp_path.iterdir()) == []


def test_a_database_that_was_busy_too_long_is_said_in_plain_words(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.database.BUSY_TIMEOUT_SECONDS", 0)
    wardrobe = Wardrobe(settings)
    (item_id,) = add(wardrobe, 1)
    other = sqlite3.connect(settings.data_dir / "wardrobe.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageUnavailableError, match="too busy"):
        wardrobe.change([(item_id, None)], Change(label="shirt"))

    other.close()
    assert change(wardrobe, item_id, Change(label="shirt")).label == "shirt"


def test_that_no_connection_is_free_is_said_in_plain_words(settings: Settings) -> None:
    wardrobe = Wardrobe(settings)
    wardrobe.open()
    engine = wardrobe._database().engine
    engine.pool._timeout = 0.1
    with ExitStack() as stack:
        with suppress(exc.TimeoutError):
            while True:
                stack.enter_context(engine.connect())

        with pytest.raises(StorageUnavailableError, match="too busy"):
            wardrobe.find([])

    assert wardrobe.find([]) == {}


@pytest.mark.parametrize(
    ("host", "storage", "anonymous", "keeps"),
    [
        ("127.0.0.1", "auto", False, True),
        ("0.0.0.0", "auto", True, False),
        ("0.0.0.0", "on", True, True),
        ("127.0.0.1", "off", False, False),
    ],
)
def test_strangers_find_no_wardrobe_unless_it_was_wanted(host: str, storage: str, anonymous: bool, keeps: bool) -> None:
    assert Settings(host=host, storage=storage, allow_anonymous=anonymous).keeps_items is keeps


def test_the_migrations_make_the_tables_that_the_code_knows(wardrobe: Wardrobe) -> None:
    with wardrobe._database().engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)

    assert [difference for difference in differences if "alembic_version" not in str(difference)] == []


def test_a_database_from_a_newer_version_is_refused(settings: Settings) -> None:
    Wardrobe(settings).open()
    with sqlite3.connect(settings.data_dir / "wardrobe.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    with pytest.raises(StorageUnavailableError, match="9999"):
        Wardrobe(settings).open()


def test_sqlite_waits_for_writers_and_keeps_what_it_said(settings: Settings) -> None:
    database = Database(database_url(None, settings.data_dir.parent))

    with database.read() as session:
        pragmas = [
            session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        ]

    assert pragmas == ["wal", 2, 1, 20_000, 1]
    database.engine.dispose()
