"""Initial weights by name, for every dense and convolutional layer."""

from typing import Literal

import torch
from torch import nn

Init = Literal["default", "uniform", "normal", "xavier", "he", "orthogonal"]


@torch.no_grad()
def initialise(network: nn.Module, init: Init, *, scale: float, slope: float, zero_biases: bool) -> None:
    """Overwrite what PyTorch chose: U(-1/sqrt(n), 1/sqrt(n)) of a layer with n inputs, for weights and biases.

    `scale` multiplies the weights; `slope` is that of the leaky ReLU that He's rule is for.
    """
    for layer in network.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        match init:
            case "default":
                pass
            case "uniform":
                nn.init.uniform_(layer.weight, 0, 1)
            case "normal":
                nn.init.normal_(layer.weight, 0, 1)
            case "xavier":  # Glorot and Bengio (2010), equation 16
                nn.init.xavier_uniform_(layer.weight)
            case "he":  # He et al., Delving deep into rectifiers (2015), equation 15
                nn.init.kaiming_uniform_(layer.weight, a=slope)
            case "orthogonal":  # Saxe et al. (2014)
                nn.init.orthogonal_(layer.weight)
        if scale != 1:
            layer.weight.mul_(scale)
        if zero_biases and layer.bias is not None:
            nn.init.zeros_(layer.bias)
