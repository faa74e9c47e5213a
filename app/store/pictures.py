"""Pictures and thumbnails as files, named by the SHA-256 of the picture; no name comes from a user."""

import fcntl
import io
import os
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from app.decoder import BudgetedDecoder

THUMBNAIL_SIZES_PIXELS = (160, 320, 960)  # few, so that what is cached stays a fraction of the pictures
THUMBNAIL_QUALITY = 82  # chosen, not tuned
MAX_THUMBNAILS_AT_ONCE = 2  # a picture of 50 million pixels takes 200 MB while it is decoded
PART_PREFIX = ".part-"
STRAY_DAYS = 30  # chosen: by then somebody has seen that an older database was put back


class Pictures:
    """Files below `folder`. Each is written whole or not at all, and never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stray = folder / "stray"  # pictures that no item was found for; to be looked at by a person
        self._decoder = BudgetedDecoder()  # what was imported was never decoded
        self._making = threading.BoundedSemaphore(MAX_THUMBNAILS_AT_ONCE)

    def close(self) -> None:
        self._decoder.close()

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # mkstemp and unlink, because access() says yes to root on a read-only file system
        descriptor, name = tempfile.mkstemp(prefix=PART_PREFIX, dir=self.folder)
        os.close(descriptor)
        os.unlink(name)

    @contextmanager
    def locked(self, *, exclusive: bool) -> Generator[None, None, None]:
        """Hold the folder against other threads and processes; the system lets go of it when the process is killed.

        Shared while a picture and its row are written, exclusive while they are removed: else one thread could remove
        the file to which another one has just added the row. Take it before a database transaction, never in one.
        """
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def identity(self) -> str | None:
        """Of the database that knows these pictures; None if it was never said."""
        try:
            return (self.folder / "wardrobe-id").read_text()
        except FileNotFoundError:
            return None

    def set_identity(self, identity: str) -> None:
        _write_whole(self.folder / "wardrobe-id", identity.encode(), durable=True)

    def any(self) -> bool:
        return next((self.folder / "pictures").glob("*/*"), None) is not None

    def write(self, digest: str, content: bytes) -> None:
        _write_whole(self._path(digest), content, durable=True)

    def has(self, digest: str) -> bool:
        return self._path(digest).is_file()

    def read(self, digest: str) -> bytes:
        """The bytes as they were sent.

        Raises:
            FileNotFoundError: it was removed.
        """
        return self._path(digest).read_bytes()

    def thumbnail(self, digest: str, *, size_pixels: int, max_pixels: int) -> bytes:
        """A JPEG, upright, with no side longer than `size_pixels`; made once.

        Raises:
            FileNotFoundError: the picture was removed.
            ImageError: the picture cannot be decoded.
        """
        path = self._thumbnail_path(digest, size_pixels)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        with self._making, self.locked(exclusive=False):  # else it could be written after its picture was removed
            pixels = self._decoder.decode(self.read(digest), max_pixels=max_pixels).pixels
            image = Image.fromarray(pixels)
            image.thumbnail((size_pixels, size_pixels))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
            _write_whole(path, buffer.getvalue(), durable=False)
        return buffer.getvalue()

    def remove(self, digest: str) -> list[OSError]:
        """Remove picture and thumbnails; what is not there is no error. Returns why files are left, if any are."""
        failures = []
        for path in (self._path(digest), *(self._thumbnail_path(digest, size) for size in THUMBNAIL_SIZES_PIXELS)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failures.append(error)
        return failures

    def sweep(self, known: set[str]) -> tuple[int, list[str]]:
        """Remove unfinished files, and thumbnails of no known digest; move pictures of none into `self.stray`.

        Those are not removed at once: if the database is an older one, restored from a backup, they are newer than it.
        They are after STRAY_DAYS, since they may be what somebody wanted to be gone. Returns how many files were
        removed, and the names of those that were moved.
        """
        num_removed, moved = 0, []
        for path in self.stray.glob("*"):
            if path.is_file() and path.stat().st_mtime < time.time() - 86_400 * STRAY_DAYS:
                path.unlink(missing_ok=True)
                num_removed += 1
        for path in self._files():
            if path.name[:64] in known or not path.is_file():  # a part's name is no digest
                continue
            if path.name.startswith(PART_PREFIX) or self.folder / "thumbnails" in path.parents:
                path.unlink(missing_ok=True)
                num_removed += 1
            else:
                self.stray.mkdir(exist_ok=True)
                os.utime(path)  # its days begin now
                path.replace(self.stray / path.name)
                moved.append(path.name)
        return num_removed, moved

    def _files(self) -> list[Path]:
        patterns = (f"{PART_PREFIX}*", "pictures/*/*", "thumbnails/*/*")
        return [path for pattern in patterns for path in self.folder.glob(pattern)]

    def _path(self, digest: str) -> Path:
        return self.folder / "pictures" / digest[:2] / digest

    def _thumbnail_path(self, digest: str, size_pixels: int) -> Path:
        return self.folder / "thumbnails" / digest[:2] / f"{digest}-{size_pixels}.jpg"


def _write_whole(path: Path, content: bytes, *, durable: bool) -> None:
    is_new_folder = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=PART_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)
        if is_new_folder:
            _sync_folder(path.parent.parent)


def _sync_folder(folder: Path) -> None:
    """Write the names in it to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
