"""What a training run can be told: every choice once, with its default, its limits and what `fit --help` says of it.

The defaults and `--precision bfloat16` are the shipped `fashion-mnist` model's.

    python -m training fit --precision bfloat16

reached 95.26 % on 5,000 validation and 95.11 % on 10,000 test pictures in 100 minutes on two busy cores of an AMD EPYC
(Zen 4); one run, 2026-11-25. float32, the default on a CPU, takes 1.6 times as long.
"""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass

from app.errors import WardrobeError
from training.networks import NETWORKS, NetworkName, network_options
from training.networks.initialise import Init
from training.networks.layers import Activation, Norm, NormPosition

NUM_CLASSES = 10

Optimizer = Literal["sgd", "rmsprop", "adagrad", "adam", "adamw", "radam"]
Precision = Literal["auto", "float32", "bfloat16"]
Loss = Literal["cross-entropy", "squared", "hinge", "perceptron"]
Schedule = Literal["constant", "step", "linear", "cosine", "one-cycle", "plateau"]
Scaling = Literal["standardise", "zero-to-one", "minus-one-to-one", "none"]
Interpolation = Literal["nearest", "bilinear"]
Mix = Literal["none", "mixup", "cutmix"]


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
class Panel:
    """The heading under which `--help` shows an option: they follow the way of a picture through training."""

    title: str


DATA, AUGMENTATION, NETWORK = Panel("Data"), Panel("Augmentation"), Panel("Network")
OPTIMISATION, REGULARISATION = Panel("Optimisation"), Panel("Regularisation")


def _listed(value: Any) -> Any:
    """A list as it is typed: 32,64,128."""
    return value.split(",") if isinstance(value, str) else value


LISTED = BeforeValidator(_listed)
Sizes = tuple[Annotated[int, Field(ge=0)], ...]
Shares = tuple[Annotated[float, Field(ge=0, le=1)], ...]


def about(description: str, **limits: Any) -> Any:
    return Field(description=description, **limits)


# None of these has a meaning for every network; see training/networks.
NETWORK_OPTIONS = ("widths", "blocks", "hidden", "activation", "norm", "norm_position", "dropout")
LOSS_OF = {"perceptron": "perceptron", "adaline": "squared", "softmax": "cross-entropy"}


@validated_dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class FitConfig(PlainConfig):
    """Every choice that changes the weights. Stored in the checkpoint and in the model card.

    What only some networks have, is None for the others; where nothing is said it is the network's own default.
    """

    seed: Annotated[int, about("Of initialisation, split, shuffling and augmentation.", ge=0)] = 0

    num_validation: Annotated[int, DATA, about("Training pictures set aside for validation.", ge=1)] = 5_000
    split_seed: Annotated[
        int | None, DATA, about("Of the split alone, to measure runs on the same pictures. Default: the seed.", ge=0)
    ] = None
    split_shares: Annotated[
        Shares | None,
        DATA,
        LISTED,
        about(
            "Shares of training, validation and test, as 0.8,0.05,0.15 of all 70,000, in place of the published split."
        ),
    ] = None
    num_train: Annotated[
        int | None, DATA, about("Train on so many pictures only, the same share of every class. Default: all.", ge=10)
    ] = None
    wrong_labels: Annotated[
        float,
        DATA,
        about("Share of the training labels that is replaced by another class, to see what it does.", ge=0, le=1),
    ] = 0.0
    scaling: Annotated[
        Scaling,
        DATA,
        about("Of the pixels: to mean 0 and deviation 1, to 0 to 1, to -1 to 1, or none: 0 to 255 as they are."),
    ] = "standardise"

    max_shift_pixels: Annotated[
        int, AUGMENTATION, about("Largest random shift along an axis (pad and crop), in pixels; 0 for none.", ge=0)
    ] = 2  # chosen, not tuned
    flip: Annotated[bool, AUGMENTATION, about("Mirror half of the pictures.")] = True
    erase_probability: Annotated[
        float, AUGMENTATION, about("Share of pictures with a random rectangle erased, 0 to 1.", ge=0, le=1)
    ] = 0.5  # Zhong et al., Random erasing (2017), section 4
    max_rotation_degrees: Annotated[
        float, AUGMENTATION, about("Largest random rotation; 0 for none.", ge=0, le=180)
    ] = 0.0
    max_zoom: Annotated[
        float, AUGMENTATION, about("Largest random zoom, 0.1 for 0.9 to 1.1; 0 for none.", ge=0, lt=1)
    ] = 0.0
    interpolation: Annotated[Interpolation, AUGMENTATION, about("How a rotation or zoom reads between pixels.")] = (
        "bilinear"
    )
    mix: Annotated[
        Mix, AUGMENTATION, about("Blend pictures and labels of a batch: Zhang et al. (2017), or Yun et al. (2019).")
    ] = "none"
    mix_alpha: Annotated[float, AUGMENTATION, about("Shares of a blend are drawn from Beta(alpha, alpha).", gt=0)] = (
        1.0  # both papers; mixup's advise 0.1 to 0.4 for large data sets
    )

    network: Annotated[
        NetworkName, NETWORK, about("perceptron, adaline and softmax are one layer with three losses.")
    ] = "resnet"
    widths: Annotated[Sizes | None, NETWORK, LISTED, about("Channels at 28x28, 14x14, 7x7 ... pixels.")] = None
    blocks: Annotated[
        Sizes | None, NETWORK, LISTED, about("Residual blocks, or convolutions of vgg, at each of these.")
    ] = None
    hidden: Annotated[Sizes | None, NETWORK, LISTED, about("Units of each hidden dense layer.")] = None
    activation: Annotated[Activation | None, NETWORK, about("After every layer but the last.")] = None
    norm: Annotated[Norm | None, NETWORK, about("Normalisation of every layer but the last.")] = None
    norm_position: Annotated[NormPosition | None, NETWORK, about("Normalise before the activation, or after.")] = None
    dropout: Annotated[
        Shares | None,
        NETWORK,
        LISTED,
        about("Share of dropped units: one value, or one for each layer that can have it."),
    ] = None
    init: Annotated[
        Init, NETWORK, about("Initial weights: PyTorch's, U(0, 1), N(0, 1), Xavier's, He's, or orthogonal.")
    ] = "default"
    init_scale: Annotated[float, NETWORK, about("Factor on the initial weights.", gt=0)] = 1.0
    init_slope: Annotated[float, NETWORK, about("Slope below 0 of the leaky ReLU that He's init is for.", ge=0)] = 0.0
    zero_biases: Annotated[bool, NETWORK, about("Begin with biases of 0.")] = False

    epochs: Annotated[int, OPTIMISATION, about("Passes over the training pictures.", ge=1)] = (
        70  # 1.5 hours on two cores
    )
    batch_size: Annotated[
        int, OPTIMISATION, about("Pictures in one step; 1 for on-line learning, 0 for all of them (full batch).", ge=0)
    ] = 128  # He et al. (2015), section 4.2, as are momentum and learning rate
    loss: Annotated[Loss, OPTIMISATION, about("What is minimised; perceptron is the threshold rule.")] = "cross-entropy"
    label_smoothing: Annotated[
        float, OPTIMISATION, about("Share of the target spread over all classes.", ge=0, lt=1)
    ] = 0.1  # Szegedy et al., Rethinking Inception (2015), section 7
    optimizer: Annotated[
        Optimizer, OPTIMISATION, about("sgd without momentum is gradient descent as on the slides.")
    ] = "sgd"
    learning_rate: Annotated[float, OPTIMISATION, about("Peak learning rate, reached after the warm-up.", gt=0)] = 0.1
    momentum: Annotated[float, OPTIMISATION, about("Of sgd and rmsprop; 0 for none.", ge=0, lt=1)] = 0.9
    nesterov: Annotated[bool, OPTIMISATION, about("Look ahead by the momentum, with sgd.")] = True
    schedule: Annotated[Schedule, OPTIMISATION, about("Of the learning rate after the warm-up.")] = "cosine"
    warmup_epochs: Annotated[
        float, OPTIMISATION, about("Epochs of linear warm-up, before every schedule but one-cycle and plateau.", ge=0)
    ] = 2.0  # chosen, not tuned
    milestones: Annotated[
        Shares, OPTIMISATION, LISTED, about("Shares of the run after which step takes the rate down.")
    ] = (0.5, 0.75)  # He et al. (2015), section 4.2
    decay_factor: Annotated[float, OPTIMISATION, about("Of the rate, at each milestone or plateau.", gt=0, lt=1)] = 0.1
    plateau_patience: Annotated[
        int, OPTIMISATION, about("Epochs without a better validation loss that plateau waits.", ge=0)
    ] = 5
    ema_decay: Annotated[
        float,
        OPTIMISATION,
        about("Of the average of the weights, a step; 0 takes the weights as they are.", ge=0, lt=1),
    ] = 0.999  # an average over two epochs; chosen, not tuned
    precision: Annotated[
        Precision,
        OPTIMISATION,
        about("auto: bfloat16 on CUDA, float32 on a CPU. bfloat16 is faster on CPUs with AVX512-BF16 or AMX."),
    ] = "auto"

    weight_decay: Annotated[
        float, REGULARISATION, about("L2 penalty factor, decoupled from the gradient with adamw.", ge=0)
    ] = 5e-4  # Zagoruyko and Komodakis, Wide residual networks (2016), section 3
    l1: Annotated[float, REGULARISATION, about("Factor on the sum of absolute weights, added to the loss.", ge=0)] = 0.0
    l2: Annotated[
        float, REGULARISATION, about("Factor on the sum of squared weights, added to the loss; with l1, elastic.", ge=0)
    ] = 0.0
    patience: Annotated[
        int,
        REGULARISATION,
        about(
            "Stop after so many epochs without a better validation loss, and take the best; 0 runs to the end.", ge=0
        ),
    ] = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From a preset, the command line, a checkpoint or a card; an older one lacks the newer choices.

        Raises:
            ConfigError: a key is unknown, a value of another type or out of range, or two do not go together.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError("; ".join(_in_words(entry) for entry in error.errors())) from error

    @property
    def network_options(self) -> dict[str, Any]:
        """What the network's constructor takes."""
        return {name: getattr(self, name) for name in network_options(self.network)}

    def __post_init__(self) -> None:
        """Fill in the network's own defaults, and refuse what does not go together."""
        own = network_options(self.network)
        for name in NETWORK_OPTIONS:
            if getattr(self, name) is None:
                object.__setattr__(self, name, own.get(name))
            elif name not in own:
                has = f"has {', '.join(own)}" if own else "has none of these"
                raise ConfigError(f"{name} is no option of the network {self.network}, which {has}.")
        self._check_network()
        self._check_training()

    def _check_network(self) -> None:
        if self.blocks is not None and len(self.widths or ()) != len(self.blocks):
            raise ConfigError(
                f"{len(self.widths or ())} widths and {len(self.blocks)} blocks: give one of each a resolution."
            )
        if 0 in (self.widths or ()) or 0 in (self.hidden or ()) or self.widths == ():
            raise ConfigError("Widths and hidden sizes must be at least 1, and there must be a width.")
        try:
            with torch.device("meta"):  # shapes without weights
                NETWORKS[self.network](num_classes=NUM_CLASSES, **self.network_options)
        except ValueError as error:
            raise ConfigError(f"The network {self.network}: {error}") from error
        if self.norm == "batch" and self.batch_size == 1:
            raise ConfigError(
                "Batch normalisation with batch size 1: a batch of one picture has no spread. Take a larger batch or "
                "another norm."
            )
        if self.init_slope and self.init != "he":
            raise ConfigError(f"init_slope is of init he, not of {self.init}.")

    def _check_training(self) -> None:
        needed = LOSS_OF.get(self.network, self.loss)
        if self.loss != needed:
            raise ConfigError(
                f"The network {self.network} with the loss {self.loss}: what makes one layer a {self.network} is "
                f"the loss {needed}. (perceptron, adaline and softmax differ in nothing else.)"
            )
        if self.label_smoothing and self.loss != "cross-entropy":
            raise ConfigError(
                f"label_smoothing {self.label_smoothing:g} with the loss {self.loss}: it softens the "
                "probabilities that cross-entropy compares. Set it to 0."
            )
        if self.mix != "none" and self.loss in ("hinge", "perceptron"):
            raise ConfigError(f"{self.mix} with the loss {self.loss}: blended pictures have no single right class.")
        if self.mix != "none" and self.batch_size == 1:
            raise ConfigError(f"{self.mix} with batch size 1: there is no other picture to blend with.")
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ConfigError("nesterov with momentum 0: there is nothing to look ahead by. Say --no-nesterov.")
        if self.split_shares is not None and (len(self.split_shares) != 3 or abs(sum(self.split_shares) - 1) > 1e-6):
            raise ConfigError("split_shares must be three shares that add up to 1: training, validation, test.")


def _in_words(error: Any) -> str:
    """One of pydantic's findings: where, what, and what was given."""
    name = str(error["loc"][0]) if error["loc"] else "config"
    if error["type"] == "unexpected_keyword_argument":
        return f"{name} is no option. There are: {', '.join(field.name for field in fields(FitConfig))}"
    return f"{name}: {error['msg']}, not {error['input']!r}"
