import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from training.config import ConfigError, FitConfig
from training.data import Splits
from training.fit import (
    CHECKPOINT_NAME,
    FitResult,
    ResumeError,
    best_epoch,
    build_network,
    fit,
    is_finished,
    load_fit_result,
    moving_average,
    normalization,
    normalize,
    predict,
)
from training.optimisation import build_optimizer, build_scheduler


@pytest.fixture
def run(sample: Splits, tmp_path: Path) -> Callable[..., FitResult]:
    """`fit` on the sample, in the test's own run folder."""
    return lambda config, **options: fit(sample, config, run_folder=tmp_path, device="cpu", **options)


def same_weights(first: FitResult, second: FitResult) -> bool:
    """Bit for bit, BatchNorm statistics included."""
    states = first.network.state_dict(), second.network.state_dict()
    return all(states[0][name].equal(states[1][name]) for name in states[0])


def test_resumed_run_equals_an_uninterrupted_one(
    run: Callable[..., FitResult], tiny_config: FitConfig, tiny_result: FitResult
) -> None:
    """Stopped after its first epoch and resumed, a run ends with the same averaged weights and figures."""
    stopped = run(tiny_config, stop_after_epoch=1)

    resumed = run(tiny_config, resume=True)

    assert len(stopped.history) == 1
    assert not same_weights(stopped, resumed)
    assert same_weights(resumed, tiny_result)
    figures = [record.model_dump(exclude={"seconds"}) for record in resumed.history]
    assert figures == [record.model_dump(exclude={"seconds"}) for record in tiny_result.history]


def test_seed_decides_the_weights(sample: Splits, tiny_config: FitConfig, tmp_path: Path) -> None:
    """The same seed gives the same weights, another seed others."""

    def weights(name: str, seed: int) -> FitResult:
        return fit(sample, replace(tiny_config, epochs=1, seed=seed), run_folder=tmp_path / name, device="cpu")

    first = weights("first", 1)
    assert same_weights(first, weights("again", 1))
    assert not same_weights(first, weights("other", 2))


def test_checkpoint_is_never_overwritten_by_a_new_run(
    run: Callable[..., FitResult], tiny_config: FitConfig, tmp_path: Path
) -> None:
    """Forgetting --resume must not cost the hours behind a checkpoint."""
    run(tiny_config, stop_after_epoch=1)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()

    with pytest.raises(ResumeError, match="Go on with --resume, or give another --run"):
        run(tiny_config)

    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(run: Callable[..., FitResult], tiny_config: FitConfig) -> None:
    short = replace(tiny_config, epochs=1)
    finished = run(short)

    again = run(short, resume=True)

    assert same_weights(again, finished)
    assert again.history == finished.history


def test_result_describes_what_was_trained(tiny_result: FitResult, tiny_config: FitConfig, sample: Splits) -> None:
    """The last epoch's validation accuracy is that of the network in the result; it has learned most of the sample."""
    last = tiny_result.history[-1]

    logits = predict(tiny_result.network, sample.validation, mean=tiny_result.mean, std=tiny_result.std, device="cpu")

    assert [record.epoch for record in tiny_result.history] == list(range(1, tiny_config.epochs + 1))
    assert (logits.argmax(1) == sample.validation.labels).double().mean().item() == last.validation_accuracy
    assert last.validation_accuracy > 0.5  # chance is 0.1
    assert tiny_result.config == tiny_config
    pixels = sample.train.images.double() / 255
    assert tiny_result.mean == pytest.approx(pixels.mean().item())
    assert tiny_result.std == pytest.approx(pixels.std().item())


def test_resuming_with_another_config_is_refused(run: Callable[..., FitResult], tiny_config: FitConfig) -> None:
    """The message names what changed, from what to what, and nothing else."""
    run(tiny_config, stop_after_epoch=1)

    with pytest.raises(ResumeError, match="of another run") as caught:
        run(replace(tiny_config, batch_size=16, learning_rate=0.01), resume=True)

    assert "batch_size was 32, is 16; learning_rate was 0.1, is 0.01." in str(caught.value)


def test_resuming_on_other_data_is_refused(
    run: Callable[..., FitResult], sample: Splits, tiny_config: FitConfig, tmp_path: Path
) -> None:
    run(tiny_config, stop_after_epoch=1)
    fewer = replace(sample, train=sample.train.subset(torch.arange(100)))

    with pytest.raises(ResumeError, match="num_train was 1500, is 100"):
        fit(fewer, tiny_config, run_folder=tmp_path, device="cpu", resume=True)


def test_resuming_without_a_checkpoint_is_refused(run: Callable[..., FitResult], tiny_config: FitConfig) -> None:
    with pytest.raises(ResumeError, match=rf"no checkpoint at .*{CHECKPOINT_NAME}\. Start without --resume"):
        run(tiny_config, resume=True)


@pytest.mark.parametrize("damage", ["empty", "cut short", "not a checkpoint", "byte changed"])
def test_damaged_checkpoint_is_refused(
    run: Callable[..., FitResult], tiny_config: FitConfig, tmp_path: Path, damage: str
) -> None:
    """The message names the file and says what to do."""
    run(replace(tiny_config, epochs=1))
    path = tmp_path / CHECKPOINT_NAME
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    match damage:
        case "empty":
            content.clear()
        case "cut short":
            content = content[:middle]
        case "not a checkpoint":
            content[:] = b"hello" * 100
        case _:
            content[middle] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(ResumeError, match=rf"checkpoint at .*{CHECKPOINT_NAME} is damaged\. Delete it"):
        load_fit_result(tmp_path)


def test_learning_rate_warms_up_and_comes_down() -> None:
    """Linear to the peak, then half a cosine to 0: the peak at the end of the warm-up, half of it midway down."""
    config = FitConfig(epochs=10, warmup_epochs=2, learning_rate=0.4)
    optimizer = build_optimizer(build_network(config), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=10)

    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    assert rates[:20] == pytest.approx([0.4 * step / 20 for step in range(1, 21)])
    assert rates[20] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[100] == pytest.approx(0)
    assert all(math.isfinite(rate) for rate in rates)


def test_moving_average_decays_at_the_stated_rate() -> None:
    """Early steps weigh (1 + n) / (10 + n), later ones `decay`; integers are left alone."""
    average = moving_average(0.9)
    mean, count = torch.tensor([1.0]), torch.tensor(5)

    average([mean, count], [torch.tensor([0.0]), torch.tensor(6)], torch.tensor(1))
    after_one = mean.item()
    average([mean, count], [torch.tensor([0.0]), torch.tensor(7)], torch.tensor(10_000))

    assert after_one == pytest.approx(2 / 11)
    assert mean.item() == pytest.approx(2 / 11 * 0.9)
    assert count.item() == 5


def test_a_resumed_run_drops_and_mixes_the_same(sample: Splits, tmp_path: Path) -> None:
    """What is random in an epoch follows from its number."""
    config = FitConfig(network="mlp", hidden=(16,), dropout=(0.3,), mix="mixup", epochs=2, batch_size=64)

    def trained(name: str, **options: Any) -> FitResult:
        return fit(sample, config, run_folder=tmp_path / name, device="cpu", **options)

    trained("stopped", stop_after_epoch=1)
    assert same_weights(trained("stopped", resume=True), trained("straight"))


def test_early_stopping_takes_the_best_epoch(sample: Splits, tmp_path: Path) -> None:
    """Far too high a rate: the loss soon grows. The best epoch's weights are there, and nothing is left to do."""
    config = FitConfig(
        network="mlp", hidden=(64,), epochs=50, batch_size=32, learning_rate=0.02, schedule="constant", ema_decay=0,
        label_smoothing=0, weight_decay=0, max_shift_pixels=0, flip=False, erase_probability=0, patience=2,
    )  # fmt: skip
    fewer = replace(sample, train=sample.train.subset(torch.arange(200)))

    result = fit(fewer, config, run_folder=tmp_path, device="cpu")
    again = fit(fewer, config, run_folder=tmp_path, device="cpu", resume=True)

    best = best_epoch(result.history)
    logits = predict(result.network, sample.validation, mean=result.mean, std=result.std, device="cpu")
    loss = torch.nn.functional.cross_entropy(logits, sample.validation.labels).item()
    assert len(result.history) == best + 2 < 50
    assert loss == pytest.approx(result.history[best - 1].validation_loss, rel=1e-5)
    assert is_finished(result)
    assert again.history == result.history


def test_a_last_batch_of_one_picture_is_refused(run: Callable[..., FitResult], tiny_config: FitConfig) -> None:
    with pytest.raises(ConfigError, match="Of 1500 pictures the last would be a batch of its own"):
        run(replace(tiny_config, batch_size=1499))


@pytest.mark.parametrize(
    ("scaling", "black", "white"), [("zero-to-one", 0, 1), ("minus-one-to-one", -1, 1), ("none", 0, 255)]
)
def test_pixels_are_scaled_as_asked(
    sample: Splits, scaling: Literal["zero-to-one", "minus-one-to-one", "none"], black: float, white: float
) -> None:
    mean, std = normalization(sample.train, scaling)

    scaled = normalize(torch.tensor([[[0, 255]]], dtype=torch.uint8), mean=mean, std=std)

    assert scaled.flatten().tolist() == pytest.approx([black, white])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_both_optimizers_learn(run: Callable[..., FitResult], tiny_config: FitConfig, optimizer: str) -> None:
    rate = {"sgd": 0.1, "adamw": 0.01}[optimizer]
    config = replace(tiny_config, optimizer=optimizer, learning_rate=rate, epochs=2)

    history = run(config).history

    assert history[1].train_loss < history[0].train_loss


def test_tensorboard_shows_each_epoch_of_a_resumed_run_once(
    sample: Splits, tiny_config: FitConfig, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, logs = replace(tiny_config, epochs=3), tmp_path / "logs"
    small = replace(sample, train=sample.train.subset(torch.arange(64)))
    fit(small, config, run_folder=tmp_path / "run", device="cpu", stop_after_epoch=2, tensorboard=logs)
    result = fit(small, config, run_folder=tmp_path / "run", device="cpu", resume=True, tensorboard=logs)

    events = accumulator.EventAccumulator(str(logs)).Reload()

    names = {"loss/train", "loss/validation", "accuracy/train", "accuracy/validation", "learning rate"}
    assert set(events.Tags()["scalars"]) == names
    drawn = [(event.step, event.value) for event in events.Scalars("accuracy/validation")]
    assert drawn == [(record.epoch, pytest.approx(record.validation_accuracy)) for record in result.history]


def test_without_tensorboard_its_option_says_what_to_install(
    run: Callable[..., FitResult], tiny_config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    with pytest.raises(ConfigError, match="pip install tensorboard"):
        run(tiny_config, tensorboard=tmp_path / "logs")
