"""New rows of the head, on embeddings that are made up: three old classes and a new one, each in a direction."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.photos.evaluate import Predictions
from training.photos.head import CONFIDENCE, HeadRows, fit_rows, stand_ins

NUM_FEATURES, NUM_OLD, NEW = 32, 3, 3
OLD = HeadRows(torch.eye(NUM_OLD, NUM_FEATURES), torch.zeros(NUM_OLD))


def embeddings_of(target: int, *, seed: int, number: int = 12) -> Tensor:
    noise = torch.randn(number, NUM_FEATURES, generator=torch.Generator().manual_seed(seed))
    return 1 + 0.5 * noise + 6 * F.one_hot(torch.tensor(target), NUM_FEATURES)


def predictions_of(embeddings: Tensor) -> Predictions:
    logits = F.linear(embeddings, OLD.weight, OLD.bias)
    return Predictions(logits=logits, garment=None, luma=torch.zeros(len(embeddings)), embeddings=embeddings)


def taught(*targets: int) -> HeadRows:
    embeddings = torch.cat([embeddings_of(target, seed=target) for target in targets])
    labels = torch.tensor(targets).repeat_interleave(12)
    return fit_rows(predictions_of(embeddings), labels, OLD, num_new=1)


@pytest.mark.parametrize("targets", [(NEW,), (NEW, 0), (NEW, 0, 1, 2)], ids=["alone", "beside one", "beside all"])
def test_a_new_class_is_found_and_the_old_ones_keep_their_pictures(targets: tuple[int, ...]) -> None:
    """With pictures of all old classes, and with stand-ins for those that have none."""
    rows = taught(*targets)

    for target in (0, 1, 2, NEW):
        logits = rows.logits(predictions_of(embeddings_of(target, seed=100 + target)))
        assert logits[:, :NUM_OLD].equal(predictions_of(embeddings_of(target, seed=100 + target)).logits)
        assert (logits.argmax(1) == target).double().mean() >= 0.9


def test_the_same_pictures_give_the_same_rows() -> None:
    first, second = taught(NEW, 0), taught(NEW, 0)

    assert first.weight.equal(second.weight)
    assert first.bias.equal(second.bias)


def test_a_stand_in_is_as_sure_as_it_is_to_be() -> None:
    """And none is made for a class that has pictures."""
    embeddings = torch.cat([embeddings_of(target, seed=target) for target in (NEW, 1)])
    targets = torch.tensor([NEW, 1]).repeat_interleave(12)

    found, labels = stand_ins(embeddings, targets, OLD)

    assert labels.unique().tolist() == [0, 2]
    for index in (0, 2):
        middle = found[labels == index].mean(0)
        assert torch.softmax(F.linear(middle, OLD.weight), 0)[index].item() == pytest.approx(CONFIDENCE, abs=1e-3)
