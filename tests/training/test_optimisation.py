from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.config import FitConfig, Schedule
from training.fit import build_network
from training.networks.initialise import Init, initialise
from training.optimisation import build_loss, build_optimizer, build_scheduler, penalty

MLP = FitConfig(network="mlp", hidden=(4,), label_smoothing=0)


def test_the_threshold_rule_is_the_perceptrons() -> None:
    """A wrong picture is added to the weights of its class and taken from the winner's; a right one does nothing."""
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], requires_grad=True)
    pictures, labels = torch.tensor([[2.0, 1.0], [0.5, 3.0]]), torch.tensor([2, 1])  # says 0 and 1

    build_loss(FitConfig(network="perceptron", loss="perceptron", label_smoothing=0))(
        pictures @ weights.T, labels
    ).backward()

    assert weights.grad is not None
    assert (2 * -weights.grad).tolist() == [[-2.0, -1.0], [0.0, 0.0], [2.0, 1.0]]  # the loss is the mean of two


def test_the_losses_by_hand() -> None:
    logits, labels = torch.tensor([[0.5, 0.0], [2.0, 0.0]]), torch.tensor([0, 0])

    squared = build_loss(replace(MLP, loss="squared"))(logits, labels)
    hinge = build_loss(replace(MLP, loss="hinge"))(logits, labels)

    assert squared.item() == pytest.approx((0.25 + 0 + 1 + 0) / 4)
    assert hinge.item() == pytest.approx((0.5 / 2 + 0) / 2)  # PyTorch divides by the number of classes


def test_a_label_and_its_share_are_the_same_target() -> None:
    logits, labels = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    shares = F.one_hot(labels, 10).float()

    for config in (FitConfig(), replace(MLP, loss="squared")):
        loss = build_loss(config)
        assert loss(logits, labels).item() == pytest.approx(loss(logits, shares).item())


def test_the_penalty_is_of_every_weight() -> None:
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, -2.0]]))
        network.bias.copy_(torch.tensor([3.0]))

    elastic = penalty(network, l1=0.1, l2=0.01)

    assert isinstance(elastic, torch.Tensor)
    assert elastic.item() == pytest.approx(0.1 * 6 + 0.01 * 14)
    assert penalty(network, l1=0, l2=0) == 0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.853553, 0.5, 0.146447, 0]),
        ("step", [1, 1, 1, 0.1, 0.01]),
        ("one-cycle", [0.04, 0.937, 0.811, 0.283, 0]),
    ],
)
def test_the_schedules(schedule: Schedule, expected: list[float]) -> None:
    """The share of the learning rate after 0, 25, 50, 75 and 100 % of the run; step goes down just after 50 and 75."""
    config = replace(MLP, epochs=10, warmup_epochs=0, learning_rate=0.4, schedule=schedule)
    optimizer = build_optimizer(build_network(config), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=100)

    rates = []
    for _ in range(1_001):
        rates.append(optimizer.param_groups[0]["lr"] / 0.4)
        optimizer.step()
        scheduler.step()

    assert rates[::250] == pytest.approx(expected, abs=2e-3)


def test_a_plateau_takes_the_rate_down() -> None:
    config = replace(MLP, schedule="plateau", plateau_patience=1, decay_factor=0.5, learning_rate=0.4)
    optimizer = build_optimizer(build_network(config), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=1)

    rates = []
    for loss in (1.0, 0.9, 0.9, 0.9, 0.8):
        scheduler.step(loss)  # type: ignore[arg-type]  # PyTorch's own types say an epoch
        rates.append(optimizer.param_groups[0]["lr"])

    assert rates == [0.4, 0.4, 0.4, 0.2, 0.2]


@pytest.mark.parametrize(
    ("init", "mean", "deviation"),
    [
        ("default", 0, (1 / 3) ** 0.5 / 400**0.5),
        ("uniform", 0.5, (1 / 12) ** 0.5),
        ("normal", 0, 1),
        ("xavier", 0, (2 / (400 + 300)) ** 0.5),
        ("he", 0, (2 / 400) ** 0.5),
        ("orthogonal", 0, 1 / 400**0.5),  # rows of length 1
    ],
)
def test_initial_weights_have_their_spread(init: Init, mean: float, deviation: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 300)

    initialise(layer, init, scale=1, slope=0, zero_biases=True)

    assert layer.weight.mean().item() == pytest.approx(mean, abs=0.02 * deviation)
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert layer.bias.eq(0).all()
