"""LeNet-5: LeCun et al., Gradient-based learning applied to document recognition (1998), figure 2."""

from functools import partial

from torch import Tensor, nn

from training.networks.layers import Activation, Norm, NormPosition, convolution, dense, per_layer


class LeNet5(nn.Module):
    """Grey image (N, 1, 28, 28) -> logits (N, num_classes).

    As it is taught today: every map of the second layer sees all of the first, a plain mean pools, and the output is
    linear in place of radial basis functions.
    """

    def __init__(
        self,
        *,
        activation: Activation = "tanh",
        norm: Norm = "none",
        norm_position: NormPosition = "before",
        dropout: tuple[float, ...] = (0.0,),
        num_classes: int,
    ) -> None:
        super().__init__()
        conv = partial(convolution, kernel_size=5, activation=activation, norm=norm, norm_position=norm_position)
        layer = partial(dense, activation=activation, norm=norm, norm_position=norm_position)
        rates = per_layer(dropout, 2)
        self.conv1 = conv(1, 6)
        self.conv2 = conv(6, 16, padding=0)
        self.pool = nn.AvgPool2d(2)
        self.dense1 = layer(16 * 5 * 5, 120, dropout=rates[0])
        self.dense2 = layer(120, 84, dropout=rates[1])
        self.output = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x))  # (N, 6, 14, 14)
        x = self.pool(self.conv2(x))  # (N, 16, 5, 5)
        x = self.dense1(x.flatten(1))  # (N, 120)
        x = self.dense2(x)  # (N, 84)
        logits: Tensor = self.output(x)  # (N, num_classes)
        return logits
