"""Fit the network: one straight loop, a checkpoint an epoch, bit-for-bit resumable on the CPU."""

import copy
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from app.artifact import EpochRecord
from app.errors import WardrobeError
from training.augment import augment, build_mix
from training.config import ConfigError, FitConfig, Scaling
from training.data import CLASS_NAMES, Dataset, Splits
from training.distributed import data_parallel, from_first, mean_of_processes, num_processes, rank, share, wait_for_all
from training.networks import NETWORKS
from training.networks.initialise import initialise
from training.optimisation import build_loss, build_optimizer, build_scheduler, penalty
from training.progress import FitProgress
from training.tensorboard import curve_for_tensorboard
from training.tracking import mlflow_run

CHECKPOINT_NAME = "checkpoint.pt"

TensorList = tuple[Tensor, ...] | list[Tensor]


class ResumeError(WardrobeError):
    """The checkpoint in the run's folder, or its absence, is not what was asked for."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """The averaged network after the last epoch, or after the best one with early stopping, and how it got there."""

    network: nn.Module
    config: FitConfig
    mean: float
    std: float
    history: list[EpochRecord]
    device: str
    command: str


def build_network(config: FitConfig) -> nn.Module:
    network = NETWORKS[config.network](num_classes=len(CLASS_NAMES), **config.network_options)
    initialise(network, config.init, scale=config.init_scale, slope=config.init_slope, zero_biases=config.zero_biases)
    return network


def fit(
    splits: Splits,
    config: FitConfig,
    *,
    run_folder: Path,
    resume: bool = False,
    device: str | None = None,
    command: str = "",
    stop_after_epoch: int | None = None,
    mlflow: bool = False,
    tensorboard: Path | None = None,
) -> FitResult:
    """Train on `splits.train`, watch `splits.validation`, and return the averaged weights of the last epoch.

    The last epoch is taken by rule: choosing the best one would make the validation figure flatter. Early stopping
    (`config.patience`) does choose it. A checkpoint is written before the first and after every epoch;
    `stop_after_epoch` ends a run early, as Ctrl-C would. `mlflow` logs it there as well, and the folder `tensorboard`
    gets the learning curve. Several processes share each batch, and the first one evaluates and writes.

    Raises:
        ConfigError: the last batch would be a single picture, and batch normalisation has no use for one; a batch is
            too small to be shared by the processes.
        ResumeError: `resume` without a checkpoint, or with one made by another config or on other data; a new run
            where there is a checkpoint already: it would be lost.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = True
    torch.manual_seed(config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)  # shuffling and augmentation

    # 47 MB of bytes: the whole data set stays on the device, no loader process is needed.
    images, labels = splits.train.images.to(device), splits.train.labels.to(device)
    mean, std = normalization(splits.train, config.scaling)
    batch_size = config.batch_size or len(labels)  # 0 is the full batch
    check_batches(len(labels), batch_size, config)

    network = build_network(config).to(device).to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, multi_avg_fn=moving_average(config.ema_decay), use_buffers=True)
    parallel = data_parallel(network, device)  # the network itself in a single process
    optimizer = build_optimizer(network, config)
    steps_per_epoch = math.ceil(len(labels) / batch_size)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=steps_per_epoch)
    loss_of, validation_loss_of = build_loss(config), build_loss(replace(config, label_smoothing=0.0))
    mix = build_mix(config)
    history: list[EpochRecord] = []
    best: dict[str, Any] | None = None  # averaged weights of the best epoch, with early stopping

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
        if rank() == 0:
            save_checkpoint(
                checkpoint_path,
                identity=identity,
                about=about,
                stateful=stateful,
                generator=generator,
                history=history,
                best=best,
            )

    if resume:
        checkpoint = load_checkpoint(checkpoint_path)
        found = checkpoint["identity"]
        found["config"] = FitConfig.from_dict(found["config"]).to_dict()  # an older one lacks the newer choices
        check_identity(checkpoint_path, found=found, wanted=identity)
        for name, owner in stateful.items():
            owner.load_state_dict(checkpoint[name])
        generator.set_state(checkpoint["generator"])
        history = [EpochRecord(**record) for record in checkpoint["history"]]
        best = checkpoint.get("best")
    elif checkpoint_path.exists():
        raise ResumeError(f"{checkpoint_path} exists. Go on with --resume, or give another --run folder.")
    else:
        wait_for_all()  # until every process has seen that there is none
        save()

    autocast_dtype = torch.bfloat16 if use_bfloat16(config, device) else torch.float32
    with (
        mlflow_run(run_folder, wanted=mlflow, choices=config.to_dict(), command=command) as log,
        FitProgress(config.epochs, steps_per_epoch, num_done=len(history)) as progress,
        curve_for_tensorboard(tensorboard, num_done=len(history)) as draw,
    ):
        for epoch in range(len(history) + 1, config.epochs + 1):
            if stops_early(history, config):
                break
            started = time.perf_counter()
            # Dropout and mixing: a resumed epoch draws the same, each process its own.
            torch.manual_seed(1_000_003 * config.seed + 10_007 * rank() + epoch)
            network.train()
            total_loss = torch.zeros((), device=device)
            num_correct = torch.zeros((), device=device)
            for indices in batches(len(labels), batch_size, generator):
                # Every process augments the whole batch, so that the generator is in one state everywhere.
                batch = share(augment(images[indices], config, generator=generator))
                batch_labels = share(labels[indices])
                inputs, targets = mix(normalize(batch, mean=mean, std=std), batch_labels)
                weight = num_processes() * len(batch) / len(indices)  # 1 unless shares are uneven
                with torch.autocast(device, dtype=autocast_dtype, enabled=autocast_dtype is torch.bfloat16):
                    logits = parallel(inputs)
                    loss = weight * (loss_of(logits, targets) + penalty(network, l1=config.l1, l2=config.l2))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if not isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step()
                averaged.update_parameters(network)

                total_loss += loss.detach() * len(indices)
                num_correct += num_processes() * (logits.detach().argmax(1) == batch_labels).sum()
                progress.step(total_loss, num_correct, num_images=len(indices))

            validation_logits = from_first(
                lambda: predict(averaged, splits.validation, mean=mean, std=std, device=device)
            )
            validation_labels = splits.validation.labels
            record = EpochRecord(
                epoch=epoch,
                learning_rate=optimizer.param_groups[0]["lr"],
                train_loss=mean_of_processes(total_loss).item() / len(labels),
                train_accuracy=mean_of_processes(num_correct).item() / len(labels),
                validation_loss=validation_loss_of(validation_logits, validation_labels).item(),
                validation_accuracy=(validation_logits.argmax(1) == validation_labels).double().mean().item(),
                seconds=time.perf_counter() - started,
            )
            history.append(record)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(record.validation_loss)
            if config.patience and best_epoch(history) == epoch:
                best = copy.deepcopy(averaged.state_dict())
            save()
            progress.epoch(record)
            log(record)
            draw(record)
            if epoch == stop_after_epoch:
                break

    wait_for_all()  # the last checkpoint is written
    return load_fit_result(run_folder)


def load_fit_result(run_folder: Path) -> FitResult:
    """The network as of the last checkpoint in `run_folder`, finished or not."""
    checkpoint = load_checkpoint(run_folder / CHECKPOINT_NAME)
    config = FitConfig.from_dict(checkpoint["identity"]["config"])
    averaged = AveragedModel(build_network(config))
    averaged.load_state_dict(checkpoint.get("best") or checkpoint["averaged"])
    history = [EpochRecord(**record) for record in checkpoint["history"]]
    return FitResult(network=averaged.module.eval(), config=config, history=history, **checkpoint["about"])


def check_batches(num_images: int, batch_size: int, config: FitConfig) -> None:
    """Make sure that the smallest batch is enough for batch normalisation and for every process."""
    smallest = num_images % batch_size or batch_size
    if config.norm == "batch" and smallest == 1:
        raise ConfigError(f"Of {num_images} pictures the last would be a batch of its own: change the batch size.")
    needed = num_processes() * (2 if config.norm == "batch" else 1)
    if smallest < needed:
        raise ConfigError(
            f"Of {num_images} pictures the smallest batch is of {smallest}, and {num_processes()} processes need "
            f"{needed} to share: change the batch size."
        )


def best_epoch(history: list[EpochRecord]) -> int:
    """The epoch with the lowest validation loss, the first of equals; 0 before the first."""
    return min(history, key=lambda record: record.validation_loss).epoch if history else 0


def stops_early(history: list[EpochRecord], config: FitConfig) -> bool:
    return bool(config.patience) and len(history) - best_epoch(history) >= config.patience


def is_finished(result: FitResult) -> bool:
    return len(result.history) == result.config.epochs or stops_early(result.history, result.config)


def describe_device(device: str) -> str:
    """What the run took place on, for the card: `cuda (NVIDIA H100)` or `cpu (2 threads)`."""
    many = f"{num_processes()} x " if num_processes() > 1 else ""
    if device == "cuda":
        return f"{many}cuda ({torch.cuda.get_device_name()})"
    return f"{many}{device} ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"


def normalization(train: Dataset, scaling: Scaling = "standardise") -> tuple[float, float]:
    """What is taken from pixels in 0..1, and what they are divided by then: every scaling is of this form."""
    match scaling:
        case "standardise":
            scaled = train.images.double() / 255
            return scaled.mean().item(), scaled.std().item()
        case "zero-to-one":
            return 0.0, 1.0
        case "minus-one-to-one":
            return 0.5, 0.5
        case "none":  # 0 to 255
            return 0.0, 1 / 255


def normalize(images: Tensor, *, mean: float, std: float) -> Tensor:
    """uint8 (N, H, W) in 0..255 -> float32 (N, 1, H, W), scaled as the network wants it."""
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
    best: dict[str, Any] | None = None,
) -> None:
    """Write everything that the next epoch depends on; the old file stays until the new one is complete."""
    content = {name: owner.state_dict() for name, owner in stateful.items()}
    content |= {"identity": identity, "about": about, "generator": generator.get_state()}
    content |= {"history": [record.model_dump() for record in history], "best": best}
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
