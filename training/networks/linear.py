"""One layer. What it is called depends on the loss that it is trained with."""

from torch import Tensor, nn


class Linear(nn.Module):
    """Grey image (N, 1, 28, 28) -> logits (N, num_classes): a weight for every pixel and class.

    With the threshold rule as its loss it is Rosenblatt's perceptron (1958), with the squared error Widrow and Hoff's
    Adaline (1960), with the cross-entropy softmax regression.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(28 * 28, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (N, 784)
        logits: Tensor = self.output(x)  # (N, num_classes)
        return logits
