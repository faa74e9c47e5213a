from pathlib import Path

import pytest

from training.data import DatasetError
from training.photos.labels import (
    DEFAULT_LABELS,
    NOT_A_GARMENT,
    UNKNOWN,
    UNLABELLED,
    LabelMap,
    every_label_a_class,
    read_label_map,
)


def test_each_kind_of_label_has_its_target(label_map: LabelMap) -> None:
    """Renamed labels and class names share an index, auxiliary classes come after, the rest is no class."""
    targets = {label: label_map.target(label) for label in ("T-Shirt", "shirt", "Pants", "Hat", "Polo")}

    assert label_map.outputs == ("shirt", "pants", "hat", "Polo")
    assert targets == {"T-Shirt": 0, "shirt": 0, "Pants": 1, "Hat": 2, "Polo": 3}
    assert label_map.target("Not sure") == UNLABELLED
    assert label_map.target("not-a-garment") == NOT_A_GARMENT
    assert label_map.target("Glove") == UNKNOWN
    assert label_map.target("Skip") is None


def test_two_labels_can_be_merged() -> None:
    merged = LabelMap.from_dict({"classes": {"top": "tops"}, "rename": {"Shirt": "top", "T-Shirt": "top"}})

    assert merged.target("Shirt") == merged.target("T-Shirt") == 0


def test_unknown_label_is_refused_by_name(label_map: LabelMap) -> None:
    """The message says which label, and all that would have been known."""
    with pytest.raises(DatasetError, match="does not know the label 'Sock'") as caught:
        label_map.target("Sock")

    for known in ("shirt", "T-Shirt", "Polo", "Not sure", "not-a-garment", "Glove", "Skip"):
        assert known in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class": {}, "merge": {}}, "unknown keys: class, merge. It may have: classes, rename"),
        ({"classes": {"sock": "socks"}}, "'sock' into the drawer 'socks'. There are: tops, bottoms"),
        ({"classes": {"hat": "headwear"}, "rename": {"Cap": "caps"}}, "renames 'Cap' to 'caps', which is no class"),
        ({"classes": {"hat": "headwear"}, "drop": "Skip"}, "drop must be a list: it is 'Skip'"),
        ({"repeat": {"Hat": 0}}, "repeats 'Hat' 0 times. It must be 1 or more"),
        ({"repeat": {"Hat": "often"}}, "repeats 'Hat' 'often' times"),
        ({"repeat": ["Hat"]}, r"repeat must be a table: it is \['Hat'\]"),
        ({"classes": ["hat"]}, r"classes must be a table: it is \['hat'\]"),
        ({"drop": ["Skip", 7]}, "drop may hold labels in quotes only: it holds 7"),
        ({"auxiliary": [["Polo"]]}, r"auxiliary may hold labels in quotes only: it holds \['Polo'\]"),
        ({"drop": ["Skip"], "unlabelled": ["Skip"]}, "has 'Skip' in unlabelled and in drop"),
        ({"negatives": ["cat"], "unknown": ["cat"]}, "has 'cat' in negatives and in unknown"),
        ({"classes": {"hat": "headwear"}, "auxiliary": ["hat"]}, "has 'hat' in classes and in auxiliary"),
        ({"classes": {"hat": "headwear"}, "repeat": {"Hut": 2}}, "repeats 'Hut', which stands nowhere else"),
    ],
)
def test_bad_map_is_refused(values: dict[str, object], message: str) -> None:
    """The message names what is wrong and what may stand there."""
    with pytest.raises(DatasetError, match=message):
        LabelMap.from_dict(values)


def test_map_knows_what_it_has_a_target_or_a_drop_for(label_map: LabelMap) -> None:
    known = ("T-Shirt", "shirt", "Polo", "Not sure", "not-a-garment", "Glove", "Skip")

    assert [label for label in (*known, "Sock") if not label_map.knows(label)] == ["Sock"]


def test_map_survives_the_checkpoint(label_map: LabelMap) -> None:
    """Plain values and back: same targets, classes in the same order."""
    again = LabelMap.from_dict(label_map.to_dict())

    assert again == label_map
    assert again.outputs == label_map.outputs


def test_every_class_folder_is_a_class() -> None:
    """In alphabetical order; pictures of no garment are none; known names get their drawer, others `other`.

    A class is shown as often as it comes, whatever the public data set's is.
    """
    found = every_label_a_class().for_labels({"Skirt", "hat", "not-a-garment", "Poncho"})

    assert dict(found.classes) == {"Poncho": "other", "Skirt": "bottoms", "hat": "headwear"}
    assert list(found.classes) == ["Poncho", "Skirt", "hat"]
    assert found.target("not-a-garment") == found.target("nongarment/face") == NOT_A_GARMENT
    assert found.repeat.keys() <= found.unlabelled


@pytest.mark.parametrize(
    ("name", "drawer"),
    [
        ("T-Shirts", "tops"),
        ("t_shirt", "tops"),
        ("Ankle boot", "footwear"),
        ("Trouser", "bottoms"),
        ("DRESSES", "dresses"),
        ("dress", "dresses"),
        ("Hüte", "other"),
        ("帽子", "other"),
        ("s", "other"),
    ],
)
def test_well_known_names_find_their_drawer(name: str, drawer: str) -> None:
    """However they are written; nothing is guessed of others."""
    assert every_label_a_class().for_labels({name}).classes == {name: drawer}


def test_map_without_classes_still_renames_and_drops() -> None:
    found = LabelMap(classes={}, rename={"Cap": "hat"}, drop=frozenset({"Skip"})).for_labels({"Cap", "hat", "Skip"})

    assert dict(found.classes) == {"hat": "headwear"}
    assert found.target("Cap") == 0
    assert found.target("Skip") is None


def test_map_without_classes_may_say_more_than_the_data_has() -> None:
    """What it becomes for some data can be read back from that run's checkpoint."""
    written = LabelMap.from_dict(
        {"rename": {"Cap": "hat", "Polo": "polo"}, "repeat": {"Cap": 2, "Sock": 2}, "auxiliary": ["polo"]}
    )

    found = written.for_labels({"Shoes", "Polo"})

    assert found.outputs == ("Shoes", "polo")
    assert LabelMap.from_dict(found.to_dict()) == found


def test_narrowed_map_has_the_classes_of_the_data() -> None:
    """Labels of no class stay, whether the data has them or not; the order stays too."""
    shipped = read_label_map(DEFAULT_LABELS)

    found = shipped.narrowed({"T-Shirt", "Pants", "Polo", "Skip"})

    assert dict(found.classes) == {"pants": "bottoms", "t-shirt": "tops"}
    assert found.outputs == ("pants", "t-shirt", "Polo")
    assert set(found.rename) == {"T-Shirt", "Pants"}
    assert found.repeat.keys() <= shipped.unlabelled | shipped.negatives  # of no class
    assert (found.unlabelled, found.negatives) == (shipped.unlabelled, shipped.negatives)
    assert LabelMap.from_dict(found.to_dict()) == found
    assert shipped.narrowed({*shipped.rename, *shipped.auxiliary}).to_dict() == shipped.to_dict()


def test_map_with_classes_ignores_what_else_is_in_the_data(label_map: LabelMap) -> None:
    assert label_map.for_labels({"Sock"}) is label_map


def test_shipped_map_names_the_ten_classes() -> None:
    """And puts the capitalised labels of the public data set onto them."""
    shipped = read_label_map(DEFAULT_LABELS)

    assert list(shipped.classes) == [
        "dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt",
    ]  # fmt: skip
    assert {shipped.target(name) for name in shipped.classes} == set(range(10))
    assert all(shipped.target(label) == shipped.target(name) for label, name in shipped.rename.items())
    assert len(shipped.rename) == 10
    assert shipped.target("Polo") == 10
    assert all(shipped.knows(label) for label in shipped.repeat)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"classes = ", r"map\.toml is not TOML"),
        (b"\xff\xfe", r"map\.toml is not TOML"),
        (b"colours = []", r"map\.toml: .*unknown keys: colours"),
        (b'[classes]\nhat = "headwear"\n[rename]\nHat = "hatt"', r"map\.toml: .* no class of it. It has: hat\."),
        (None, r"map\.toml cannot be read \(No such file"),
    ],
)
def test_unusable_file_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    """Absent, no TOML, or no label map: the message names the file or the key."""
    path = tmp_path / "map.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DatasetError, match=message):
        read_label_map(path)
