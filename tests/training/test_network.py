from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.config import FitConfig
from training.data import Splits
from training.fit import build_network, normalize
from training.networks.resnet import ResidualBlock, ResNet


def test_logits_have_one_column_a_class() -> None:
    network = ResNet(widths=(4, 8), blocks=(1, 1), num_classes=3)

    assert network(torch.zeros(5, 1, 28, 28)).shape == (5, 3)


def test_shipped_network_is_small() -> None:
    """The default network has at most a million parameters, and takes the data set's pictures."""
    network = build_network(FitConfig())

    assert sum(parameter.numel() for parameter in network.parameters()) <= 1_000_000
    assert network.eval()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize(("out_channels", "stride"), [(6, 1), (8, 1), (8, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_block_starts_as_its_shortcut(out_channels: int, stride: int, training: bool) -> None:
    """Zero-initialised: before the first step the two convolutions add nothing."""
    torch.manual_seed(0)
    block = ResidualBlock(6, out_channels, stride=stride).train(training)
    x = torch.randn(2, 6, 7, 7)

    y = block(x)

    assert y.shape == (2, out_channels, 7 if stride == 1 else 4, 7 if stride == 1 else 4)
    assert y.equal(F.relu(block.shortcut(x)))


def test_tiny_network_memorises_one_batch(sample: Splits) -> None:
    """Learning works: 32 real pictures, three of each class or more, are all classified after 60 steps."""
    torch.manual_seed(0)
    chosen = torch.cat([(sample.train.labels == label).nonzero().flatten()[:4] for label in range(10)])[:32]
    batch = normalize(sample.train.images[chosen], mean=0.286, std=0.353)
    labels = sample.train.labels[chosen]
    network = ResNet(widths=(16, 32), blocks=(0, 1), num_classes=10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)

    for _ in range(60):
        loss = F.cross_entropy(network(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert (network(batch).argmax(1) == labels).all()


@pytest.mark.parametrize(
    ("values", "num_parameters"),
    [
        ({"network": "softmax"}, 7_850),
        ({"network": "mlp"}, 64_210),  # 75 * 785 + 50 * 76 + 25 * 51 + 10 * 26
        ({"network": "mlp", "hidden": [128]}, 101_770),  # TensorFlow's tutorial
        ({"network": "lenet5"}, 61_706),  # with every map seeing all of the layer before
        ({"network": "cnn", "widths": [8], "hidden": []}, 8 * 10 + 8 * 14 * 14 * 10 + 10),
        ({"network": "allconv", "widths": [8]}, 8 * 10 + 8 * 73 + 10 * 9),
    ],
)
def test_a_network_has_the_weights_of_the_textbook(values: dict[str, Any], num_parameters: int) -> None:
    network = build_network(FitConfig.from_dict(values))

    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters


@pytest.mark.parametrize(("name", "num_layers"), [("lenet5", 5), ("resnet20", 20), ("vgg", 16)])
def test_a_network_is_as_deep_as_its_name_says(name: str, num_layers: int) -> None:
    """Layers with weights; projections of a shortcut are not counted."""
    modules = build_network(FitConfig.from_dict({"network": name})).named_modules()

    layers = [key for key, layer in modules if isinstance(layer, nn.Conv2d | nn.Linear) and "shortcut" not in key]

    assert len(layers) == num_layers
