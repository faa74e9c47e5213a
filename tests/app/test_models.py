"""The model folder: what is told about good models, and why bad ones are refused."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from torch import Tensor

from app.artifact import Artifact
from app.engines import load_artifact
from app.errors import ArtifactError
from app.inference.tuning import MIN_GAIN
from app.settings import Settings
from tests.app.service import problem_of, running, wait_for
from tests.tiny_wardrobe import ColourReader, write_tiny_wardrobe


def install(artifact: Artifact, models_dir: Path, version: int = 1) -> Path:
    """A copy of the shipped model as fashion-mnist/<version>."""
    folder = models_dir / "fashion-mnist" / str(version)
    shutil.copytree(artifact.folder, folder)
    edit_card(folder, lambda card: card.update(version=version))
    return folder


def serving_from(models_dir: Path, settings: Settings) -> Settings:
    """Settings for a folder with fashion-mnist alone."""
    return settings.model_copy(update={"models_dir": models_dir, "default_model": "fashion-mnist"})


def edit_card(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((folder / "card.json").read_text())
    edit(card)
    (folder / "card.json").write_text(json.dumps(card))


# A good folder


async def test_the_list_of_models(client: httpx.AsyncClient, settings: Settings, artifact: Artifact) -> None:
    body = (await client.get("/models")).json()

    assert (body["default_model"], body["thumbnail_model"]) == (settings.default_model, "fashion-mnist")
    assert body["refused"] == []
    (summary,) = [model for model in body["models"] if model["name"] == "fashion-mnist"]
    assert summary["served_version"] == artifact.card.version
    assert artifact.card.version in summary["versions"]
    assert summary["class_names"] == artifact.card.class_names
    test = artifact.card.metrics.get("test")
    assert summary["test_accuracy"] == (test.accuracy if test else None)


@pytest.mark.parametrize("version", ["", "/versions/{version}"])
async def test_a_card_is_the_file_without_its_golden_pictures(
    client: httpx.AsyncClient, artifact: Artifact, version: str
) -> None:
    response = await client.get("/models/fashion-mnist" + version.format(version=artifact.card.version))

    assert response.status_code == 200
    on_disk = json.loads((artifact.folder / "card.json").read_text())
    assert on_disk.pop("golden")
    card = response.json()
    assert ("serving" in card) == (version == "")
    card.pop("serving", None)
    assert card == on_disk


def knee(milliseconds: dict[int, float]) -> int:
    """The last size that gained MIN_GAIN on its half, of those measured: up to the first that did not."""
    *gaining, last = sorted(milliseconds)
    assert gaining == [2**power for power in range(len(gaining))]
    assert all(milliseconds[size // 2] >= MIN_GAIN * milliseconds[size] for size in gaining[1:])
    return last if milliseconds[last // 2] >= MIN_GAIN * milliseconds[last] else last // 2


@pytest.mark.parametrize("engine", ["auto", "torchscript", "onnxruntime"])
async def test_the_served_card_says_how_it_is_run(
    settings: Settings, artifact: Artifact, pictures: dict[str, bytes], tmp_path: Path, engine: str
) -> None:
    """`auto` takes the fastest of both, another setting the one it names; the label is the same."""
    install(artifact, tmp_path)
    async with running(serving_from(tmp_path, settings).model_copy(update={"engine": engine})) as client:
        await wait_for(client, "/health/ready")
        serving = (await client.get("/models/fashion-mnist")).json()["serving"]
        answer = await client.post("/predict", content=pictures["Coat"])

    measured = serving["milliseconds"]
    assert set(measured) == ({"torchscript", "onnxruntime"} if engine == "auto" else {engine})
    assert serving["engine"] == min(measured, key=measured.get)
    assert serving["refused_engines"] == {}
    assert serving["max_batch_size"] == knee({int(size): it for size, it in serving["milliseconds_in_batch"].items()})
    assert answer.json()["predictions"][0]["label"] == "Coat"


async def test_an_engine_that_disagrees_is_named_and_not_used(
    settings: Settings, artifact: Artifact, tmp_path: Path
) -> None:
    """ONNX Runtime's pictures are prepared as the card says, TorchScript's as the file does: the card has it wrong."""
    edit_card(install(artifact, tmp_path), lambda card: card["input"].update(mean=0.9))
    async with running(serving_from(tmp_path, settings)) as client:
        await wait_for(client, "/health/ready")
        serving = (await client.get("/models/fashion-mnist")).json()["serving"]

    assert serving["engine"] == "torchscript"
    assert "golden prediction 0 differs" in serving["refused_engines"]["onnxruntime"]


async def test_an_engine_that_cannot_run_a_model_is_named_and_not_used(
    settings: Settings, artifact: Artifact, tmp_path: Path
) -> None:
    """A made-up model whose ONNX file is none: TorchScript serves it."""
    write_tiny_wardrobe(tmp_path, template=artifact.card)
    async with running(settings.model_copy(update={"models_dir": tmp_path})) as client:
        await wait_for(client, "/health/ready")
        serving = (await client.get("/models/wardrobe")).json()["serving"]

    assert serving["engine"] == "torchscript"
    assert "names no recipe" in serving["refused_engines"]["onnxruntime"]


async def test_without_its_engine_a_model_is_refused(settings: Settings, artifact: Artifact, tmp_path: Path) -> None:
    folder = write_tiny_wardrobe(tmp_path, template=artifact.card)
    edit_card(folder, lambda card: card["input"].update(recipe="squeezed"))
    async with running(settings.model_copy(update={"models_dir": tmp_path, "engine": "onnxruntime"})) as client:
        models = (await wait_for(client, "/models")).json()

    (refused,) = models["refused"]
    assert "model.onnx is no network that ONNX Runtime can load" in refused["reason"]


@pytest.mark.parametrize(
    "path",
    [
        "/models/curtains",
        "/models/curtains/versions/1",
        "/models/fashion-mnist/versions/999",
        "/models/curtains/report",
        "/models/%2e%2e/report",
    ],
)
async def test_unknown_models_and_versions(client: httpx.AsyncClient, path: str) -> None:
    problem_of(await client.get(path), 404, "not-found")


@pytest.mark.parametrize("version", ["0", "-1", "one", "1.5"])
async def test_versions_are_numbers_from_one(client: httpx.AsyncClient, version: str) -> None:
    response = await client.get(f"/models/fashion-mnist/versions/{version}")

    assert "version" in problem_of(response, 422, "invalid-parameter")["detail"]


async def test_the_report_may_load_and_run_nothing(client: httpx.AsyncClient, artifact: Artifact) -> None:
    response = await client.get("/models/fashion-mnist/report")

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.content == (artifact.folder / "report.html").read_bytes()
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


async def test_a_model_without_a_report(settings: Settings, artifact: Artifact, tmp_path: Path) -> None:
    (install(artifact, tmp_path) / "report.html").unlink()

    async with running(serving_from(tmp_path, settings)) as client:
        await wait_for(client, "/health/ready")
        response = await client.get("/models/fashion-mnist/report")

    assert "report" in problem_of(response, 404, "not-found")["detail"]


async def test_the_newest_good_version_is_served(
    settings: Settings, artifact: Artifact, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    for version in (1, 2, 10):
        install(artifact, tmp_path, version)
    damaged = tmp_path / "fashion-mnist" / "10" / "model.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (tmp_path / "fashion-mnist" / ".2.partial").mkdir()  # what an export in progress looks like
    (tmp_path / "README.md").write_text("not a model")

    async with running(serving_from(tmp_path, settings)) as client:
        await wait_for(client, "/health/ready")
        models = (await client.get("/models")).json()
        prediction = (await client.post("/predict", content=pictures["Bag"])).json()
        card = (await client.get("/models/fashion-mnist")).json()
        old_card = (await client.get("/models/fashion-mnist/versions/1")).json()

    assert models["models"][0]["versions"] == [1, 2]
    assert (
        models["models"][0]["served_version"]
        == prediction["predictions"][0]["model"]["version"]
        == card["version"]
        == 2
    )
    assert old_card["version"] == 1
    assert [refused["folder"] for refused in models["refused"]] == ["fashion-mnist/10"]


async def test_what_is_damaged_on_disk_while_it_serves_changes_no_answer(
    settings: Settings, artifact: Artifact, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    """A disk that goes bad, in place: weights and card are in memory. The report is not, and its route says so.

    What is damaged is told beside the models.
    """
    folder = install(artifact, tmp_path)
    paths = ["/models", "/models/fashion-mnist", "/models/fashion-mnist/versions/1"]
    async with running(serving_from(tmp_path, settings)) as client:
        await wait_for(client, "/health/ready")
        before = [(await client.get(path)).json() for path in paths]
        for name in ("model.pt", "model.onnx", "card.json"):
            (folder / name).write_bytes(b"damaged")
        (folder / "report.html").unlink()
        (folder / "report.html").mkdir()
        await wait_for(client, "/models", "does not fit the schema")
        after = [(await client.get(path)).json() for path in paths]
        report = await client.get("/models/fashion-mnist/report")
        answer = await client.post("/predict", content=pictures["Bag"])

    assert [it["folder"] for it in after[0].pop("refused")] == ["fashion-mnist/1"]
    assert before[0].pop("refused") == []
    assert after == before
    assert answer.json()["predictions"][0]["label"] == "Bag"
    assert "no report that can be read" in problem_of(report, 404, "not-found")["detail"]


async def test_a_damaged_model_does_not_keep_another_from_being_served(
    settings: Settings, artifact: Artifact, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    install(artifact, tmp_path)
    (write_tiny_wardrobe(tmp_path, template=artifact.card) / "model.pt").write_bytes(b"damaged")
    async with running(serving_from(tmp_path, settings)) as client:
        await wait_for(client, "/health/ready")
        models = (await client.get("/models")).json()
        answer = await client.post("/predict", content=pictures["Bag"])

    assert [it["folder"] for it in models["refused"]] == ["wardrobe/1"]
    assert "SHA-256 of model.pt" in models["refused"][0]["reason"]
    assert answer.json()["predictions"][0]["model"]["name"] == "fashion-mnist"


# Not ready


async def test_an_older_version_is_checked_too(settings: Settings, artifact: Artifact, tmp_path: Path) -> None:
    install(artifact, tmp_path, version=2)
    _flip(install(artifact, tmp_path, version=1) / "model.pt")
    async with running(serving_from(tmp_path, settings)) as client:
        await wait_for(client, "/health/ready")
        models = (await client.get("/models")).json()

    assert models["models"][0]["versions"] == [2]
    assert [refused["folder"] for refused in models["refused"]] == ["fashion-mnist/1"]


async def test_while_loading_it_is_alive_and_says_503(
    settings: Settings, artifact: Artifact, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    """Loading is held by a card that is a pipe: reading it waits until somebody writes."""
    folder = install(artifact, tmp_path)
    card = (folder / "card.json").read_bytes()
    (folder / "card.json").unlink()
    os.mkfifo(folder / "card.json")

    async with running(serving_from(tmp_path, settings)) as client:
        alive = await client.get("/health/live")
        refused = [
            await client.get("/health/ready"),
            await client.get("/models"),
            await client.get("/models/fashion-mnist"),
            await client.post("/predict", content=pictures["Bag"]),
        ]
        (folder / "card.json").write_bytes(card)
        (folder / "card.json").unlink()
        (folder / "card.json").write_bytes(card)  # a file again: the service goes on looking
        await wait_for(client, "/health/ready")

    assert alive.status_code == 200
    for response in refused:
        assert "being loaded" in problem_of(response, 503, "not-ready")["detail"]
        assert int(response.headers["Retry-After"]) >= 1


async def test_an_empty_model_folder(settings: Settings, tmp_path: Path) -> None:
    await assert_refused(settings, tmp_path / "absent", expected_reason="no usable model 'fashion-mnist'", folders=[])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _damage_model(folder: Path) -> None:
    _flip(folder / "model.pt")


def _damage_onnx(folder: Path) -> None:
    _flip(folder / "model.onnx")


def _remove_model(folder: Path) -> None:
    (folder / "model.pt").unlink()


def _remove_card(folder: Path) -> None:
    (folder / "card.json").unlink()


def _cut_card(folder: Path) -> None:
    content = (folder / "card.json").read_bytes()
    (folder / "card.json").write_bytes(content[: len(content) // 2])


def _empty_card(folder: Path) -> None:
    (folder / "card.json").write_bytes(b"")


def _remove_thresholds(folder: Path) -> None:
    edit_card(folder, lambda card: card.pop("thresholds"))


def _add_field(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(colour="blue"))


def _claim_other_version(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(version=7))


def _claim_other_name(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(name="wardrobe"))


def _change_golden(folder: Path) -> None:
    edit_card(folder, lambda card: card["golden"][0]["probabilities"].reverse())


def _shorten_golden(folder: Path) -> None:
    edit_card(folder, lambda card: card["golden"][0]["probabilities"].pop())


def _garble_golden_picture(folder: Path) -> None:
    picture = base64.b64encode(b"not a picture").decode()
    edit_card(folder, lambda card: card["golden"][0].update(image_base64=picture))


def _garble_golden_base64(folder: Path) -> None:
    edit_card(folder, lambda card: card["golden"][0].update(image_base64="A"))


def _remove_golden(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(golden=[]))


def _forget_digests(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(sha256={}))


def _forget_a_class(folder: Path) -> None:
    edit_card(folder, lambda card: card["classes"].pop())


def _put_text_in_place_of_the_model(folder: Path) -> None:
    """With the right digest: a card and a file that agree are not yet a model."""
    (folder / "model.pt").write_bytes(b"text")
    edit_card(folder, lambda card: card["sha256"].update({"model.pt": hashlib.sha256(b"text").hexdigest()}))


def _claim_another_input(folder: Path) -> None:
    edit_card(folder, lambda card: card["input"].update(channels=3))


DAMAGES: dict[Callable[[Path], None], str] = {
    _damage_model: "SHA-256 of model.pt",
    _damage_onnx: "SHA-256 of model.onnx",
    _remove_model: "model.pt cannot be read (No such file or directory)",
    _remove_card: "card.json cannot be read (No such file or directory)",
    _cut_card: "card.json does not fit the schema",
    _empty_card: "card.json does not fit the schema",
    _remove_thresholds: "card.json does not fit the schema: thresholds: Field required",
    _add_field: "card.json does not fit the schema: colour: Extra inputs are not permitted",
    _claim_other_version: "its card says fashion-mnist/7",
    _claim_other_name: "its card says wardrobe/1",
    _change_golden: "golden prediction 0 differs by",
    _shorten_golden: "golden",
    _garble_golden_picture: "golden",
    _garble_golden_base64: "golden",
    _remove_golden: "golden",
    _forget_digests: "sha256",
    _forget_a_class: "classes",
    _put_text_in_place_of_the_model: "model.pt",
    _claim_another_input: "it fails to run",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.items(), ids=[damage.__name__[1:] for damage in DAMAGES])
async def test_a_damaged_model_is_refused_with_the_reason(
    settings: Settings, artifact: Artifact, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(install(artifact, tmp_path))

    await assert_refused(settings, tmp_path, expected_reason=reason, folders=["fashion-mnist/1"])


async def assert_refused(settings: Settings, models_dir: Path, *, expected_reason: str, folders: list[str]) -> None:
    """The service lives, serves nothing, and says why in both places."""
    async with running(serving_from(models_dir, settings)) as client:
        models = (await wait_for(client, "/models")).json()
        ready = await client.get("/health/ready")
        predicted = await client.post("/predict", content=b"any")
        alive = await client.get("/health/live")

    assert [refused["folder"] for refused in models["refused"]] == folders
    for refused in models["refused"]:
        assert expected_reason in refused["reason"]
    assert models["models"] == []
    assert expected_reason in problem_of(ready, 503, "not-ready")["detail"]
    assert str(models_dir) not in ready.text
    problem_of(predicted, 503, "not-ready")
    assert int(predicted.headers["Retry-After"]) >= 1
    assert alive.status_code == 200


# What a model with two outputs and rules for its decisions has to say of itself


@pytest.fixture
def wardrobe(two_models_dir: Path, tmp_path: Path) -> Path:
    """A folder of a model with every threshold and a garment score, to be edited."""
    return Path(shutil.copytree(two_models_dir / "wardrobe" / "1", tmp_path / "wardrobe" / "1"))


def set_threshold(card: dict[str, Any], name: str, value: float) -> None:
    *outer, last = name.split(".")
    part = card["thresholds"]
    for key in outer:
        part = part[key]
    part[last] = value


BOUNDED = ["prediction_set.level", "prediction_set.min_probability", "review_below", "garment_score"]


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_thresholds_may_be_zero_or_one(wardrobe: Path, name: str, value: float) -> None:
    edit_card(wardrobe, lambda card: set_threshold(card, name, value))

    assert load_artifact(wardrobe).card.thresholds


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_thresholds_beyond_zero_and_one_are_refused_by_name(wardrobe: Path, name: str, value: float) -> None:
    edit_card(wardrobe, lambda card: set_threshold(card, name, value))

    with pytest.raises(ArtifactError, match=f"does not fit the schema: thresholds.{name}"):
        load_artifact(wardrobe)


@pytest.mark.parametrize("name", ["prediction_set", "review_below", "garment_score"])
def test_a_threshold_may_be_left_out(wardrobe: Path, name: str) -> None:
    edit_card(wardrobe, lambda card: card["thresholds"].pop(name))

    assert getattr(load_artifact(wardrobe).card.thresholds, name) is None


@pytest.mark.parametrize("name", ["level", "min_probability"])
def test_half_a_rule_for_prediction_sets_is_refused(wardrobe: Path, name: str) -> None:
    edit_card(wardrobe, lambda card: card["thresholds"]["prediction_set"].pop(name))

    with pytest.raises(ArtifactError, match=f"thresholds.prediction_set.{name}: Field required"):
        load_artifact(wardrobe)


def test_a_drawer_that_is_not_there_is_refused(wardrobe: Path) -> None:
    edit_card(wardrobe, lambda card: card["classes"][0].update(group="curtains"))

    with pytest.raises(ArtifactError, match=r"does not fit the schema: classes\.0\.group"):
        load_artifact(wardrobe)


def test_a_golden_garment_score_must_be_that_of_the_network(wardrobe: Path) -> None:
    edit_card(wardrobe, lambda card: card["golden"][0].update(garment_score=0.99))

    with pytest.raises(ArtifactError, match=r"golden prediction 0 differs by 0\.0100"):
        load_artifact(wardrobe)


def test_a_golden_garment_score_cannot_be_left_out(wardrobe: Path) -> None:
    edit_card(wardrobe, lambda card: card["golden"][0].pop("garment_score"))

    with pytest.raises(ArtifactError, match="golden predictions and the network disagree on a garment score"):
        load_artifact(wardrobe)


def test_a_network_without_a_garment_score_cannot_have_a_golden_one(artifact: Artifact, tmp_path: Path) -> None:
    folder = install(artifact, tmp_path)
    edit_card(folder, lambda card: card["golden"][0].update(garment_score=0.5))

    with pytest.raises(ArtifactError, match="golden predictions and the network disagree on a garment score"):
        load_artifact(folder)


class Raises(ColourReader):
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if float(batch.max()) > 0:
            raise RuntimeError("too bright")
        return batch.mean(dim=(2, 3)), batch.mean(dim=(1, 2, 3))


def test_a_network_that_raises_is_refused_without_a_stack_of_its_code(artifact: Artifact, tmp_path: Path) -> None:
    """The reason is told to everybody who asks for /models."""
    folder = write_tiny_wardrobe(tmp_path, template=artifact.card, network=Raises)

    with pytest.raises(ArtifactError, match=r"cannot be computed .*too bright") as refused:
        load_artifact(folder)

    assert not any(word in str(refused.value) for word in ("Traceback", "File", "\n"))


class NotANumber(ColourReader):
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        colour = batch.mean(dim=(2, 3))
        return 8 * colour, colour.amax(dim=1) * float("nan")


def test_a_garment_score_that_is_no_number_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    folder = write_tiny_wardrobe(tmp_path, template=artifact.card, network=NotANumber)

    with pytest.raises(ArtifactError, match="golden prediction 0 differs by nan"):
        load_artifact(folder)
