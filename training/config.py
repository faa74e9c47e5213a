"""What a training run can be told. The defaults and `--precision bfloat16` are the shipped `fashion-mnist` model's.

    python -m training fit --precision bfloat16

reached 95.26 % on 5,000 validation and 95.11 % on 10,000 test pictures in 100 minutes on two busy cores of an AMD EPYC
(Zen 4); one run, 2026-11-25. float32, the default on a CPU, takes 1.6 times as long.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from app.errors import WardrobeError

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["auto", "float32", "bfloat16"]


class ConfigError(WardrobeError):
    """Options that do not go together or are out of range."""


@dataclass(frozen=True, slots=True)
class PlainConfig:
    """What a config needs to travel as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the checkpoint and the card."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**options)


@dataclass(frozen=True, slots=True)
class FitConfig(PlainConfig):
    """Every choice that changes the weights. Stored in the checkpoint and in the model card."""

    epochs: int = 70  # what two cores do in an hour and a half
    batch_size: int = 128  # He et al. (2015), section 4.2, as are momentum and learning rate
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1  # peak
    momentum: float = 0.9
    weight_decay: float = 5e-4  # Zagoruyko and Komodakis, Wide residual networks (2016), section 3
    warmup_epochs: float = 2.0  # chosen, not tuned
    label_smoothing: float = 0.1  # Szegedy et al., Rethinking Inception (2015), section 7
    ema_decay: float = 0.999  # per step: an average over two epochs; chosen, not tuned
    max_shift_pixels: int = 2  # chosen, not tuned
    erase_probability: float = 0.5  # Zhong et al., Random erasing (2017), section 4
    widths: tuple[int, ...] = (32, 64, 128)  # see the README for what was compared
    blocks: tuple[int, ...] = (0, 2, 2)
    num_validation: int = 5_000
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        """Refuse what would fail later or train nothing."""
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ConfigError(
                f"{len(self.widths)} widths and {len(self.blocks)} blocks: give one of each a resolution."
            )
        if min(self.epochs, self.batch_size, self.num_validation) < 1:
            raise ConfigError("epochs, batch size and validation pictures must be at least 1.")
        if not 0 <= self.erase_probability <= 1 or self.max_shift_pixels < 0:
            raise ConfigError("The erase probability must be within 0 to 1 and the shift at least 0 pixels.")

        if self.learning_rate <= 0 or not 0 <= self.label_smoothing < 1:
            raise ConfigError("The learning rate must be above 0 and label smoothing at least 0 and below 1.")
        if min(self.warmup_epochs, self.weight_decay, self.seed) < 0:
            raise ConfigError("Warm-up, weight decay and seed must be at least 0.")
        if min(self.widths) < 1 or min(self.blocks) < 0:
            raise ConfigError("Widths must be at least 1 and blocks at least 0.")
