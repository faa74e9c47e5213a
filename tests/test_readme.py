"""What the README promises: its tables are the code's, its commands run, its output is what they print."""

import base64
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Generator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from PIL import Image

from app.api.examples import PREDICT_RESPONSE
from app.artifact import Artifact, Card, Metrics, RefusalMetrics, read_card
from app.cli.commands import cli
from app.metrics import Metrics as ServiceMetrics
from app.settings import Settings
from tests.process import serving, small_service
from training.__main__ import cli as training_cli
from training.config import ConfigError, FitConfig
from training.photos.labels import DEFAULT_LABELS, LabelMap, read_label_map
from training.photos.relabel import relabelling

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WARDROBE, FASHION_MNIST = ROOT / "models" / "wardrobe" / "4", ROOT / "models" / "fashion-mnist" / "1"


def settings_table() -> str:
    rows = [
        f"| `WARDROBE_{name.upper()}` | `{field.get_default(call_default_factory=True)}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def metrics_table() -> str:
    rows = []
    for metric in ServiceMetrics().registry.collect():
        suffix = "_total" if metric.type == "counter" else ""
        rows.append(f"| `{metric.name}{suffix}` | {metric.type} | {metric.documentation} |")
    return "\n".join(["| metric | type | meaning |", "|---|---|---|", *rows])


def wardrobe_table() -> str:
    """The photo model's figures, each from its card."""
    card = read_card(WARDROBE)
    test, thresholds = card.metrics["test"], card.thresholds
    assert test.grouped is not None
    assert test.prediction_sets is not None
    assert thresholds.prediction_set is not None

    def spread(interval: tuple[float, float]) -> str:
        return f"{interval[0]:.1%} to {interval[1]:.1%}"

    refused = "; ".join(f"{row.pictures} {row.refused:.1%} of {row.num_images}" for row in others_refused(card))
    garments = [row for row in card.refusals if row.is_garment]
    photos = next(row for row in garments if row.pictures == "photos with one of the classes")
    styles = ", ".join(
        f"{row.pictures.removeprefix('other-style/')} {row.refused:.1%} of {row.num_images}"
        for row in garments
        if row.pictures.startswith("other-style/")
    )
    sets = test.prediction_sets
    rows = {
        "test accuracy, ten classes": f"{test.accuracy:.1%} of {test.num_images} photos of {test.grouped.num_groups} "
        f"senders (95 % interval over senders {spread(test.grouped.accuracy_interval)})",
        "macro recall": f"{test.grouped.macro_recall:.1%} ({spread(test.grouped.macro_recall_interval)})",
        "expected calibration error": f"{test.calibration_error:.3f} ({test.calibration_error_uncalibrated:.3f} before "
        "temperature scaling)",
        f"{sets.level:.0%} prediction sets": f"the true class is in {sets.coverage:.1%} of them "
        f"({spread(sets.coverage_interval)}), mean size {sets.mean_size:.2f}",
        **{
            f"decision `{name.removeprefix('decision: ')}`": decision_figures(test, name)
            for name in test.slices
            if name.startswith("decision: ")
        },
        "called no garment: things that are none": refused,
        "called no garment: garments": f"test photos {photos.refused:.1%} of {photos.num_images}; "
        f"other styles: {styles}",
        "parameters; files": f"{card.training.num_parameters / 1e6:.2f} million; {file_sizes()}",
        "training": f"{card.training.seconds / 60:.0f} minutes, {card.training.device}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def robustness_table(folder: Path) -> str:
    robustness = read_card(folder).robustness
    assert robustness is not None
    refused = robustness.refused  # empty for a model that refuses none, and in cards older than the field
    lines = (
        ["| form | accuracy | called no garment |", "|---|---|---|"]
        if refused
        else ["| form | accuracy |", "|---|---|"]
    )
    for form, accuracy in robustness.accuracy.items():
        lines.append(f"| {form} | {accuracy:.1%} |" + (f" {refused[form]:.1%} |" if refused else ""))
    return "\n".join(lines)


def others_refused(card: Card) -> list[RefusalMetrics]:
    return [row for row in card.refusals if not row.is_garment]


def decision_figures(metrics: Metrics, name: str) -> str:
    figures = metrics.slices[name]
    share = figures.num_images / metrics.num_images
    return f"{share:.1%} of the photos; the label is right for {figures.accuracy:.1%} of them"


def file_sizes() -> str:
    return ", ".join(f"{name} {(WARDROBE / name).stat().st_size / 1e6:.1f} MB" for name in ("model.pt", "model.onnx"))


def console_blocks() -> list[tuple[str, str]]:
    """Command and printed output of each ```console block that shows an answer of the service."""
    blocks = re.findall(r"```console\n\$ (curl .*?)\n```", README, flags=re.DOTALL)
    return [tuple(block.split("\n", 1)) for block in blocks]


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def rounded(value: Any) -> Any:
    """JSON with floats to three digits: another CPU sums in another order."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if key != "instance"}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def test_the_settings_table_is_that_of_the_code() -> None:
    assert settings_table() in README


def test_the_metrics_table_is_that_of_the_code() -> None:
    assert metrics_table() in README


def test_the_results_table_is_that_of_the_card() -> None:
    """Every figure of the shipped model stands in its card."""
    card = read_card(FASHION_MNIST)

    test = card.metrics["test"]

    low, high = test.accuracy_interval
    assert f"{test.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, n = 10,000)" in README
    assert f"| expected calibration error, test | {test.calibration_error:.4f} " in README
    assert f"| parameters | {card.training.num_parameters:,} |" in README
    assert card.training.command in README


def test_the_photo_models_table_is_that_of_the_card() -> None:
    assert wardrobe_table() in README


@pytest.mark.parametrize("folder", [WARDROBE, FASHION_MNIST], ids=["wardrobe", "fashion-mnist"])
def test_the_table_of_forms_is_that_of_the_card(folder: Path) -> None:
    assert robustness_table(folder) in README


def test_the_label_maps_to_start_from_are_some() -> None:
    """One for training, and one that merges two classes of the shipped model."""
    written, changes = (
        LabelMap.from_dict(tomllib.loads(block)) for block in re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    )

    change = relabelling(read_label_map(DEFAULT_LABELS), changes)

    assert written.target("stockings") == written.target("socks") == 1
    assert change.classes["top"] == "tops"
    assert change.label_map.target("T-Shirt") == change.label_map.target("shirt") == 5


@pytest.fixture(scope="module")
def torchscript_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """With the engine whose digits the README shows: which one is faster depends on the machine."""
    with serving(tmp_path_factory.mktemp("readme") / "log", ENGINE="torchscript") as (_, client):
        yield str(client.base_url).rstrip("/")


@pytest.mark.parametrize(("command", "printed"), console_blocks())
def test_an_example_request_prints_what_the_readme_shows(command: str, printed: str, torchscript_url: str) -> None:
    command = command.replace("http://127.0.0.1:8000", torchscript_url)

    answer = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert rounded(json.loads(answer)) == rounded(json.loads(printed))


def test_the_shipped_model_shows_where_it_looks(torchscript_url: str) -> None:
    picture = (ROOT / "tests" / "data" / "sunset.png").read_bytes()

    answer = httpx.post(f"{torchscript_url}/predict", params={"explain": True, "explain_label": "hat"}, content=picture)

    explanation = answer.json()["predictions"][0]["explanation"]
    assert (explanation["label"], explanation["reason"]) == ("hat", None)
    assert Image.open(io.BytesIO(base64.b64decode(explanation["png_base64"]))).mode == "RGBA"


def test_the_readme_shows_example_requests() -> None:
    assert len(console_blocks()) == 3


def test_the_example_in_the_api_description_is_the_answer_in_the_readme() -> None:
    _, printed = console_blocks()[2]

    assert rounded(PREDICT_RESPONSE) == rounded(json.loads(printed))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^\$ make ([a-z-]+)", README, flags=re.MULTILINE))))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


def test_every_wardrobe_command_of_the_readme_is_understood() -> None:
    """Parsed with all its options; nothing is run."""
    commands = [shlex.split(line) for line in re.findall(r"^\$ wardrobe (.+)$", README, flags=re.MULTILINE)]
    group = typer.main.get_command(cli)

    assert len(commands) == 7
    for name, *arguments in commands:
        existing = [str(ROOT) if word.startswith("~") else word for word in arguments]
        group.commands[name].make_context(name, existing)


def test_the_readmes_python_prints_what_the_service_says(service_url: str) -> None:
    code = next(code for code in python_blocks() if "app.client" in code)
    code = code.replace("http://127.0.0.1:8000", service_url)

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "bag.png Bag sorted\nankle-boot.png Ankle boot sorted\n"


def test_the_readmes_python_keeps_corrects_and_exports_items(artifact: Artifact, tmp_path: Path) -> None:
    settings = {"STORAGE": "on", "DATA_DIR": str(tmp_path / "data")}
    with small_service(artifact, tmp_path / "log", **settings) as (_, client):
        (code,) = [code for code in python_blocks() if "client.export(" in code]
        code = code.replace("http://127.0.0.1:8000", str(client.base_url))
        code = "from app.client import WardrobeClient\n" + code.replace("wardrobe.zip", f"{tmp_path}/wardrobe.zip")

        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        bags = client.get("/items?drawer=bags").json()["items"]

    assert [item["label"] for item in bags] == ["handbag"]
    assert bags[0]["id"] in " ".join(zipfile.ZipFile(tmp_path / "wardrobe.zip").namelist())


if __name__ == "__main__":
    tables = settings_table(), metrics_table(), wardrobe_table(), robustness_table(WARDROBE)
    print(*tables, sep="\n\n")


LAB_ROWS = [
    (row[1], row[2])
    for line in README.split("| topic | option | file |")[1].split("\n\n")[0].splitlines()
    if len(row := line.strip("|").split("|")) == 3 and "---" not in line
]


def test_the_index_of_the_lab_names_every_option_and_what_is_there() -> None:
    """All fields of FitConfig, no option that is none, and files and functions that exist."""
    options = {f"--{field.name.replace('_', '-')}" for field in fields(FitConfig)}

    assert {word for cell, _ in LAB_ROWS for word in re.findall(r"`(--[a-z0-9-]+)`", cell)} == options
    for _, cell in LAB_ROWS:
        for name, function in re.findall(r"`(training/[a-z_/]+\.py)`(?: \((\w+)\))?", cell):
            assert f"def {function}" in (ROOT / name).read_text() or not function


def test_a_combination_is_refused_as_the_readme_shows() -> None:
    with pytest.raises(ConfigError) as caught:
        FitConfig(network="perceptron")

    assert f"\nError: {caught.value}\n" in README


@pytest.mark.parametrize(
    "command", re.findall(r"^\$ \.venv/bin/python -m training ((?!photos).+)$", README, flags=re.MULTILINE)
)
def test_every_training_command_of_the_readme_is_understood(command: str) -> None:
    """Parsed with all its options; nothing is run."""
    name, *arguments = shlex.split(command)

    typer.main.get_command(training_cli).commands[name].make_context(name, arguments)
