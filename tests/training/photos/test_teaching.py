"""The whole circle: a wrong label, its correction, a new version, a comparison, and a running service that knows."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx

from app.artifact import read_card
from tests.process import REPOSITORY, START_TIMEOUT_SECONDS, serving
from tests.tiny_wardrobe import plain
from tests.training.photos.conftest import Trained
from training.comparison import read_comparison
from training.photos.corrections import is_held_out

# Nothing that the model has seen looks like these: it has some answer, and a person another one.
PICTURES = [plain(200 + shade, 60, 250, side_pixels=40 + shade) for shade in range(12)]
GENTLE = ["--sizes", "32", "--epochs", "6", "--batch-size", "16", "--learning-rate", "0.003", "--frozen-blocks", "0"]


def ask(client: httpx.Client) -> list[dict[str, object]]:
    """Label and version of each picture, as it is served now."""
    answer = client.post("/predict", files=[("file", (f"{index}.png", it)) for index, it in enumerate(PICTURES)])
    return [{"label": it["label"], "version": it["model"]["version"]} for it in answer.json()["predictions"]]


def wait_for_version(client: httpx.Client, version: int) -> list[dict[str, object]]:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while {it["version"] for it in ask(client)} != {version}:
        assert time.monotonic() < deadline, client.get("/models").text
        time.sleep(0.1)
    return ask(client)


def test_a_correction_teaches_the_running_service(
    trained: Trained, garments_folder: Path, negatives_folder: Path, tmp_path: Path
) -> None:
    """The label that the person gave is answered after promote, and the old one again after rollback."""
    shutil.copytree(trained.artifact_folder, tmp_path / "models" / "wardrobe" / "1")
    data = [str(garments_folder), str(negatives_folder)]

    def training(*words: str) -> str:
        command = [sys.executable, "-m", "training", *words]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    settings = {"MODELS_DIR": str(tmp_path / "models"), "STORAGE": "on", "DATA_DIR": str(tmp_path / "kept")}
    with serving(tmp_path / "log", ENGINE="onnxruntime", NUM_THREADS="1", **settings) as (_, client):
        before = ask(client)
        wrong = {it["label"] for it in before}
        right = next(label for label in ("hat", "pants", "shirt") if label not in wrong)
        added = client.post("/items", files=[("file", (f"{i}.png", it)) for i, it in enumerate(PICTURES)]).json()
        ids = [it["item"]["id"] for it in added["items"]]
        client.patch("/items", json={"items": [{"id": it} for it in ids], "change": {"label": right}})
        (tmp_path / "wardrobe.zip").write_bytes(client.get("/items/export.zip").content)

        said = training("photos", "train", *data, "--from-corrections", "wardrobe.zip", *GENTLE)
        assert "Services go on with version 1." in said
        assert ask(client) == before
        versions = ["models/wardrobe/1", "models/wardrobe/2"]
        compared = training("photos", "compare", *versions, *data, "--corrections", "wardrobe.zip")
        training("promote", "models/wardrobe/2")
        after = wait_for_version(client, 2)
        training("rollback", "models/wardrobe")
        back = wait_for_version(client, 1)

    learned = [it["label"] for it, item_id in zip(after, ids, strict=True) if not is_held_out(item_id)]
    assert learned == [right] * len(learned)
    assert back == before
    card = read_card(tmp_path / "models" / "wardrobe" / "2")
    assert f"{len(learned)} corrections from a wardrobe" in card.data.split_rule
    assert card.training.config["started_from"].startswith("wardrobe/1, ")
    comparison = read_comparison(tmp_path / "models" / "wardrobe" / "2")
    assert comparison is not None
    assert comparison.overall.num_images == card.metrics["validation"].num_images
    assert f"{len(ids) - len(learned)} corrections were held out" in compared
