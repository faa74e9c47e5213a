"""Two small convolutional networks: one that pools and ends in dense layers, one that has convolutions only."""

from functools import partial

from torch import Tensor, nn

from training.networks.layers import Activation, Norm, NormPosition, convolution, dense, per_layer


class CNN(nn.Module):
    """Grey image (N, 1, 28, 28) -> logits (N, num_classes): convolve and pool, then the `hidden` dense layers."""

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (32, 64),  # channels at 28x28, 14x14 ... pixels; chosen, not tuned
        hidden: tuple[int, ...] = (128,),
        activation: Activation = "relu",
        norm: Norm = "none",
        norm_position: NormPosition = "before",
        dropout: tuple[float, ...] = (0.0,),
        num_classes: int,
    ) -> None:
        super().__init__()
        conv = partial(convolution, activation=activation, norm=norm, norm_position=norm_position)
        layer = partial(dense, activation=activation, norm=norm, norm_position=norm_position)
        channels = (1, *widths)
        stages: list[nn.Module] = []
        for i in range(len(widths)):
            stages += [conv(channels[i], channels[i + 1]), nn.MaxPool2d(2, ceil_mode=True)]
        sizes = (channels[-1] * pooled_side(len(widths)) ** 2, *hidden)
        self.trunk = nn.Sequential(*stages)
        self.hidden = nn.Sequential(
            *(layer(sizes[i], sizes[i + 1], dropout=rate) for i, rate in enumerate(per_layer(dropout, len(hidden)))),
        )
        self.output = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)  # (N, widths[-1], S, S), S = 28 / 2^len(widths)
        x = self.hidden(x.flatten(1))  # (N, hidden[-1])
        logits: Tensor = self.output(x)  # (N, num_classes)
        return logits


class AllConv(nn.Module):
    """Grey image (N, 1, 28, 28) -> logits (N, num_classes), without pooling or a dense layer.

    Springenberg et al., Striving for simplicity, the all convolutional net (2014): a stride halves the picture, the
    last convolution is 1x1 with a channel a class, and its mean over the places is the logit.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (32, 64),  # chosen, not tuned
        activation: Activation = "relu",
        norm: Norm = "none",
        norm_position: NormPosition = "before",
        num_classes: int,
    ) -> None:
        super().__init__()
        conv = partial(convolution, activation=activation, norm=norm, norm_position=norm_position)
        channels = (1, *widths)
        stages: list[nn.Module] = []
        for i in range(len(widths)):
            stages += [conv(channels[i], channels[i + 1]), conv(channels[i + 1], channels[i + 1], stride=2)]
        self.trunk = nn.Sequential(*stages)
        self.output = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)  # (N, widths[-1], S, S), S = 28 / 2^len(widths)
        x = self.output(x)  # (N, num_classes, S, S)
        return x.mean((2, 3))  # (N, num_classes)


def pooled_side(num_pools: int) -> int:
    """Pixels that are left of 28 along an axis after pooling by 2, rounded up each time."""
    side = 28
    for _ in range(num_pools):
        side = (side + 1) // 2
    return side
