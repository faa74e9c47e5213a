"""Rules, the walk, the CSV file, and files into drawers and back."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.drawers import JOURNAL_NAME, Drawers, How, Journal, plan
from app.cli.results import InUseError, NotResultsError, ResultsFile, Row, lock, read_rows
from app.cli.rules import DEFAULT_RULES, RulesError, read_rules
from app.cli.walk import walk
from tests.tiny_wardrobe import plain

Snapshot = dict[str, tuple[int, bytes | str | None]]
HOWS: tuple[How, ...] = ("copy", "move", "hardlink", "symlink")


def snapshot(folder: Path) -> Snapshot:
    """Every name below a folder, with its time of last change and its content."""
    found: Snapshot = {}
    for path in (folder, *folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (path.lstat().st_mtime_ns, content)
    return found


def row(path: Path, *, label: str = "dress", group: str = "dresses", decision: str = "sorted") -> Row:
    status = path.stat()
    return Row(
        path=str(path),
        label=label,
        group=group,
        probability=0.9,
        decision=decision,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        num_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, two of one name, changed long ago."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.png", "more/a.png"]):
        (folder / name).write_bytes(plain(100 * number, 0, 0))
        os.utime(folder / name, ns=(10**18 + number, 10**18 + number))
    for inner in (folder / "more", folder):
        os.utime(inner, ns=(10**18, 10**18))
    return folder


@pytest.fixture
def drawers(tmp_path: Path) -> Path:
    return tmp_path / "drawers"


def rows_of(photos: Path) -> list[Row]:
    return [row(path) for path in walk(photos).pictures]


def put(photos: Path, drawers: Path, how: How) -> list[tuple[str, str]]:
    with Drawers(drawers) as opened:
        return opened.put(plan(rows_of(photos), drawers, read_rules(None), how, opened.journal), lambda: None)


def undo(drawers: Path) -> list[tuple[str, str]]:
    with Drawers(drawers) as opened:
        return opened.undo(lambda: None)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("how", HOWS)
def test_undo_restores_names_times_and_bytes(photos: Path, drawers: Path, how: How) -> None:
    before = snapshot(photos)

    assert put(photos, drawers, how) == []
    assert names(drawers) == ["dresses/a-2.png", "dresses/a.png", "dresses/b.png", JOURNAL_NAME]
    assert undo(drawers) == []

    assert snapshot(photos) == before
    assert not drawers.exists()


@pytest.mark.parametrize("how", HOWS)
def test_sorted_again_nothing_is_sorted_twice(photos: Path, drawers: Path, how: How) -> None:
    put(photos, drawers, how)
    before = snapshot(drawers / "dresses")

    put(photos, drawers, how)

    assert snapshot(drawers / "dresses") == before


@pytest.mark.parametrize("how", HOWS)
def test_a_name_that_is_taken_is_never_written_over(photos: Path, drawers: Path, how: How) -> None:
    """Also where the other file came after the plan was made, and where the name differs in case only."""
    (drawers / "dresses").mkdir(parents=True)
    (drawers / "dresses" / "A.PNG").write_text("mine")
    with Drawers(drawers) as opened:
        placements = plan(rows_of(photos), drawers, read_rules(None), how, opened.journal)
        (drawers / "dresses" / "b.png").write_text("mine too")
        failed = opened.put(placements, lambda: None)

    assert [name for name, _ in failed] == [str(photos / "b.png")]
    assert (photos / "b.png").exists()
    assert names(drawers / "dresses") == ["A.PNG", "a-2.png", "a-3.png", "b.png"]
    assert (drawers / "dresses" / "A.PNG").read_text() == "mine"
    assert (drawers / "dresses" / "b.png").read_text() == "mine too"
    assert undo(drawers) == []
    assert names(drawers) == ["dresses/A.PNG", "dresses/b.png"]


def test_a_file_changed_since_it_was_looked_at_stays_where_it_is(photos: Path, drawers: Path) -> None:
    rows = rows_of(photos)
    (photos / "a.png").write_bytes(b"something else")

    with Drawers(drawers) as opened:
        failed = opened.put(plan(rows, drawers, read_rules(None), "move", opened.journal), lambda: None)

    assert [name for name, _ in failed] == [str(photos / "a.png")]
    assert (photos / "a.png").read_bytes() == b"something else"


def test_undo_leaves_a_copy_that_somebody_changed(photos: Path, drawers: Path) -> None:
    put(photos, drawers, "copy")
    (drawers / "dresses" / "b.png").write_bytes(b"painted over")

    left = undo(drawers)

    assert [name for name, _ in left] == ["dresses/b.png"]
    assert names(drawers) == ["dresses/b.png", JOURNAL_NAME]


@pytest.mark.parametrize("how", ["copy", "hardlink"])
def test_undo_puts_back_an_original_that_is_gone(photos: Path, drawers: Path, how: How) -> None:
    """Else the last copy would be removed."""
    before = snapshot(photos)
    put(photos, drawers, how)
    (photos / "b.png").unlink()

    assert undo(drawers) == []

    assert snapshot(photos)["b.png"] == before["b.png"]


def test_undo_of_a_move_writes_over_nothing_either(photos: Path, drawers: Path) -> None:
    put(photos, drawers, "move")
    (photos / "b.png").write_text("a new picture of that name")

    left = undo(drawers)

    assert [name for name, _ in left] == ["dresses/b.png"]
    assert (photos / "b.png").read_text() == "a new picture of that name"
    assert (drawers / "dresses" / "b.png").read_bytes() == plain(100, 0, 0)


def linked_back(photos: Path, drawers: Path) -> None:
    """So that other programs still find the picture."""
    (photos / "b.png").symlink_to(drawers / "dresses" / "b.png")


def linked_as_a_folder(photos: Path, drawers: Path) -> None:
    """Both names are then one: removing either removes the picture."""
    shutil.rmtree(photos)
    photos.symlink_to(drawers / "dresses")


def made_a_folder(photos: Path, drawers: Path) -> None:
    (photos / "b.png").mkdir()


@pytest.mark.parametrize("state", [linked_back, linked_as_a_folder, made_a_folder])
def test_undo_never_removes_the_only_copy(photos: Path, drawers: Path, state: Callable[[Path, Path], None]) -> None:
    put(photos, drawers, "move")
    state(photos, drawers)

    left = undo(drawers)

    assert "dresses/b.png" in [name for name, _ in left]
    assert (drawers / "dresses" / "b.png").read_bytes() == plain(100, 0, 0)


def test_undo_leaves_what_is_no_file_any_more(photos: Path, drawers: Path, tmp_path: Path) -> None:
    """A link that somebody left there would lead nowhere at the other place."""
    put(photos, drawers, "move")
    (drawers / "dresses" / "b.png").rename(tmp_path / "taken.png")
    (drawers / "dresses" / "b.png").symlink_to("../../taken.png")

    left = undo(drawers)

    assert [name for name, _ in left] == ["dresses/b.png"]
    assert (drawers / "dresses" / "b.png").read_bytes() == plain(100, 0, 0)


def test_a_move_out_of_a_folder_that_may_not_be_changed_leaves_nothing_behind() -> None:
    """A second name would stay in the drawer, and undo would not know of it."""
    with tempfile.TemporaryDirectory() as name:  # where another user may look, if this one may do everything
        photos, drawers = Path(name, "photos"), Path(name, "drawers")
        photos.mkdir()
        drawers.mkdir()
        drawers.chmod(0o777)
        (photos / "a.png").write_bytes(plain(1, 2, 3))
        Path(name).chmod(0o755)
        photos.chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            failed = put(photos, drawers, "move")
        finally:
            os.seteuid(user)
            photos.chmod(0o755)

        assert [name for name, _ in failed] == [str(photos / "a.png")]
        assert names(drawers) == [JOURNAL_NAME]
        assert (photos / "a.png").exists()


def killed_before(photos: Path, drawers: Path) -> None:
    """Announced, nothing done."""


def killed_between(photos: Path, drawers: Path) -> None:
    """The file has both names."""
    os.link(photos / "a.png", drawers / "dresses" / "a.png")


def killed_after(photos: Path, drawers: Path) -> None:
    """Done, and not written down."""
    os.rename(photos / "a.png", drawers / "dresses" / "a.png")


def killed_in_a_copy(photos: Path, drawers: Path) -> None:
    """To another disk; the copy has its name, the original is still there."""
    (drawers / "dresses" / "a.png").write_bytes((photos / "a.png").read_bytes())


def killed_after_and_a_new_one_came(photos: Path, drawers: Path) -> None:
    """Done, not written down, and the camera has used the name again."""
    killed_after(photos, drawers)
    (photos / "a.png").write_bytes(plain(7, 7, 7))


@pytest.mark.parametrize(
    "state", [killed_before, killed_between, killed_after, killed_in_a_copy, killed_after_and_a_new_one_came]
)
def test_wherever_a_move_was_killed_it_is_finished_once(
    photos: Path, drawers: Path, state: Callable[[Path, Path], None]
) -> None:
    before = {path.read_bytes() for path in walk(photos).pictures}
    with Drawers(drawers) as opened:
        placements = plan(rows_of(photos), drawers, read_rules(None), "move", opened.journal)
        opened._announce(placements)
        opened._make(drawers / "dresses")
    with (drawers / JOURNAL_NAME).open("a") as journal:
        journal.write('{"done": 1')  # cut in the middle of a line
    state(photos, drawers)
    before |= {path.read_bytes() for path in walk(photos).pictures}

    with Drawers(drawers) as opened:
        settled = [
            path for path in walk(photos).pictures if (str(path), row(path).sha256) not in opened.journal.placed()
        ]
        placements = plan(map(row, settled), drawers, read_rules(None), "move", opened.journal)
        assert opened.put(placements, lambda: None) == []

    assert names(photos) == []
    assert {path.read_bytes() for path in (drawers / "dresses").iterdir()} == before
    assert len(list((drawers / "dresses").iterdir())) == len(before)
    assert all(json.loads(line) for line in (drawers / JOURNAL_NAME).read_text().splitlines())


def test_rules_decide_by_the_first_that_fits(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        """
        [[rule]]
        decision = ["review", "not_a_garment"]
        folder = ""
        [[rule]]
        group = "tops"
        min_probability = 0.95
        folder = "never: 0.9 is below"
        [[rule]]
        label = ["T-shirt/top", ".."]
        folder = "tops/{label}"
        [[rule]]
        folder = "{group}"
        """
    )
    rules = read_rules(path)
    a = photos / "a.png"

    assert rules.folder_of(row(a)) == "dresses"
    assert rules.folder_of(row(a, decision="review")) == ""
    assert rules.folder_of(row(a, label="T-shirt/top", group="tops")) == "tops/T-shirt-top"
    assert rules.folder_of(row(a, label="..", group="tops")) == "tops/-"


def test_the_rules_that_are_printed_are_the_default(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(DEFAULT_RULES)

    assert read_rules(tmp_path / "rules.toml") == read_rules(None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[rule]]\nfolder = '../elsewhere'", "rule.1.folder: a folder must lie under --into"),
        ("[[rule]]\nfolder = '/elsewhere'", "rule.1.folder: a folder must lie under --into"),
        ("[[rule]]\nfolder = '{colour}'", "{colour} is unknown; there are {group}, {label} and {decision}"),
        ("[[rule]]\nfolder = 'a'\n[[rule]]\ngruop = 'tops'\nfolder = 'b'", "rule.2.gruop: Extra inputs"),
        ("[[rule]]\nfolder = 'a'\ndecision = 'revue'", "rule.1.decision.1: Input should be 'sorted'"),
        ("", "rule: Field required"),
        ("[[rule", "rules.toml is no rules file"),
    ],
)
def test_a_wrong_rules_file_says_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)

    with pytest.raises(RulesError, match=re.escape(reason)):
        read_rules(path)


def test_the_walk_tells_pictures_by_content_and_follows_no_links(photos: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.png").write_bytes(plain(1, 2, 3))
    (photos / "no-suffix").write_bytes(plain(1, 2, 3))
    (photos / "broken.JPG").write_bytes(b"")
    (photos / "BMW.txt").write_text("BMW makes cars.")
    (photos / "._a.png").write_bytes(b"a resource fork")
    (photos / "linked").symlink_to(outside)
    (photos / "far.png").symlink_to(outside / "far.png")
    os.mkfifo(photos / "pipe.png")

    found = walk(photos, without=frozenset({photos / "b.png"}))

    assert [str(path.relative_to(photos)) for path in found.pictures] == [
        "a.png",
        "broken.JPG",
        "no-suffix",
        "more/a.png",
    ]
    assert (found.num_others, found.num_links, found.num_hidden) == (2, 2, 1)


def test_a_csv_file_cut_anywhere_loses_its_last_row_only(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    odd = photos / 'odd\udcff,"name"\nin two lines.png'
    odd.write_bytes(plain(9, 9, 9))
    rows = rows_of(photos)
    assert str(odd) in [found.path for found in rows]
    with ResultsFile(path) as results:
        results.rewrite(rows)
    whole = path.read_bytes()

    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        found = read_rows(path)
        assert found == rows[: len(found)]
        assert len(found) >= whole[:length].count(b"dresses") - 1

    path.write_bytes(whole)
    assert read_rows(path) == rows


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "results.csv") as results:
        results.rewrite([])
        with pytest.raises(InUseError):
            ResultsFile(tmp_path / "results.csv")
    with Drawers(tmp_path), pytest.raises(InUseError):
        Drawers(tmp_path)


def test_a_file_that_another_run_has_replaced_meanwhile_is_in_use(tmp_path: Path) -> None:
    """Opened before the other run replaced it, locked after: the lock would be on a file without a name."""
    path = tmp_path / "results.csv"
    with path.open("a") as file, ResultsFile(path) as other:
        other.rewrite([])

        with pytest.raises(InUseError):
            lock(file, path)


def test_a_csv_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "money.csv").write_text("month,euros\n1,2\n")

    with pytest.raises(NotResultsError):
        ResultsFile(tmp_path / "money.csv")

    assert (tmp_path / "money.csv").read_text() == "month,euros\n1,2\n"


def test_a_new_picture_under_the_name_of_a_sorted_one_is_sorted_too(photos: Path, drawers: Path) -> None:
    put(photos, drawers, "move")
    (photos / "a.png").write_bytes(plain(7, 7, 7))

    put(photos, drawers, "move")

    assert (drawers / "dresses" / "a-3.png").read_bytes() == plain(7, 7, 7)
    assert len(Journal.read(drawers).placed()) == 4
