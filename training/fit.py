"""Fit the network: one straight loop, a checkpoint an epoch, bit-for-bit resumable on the CPU."""

import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from app.artifact import EpochRecord
from app.errors import WardrobeError
from training.augment import augment
from training.config import FitConfig
from training.data import CLASS_NAMES, Dataset, Splits
from training.network import ResNet
from training.progress import FitProgress

CHECKPOINT_NAME = "checkpoint.pt"

TensorList = tuple[Tensor, ...] | list[Tensor]


class ResumeError(WardrobeError):
    """The checkpoint in the run's folder, or its absence, is not what was asked for."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """The averaged network after the last epoch, and how it got there."""

    network: ResNet
    config: FitConfig
    mean: float
    std: float
    history: list[EpochRecord]
    device: str
    command: str


def build_network(config: FitConfig) -> ResNet:
    return ResNet(widths=config.widths, blocks=config.blocks, num_classes=len(CLASS_NAMES))


def fit(
    splits: Splits,
    config: FitConfig,
    *,
    run_folder: Path,
    resume: bool = False,
    device: str | None = None,
    command: str = "",
    stop_after_epoch: int | None = None,
) -> FitResult:
    """Train on `splits.train`, watch `splits.validation`, and return the averaged weights of the last epoch.

    The last epoch is taken by rule: choosing the best one would make the validation figure flatter. A checkpoint is
    written before the first and after every epoch; `stop_after_epoch` ends a run early, as Ctrl-C would.

    Raises:
        ResumeError: `resume` without a checkpoint, or with one made by another config or on other data; a new run
            where there is a checkpoint already: it would be lost.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = True
    torch.manual_seed(config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)  # shuffling and augmentation

    # 47 MB of bytes: the whole data set stays on the device, no loader process is needed.
    images, labels = splits.train.images.to(device), splits.train.labels.to(device)
    mean, std = normalization(splits.train)

    network = build_network(config).to(device).to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, multi_avg_fn=moving_average(config.ema_decay), use_buffers=True)
    optimizer = build_optimizer(network, config)
    steps_per_epoch = math.ceil(len(labels) / config.batch_size)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=steps_per_epoch)
    history: list[EpochRecord] = []

    run_folder.mkdir(parents=True, exist_ok=True)
    checkpoint_path = run_folder / CHECKPOINT_NAME
    stateful: dict[str, Any] = {
        "network": network,
        "averaged": averaged,
        "optimizer": optimizer,
        "scheduler": scheduler,
    }
    identity = {"config": config.to_dict(), "sha256": splits.sha256, "num_train": len(labels)}
    about = {"mean": mean, "std": std, "device": describe_device(device), "command": command}

    def save() -> None:
        save_checkpoint(
            checkpoint_path, identity=identity, about=about, stateful=stateful, generator=generator, history=history
        )

    if resume:
        checkpoint = load_checkpoint(checkpoint_path)
        check_identity(checkpoint_path, found=checkpoint["identity"], wanted=identity)
        for name, owner in stateful.items():
            owner.load_state_dict(checkpoint[name])
        generator.set_state(checkpoint["generator"])
        history = [EpochRecord(**record) for record in checkpoint["history"]]
    elif checkpoint_path.exists():
        raise ResumeError(f"{checkpoint_path} exists. Go on with --resume, or give another --run folder.")
    else:
        save()

    autocast_dtype = torch.bfloat16 if use_bfloat16(config, device) else torch.float32
    with FitProgress(config.epochs, steps_per_epoch, num_done=len(history)) as progress:
        for epoch in range(len(history) + 1, config.epochs + 1):
            started = time.perf_counter()
            network.train()
            total_loss = torch.zeros((), device=device)
            num_correct = torch.zeros((), device=device)
            for indices in batches(len(labels), config.batch_size, generator):
                batch = augment(
                    images[indices],
                    max_shift_pixels=config.max_shift_pixels,
                    erase_probability=config.erase_probability,
                    generator=generator,
                )
                with torch.autocast(device, dtype=autocast_dtype, enabled=autocast_dtype is torch.bfloat16):
                    logits = network(normalize(batch, mean=mean, std=std))
                    loss = F.cross_entropy(logits, labels[indices], label_smoothing=config.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                averaged.update_parameters(network)

                total_loss += loss.detach() * len(indices)
                num_correct += (logits.detach().argmax(1) == labels[indices]).sum()
                progress.step(total_loss, num_correct, num_images=len(indices))

            validation_logits = predict(averaged, splits.validation, mean=mean, std=std, device=device)
            validation_labels = splits.validation.labels
            record = EpochRecord(
                epoch=epoch,
                learning_rate=optimizer.param_groups[0]["lr"],
                train_loss=total_loss.item() / len(labels),
                train_accuracy=num_correct.item() / len(labels),
                validation_loss=F.cross_entropy(validation_logits, validation_labels).item(),
                validation_accuracy=(validation_logits.argmax(1) == validation_labels).double().mean().item(),
                seconds=time.perf_counter() - started,
            )
            history.append(record)
            save()
            progress.epoch(record)
            if epoch == stop_after_epoch:
                break

    return load_fit_result(run_folder)


def load_fit_result(run_folder: Path) -> FitResult:
    """The averaged network as of the last checkpoint in `run_folder`, finished or not."""
    checkpoint = load_checkpoint(run_folder / CHECKPOINT_NAME)
    config = FitConfig.from_dict(checkpoint["identity"]["config"])
    averaged = AveragedModel(build_network(config))
    averaged.load_state_dict(checkpoint["averaged"])
    history = [EpochRecord(**record) for record in checkpoint["history"]]
    network = cast("ResNet", averaged.module)
    return FitResult(network=network.eval(), config=config, history=history, **checkpoint["about"])


def describe_device(device: str) -> str:
    """What the run took place on, for the card: `cuda (NVIDIA H100)` or `cpu (2 threads)`."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"{device} ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"


def normalization(train: Dataset) -> tuple[float, float]:
    """Mean and standard deviation of the training pixels scaled to 0..1."""
    scaled = train.images.double() / 255
    return scaled.mean().item(), scaled.std().item()


def normalize(images: Tensor, *, mean: float, std: float) -> Tensor:
    """uint8 (N, H, W) in 0..255 -> float32 (N, 1, H, W), standardised."""
    return ((images.float() / 255 - mean) / std).unsqueeze(1).contiguous(memory_format=torch.channels_last)


def batches(num_images: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled indices of every image once, `batch_size` at a time."""
    order = torch.randperm(num_images, generator=generator, device=generator.device)
    yield from order.split(batch_size)


@torch.inference_mode()
def predict(network: nn.Module, dataset: Dataset, *, mean: float, std: float, device: str) -> Tensor:
    """Logits (N, K) of every image, float32 on the CPU, with the network in evaluation mode."""
    network.eval()
    parts = [
        network(normalize(images.to(device), mean=mean, std=std)).float().cpu() for images in dataset.images.split(500)
    ]
    return torch.cat(parts)


def moving_average(decay: float) -> Callable[[TensorList, TensorList, Tensor | int], None]:
    """Exponential moving average of weights and BatchNorm statistics, with a decay that grows to `decay`.

    The decay after n steps is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage. A constant
    one keeps the initial weights and variances in the average of a short run.
    """

    def average(averaged: TensorList, current: TensorList, num_steps: Tensor | int) -> None:
        steps = torch.as_tensor(num_steps)
        weight = 1 - ((1 + steps) / (10 + steps)).clamp(max=decay)
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():  # BatchNorm also counts its batches
                mean.lerp_(value, weight)

    return average


def build_optimizer(network: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(
                network.parameters(),
                lr=config.learning_rate,
                momentum=config.momentum,
                nesterov=True,
                weight_decay=config.weight_decay,
            )
        case "adamw":
            return torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: FitConfig, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    return warmup_cosine(
        optimizer,
        num_warmup=max(1, round(config.warmup_epochs * steps_per_epoch)),
        num_steps=config.epochs * steps_per_epoch,
    )


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, num_warmup: int, num_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then half a cosine down to 0 at the last step (Loshchilov and Hutter, SGDR, 2016)."""

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def use_bfloat16(config: FitConfig, device: str) -> bool:
    """`auto` is bfloat16 on CUDA and float32 on the CPU, where few processors have it and the others crawl."""
    return config.precision == "bfloat16" or (config.precision == "auto" and device == "cuda")


def save_checkpoint(
    path: Path,
    *,
    identity: dict[str, Any],
    about: dict[str, Any],
    stateful: dict[str, Any],
    generator: torch.Generator,
    history: list[EpochRecord],
) -> None:
    """Write everything that the next epoch depends on; the old file stays until the new one is complete."""
    content = {name: owner.state_dict() for name, owner in stateful.items()}
    content |= {"identity": identity, "about": about, "generator": generator.get_state()}
    content |= {"history": [record.model_dump() for record in history]}
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain values only: nothing in the file can run.

    Raises:
        ResumeError: there is none, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the check sums
        if damaged:
            raise ResumeError(f"The checkpoint at {path} is damaged. Delete it and start again.")
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ResumeError(f"There is no checkpoint at {path}. Start without --resume.") from error
    except (OSError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ResumeError(f"The checkpoint at {path} is damaged. Delete it and start again.") from error
    return checkpoint


def check_identity(path: Path, *, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Make sure that a checkpoint belongs to the run that wants to go on from it."""
    flat_found = {**found["config"], "sha256": found["sha256"], "num_train": found["num_train"]}
    flat_wanted = {**wanted["config"], "sha256": wanted["sha256"], "num_train": wanted["num_train"]}
    changed = [
        f"{key} was {flat_found.get(key)}, is {value}"
        for key, value in flat_wanted.items()
        if flat_found.get(key) != value
    ]
    if changed:
        raise ResumeError(
            f"The checkpoint at {path} is of another run: {'; '.join(changed)}. Resume with its settings."
        )
