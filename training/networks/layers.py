"""What the networks are stacked from: a layer with its normalisation, activation and dropout, each by name."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal[
    "identity", "sigmoid", "tanh", "hardtanh", "relu", "leaky-relu", "elu", "prelu", "rrelu", "selu", "gelu", "maxout"
]
Norm = Literal["none", "batch", "layer", "instance", "group"]
NormPosition = Literal["before", "after"]

NUM_PIECES = 2  # of maxout: Goodfellow et al., Maxout networks (2013), use 2 to 5
NUM_GROUPS = 8  # of group normalisation: Wu and He (2018), figure 3, lose little between 2 and 32


class Maxout(nn.Module):
    """(N, 2 C, ...) -> (N, C, ...): the larger of two linear pieces. Learns its own shape, at twice the weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, [2, -1])  # (N, 2, C, ...)
        return x.amax(1)


class RReLU(nn.RReLU):
    """ReLU whose slope below 0 is drawn from 1/8 to 1/3 in training, and their mean afterwards: Xu et al. (2015).

    PyTorch's own says the same in one operation that the ONNX exporter does not know.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.rrelu(x, self.lower, self.upper, True)
        return F.leaky_relu(x, (self.lower + self.upper) / 2)


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,  # slope 0.01
    "elu": nn.ELU,
    "prelu": nn.PReLU,  # one learned slope a layer
    "rrelu": RReLU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "maxout": Maxout,
}


def activate(name: Activation) -> nn.Module:
    return ACTIVATIONS[name]()


def normalize(name: Norm, num_channels: int, *, places: bool) -> nn.Module:
    """Normalisation of (N, C), or with `places` of (N, C, H, W), each with a learned scale and shift a channel.

    Raises:
        ValueError: there is nothing to take a mean over.
    """
    match name:
        case "none":
            return nn.Identity()
        case "batch":  # over the pictures of the batch: Ioffe and Szegedy (2015)
            return nn.BatchNorm2d(num_channels) if places else nn.BatchNorm1d(num_channels)
        case "layer":  # over the channels of one picture: Ba et al. (2016)
            return nn.GroupNorm(1, num_channels)
        case "instance" if not places:
            raise ValueError("instance normalisation is over the places of a channel; a dense layer has just one.")
        case "instance":  # over the places of one channel of one picture: Ulyanov et al. (2016)
            return nn.GroupNorm(num_channels, num_channels)
        case "group" if num_channels % NUM_GROUPS:
            raise ValueError(f"group normalisation makes {NUM_GROUPS} groups; {num_channels} cannot be split so.")
        case "group":
            return nn.GroupNorm(NUM_GROUPS, num_channels)


def dense(
    in_features: int,
    num_units: int,
    *,
    activation: Activation,
    norm: Norm = "none",
    norm_position: NormPosition = "before",
    dropout: float = 0.0,
) -> nn.Sequential:
    """(N, in_features) -> (N, num_units)."""
    linear = nn.Linear(in_features, num_pieces(activation) * num_units)
    return nn.Sequential(
        linear,
        *normalized(activation, num_units, norm=norm, norm_position=norm_position, places=False),
        *([nn.Dropout(dropout)] if dropout else []),
    )


def convolution(
    in_channels: int,
    out_channels: int,
    *,
    activation: Activation,
    norm: Norm = "none",
    norm_position: NormPosition = "before",
    kernel_size: int = 3,
    stride: int = 1,
    padding: int | None = None,
) -> nn.Sequential:
    """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), unless `padding` says otherwise."""
    padding = kernel_size // 2 if padding is None else padding
    conv = nn.Conv2d(in_channels, num_pieces(activation) * out_channels, kernel_size, stride=stride, padding=padding)
    return nn.Sequential(
        conv, *normalized(activation, out_channels, norm=norm, norm_position=norm_position, places=True)
    )


def num_pieces(activation: Activation) -> int:
    return NUM_PIECES if activation == "maxout" else 1


def normalized(
    activation: Activation, num_channels: int, *, norm: Norm, norm_position: NormPosition, places: bool
) -> list[nn.Module]:
    """Normalisation and activation in their order: before as in Ioffe and Szegedy, or after."""
    if norm == "none":
        return [activate(activation)]
    if norm_position == "before":
        return [normalize(norm, num_pieces(activation) * num_channels, places=places), activate(activation)]
    return [activate(activation), normalize(norm, num_channels, places=places)]


def per_layer(dropout: tuple[float, ...], num_layers: int) -> tuple[float, ...]:
    """One probability for every layer, from one for all of them or a list.

    Raises:
        ValueError: the list has another length.
    """
    if len(dropout) == 1:
        return dropout * num_layers
    if len(dropout) != num_layers:
        raise ValueError(f"dropout lists {len(dropout)} layers, and {num_layers} can have it: give one value or each.")
    return dropout
