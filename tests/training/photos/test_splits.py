from collections import Counter

import numpy as np
import pytest

from training.data import DatasetError
from training.photos.splits import check_groups_are_apart, split_by_group

SHARES = {"train": 0.75, "validation": 0.12, "test": 0.13}


def made_up(seed: int, *, num_groups: int = 300, num_labels: int = 5) -> tuple[list[str], list[str]]:
    """Labels and groups of some 1,000 rows: groups of 1 to 6 rows that prefer one label, labels of unequal size."""
    generator = np.random.default_rng(seed)
    labels, groups = [], []
    for group in range(num_groups):
        favourite = int(generator.integers(num_labels) * generator.random())
        for _ in range(int(generator.integers(1, 7))):
            label = favourite if generator.random() < 0.6 else int(generator.integers(num_labels))
            labels.append(f"label {label}")
            groups.append(f"group {group}")
    return labels, groups


@pytest.mark.parametrize("seed", range(20))
def test_split_keeps_groups_whole_and_shares_close(seed: int) -> None:
    """No group is torn, parts have their share of rows within 2 %, and each label its share within a third."""
    labels, groups = made_up(seed)

    parts = split_by_group(labels, groups, SHARES, seed=seed)

    check_groups_are_apart(groups, parts)
    assert len({(group, part) for group, part in zip(groups, parts, strict=True)}) == len(set(groups))
    num_rows, rows = Counter(parts), Counter(zip(labels, parts, strict=True))
    for part, share in SHARES.items():
        assert num_rows[part] / len(labels) == pytest.approx(share, abs=0.02)
        for label, count in Counter(labels).items():
            assert rows[label, part] / count == pytest.approx(share, rel=1 / 3)


def test_rows_that_are_their_own_group_are_stratified_exactly() -> None:
    """100 of each label: 75, 12 and 13."""
    labels = [label for label in "ab" for _ in range(100)]

    parts = split_by_group(labels, [str(index) for index in range(200)], SHARES, seed=3)

    assert Counter(zip(labels, parts, strict=True)) == {
        (label, part): count for label in "ab" for part, count in zip(SHARES, (75, 12, 13), strict=True)
    }


def test_every_label_is_in_every_part_as_soon_as_it_can_be() -> None:
    """Three rows of a rare label, each of its own group, go to three parts."""
    labels = ["common"] * 97 + ["rare"] * 3

    parts = split_by_group(labels, [str(index) for index in range(100)], SHARES, seed=0)

    assert set(parts[97:]) == set(SHARES)


def test_seed_decides_the_split() -> None:
    """The same seed gives the same parts, another one others, whatever the order of the rows."""
    labels, groups = made_up(0)
    order = np.random.default_rng(1).permutation(len(labels))

    first, again, other = (split_by_group(labels, groups, SHARES, seed=seed) for seed in (5, 5, 6))
    shuffled = split_by_group([labels[i] for i in order], [groups[i] for i in order], SHARES, seed=5)

    assert first == again
    assert first != other
    assert shuffled == [first[i] for i in order]


@pytest.mark.parametrize("seed", range(5))
def test_a_large_group_goes_to_the_largest_part(seed: int) -> None:
    """One sender of 30 among 400 would be more than half of the validation part."""
    labels = ["shirt"] * 400
    groups = ["large"] * 30 + [str(index) for index in range(370)]

    parts = split_by_group(labels, groups, SHARES, seed=seed)

    assert set(parts[:30]) == {"train"}
    assert Counter(parts)["validation"] == pytest.approx(48, abs=2)


def test_a_few_senders_of_equal_size_are_spread() -> None:
    """20 senders of 10: each is over the allowed share of a small part, but none is larger than the others.

    Every part is within one sender of its share.
    """
    labels = ["shirt", "pants"] * 100

    parts = split_by_group(labels, [str(index // 10) for index in range(200)], SHARES, seed=0)

    assert Counter(parts) == {part: pytest.approx(200 * share, abs=10) for part, share in SHARES.items()}


def test_nothing_is_split_into_nothing() -> None:
    assert split_by_group([], [], SHARES, seed=0) == []


def test_torn_groups_are_refused() -> None:
    """The message names them and how many rows each part has; groups that are whole are not named."""
    groups = ["anna", "anna", "anna", "ben", "carl", "carl"]
    parts = ["train", "train", "test", "train", "validation", "test"]

    with pytest.raises(DatasetError, match="2 groups are in more than one part") as caught:
        check_groups_are_apart(groups, parts)

    assert "'anna': 1 in test, 2 in train; 'carl': 1 in test, 1 in validation" in str(caught.value)
    assert "ben" not in str(caught.value)


def test_whole_groups_pass() -> None:
    check_groups_are_apart(["anna", "anna", "ben"], ["train", "train", "test"])
