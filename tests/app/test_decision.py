"""The decision: every threshold on both of its sides, and what a model without one does."""

import numpy as np
import pytest

from app.artifact import Artifact, Card, ClassInfo, Scores, Thresholds
from app.inference.decision import Verdict, decide, ranking
from tests.tiny_wardrobe import LABELS

BELOW_HALF, ABOVE_HALF = 0.5 - 2**-20, 0.5 + 2**-20  # float32 holds these exactly


@pytest.fixture
def card(artifact: Artifact) -> Card:
    """Three classes and, until a test sets them, no thresholds."""
    classes = [ClassInfo(label=label, group=group) for label, group in LABELS.items()]
    return artifact.card.model_copy(update={"classes": classes, "thresholds": Thresholds(temperature=1)})


def verdict(card: Card, *probabilities: float, garment: float | None = None, **thresholds: object) -> Verdict:
    found = Scores(np.array(probabilities, np.float32), garment)
    return decide(found, card.model_copy(update={"thresholds": Thresholds(temperature=1, **thresholds)}))


def labels(verdict: Verdict) -> list[str] | None:
    return None if verdict.prediction_set is None else [info.label for info in verdict.prediction_set]


def rule(min_probability: float) -> dict[str, float]:
    return {"level": 0.95, "min_probability": min_probability}


@pytest.mark.parametrize("probabilities", [(1.0, 0.0, 0.0), (0.34, 0.33, 0.33), (0.5, 0.5, 0.0)])
@pytest.mark.parametrize("garment", [None, 0.0, 1.0])
def test_without_thresholds_everything_is_sorted(
    card: Card, probabilities: tuple[float, ...], garment: float | None
) -> None:
    found = verdict(card, *probabilities, garment=garment)

    assert (found.decision, found.prediction_set) == ("sorted", None)


def test_a_small_bound_is_not_called_nothing(card: Card) -> None:
    """0.03 % is not 0.0 %."""
    assert "at least 0.03%" in verdict(card, 0.6, 0.3997, 0.0003, prediction_set=rule(0.00027)).reason


def test_a_garment_threshold_without_a_garment_score_decides_nothing(card: Card) -> None:
    assert verdict(card, 1.0, 0.0, 0.0, garment=None, garment_score=0.5).decision == "sorted"


@pytest.mark.parametrize(
    ("garment", "decision"),
    [(0.0, "not_a_garment"), (BELOW_HALF, "not_a_garment"), (0.5, "sorted"), (ABOVE_HALF, "sorted"), (1.0, "sorted")],
)
def test_a_garment_score_equal_to_the_threshold_is_a_garment(card: Card, garment: float, decision: str) -> None:
    assert verdict(card, 1.0, 0.0, 0.0, garment=garment, garment_score=0.5).decision == decision


@pytest.mark.parametrize(
    ("probability", "decision"), [(BELOW_HALF, "review"), (0.5, "sorted"), (ABOVE_HALF, "sorted"), (1.0, "sorted")]
)
def test_a_probability_equal_to_the_threshold_needs_no_review(card: Card, probability: float, decision: str) -> None:
    rest = (1 - probability) / 2

    assert verdict(card, probability, rest, rest, review_below=0.5).decision == decision


@pytest.mark.parametrize(
    ("min_probability", "in_the_set"),
    [
        (0.126, ["shirt", "longsleeve"]),
        (0.125, ["shirt", "longsleeve", "dress"]),
        (0.0, ["shirt", "longsleeve", "dress"]),
        (0.375, ["shirt", "longsleeve"]),
        (0.376, ["shirt"]),
        (0.5, ["shirt"]),
    ],
)
def test_a_class_with_the_least_probability_is_in_the_set(
    card: Card, min_probability: float, in_the_set: list[str]
) -> None:
    found = verdict(card, 0.125, 0.5, 0.375, prediction_set=rule(min_probability))

    assert labels(found) == in_the_set
    assert found.decision == ("sorted" if len(in_the_set) == 1 else "review")


def test_a_threshold_that_float32_cannot_hold_keeps_an_equal_probability(card: Card) -> None:
    """0.7 as float32 is a little less than 0.7 as float64: no reason to leave the class out."""
    assert float(np.float32(0.7)) < 0.7

    assert verdict(card, 0.7, 0.2, 0.1, review_below=0.7).decision == "sorted"
    assert labels(verdict(card, 0.2, 0.7, 0.1, prediction_set=rule(0.2))) == ["shirt", "dress"]
    assert labels(verdict(card, 0.1, 0.2, 0.7, prediction_set=rule(0.1))) == ["longsleeve", "shirt", "dress"]


@pytest.mark.parametrize("min_probability", [0.0, 0.1, 0.34, 0.5, 0.999, 1.0])
def test_the_set_always_begins_with_the_most_probable_class(card: Card, min_probability: float) -> None:
    weights = np.exp(3 * np.random.default_rng(0).standard_normal((200, 3)))
    for probabilities in (weights / weights.sum(1, keepdims=True)).astype(np.float32):
        found = labels(verdict(card, *probabilities.tolist(), prediction_set=rule(min_probability)))

        assert found is not None
        assert found[0] == list(LABELS)[int(probabilities.argmax())]
        assert len(found) == max(1, sum(p >= min_probability for p in probabilities))


def test_a_set_of_one_that_is_improbable_is_for_review(card: Card) -> None:
    found = verdict(card, 0.4, 0.3, 0.3, prediction_set=rule(0.45), review_below=0.5)

    assert (found.decision, labels(found)) == ("review", ["dress"])


def test_no_garment_goes_before_review_and_keeps_the_set(card: Card) -> None:
    found = verdict(card, 0.5, 0.5, 0.0, garment=0.1, garment_score=0.5, prediction_set=rule(0.25), review_below=0.9)

    assert (found.decision, labels(found)) == ("not_a_garment", ["dress", "shirt"])


def test_equal_classes_are_ranked_as_in_the_card() -> None:
    assert ranking(np.array([0.25, 0.375, 0.375], np.float32)) == [1, 2, 0]


@pytest.mark.parametrize(
    ("probabilities", "rest", "reason"),
    [
        ((0.875, 0.125, 0.0), {}, "Most probably dress, with a probability of 87.5%."),
        (
            (0.875, 0.125, 0.0),
            {"review_below": 0.9},
            "Most probably dress, but the probability is only 87.5%; below 90.0% a person should look.",
        ),
        (
            (0.375, 0.625, 0.0),
            {"prediction_set": rule(0.2)},
            "Could be shirt (62.5%) or dress (37.5%): each has a probability of at least 20.0%, too much to rule it "
            "out.",
        ),
        (
            (0.25, 0.5, 0.25),
            {"prediction_set": rule(0.2)},
            "Could be shirt (50.0%), dress (25.0%) or longsleeve (25.0%): each has a probability of at least 20.0%, "
            "too much to rule it out.",
        ),
        (
            (0.375, 0.625, 0.0),
            {"prediction_set": rule(0.0)},
            "Could be shirt (62.5%), dress (37.5%) or longsleeve (0.0%): this model was calibrated on too few pictures "
            "to rule a class out.",
        ),
        (
            (0.875, 0.125, 0.0),
            {"garment": 0.125, "garment_score": 0.5},
            "This does not look like clothes: the garment score is 0.125, and below 0.500 a picture counts as no "
            "garment.",
        ),
        (
            (0.875, 0.125, 0.0),
            {"review_below": 0.87501},
            "Most probably dress, but the probability is only 87.500%; below 87.501% a person should look.",
        ),
        (
            (0.875, 0.125, 0.0),
            {"garment": 0.499755859375, "garment_score": 0.5},
            "This does not look like clothes: the garment score is 0.4998, and below 0.5000 a picture counts as no "
            "garment.",
        ),
    ],
    ids=[
        "sorted",
        "improbable",
        "two",
        "three",
        "calibrated on few",
        "no garment",
        "hardly improbable",
        "hardly no garment",
    ],
)
def test_the_reason_is_a_sentence_with_the_numbers(
    card: Card, probabilities: tuple[float, ...], rest: dict[str, object], reason: str
) -> None:
    assert verdict(card, *probabilities, **rest).reason == reason


def test_the_reason_names_three_classes_of_a_larger_set(card: Card) -> None:
    """The rest is counted; the prediction set has them all."""
    classes = [ClassInfo(label=label, group="other") for label in "abcde"]
    card = card.model_copy(update={"classes": classes})

    found = verdict(card, 0.125, 0.375, 0.25, 0.1875, 0.0625, prediction_set=rule(0.0625))

    assert labels(found) == ["b", "c", "d", "a", "e"]
    assert found.reason == (
        "Most probably b (37.5%), c (25.0%) or d (18.8%), but 2 more cannot be ruled out: a person should look."
    )
