"""What is minimised, by which rule, at which rate: each choice by its name."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from training.config import FitConfig

LossFunction = Callable[[Tensor, Tensor], Tensor]
Shape = Callable[[int, int], float]


def build_loss(config: FitConfig) -> LossFunction:
    """Logits (N, K) and targets, labels (N,) or the share of each class (N, K) -> mean over the batch."""
    match config.loss:
        case "cross-entropy":
            return partial(F.cross_entropy, label_smoothing=config.label_smoothing)
        case "squared":
            return squared_error
        case "hinge":
            return hinge
        case "perceptron":
            return threshold_rule


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Of the outputs as they are, without softmax, from 1 for the right class and 0 for the others."""
    if targets.dim() == 1:
        targets = F.one_hot(targets, logits.shape[1])
    return F.mse_loss(logits.float(), targets.float())


def hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Zero once the right class leads every other by 1."""
    return F.multi_margin_loss(logits.float(), labels)


def threshold_rule(logits: Tensor, labels: Tensor) -> Tensor:
    """What the best class is ahead of the right one.

    Its gradient is the perceptron's rule: nothing for a picture that is right; else the picture itself is added to the
    weights of its class and taken from those of the class that won. Duda, Hart and Stork (2001), section 5.12.
    """
    logits = logits.float()
    return (logits.amax(1) - logits.gather(1, labels[:, None])[:, 0]).mean()


def penalty(network: nn.Module, *, l1: float, l2: float) -> Tensor | float:
    """`l1` times the sum of absolute weights, plus `l2` times the sum of squares; with both, the elastic net.

    Over all parameters, as weight decay is: with plain gradient descent `l2` does what twice the weight decay does.
    """
    total: Tensor | float = 0.0
    if l1:
        total = total + l1 * sum(parameter.abs().sum() for parameter in network.parameters())
    if l2:
        total = total + l2 * sum(parameter.square().sum() for parameter in network.parameters())
    return total


def build_optimizer(network: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=rate, momentum=config.momentum, nesterov=config.nesterov, weight_decay=decay
            )
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=rate, momentum=config.momentum, weight_decay=decay)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        case "radam":  # Adam that needs no warm-up: Liu et al. (2019)
            return torch.optim.RAdam(parameters, lr=rate, weight_decay=decay)


def build_scheduler(optimizer: torch.optim.Optimizer, config: FitConfig, *, steps_per_epoch: int) -> LRScheduler:
    """Stepped after every batch; `plateau` after every epoch, with its validation loss."""
    num_steps = config.epochs * steps_per_epoch
    num_warmup = max(1, round(config.warmup_epochs * steps_per_epoch))
    match config.schedule:
        case "cosine":
            return warmup_cosine(optimizer, num_warmup=num_warmup, num_steps=num_steps)
        case "constant":
            return warmup_then(lambda _step, _num_steps: 1.0, optimizer, num_warmup=num_warmup, num_steps=num_steps)
        case "linear":
            return warmup_then(
                lambda step, num_steps: 1 - step / num_steps, optimizer, num_warmup=num_warmup, num_steps=num_steps
            )
        case "step":
            return warmup_then(
                lambda step, num_steps: config.decay_factor ** sum(step >= m * num_steps for m in config.milestones),
                optimizer,
                num_warmup=num_warmup,
                num_steps=num_steps,
            )
        case "one-cycle":  # Smith, Super-convergence (2017); the momentum stays as it is
            return OneCycleLR(optimizer, config.learning_rate, total_steps=num_steps + 1, cycle_momentum=False)
        case "plateau":
            return ReduceLROnPlateau(optimizer, factor=config.decay_factor, patience=config.plateau_patience)


def warmup_cosine(optimizer: torch.optim.Optimizer, *, num_warmup: int, num_steps: int) -> LambdaLR:
    """Linear warm-up, then half a cosine down to 0 at the last step (Loshchilov and Hutter, SGDR, 2016)."""
    return warmup_then(
        lambda step, num_steps: 0.5 * (1 + math.cos(math.pi * step / num_steps)),
        optimizer,
        num_warmup=num_warmup,
        num_steps=num_steps,
    )


def warmup_then(shape: Shape, optimizer: torch.optim.Optimizer, *, num_warmup: int, num_steps: int) -> LambdaLR:
    """Linear warm-up, then the share of the learning rate that `shape` says of a step and the number of steps left."""

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return shape(step - num_warmup, max(1, num_steps - num_warmup))

    return LambdaLR(optimizer, factor)
