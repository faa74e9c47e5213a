"""New rows of a photo network's linear head, fitted on the embeddings of a few pictures.

The network stays as it is, and so do the rows of the classes that it knows: their logits are what they were.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.photos.dataset import Photos
from training.photos.evaluate import Predictions
from training.photos.labels import LabelMap
from training.photos.network import PhotoNetwork
from training.photos.splits import split_by_group

NUM_FOLDS = 5
# Of the squared weights, for embeddings of mean length 1: chosen, not tuned.
PENALTY = 0.01
MAX_STEPS = 200  # of LBFGS; it takes fewer
CONFIDENCE = 0.9  # of the head in a stand-in: chosen, not tuned
MAX_STEP = 100.0  # many times the length of an embedding


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Of some classes: `weight` (M, F) and `bias` (M,)."""

    weight: Tensor
    bias: Tensor

    def logits(self, predictions: Predictions) -> Tensor:
        """(N, K + M): those of the old classes as they are, then those of the new ones."""
        assert predictions.embeddings is not None
        return torch.cat([predictions.logits, F.linear(predictions.embeddings, self.weight, self.bias)], 1)


def fit_rows(predictions: Predictions, targets: Tensor, old: HeadRows, *, num_new: int) -> HeadRows:
    """Logistic regression for the new rows alone, beside the old classes' logits: convex, so that there is one answer.

    `targets` int64 (N,) count old classes first; those without pictures get `stand_ins`. Classes weigh as if all had
    equally many pictures.
    """
    assert predictions.embeddings is not None
    num_old = len(old.bias)
    imagined, imagined_targets = stand_ins(predictions.embeddings, targets, old)
    targets = torch.cat([targets, imagined_targets])
    old_logits = torch.cat([predictions.logits, F.linear(imagined, old.weight, old.bias)]).double()
    embeddings = torch.cat([predictions.embeddings, imagined]).double()
    centre = embeddings.mean(0)
    embeddings = embeddings - centre
    length = embeddings.square().sum(1).mean().sqrt()
    embeddings = embeddings / length
    shares = 1 / targets.bincount(minlength=num_old + num_new)[targets].double()
    shares /= shares.sum()
    weight = torch.zeros(num_new, embeddings.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(num_new, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.cat([old_logits, F.linear(embeddings, weight, bias)], 1)
        loss = shares @ F.cross_entropy(logits, targets, reduction="none") + PENALTY / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = weight.detach() / length
    return HeadRows(found.float(), (bias.detach() - found @ centre).float())


def stand_ins(embeddings: Tensor, targets: Tensor, old: HeadRows) -> tuple[Tensor, Tensor]:
    """Embeddings (M, F) and classes (M,) in place of pictures of the old classes that have none.

    As far from the pictures' mean in the direction of the class's row as makes the head CONFIDENCE sure, and scattered
    as the pictures are around the mean of their own class: after Hariharan and Girshick, Low-shot visual recognition
    by shrinking and hallucinating features (2017).
    """
    means = torch.stack([embeddings[targets == target].mean(0) for target in targets.tolist()])
    scatter, centre = embeddings - means, embeddings.mean(0)
    directions = F.normalize(old.weight - old.weight.mean(0))
    found, labels = [embeddings[:0]], [targets[:0]]
    for index, direction in enumerate(directions):
        if (targets == index).any():
            continue
        nearest, furthest = 0.0, MAX_STEP
        for _ in range(30):  # to a billionth
            step = (nearest + furthest) / 2
            sure = torch.softmax(F.linear(centre + step * direction, old.weight, old.bias), 0)[index] >= CONFIDENCE
            nearest, furthest = (nearest, step) if sure else (step, furthest)
        found.append(centre + furthest * direction + scatter)
        labels.append(torch.full((len(scatter),), index))
    return torch.cat(found), torch.cat(labels)


def held_out_logits(
    predictions: Predictions,
    photos: Photos,
    others: Predictions,
    other_targets: Tensor,
    old: HeadRows,
    *,
    num_new: int,
    seed: int,
) -> Tensor:
    """(N, K + M) of each picture by rows that were fitted without it and its group: cross-validation.

    `others` with `other_targets` are further pictures, of old classes, to fit on.
    """
    folds = {str(fold): 1 / NUM_FOLDS for fold in range(NUM_FOLDS)}
    labels, groups = [row.label for row in photos.rows], [f"{row.label}/{row.group}" for row in photos.rows]
    fold_of = split_by_group(labels, groups, folds, seed=seed)
    logits = torch.zeros(len(photos), predictions.logits.shape[1] + num_new)
    for fold in folds:
        held_out = torch.tensor([name == fold for name in fold_of])
        if held_out.any():
            known, targets = joined(predictions.subset(~held_out), others), [photos.targets[~held_out], other_targets]
            rows = fit_rows(known, torch.cat(targets), old, num_new=num_new)
            logits[held_out] = rows.logits(predictions.subset(held_out))
    return logits


def joined(first: Predictions, second: Predictions) -> Predictions:
    """Of the pictures of both."""
    assert first.embeddings is not None
    assert second.embeddings is not None
    return Predictions(
        logits=torch.cat([first.logits, second.logits]),
        garment=None if first.garment is None or second.garment is None else torch.cat([first.garment, second.garment]),
        luma=torch.cat([first.luma, second.luma]),
        embeddings=torch.cat([first.embeddings, second.embeddings]),
    )


@torch.no_grad()
def with_rows(network: PhotoNetwork, rows: HeadRows, *, old: LabelMap, new: LabelMap) -> PhotoNetwork:
    """The network with the new rows where the taught label map has their classes."""
    head = network.classes
    num_old = len(old.classes)
    kept = [num_old + index for index, name in enumerate(old.auxiliary) if name in new.auxiliary]
    weight = torch.cat([head.weight[:num_old], rows.weight, head.weight[kept]])
    bias = torch.cat([head.bias[:num_old], rows.bias, head.bias[kept]])
    network.classes = nn.Linear(weight.shape[1], len(weight))
    network.classes.weight.copy_(weight)
    network.classes.bias.copy_(bias)
    return network
