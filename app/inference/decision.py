"""From a network's scores to what should happen with the picture, and why, in words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.artifact import Card, ClassInfo, Scores

MAX_NAMED = 3  # classes of a larger set that the reason names: chosen, not tuned
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
            "This does not look like clothes: the garment score is {}, and below {} a picture counts as no "
            "garment.".format(*_told_apart(scores.garment, thresholds.garment_score, 3, "f")),
            prediction_set,
        )
    if rule is not None and set_size > 1:
        named = [f"{info.label} ({probability})" for info, probability in zip(likely, probabilities, strict=True)]
        if set_size > MAX_NAMED:
            reason = (
                f"Most probably {', '.join(named[: MAX_NAMED - 1])} or {named[MAX_NAMED - 1]}, but "
                f"{set_size - MAX_NAMED} more cannot be ruled out: a person should look."
            )
        else:
            reason = f"Could be {', '.join(named[:-1])} or {named[-1]}: " + (
                f"each has a probability of at least {_percent(rule.min_probability)}, too much to rule it out."
                if rule.min_probability > 0
                else "this model was calibrated on too few pictures to rule a class out."
            )
        return Verdict("review", reason, prediction_set)
    if thresholds.review_below is not None and scores.probabilities[order[0]] < thresholds.review_below:
        return Verdict(
            "review",
            "Most probably {}, but the probability is only {}; below {} a person should look.".format(
                likely[0].label,
                *_told_apart(float(scores.probabilities[order[0]]), thresholds.review_below, 1, "%"),
            ),
            prediction_set,
        )
    return Verdict(
        "sorted", f"Most probably {likely[0].label}, with a probability of {probabilities[0]}.", prediction_set
    )


def _percent(share: float) -> str:
    """With one decimal, or with as many as its first digit takes."""
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"


def _told_apart(value: float, threshold: float, num_digits: int, kind: str) -> tuple[str, str]:
    """Two numbers that differ, with `num_digits` decimals or as many more as it takes to see it."""
    while True:
        shown = f"{value:.{num_digits}{kind}}", f"{threshold:.{num_digits}{kind}}"
        if shown[0] != shown[1]:
            return shown
        num_digits += 1
