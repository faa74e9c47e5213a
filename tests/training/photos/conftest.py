"""Drawn garments, on disk as a user has photos: a CSV with senders, class folders, and pictures of no garment."""

import contextlib
import csv
import re
import shlex
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from app.artifact import EpochRecord, Metrics
from training.__main__ import cli
from training.photos import fit as fit_module
from training.photos.config import PhotoConfig
from training.photos.dataset import Columns, PhotoDataset, load_photos
from training.photos.evaluate import Predictions, measure_photos
from training.photos.labels import LabelMap
from training.progress import FitProgress

TINY = ["--sizes", "32", "--epochs", "2", "--batch-size", "16"]
SHARES = {"train": 0.75, "validation": 0.12, "test": 0.13}
COLOURS = {"T-Shirt": "firebrick", "Pants": "navy", "Hat": "seagreen"}
OUTLINES = {
    "T-Shirt": [(12, 10), (36, 10), (46, 22), (40, 28), (36, 24), (36, 54), (12, 54), (12, 24), (8, 28), (2, 22)],
    "Pants": [(14, 8), (34, 8), (40, 58), (28, 58), (24, 26), (20, 58), (8, 58)],
    "Hat": [(4, 44), (12, 40), (16, 20), (32, 20), (36, 40), (44, 44)],
}
LABELS_TOML = """
auxiliary = ["Polo"]
unlabelled = ["Not sure"]
negatives = ["not-a-garment"]
unknown = ["Glove"]
drop = ["Skip"]

[classes]
shirt = "tops"
pants = "bottoms"
hat = "headwear"

[rename]
T-Shirt = "shirt"
Pants = "pants"
Hat = "hat"
"""


def draw_garment(label: str, seed: int) -> Image.Image:
    """48x64 pixels, RGB: each seed has a background of its own."""
    level = np.random.default_rng(seed).integers(120, 256, 3)
    image = Image.new("RGB", (48, 64), tuple(level.tolist()))
    ImageDraw.Draw(image).polygon(OUTLINES[label], fill=COLOURS[label])
    return image


def draw_noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 48, 3), dtype=np.uint8))


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def label_map() -> LabelMap:
    """Three classes with one that is only trained, one label of each other kind."""
    return LabelMap(
        classes={"shirt": "tops", "pants": "bottoms", "hat": "headwear"},
        rename={"T-Shirt": "shirt", "Pants": "pants", "Hat": "hat"},
        auxiliary=("Polo",),
        unlabelled=frozenset({"Not sure"}),
        negatives=frozenset({"not-a-garment"}),
        unknown=frozenset({"Glove"}),
        drop=frozenset({"Skip"}),
    )


@pytest.fixture(scope="session")
def garments_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 JPEGs in `images/` and a CSV: 36 senders of one garment and 12 of three. Look, do not write."""
    folder = tmp_path_factory.mktemp("garments")
    (folder / "images").mkdir()
    (folder / "labels.toml").write_text(LABELS_TOML)
    rows = []
    for index in range(72):
        label = list(COLOURS)[index % 3]
        draw_garment(label, index).save(folder / "images" / f"photo-{index}.jpg", quality=90)
        sender = index if index < 36 else 100 + index // 3
        kids = str(index % 2 == 0)
        rows.append({"image": f"photo-{index}", "sender_id": str(sender), "label": label, "kids": kids})
    write_csv(folder / "images.csv", rows)
    return folder


@pytest.fixture(scope="session")
def negatives_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of noise in `not-a-garment/`. Look, do not write."""
    folder = tmp_path_factory.mktemp("negatives") / "not-a-garment"
    folder.mkdir()
    for index in range(20):
        draw_noise(1_000 + index).save(folder / f"noise-{index}.png")
    return folder.parent


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures in each of T-Shirt, Hat and not-a-garment. Look, do not write."""
    folder = tmp_path_factory.mktemp("own-photos")
    for label in ("T-Shirt", "Hat", "not-a-garment"):
        (folder / label).mkdir()
        for index in range(16):
            seed = 2_000 + 100 * len(label) + index
            image = draw_noise(seed) if label == "not-a-garment" else draw_garment(label, seed)
            image.save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def drawn(
    garments_folder: Path, negatives_folder: Path, label_map: LabelMap, tmp_path_factory: pytest.TempPathFactory
) -> PhotoDataset:
    """The drawn garments and the pictures of no garment, read and split."""
    return load_photos(
        [garments_folder, negatives_folder],
        label_map=label_map,
        columns=Columns(),
        cache_folder=tmp_path_factory.mktemp("cache"),
        shares=SHARES,
        seed=0,
    )


@pytest.fixture(scope="session")
def tiny_photo_config() -> PhotoConfig:
    """Two epochs of a few steps on 32-pixel pictures."""
    return PhotoConfig(sizes=(32,), epochs=(2,), batch_size=16)


@pytest.fixture
def read(tmp_path: Path, label_map: LabelMap) -> Callable[..., PhotoDataset]:
    """`load_photos` with a cache in the test's own folder."""

    def load(*sources: Path, **options: object) -> PhotoDataset:
        defaults = {"label_map": label_map, "columns": Columns(), "shares": SHARES, "seed": 0}
        return load_photos(list(sources), cache_folder=tmp_path / "cache", **(defaults | options))

    return load


@pytest.fixture
def metrics() -> Metrics:
    """Of two photos, both right, without a threshold for decisions."""
    return measure_photos(
        Predictions(torch.eye(2), None, torch.tensor([10.0, 10.0])),
        torch.tensor([0, 1]),
        ["a", "b"],
        class_names=["shirt", "hat"],
        temperature=1.0,
        sets=torch.eye(2, dtype=torch.bool),
        level=0.95,
        review_below=None,
        garment_score=None,
        slices={},
    )


class StoppedAfterOneEpoch(FitProgress):
    """Ctrl-C as soon as the first epoch's checkpoint is written."""

    def epoch(self, record: EpochRecord) -> None:
        super().epoch(record)
        raise KeyboardInterrupt


@contextlib.contextmanager
def command_line(folder: Path) -> Generator[Callable[..., tuple[int, str]], None, None]:
    """`python -m training photos ...` in that folder, in this process: exit status and output."""

    def invoke(*words: str) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.chdir(folder)
            monkeypatch.setattr(sys, "argv", ["training", "photos", *words])
            result = CliRunner().invoke(cli, ["photos", *words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    yield invoke


@dataclass(frozen=True)
class Trained:
    """What the commands said, and what is left in their folder."""

    folder: Path
    interrupted: tuple[int, str]
    output: str

    @property
    def artifact_folder(self) -> Path:
        return self.folder / "models" / "wardrobe" / "1"


@pytest.fixture(scope="session")
def trained(garments_folder: Path, negatives_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Interrupted after the first epoch, resumed with the command that was printed, exported. Look, do not write."""
    folder = tmp_path_factory.mktemp("trained")
    labels = ["--labels", str(garments_folder / "labels.toml")]
    with command_line(folder) as invoke:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(fit_module, "FitProgress", StoppedAfterOneEpoch)
            interrupted = invoke("train", str(garments_folder), str(negatives_folder), *labels, *TINY)
        hint = re.search(r"go on with: \S+ -m training photos (.*)", interrupted[1])
        assert hint, interrupted[1]
        status, output = invoke(*shlex.split(hint[1]))
    assert status == 0, output
    return Trained(folder, interrupted, output)
