import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.photos.conftest import StoppedAfterOneEpoch
from training.data import DatasetError
from training.fit import ResumeError
from training.photos import fit as fit_module
from training.photos.config import NUM_BLOCKS, PhotoConfig
from training.photos.dataset import PhotoDataset
from training.photos.fit import (
    PhotoFitResult,
    batch_loss,
    build_optimizer,
    build_scheduler,
    epoch_order,
    fit_photos,
    load_photo_run,
    mean_answer,
    mixup,
    num_steps,
    predict_photos,
    standardise,
    teacher_loss,
)
from training.photos.labels import NOT_A_GARMENT, UNKNOWN, UNLABELLED
from training.photos.network import PhotoNetwork

BACKBONE = "efficientnet-lite0"  # the smallest


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_epoch_holds_every_garment_once_and_a_draw_of_the_rest() -> None:
    """8 garments, and of 20 pictures of no garment a quarter of that: 2, others in another epoch."""
    targets = torch.tensor([0, 1, UNLABELLED, 2] * 2 + [NOT_A_GARMENT] * 20)
    once, config = torch.ones_like(targets), PhotoConfig(negative_share=0.25)

    orders = [epoch_order(targets, once, config, generator(seed)).tolist() for seed in range(40)]

    for order in orders:
        assert len(order) == 10
        assert set(range(8)) < set(order)
    assert len({tuple(order) for order in orders}) == 40
    assert {index for order in orders for index in order} == set(range(28))
    assert orders[0] == epoch_order(targets, once, config, generator(0)).tolist()


def test_epoch_repeats_garments_and_prefers_other_pictures() -> None:
    """The second garment three times; a quarter of 4 + 2 pictures more: 2 of no garment, each once, in all epochs
    together four times as many of the half that is repeated four times."""
    targets = torch.tensor([0, 1, 2, UNLABELLED] + [NOT_A_GARMENT] * 20)
    repeats = torch.tensor([1, 3, 1, 1] + [4] * 10 + [1] * 10)
    config = PhotoConfig(negative_share=0.25)

    counts = torch.stack(
        [epoch_order(targets, repeats, config, generator(i)).bincount(minlength=24) for i in range(400)]
    )

    assert counts[:, :4].unique(dim=0).tolist() == [[1, 3, 1, 1]]
    assert counts[:, 4:].sum(1).unique().tolist() == [2]
    assert counts[:, 4:].max() == 1
    preferred = counts[:, 4:14].sum() / counts[:, 4:].sum()
    assert preferred == pytest.approx(0.8, abs=0.06)  # three standard deviations of 800 draws, and a little


@pytest.mark.parametrize("num_garments", [7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("num_negatives", [0, 1, 50])
def test_number_of_steps_is_that_of_the_loop(num_garments: int, num_negatives: int) -> None:
    """Batches of 8, of which a last one of a single picture is left out."""
    targets = torch.tensor([0] * num_garments + [NOT_A_GARMENT] * num_negatives)
    once, config = torch.ones_like(targets), PhotoConfig(batch_size=8)

    batches = epoch_order(targets, once, config, generator()).split(config.batch_size)

    assert num_steps(targets, once, config) == sum(len(batch) > 1 for batch in batches)


def losses(targets: list[int], **options: Any) -> tuple[float, Tensor, Tensor]:
    """The loss of random logits, and its gradients on class and garment logits."""
    logits = torch.randn(len(targets), 3, generator=generator(), requires_grad=True)
    garment_logits = torch.randn(len(targets), generator=generator(), requires_grad=True)
    loss = batch_loss(logits, garment_logits, torch.tensor(targets), PhotoConfig(**options))
    loss.backward()
    assert logits.grad is not None
    assert garment_logits.grad is not None
    return loss.item(), logits.grad, garment_logits.grad


def test_pictures_without_a_class_teach_only_the_garment_head() -> None:
    """No gradient on their class logits; a garment pulls its garment logit up, another picture down."""
    _, classes, garment = losses([0, UNLABELLED, NOT_A_GARMENT])

    assert classes.abs().sum(1).gt(0).tolist() == [True, False, False]
    assert garment.sign().tolist() == [-1, -1, 1]


def test_loss_is_finite_without_any_class() -> None:
    """And is the garment head's alone."""
    loss, classes, _ = losses([UNLABELLED, NOT_A_GARMENT], garment_weight=0.0)

    assert loss == 0
    assert not classes.any()


def test_loss_agrees_with_the_formula() -> None:
    """Cross-entropy over all pictures of the batch plus half the binary one, without smoothing."""
    logits, garment_logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0]]), torch.tensor([1.0, 3.0])

    loss = batch_loss(
        logits, garment_logits, torch.tensor([0, NOT_A_GARMENT]), PhotoConfig(label_smoothing=0.0, garment_weight=0.5)
    )

    of_class = -math.log(math.exp(2) / (math.exp(2) + 2))
    of_garments = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))
    assert loss.item() == pytest.approx(of_class / 2 + 0.5 * of_garments / 2)


def test_teachers_answer_with_the_mean_of_their_log_probabilities() -> None:
    """Certain by half and by nine tenths: as certain as the geometric mean of the odds, 3 to 1."""

    class Teacher(torch.nn.Module):
        def __init__(self, probabilities: list[float]) -> None:
            super().__init__()
            self.logits = torch.tensor([probabilities]).log()

        def forward(self, batch: Tensor) -> tuple[Tensor, None]:
            return self.logits.expand(len(batch), -1), None

    taught = mean_answer([Teacher([0.5, 0.5]), Teacher([0.9, 0.1])], torch.zeros(2, 3, 4, 4))

    assert taught == pytest.approx(torch.tensor([[0.75, 0.25]] * 2))


def test_teachers_teach_garments_alone_and_take_their_share_of_the_loss() -> None:
    """No gradient where the student says the same, none from another picture, none on a class they do not answer."""
    config = PhotoConfig(teachers=("a/1",), teacher_share=0.25)
    taught = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    logits = torch.cat([taught.log(), torch.full((3, 1), 2.0)], 1)
    logits[1:, 0] += 1
    logits.requires_grad_()

    loss = teacher_loss(logits, taught, torch.tensor([0, UNLABELLED, NOT_A_GARMENT]), config)
    loss.backward()

    assert logits.grad is not None
    assert logits.grad.abs().gt(1e-6).tolist() == [[False] * 3, [True, True, False], [False] * 3]
    said = logits.detach()[:2, :2].log_softmax(1)
    assert loss.item() == pytest.approx(0.25 * -(taught[:2] * said).sum().item() / 3)
    alone, _, _ = losses([0, 1], garment_weight=0.0)
    assert losses([0, 1], garment_weight=0.0, teachers=("a/1",), teacher_share=0.25)[0] == pytest.approx(0.75 * alone)


def test_mixup_blends_each_picture_with_its_partner() -> None:
    """One share for the batch; the partners are a permutation of it."""
    batch = torch.rand(6, 3, 4, 4, generator=generator())

    blended, partner, share = mixup(batch, alpha=0.2, generator=generator(1))

    assert 0.5 <= share <= 1
    assert sorted(partner.tolist()) == list(range(6))
    assert blended.allclose(share * batch + (1 - share) * batch[partner])


def test_mixup_shares_are_beta_distributed() -> None:
    """The larger of s and 1 - s of Beta(0.2, 0.2), whose variance around 1/2 is 1 / (4 * 1.4)."""
    batch, source = torch.zeros(2, 3, 1, 1), generator()

    shares = torch.tensor([mixup(batch, alpha=0.2, generator=source)[2] for _ in range(1_000)])

    assert 0.5 <= shares.min() <= shares.max() <= 1
    assert (shares - 0.5).square().mean().item() == pytest.approx(1 / 5.6, abs=0.02)


def test_without_mixup_pictures_stay_themselves() -> None:
    batch = torch.rand(4, 3, 2, 2)

    blended, _, share = mixup(batch, alpha=0, generator=generator())

    assert share == 1
    assert blended.equal(batch)


def test_learning_rate_falls_towards_the_picture_and_over_time() -> None:
    """Each stage has layer_decay times the rate of the next; all warm up together and end at 0."""
    config = PhotoConfig(sizes=(32,), epochs=(4,), warmup_epochs=1.0, layer_decay=0.5, learning_rate=0.8)
    network = PhotoNetwork(3, backbone=BACKBONE, pretrained=False)
    optimizer = build_optimizer(network, config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=4)

    rates = []
    for _ in range(17):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()

    stages = len(list(network.stages()))
    assert stages == 19
    assert rates[3] == pytest.approx([0.8 * 0.5 ** (18 - index // 2) for index in range(2 * stages)])
    assert [rate[-1] for rate in rates[:4]] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[10][-1] == pytest.approx(0.4)
    assert rates[16][-1] == pytest.approx(0)


def test_every_parameter_is_optimised_once_and_only_weights_decay() -> None:
    network = PhotoNetwork(3, backbone=BACKBONE, pretrained=False)

    groups = build_optimizer(network, PhotoConfig(weight_decay=0.02)).param_groups

    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in network.parameters())
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


@pytest.mark.parametrize("backbone", NUM_BLOCKS)
def test_every_backbone_has_its_weights_and_blocks(backbone: str) -> None:
    """Stem, blocks, last convolution and heads; the same weights every time, and not random ones."""
    torch.manual_seed(0)
    pictures = standardise(torch.rand(2, 3, 64, 64))
    network = PhotoNetwork(3, backbone=backbone).eval()
    features = network.backbone.extract_features(pictures)

    assert len(list(network.stages())) == 1 + NUM_BLOCKS[backbone] + 2
    assert features.shape[2:] == (2, 2)
    untrained = PhotoNetwork(3, backbone=backbone, pretrained=False)
    assert not network.backbone._conv_stem.weight.equal(untrained.backbone._conv_stem.weight)
    again = PhotoNetwork(3, backbone=backbone)
    assert network.backbone._conv_head.weight.equal(again.backbone._conv_head.weight)


@pytest.mark.parametrize("num_frozen", [0, 3])
def test_frozen_blocks_stay_as_they_were(num_frozen: int) -> None:
    """After a step, weights and BatchNorm statistics of stem and first blocks are unchanged, all others changed."""
    torch.manual_seed(0)
    network = PhotoNetwork(3, backbone=BACKBONE, pretrained=False)
    config = PhotoConfig()
    before = [[value.clone() for value in stage.state_dict().values()] for stage in network.stages()]

    network.train()
    network.freeze(num_frozen)
    logits, garment = network(torch.randn(4, 3, 64, 64))
    batch_loss(logits, garment, torch.tensor([0, 1, 2, NOT_A_GARMENT]), config).backward()
    build_optimizer(network, config).step()

    changed = [
        [not value.equal(old) for value, old in zip(stage.state_dict().values(), values, strict=True)]
        for stage, values in zip(network.stages(), before, strict=True)
    ]
    first = 1 + num_frozen if num_frozen else 0
    assert not any(any(stage) for stage in changed[:first])
    # Drop-connect may skip a block of all four pictures; its BatchNorm statistics move all the same.
    assert all(any(stage) for stage in changed[first:])


def test_network_memorises_a_batch(drawn: PhotoDataset) -> None:
    """Eight pictures, a few steps: classes and garment scores are right, each with more than 90 %."""
    torch.manual_seed(0)
    chosen = [*range(6), len(drawn.photos) - 1, len(drawn.photos) - 2]
    photos = drawn.photos.subset(chosen)
    config = PhotoConfig(sizes=(32,), epochs=(1,), label_smoothing=0.0, learning_rate=3e-3)
    network = PhotoNetwork(3, backbone=BACKBONE)
    optimizer = build_optimizer(network, config)
    inputs = standardise(torch.nn.functional.interpolate(photos.images.float() / 255, size=32, mode="area"))

    network.eval()  # no dropout, and statistics that a batch of eight does not give
    for _ in range(25):
        loss = batch_loss(*network(inputs), photos.targets, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    logits, garment_logits = network(inputs)
    assert photos.targets.tolist() == [0, 1, 2, 0, 1, 2, NOT_A_GARMENT, NOT_A_GARMENT]
    assert torch.softmax(logits[:6], 1).gather(1, photos.targets[:6, None]).min() > 0.9
    assert (garment_logits.sigmoid() > 0.5).tolist() == [True] * 6 + [False] * 2


@pytest.fixture(scope="session")
def straight(
    drawn: PhotoDataset, tiny_photo_config: PhotoConfig, tmp_path_factory: pytest.TempPathFactory
) -> PhotoFitResult:
    """Trained without interruption."""
    return fit_photos(drawn, tiny_photo_config, run_folder=tmp_path_factory.mktemp("straight"), device="cpu")


@pytest.fixture
def stopped_run(
    drawn: PhotoDataset, tiny_photo_config: PhotoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a run that was interrupted after its first epoch."""
    with monkeypatch.context() as context:
        context.setattr(fit_module, "FitProgress", StoppedAfterOneEpoch)
        with pytest.raises(KeyboardInterrupt):
            fit_photos(drawn, tiny_photo_config, run_folder=tmp_path / "run", device="cpu")
    return tmp_path / "run"


def figures(result: PhotoFitResult) -> list[dict[str, float]]:
    return [record.model_dump(exclude={"seconds"}) for record in result.history]


def test_resumed_run_equals_an_uninterrupted_one(
    straight: PhotoFitResult, stopped_run: Path, drawn: PhotoDataset, tiny_photo_config: PhotoConfig
) -> None:
    """Bit for bit: averaged weights, BatchNorm statistics and figures. Once finished, resuming changes nothing."""
    stopped = load_photo_run(stopped_run)

    resumed = fit_photos(drawn, tiny_photo_config, run_folder=stopped_run, resume=True, device="cpu")
    again = fit_photos(drawn, tiny_photo_config, run_folder=stopped_run, resume=True, device="cpu")

    assert figures(stopped) == figures(straight)[:1]
    assert figures(resumed) == figures(again) == figures(straight)
    expected = straight.network.state_dict()
    assert all(expected[name].equal(value) for name, value in resumed.network.state_dict().items())
    assert all(expected[name].equal(value) for name, value in again.network.state_dict().items())
    assert not all(expected[name].equal(value) for name, value in stopped.network.state_dict().items())


def test_resuming_another_run_is_refused(
    stopped_run: Path, drawn: PhotoDataset, tiny_photo_config: PhotoConfig
) -> None:
    """Another config, other data, other trust in labels; and a new run never overwrites an old one."""
    refused = [
        (drawn, replace(tiny_photo_config, learning_rate=0.01), "learning_rate was 0.001, is 0.01"),
        (replace(drawn, sha256="0" * 64), tiny_photo_config, "sha256 was"),
        (replace(drawn, num_excluded=5), tiny_photo_config, "num_excluded was 0, is 5"),
    ]

    for dataset, config, message in refused:
        with pytest.raises(ResumeError, match=message):
            fit_photos(dataset, config, run_folder=stopped_run, resume=True, device="cpu")
    with pytest.raises(ResumeError, match="Go on with --resume, or give another --run"):
        fit_photos(drawn, tiny_photo_config, run_folder=stopped_run, device="cpu")


def test_resuming_without_a_checkpoint_is_refused(
    drawn: PhotoDataset, tiny_photo_config: PhotoConfig, tmp_path: Path
) -> None:
    with pytest.raises(ResumeError, match="Start without --resume"):
        fit_photos(drawn, tiny_photo_config, run_folder=tmp_path, resume=True, device="cpu")


def test_run_tells_how_it_went(straight: PhotoFitResult, drawn: PhotoDataset, tiny_photo_config: PhotoConfig) -> None:
    """The last validation figure is that of the network in the result, over photos with one of the classes."""
    validation = drawn.photos.part("validation").with_class(3)

    logits, garment_logits = predict_photos(straight.network, validation, size_pixels=32, device="cpu")

    assert logits.shape == (len(validation), 4)  # three classes and an auxiliary one
    assert garment_logits.shape == (len(validation),)
    accuracy = (logits[:, :3].argmax(1) == validation.targets).double().mean().item()
    assert straight.history[-1].validation_accuracy == accuracy
    assert [record.epoch for record in straight.history] == [1, 2]
    assert straight.config == tiny_photo_config
    assert straight.label_map == drawn.label_map
    assert straight.device.startswith("cpu")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_part_without_photos_is_refused(
    part: str, drawn: PhotoDataset, tiny_photo_config: PhotoConfig, tmp_path: Path
) -> None:
    """Before anything is trained: the message says which part, and what would help."""
    photos = drawn.photos.subset(i for i, row in enumerate(drawn.photos.rows) if row.part != part)

    with pytest.raises(DatasetError, match=f"The {part} part has 0 photos with a class. It takes more photos"):
        fit_photos(replace(drawn, photos=photos), tiny_photo_config, run_folder=tmp_path / "run", device="cpu")

    assert not (tmp_path / "run").exists()


def test_unknown_class_would_not_be_mistaken_for_one() -> None:
    """It never reaches training; if it did, no class would learn from it."""
    _, classes, _ = losses([UNKNOWN, 0])

    assert not classes[0].any()
