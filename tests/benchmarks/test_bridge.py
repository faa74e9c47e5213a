"""What the study of Fashion-MNIST on photos says, from made-up predictions; cutting out needs OpenCV and is not run."""

import sys
from types import ModuleType

import pytest
import torch

from app.artifact import Study, read_card
from tests.conftest import REPOSITORY
from training.photos.dataset import Row

NAMES = [
    "naive", "naive, negated", "recipe", "mask, recipe", "mask, own grey", "mask, own grey, evened", "mask, negated",
    "mask, negated, evened", "mask, outline alone",
]  # fmt: skip


def study(monkeypatch: pytest.MonkeyPatch, num_right: dict[str, int]) -> Study:
    """Ten T-shirts, of which a preparation gets so many right and calls the others bags; none where it is not named."""
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    monkeypatch.delitem(sys.modules, "benchmarks.bridge", raising=False)
    from benchmarks import bridge  # noqa: PLC0415 (it imports OpenCV, which is not among the dependencies)

    card = read_card(REPOSITORY / "models" / "fashion-mnist" / "1")
    shirt, bag = card.class_names.index("T-shirt/top"), card.class_names.index("Bag")
    rows = [Row(REPOSITORY, "T-Shirt", group=str(index), name=str(index)) for index in range(10)]
    predicted = {
        name: torch.tensor([shirt] * num_right.get(name, 0) + [bag] * (10 - num_right.get(name, 0))) for name in NAMES
    }
    luma = torch.tensor([10.0, 200.0] * 5)
    return bridge.summarise(card, rows, luma, predicted, {"recipe": "2 ms", "mask": "37 ms"})


def test_the_best_is_found_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 of 10 is more than 9 of 10, and is said with what it gains and with what the network does on its own data."""
    text = study(monkeypatch, {"naive": 1, "recipe": 9, "mask, own grey": 10}).text

    assert "The best preparation (mask, own grey) gives 100.0 %, 90.0 points more than none." in text
    own = read_card(REPOSITORY / "models" / "fashion-mnist" / "1").metrics["test"].accuracy
    assert text.endswith(f"its own data set the same network is right for {100 * own:.1f} %.")


def test_where_preparation_does_not_help_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    text = study(monkeypatch, {"naive": 8, "recipe": 3}).text

    assert "The best preparation (naive) gives 80.0 %, 0.0 points more than none." in text
    assert "does not sort photos" not in text


def test_table_has_a_row_for_each_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy, bags, and light and dark garments apart."""
    found = study(monkeypatch, {"recipe": 5})

    row = dict(zip(found.columns, found.rows[NAMES.index("recipe")], strict=True))
    assert [cells[0] for cells in found.rows] == NAMES
    assert (row["top-1"], row["called Bag"]) == ("50.0 %", "50.0 %")
    assert (row["light garments"], row["dark garments"]) == ("40.0 %", "60.0 %")
