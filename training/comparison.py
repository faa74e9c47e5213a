"""Two versions on the same pictures, paired: is the new one better, worse, or can they not be told apart?

McNemar's test (1947) in its exact form: of the pictures that only one of the two gets right, each version would get
half if they were equally good. It takes pictures as independent of each other; several of one sender are not quite.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.artifact import Sha256, Share

COMPARISON_NAME = "comparison.json"  # in the folder of the new version; what promote goes by
LEVEL = 0.05
Verdict = Literal["better", "worse", "not told apart"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pairs(_Part):
    """How often each of the two versions is right about some pictures."""

    pictures: str
    num_images: int
    num_old: int
    num_new: int
    only_old: int
    only_new: int
    p: Share = Field(description="Exact McNemar test, made larger by Holm where several rows are looked at together.")

    @property
    def verdict(self) -> Verdict:
        if self.p > LEVEL:
            return "not told apart"
        return "better" if self.only_new > self.only_old else "worse"


class Comparison(_Part):
    """The rows of a comparison: all pictures with a class together, and what is looked at apart."""

    old: str
    new: str
    old_sha256: Sha256
    new_sha256: Sha256
    part: str
    measured_at: datetime
    overall: Pairs
    apart: list[Pairs]

    @property
    def verdict(self) -> Verdict:
        """Worse where anything is worse; better where all together are and nothing is worse."""
        if any(row.verdict == "worse" for row in self.apart):
            return "worse"
        return self.overall.verdict


def mcnemar(only_old: int, only_new: int) -> float:
    """Two-sided exact p of a split of so many pictures as uneven as this."""
    num_discordant = only_old + only_new
    ways = tail = 1  # to choose none of them, then one, two ...
    for k in range(min(only_old, only_new)):
        ways = ways * (num_discordant - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << num_discordant))


def holm(values: Sequence[float]) -> list[float]:
    """P values of several tests, each made larger so that none of them is wrong with LEVEL: Holm (1979)."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def compare_pairs(rows: Mapping[str, np.ndarray]) -> list[Pairs]:
    """A row for each name, of bool (2, N): whether the old and the new version are right about each picture."""
    counts = {name: (int((old & ~new).sum()), int((new & ~old).sum())) for name, (old, new) in rows.items()}
    adjusted = holm([mcnemar(*pair) for pair in counts.values()])
    return [
        Pairs(
            pictures=name,
            num_images=right.shape[1],
            num_old=int(right[0].sum()),
            num_new=int(right[1].sum()),
            only_old=counts[name][0],
            only_new=counts[name][1],
            p=p,
        )
        for (name, right), p in zip(rows.items(), adjusted, strict=True)
    ]


def read_comparison(folder: Path) -> Comparison | None:
    """What was last compared with this version; None if nothing can be read."""
    try:
        return Comparison.model_validate_json((folder / COMPARISON_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def table(rows: Sequence[Pairs]) -> str:
    lines = [f"{'pictures':<36}{'n':>6}{'old right':>11}{'new right':>11}{'only old':>10}{'only new':>10}{'p':>8}"]
    for row in rows:
        shares = [f"{number / max(1, row.num_images):.1%}" for number in (row.num_old, row.num_new)]
        lines.append(
            f"{row.pictures:<36}{row.num_images:>6}{shares[0]:>11}{shares[1]:>11}{row.only_old:>10}{row.only_new:>10}"
            f"{row.p:>8.3f}" + ("" if row.verdict == "not told apart" else f"  {row.verdict}")
        )
    return "\n".join(lines)
