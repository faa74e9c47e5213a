"""Does a network underfit or overfit? Read from what it gets right of the pictures that it was trained on, in words."""

from dataclasses import dataclass

NOTABLE = 0.01  # a gap that is surely larger is called overfitting: chosen, not tuned


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
