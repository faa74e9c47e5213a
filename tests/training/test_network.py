import pytest
import torch
import torch.nn.functional as F

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
