"""The examples that the slides work by hand, computed: tests hold them to the printed digits, a page shows them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from training.networks.layers import Activation, activate

matplotlib.use("agg")  # no screen

TEMPLATE_NAME = "worked_examples.html.j2"
XOR_INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
XOR_TARGETS = torch.tensor([0.0, 1.0, 1.0, 0.0])
RATES = {"crawls": 0.01, "arrives": 0.3, "overshoots": 0.95, "diverges": 1.05}


@dataclass(frozen=True, slots=True)
class TwoTwoOne:
    """Weights of the 2-2-1 network: bias first, then one an input. hidden (2, 3), output (3,)."""

    hidden: Tensor
    output: Tensor


def slides_step(*, learning_rate: float = 0.5) -> TwoTwoOne:
    """One step of the 2-2-1 network as the slides work it: inputs 1 and 0, target 1, weights of 0, sigmoid.

    They change the output layer first, write its weights down with four digits, and take these back to the hidden
    layer, whose delta they write down with eight. Back-propagation takes back the weights that made the error, see
    `backpropagation_step`.
    """
    inputs = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)  # 1 for the bias
    hidden, output = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    h = torch.sigmoid(hidden @ inputs)  # (2,): 0.5
    h1 = torch.cat([h.new_ones(1), h])  # (3,)
    y = torch.sigmoid(output @ h1)  # 0.5
    delta = (1 - y) * y * (1 - y)  # 0.125
    output = output + learning_rate * delta * h1  # 0.0625, 0.03125, 0.03125
    hidden_delta = _written(h * (1 - h) * _written(output, 4)[1:] * delta, 8)  # (2,): 0.00097813
    return TwoTwoOne(_written(hidden + learning_rate * hidden_delta[:, None] * inputs, 8), output)


def _written(values: Tensor, digits: int) -> Tensor:
    """Rounded half up, as by hand."""
    scale = float(10**digits)
    return (values * scale + 0.5 + 1e-6).floor() / scale


def backpropagation_step(*, learning_rate: float = 0.5) -> TwoTwoOne:
    """The same step by automatic differentiation of half the squared error."""
    inputs = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    hidden = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    output = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    h = torch.sigmoid(hidden @ inputs)
    y = torch.sigmoid(output @ torch.cat([h.new_ones(1), h]))
    (0.5 * (1 - y) ** 2).backward()
    with torch.no_grad():
        return TwoTwoOne(hidden - learning_rate * _gradient(hidden), output - learning_rate * _gradient(output))


def _gradient(weights: Tensor) -> Tensor:
    assert weights.grad is not None
    return weights.grad


def fit_xor(activation: Activation, *, num_hidden: int = 8, num_steps: int = 300, seed: int = 0) -> nn.Module:
    """(N, 2) -> logits (N, 1), trained on the four points of the exclusive or."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, num_hidden), activate(activation), nn.Linear(num_hidden, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(num_steps):
        loss = F.binary_cross_entropy_with_logits(network(XOR_INPUTS)[:, 0], XOR_TARGETS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@torch.no_grad()
def num_right(network: nn.Module) -> int:
    """Of the four points."""
    return int(((network(XOR_INPUTS)[:, 0] > 0) == (XOR_TARGETS > 0)).sum())


def descend(learning_rate: float, *, num_steps: int = 30) -> list[float]:
    """Gradient descent on w^2 from w = 1. Each step multiplies w by 1 - 2 eta: beyond eta = 1 it grows."""
    w = torch.ones((), requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=learning_rate)
    path = [1.0]
    for _ in range(num_steps):
        optimizer.zero_grad()
        (w**2).backward()
        optimizer.step()
        path.append(w.item())
    return path


def default_bounds(num_inputs: int, num_units: int, *, seed: int = 0) -> tuple[float, float]:
    """Smallest and largest initial weight of nn.Linear; PyTorch draws from U(-b, b), b = 1 / sqrt(num_inputs)."""
    torch.manual_seed(seed)
    weight = nn.Linear(num_inputs, num_units).weight
    return weight.min().item(), weight.max().item()


def dropout_means(probability: float, *, num_draws: int = 100_000, seed: int = 0) -> tuple[float, float, float]:
    """Of ones through inverted dropout: the mean in training, the value of a kept unit, and the mean in evaluation.

    A kept unit is divided by 1 - p in training, so that the expectation stays and evaluation has nothing to scale.
    """
    torch.manual_seed(seed)
    dropout = nn.Dropout(probability)
    ones = torch.ones(num_draws)
    trained = dropout.train()(ones)
    return trained.mean().item(), trained.max().item(), dropout.eval()(ones).mean().item()


@dataclass(frozen=True, slots=True)
class BatchNormExample:
    """One unit with the values `batch`: what comes out in training, what is remembered, what comes out afterwards."""

    batch: list[float]
    in_training: list[float]
    running_mean: float
    running_variance: float
    in_evaluation: list[float]


def batch_norm(batch: Sequence[float] = (1.0, 2.0, 3.0, 6.0)) -> BatchNormExample:
    """In training by the batch's own mean and variance, in evaluation by a running average, here after one batch.

    The average begins at 0 and 1 and moves by a tenth; it takes the variance with n - 1, the batch that with n.
    """
    norm = nn.BatchNorm1d(1)
    values = torch.tensor(batch)[:, None]  # (N, 1)
    with torch.no_grad():
        in_training = norm.train()(values)[:, 0].tolist()
        in_evaluation = norm.eval()(values)[:, 0].tolist()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return BatchNormExample(list(batch), in_training, norm.running_mean.item(), norm.running_var.item(), in_evaluation)


def write_page(path: Path) -> None:
    """All examples as one self-contained page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    networks: dict[Activation, nn.Module] = {"relu": fit_xor("relu"), "identity": fit_xor("identity")}
    page = environment.get_template(TEMPLATE_NAME).render(
        slides=slides_step(),
        exact=backpropagation_step(),
        xor={name: num_right(network) for name, network in networks.items()},
        xor_figure=_data_url(plot_xor(networks)),
        rates=RATES,
        descent_figure=_data_url(plot_descent()),
        bounds=default_bounds(784, 75),
        dropout=dropout_means(0.2),
        norm=batch_norm(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def plot_xor(networks: dict[Activation, nn.Module]) -> Figure:
    """The probability of 1 over the plane, with the four points and the line where it is a half."""
    figure = Figure(figsize=(4 * len(networks), 3.6), layout="constrained")
    along = torch.linspace(-0.5, 1.5, 101)
    places = torch.cartesian_prod(along, along)  # (101^2, 2)
    for axes, (name, network) in zip(figure.subplots(1, len(networks)), networks.items(), strict=True):
        with torch.no_grad():
            shares = torch.sigmoid(network(places))[:, 0].reshape(101, 101).T
        axes.contourf(along, along, shares, levels=20, cmap="RdBu", vmin=0, vmax=1)
        if shares.min() < 0.5 < shares.max():
            axes.contour(along, along, shares, levels=[0.5], colors="black")
        axes.scatter(*XOR_INPUTS.T, c=XOR_TARGETS, cmap="RdBu", edgecolors="black", s=80)
        axes.set(title=f"{name}: {num_right(network)} of 4 right", xlabel="x1", ylabel="x2")
    return figure


def plot_descent() -> Figure:
    """The way of w for each rate."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, rate in RATES.items():
        axes.plot(descend(rate), marker=".", label=f"eta {rate:g} {name}")
    axes.set(xlabel="step", ylabel="w", ylim=(-3, 3))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2)
    return figure


def _data_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
