"""Pictures into drawers and back: a journal that says what will be done before it is done, and what was.

The journal, `wardrobe-undo.jsonl` in the folder of the drawers, has one JSON object a line:

    {"number": 1, "how": "move", "source": "/photos/a.jpg", "target": "tops/shirt/a.jpg", "sha256": ...}  will be done
    {"done": 1}                                    was done
    {"made": "tops"}                               a folder that was not there before
    {"folder": "/photos", "mtime_ns": 17...}       its time before anything was moved out of it; it gets that back
                                                   if the same names are in it again
    {"undone": 1}                                  was taken back

Whenever the process is killed, what a line announces has been done, or it has not: the next run looks. Nothing is ever
written over: each way to put a file somewhere fails if there is one, and then another name is taken.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Self

from app.cli.results import Row, lock
from app.cli.rules import Rules
from app.errors import WardrobeError

JOURNAL_NAME = "wardrobe-undo.jsonl"
PART_PREFIX = ".wardrobe-part-"  # a copy that is not complete
CHUNK = 64  # files announced with one fsync; chosen, not tuned: what a resumed run has to look at
NO_HARD_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

How = Literal["copy", "move", "hardlink", "symlink"]


class NoJournalError(WardrobeError):
    def __init__(self, drawers: Path) -> None:
        super().__init__(f"There is no {JOURNAL_NAME} in {drawers}: nothing was sorted into it, or it was undone.")


class ChangedError(WardrobeError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} was changed or removed since it was looked at. Run the command again.")


@dataclass(frozen=True, slots=True)
class Placement:
    """One file and where it goes; `target` is relative to the drawers."""

    number: int
    how: How
    source: str
    target: str
    sha256: str
    num_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class Journal:
    """What the lines of a journal say; `good_bytes` is where the last whole one ends."""

    placements: dict[int, Placement] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    undone: set[int] = field(default_factory=set)
    made: list[str] = field(default_factory=list)
    times: dict[str, tuple[int, str]] = field(default_factory=dict)
    good_bytes: int = 0

    @classmethod
    def read(cls, drawers: Path) -> Self:
        """Empty if there is none."""
        journal = cls()
        with suppress(FileNotFoundError):
            for line in (drawers / JOURNAL_NAME).read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):  # the process was killed in it
                    break
                journal.take(json.loads(line))
                journal.good_bytes += len(line)
        return journal

    def take(self, line: dict[str, Any]) -> None:
        match line:
            case {"number": int(number)}:
                self.placements[number] = Placement(**line)
            case {"done": int(number)}:
                self.done.add(number)
            case {"undone": int(number)}:
                self.undone.add(number)
            case {"made": str(folder)}:
                self.made.append(folder)
            case {"folder": str(folder), "mtime_ns": int(mtime_ns), "names_sha256": str(names)}:
                self.times.setdefault(folder, (mtime_ns, names))

    def placed(self) -> dict[tuple[str, str], Placement]:
        """(source, SHA-256) -> what is in a drawer; another picture may have come under the same name since."""
        found = (p for n, p in self.placements.items() if n in self.done and n not in self.undone)
        return {(placement.source, placement.sha256): placement for placement in found}

    def open_placements(self) -> list[Placement]:
        """Those that a killed run announced, of which it is not known whether they were done."""
        return [p for n, p in self.placements.items() if n not in self.done and n not in self.undone]


def plan(rows: Iterable[Row], drawers: Path, rules: Rules, how: How, journal: Journal) -> list[Placement]:
    """What is left to do, in the order of the rows: as a dry run shows it and as it is then done.

    A name that is taken, by an earlier run or by somebody else, gets a number; two names that differ only in upper
    and lower case are one name, as on other people's disks.
    """
    placed = journal.placed()
    taken: dict[str, set[str]] = {}
    number = max(journal.placements, default=0)
    placements = []
    for row in rows:
        folder = rules.folder_of(row) if row.decision != "error" else ""
        if not folder or (row.path, row.sha256) in placed:
            continue
        number += 1
        if folder not in taken:
            taken[folder] = {name.casefold() for name in _names(drawers / folder)}
        name = _free_name(Path(row.path), taken[folder])
        taken[folder].add(name.casefold())
        target = f"{folder}/{name}"
        placements.append(Placement(number, how, row.path, target, row.sha256, row.num_bytes, row.mtime_ns))
    return placements


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):  # putting a file into it will say so
        return []


def _free_name(path: Path, taken: set[str]) -> str:
    name, number = path.name, 1
    while name.casefold() in taken:
        number += 1
        name = f"{path.stem}-{number}{path.suffix}"
    return name


class Drawers:
    """The folder of the drawers, open for one run."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and the journal where they are not.

        Raises:
            InUseError: another run has it open.
        """
        self.folder = folder
        new_folders = _missing(folder)
        around = new_folders[0].parent if new_folders else folder
        time_of_around = _time_of(around)
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = (folder / JOURNAL_NAME).open("ab")
        try:
            lock(self._file, folder / JOURNAL_NAME)
        except WardrobeError:
            self._file.close()
            raise
        self.journal = Journal.read(folder)
        self._file.truncate(self.journal.good_bytes)
        self._write([time_of_around, *({"made": str(new)} for new in new_folders)])
        self._settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _settle(self) -> None:
        """Finish what a killed run was at, file by file; what it had not begun is planned anew."""
        for placement in self.journal.open_placements():
            target, source = self.folder / placement.target, Path(placement.source)
            with suppress(OSError):  # it cannot be looked at now: the next run tries again
                _part(target).unlink(missing_ok=True)
                there = _is_there(placement, target)
                if there and placement.how == "move" and _is_second(source, target):
                    source.unlink()
                self._write([{"done" if there else "undone": placement.number}])

    def put(self, placements: list[Placement], advance: Callable[[], None]) -> list[tuple[str, str]]:
        """Do it. Returns those that failed and why; they do not stop the others."""
        failed: list[tuple[str, str]] = []
        for start in range(0, len(placements), CHUNK):
            chunk = placements[start : start + CHUNK]
            self._announce(chunk)
            for placement in chunk:
                target = self.folder / placement.target
                try:
                    self._make(target.parent)
                    _put(placement, target)
                    self._write([{"done": placement.number}], sync=False)
                except (OSError, WardrobeError) as error:
                    self._write([{"undone": placement.number}], sync=False)
                    failed.append((placement.source, _in_words(error)))
                advance()
            _sync(self._file)
        return failed

    def undo(self, advance: Callable[[], None]) -> list[tuple[str, str]]:
        """Take everything back, the last first. Returns what was left where it is, and why."""
        left: list[tuple[str, str]] = []
        for number, placement in reversed(self.journal.placements.items()):
            if number not in self.journal.undone:
                try:
                    _take_back(placement, self.folder / placement.target)
                    self._write([{"undone": number}], sync=False)
                except (OSError, WardrobeError) as error:
                    left.append((placement.target, _in_words(error)))
                advance()
        _sync(self._file)
        if not left:
            (self.folder / JOURNAL_NAME).unlink()
        for folder in reversed(self.journal.made):
            with suppress(OSError):  # not empty: something else is in it
                (self.folder / folder).rmdir()
        for folder, (mtime_ns, names) in self.journal.times.items():
            with suppress(OSError):
                if _time_of(Path(folder))["names_sha256"] == names:
                    os.utime(folder, ns=(os.stat(folder).st_atime_ns, mtime_ns))
        return left

    def _announce(self, placements: list[Placement]) -> None:
        sources = {os.path.dirname(placement.source) for placement in placements if placement.how == "move"}
        for folder in sources - self.journal.times.keys():
            with suppress(OSError):
                self._write([_time_of(Path(folder))], sync=False)
        self._write(map(asdict, placements))

    def _make(self, folder: Path) -> None:
        for new in _missing(folder):
            self._write([{"made": str(new.relative_to(self.folder))}], sync=False)
            new.mkdir()

    def _write(self, lines: Iterable[dict[str, Any]], *, sync: bool = True) -> None:
        for line in lines:
            self._file.write(json.dumps(line).encode() + b"\n")
            self.journal.take(line)
        self._file.flush()
        if sync:
            _sync(self._file)


def _missing(folder: Path) -> list[Path]:
    """The folders that have to be made, the outer ones first."""
    return [path for path in reversed((folder, *folder.parents)) if not path.exists()]


def _time_of(folder: Path) -> dict[str, Any]:
    names = hashlib.sha256("/".join(sorted(os.listdir(folder))).encode("utf-8", "surrogateescape"))
    return {"folder": str(folder), "mtime_ns": folder.stat().st_mtime_ns, "names_sha256": names.hexdigest()}


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _part(target: Path) -> Path:
    return target.with_name(PART_PREFIX + hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16])


def _put(placement: Placement, target: Path) -> None:
    source = Path(placement.source)
    try:
        status = source.lstat()
    except FileNotFoundError:
        raise ChangedError(source) from None
    if (status.st_size, status.st_mtime_ns) != (placement.num_bytes, placement.mtime_ns):
        raise ChangedError(source)
    match placement.how:
        case "copy":
            _copy(source, target, placement.sha256)
        case "move":
            _move(source, target, placement.sha256)
        case "hardlink":
            os.link(source, target)
        case "symlink":
            os.symlink(source, target)


def _move(source: Path, target: Path, sha256: str) -> None:
    """Under a second name first, so that at no moment the file has none: a rename would replace what is there.

    If another file has come under the first name meanwhile, that one stays.
    """
    before = source.lstat()
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _copy(source, target, sha256)  # another disk, or one without links
    try:
        if _identity(source.lstat()) == _identity(before):
            source.unlink()
    except FileNotFoundError:
        pass  # somebody else took it away: this is what is left of it
    except OSError:  # its folder cannot be written to: nothing was moved, and nothing stays behind
        target.unlink()
        raise


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _copy(source: Path, target: Path, sha256: str) -> None:
    """Content, times and rights, on the disk and compared with what was classified before it gets its name."""
    part = _part(target)
    try:
        shutil.copy2(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ChangedError(source)
        try:
            os.link(part, target)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if os.path.lexists(target):  # without links this is the best there is: nobody else puts a file there now
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _is_there(placement: Placement, target: Path) -> bool:
    """Whether the target is what the placement would have put there."""
    if placement.how == "symlink":
        return target.is_symlink() and os.readlink(target) == placement.source
    return _is_plain(target) and (_same_file(target, Path(placement.source)) or _sha256(target) == placement.sha256)


def _is_second(path: Path, other: Path) -> bool:
    """Whether both are files of the same content, and not one seen through a link to its folder: one of them can go."""
    if not (_is_plain(path) and _is_plain(other)) or os.path.realpath(path) == os.path.realpath(other):
        return False
    if _same_file(path, other):
        return path.lstat().st_nlink > 1  # one name only: its folder is mounted twice
    return _sha256(path) == _sha256(other)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _in_words(error: OSError | WardrobeError) -> str:
    return f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _take_back(placement: Placement, target: Path) -> None:
    """Never lose the last copy, and nothing that somebody changed."""
    source = Path(placement.source)
    _part(target).unlink(missing_ok=True)
    if not os.path.lexists(target):
        if placement.how == "move" and not os.path.lexists(source):
            raise ChangedError(target)
    elif placement.how == "symlink":
        if _is_there(placement, target):
            target.unlink()
    elif not _is_plain(target):
        raise WardrobeError(f"{target} is no file any more, and left as it is.")
    elif not os.path.lexists(source):  # moved, or the original is gone and this is what is left of it
        source.parent.mkdir(parents=True, exist_ok=True)
        _move(target, source, _sha256(target))
    elif _is_second(source, target):
        target.unlink()
    else:
        raise WardrobeError(f"{target} and {source} are both there and not alike: both are left as they are.")
