"""From held-out scores to the numbers that turn them into answers. Nothing here sees a picture."""

import math

import torch
from torch import Tensor

from app.artifact import PredictionSetRule

PREDICTION_SET_LEVEL = 0.95
# A label is filed without asking where such labels were right this often on the validation photos. Chosen, not tuned.
SORTED_ACCURACY = 0.97
# Of validation pictures. 99 % of the others would cost 1.2 % of the garments' photos instead of 0.2, and 17 instead of
# 2 % of drawn garments (`wardrobe` version 4).
MIN_OTHERS_REFUSED, MIN_GARMENTS_KEPT = 0.98, 0.95


def fit_prediction_set(
    probabilities: Tensor, labels: Tensor, *, level: float = PREDICTION_SET_LEVEL
) -> PredictionSetRule:
    """Split conformal prediction with the true class's probability as score (Sadinle, Lei, Wasserman, 2019).

    `probabilities` float32 (N, K) and `labels` int64 (N,) of pictures that the network was not trained on. For new
    pictures exchangeable with them the true class is in the set with probability at least `level`, were nothing fitted
    on these ones. The temperature was: a single number, so that this nearly holds. With too few pictures to tell, every
    class is in every set.
    """
    scores = probabilities.gather(1, labels[:, None])[:, 0]  # (N,)
    rank = math.ceil((len(scores) + 1) * level)
    if rank > len(scores):
        return PredictionSetRule(level=level, min_probability=0.0)
    return PredictionSetRule(level=level, min_probability=scores.sort(descending=True).values[rank - 1].item())


def members(rule: PredictionSetRule, probabilities: Tensor) -> Tensor:
    """The rule for tensors: (N, K) float32 -> bool (N, K)."""
    return torch.from_numpy(rule.members(probabilities.numpy()))


def fit_review_threshold(
    probabilities: Tensor, labels: Tensor, rule: PredictionSetRule, *, accuracy: float = SORTED_ACCURACY
) -> float:
    """The lowest probability from which on labels with a set of one are right with this `accuracy`; 1 if none is."""
    alone = members(rule, probabilities).sum(1) == 1
    confidence, predicted = probabilities[alone].max(1)
    confidence, order = confidence.sort(descending=True)
    right = (predicted == labels[alone])[order].double()
    share_right = right.cumsum(0) / torch.arange(1, len(right) + 1)
    last_of_equals = torch.ones(len(right), dtype=torch.bool)  # a threshold takes all of them or none
    last_of_equals[:-1] = confidence[1:] < confidence[:-1]
    good = ((share_right >= accuracy) & last_of_equals).nonzero().flatten()
    return confidence[good[-1]].item() if len(good) else 1.0


def fit_garment_threshold(
    garment: Tensor, other: Tensor, *, min_refused: float = MIN_OTHERS_REFUSED, min_kept: float = MIN_GARMENTS_KEPT
) -> float:
    """The lowest score that refuses `min_refused` of the other pictures, unless it keeps less than `min_kept` garments.

    `garment` (N,) and `other` (M,) are held-out garment scores, float32 in 0..1, of garments and of anything else; a
    score below the threshold is refused. Garments come first: where both cannot be had, `min_kept` of them are kept.
    """
    num_refused = math.ceil(min_refused * len(other))
    above = other.sort().values[num_refused - 1]
    num_lost = math.floor((1 - min_kept) * len(garment))
    highest = garment.sort().values[num_lost]
    return min(float(torch.nextafter(above, torch.ones_like(above))), float(highest))
