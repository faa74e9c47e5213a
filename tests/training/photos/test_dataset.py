import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.training.photos.conftest import draw_garment, draw_noise, write_csv
from training.data import DatasetError
from training.photos import dataset as dataset_module
from training.photos.dataset import CACHE_SIZE_PIXELS, Columns, PhotoDataset, Row, read_rows
from training.photos.labels import NOT_A_GARMENT, UNKNOWN, UNLABELLED, every_label_a_class

Reader = Callable[..., PhotoDataset]


def write_photos(folder: Path, *names: str) -> Path:
    """T-shirts, each another one."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw_garment("T-Shirt", seed).save(folder / name)
    return folder


def row_of(dataset: PhotoDataset, stem: str) -> Row:
    return next(row for row in dataset.photos.rows if row.path.stem == stem)


def parts_of(dataset: PhotoDataset) -> dict[str, str]:
    return {str(row.path): row.part for row in dataset.photos.rows}


def test_csv_columns_are_named_by_options(tmp_path: Path) -> None:
    """Label, sender, part and mark from columns of any name, in any order, after a byte-order mark."""
    write_photos(tmp_path, "a.png", "b.png")
    table = "who,what,file,where,small\nanna,Hat,a,test,yes\nben,Pants,b.png,train,no\n"
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())

    rows, dropped = read_rows(tmp_path, Columns(image="file", label="what", group="who", part="where", slice="small"))

    assert dropped == []
    assert rows == [
        Row(tmp_path / "a.png", "Hat", "anna", "a", "test", in_slice=True),
        Row(tmp_path / "b.png", "Pants", "ben", "b.png", "train", in_slice=False),
    ]


@pytest.mark.parametrize("name", ["a", "a.jpg", "images/a.jpg"])
def test_image_column_finds_the_file(name: str, tmp_path: Path) -> None:
    """With and without suffix, and as a path from the CSV."""
    write_photos(tmp_path, "images/a.jpg")
    table = write_csv(tmp_path / "t.csv", [{"image": name, "label": "Hat"}])

    rows, _ = read_rows(table, Columns())

    assert [row.path for row in rows] == [tmp_path / "images/a.jpg"]
    assert rows[0].group == "a"  # without a group column each photo is its own


def test_incomplete_lines_cost_no_others(tmp_path: Path) -> None:
    """A line with an absent file, and one that is cut short, are left out with a reason."""
    write_photos(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("label,image\nHat,missing\nHat\nHat,a\n")

    rows, dropped = read_rows(tmp_path, Columns())

    assert [row.path.name for row in rows] == ["a.png"]
    assert [(item.path, item.reason) for item in dropped] == [
        (Path("missing"), "no such file"),
        (Path(), "no such file"),
    ]


@pytest.mark.parametrize("column", ["image", "label", "part", "group", "slice"])
def test_missing_column_is_refused(column: str, tmp_path: Path) -> None:
    """The message names it, and those that are there."""
    columns = {"image": "file", "label": "what", "part": "where", "group": "who", "slice": "small"}
    header = [name for key, name in columns.items() if key != column]
    table = write_csv(tmp_path / "t.csv", [dict.fromkeys(header, "x")])

    with pytest.raises(DatasetError, match=f"no column '{columns[column]}'; it has {', '.join(header)}"):
        read_rows(table, Columns(**columns))


def test_other_separators_are_explained(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image;label\na;Hat\n")

    with pytest.raises(DatasetError, match=r"it has image;label\. It must have commas between its columns"):
        read_rows(tmp_path, Columns())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds neither a CSV file nor folders with pictures. Make a folder for each class"),
        (["a.csv", "b.csv"], "holds 2 CSV files. Give the path of the one to read"),
    ],
)
def test_folder_without_data_is_refused(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("image,label\n")

    with pytest.raises(DatasetError, match=message):
        read_rows(tmp_path, Columns())


@pytest.mark.parametrize("label", ["", " "])
def test_a_line_without_a_label_is_dropped(label: str, tmp_path: Path) -> None:
    """It is no class of its own."""
    write_photos(tmp_path, "a.png", "b.png")
    table = write_csv(tmp_path / "t.csv", [{"image": "a", "label": label}, {"image": "b", "label": "Hat"}])

    rows, dropped = read_rows(table, Columns())

    assert [row.name for row in rows] == ["b"]
    assert [(item.path.name, item.reason) for item in dropped] == [("a.png", "no label")]


@pytest.mark.parametrize("table", [True, False])
def test_a_link_into_nowhere_is_dropped(table: bool, read: Reader, tmp_path: Path) -> None:
    """In a CSV and in class folders, with its reason; the rest is used."""
    source = write_photos(tmp_path / "photos", "Hat/a.png")
    (source / "Hat" / "b.png").symlink_to(tmp_path / "nowhere.png")
    if table:
        source = write_csv(source / "Hat" / "t.csv", [{"image": name, "label": "Hat"} for name in "ab"])

    dataset = read(source)

    assert [row.path.name for row in dataset.photos.rows] == ["a.png"]
    assert [(item.path.name, item.reason) for item in dataset.dropped] == [
        ("b.png", "unreadable: No such file or directory")
    ]


def test_a_file_under_two_labels_is_dropped_twice(read: Reader, tmp_path: Path) -> None:
    """Each reason names the other label; labels that the map merges are one."""
    source = write_photos(tmp_path / "photos", "T-Shirt/a.png", "T-Shirt/b.png", "Hat/c.png")
    (source / "shirt").mkdir()
    shutil.copy(source / "T-Shirt" / "a.png", source / "Hat" / "a.png")
    shutil.copy(source / "T-Shirt" / "b.png", source / "shirt" / "b.png")

    dataset = read(source)

    assert [row.name for row in dataset.photos.rows] == ["Hat/c.png", "T-Shirt/b.png"]
    assert {item.path.relative_to(source).as_posix(): item.reason for item in dataset.dropped} == {
        "Hat/a.png": "labelled 'Hat', and the same file 'T-Shirt': neither is used",
        "T-Shirt/a.png": "labelled 'T-Shirt', and the same file 'Hat': neither is used",
        "shirt/b.png": "the same file as another one",
    }


def test_absent_source_is_refused() -> None:
    with pytest.raises(DatasetError, match="nowhere is neither a CSV file nor a folder"):
        read_rows(Path("nowhere"), Columns())


def test_class_folders_may_hold_group_folders(tmp_path: Path) -> None:
    """The first folder is the label, the second keeps photos together; what is no picture is left out by suffix."""
    write_photos(tmp_path, "Hat/1.png", "Hat/anna/1.png", "Hat/anna/more/2.png", "Pants/1.png", "Pants/anna/3.png")
    (tmp_path / "Hat" / "notes.txt").write_text("mine")
    (tmp_path / "Hat" / ".hidden.png").write_bytes(b"")

    rows, dropped = read_rows(tmp_path, Columns())

    assert [(row.path.relative_to(tmp_path).as_posix(), row.label, row.group) for row in rows] == [
        ("Hat/1.png", "Hat", "Hat/1.png"),
        ("Hat/anna/1.png", "Hat", "anna"),
        ("Hat/anna/more/2.png", "Hat", "anna"),
        ("Pants/1.png", "Pants", "Pants/1.png"),
        ("Pants/anna/3.png", "Pants", "anna"),
    ]
    assert [(item.path.name, item.reason) for item in dropped] == [("notes.txt", "not a picture: .txt")]


def test_whatever_cannot_be_used_is_dropped_with_its_reason(read: Reader, tmp_path: Path) -> None:
    """A broken picture, a folder with a picture's name, the same file twice and a dropped label; the rest is used."""
    source = write_photos(tmp_path / "photos", "good.png", "other.png", "dropped.png")
    (source / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (source / "folder.jpg").mkdir()
    shutil.copy(source / "good.png", source / "twin.png")
    labels = {"good": "Hat", "other": "Pants", "broken": "Hat", "folder": "Hat", "twin": "Hat", "dropped": "Skip"}
    write_csv(source / "t.csv", [{"image": image, "label": label} for image, label in labels.items()])

    dataset = read(source)

    assert [row.path.name for row in dataset.photos.rows] == ["good.png", "other.png"]
    reasons = {item.path.name: item.reason for item in dataset.dropped}
    assert set(reasons) == {"broken.jpg", "folder.jpg", "twin.png", "dropped.png"}
    assert reasons["broken.jpg"].startswith("unreadable: ")
    assert reasons["folder.jpg"] == "unreadable: Is a directory"
    assert reasons["twin.png"] == "the same file as another one"
    assert reasons["dropped.png"] == "label 'Skip' is dropped by the label map"


def test_nothing_usable_is_refused(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "Hat").mkdir()
    (tmp_path / "Hat" / "a.jpg").write_bytes(b"no picture")

    with pytest.raises(DatasetError, match=r"None of the 1 pictures of .* can be used"):
        read(tmp_path)


def test_pictures_are_whole_squares_with_their_targets(drawn: PhotoDataset) -> None:
    """Each picture has the colour of its garment in its middle, whatever the shape of the file was."""
    photos = drawn.photos

    assert len(photos) == 92
    assert photos.images.shape == (92, 3, CACHE_SIZE_PIXELS, CACHE_SIZE_PIXELS)
    strongest = photos.images[:, :, 118, 100].argmax(1)  # firebrick, navy, seagreen
    of_classes = photos.targets >= 0
    assert [(0, 2, 1)[target] for target in photos.targets[of_classes]] == strongest[of_classes].tolist()
    assert Counter(photos.targets.tolist()) == {0: 24, 1: 24, 2: 24, NOT_A_GARMENT: 20}


def test_drawn_data_is_split_by_sender(drawn: PhotoDataset) -> None:
    """Every class is in every part, every sender in one; pictures of no garment have shares of their own."""
    rows, targets = drawn.photos.rows, drawn.photos.targets.tolist()

    assert len({(row.group, row.part) for row in rows}) == len({row.group for row in rows}) == 68
    found = Counter(zip(targets, (row.part for row in rows), strict=True))
    assert all(found[target, part] >= 2 for target in range(3) for part in ("train", "validation", "test"))
    assert [found[NOT_A_GARMENT, part] for part in ("train", "validation", "test")] == [10, 4, 6]


def test_second_source_does_not_move_the_first_ones_photos(
    drawn: PhotoDataset, garments_folder: Path, class_folders: Path, read: Reader
) -> None:
    alone = read(garments_folder)
    with_more = read(garments_folder, class_folders)

    assert len(with_more.photos) == len(alone.photos) + 48
    assert parts_of(alone).items() <= parts_of(with_more).items()
    assert parts_of(alone).items() <= parts_of(drawn).items()


def test_part_column_is_respected(read: Reader, tmp_path: Path) -> None:
    """Rows without a part follow their sender, or are split."""
    write_photos(tmp_path, *(f"{index}.png" for index in range(6)))
    parts = ["test", "train", "validation", "", "", "test"]
    senders = ["a", "b", "c", "a", "d", "a"]
    rows = [
        {"image": str(index), "label": "Hat", "sender_id": sender, "split": part}
        for index, (sender, part) in enumerate(zip(senders, parts, strict=True))
    ]
    write_csv(tmp_path / "t.csv", rows)

    dataset = read(tmp_path, columns=Columns(part="split"))

    assert [row.part for row in dataset.photos.rows] == ["test", "train", "validation", "test", "train", "test"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train", "test"], r"1 groups are in more than one part \('a': 1 in test, 1 in train\)"),
        (["train", "dev"], "The part column says 'dev'; it may say train, validation, test"),
    ],
)
def test_bad_part_column_is_refused(parts: list[str], message: str, read: Reader, tmp_path: Path) -> None:
    """A sender in two parts, and a part of another name."""
    write_photos(tmp_path, "0.png", "1.png")
    rows = [{"image": str(i), "label": "Hat", "sender_id": "a", "part": part} for i, part in enumerate(parts)]
    write_csv(tmp_path / "t.csv", rows)

    with pytest.raises(DatasetError, match=message):
        read(tmp_path, columns=Columns(part="part"))


def test_label_that_the_map_does_not_know_is_refused(read: Reader, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not know the label 'Sock'"):
        read(write_photos(tmp_path, "Sock/a.png"))


def test_unknown_classes_are_never_trained_on(read: Reader, tmp_path: Path) -> None:
    """Even where a part column or their sender's other photos say train; the guard lets them be."""
    source = write_photos(tmp_path / "photos", *(f"{index}.png" for index in range(20)))
    rows = [
        {"image": str(i), "label": "Glove" if i % 4 == 0 else "Hat", "sender_id": str(i // 2), "part": "train"}
        for i in range(20)
    ]
    write_csv(source / "t.csv", rows)

    for columns in (Columns(), Columns(part="part")):
        dataset = read(source, columns=columns)

        unknown = [row for row in dataset.photos.rows if row.label == "Glove"]
        assert {row.part for row in unknown} == {"test"}
        assert len(unknown) == (dataset.photos.targets == UNKNOWN).sum() == 5
        assert UNKNOWN not in dataset.photos.part("train").targets


def test_excluded_labels_still_teach_that_there_is_a_garment(garments_folder: Path, read: Reader) -> None:
    """In the training part only: held-out figures are of the labels as they are. The split stays."""
    plain = read(garments_folder)
    by_part = {part: plain.photos.part(part).rows[0].name for part in ("train", "validation", "test")}

    dataset = read(garments_folder, exclude=frozenset({*by_part.values(), "of another data set"}))

    changed = (dataset.photos.targets != plain.photos.targets).nonzero().flatten().tolist()
    assert [dataset.photos.rows[index].name for index in changed] == [by_part["train"]]
    assert dataset.photos.targets[changed].tolist() == [UNLABELLED]
    assert dataset.num_excluded == 1
    assert parts_of(dataset) == parts_of(plain)
    assert dataset.sha256 == plain.sha256


def test_an_excluded_picture_does_not_take_its_namesake_along(read: Reader, tmp_path: Path) -> None:
    """In class folders a picture is named by its path: hats and pants may both have a 1.png."""
    names = [f"{label}/{index}.png" for label in ("Hat", "Pants") for index in range(10)]
    source = write_photos(tmp_path / "photos", *names)
    train = {row.name for row in read(source).photos.part("train").rows}
    number = next(i for i in range(10) if {f"Hat/{i}.png", f"Pants/{i}.png"} <= train)

    dataset = read(source, exclude=frozenset({f"Hat/{number}.png"}))

    not_trusted = [
        row.name for row, target in zip(dataset.photos.rows, dataset.photos.targets, strict=True) if target < 0
    ]
    assert not_trusted == [f"Hat/{number}.png"]


def test_decoded_pictures_are_kept(read: Reader, tmp_path: Path) -> None:
    """The second load decodes nothing and takes what the first one left, here pictures that were made black.

    It writes nothing but the time in the index.
    """
    source = write_photos(tmp_path / "photos", "Hat/a.png", "Hat/b.png")
    read(source)
    files = sorted((tmp_path / "cache").iterdir())
    pixels_path = next(path for path in files if path.suffix == ".npy")
    np.save(pixels_path, np.zeros_like(np.load(pixels_path)))
    before = [path.read_bytes() for path in files]
    os.utime(pixels_path.with_suffix(".json"), (0, 0))

    again = read(source)

    assert again.photos.images.sum() == 0
    assert sorted((tmp_path / "cache").iterdir()) == files
    assert [path.read_bytes() for path in files] == before
    assert time.time() - pixels_path.with_suffix(".json").stat().st_mtime < 60


def test_another_decoder_reads_the_files_again(read: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version of the code has kept is not taken."""
    source = write_photos(tmp_path / "photos", "Hat/a.png", "Hat/b.png")
    read(source)
    monkeypatch.setattr(dataset_module, "CACHE_VERSION", dataset_module.CACHE_VERSION + 1)

    read(source)

    assert len(list((tmp_path / "cache").glob("*.npy"))) == len(list((tmp_path / "cache").glob("*.json"))) == 2


def test_an_interrupted_decoding_is_not_taken_for_a_whole_one(
    read: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while the index is written: the next load decodes again and leaves the two files alone."""
    source = write_photos(tmp_path / "photos", "Hat/a.png", "Hat/b.png")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            read(source)

    dataset = read(source)

    assert len(dataset.photos) == 2
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".npy", ".json"}


def test_old_caches_go_when_a_new_one_comes(read: Reader, tmp_path: Path) -> None:
    """Seven days after their last use; what was used since, and what is no cache, stays."""
    cache = tmp_path / "cache"
    cache.mkdir()
    day = 24 * 3600
    ages = {"0" * 16: (8 * day, 7 * day + 60), "1" * 16: (30 * day, 6 * day), "of-grandma": (30 * day, 30 * day)}
    for stem, pair in ages.items():
        for suffix, age in zip((".npy", ".json"), pair, strict=True):
            path = cache / f"photos-{stem}{suffix}"
            path.write_bytes(b"")
            os.utime(path, (time.time() - age,) * 2)

    read(write_photos(tmp_path / "photos", "Hat/a.png"))

    left = {path.name for path in cache.iterdir()}
    assert {name for name in left if name.startswith("photos-000")} == set()
    assert {f"photos-{stem}{suffix}" for stem in ("1" * 16, "of-grandma") for suffix in (".npy", ".json")} <= left
    assert len(left) == 6


def test_changed_file_is_decoded_again(read: Reader, tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "Hat/a.png", "Hat/b.png")
    first = read(source)
    draw_noise(1).save(source / "Hat" / "a.png")

    second = read(source)

    same = (first.photos.images == second.photos.images).flatten(1).all(1)
    assert same.tolist() == [False, True]
    assert first.sha256 != second.sha256


def test_data_is_named_by_files_labels_and_parts(read: Reader, tmp_path: Path) -> None:
    """The same photos elsewhere are the same data; another label or another split is not."""
    source = write_photos(
        tmp_path / "photos", *(f"{label}/{i}{label}.png" for label in ("Hat", "Pants") for i in range(9))
    )
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    first, second = read(source), read(copy)
    (copy / "Hat" / "1Hat.png").rename(copy / "Pants" / "1Hat.png")

    assert first.sha256 == second.sha256
    assert read(copy).sha256 != first.sha256
    assert read(source, shares={"train": 0.1, "validation": 0.8, "test": 0.1}).sha256 != first.sha256


def test_summary_says_what_was_used_and_what_not(read: Reader, tmp_path: Path) -> None:
    """A line for each label with what it teaches and its photos by part, then the reasons for leaving photos out."""
    labels = ["Hat", "Hat", "Polo", "Not sure", "not-a-garment", "Glove", "Skip", "Hat"]
    write_photos(tmp_path, *(f"{index}.png" for index in range(7)))
    rows = [{"image": str(index), "label": label, "part": "train"} for index, label in enumerate(labels)]
    write_csv(tmp_path / "t.csv", rows)

    lines = [line.split() for line in read(tmp_path, columns=Columns(part="part")).summary().splitlines()]

    assert lines[0] == ["label", "used", "as", "train", "validation", "test"]
    assert lines[1] == ["Hat", "hat", "2", "0", "0"]
    assert lines[2:6] == [  # as many pictures of each: in alphabetical order
        ["Glove", "(unknown", "class)", "0", "0", "1"],
        ["Not", "sure", "(a", "garment)", "1", "0", "0"],
        ["Polo", "Polo", "*", "1", "0", "0"],
        ["not-a-garment", "(no", "garment)", "1", "0", "0"],
    ]
    assert lines[6:8] == [["photos", "5", "0", "1"], ["groups", "5", "0", "1"]]
    assert " ".join(lines[8]) == "* trained as a class of its own, left out of the answer"
    assert [" ".join(line) for line in lines[9:12]] == [
        f"warning: {name} has {number} training pictures: too few to learn it from"
        for name, number in (("shirt", 0), ("pants", 0), ("hat", 2))
    ]
    assert sorted(" ".join(line) for line in lines[12:]) == [
        "left out: 1 (label 'Skip' is dropped by the label map; for instance 6.png)",
        "left out: 1 (no such file; for instance 7)",
    ]


def test_pictures_beside_the_class_folders_are_left_out(tmp_path: Path) -> None:
    """And listed, unlike what is no picture."""
    write_photos(tmp_path, "Hat/a.png", "loose.png")
    (tmp_path / "notes.txt").write_text("mine")

    rows, dropped = read_rows(tmp_path, Columns())

    assert [row.name for row in rows] == ["Hat/a.png"]
    assert [(item.path.name, item.reason) for item in dropped] == [("loose.png", "beside the class folders: no label")]


def test_class_folders_need_no_map(class_folders: Path, read: Reader) -> None:
    """Each folder becomes a class with its drawer, the folder not-a-garment none."""
    dataset = read(class_folders, label_map=every_label_a_class())

    assert dict(dataset.label_map.classes) == {"Hat": "headwear", "T-Shirt": "tops"}
    assert Counter(dataset.photos.targets.tolist()) == {0: 16, 1: 16, NOT_A_GARMENT: 16}


def test_subsets_keep_rows_pictures_and_targets_together(drawn: PhotoDataset) -> None:
    photos = drawn.photos.part("validation").with_class(2)

    assert photos.rows
    assert {row.label for row in photos.rows} == {"T-Shirt", "Pants"}
    assert {row.part for row in photos.rows} == {"validation"}
    assert photos.targets.tolist() == [["T-Shirt", "Pants"].index(row.label) for row in photos.rows]
    first = drawn.photos.rows.index(photos.rows[0])
    assert photos.images[0].equal(drawn.photos.images[first])
