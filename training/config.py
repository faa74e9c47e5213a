"""What a training run can be told. The defaults are the shipped `fashion-mnist` model's."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from app.errors import WardrobeError

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["auto", "float32", "bfloat16"]


class ConfigError(WardrobeError):
    """Options that do not go together or are out of range."""


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Every choice that changes the weights. Stored in the checkpoint and in the model card."""

    epochs: int = 70
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1  # peak; the usual value for SGD on batches of 128 (He et al., 2015)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 2.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.999  # per step
    max_shift_pixels: int = 2
    erase_probability: float = 0.5
    widths: tuple[int, ...] = (32, 64, 128)
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the checkpoint and the card."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**options)
