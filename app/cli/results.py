"""What is known of each file, as rows of a CSV file that is written as the work goes on.

The CSV file is the result and the memory in one: a run that finds it there takes up what it says, and classifies only
what is new, was changed, or was answered by a model that is no longer the served one.
"""

import csv
import io
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Self

from app.errors import WardrobeError

try:
    import fcntl
except ImportError:  # Windows: two runs at once are the user's to avoid
    fcntl = None  # type: ignore[assignment]

SYNC_SECONDS = 1.0  # what a power failure may cost; killing the process loses nothing that was written
ERROR = "error"


class NotResultsError(WardrobeError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}. It is left as it is: choose another file with --csv.")


class InUseError(WardrobeError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"Another run is writing {path}. Wait for it, or stop it.")


@dataclass(frozen=True, slots=True)
class Row:
    """One file. `decision` is the service's or `error`; then `reason` is what is wrong with the file.

    `target` is where the file goes, `placed` how it was put there, empty until it was. The size and time of last change
    are those of the file when it was read; `sha256` is empty if it could not be.
    """

    path: str
    label: str = ""
    group: str = ""
    probability: float | None = None
    decision: str = ERROR
    reason: str = ""
    target: str = ""
    placed: str = ""
    model: str = ""
    model_sha256: str = ""
    sha256: str = ""
    num_bytes: int = 0
    mtime_ns: int = 0  # last on purpose: a line cut anywhere has no complete last number and no end

    def is_current(self, served_sha256: frozenset[str]) -> bool:
        """Whether the file is still the one that was read, and its answer still the one that would be given."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return self.was_moved
        same = (found.st_size, found.st_mtime_ns) == (self.num_bytes, self.mtime_ns)
        return same and bool(self.sha256) and (self.decision == ERROR or self.model_sha256 in served_sha256)

    @property
    def was_moved(self) -> bool:
        """Whether the file is gone because it lies in a drawer now."""
        return self.placed == "move" and not os.path.lexists(self.path)


COLUMNS = [field.name for field in fields(Row)]


def read_rows(path: Path) -> list[Row]:
    """Every complete row; a last line that a killed run did not finish is left out.

    Raises:
        NotResultsError: a file of another kind.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    lines = list(csv.reader(io.StringIO(text, newline="")))
    if not lines or (len(lines) == 1 and not text.endswith("\n") and ",".join(COLUMNS).startswith(text)):
        return []
    if lines[0] != COLUMNS:
        raise NotResultsError(path, "is there already and was not written by this command")
    if not text.endswith("\n"):
        lines.pop()
    complete = (dict(zip(COLUMNS, line, strict=True)) for line in lines[1:] if len(line) == len(COLUMNS))
    try:
        return [_row(values) for values in complete]
    except ValueError as error:
        raise NotResultsError(path, f"has a line that cannot be read ({error})") from error


def _row(values: dict[str, Any]) -> Row:
    probability = values["probability"]
    numbers = {"num_bytes": int(values["num_bytes"]), "mtime_ns": int(values["mtime_ns"])}
    return Row(**values | numbers | {"probability": float(probability) if probability else None})


class ResultsFile:
    """The CSV file, for this run and no other. `rows` are those that were there; `rewrite` comes before `append`."""

    def __init__(self, path: Path) -> None:
        """Open it, and make it where it is not.

        Raises:
            InUseError: another run has it open.
            NotResultsError: a file of another kind.
        """
        self._path = path
        self._file = _open(path)
        try:
            lock(self._file, path)
            self.rows = read_rows(path)
        except WardrobeError:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._sync()
        self._file.close()

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace all rows at once: whoever reads the file sees the old ones or the new ones."""
        path = self._path.with_name(f".{self._path.name}.new")
        path.unlink(missing_ok=True)
        previous, self._file = self._file, _open(path)
        lock(self._file, path)
        csv.writer(self._file, lineterminator="\n").writerow(COLUMNS)
        self._write(rows)
        self._sync()
        path.replace(self._path)
        previous.close()

    def append(self, rows: Iterable[Row]) -> None:
        self._write(rows)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def _write(self, rows: Iterable[Row]) -> None:
        csv.writer(self._file, lineterminator="\n").writerows(asdict(row).values() for row in rows)
        self._file.flush()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _open(path: Path) -> IO[str]:
    return path.open("a", encoding="utf-8", errors="surrogateescape", newline="")


def lock(file: IO[Any], path: Path) -> None:
    """Held until the file is closed or the process ends, however it ends."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError(path) from error
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise InUseError(path)  # and has put another file in its place since this one was opened
