"""Train, validation and test parts that share no group (all photos of one sender), stratified by label."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from training.data import DatasetError

TRAIN: Final = "train"
VALIDATION: Final = "validation"
TEST: Final = "test"
# A sender with more than this share of a held-out part would dominate its figures: chosen, not tuned.
MAX_GROUP_SHARE = 0.2


def split_by_group(
    labels: Sequence[str], groups: Sequence[str], shares: Mapping[str, float], *, seed: int
) -> list[str]:
    """The part of each row: whole groups, each label spread over the parts by their `shares` as far as groups allow.

    Large groups first, each into the part that lacks its labels most (after Sechidis et al., On the stratification of
    multi-label data, 2011). A group larger than the average that would be more than MAX_GROUP_SHARE of a part goes to a
    larger part.
    """
    if not labels:
        return []
    label_index = {label: index for index, label in enumerate(sorted(set(labels)))}
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(label_index)))
    for label, group in zip(labels, groups, strict=True):
        counts[group][label_index[label]] += 1
    totals = np.sum(list(counts.values()), axis=0)
    parts = list(shares)
    wanted = np.array([[shares[part] for part in parts]]).T * totals  # (parts, labels)
    missing = wanted.copy()

    order = sorted(counts)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda group: -counts[group].sum())
    part_of = {}
    for group in order:
        size = counts[group].sum()
        need = (missing / np.maximum(wanted, 1e-9)) @ counts[group]  # (parts,)
        too_large = (size > MAX_GROUP_SHARE * wanted.sum(1)) & (size > totals.sum() / len(counts))
        too_large[wanted.sum(1) == wanted.sum(1).max()] = False
        chosen = int(np.argmax(np.where(too_large, -np.inf, need)))
        missing[chosen] -= counts[group]
        part_of[group] = parts[chosen]
    return [part_of[group] for group in groups]


def check_groups_are_apart(groups: Sequence[str], parts: Sequence[str]) -> None:
    """Refuse a split in which a group is in two parts: its photos would be learned in one and tested in the other.

    Raises:
        DatasetError: names the groups and how many rows they have in each part.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for group, part in zip(groups, parts, strict=True):
        found[group][part] += 1
    torn = {group: counter for group, counter in found.items() if len(counter) > 1}
    if torn:
        examples = "; ".join(
            f"{group!r}: " + ", ".join(f"{n} in {part}" for part, n in sorted(counter.items()))
            for group, counter in list(torn.items())[:3]
        )
        raise DatasetError(
            f"{len(torn)} groups are in more than one part ({examples}). Put all rows of a group into one part."
        )
