"""A folder of pictures into a CSV file and, where it is wanted, into drawers; and back."""

import asyncio
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.classify import FileClassifier
from app.cli.drawers import JOURNAL_NAME, Drawers, How, Journal, NoJournalError, Placement, plan
from app.cli.progress import FileProgress
from app.cli.results import ERROR, ResultsFile, Row, read_rows
from app.cli.rules import Rules
from app.cli.walk import Walk, walk
from app.errors import WardrobeError

NUM_LISTED = 10  # of broken files and failures; the CSV file has them all
PAST = {"copy": "copied", "move": "moved", "hardlink": "linked", "symlink": "linked"}
OpenClassifier = Callable[[], AbstractAsyncContextManager[FileClassifier]]


class CannotSortError(WardrobeError):
    """What a person has to settle before anything is touched."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Into which folder pictures go, how, and by which rules; only shown, unless `apply`."""

    into: Path
    how: How
    rules: Rules
    apply: bool


def sort_folder(
    folder: Path,
    *,
    csv: Path,
    drawn: Drawn | None,
    open_classifier: OpenClassifier,
    expected_sha256: frozenset[str],
    again: bool,
) -> bool:
    """Classify what is new, write the CSV file, and show or do what goes where. False if a file could not be placed.

    `expected_sha256` are the models that the classifier will most probably use: it is opened only if, going by them,
    there is something to do.
    """
    out = _console()
    journal = Journal.read(drawn.into) if drawn else Journal()
    in_drawers = {(p.source, p.sha256) for n, p in journal.placements.items() if n not in journal.undone}
    found = walk(folder, without=_own_files(folder, csv, drawn, journal))
    with ResultsFile(csv) as results:
        _check_folder(results.rows, folder, csv)
        if drawn:
            _check_disk(found.pictures, folder, drawn)

        def kept(served_sha256: frozenset[str]) -> dict[str, Row]:
            rows = (row for row in results.rows if (row.path, row.sha256) in in_drawers or not again)
            return {
                row.path: row for row in rows if (row.path, row.sha256) in in_drawers or row.is_current(served_sha256)
            }

        rows = kept(expected_sha256)
        num_new = sum(str(path) not in rows for path in found.pictures)
        if num_new:
            rows, num_new = asyncio.run(_classify(found.pictures, results, open_classifier, kept))
        ordered = [rows.pop(str(path)) for path in found.pictures]
        ordered += [Row(str(path), reason=reason) for path, reason in found.unreadable_folders]
        gone = list(rows.values())  # moved into drawers before
        _show_found(out, found, ordered, num_new, folder)

        failed: list[tuple[str, str]] = []
        if drawn is None:
            results.rewrite(ordered + gone)
            _show_labels(out, ordered)
        elif not drawn.apply:
            placements = plan(ordered, drawn.into, drawn.rules, drawn.how, journal)
            results.rewrite(_marked(ordered + gone, journal, placements, drawn))
            if not _nothing_to_do(out, placements, journal, drawn):
                _show_plan(out, placements, drawn)
        else:
            with Drawers(drawn.into) as drawers:
                journal = drawers.journal
                placements = plan(ordered, drawn.into, drawn.rules, drawn.how, journal)
                with FileProgress(drawn.how, len(placements)) as progress:
                    failed = drawers.put(placements, progress.advance)
                results.rewrite(_marked(ordered + gone, journal, placements, drawn))
            if not _nothing_to_do(out, placements, journal, drawn):
                _show_done(out, placements, failed, drawn)
        out.print(f"Every file with its answer: {csv}", markup=False)
    return not failed


def how_to_go_on(csv: Path, drawn: Drawn | None) -> str:
    """What to say after Ctrl-C: what is there by now, and that the same command goes on with it."""
    there = [f"{csv} has answers for {len(read_rows(csv)):,} files"]
    if drawn and (placed := Journal.read(drawn.into).placed()):
        there.append(f"{len(placed):,} files are in {drawn.into}")
    return f"Stopped: {', '.join(there)}. Give the same command again to go on."


def undo(into: Path, *, apply: bool) -> bool:
    """Take back what was sorted into a folder, or say what that would be. False if a file was left."""
    out = _console()
    if not (into / JOURNAL_NAME).exists():
        raise NoJournalError(into)
    if not apply:
        hows = Counter(placement.how for placement in Journal.read(into).placed().values())
        for how, num in sorted(hows.items()):
            would = "they would go back to where they were" if how == "move" else "these would be removed"
            out.print(f"{num:,} files were {PAST[how]} into {into}: {would}.", markup=False)
        if set(hows) - {"move"}:
            out.print("Where an original is gone by now, it is put back instead.")
        out.print(f"Nothing was done. To do it:\n  wardrobe undo {shlex.quote(str(into))} --apply", markup=False)
        return True
    with Drawers(into) as drawers:
        num = len(drawers.journal.placed())
        with FileProgress("undo", num) as progress:
            left = drawers.undo(progress.advance)
    out.print(f"{num - len(left):,} of {num:,} files were taken back.")
    _list(out, f"{len(left):,} were left where they are:", left)
    return not left


async def _classify(
    pictures: list[Path],
    results: ResultsFile,
    open_classifier: OpenClassifier,
    kept: Callable[[frozenset[str]], dict[str, Row]],
) -> tuple[dict[str, Row], int]:
    """All rows by path, and how many are new; each stands in the file as soon as it is known."""
    async with open_classifier() as classifier:
        rows = kept(classifier.served_sha256)
        new = [path for path in pictures if str(path) not in rows]
        if len(new) < len(pictures):
            print(f"{len(pictures) - len(new):,} of {len(pictures):,} pictures are known already.", file=sys.stderr)
        results.rewrite(rows.values())
        with FileProgress("classify", len(new)) as progress:
            async for found in classifier.rows(new):
                results.append(found)
                rows |= {row.path: row for row in found}
                progress.advance(len(found))
    return rows, len(new)


def _own_files(folder: Path, csv: Path, drawn: Drawn | None, journal: Journal) -> frozenset[Path]:
    """What must not be taken for something to sort: what was sorted already, and what is written here."""
    own = {csv}
    if drawn:
        own |= {drawn.into / JOURNAL_NAME, *(drawn.into / p.target for p in journal.placed().values())}
        if drawn.into != folder:
            own.add(drawn.into)
    return frozenset(own)


def _check_folder(rows: Iterable[Row], folder: Path, csv: Path) -> None:
    if other := next((row.path for row in rows if not Path(row.path).is_relative_to(folder)), None):
        raise CannotSortError(f"{csv} is of another folder ({other}). Choose another file with --csv.")


def _check_disk(pictures: list[Path], folder: Path, drawn: Drawn) -> None:
    """So that a run does not fail with every file, or in the middle."""
    there = next(path for path in (drawn.into, *drawn.into.parents) if path.exists())
    other_disk = there.stat().st_dev != folder.stat().st_dev
    if drawn.how == "hardlink" and other_disk:
        raise CannotSortError(f"{drawn.into} is on another disk than {folder}: hard links cannot lead there.")
    if drawn.how == "copy" or (drawn.how == "move" and other_disk):
        num_bytes = sum(path.stat().st_size for path in pictures if path.exists())
        free = shutil.disk_usage(there).free
        if num_bytes > free:
            raise CannotSortError(
                f"The pictures have {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {there}. Link or "
                "move them instead (--how)."
            )


def _marked(rows: Iterable[Row], journal: Journal, placements: list[Placement], drawn: Drawn) -> list[Row]:
    """Rows that say where each file went, or would go."""
    planned = {(placement.source, placement.sha256): placement for placement in placements}
    placed = journal.placed()
    marked = []
    for row in rows:
        key = (row.path, row.sha256)
        placement = placed.get(key) or planned.get(key)
        target = str(drawn.into / placement.target) if placement else ""
        marked.append(replace(row, target=target, placed=placement.how if placement and key in placed else ""))
    return marked


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _show_found(out: Console, found: Walk, rows: list[Row], num_new: int, folder: Path) -> None:
    others = {"other": found.num_others, "hidden": found.num_hidden, "links": found.num_links}
    passed = ", ".join(f"{num:,} {what}" for what, num in others.items() if num)
    known = f", {len(found.pictures) - num_new:,} of them known already" if num_new < len(found.pictures) else ""
    left = f". Passed over: {passed}" if passed else ""
    out.print(f"{len(found.pictures):,} pictures in {folder}{known}{left}.", markup=False)
    broken = [(row.path, row.reason) for row in rows if row.decision == ERROR]
    _list(out, f"{len(broken):,} cannot be read and stay where they are:", broken)


def _show_labels(out: Console, rows: list[Row]) -> None:
    table = _table("group", "label", "sorted", "review", "not a garment")
    counts = Counter((row.group, row.label, row.decision) for row in rows if row.decision != ERROR)
    for group, label in sorted({(group, label) for group, label, _ in counts}):
        numbers = [counts[group, label, decision] for decision in ("sorted", "review", "not_a_garment")]
        table.add_row(escape(group), escape(label), *(f"{number:,}" if number else "" for number in numbers))
    out.print(table)


def _nothing_to_do(out: Console, placements: list[Placement], journal: Journal, drawn: Drawn) -> bool:
    if num_before := len(journal.placed()):
        out.print(f"{num_before:,} files are in {drawn.into} already.", markup=False)
    if not placements:
        out.print("Nothing is left to do.")
    return not placements


def _show_plan(out: Console, placements: list[Placement], drawn: Drawn) -> None:
    _show_drawers(out, placements, drawn)
    size = sum(placement.num_bytes for placement in placements) / 1e6
    out.print(
        f"{len(placements):,} files ({size:,.0f} MB) would be {PAST[drawn.how]}. Nothing was: this only shows it. "
        "To do it, give the same command with --apply."
    )


def _show_done(out: Console, placements: list[Placement], failed: list[tuple[str, str]], drawn: Drawn) -> None:
    names = {name for name, _ in failed}
    done = [placement for placement in placements if placement.source not in names]
    if done:
        _show_drawers(out, done, drawn)
    out.print(f"{len(done):,} files were {PAST[drawn.how]} into {drawn.into}.", markup=False)
    _list(out, f"{len(failed):,} could not be; give the same command again to try once more:", failed)
    out.print(f"To take it back: wardrobe undo {shlex.quote(str(drawn.into))}", markup=False)


def _show_drawers(out: Console, placements: list[Placement], drawn: Drawn) -> None:
    table = _table(f"drawer in {escape(str(drawn.into))}", "files", "for example")
    drawers: dict[str, list[Placement]] = {}
    for placement in placements:
        drawers.setdefault(os.path.dirname(placement.target), []).append(placement)
    for drawer, inside in sorted(drawers.items()):
        table.add_row(escape(drawer), f"{len(inside):,}", escape(os.path.basename(inside[0].target)))
    out.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = column in ("files", "sorted", "review", "not a garment")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=index == 0)
    return table


def _list(out: Console, title: str, items: list[tuple[str, str]]) -> None:
    if not items:
        return
    out.print(title)
    for name, reason in items[:NUM_LISTED]:
        out.print(f"  {name}: {reason}", markup=False)
    if len(items) > NUM_LISTED:
        out.print(f"  ... and {len(items) - NUM_LISTED:,} more")
