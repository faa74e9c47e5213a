import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.test_command_line import ENVIRONMENT, ON_SAMPLE
from training.config import FitConfig
from training.data import Splits, degraded
from training.fit import CHECKPOINT_NAME, fit, load_fit_result

# Neither dropout nor batch normalisation: what they do to a share is not what they do to the batch. The last batch is
# one of three pictures, so the shares are uneven.
CONFIG = FitConfig(
    network="mlp", hidden=(16,), dropout=(0,), epochs=3, batch_size=51, num_train=360, num_validation=500, l2=1e-3
)  # fmt: skip
ARGUMENTS = shlex.split(
    "--network mlp --hidden 16 --dropout 0 --epochs 3 --num-train 360 --num-validation 500 --l2 1e-3"
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", "--"]


def fit_in_two_processes(sample_sha256: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`torchrun ... -m training fit`, with the sample for the published files."""
    command = [*TORCHRUN, sys.executable, "-c", ON_SAMPLE, json.dumps(sample_sha256), "fit", *ARGUMENTS, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("num_done", [0, 1])
def test_two_processes_train_as_one_does(
    sample: Splits, sample_folder: Path, sample_sha256: dict[str, str], tmp_path: Path, num_done: int
) -> None:
    """The same weights and figures, from the start and resumed; one checkpoint, and each epoch is printed once."""
    few = degraded(sample, CONFIG)
    alone = fit(few, CONFIG, run_folder=tmp_path / "alone", device="cpu")
    resume = []
    if num_done:
        fit(few, CONFIG, run_folder=tmp_path / "shared", device="cpu", stop_after_epoch=num_done)
        resume = ["--resume"]

    done = fit_in_two_processes(
        sample_sha256, "--data", str(sample_folder), "--batch-size", "51", "--run", str(tmp_path / "shared"), *resume
    )

    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split("/")[0] for line in printed] == [f"epoch   {epoch}" for epoch in range(num_done + 1, 4)]
    assert [path.name for path in (tmp_path / "shared").iterdir()] == [CHECKPOINT_NAME]
    shared = load_fit_result(tmp_path / "shared")
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(shared.network.state_dict()[name], value, rtol=0, atol=1e-4)
    for ours, theirs in zip(shared.history, alone.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-4)
        assert ours.train_accuracy == pytest.approx(theirs.train_accuracy, abs=0.01)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, abs=1e-4)


def test_a_batch_smaller_than_the_processes_is_refused(
    sample_folder: Path, sample_sha256: dict[str, str], tmp_path: Path
) -> None:
    """The last batch too: 360 pictures are 359 and one."""
    done = fit_in_two_processes(
        sample_sha256, "--data", str(sample_folder), "--batch-size", "359", "--run", str(tmp_path / "run")
    )

    assert done.returncode == 1
    assert "Error: Of 360 pictures the smallest batch is of 1, and 2 processes need 2 to share" in done.stderr
    assert not (tmp_path / "run").exists()
