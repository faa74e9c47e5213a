"""The multilayer perceptron."""

from functools import partial

from torch import Tensor, nn

from training.networks.layers import Activation, Norm, NormPosition, dense, per_layer


class MLP(nn.Module):
    """Grey image (N, 1, 28, 28) -> logits (N, num_classes), through the `hidden` layers."""

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (75, 50, 25),  # the exercise of the course: 64,210 parameters
        activation: Activation = "relu",
        norm: Norm = "none",
        norm_position: NormPosition = "before",
        dropout: tuple[float, ...] = (0.0,),
        num_classes: int,
    ) -> None:
        super().__init__()
        layer = partial(dense, activation=activation, norm=norm, norm_position=norm_position)
        sizes = (28 * 28, *hidden)
        rates = per_layer(dropout, len(hidden))
        self.hidden = nn.Sequential(
            *(layer(sizes[i], sizes[i + 1], dropout=rate) for i, rate in enumerate(rates)),
        )
        self.output = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (N, 784)
        x = self.hidden(x)  # (N, hidden[-1])
        logits: Tensor = self.output(x)  # (N, num_classes)
        return logits
