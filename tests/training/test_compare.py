import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.compare import LADDERS, Definition, configs_of, read_definition
from training.config import ConfigError
from training.data import Splits
from training.run_comparison import Comparison, RunResult, paired, summarise

REPOSITORY = Path(__file__).parents[2]
TINY = """
seeds = 2
[base]
network = "mlp"
hidden = [8]
epochs = 2
num_train = 200
num_validation = 200
[grid]
activation = ["relu", "tanh"]
"""


def result(row: str, seed: int, right: str, **values: Any) -> RunResult:
    accuracy = right.count("1") / len(right)
    return RunResult(
        **{"row": row, "seed": seed, "part": "validation", "config": {}, "accuracy": accuracy, "num_parameters": 1},
        **{"seconds": 1.0, "device": "cpu", "right": right, **values},
    )


def test_a_killed_comparison_goes_on_where_it_was(published: Splits, tmp_path: Path) -> None:
    """In processes of their own on the real data: what was finished is not made again, and all of it is summed up."""
    definition = tmp_path / "tiny.toml"
    definition.write_text(TINY)
    command = [sys.executable, "-m", "training", "compare", str(definition), "--out", "out", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if "seed 0" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    assert 1 <= len(finished) <= 4
    assert f"{len(finished)} of 4 runs are there" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    comparison = Comparison.model_validate_json((tmp_path / "out" / "comparison.json").read_text())
    assert [(row.row, len(row.accuracies)) for row in comparison.rows] == [
        ("activation relu", 2),
        ("activation tanh", 2),
    ]
    assert comparison.num_images == 200
    assert f"| activation relu | {100 * comparison.rows[0].mean:.2f} ± " in done.stdout
    assert (tmp_path / "out" / "comparison.csv").read_text().count("\n") == 3
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    runs = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("result.json")]
    assert {run["config"]["split_seed"] for run in runs} == {0}

    definition.write_text(TINY.replace("epochs = 2", "epochs = 3"))
    other = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert other.returncode == 1
    assert "is of another config: epochs was 2, is 3. Delete its folder, or give another --out." in other.stderr


@pytest.mark.parametrize("path", sorted(LADDERS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_ladder_is_a_comparison_and_says_how_it_is_made(path: Path) -> None:
    definition, name = read_definition(path.stem)

    assert len(configs_of(definition)) >= 5
    assert f"python -m training compare {name}" in path.read_text().split("\n\n")[0]


def test_rows_take_the_preset_then_the_base_then_their_own() -> None:
    definition = Definition(
        base={"preset": "mlp", "epochs": 3},
        rows=[{"name": "one", "epochs": 5}, {"name": "two", "preset": "softmax"}],
        grid={"hidden": [[8], [8, 4]], "activation": ["relu"]},
    )

    configs = configs_of(definition)

    assert list(configs) == ["one", "two", "hidden [8], activation relu", "hidden [8, 4], activation relu"]
    assert [config.epochs for config in configs.values()] == [5, 3, 3, 3]
    assert (configs["one"].hidden, configs["two"].network) == ((75, 50, 25), "softmax")
    assert configs["hidden [8, 4], activation relu"].hidden == (8, 4)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "There is no row to compare"),
        ({"rows": [{"epochs": 1}]}, "Each row needs a name of its own"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "Each row needs a name of its own"),
        (
            {"rows": [{"name": "a", "network": "perceptron"}]},
            "Row a: The network perceptron with the loss cross-entropy",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        configs_of(Definition(**values))


def test_one_seed_is_mcnemars_test() -> None:
    """25 pictures that only the first gets right, 9 that only the second does: z = (25 - 9) / sqrt(34) = 2.744."""
    first, second = result("a", 0, "1" * 25 + "0" * 9 + "1" * 66), result("b", 0, "0" * 25 + "1" * 9 + "1" * 66)

    against = paired([first], [second])

    assert against.difference == pytest.approx(0.16)
    assert against.interval is None
    assert against.p_value == pytest.approx(0.00607, abs=1e-5)  # 2 (1 - Phi(2.744))


def test_seeds_give_a_paired_interval() -> None:
    """Differences of 0.1, 0.2 and 0.3: mean 0.2, standard error 0.1 / sqrt(3), t of 2 degrees of freedom 4.303."""
    first = [result("a", seed, "1" * right + "0" * (10 - right)) for seed, right in enumerate((6, 7, 8))]
    second = [result("b", seed, "1" * 5 + "0" * 5) for seed in range(3)]

    rows = summarise([*second, *first], against="b")

    assert [row.row for row in rows] == ["b", "a"]
    assert (rows[1].mean, rows[1].spread) == (pytest.approx(0.7), pytest.approx(0.1))
    against = rows[1].against
    assert against is not None
    assert against.interval == pytest.approx((0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5), abs=1e-4)


def test_two_equal_rows_do_not_differ() -> None:
    same = [result(row, seed, "1101") for row in "ab" for seed in range(2)]

    against = summarise(same, against="a")[1].against

    assert against is not None
    assert (against.difference, against.interval, against.p_value) == (0, (0, 0), 1)


def test_an_unknown_comparison_says_which_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"no comparison stat454\. Give a TOML file, or one of: architectures, caffenet"
    ):
        read_definition("stat454")
