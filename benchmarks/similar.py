"""How alike photos of garments are to the photo model, and how long it takes to find what is alike.

    python -m benchmarks.similar pairs models/wardrobe/4 data/{clothing-dataset,negatives,emoji,gcompris} --sheet p.png
    python -m benchmarks.similar search 10000 100000

`pairs` chooses `DUPLICATE_SIMILARITY`: it compares every two photos that the model was not trained on, which the sheet
shows, the most similar first, to tell by eye whether they are of one garment, and 200 of them with changed copies.
`search` measures `Wardrobe.nearest` and the addition of a picture in a SQLite file. What they found on 2026-11-25
stands in the README, "Keep it".
"""

import argparse
import hashlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from rich.progress import track
from sqlalchemy import insert

from app.artifact import Artifact
from app.engines import load_artifact
from app.images import decode
from app.settings import Settings
from app.store.database import Database, database_url
from app.store.similar import Embedded
from app.store.tables import Embedding, Item
from app.store.wardrobe import NewItem, Wardrobe
from benchmarks.forward import milliseconds
from training.photos.cli import load_again
from training.photos.dataset import Row
from training.photos.splits import TEST, VALIDATION

BATCH_SIZE = 16
LIMITS = np.array([0.3, 0.5, 0.7, 0.9, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99])
NUM_CHANGED = 200  # photos, drawn at random
NUM_SHOWN, SHOWN_PIXELS, SHOWN_IN_ROW = 60, 150, 5
MODEL, NUM_DIMENSIONS = "a" * 64, 1280  # of the photo model's embeddings
NUM_RUNS = 20
PREDICTION: dict[str, Any] = {
    "label": "dress",
    "group": "dresses",
    "probability": 0.9,
    "decision": "sorted",
    "top_k": [{"label": "dress", "group": "dresses", "probability": 0.9}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    pairs = commands.add_parser("pairs", help="similarities of photos that were not trained on")
    pairs.add_argument("model", type=Path, help="an exported version")
    pairs.add_argument("sources", type=Path, nargs="+", help="what it was trained on, the photos of garments first")
    pairs.add_argument("--sheet", type=Path, help="picture to write with the most similar pairs")
    search = commands.add_parser("search", help="milliseconds of a search")
    search.add_argument("numbers", type=int, nargs="+", help="of items to search in")
    options = parser.parse_args()
    if options.command == "pairs":
        measure_pairs(options.model, options.sources, sheet=options.sheet)
    else:
        for number in options.numbers:
            measure_search(number)


def measure_pairs(model: Path, sources: list[Path], *, sheet: Path | None) -> None:
    artifact = load_artifact(model)
    photos = load_again(model, artifact.card, sources).photos
    rows = [row for row in photos.rows if row.part in (VALIDATION, TEST) and row.source == 0]
    embedded = embeddings(artifact, rows, "as they are")  # (N, D)
    similarities = np.triu(embedded @ embedded.T, 1)  # (N, N), each pair once
    senders, labels = np.array([row.group for row in rows]), np.array([row.label for row in rows])
    of_one_sender, of_one_label = senders[:, None] == senders, labels[:, None] == labels
    print(f"{len(rows):,} photos of {len(set(senders))} senders, {len(rows) * (len(rows) - 1) // 2:,} pairs")
    print_row("similarity at least", [f"{limit:.2f}" for limit in LIMITS])
    for name, chosen in {
        "pairs of one sender and label": of_one_sender & of_one_label,
        "pairs of one sender and two labels": of_one_sender & ~of_one_label,
        "pairs of two senders": ~of_one_sender,
    }.items():
        print_row(name, [f"{(similarities[chosen] >= limit).sum():,}" for limit in LIMITS])
    # One after the other, each sender's into a wardrobe of their own: the service names the nearest of those before.
    nearest = np.where(of_one_sender, similarities, 0).max(0)  # (N,)
    print_row("photos asked about", [f"{(nearest >= limit).mean():.1%}" for limit in LIMITS])
    drawn = np.random.default_rng(0).permutation(len(rows))[:NUM_CHANGED]
    for name, change in CHANGES.items():
        changed = embeddings(artifact, [rows[index] for index in drawn], name, change)
        own = (changed * embedded[drawn]).sum(1)
        print_row(f"copies: {name}", [f"{(own >= limit).mean():.0%}" for limit in LIMITS])
    if sheet is not None:
        best = np.argsort(similarities, axis=None)[::-1][:NUM_SHOWN]
        places = zip(*np.unravel_index(best, similarities.shape), strict=True)
        contact_sheet([(float(similarities[one, other]), rows[one], rows[other]) for one, other in places]).save(sheet)


def print_row(name: str, cells: Sequence[str]) -> None:
    print(f"{name:<38}" + "".join(f"{cell:>8}" for cell in cells), flush=True)


def embeddings(
    artifact: Artifact, rows: Sequence[Row], name: str, change: Callable[[Image.Image], Image.Image] | None = None
) -> np.ndarray:
    """float32 (N, D), each of length 1, of pictures that are read as the service reads them."""

    def prepare(row: Row) -> np.ndarray:
        pixels = decode(row.path.read_bytes()).pixels
        return artifact.preprocess(np.asarray(change(Image.fromarray(pixels))) if change else pixels)

    found: list[np.ndarray] = []
    with ThreadPoolExecutor() as pool:
        for start in track(range(0, len(rows), BATCH_SIZE), description=name, transient=True):
            batch = np.stack(list(pool.map(prepare, rows[start : start + BATCH_SIZE])))
            vectors = artifact.engine.outputs(batch).embedding
            assert vectors is not None, f"{artifact.folder} gives no embeddings"
            found += [Embedded(artifact.digest, row).unit() for row in vectors]
    return np.stack(found)


def _as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 70": lambda image: _as_jpeg(image, 70),
    "JPEG of quality 40": lambda image: _as_jpeg(image, 40),
    "half the size": lambda image: image.reduce(2),
    "brightened by a fifth": lambda image: image.point(lambda value: 1.2 * value),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "cropped by 5 % on each side": lambda image: ImageOps.crop(image, round(0.05 * min(image.size))),
    "mirrored": ImageOps.mirror,
}


def contact_sheet(pairs: Sequence[tuple[float, Row, Row]]) -> Image.Image:
    """Each pair side by side, with its similarity below."""
    width, height = 2 * SHOWN_PIXELS + 10, SHOWN_PIXELS + 20
    sheet = Image.new("RGB", (SHOWN_IN_ROW * width, -(-len(pairs) // SHOWN_IN_ROW) * height), "white")
    for index, (similarity, *both) in enumerate(pairs):
        left, top = index % SHOWN_IN_ROW * width, index // SHOWN_IN_ROW * height
        for side, row in enumerate(both):
            picture = Image.fromarray(decode(row.path.read_bytes()).pixels)
            sheet.paste(ImageOps.pad(picture, (SHOWN_PIXELS, SHOWN_PIXELS)), (left + side * SHOWN_PIXELS, top))
        senders = "one sender" if both[0].group == both[1].group else "two senders"
        ImageDraw.Draw(sheet).text((left + 4, top + SHOWN_PIXELS + 4), f"{similarity:.3f}, {senders}", "black")
    return sheet


def measure_search(number: int) -> None:
    """In embeddings drawn at random: to compare them takes as long as any others."""
    rng = np.random.default_rng(0)
    numbers = count()

    def new_item(embedded: Embedded | None = None) -> NewItem:
        content = b"%d" % next(numbers)  # the store does not look into it
        return NewItem(hashlib.sha256(content).hexdigest(), None, content, PREDICTION, embedded)

    def vectors(number: int) -> list[Embedded]:
        return [Embedded(MODEL, row) for row in rng.standard_normal((number, NUM_DIMENSIONS), np.float32)]

    with tempfile.TemporaryDirectory() as folder:
        wardrobe = Wardrobe(Settings(storage="on", data_dir=Path(folder)))
        wardrobe.open()
        fill(Database(database_url(None, Path(folder))), [new_item() for _ in range(number)], vectors)
        wanted = iter(vectors(4 * NUM_RUNS))
        started = time.process_time()  # which a busy machine does not lengthen
        search = milliseconds(lambda: wardrobe.nearest([next(wanted)], limit=10), NUM_RUNS)
        computing = 1_000 * (time.process_time() - started) / (2 * NUM_RUNS)  # with those of the warm-up
        compared = milliseconds(lambda: wardrobe.add([new_item(next(wanted))]), NUM_RUNS)
        plain = milliseconds(lambda: wardrobe.add([new_item()]), NUM_RUNS)
        wardrobe.close()
    print(
        f"{number:>9,} items: search {np.median(search):.0f} ms (of them computing {computing:.0f}), "
        f"addition {np.median(compared):.0f} ms, without an embedding {np.median(plain):.0f} ms",
        flush=True,
    )


def fill(database: Database, items: Sequence[NewItem], vectors: Callable[[int], list[Embedded]]) -> None:
    """Rows alone, without files: a hundred thousand of those would take long, and nobody reads them here."""
    now = datetime.now(UTC)
    same = {"revision": 1, "num_bytes": 1, "added_at": now, "changed_at": now, "prediction": PREDICTION} | {
        "probability": 0.9, "label": "dress", "drawer": "dresses", "corrected": False, "search": "dress dresses",
    }  # fmt: skip
    for start in range(0, len(items), 1000):
        ids = [new.id for new in items[start : start + 1000]]
        packed = [
            {"item_id": i, "model": MODEL, "vector": v.pack()} for i, v in zip(ids, vectors(len(ids)), strict=True)
        ]
        with database.write.begin() as session:
            session.execute(insert(Item), [{"id": item_id} | same for item_id in ids])
            session.execute(insert(Embedding), packed)
    database.engine.dispose()


if __name__ == "__main__":
    main()
