"""What the command line works out before anything is decoded."""

from pathlib import Path

import pytest

from app.artifact import Metrics, SliceMetrics
from tests.training.photos.conftest import draw_garment, write_csv
from training.config import ConfigError
from training.photos.cli import choose_label_map, load, print_decisions, print_other_drawer, read_excluded
from training.photos.config import PhotoConfig
from training.photos.dataset import Columns
from training.photos.labels import DEFAULT_LABELS, LabelMap, every_label_a_class, read_label_map


def table(folder: Path, *labels: str) -> Path:
    """A folder with a CSV and a picture for each label."""
    folder.mkdir()
    for index in range(len(labels)):
        draw_garment("Hat", index).save(folder / f"{index}.png")
    write_csv(folder / "t.csv", [{"image": str(index), "label": label} for index, label in enumerate(labels)])
    return folder


def chosen(*sources: Path) -> LabelMap:
    return choose_label_map(list(sources), None, Columns())


def test_public_labels_get_the_public_map(tmp_path: Path) -> None:
    """Whole when all its classes occur; with the classes that occur when some do."""
    shipped = read_label_map(DEFAULT_LABELS)

    assert chosen(table(tmp_path / "all", *shipped.rename, *shipped.auxiliary, "Skip")) == shipped
    assert list(chosen(table(tmp_path / "two", "T-Shirt", "Pants")).classes) == ["pants", "t-shirt"]


def test_all_sources_count(tmp_path: Path) -> None:
    """A class of the second source is kept, and a label that the public map does not know makes every label a class."""
    first = table(tmp_path / "first", "T-Shirt", "Pants")

    assert list(chosen(first, table(tmp_path / "known", "Hat", "not-a-garment")).classes) == ["hat", "pants", "t-shirt"]
    assert chosen(first, table(tmp_path / "unknown", "Sock")) == every_label_a_class()


def test_other_data_makes_every_label_a_class(tmp_path: Path) -> None:
    """Class folders whatever they are called, and a CSV whose labels are classes in training only."""
    folders = tmp_path / "folders" / "Hat"
    folders.mkdir(parents=True)
    draw_garment("Hat", 0).save(folders / "a.png")

    assert chosen(folders.parent) == every_label_a_class()
    assert chosen(table(tmp_path / "table", "Polo", "Hoodie")) == every_label_a_class()


@pytest.mark.parametrize(
    "content",
    [b"name\nphoto-1\n", b"name\n", b"", b"image\n\xff\xfe\n", b"image\n" + b"x" * 200_000],
    ids=["no column", "no row", "empty", "not UTF-8", "no end"],
)
def test_bad_list_of_untrusted_labels_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "suspects.csv"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"suspects\.csv is not a CSV file with a column `image`"):
        read_excluded(path)


def test_list_of_untrusted_labels_is_read(tmp_path: Path) -> None:
    """A header alone lists nothing; lines may be short."""
    path = tmp_path / "suspects.csv"
    path.write_text("label,image\nHat,a\nHat\n")
    empty = tmp_path / "empty.csv"
    empty.write_text("image\n")

    assert read_excluded(path) == {"a"}
    assert read_excluded(empty) == read_excluded(None) == frozenset()


def test_load_says_where_each_picture_is_its_own_sender(
    garments_folder: Path,
    class_folders: Path,
    label_map: LabelMap,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a CSV without the column and of folders without folders in them; not where senders have several."""
    monkeypatch.chdir(tmp_path)
    without = table(tmp_path / "without", *["T-Shirt", "Hat"] * 8)

    load([garments_folder, without, class_folders], label_map, Columns(), PhotoConfig())

    said = [line for line in capsys.readouterr().out.splitlines() if "its own sender" in line]
    assert len(said) == 2
    assert said[0].startswith(f"{without}: each picture counts as its own sender; --group-column names the column")
    assert said[1].startswith(
        f"{class_folders}: each picture counts as its own sender; those that belong together go into one folder"
    )


def test_load_says_how_many_untrusted_labels_it_found(
    garments_folder: Path,
    label_map: LabelMap,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A list of another data set does nothing, and that is to be seen."""
    monkeypatch.chdir(tmp_path)
    plain = load([garments_folder], label_map, Columns(), PhotoConfig())
    train = plain.photos.part("train").rows[0].name
    assert "not trusted" not in capsys.readouterr().out

    load([garments_folder], label_map, Columns(), PhotoConfig(), exclude=frozenset({train, "elsewhere"}))

    assert "labels not trusted: 1 of 2 listed, in the training photos\n" in capsys.readouterr().out


def test_classes_in_no_drawer_of_their_own_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_other_drawer(every_label_a_class().for_labels({"Hat", "Poncho", "Sock"}))
    print_other_drawer(every_label_a_class().for_labels({"Hat"}))

    assert capsys.readouterr().out == (
        "in the drawer `other`: Poncho, Sock. --labels takes a file that says otherwise, see README.md.\n"
    )


@pytest.mark.parametrize(
    ("num_sorted", "num_review", "advice"),
    [
        (10, 10, ""),
        (
            9,
            11,
            "Most are for review, for want of photos: a single odd one decides what can be ruled out. With about 340",
        ),
        (1, 38, "Most are for review, for want of photos"),
        (1, 39, "Most are for review: the network is unsure."),
    ],
)
def test_decisions_are_counted_and_advice_given_where_most_are_for_review(
    num_sorted: int, num_review: int, advice: str, metrics: Metrics, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = {
        f"decision: {name}": SliceMetrics(num_images=number, accuracy=1, accuracy_interval=None)
        for name, number in (("sorted", num_sorted), ("review", num_review))
    }
    num_images = num_sorted + num_review

    print_decisions(metrics.model_copy(update={"num_images": num_images, "slices": slices}), PhotoConfig())

    first, _, rest = capsys.readouterr().out.partition("\n")
    assert first == (
        f"Of {num_images} validation photos {num_sorted} would be sorted, {num_review} would be for review (a person "
        "looks), 0 would be called no garment."
    )
    assert rest.startswith(advice)
    assert bool(rest) == bool(advice)
