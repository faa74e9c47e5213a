"""When a new version counts as better or worse."""

from datetime import UTC, datetime

import numpy as np
import pytest

from training.comparison import Comparison, Pairs, compare_pairs, holm, mcnemar, table


@pytest.mark.parametrize(
    ("only_old", "only_new", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (1, 9, 22 / 1024),  # 2 * (1 + 10) / 2**10
        (9, 1, 22 / 1024),
        (0, 6, 2 / 64),
        (4, 12, 2 * 2517 / 65536),  # 2 * (1 + 16 + 120 + 560 + 1820) / 2**16
    ],
)
def test_mcnemar_is_exact(only_old: int, only_new: int, p: float) -> None:
    assert mcnemar(only_old, only_new) == pytest.approx(p, rel=1e-12)


def test_thousands_of_pictures_are_no_trouble() -> None:
    """A normal approximation says 2.0e-3 and 0."""
    assert mcnemar(2_400, 2_620) == pytest.approx(2.0e-3, rel=0.05)
    assert mcnemar(0, 5_000) == 0


def test_holm_steps_down() -> None:
    """The smallest times four, the next times three ..., none below the one before it, none above 1."""
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def pairs(only_old: int, only_new: int, both: int = 20) -> np.ndarray:
    old = [True] * (only_old + both) + [False] * only_new
    new = [False] * only_old + [True] * (both + only_new)
    return np.array([old, new])


def compared(overall: np.ndarray, **apart: np.ndarray) -> Comparison:
    return Comparison(
        old="wardrobe/1",
        new="wardrobe/2",
        old_sha256="0" * 64,
        new_sha256="1" * 64,
        part="validation",
        measured_at=datetime.now(UTC),
        overall=compare_pairs({"all": overall})[0],
        apart=compare_pairs(apart),
    )


def test_pairs_are_counted() -> None:
    (row,) = compare_pairs({"hats": pairs(1, 9)})

    assert row == Pairs(pictures="hats", num_images=30, num_old=21, num_new=29, only_old=1, only_new=9, p=22 / 1024)


@pytest.mark.parametrize(
    ("comparison", "verdict"),
    [
        (compared(pairs(1, 9)), "better"),
        (compared(pairs(9, 1)), "worse"),
        (compared(pairs(1, 6)), "not told apart"),
        (compared(pairs(1, 9), hat=pairs(4, 1), shirt=pairs(0, 8)), "better"),
        (compared(pairs(1, 9), hat=pairs(8, 0), shirt=pairs(0, 1)), "worse"),  # one class pays for the others
        (compared(pairs(0, 0), hat=pairs(6, 0)), "worse"),
        (compared(pairs(0, 0), hat=pairs(6, 0), shirt=pairs(0, 0)), "not told apart"),  # 0.031 of two tests is 0.063
    ],
)
def test_the_verdict_is_better_only_where_nothing_is_worse(comparison: Comparison, verdict: str) -> None:
    assert comparison.verdict == verdict


def test_the_table_marks_what_differs() -> None:
    lines = table([compared(pairs(1, 9)).overall, compared(pairs(1, 1)).overall]).splitlines()

    assert lines[1].split() == ["all", "30", "70.0%", "96.7%", "1", "9", "0.021", "better"]
    assert lines[2].split() == ["all", "22", "95.5%", "95.5%", "1", "1", "1.000"]
