"""Which files of a folder are pictures: told by their first bytes, in an order that stays the same."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app.images import ACCEPTED_FORMATS, sniff_format

HEAD_BYTES = 256  # as far as sniff_format looks
# A file of such a name is meant as a picture: if it is none, it is listed as broken and not passed over.
PICTURE_SUFFIXES = frozenset({f".{name.lower()}" for name in ACCEPTED_FORMATS}) | {
    ".jpg",
    ".jpe",
    ".jfif",
    ".tif",
    ".heic",
}
BMP_RESERVED = slice(6, 10)  # zero in every BMP; "BM" alone begins many a text


@dataclass(slots=True)
class Walk:
    """What was found. Links are not followed: what they lead to is elsewhere, or is found under its own name."""

    pictures: list[Path] = field(default_factory=list)
    unreadable_folders: list[tuple[Path, str]] = field(default_factory=list)
    num_others: int = 0
    num_links: int = 0
    num_hidden: int = 0


def walk(folder: Path, *, without: frozenset[Path] = frozenset()) -> Walk:
    """Look through a folder and all below it, but for hidden entries and the files and folders in `without`."""
    found = Walk()
    for entry in _entries(folder, found, without):
        path = Path(entry.path)
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError:  # its name decides; a picture's row will say why it cannot be read
            head = b""
        if _is_picture(head) or path.suffix.lower() in PICTURE_SUFFIXES:
            found.pictures.append(path)
        else:
            found.num_others += 1
    return found


def _entries(folder: Path, found: Walk, without: frozenset[Path]) -> Iterator[os.DirEntry[str]]:
    """The regular files, those of a folder before those of the folders in it, by name."""
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.unreadable_folders.append((folder, f"The folder cannot be read: {error.strerror}."))
        return
    folders = []
    for entry in ordered:
        if Path(entry.path) in without:
            continue
        if entry.name.startswith("."):  # thumbnails, bins and resource forks of other programs
            found.num_hidden += 1
        elif entry.is_symlink():
            found.num_links += 1
        elif entry.is_dir(follow_symlinks=False):
            folders.append(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry
        else:
            found.num_others += 1
    for inner in folders:
        yield from _entries(inner, found, without)


def _is_picture(head: bytes) -> bool:
    image_format = sniff_format(head)
    return image_format is not None and (image_format != "BMP" or not any(head[BMP_RESERVED]))
