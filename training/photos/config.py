"""What a photo run can be told. The defaults are the shipped `wardrobe` model's, see the README for what they gave."""

from dataclasses import dataclass

from training.config import ConfigError, PlainConfig
from training.photos.splits import TEST, TRAIN, VALIDATION

# Blocks of each backbone that `training.photos.network` can load.
NUM_BLOCKS = {"efficientnet-lite0": 16, "efficientnet-lite1": 21, "efficientnet-lite2": 21}


@dataclass(frozen=True, slots=True)
class PhotoConfig(PlainConfig):
    """Every choice that changes the weights. Stored in the checkpoint and in the model card."""

    backbone: str = "efficientnet-lite0"
    sizes: tuple[int, ...] = (128, 160, 224)  # progressive resizing: Howard, fast.ai (2018); Tan and Le (2021)
    epochs: tuple[int, ...] = (9, 8, 12)  # at each size
    batch_size: int = 32  # chosen, not tuned
    learning_rate: float = 1e-3  # of the heads; peak
    layer_decay: float = 0.85  # of the learning rate from each block to the one before: Clark et al., ELECTRA (2020)
    weight_decay: float = 0.02  # chosen, not tuned
    frozen_blocks: int = 3  # of 16: 1.4 times faster, and 3,400 photos do not teach edges anew
    warmup_epochs: float = 1.0  # chosen, not tuned
    label_smoothing: float = 0.1  # Szegedy et al., Rethinking Inception (2015), section 7
    mixup_alpha: float = 0.2  # Zhang et al., mixup (2017), section 3
    garment_weight: float = 0.5  # of the garment head's loss against the classes': chosen, not tuned
    negative_share: float = 0.25  # most pictures of no garment in an epoch, for each picture of one
    teachers: tuple[str, ...] = ()  # versions whose mean answer is learned beside the labels, each with its digest
    teacher_share: float = 0.5  # of the classes' loss, where there are teachers: chosen, not tuned
    ema_decay: float = 0.995  # per step: an average over two epochs; chosen, not tuned
    validation_share: float = 0.12
    test_share: float = 0.13
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what would fail later or train nothing."""
        if not self.sizes or len(self.sizes) != len(self.epochs):
            raise ConfigError(
                f"There must be as many numbers in --sizes as in --epochs: got {','.join(map(str, self.sizes))} and "
                f"{','.join(map(str, self.epochs))}."
            )
        if any(size < 32 or size % 32 for size in self.sizes) or max(self.sizes) > 256:
            raise ConfigError(f"Sizes must be multiples of 32 from 32 to 256: got {self.sizes}.")
        if min(self.epochs) < 1 or self.batch_size < 2:
            raise ConfigError("There must be at least one epoch at each size, and two pictures in a batch.")
        if self.backbone not in NUM_BLOCKS:
            raise ConfigError(f"There is no backbone {self.backbone!r}. There are: {', '.join(NUM_BLOCKS)}.")
        if not 0 <= self.frozen_blocks <= NUM_BLOCKS[self.backbone]:
            num_blocks = NUM_BLOCKS[self.backbone]
            raise ConfigError(f"{self.backbone} has {num_blocks} blocks: freeze 0 to {num_blocks}.")
        if not (self.learning_rate > 0 and 0 < self.layer_decay <= 1 and 0 <= self.label_smoothing < 1):
            raise ConfigError("The learning rate must be above 0, layer decay in (0, 1], label smoothing in [0, 1).")
        if not 0 <= self.teacher_share <= 1:
            raise ConfigError(f"The teachers' share of the loss must be from 0 to 1: got {self.teacher_share}.")
        if min(self.weight_decay, self.warmup_epochs, self.mixup_alpha, self.garment_weight, self.negative_share) < 0:
            raise ConfigError("Weight decay, warm-up, mixup, garment weight and negative share must be at least 0.")
        if not (self.validation_share > 0 and self.test_share >= 0 and self.validation_share + self.test_share < 1):
            raise ConfigError("Validation must be above 0 and leave, with test, something to train on.")

    @property
    def size_pixels(self) -> int:
        """Side of the network's input when it is used."""
        return self.sizes[-1]

    @property
    def shares(self) -> dict[str, float]:
        """Of the three parts."""
        train_share = 1 - self.validation_share - self.test_share
        return {TRAIN: train_share, VALIDATION: self.validation_share, TEST: self.test_share}

    @property
    def num_epochs(self) -> int:
        return sum(self.epochs)

    def size_in_epoch(self, epoch: int) -> int:
        """Side of the training pictures in an epoch, counted from 1."""
        for size, count in zip(self.sizes, self.epochs, strict=True):
            if epoch <= count:
                return size
            epoch -= count
        raise ConfigError(f"The run has {self.num_epochs} epochs.")
