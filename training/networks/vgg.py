"""VGG: Simonyan and Zisserman, Very deep convolutional networks (2014)."""

from functools import partial

from torch import Tensor, nn

from training.networks.cnn import pooled_side
from training.networks.layers import Activation, Norm, NormPosition, convolution, dense, per_layer


class VGG(nn.Module):
    """Grey image (N, 1, 28, 28) -> logits (N, num_classes): stacks of 3x3 convolutions, each followed by a pool.

    The default has the sixteen layers of configuration D at half its channels and 256 in place of 4,096 hidden units:
    28x28 pixels are a 64th of ImageNet's. Batch normalisation came after the paper; without it sixteen layers hardly
    begin to learn.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (32, 64, 128, 256, 256),  # of each stack
        blocks: tuple[int, ...] = (2, 2, 3, 3, 3),  # convolutions in each stack
        hidden: tuple[int, ...] = (256, 256),
        activation: Activation = "relu",
        norm: Norm = "batch",
        norm_position: NormPosition = "before",
        dropout: tuple[float, ...] = (0.5,),
        num_classes: int,
    ) -> None:
        super().__init__()
        conv = partial(convolution, activation=activation, norm=norm, norm_position=norm_position)
        layer = partial(dense, activation=activation, norm=norm, norm_position=norm_position)
        stacks: list[nn.Module] = []
        in_channels = 1
        for width, num_convolutions in zip(widths, blocks, strict=True):
            for _ in range(num_convolutions):
                stacks.append(conv(in_channels, width))
                in_channels = width
            stacks.append(nn.MaxPool2d(2, ceil_mode=True))
        sizes = (in_channels * pooled_side(len(widths)) ** 2, *hidden)
        self.trunk = nn.Sequential(*stacks)
        self.hidden = nn.Sequential(
            *(layer(sizes[i], sizes[i + 1], dropout=rate) for i, rate in enumerate(per_layer(dropout, len(hidden)))),
        )
        self.output = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)  # (N, widths[-1], S, S), S = 28 / 2^len(widths)
        x = self.hidden(x.flatten(1))  # (N, hidden[-1])
        logits: Tensor = self.output(x)  # (N, num_classes)
        return logits
