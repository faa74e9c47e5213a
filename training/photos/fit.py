"""Fine-tune on photos: one straight loop, a checkpoint an epoch, resumable."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from app.artifact import TORCHSCRIPT_NAME, EpochRecord
from app.engines.torchscript import load_torchscript
from training.data import DatasetError
from training.fit import (
    CHECKPOINT_NAME,
    ResumeError,
    check_identity,
    describe_device,
    load_checkpoint,
    moving_average,
    save_checkpoint,
)
from training.optimisation import warmup_cosine
from training.photos.augment import augment
from training.photos.config import PhotoConfig
from training.photos.dataset import PhotoDataset, Photos
from training.photos.labels import NOT_A_GARMENT, UNLABELLED, LabelMap
from training.photos.network import PhotoNetwork
from training.photos.preprocess import PIXEL_MEAN, PIXEL_STD, resize
from training.photos.splits import TRAIN, VALIDATION
from training.progress import FitProgress
from training.tracking import mlflow_run


@dataclass(frozen=True, slots=True)
class PhotoFitResult:
    """The averaged network after the last epoch, and how it got there."""

    network: PhotoNetwork
    config: PhotoConfig
    label_map: LabelMap
    history: list[EpochRecord]
    device: str
    command: str
    started_from: str = ""  # an exported version; empty: the ImageNet weights


def fit_photos(
    dataset: PhotoDataset,
    config: PhotoConfig,
    *,
    run_folder: Path,
    resume: bool = False,
    device: str | None = None,
    command: str = "",
    start: PhotoNetwork | None = None,
    started_from: str = "",
    teachers: Sequence[Path] = (),
    mlflow: bool = False,
) -> PhotoFitResult:
    """Train on the training part, watch the validation part, and return the averaged weights of the last epoch.

    `start` is a network to go on from instead of the ImageNet weights, and `started_from` its name. `teachers` are
    the exported versions that `config.teachers` names. `mlflow` logs the run there as well.

    Raises:
        DatasetError: nothing to train on, or nothing to validate with.
        ResumeError: `resume` without a checkpoint, or with one made by another config or on other data; a new run
            where there is a checkpoint already: it would be lost.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    train, validation = dataset.photos.part(TRAIN), dataset.photos.part(VALIDATION)
    validation = validation.with_class(len(dataset.label_map.classes))
    for part, photos in ((TRAIN, train.with_class(len(dataset.label_map.classes))), (VALIDATION, validation)):
        if len(photos) < 2:
            raise DatasetError(
                f"The {part} part has {len(photos)} photos with a class. It takes more photos, or smaller groups."
            )
    torch.manual_seed(config.seed)
    taught_by = [load_torchscript(folder / TORCHSCRIPT_NAME, device=device) for folder in teachers]
    network = (start or PhotoNetwork(len(dataset.label_map.outputs), backbone=config.backbone)).to(device)
    averaged = AveragedModel(network, multi_avg_fn=moving_average(config.ema_decay), use_buffers=True)
    optimizer = build_optimizer(network, config)
    repeats = torch.tensor([row.repeat * dataset.label_map.repeat.get(row.label, 1) for row in train.rows])
    steps_per_epoch = num_steps(train.targets, repeats, config)
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
    identity = {
        "config": {
            **config.to_dict(),
            "label_map": dataset.label_map.to_dict(),
            "num_excluded": dataset.num_excluded,
            **({"started_from": started_from, "corrections": dataset.corrections_sha256} if start else {}),
        },
        "sha256": dataset.sha256,
        "num_train": len(train),
    }
    about = {"device": describe_device(device), "command": command}
    generator = torch.Generator(device)

    def save() -> None:
        save_checkpoint(
            checkpoint_path, identity=identity, about=about, stateful=stateful, generator=generator, history=history
        )

    if resume:
        checkpoint = load_checkpoint(checkpoint_path)
        check_identity(checkpoint_path, found=checkpoint["identity"], wanted=identity)
        for name, owner in stateful.items():
            owner.load_state_dict(checkpoint[name])
        history = [EpochRecord(**record) for record in checkpoint["history"]]
    elif checkpoint_path.exists():
        raise ResumeError(f"{checkpoint_path} exists. Go on with --resume, or give another --run folder.")
    else:
        save()

    with (
        mlflow_run(run_folder, wanted=mlflow, choices=config.to_dict(), command=command) as log,
        FitProgress(config.num_epochs, steps_per_epoch, num_done=len(history)) as progress,
    ):
        for epoch in range(len(history) + 1, config.num_epochs + 1):
            started = time.perf_counter()
            # Everything random in an epoch follows from its number, so that a resumed run goes on bit for bit.
            torch.manual_seed(config.seed * 1_000 + epoch)  # dropout, drop-connect
            generator.manual_seed(config.seed * 1_000 + epoch)  # shuffling, augmentation, mixup
            network.train()
            network.freeze(config.frozen_blocks)
            total_loss = torch.zeros((), device=device)
            num_correct = torch.zeros((), device=device)
            num_seen = num_labelled = 0
            for indices in epoch_order(train.targets, repeats, config, generator).split(config.batch_size):
                if len(indices) < 2:  # BatchNorm needs two
                    continue
                targets = train.targets[indices].to(device)
                batch = augment(
                    train.images[indices].to(device), size_pixels=config.size_in_epoch(epoch), generator=generator
                )
                batch, partner, share = mixup(batch, alpha=config.mixup_alpha, generator=generator)
                batch = standardise(batch)
                logits, garment_logits = network(batch)
                loss = share * batch_loss(logits, garment_logits, targets, config)
                loss = loss + (1 - share) * batch_loss(logits, garment_logits, targets[partner], config)
                if taught_by:
                    loss = loss + teacher_loss(logits, mean_answer(taught_by, batch), targets, config)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                averaged.update_parameters(network)

                correct = (logits.detach().argmax(1) == targets).sum()
                total_loss += loss.detach() * len(indices)
                num_correct += correct
                num_seen += len(indices)
                num_labelled += int((targets >= 0).sum())
                progress.step(total_loss, num_correct, num_images=len(indices))

            logits, _ = predict_photos(averaged, validation, size_pixels=config.size_pixels, device=device)
            logits = logits[:, : len(dataset.label_map.classes)]
            record = EpochRecord(
                epoch=epoch,
                learning_rate=optimizer.param_groups[-1]["lr"],
                train_loss=total_loss.item() / num_seen,
                train_accuracy=num_correct.item() / max(1, num_labelled),
                validation_loss=F.cross_entropy(logits, validation.targets).item(),
                validation_accuracy=(logits.argmax(1) == validation.targets).double().mean().item(),
                seconds=time.perf_counter() - started,
            )
            history.append(record)
            save()
            progress.epoch(record)
            log(record)

    return load_photo_run(run_folder)


def load_photo_run(run_folder: Path) -> PhotoFitResult:
    """The averaged network as of the last checkpoint in `run_folder`, finished or not."""
    checkpoint = load_checkpoint(run_folder / CHECKPOINT_NAME)
    values = dict(checkpoint["identity"]["config"])
    label_map = LabelMap.from_dict(values.pop("label_map"))
    del values["num_excluded"]
    started_from = values.pop("started_from", "")
    values.pop("corrections", None)
    config = PhotoConfig.from_dict(values)
    averaged = AveragedModel(PhotoNetwork(len(label_map.outputs), backbone=config.backbone, pretrained=False))
    averaged.load_state_dict(checkpoint["averaged"])
    history = [EpochRecord(**record) for record in checkpoint["history"]]
    return PhotoFitResult(
        network=cast("PhotoNetwork", averaged.module.eval()),
        config=config,
        label_map=label_map,
        history=history,
        started_from=started_from,
        **checkpoint["about"],
    )


def standardise(images: Tensor) -> Tensor:
    """float32 (N, 3, S, S) in 0..1 -> as the ImageNet weights expect it."""
    return ((images - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)


def epoch_order(targets: Tensor, repeats: Tensor, config: PhotoConfig, generator: torch.Generator) -> Tensor:
    """Shuffled indices of every garment `repeats` times, and of a random draw of the pictures of no garment.

    Of those, one that is repeated is so much likelier to be drawn. `targets` and `repeats` int64 (N,).
    """
    garments = (targets != NOT_A_GARMENT).nonzero().flatten()
    garments = garments.repeat_interleave(repeats[garments])
    negatives = (targets == NOT_A_GARMENT).nonzero().flatten()
    num_drawn = min(len(negatives), round(config.negative_share * len(garments)))
    if num_drawn:
        weights = repeats[negatives].double().to(generator.device)
        negatives = negatives[torch.multinomial(weights, num_drawn, generator=generator).cpu()]
    else:
        negatives = negatives[:0]
    indices = torch.cat([garments, negatives])
    return indices[torch.randperm(len(indices), generator=generator, device=generator.device).cpu()]


def num_steps(targets: Tensor, repeats: Tensor, config: PhotoConfig) -> int:
    """Optimiser steps in an epoch."""
    num_images = len(epoch_order(targets, repeats, config, torch.Generator()))
    full, rest = divmod(num_images, config.batch_size)
    return full + (rest > 1)


def mixup(batch: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Blend each picture with another of the batch: blended batch, partner indices, share of the first picture.

    One share for the whole batch, from Beta(alpha, alpha) as in Zhang et al., mixup (2017); the first picture has the
    larger one, so that the training accuracy counts the label that is more in the picture.
    """
    partner = torch.randperm(len(batch), generator=generator, device=generator.device).to(batch.device)
    if alpha == 0:
        return batch, partner, 1.0
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    share = max(share, 1 - share)
    return share * batch + (1 - share) * batch[partner], partner, share


def batch_loss(logits: Tensor, garment_logits: Tensor, targets: Tensor, config: PhotoConfig) -> Tensor:
    """Cross-entropy of pictures with a class, and binary cross-entropy of the garment head on all of them."""
    loss = F.cross_entropy(
        logits,
        targets.clamp(min=UNLABELLED),  # a picture of no garment has no class either
        ignore_index=UNLABELLED,
        label_smoothing=config.label_smoothing,
        reduction="sum",
    ) / len(targets)
    if config.teachers:
        loss = (1 - config.teacher_share) * loss
    is_garment = (targets != NOT_A_GARMENT).float()
    return loss + config.garment_weight * F.binary_cross_entropy_with_logits(garment_logits, is_garment)


@torch.no_grad()
def mean_answer(teachers: Sequence[nn.Module], batch: Tensor) -> Tensor:
    """Probabilities (N, J) of the answered classes: the teachers' log-probabilities averaged, scaled to sum to 1."""
    return torch.stack([teacher(batch)[0].log_softmax(1) for teacher in teachers]).mean(0).softmax(1)


def teacher_loss(logits: Tensor, taught: Tensor, targets: Tensor, config: PhotoConfig) -> Tensor:
    """Cross-entropy of the answered classes with the teachers' probabilities, on every garment, labelled or not.

    Hinton et al., Distilling the knowledge in a neural network (2015), at temperature 1. `logits` (N, K), `taught`
    (N, J), J <= K; the picture that has the larger share of a blended one says whether it is a garment.
    """
    losses = F.cross_entropy(logits[:, : taught.shape[1]], taught, reduction="none")
    return config.teacher_share * (losses * (targets != NOT_A_GARMENT)).mean()


@torch.inference_mode()
def predict_photos(
    network: nn.Module, photos: Photos, *, size_pixels: int, device: str, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Class logits (N, K) and garment logits (N,), float32 on the CPU, with the network in evaluation mode."""
    network.eval()
    class_logits, garment_logits = [], []
    for images in photos.images.split(batch_size):
        batch = torch.stack([resize(image, size_pixels) for image in images]).to(device)
        classes, garment = network(standardise(batch / 255))
        class_logits.append(classes.float().cpu())
        garment_logits.append(garment.float().cpu())
    return torch.cat(class_logits), torch.cat(garment_logits)


def build_optimizer(network: PhotoNetwork, config: PhotoConfig) -> torch.optim.Optimizer:
    """AdamW with a learning rate that falls from the heads to the picture; none for BatchNorm's and biases' decay."""
    stages = list(network.stages())
    groups = []
    for index, stage in enumerate(stages):
        learning_rate = config.learning_rate * config.layer_decay ** (len(stages) - 1 - index)
        weights = [parameter for parameter in stage.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in stage.parameters() if parameter.ndim <= 1]
        groups += [
            {"params": others, "lr": learning_rate, "weight_decay": 0.0},
            {"params": weights, "lr": learning_rate, "weight_decay": config.weight_decay},
        ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: PhotoConfig, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    return warmup_cosine(
        optimizer,
        num_warmup=max(1, round(config.warmup_epochs * steps_per_epoch)),
        num_steps=config.num_epochs * steps_per_epoch,
    )
