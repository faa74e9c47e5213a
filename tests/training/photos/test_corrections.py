"""What becomes of a person's corrections on their way into training."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.artifact import Artifact, Card
from app.exported import JSONL_NAME, ExportedCorrection, ExportedItem
from tests.training.photos.conftest import draw_garment
from training.config import ConfigError
from training.data import DatasetError
from training.photos.cli import correction_config
from training.photos.config import PhotoConfig
from training.photos.corrections import HELD_OUT_OF, UnusedError, add_corrections, label_of, read_corrections
from training.photos.dataset import Columns, PhotoDataset
from training.photos.labels import LabelMap

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    draw_garment("Hat", 5_000 + seed).save(buffer, "PNG")
    return buffer.getvalue()


def item(
    content: bytes, *corrections: tuple[str | None, str], model: str = "wardrobe", **changes: object
) -> ExportedItem:
    """A picture that was answered with `shirt`; each correction a minute after the one before."""
    digest = hashlib.sha256(content).hexdigest()
    return ExportedItem(
        id=digest,
        revision=1,
        filename="photo.png",
        added_at=NOW,
        changed_at=NOW,
        prediction={"model": {"name": model, "version": 1}, "label": "shirt"},
        corrections=[
            ExportedCorrection(
                id=str(minute), label=label, drawer=drawer, made_at=NOW + timedelta(minutes=minute), taken_back_at=None
            )
            for minute, (label, drawer) in enumerate(corrections)
        ],
        picture=f"pictures/tops/{digest}.png",
    ).model_copy(update=changes)


@pytest.fixture(scope="module")
def card(artifact: Artifact, label_map: LabelMap) -> Card:
    """Of a version `wardrobe/1` that was trained on the drawn garments; whatever is not looked at is another's."""
    config = PhotoConfig(sizes=(32,), epochs=(2,), batch_size=16).to_dict()
    config |= {"label_map": label_map.to_dict(), "columns": asdict(Columns()), "num_excluded": 0}
    training = artifact.card.training.model_copy(update={"config": config})
    return artifact.card.model_copy(update={"name": "wardrobe", "training": training})


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    def write(*items: ExportedItem, pictures: dict[str, bytes]) -> Path:
        path = tmp_path / "wardrobe.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(JSONL_NAME, "".join(it.model_dump_json() + "\n" for it in items))
            for name, content in pictures.items():
                archive.writestr(name, content)
        return path

    return write


@pytest.mark.parametrize(
    ("corrections", "label"),
    [
        ([("hat", "headwear")], "hat"),
        ([("Hat", "headwear")], "Hat"),  # as the data calls it
        ([("hat", "tops")], "hat"),  # where it is put does not change what it is
        ([("Polo", "tops")], "Polo"),  # trained, not answered
        ([("pants", "bottoms"), ("hat", "headwear")], "hat"),
        ([(None, "headwear")], "hat"),  # the only class there
        ([(None, "not_a_garment")], "not-a-garment"),
        ([("hat", "not_a_garment")], "not-a-garment"),
    ],
)
def test_what_is_learned(
    corrections: list[tuple[str | None, str]], label: str, card: Card, label_map: LabelMap
) -> None:
    assert label_of(item(b"", *corrections), card, label_map) == label


@pytest.mark.parametrize(
    ("corrections", "reason"),
    [
        ([("kimono", "dresses")], "'kimono' is no class of wardrobe"),
        ([("Not sure", "tops")], "'Not sure' is no class of wardrobe"),
        ([("Glove", "other")], "'Glove' is no class of wardrobe"),
        ([(None, "dresses")], "only the drawer dresses was named, with 0 classes in it"),
        ([("hat", "review")], "put into the tray for review"),
    ],
)
def test_what_cannot_be_learned_says_why(
    corrections: list[tuple[str | None, str]], reason: str, card: Card, label_map: LabelMap
) -> None:
    with pytest.raises(UnusedError, match=reason):
        label_of(item(b"", *corrections), card, label_map)


def test_another_models_answers_and_drawers_of_several_classes_are_left_out(card: Card, label_map: LabelMap) -> None:
    with pytest.raises(UnusedError, match="answered by fashion-mnist, not by wardrobe"):
        label_of(item(b"", ("hat", "headwear"), model="fashion-mnist"), card, label_map)
    with pytest.raises(UnusedError, match="only the drawer tops was named, with 2 classes in it"):
        label_of(item(b"", (None, "tops")), card, replace(label_map, classes={**label_map.classes, "polo": "tops"}))
    with pytest.raises(UnusedError, match="does not tell what is no garment"):
        label_of(item(b"", (None, "not_a_garment")), card, replace(label_map, negatives=frozenset()))


@pytest.mark.parametrize("unpacked", [False, True])
def test_an_export_is_read_packed_or_unpacked(
    export: Callable[..., Path], card: Card, label_map: LabelMap, tmp_path: Path, *, unpacked: bool
) -> None:
    """A share by digest is held out; what was taken back is no correction; nothing is lost without a word."""
    contents = [picture(seed) for seed in range(20)]
    items = [item(content, ("hat", "headwear")) for content in contents]
    taken_back = item(picture(30), ("hat", "headwear"))
    taken_back.corrections[0].taken_back_at = NOW
    exchanged, missing = item(picture(31), ("hat", "headwear")), item(picture(32), ("hat", "headwear"))
    pictures = {it.picture: content for it, content in zip(items, contents, strict=True)}
    path = export(
        *items, item(picture(33)), taken_back, exchanged, missing, pictures=pictures | {exchanged.picture: b"other"}
    )
    if unpacked:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "folder")
        path = tmp_path / "folder"

    with read_corrections(path, card, label_map) as corrections:
        read = {row.path.read_bytes() for row in (*corrections.train, *corrections.held_out)}
        files = [row.path for row in corrections.train]

    assert read == set(contents)
    held_out = {it.id for it in items if int(it.id[:8], 16) % HELD_OUT_OF == 0}
    assert {row.name for row in corrections.held_out} == held_out
    assert 0 < len(held_out) < len(items) / 2
    assert [it.reason for it in corrections.unused] == [
        "it is not the picture that was corrected",
        "the export has no such picture",
    ]
    assert not any(file.exists() for file in files)
    assert "not used: photo.png (the export has no such picture)" in corrections.summary()


def empty_archive() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


@pytest.mark.parametrize("content", [None, b"no archive", empty_archive()], ids=["absent", "no ZIP", "empty"])
def test_something_else_is_refused(content: bytes | None, card: Card, label_map: LabelMap, tmp_path: Path) -> None:
    path = tmp_path / "export"
    if content is not None:
        path.write_bytes(content)

    wanted = pytest.raises(DatasetError, match="is no export of a wardrobe")
    with wanted, read_corrections(path, card, label_map):
        pass


def test_an_item_that_is_none_is_named(export: Callable[..., Path], card: Card, label_map: LabelMap) -> None:
    path = export(item(b"").model_copy(update={"revision": 0}), pictures={})

    wanted = pytest.raises(DatasetError, match="has an item that is none: revision: Input should be greater")
    with wanted, read_corrections(path, card, label_map):
        pass


def test_corrections_join_the_training_part_alone(export: Callable[..., Path], card: Card, drawn: PhotoDataset) -> None:
    """The data's own pictures stay as they are: a correction of one of them is left out and named."""
    contents = [picture(seed) for seed in range(6)]
    known = drawn.photos.part("validation").rows[0].path.read_bytes()
    items = [item(content, ("shirt", "tops")) for content in [*contents, known]]
    pictures = {it.picture: content for it, content in zip(items, [*contents, known], strict=True)}

    with read_corrections(export(*items, pictures=pictures), card, drawn.label_map) as found:
        corrections = found.without(drawn.digests)
        taught = add_corrections(drawn, corrections)

    assert [it.reason for it in corrections.unused] == ["the data has this picture already"]
    num_new = len(corrections.train)
    assert (taught.num_corrections, len(taught.photos)) == (num_new, len(drawn.photos) + num_new)
    assert {row.part for row in taught.photos.rows[len(drawn.photos) :]} == {"train"}
    assert taught.photos.targets[len(drawn.photos) :].tolist() == [0] * num_new
    assert (taught.photos.images[-num_new:].float().mean((1, 2, 3)) > 0).all()
    assert taught.sha256 == drawn.sha256
    for part in ("validation", "test"):
        assert taught.photos.part(part).rows == drawn.photos.part(part).rows


def test_nothing_to_learn_from_is_said(export: Callable[..., Path], card: Card, drawn: PhotoDataset) -> None:
    wanted = pytest.raises(DatasetError, match="no correction to learn from")
    with read_corrections(export(pictures={}), card, drawn.label_map) as corrections, wanted:
        add_corrections(drawn, corrections)


# Going on from a version


def test_the_version_says_how_it_is_gone_on_from(card: Card) -> None:
    """But for what was asked for; what it cannot be asked is refused by name."""
    gentle = correction_config(card, {}, {"name"})
    asked = correction_config(card, {"learning_rate": 0.5, "epochs": (7,)}, {"learning_rate", "epochs"})

    assert (gentle.sizes, gentle.epochs, gentle.batch_size) == ((32,), (3,), 16)
    assert (asked.learning_rate, asked.epochs, asked.sizes, asked.batch_size) == (0.5, (7,), (32,), 16)
    with pytest.raises(ConfigError, match=r"--backbone, --label-column: wardrobe/1, which .* goes on from, says that"):
        correction_config(card, {"backbone": "efficientnet-lite1"}, {"backbone", "label_column"})
