"""Photos on disk -> labelled tensors: a CSV beside a folder, or a folder for each class.

Whatever cannot be used is left out, with its reason, and counted in the summary; nothing stops a long run.
"""

import contextlib
import csv
import hashlib
import io
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from app.errors import ImageError
from app.images import decode
from training.data import DatasetError
from training.photos.labels import NOT_A_GARMENT, UNKNOWN, UNLABELLED, LabelMap
from training.photos.preprocess import resize
from training.photos.splits import TEST, TRAIN, VALIDATION, check_groups_are_apart, split_by_group

# Pictures are kept at this size; crops for a network input of up to 224 px are taken from it. Chosen, not tuned.
CACHE_SIZE_PIXELS = 256
CACHE_VERSION = 1  # to be raised when the decoder or `resize` makes other pixels of the same file
CACHE_PATTERN = "photos-" + "[0-9a-f]" * 16
CACHE_DAYS = 7  # chosen, not tuned: the public data set's is 0.8 GB
PARTS = (TRAIN, VALIDATION, TEST)
# Garment or not is told with fewer pictures than one class from another, and what is no garment has no end: more to
# measure with.
NEGATIVE_SHARES = {TRAIN: 0.5, VALIDATION: 0.2, TEST: 0.3}
MIN_TRAINING_PICTURES = 5  # of a class, or there is a warning: chosen, not tuned
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the CSV's columns; an empty one is not there."""

    image: str = "image"
    label: str = "label"
    group: str = "sender_id"
    part: str = ""  # a split of your own: train, validation, test
    slice: str = "kids"  # rows that say true here are reported apart

    @property
    def slice_name(self) -> str:
        """What the report calls the rows that are reported apart."""
        return f"photos marked {self.slice!r} in the data"


DEFAULT_COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class Row:
    """One picture as the data describes it."""

    path: Path
    label: str
    group: str
    name: str  # as the data names it: what the CSV says, or the path within the class folders
    part: str = ""
    in_slice: bool = False
    source: int = 0  # which of several it came from
    repeat: int = 1  # how often it is shown in an epoch, times what the label map says


@dataclass(frozen=True, slots=True)
class Dropped:
    """A picture that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Photos:
    """Decoded pictures: `images` uint8 (N, 3, CACHE_SIZE_PIXELS, CACHE_SIZE_PIXELS), squeezed to a square.

    `targets` int64 (N,): index into the label map's outputs, UNLABELLED or NOT_A_GARMENT.
    """

    rows: list[Row]
    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def labelled_by(self, label_map: LabelMap) -> "Photos":
        """With the targets of another label map, which knows and drops the same labels."""
        return replace(self, targets=torch.tensor([label_map.target(row.label) for row in self.rows]))

    def joined(self, other: "Photos") -> "Photos":
        return Photos(
            [*self.rows, *other.rows],
            torch.cat([self.images, other.images]),
            torch.cat([self.targets, other.targets]),
        )

    def subset(self, indices: Iterable[int]) -> "Photos":
        chosen = list(indices)
        return Photos([self.rows[i] for i in chosen], self.images[chosen], self.targets[chosen])

    def part(self, name: str) -> "Photos":
        return self.subset(i for i, row in enumerate(self.rows) if row.part == name)

    def with_class(self, num_classes: int) -> "Photos":
        """Those whose class is one of the answered ones."""
        return self.subset(self.has_class(num_classes).nonzero().flatten().tolist())

    def has_class(self, num_classes: int) -> Tensor:
        """Bool (N,): whether the class is one of the answered ones."""
        return (self.targets >= 0) & (self.targets < num_classes)


@dataclass(frozen=True, slots=True)
class PhotoDataset:
    """Everything read from one source, with the map from labels to classes and what had to be left out."""

    photos: Photos
    label_map: LabelMap
    dropped: list[Dropped]
    columns: Columns
    source: str
    sha256: str  # over the digests of the files used, their labels and parts
    num_excluded: int  # training photos whose label is not trusted
    digests: frozenset[str]  # SHA-256 of every file that was read
    num_corrections: int = 0  # of the training photos, those that people corrected in their wardrobe
    corrections_sha256: str = ""

    def summary(self) -> str:
        """A table of labels by part, and a count of each reason for leaving pictures out."""
        counts = Counter((row.label, row.part) for row in self.photos.rows)
        total_of = Counter(row.label for row in self.photos.rows)
        labels = sorted(total_of, key=lambda label: (-total_of[label], label))
        outputs = self.label_map.outputs
        lines = [f"{'label':<24}{'used as':<18}" + "".join(f"{part:>12}" for part in PARTS)]
        for label in labels:
            target = self.label_map.target(label)
            assert target is not None
            special = {UNLABELLED: "(a garment)", NOT_A_GARMENT: "(no garment)", UNKNOWN: "(unknown class)"}
            used = special.get(target) or outputs[target]
            used += " *" if target >= len(self.label_map.classes) else ""
            lines.append(f"{label:<24}{used:<18}" + "".join(f"{counts[label, part]:>12,}" for part in PARTS))
        total = Counter(row.part for row in self.photos.rows)
        groups = {part: len({row.group for row in self.photos.rows if row.part == part}) for part in PARTS}
        lines.append(f"{'photos':<42}" + "".join(f"{total[part]:>12,}" for part in PARTS))
        lines.append(f"{'groups':<42}" + "".join(f"{groups[part]:>12,}" for part in PARTS))
        if self.label_map.auxiliary:
            lines.append("* trained as a class of its own, left out of the answer")
        num_train = Counter(self.photos.part(TRAIN).targets.tolist())
        for target, name in enumerate(self.label_map.classes):
            if num_train[target] < MIN_TRAINING_PICTURES:
                lines.append(f"warning: {name} has {num_train[target]} training pictures: too few to learn it from")
        return "\n".join([*lines, *self.left_out()])

    def left_out(self) -> list[str]:
        """A line for each reason."""
        lines = []
        for reason, number in Counter(item.reason for item in self.dropped).most_common():
            example = next(item.path.name for item in self.dropped if item.reason == reason)
            lines.append(f"left out: {number:,} ({reason}; for instance {example})")
        return lines


def is_table(source: Path) -> bool:
    """Whether pictures are listed in a CSV file, and not sorted into folders."""
    return source.is_file() or any(source.glob("*.csv"))


def read_rows(source: Path, columns: Columns) -> tuple[list[Row], list[Dropped]]:
    """Rows of a CSV file, of a folder with one CSV file in it, or of a folder with a folder for each class.

    Raises:
        DatasetError: the source is none of these, or the CSV lacks a column.
    """
    if source.is_file():
        return read_csv(source, columns)
    if not source.is_dir():
        raise DatasetError(f"{source} is neither a CSV file nor a folder.")
    tables = sorted(source.glob("*.csv"))
    if len(tables) == 1:
        return read_csv(tables[0], columns)
    if len(tables) > 1:
        raise DatasetError(f"{source} holds {len(tables)} CSV files. Give the path of the one to read.")
    return read_class_folders(source)


def read_csv(path: Path, columns: Columns) -> tuple[list[Row], list[Dropped]]:
    """A row for each line; the image column is a path or a file name without suffix, here or in `images/`."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        header, records = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a CSV file in UTF-8: {error}.") from error
    optional = {DEFAULT_COLUMNS.group, DEFAULT_COLUMNS.slice}  # another name was asked for
    for needed in (columns.image, columns.label, columns.part, *({columns.group, columns.slice} - optional)):
        if needed and needed not in header:
            hint = (
                " It must have commas between its columns."
                if len(header) == 1 and re.search("[;\t|]", header[0])
                else ""
            )
            raise DatasetError(f"{path} has no column {needed!r}; it has {', '.join(header)}.{hint}")
    files: dict[str, Path] = {}
    for folder in (path.parent, path.parent / "images"):
        for file_path in sorted(folder.glob("*")):
            if file_path.suffix.lower() in SUFFIXES:
                files.setdefault(file_path.name, file_path)
                files.setdefault(file_path.stem, file_path)
    rows, dropped = [], []
    for record in records:
        name = record[columns.image] or ""  # None where the line is too short
        found = files.get(name) or (path.parent / name if (path.parent / name).is_file() else None)
        if found is None:
            dropped.append(Dropped(Path(name), "no such file"))
            continue
        if not (record[columns.label] or "").strip():
            dropped.append(Dropped(found, "no label"))
            continue
        rows.append(
            Row(
                path=found,
                label=record[columns.label],
                group=record.get(columns.group) or found.stem,
                name=name,
                part=(record[columns.part] or "") if columns.part else "",
                in_slice=(record.get(columns.slice) or "").lower() in ("true", "1", "yes"),
            )
        )
    return rows, dropped


def read_class_folders(source: Path) -> tuple[list[Row], list[Dropped]]:
    """A row for each picture in `source/<label>/`; a folder inside it is a group, else each picture is its own."""
    rows = []
    dropped = [
        Dropped(path, "beside the class folders: no label")
        for path in sorted(source.glob("*"))
        if path.is_file() and path.suffix.lower() in SUFFIXES
    ]
    for path in sorted(source.glob("*/**/*")):
        label, *inside = path.relative_to(source).parts
        is_broken_link = path.is_symlink() and not path.exists()  # no picture, but to be said
        if not (path.is_file() or is_broken_link) or path.name.startswith("."):
            continue
        if path.suffix.lower() not in SUFFIXES:
            dropped.append(Dropped(path, f"not a picture: {path.suffix or 'no suffix'}"))
            continue
        name = path.relative_to(source).as_posix()
        rows.append(Row(path, label, group=inside[0] if len(inside) > 1 else name, name=name))
    if not rows:
        raise DatasetError(
            f"{source} holds neither a CSV file nor folders with pictures. Make a folder for each class, with the "
            "pictures of that class in it."
        )
    return rows, dropped


def load_photos(
    sources: Sequence[Path],
    *,
    label_map: LabelMap,
    columns: Columns,
    cache_folder: Path,
    shares: dict[str, float],
    seed: int,
    exclude: frozenset[str] = frozenset(),
    known: frozenset[str] = frozenset(),
) -> PhotoDataset:
    """Read, decode (or take from the cache), drop what cannot be used, and split by group.

    `shares` are those of train, validation and test; a part column in the data takes precedence. Each source is split
    by itself, so that a second one does not move the photos of the first; one without classes has shares of its own,
    and so have pictures of no garment. Garments of unknown classes are all in the test part. Rows whose name is in
    `exclude` keep teaching that they are garments, but not their label, and only in the training part: held-out figures
    are of the labels as they are. Files whose SHA-256 is `known`, from other data, are left out.

    Raises:
        DatasetError: no usable picture, a label that the map does not know, or a group in two parts.
    """
    rows, dropped = [], []
    for index, source in enumerate(sources):
        found, lost = read_rows(source, columns)
        rows += [replace(row, source=index) for row in found]
        dropped += lost
    label_map = label_map.for_labels({row.label for row in rows})
    kept = []
    for row in rows:
        if label_map.target(row.label) is None:
            dropped.append(Dropped(row.path, f"label {row.label!r} is dropped by the label map"))
        else:
            kept.append(row)
    images, digests, unreadable = read_images([row.path for row in kept], cache_folder)
    labels_of: dict[str, dict[int | None, str]] = {}  # of each file: a label for each target
    for digest, row in zip(digests, kept, strict=True):
        labels_of.setdefault(digest, {}).setdefault(label_map.target(row.label), row.label)
    seen: set[str] = set()
    usable = []
    for index, (digest, row) in enumerate(zip(digests, kept, strict=True)):
        others = [label for target, label in labels_of[digest].items() if target != label_map.target(row.label)]
        if row.path in unreadable:
            dropped.append(Dropped(row.path, unreadable[row.path]))
        elif others:  # which of them is right cannot be told
            dropped.append(
                Dropped(row.path, f"labelled {row.label!r}, and the same file {others[0]!r}: neither is used")
            )
        elif digest in known:
            dropped.append(Dropped(row.path, "the original data has this picture already"))
        elif digest in seen:
            dropped.append(Dropped(row.path, "the same file as another one"))
        else:
            seen.add(digest)
            usable.append(index)
    if not usable:
        raise DatasetError(f"None of the {len(rows)} pictures of {', '.join(map(str, sources))} can be used.")
    rows = _with_parts([kept[index] for index in usable], label_map, shares, seed=seed)
    targets = torch.tensor([label_map.target(row.label) for row in rows])  # none is None: those were dropped
    excluded = torch.tensor([row.part == TRAIN and row.name in exclude for row in rows]) & (targets >= 0)
    identity = sorted([digests[i], row.label, row.part] for i, row in zip(usable, rows, strict=True))
    return PhotoDataset(
        photos=Photos(rows, images[usable], targets.masked_fill(excluded, UNLABELLED)),
        label_map=label_map,
        dropped=dropped,
        columns=columns,
        source=", ".join(source.absolute().name for source in sources),
        sha256=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        num_excluded=int(excluded.sum()),
        digests=frozenset(digests),
    )


def _with_parts(rows: list[Row], label_map: LabelMap, shares: dict[str, float], *, seed: int) -> list[Row]:
    """The rows with their part filled in, where the data has none."""
    if unknown := sorted({row.part for row in rows} - {*PARTS, ""}):
        raise DatasetError(f"The part column says {', '.join(map(repr, unknown))}; it may say {', '.join(PARTS)}.")
    parts = {index: row.part for index, row in enumerate(rows) if row.part}
    targets = [target for row in rows if (target := label_map.target(row.label)) is not None]
    for source in sorted({row.source for row in rows}):
        of_source = [i for i, row in enumerate(rows) if row.source == source and i not in parts]
        has_classes = any(targets[i] >= 0 for i in of_source)
        garments = [i for i in of_source if targets[i] >= UNLABELLED and has_classes]
        others = [i for i in of_source if targets[i] != UNKNOWN and not (targets[i] >= UNLABELLED and has_classes)]
        for chosen, chosen_shares in ((garments, shares), (others, NEGATIVE_SHARES)):
            part_of_group = {rows[i].group: part for i, part in parts.items()}
            parts |= {i: part_of_group[rows[i].group] for i in chosen if rows[i].group in part_of_group}
            rest = [i for i in chosen if i not in parts]
            labels, groups = [rows[i].label for i in rest], [rows[i].group for i in rest]
            parts |= dict(zip(rest, split_by_group(labels, groups, chosen_shares, seed=seed), strict=True))
    # Never trained on: they may come from where training pictures do.
    rows = [
        replace(row, group=f"{row.group} (unknown)") if targets[i] == UNKNOWN else row for i, row in enumerate(rows)
    ]
    parts |= {i: TEST for i, target in enumerate(targets) if target == UNKNOWN}
    check_groups_are_apart([row.group for row in rows], [parts[i] for i in range(len(rows))])
    return [replace(row, part=parts[i]) for i, row in enumerate(rows)]


def read_images(paths: Sequence[Path], cache_folder: Path) -> tuple[Tensor, list[str], dict[Path, str]]:
    """uint8 (N, 3, S, S), the SHA-256 of each file, and a reason for each that cannot be read (its pixels are 0).

    Decoded by the service's decoder. Kept in `cache_folder` until a file is added, removed or changed; when pixels are
    written there, those that nobody has read for CACHE_DAYS are deleted.
    """
    key = hashlib.sha256(json.dumps([CACHE_VERSION, CACHE_SIZE_PIXELS, _listing(paths)]).encode()).hexdigest()[:16]
    pixels_path, index_path = cache_folder / f"photos-{key}.npy", cache_folder / f"photos-{key}.json"
    if index_path.exists():
        with contextlib.suppress(OSError):  # of a folder that may only be read
            index_path.touch()
    else:
        cache_folder.mkdir(parents=True, exist_ok=True)
        _delete_old_caches(cache_folder)
        _fill_cache(paths, pixels_path, index_path)
    index = json.loads(index_path.read_text())
    unreadable = {paths[int(position)]: reason for position, reason in index["unreadable"].items()}
    # Read from disk where they are used. Copy-on-write: torch warns of arrays that cannot be written.
    return torch.from_numpy(np.load(pixels_path, mmap_mode="c")), index["sha256"], unreadable


def _listing(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What changes when a file does; of one that is not there, a link into nowhere for instance, its name alone."""
    listing = []
    for path in paths:
        try:
            status = path.stat()
            listing.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
        except OSError:
            listing.append((str(path), 0, 0))
    return listing


def _delete_old_caches(folder: Path) -> None:
    """Those whose files were all last written, or read as `read_images` marks it, more than CACHE_DAYS ago."""
    files: dict[str, list[Path]] = defaultdict(list)
    for suffix in (".npy", ".json"):
        for path in folder.glob(CACHE_PATTERN + suffix):
            files[path.stem].append(path)
    for paths in files.values():
        if time.time() - max(path.stat().st_mtime for path in paths) > CACHE_DAYS * 24 * 3600:
            for path in paths:
                path.unlink()


def _fill_cache(paths: Sequence[Path], pixels_path: Path, index_path: Path) -> None:
    def read(path: Path) -> tuple[Tensor | None, str, str]:
        try:
            content = path.read_bytes()
        except OSError as error:
            return None, "", f"unreadable: {error.strerror}"
        digest = hashlib.sha256(content).hexdigest()
        try:
            pixels = decode(content).pixels
        except ImageError as error:
            return None, digest, f"unreadable: {error}"
        return resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), CACHE_SIZE_PIXELS), digest, ""

    shape = (len(paths), 3, CACHE_SIZE_PIXELS, CACHE_SIZE_PIXELS)
    pixels = np.lib.format.open_memmap(pixels_path, mode="w+", dtype=np.uint8, shape=shape)
    digests, unreadable = [], {}
    with ThreadPoolExecutor() as pool:
        for position, (image, digest, reason) in enumerate(
            track(pool.map(read, paths), description="decoding", total=len(paths))
        ):
            digests.append(digest)
            if image is None:
                unreadable[position] = reason
            else:
                pixels[position] = image.round().clamp(0, 255).to(torch.uint8).numpy()
    pixels.flush()
    temporary = index_path.with_suffix(".json.part")
    temporary.write_text(json.dumps({"sha256": digests, "unreadable": unreadable}))
    temporary.replace(index_path)  # whole or not at all: what has no index is decoded again
