from collections import Counter
from dataclasses import replace

import pytest
import torch

from training.data import CLASS_NAMES, Dataset, Splits
from training.exploration import class_pictures, closest_classes, explore, find_copies, nearest_mean_accuracy


def test_copies_are_found_in_all_parts(sample: Splits) -> None:
    """A training picture in the test part with another label, and one that is twice in the validation part."""
    train, test = sample.train.images, sample.test.images
    parts = {
        "training": sample.train,
        "validation": Dataset(torch.stack([test[9], test[3], test[9]]), torch.tensor([1, 2, 1])),
        "test": Dataset(train[[17]], (sample.train.labels[[17]] + 1) % 10),
    }

    copies = find_copies(parts)

    assert [[(picture.part, picture.index) for picture in group] for group in copies] == [
        [("training", 17), ("test", 0)],
        [("validation", 0), ("validation", 2)],
    ]
    assert copies[0][0].label != copies[0][1].label


def test_means_and_deviations_are_those_of_each_class() -> None:
    images = torch.zeros(20, 28, 28, dtype=torch.uint8)
    images[10:] = 100
    dataset = Dataset(images, torch.arange(10).repeat(2))

    means, deviations = class_pictures(dataset)

    assert means.unique().tolist() == deviations.unique().tolist() == [50]


def test_the_closest_means_come_first() -> None:
    means = torch.arange(10.0)[:, None, None].square().expand(10, 28, 28)  # 0, 1, 4, 9 ...

    pairs = closest_classes(means)

    assert len(pairs) == 45
    assert pairs[0].classes == (CLASS_NAMES[0], CLASS_NAMES[1])
    assert [pair.distance for pair in (pairs[0], pairs[-1])] == pytest.approx([1, 81])


def test_a_picture_that_is_a_mean_is_nearest_to_it(sample: Splits) -> None:
    means, _ = class_pictures(sample.train)

    assert nearest_mean_accuracy(means, Dataset(means.round().to(torch.uint8), torch.arange(10))) == 1


def test_a_look_at_the_data(sample: Splits) -> None:
    found = explore(replace(sample, test=sample.train))

    assert found.num_images["validation"] == dict.fromkeys(CLASS_NAMES, 50)
    assert found.sha256 == sample.sha256
    assert len(found.copies) == len(sample.train)  # each is in the part that is called test here
    assert Counter(picture.part for group in found.copies for picture in group)["validation"] == 0
    assert 0.5 < found.nearest_mean_accuracy < 0.8  # 0.68 for the whole data set
