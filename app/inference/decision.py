"""From a network's scores to what should happen with the picture, and why, in words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.artifact import Card, ClassInfo, Scores

Decision = Literal["sorted", "review", "not_a_garment"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a picture.

    `reason` is a sentence for a person. `prediction_set` has the classes that cannot be ruled out, most probable
    first; None if the model has no rule for it.
    """

    decision: Decision
    reason: str
    prediction_set: tuple[ClassInfo, ...] | None


def ranking(probabilities: np.ndarray) -> list[int]:
    """(K,) -> the indices of the classes, most probable first; equal ones in the card's order."""
    order: list[int] = np.argsort(-probabilities, kind="stable").tolist()
    return order


def decide(scores: Scores, card: Card) -> Verdict:
    """Apply the card's thresholds.

    A value equal to a threshold passes it; a model without one of them never decides by it.
    """
    thresholds, rule = card.thresholds, card.thresholds.prediction_set
    order = ranking(scores.probabilities)
    set_size = 1 if rule is None else int(rule.members(scores.probabilities).sum())
    likely = [card.classes[index] for index in order[:set_size]]
    probabilities = [f"{scores.probabilities[index]:.1%}" for index in order[:set_size]]
    prediction_set = None if rule is None else tuple(likely)

    if (
        scores.garment is not None
        and thresholds.garment_score is not None
        and scores.garment < thresholds.garment_score
    ):
        return Verdict(
            "not_a_garment",
            f"This does not look like clothes: the garment score is {scores.garment:.3f}, and below "
            f"{thresholds.garment_score:.3f} a picture counts as no garment.",
            prediction_set,
        )
    if rule is not None and set_size > 1:
        named = [f"{info.label} ({probability})" for info, probability in zip(likely, probabilities, strict=True)]
        return Verdict(
            "review",
            f"Could be {', '.join(named[:-1])} or {named[-1]}: each has a probability of at least "
            f"{rule.min_probability:.1%}, too much to rule it out.",
            prediction_set,
        )
    if thresholds.review_below is not None and scores.probabilities[order[0]] < thresholds.review_below:
        return Verdict(
            "review",
            f"Most probably {likely[0].label}, but the probability is only {probabilities[0]}; below "
            f"{thresholds.review_below:.1%} a person should look.",
            prediction_set,
        )
    return Verdict(
        "sorted", f"Most probably {likely[0].label}, with a probability of {probabilities[0]}.", prediction_set
    )
