"""What the README promises: its tables are the code's, its commands run, its output is what they print."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.api.examples import PREDICT_RESPONSE
from app.artifact import read_card
from app.metrics import Metrics
from app.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    rows = [
        f"| `WARDROBE_{name.upper()}` | `{field.default}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def metrics_table() -> str:
    rows = []
    for metric in Metrics().registry.collect():
        suffix = "_total" if metric.type == "counter" else ""
        rows.append(f"| `{metric.name}{suffix}` | {metric.type} | {metric.documentation} |")
    return "\n".join(["| metric | type | meaning |", "|---|---|---|", *rows])


def console_blocks() -> list[tuple[str, str]]:
    """Command and printed output of each ```console block that shows an answer of the service."""
    blocks = re.findall(r"```console\n\$ (curl .*?)\n```", README, flags=re.DOTALL)
    return [tuple(block.split("\n", 1)) for block in blocks]


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
    card = read_card(ROOT / "models" / "fashion-mnist" / "1")

    test = card.metrics["test"]

    low, high = test.accuracy_interval
    assert f"{test.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, n = 10,000)" in README
    assert f"| expected calibration error, test | {test.calibration_error:.4f} " in README
    assert f"| parameters | {card.training.num_parameters:,} |" in README
    assert card.training.command in README


@pytest.mark.parametrize(("command", "printed"), console_blocks())
def test_an_example_request_prints_what_the_readme_shows(command: str, printed: str, service_url: str) -> None:
    command = command.replace("http://127.0.0.1:8000", service_url)

    answer = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert rounded(json.loads(answer)) == rounded(json.loads(printed))


def test_the_readme_shows_example_requests() -> None:
    assert len(console_blocks()) == 2


def test_the_example_in_the_api_description_is_the_answer_in_the_readme() -> None:
    _, printed = console_blocks()[1]

    assert rounded(PREDICT_RESPONSE) == rounded(json.loads(printed))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^\$ make ([a-z-]+)", README, flags=re.MULTILINE))))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


if __name__ == "__main__":
    print(settings_table(), metrics_table(), sep="\n\n")
