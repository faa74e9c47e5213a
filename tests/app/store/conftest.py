"""Wardrobes on both databases, without a service around them."""

import hashlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.settings import Settings
from app.store.wardrobe import NewItem, Wardrobe
from tests.odd_files import save
from tests.postgresql import emptied

PREDICTION: dict[str, Any] = {
    "label": "dress",
    "group": "dresses",
    "probability": 0.7,
    "decision": "review",
    "reason": "A person should look.",
    "model": {"name": "wardrobe", "version": 1},
    "top_k": [
        {"label": "dress", "group": "dresses", "probability": 0.7},
        {"label": "shirt", "group": "tops", "probability": 0.2},
        {"label": "t-shirt", "group": "tops", "probability": 0.1},
    ],
}


def new_item(number: int, **prediction: object) -> NewItem:
    """A picture of its own for each number up to 65535."""
    content = save(Image.new("RGB", (4, 4), (number >> 8, number & 255, 7)), "PNG")
    digest = hashlib.sha256(content).hexdigest()
    return NewItem(digest, f"{number}.png", content, PREDICTION | prediction)


def files(folder: Path) -> list[Path]:
    """Pictures, thumbnails and unfinished files, without what was put aside."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "stray"]
    return [path for path in found if not path.name.startswith(("wardrobe", "lock"))]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(storage="on", data_dir=tmp_path / "data")


@pytest.fixture(params=["sqlite", "postgresql"])
def wardrobe(request: pytest.FixtureRequest, settings: Settings) -> Generator[Wardrobe, None, None]:
    """Open and empty."""
    if request.param == "postgresql":
        url = emptied(request.getfixturevalue("postgresql_url"))
        settings = Settings(storage="on", data_dir=settings.data_dir, database_url=url)
    opened = Wardrobe(settings)
    opened.open()
    yield opened
    opened.close()
