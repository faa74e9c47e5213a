"""MLflow: the choices and the learning curve of a run, and the version that it was exported as (the extra `mlflow`).

Where to is said to MLflow itself: `MLFLOW_TRACKING_URI`, without it mlflow.db in the current folder, and
`MLFLOW_EXPERIMENT_NAME`.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.artifact import Artifact, EpochRecord
from training.config import ConfigError
from training.distributed import rank

RUN_ID_NAME = "mlflow-run-id"  # in the run's folder, so that --resume and export go on with the same run of MLflow
VERSION_FOLDER = "version"


def require_mlflow() -> None:
    """Before anything is written.

    Raises:
        ConfigError: MLflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("MLflow is not installed: pip install '.[mlflow]'.")


@contextmanager
def mlflow_run(
    run_folder: Path, *, wanted: bool, choices: Mapping[str, Any], command: str
) -> Iterator[Callable[[EpochRecord], None]]:
    """Give what logs an epoch: nothing, unless it is wanted or the run that is gone on with has been logged so far."""
    run_id = _run_id(run_folder)
    if rank() > 0 or (not wanted and run_id is None):
        yield lambda record: None
        return
    mlflow = importlib.import_module("mlflow")  # here, because it takes seconds
    with mlflow.start_run(run_id=run_id, run_name=None if run_id else run_folder.name) as run:
        if run_id is None:
            mlflow.log_params(dict(choices))
            mlflow.set_tag("command", command)
            run_folder.mkdir(parents=True, exist_ok=True)
            (run_folder / RUN_ID_NAME).write_text(f"{run.info.run_id}\n")
        yield lambda record: mlflow.log_metrics(record.model_dump(exclude={"epoch"}), step=record.epoch)


def log_version(run_folder: Path, artifact: Artifact) -> None:
    """Put the exported folder beside its run, and register it as the model's next version there, if it was logged."""
    run_id = _run_id(run_folder)
    if run_id is None:
        return
    mlflow, card = importlib.import_module("mlflow"), artifact.card
    with mlflow.start_run(run_id=run_id) as run:
        mlflow.log_artifacts(str(artifact.folder), artifact_path=VERSION_FOLDER)
        source = f"{run.info.artifact_uri}/{VERSION_FOLDER}"
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{card.name}'"):
        client.create_registered_model(card.name)
    tags = {"version": f"{card.name}/{card.version}", "sha256": artifact.digest}
    client.create_model_version(card.name, source, run_id, tags=tags, description=card.description)


def _run_id(run_folder: Path) -> str | None:
    path = run_folder / RUN_ID_NAME
    return path.read_text().strip() if path.exists() else None
