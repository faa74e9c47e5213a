"""What looks alike, on both databases."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from app.store.similar import Embedded
from app.store.transfer import export_zip, import_zip
from app.store.wardrobe import DUPLICATE_SIMILARITY, Added, Filter, Wardrobe
from tests.app.store.conftest import new_item

MODEL = "a" * 64
ANOTHER_MODEL = "b" * 64


def at(degrees: float, *, model: str = MODEL, length: float = 3.0) -> Embedded:
    """A direction in the plane: the similarity of two is the cosine of the angle between them."""
    angle = np.radians(degrees)
    return Embedded(model, np.array([length * np.cos(angle), length * np.sin(angle)], np.float32))


NEAR_DEGREES = float(np.degrees(np.arccos(DUPLICATE_SIMILARITY)))


def add(wardrobe: Wardrobe, *embedded: Embedded | None, first: int = 0) -> list[str]:
    """One picture for each, in one go; ids."""
    new = [replace(new_item(first + number), embedded=its) for number, its in enumerate(embedded)]
    outcomes = wardrobe.add(new)
    assert all(isinstance(outcome, Added) for outcome in outcomes.values())
    return [each.id for each in new]


def found(wardrobe: Wardrobe, wanted: Embedded, *, limit: int = 10) -> list[str]:
    return [item.id for _, item in wardrobe.nearest([wanted], limit=limit)[0]]


def twin_of(wardrobe: Wardrobe, item_id: str) -> str | None:
    return wardrobe.get(item_id).possible_duplicate_of


def test_the_nearest_come_first_with_their_cosine(wardrobe: Wardrobe) -> None:
    far, near, opposite = add(wardrobe, at(80), at(50), at(180))

    (neighbours,) = wardrobe.nearest([at(0, length=1)], limit=10)

    assert [item.id for _, item in neighbours] == [near, far, opposite]
    assert [similarity for similarity, _ in neighbours] == pytest.approx([0.643, 0.174, -1], abs=1e-3)
    assert found(wardrobe, at(0), limit=2) == [near, far]


def test_each_of_many_has_its_own_neighbours(wardrobe: Wardrobe) -> None:
    ids = add(wardrobe, at(0), at(60), at(120))

    neighbours = wardrobe.nearest([at(0), at(60), at(120)], limit=1)

    assert [each[0][1].id for each in neighbours] == ids


def test_the_nearest_are_found_whichever_part_of_the_table_they_lie_in(
    wardrobe: Wardrobe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.similar.SCAN_ROWS", 2)
    ids = add(wardrobe, *(at(degrees) for degrees in (90, 10, 70, 50, 30)))

    assert found(wardrobe, at(0), limit=3) == [ids[1], ids[4], ids[3]]


def test_embeddings_of_different_models_are_never_compared(wardrobe: Wardrobe) -> None:
    theirs, ours = add(wardrobe, at(0, model=ANOTHER_MODEL)), add(wardrobe, at(0), None, first=1)

    assert found(wardrobe, at(0)) == ours[:1]
    assert [twin_of(wardrobe, item_id) for item_id in ours] == [None, None]
    assert set(wardrobe.without_embedding(MODEL, limit=10)) == {*theirs, ours[1]}
    assert wardrobe.embedding(theirs[0], model=MODEL) is None


def test_an_item_without_an_embedding_gets_one_and_an_older_one_is_replaced(wardrobe: Wardrobe) -> None:
    older, without = add(wardrobe, at(0, model=ANOTHER_MODEL), None)

    for item_id in (older, without):
        wardrobe.keep_embedding(item_id, at(45))
    wardrobe.keep_embedding("0" * 64, at(45))  # removed meanwhile

    assert wardrobe.without_embedding(MODEL, limit=10) == []
    assert set(found(wardrobe, at(0))) == {older, without}
    kept = wardrobe.embedding(older, model=MODEL)
    assert kept is not None
    assert kept.vector == pytest.approx([0.7071, 0.7071], abs=1e-3)


def test_what_cannot_be_embedded_is_not_asked_for_again(wardrobe: Wardrobe) -> None:
    (item_id,) = add(wardrobe, None)

    wardrobe.keep_embedding(item_id, Embedded(MODEL, np.empty(0, np.float32)))

    assert wardrobe.num_without_embedding(MODEL) == 0
    assert found(wardrobe, at(0)) == []


@pytest.mark.parametrize(("degrees", "is_twin"), [(0, True), (NEAR_DEGREES - 1, True), (NEAR_DEGREES + 1, False)])
def test_a_new_item_names_the_one_that_looks_much_the_same(wardrobe: Wardrobe, degrees: float, is_twin: bool) -> None:
    other, twin = add(wardrobe, at(150), at(0))

    (item_id,) = add(wardrobe, at(-degrees), first=2)

    assert twin_of(wardrobe, item_id) == (twin if is_twin else None)
    assert [twin_of(wardrobe, each) for each in (other, twin)] == [None, None]


def test_of_two_that_come_together_the_second_names_the_first(wardrobe: Wardrobe) -> None:
    ids = add(wardrobe, at(0), at(1), at(90))

    assert [twin_of(wardrobe, item_id) for item_id in ids] == [None, ids[0], None]


def test_that_both_are_wanted_is_remembered(wardrobe: Wardrobe) -> None:
    _, item_id = add(wardrobe, at(0), at(1))

    item = wardrobe.keep_both(item_id)

    assert item.possible_duplicate_of is None
    assert twin_of(wardrobe, item_id) is None


@pytest.mark.parametrize("removed", [0, 1])
def test_with_one_of_two_gone_nothing_is_asked(wardrobe: Wardrobe, removed: int) -> None:
    ids = add(wardrobe, at(0), at(1))

    wardrobe.delete([(ids[removed], None)])

    assert twin_of(wardrobe, ids[1 - removed]) is None
    assert found(wardrobe, at(0)) == [ids[1 - removed]]


def test_a_question_moves_with_the_pair_and_embeddings_are_made_anew(wardrobe: Wardrobe, tmp_path: Path) -> None:
    _, twin = add(wardrobe, at(0), at(1))
    archive = io.BytesIO(b"".join(export_zip(wardrobe, Filter())))
    alone = io.BytesIO(b"".join(export_zip(wardrobe, Filter(words=["1.png"]))))
    twins = []

    for name, content in (("both", archive), ("alone", alone)):
        other = Wardrobe(Settings(storage="on", data_dir=tmp_path / name))
        import_zip(other, content, parse_prediction=lambda prediction: prediction, max_picture_bytes=1000)
        twins.append(twin_of(other, twin))
        assert other.embedding(twin, model=MODEL) is None
        other.close()

    assert twins == [wardrobe.get(twin).possible_duplicate_of, None]
    assert twins[0] is not None
