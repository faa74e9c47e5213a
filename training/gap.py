"""Does a network underfit or overfit? In words, from its curves or from what it gets right of its training pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.artifact import EpochRecord

# Chosen, not tuned: a gap that is surely larger is called overfitting, as is a rise of the loss by more than this;
# a fall by more in the last tenth of the epochs is not over yet.
NOTABLE = 0.01
NOTABLE_RISE = 0.05
NOTABLE_FALL = 0.02


@dataclass(frozen=True, slots=True)
class Gap:
    """Accuracies of one network: on training pictures as they are, without augmentation, and on validation pictures."""

    train_accuracy: float
    num_train: int
    validation_accuracy: float
    num_validation: int

    @property
    def difference(self) -> float:
        return self.train_accuracy - self.validation_accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the difference of two independent shares, normal approximation."""
        parts = ((self.train_accuracy, self.num_train), (self.validation_accuracy, self.num_validation))
        half_width = 1.959964 * sum(share * (1 - share) / n for share, n in parts) ** 0.5
        return self.difference - half_width, self.difference + half_width

    def overfits(self) -> bool:
        return self.interval[0] > NOTABLE

    def underfits(self, best_validation_accuracy: float) -> bool:
        """Another network gets more right of what it never saw than this one of what it was trained on."""
        return self.train_accuracy < best_validation_accuracy

    def reading(self, best_validation_accuracy: float) -> str:
        """In a word or three; `best_validation_accuracy` is that of the best network it is compared with."""
        match self.underfits(best_validation_accuracy), self.overfits():
            case True, True:
                return "underfits and overfits"
            case True, False:
                return "underfits"
            case False, True:
                return "overfits"
            case _:
                return "fits"


def curves_in_words(history: Sequence[EpochRecord]) -> str:
    """A sentence about the end of the learning curve; the losses are compared with themselves, not with each other.

    The training loss is of smoothed labels and augmented pictures, so that it may well be the higher one.
    """
    if len(history) < 2:
        return "Fewer than two epochs say nothing about over- or underfitting."
    last, best = history[-1], min(history, key=lambda record: record.validation_loss)
    earlier = history[-1 - max(1, len(history) // 10)]
    rise = last.validation_loss / max(best.validation_loss, 1e-9) - 1
    if rise > NOTABLE_RISE and last.train_loss < best.train_loss:
        return (
            f"The validation loss was lowest in epoch {best.epoch} and is {rise:.0%} higher at the end, while the "
            "training loss went on falling: the network learned its training pictures by heart (overfitting)."
        )
    if rise > NOTABLE_RISE:
        return (
            f"The validation loss was lowest in epoch {best.epoch} and is {rise:.0%} higher at the end, and the "
            "training loss fell no further: the steps are too large, or the last epoch was an unlucky one."
        )
    if last.validation_loss < (1 - NOTABLE_FALL) * earlier.validation_loss:
        return "The validation loss was still falling at the end: more epochs would help (underfitting)."
    return "The validation loss has levelled off: more epochs of the same would change little."
