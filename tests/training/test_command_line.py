import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from app.engines import load_artifact
from training.__main__ import cli, main
from training.config import FitConfig
from training.data import Splits
from training.fit import fit, load_fit_result

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}

# `python -m training` in a process that takes the sample for the published files.
ON_SAMPLE = """
import json, runpy, sys
import training.data
training.data.FASHION_MNIST_SHA256 = json.loads(sys.argv.pop(1))
runpy.run_module("training", run_name="__main__", alter_sys=True)
"""
TINY = ["--widths", "8,16", "--blocks", "0,1", "--batch-size", "64", "--num-validation", "100"]


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(cli, ["--help"], env=ENVIRONMENT)

    assert result.exit_code == 0
    assert all(re.search(rf"\b{command}\b", result.output) for command in ("fit", "export", "evaluate"))


def test_an_unfinished_run_is_not_exported(sample: Splits, tiny_config: FitConfig, tmp_path: Path) -> None:
    fit(sample, tiny_config, run_folder=tmp_path / "run", device="cpu", stop_after_epoch=1)

    result = CliRunner().invoke(cli, ["export", "--run", str(tmp_path / "run"), "--models", str(tmp_path / "models")])

    assert "1 of 4 epochs" in str(result.exception)
    assert not (tmp_path / "models").exists()


def test_fit_help_lists_every_option_with_its_default() -> None:
    """Every choice in FitConfig is an option and shows its default; units stand in the text."""
    result = CliRunner().invoke(cli, ["fit", "--help"], env=ENVIRONMENT, terminal_width=200)
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())

    assert result.exit_code == 0
    options = re.findall(r"--[a-z0-9-]+", words)
    for field in dataclasses.fields(FitConfig):
        option = f"--{field.name.replace('_', '-')}"
        assert option in options
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
        text = words[words.index(f"{option} ") :].split(" --")[0]
        if field.default is not None and not isinstance(field.default, bool):
            assert f"[default: {default}]" in text, text
    for phrase in ("in pixels; 0 for none", "0 to 1", "Passes over the training pictures", "$FASHION_MNIST_DIR"):
        assert phrase in words


def test_wrong_data_folder_is_one_line(tmp_path: Path) -> None:
    """`python -m training` as a user has it: exit status 1 and `Error: ...`, no traceback."""
    process = subprocess.run(
        [sys.executable, "-m", "training", "fit", "--data", "nowhere"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 1
    assert process.stderr.startswith("Error: Neither nowhere/train-images-idx3-ubyte nor")
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--run", "nowhere"], "There is no checkpoint at nowhere/checkpoint.pt"),
        (["fit", "--widths", "8,wide"], "widths: Input should be a valid integer"),
        (["fit", "--widths", "8"], "1 widths and 3 blocks"),
        (["fit", "--epochs", "0"], "epochs: Input should be greater than or equal to 1, not 0"),
        (["fit", "--erase-probability", "1.5"], "erase_probability: Input should be less than or equal to 1"),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", *arguments])

    with pytest.raises(SystemExit) as caught:
        main()

    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.startswith(f"Error: {message}")
    assert error.count("\n") == 1


def test_interrupted_fit_can_be_resumed(tmp_path: Path, sample_folder: Path, sample_sha256: dict[str, str]) -> None:
    """Ctrl-C after the first epoch: exit status 130, a checkpoint, and a hint that works as printed."""
    on_sample = [sys.executable, "-c", ON_SAMPLE, json.dumps(sample_sha256)]
    arguments = ["fit", "--run", "run", "--data", str(sample_folder), *TINY, "--epochs", "20"]
    process = subprocess.Popen(
        [*on_sample, *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if line.startswith("epoch   1/"):
                break
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()

    assert process.returncode == 130, output
    assert "Traceback" not in output
    num_done = len(load_fit_result(tmp_path / "run").history)
    assert 1 <= num_done < 20
    hint = re.search(
        r"run/checkpoint\.pt holds what the finished epochs gave; go on with: \S+ -m training (.*)", output
    )
    assert hint
    assert "--resume" in hint[1]
    subprocess.run([*on_sample, *shlex.split(hint[1])], cwd=tmp_path, env=ENVIRONMENT, check=True)
    assert len(load_fit_result(tmp_path / "run").history) == 20


def test_fit_export_and_evaluate(
    tmp_path: Path, sample_folder: Path, sample_is_published: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three commands in a row; evaluating again finds the same and says so."""
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(sample_folder)]

    def invoke(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["training", *arguments])
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    outputs = [
        invoke("fit", *data, *TINY, "--epochs", "1"),
        invoke("fit", *data, *TINY, "--epochs", "1", "--resume"),
        invoke("export", *data, "--safetensors"),
        invoke("evaluate", "models/fashion-mnist/1", *data),
        invoke("evaluate", "models/fashion-mnist/1", *data),
    ]

    card = load_artifact(Path("models/fashion-mnist/1")).card
    assert "1900 training, 100 validation, 500 test pictures" in outputs[0]
    assert "epoch   1/1" in outputs[0]
    assert "epoch   1/1" not in outputs[1]  # nothing left to do
    assert f"validation accuracy {card.metrics['validation'].accuracy:.2%}" in outputs[2]
    assert f"test accuracy {card.metrics['test'].accuracy:.2%} (n = 500" in outputs[3]
    assert "Written into models/fashion-mnist/1" in outputs[3]
    assert "says the same" in outputs[4]
    assert card.training.command == shlex.join(["python", "-m", "training", "fit", *data, *TINY, "--epochs", "1"])
    weights = load_file("models/fashion-mnist/1/model.safetensors")
    expected = load_fit_result(Path("runs/fashion-mnist")).network.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert sorted(card.sha256) == ["model.onnx", "model.pt", "model.safetensors"]  # compared whenever it is loaded


def test_the_command_line_goes_over_the_preset(tmp_path: Path, sample_folder: Path, sample_is_published: None) -> None:
    """And the preset over the defaults; the run knows all of it."""
    preset = tmp_path / "mine.toml"
    preset.write_text('network = "mlp"\nhidden = [9, 5]\nepochs = 7\nnum_train = 100\nnum_validation = 100\n')
    arguments = ["fit", "--preset", str(preset), "--epochs", "1", "--no-flip", "--dropout", "0.1,0.2"]

    result = CliRunner().invoke(cli, [*arguments, "--run", str(tmp_path / "run"), "--data", str(sample_folder)])

    assert result.exit_code == 0, result.output
    assert load_fit_result(tmp_path / "run").config == FitConfig(
        network="mlp", hidden=(9, 5), dropout=(0.1, 0.2), epochs=1, num_train=100, num_validation=100, flip=False
    )
