"""The networks by name. A constructor takes the options that its network has, and its defaults are theirs."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import nn

from training.networks.cnn import CNN, AllConv
from training.networks.lenet import LeNet5
from training.networks.linear import Linear
from training.networks.mlp import MLP
from training.networks.resnet import ResNet
from training.networks.vgg import VGG
from training.networks.wide_resnet import WideResNet

NetworkName = Literal[
    "perceptron", "adaline", "softmax", "mlp", "lenet5", "cnn", "allconv", "vgg", "resnet", "resnet20", "wide-resnet"
]

NETWORKS: dict[NetworkName, Callable[..., nn.Module]] = {
    "perceptron": Linear,
    "adaline": Linear,
    "softmax": Linear,
    "mlp": MLP,
    "lenet5": LeNet5,
    "cnn": CNN,
    "allconv": AllConv,
    "vgg": VGG,
    "resnet": ResNet,  # the shipped one
    "resnet20": partial(ResNet, widths=(16, 32, 64), blocks=(3, 3, 3)),
    "wide-resnet": WideResNet,
}


def network_options(name: NetworkName) -> dict[str, Any]:
    """What this network can be told, with its defaults."""
    parameters = inspect.signature(NETWORKS[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name != "num_classes"}
