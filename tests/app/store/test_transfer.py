"""Archives that break a rule, on both databases: no service around the wardrobe."""

import io
import json
import zipfile
from datetime import UTC, datetime
from typing import Any

import pytest

from app.errors import NotAnExportError
from app.exported import JSONL_NAME
from app.settings import Settings
from app.store.transfer import CSV_NAME, MAX_WRONG_ITEMS, Imported, export_csv, export_zip, import_zip
from app.store.wardrobe import Filter, NewItem, Wardrobe
from tests.app.store.conftest import new_item

EVERYTHING = Filter()


def line(new: NewItem, **changes: object) -> dict[str, Any]:
    """What items.jsonl says of a picture."""
    time = "2026-11-25T12:00:00Z"
    item = {"id": new.id, "revision": 1, "filename": new.filename, "added_at": time, "changed_at": time}
    return item | {"prediction": new.prediction, "corrections": [], "picture": f"pictures/{new.id}.png"} | changes


def correction(**changes: object) -> dict[str, Any]:
    time = "2026-11-25T12:00:00Z"
    return {"id": "1", "label": None, "drawer": "tops", "made_at": time, "taken_back_at": None} | changes


def archive(lines: list[dict[str, Any]], *pictures: NewItem) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr(JSONL_NAME, "".join(json.dumps(line) + "\n" for line in lines))
        for new in pictures:
            opened.writestr(f"pictures/{new.id}.png", new.content)
    return file


def take_over(wardrobe: Wardrobe, file: io.BytesIO) -> Imported:
    return import_zip(wardrobe, file, parse_prediction=lambda prediction: prediction, max_picture_bytes=1000)


def reasons(imported: Imported) -> list[str]:
    return [str(error) for _, error in imported.failed]


@pytest.mark.parametrize("year", [2, 1979, 2108, 9999])
def test_an_item_of_any_year_moves(wardrobe: Wardrobe, year: int) -> None:
    """A ZIP knows the years from 1980 to 2107."""
    new = new_item(1)
    time = f"{year:04}-06-01T12:00:00Z"
    take_over(wardrobe, archive([line(new, added_at=time, changed_at=time)], new))

    exported = io.BytesIO(b"".join(export_zip(wardrobe, EVERYTHING)))
    wardrobe.delete([(new.id, None)])
    imported = take_over(wardrobe, exported)

    assert (imported.outcomes, imported.failed) == ({"added": 1}, [])
    assert wardrobe.get(new.id).added_at == datetime(year, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
@pytest.mark.parametrize("name", ["added_at", "changed_at", "made_at", "taken_back_at"])
def test_a_time_outside_the_calendar_leaves_the_item_out_and_no_other(wardrobe: Wardrobe, name: str, time: str) -> None:
    odd, good = new_item(1), new_item(2)
    changes = {"corrections": [correction(**{name: time})]} if name in correction() else {name: time}

    imported = take_over(wardrobe, archive([line(odd, **changes), line(good)], odd, good))

    assert imported.outcomes == {"added": 1}
    (reason,) = reasons(imported)
    assert name in reason


def test_an_item_that_is_in_an_archive_twice_is_taken_over_once(wardrobe: Wardrobe) -> None:
    new = new_item(1)

    imported = take_over(wardrobe, archive([line(new)] * 3, new))

    assert imported.outcomes == {"added": 1}
    assert ["twice" in reason for reason in reasons(imported)] == [True, True]


@pytest.mark.parametrize("num_wrong", [MAX_WRONG_ITEMS, MAX_WRONG_ITEMS + 1])
def test_an_archive_that_unpacks_to_many_wrong_lines_is_not_read_to_its_end(settings: Settings, num_wrong: int) -> None:
    wardrobe, new = Wardrobe(settings), new_item(1)
    file = archive([*[{}] * num_wrong, line(new)], new)

    if num_wrong > MAX_WRONG_ITEMS:
        with pytest.raises(NotAnExportError, match="more than 1000"):
            take_over(wardrobe, file)
        assert wardrobe.find([new.id]) == {}
    else:
        imported = take_over(wardrobe, file)
        assert (imported.outcomes, len(imported.failed)) == ({"added": 1}, num_wrong)


def test_pictures_for_which_there_is_no_room_are_all_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many: the archive is right."""
    monkeypatch.setattr("app.store.transfer.MAX_WRONG_ITEMS", 2)
    new_items = [new_item(number) for number in range(4)]
    full = Wardrobe(settings.model_copy(update={"max_stored_bytes": 0}))

    imported = take_over(full, archive([line(new) for new in new_items], *new_items))

    assert [name for name, _ in imported.failed] == [f"pictures/{new.id}.png" for new in new_items]


def test_the_table_in_the_archive_is_the_one_that_can_be_asked_for(settings: Settings) -> None:
    wardrobe = Wardrobe(settings)
    wardrobe.add([new_item(1), new_item(2)])

    exported = io.BytesIO(b"".join(export_zip(wardrobe, EVERYTHING)))

    with zipfile.ZipFile(exported) as opened:
        table = opened.read(CSV_NAME).decode()
    assert table == "".join(export_csv(wardrobe.walk(EVERYTHING)))
    assert table.count("\r\n") == 3
