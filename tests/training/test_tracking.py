"""Runs in a store of MLflow on this machine, read back with its own client."""

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from training.__main__ import cli
from training.config import FitConfig
from training.data import Splits
from training.export import export
from training.fit import fit, load_fit_result
from training.tracking import RUN_ID_NAME, log_version


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # artefacts are in ./mlruns
    return pytest.importorskip("mlflow", reason="MLflow is not installed: pip install '.[mlflow]'")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own query
def test_a_run_that_was_stopped_and_its_version_are_one_run(
    sample: Splits, tiny_config: FitConfig, tmp_path: Path, mlflow: Any
) -> None:
    run_folder = tmp_path / "my-run"

    fit(sample, tiny_config, run_folder=run_folder, command="a test", mlflow=True, stop_after_epoch=1, device="cpu")
    fit(sample, tiny_config, run_folder=run_folder, command="a test", resume=True, stop_after_epoch=2, device="cpu")
    result = load_fit_result(run_folder)
    artifact = export(result, sample, models_folder=tmp_path / "models")
    log_version(run_folder, artifact)

    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.info.run_id == (run_folder / RUN_ID_NAME).read_text().strip()
    assert (run.info.run_name, run.info.status, run.data.tags["command"]) == ("my-run", "FINISHED", "a test")
    assert run.data.params == {name: str(value) for name, value in tiny_config.to_dict().items()}
    for name in ("train_loss", "validation_accuracy", "learning_rate", "seconds"):
        logged = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert logged == [(record.epoch, getattr(record, name)) for record in result.history]
    (version,) = client.search_model_versions("name = 'fashion-mnist'")
    assert (version.run_id, version.tags["sha256"]) == (run.info.run_id, artifact.digest)
    copy = Path(mlflow.artifacts.download_artifacts(version.source))
    assert {it.name: it.read_bytes() for it in copy.iterdir()} == {
        it.name: it.read_bytes() for it in artifact.folder.iterdir()
    }


def test_a_run_that_nobody_wants_to_track_is_not(
    sample: Splits, tiny_config: FitConfig, tmp_path: Path, mlflow: Any
) -> None:
    fit(sample, tiny_config, run_folder=tmp_path / "run", stop_after_epoch=1, device="cpu")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("command", [["fit"], ["photos", "train", "photos"]])
def test_without_mlflow_it_says_what_to_install(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed

    result = CliRunner().invoke(cli, [*command, "--mlflow", "--run", str(tmp_path / "run")])

    assert str(result.exception) == "MLflow is not installed: pip install '.[mlflow]'."
    assert not (tmp_path / "run").exists()
