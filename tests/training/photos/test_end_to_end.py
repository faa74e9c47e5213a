"""Train on drawn photos from the command line, export, evaluate, serve."""

import io
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from app.artifact import Artifact, PredictionSetRule, Scores, Thresholds, read_card
from app.engines import EngineName, load_artifact, load_verified
from app.errors import ArtifactError, WardrobeError
from app.images import decode
from app.settings import Settings
from tests.app.service import parts, running, wait_for
from tests.process import REPOSITORY, serving
from tests.training.photos.conftest import TINY, Trained, command_line, draw_garment, draw_noise
from tests.training.photos.test_cli import table
from training.__main__ import main
from training.config import ConfigError
from training.export import write_card
from training.fit import load_checkpoint
from training.photos.labels import LabelMap
from training.photos.network import load_exported

FASHION_MNIST = REPOSITORY / "models" / "fashion-mnist"


@pytest.fixture(scope="session")
def artifact(trained: Trained) -> Artifact:
    return load_artifact(trained.artifact_folder)


@pytest.fixture(scope="session")
def own_model(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with models/my-photos/1, trained by `python -m training` on class folders, and what it said."""
    folder = tmp_path_factory.mktemp("own")
    extras = ["--gallery", "--safetensors", "--mlflow"]
    command = ["photos", "train", str(class_folders), "--name", "my-photos", *extras, *TINY]
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/runs/mlflow.db"}
    process = subprocess.run(
        [sys.executable, "-m", "training", *command],
        cwd=folder,
        env=os.environ | tracking | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


def test_ctrl_c_says_how_to_go_on(trained: Trained) -> None:
    """Exit status 130, the finished epoch is kept, nothing is exported; the hint resumes as printed."""
    status, output = trained.interrupted

    assert status == 130
    assert "epoch   1/2" in output
    assert "Stopped. runs/wardrobe/checkpoint.pt holds what the finished epochs gave" in output
    assert "Wrote" not in output
    assert "epoch   1/2" not in trained.output
    assert "epoch   2/2" in trained.output
    assert len(load_checkpoint(trained.folder / "runs" / "wardrobe" / "checkpoint.pt")["history"]) == 2


def test_train_says_what_it_used_and_how_good_it_is(trained: Trained, artifact: Artifact) -> None:
    """The table of labels, the time left, the figures of the card, and the next command."""
    validation, robustness = artifact.card.metrics["validation"], artifact.card.robustness
    assert robustness is not None

    for text in (
        "T-Shirt",
        "(no garment)",
        "min left",
        f"validation (thresholds were fitted on it) accuracy {validation.accuracy:.2%} (n = {validation.num_images}",
        "95% prediction sets: coverage",
        "called no garment:",
        f"validation photos, blurred: accuracy {robustness.accuracy['blurred']:.2%}, called no garment "
        f"{robustness.refused['blurred']:.2%}",
        f"Wrote models/wardrobe/1. Next: {sys.orig_argv[0]} -m training photos evaluate models/wardrobe/1",
    ):
        assert text in trained.output


def test_card_says_what_was_trained(trained: Trained, artifact: Artifact, garments_folder: Path) -> None:
    """Classes and drawers, sizes of the parts, thresholds, figures with their groups, and what is refused."""
    card = artifact.card

    assert [(info.label, info.group) for info in card.classes] == [
        ("shirt", "tops"),
        ("pants", "bottoms"),
        ("hat", "headwear"),
    ]
    assert card.data.num_train + card.data.num_validation + card.data.num_test == 92
    assert list(card.metrics) == ["validation"]  # the test part is not looked at
    validation = card.metrics["validation"]
    assert validation.num_images == card.data.num_validation - 4
    assert validation.grouped is not None
    assert validation.prediction_sets is not None
    assert "photos marked 'kids' in the data" in validation.slices
    assert card.thresholds.prediction_set is not None
    assert card.thresholds.review_below is not None
    assert card.thresholds.garment_score is not None
    assert {row.pictures: row.is_garment for row in card.refusals} == {
        "photos with one of the classes": True,
        "photos marked 'kids' in the data": True,
        "not-a-garment": False,
    }
    assert card.robustness is not None
    assert card.robustness.accuracy.keys() == card.robustness.refused.keys()
    (of_classes,) = [row.refused for row in card.refusals if row.pictures == "photos with one of the classes"]
    assert card.robustness.refused["as they are"] == of_classes
    decisions = [row.num_images for name, row in validation.slices.items() if name.startswith("decision: ")]
    assert sum(decisions) == validation.num_images
    assert {(row.part, row.num_groups) for row in card.refusals if not row.is_garment} == {("validation", 4)}
    assert card.training.config["sizes"] == [32]
    assert card.training.config["label_map"]["rename"]["T-Shirt"] == "shirt"
    assert card.training.command.startswith(f"python -m training photos train {garments_folder}")
    assert "--resume" not in card.training.command
    assert len(card.training.history) == 2
    assert card.input.size_pixels == 32
    assert len(card.golden) == 3


def test_exported_files_name_no_path_of_the_machine(trained: Trained) -> None:
    """But for the command, which the user gave."""
    contents = {path.name: path.read_bytes() for path in trained.artifact_folder.iterdir()}

    assert sorted(contents) == ["card.json", "model.onnx", "model.pt", "report.html"]
    for name in ("model.onnx", "model.pt"):
        assert str(REPOSITORY).encode() not in contents[name]
        assert str(trained.folder).encode() not in contents[name]


def test_onnx_runtime_agrees_with_torchscript(artifact: Artifact) -> None:
    """Class logits, garment score and embedding, in batches of several sizes."""
    session = onnxruntime.InferenceSession(artifact.folder / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = np.stack([artifact.preprocess(np.asarray(draw_garment("Hat", seed))) for seed in range(5)])

    for num_images in (1, 2, 5):
        batch = inputs[:num_images]
        logits, garment, embedding = session.run(["logits", "garment", "embedding"], {"images": batch})
        expected_logits, expected_garment, expected_embedding = artifact.engine.outputs(batch)
        assert logits.shape == (num_images, 3)
        assert logits == pytest.approx(expected_logits, abs=1e-3)
        assert garment == pytest.approx(expected_garment, abs=1e-3)
        assert embedding == pytest.approx(expected_embedding, abs=1e-3)


def test_an_exported_network_can_be_trained_on(artifact: Artifact) -> None:
    """It is the same one: logits and garment logits of pictures agree."""
    config = artifact.card.training.config
    outputs = LabelMap.from_dict(config["label_map"]).outputs
    network = load_exported(artifact.folder, num_outputs=len(outputs), backbone=config["backbone"]).eval()
    batch = np.stack([artifact.preprocess(np.asarray(draw_garment("Hat", seed))) for seed in range(3)])

    with torch.inference_mode():
        logits, garment = network(torch.from_numpy(batch))

    expected = artifact.engine.outputs(batch)
    assert logits[:, :3].numpy() == pytest.approx(expected.logits, abs=1e-3)
    assert garment.numpy() == pytest.approx(expected.garment, abs=1e-3)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_version_teaches_the_next_one(
    trained: Trained, garments_folder: Path, negatives_folder: Path, tmp_path: Path
) -> None:
    """On from its network, and towards its answers; the card names both by their digest. Other sizes are refused."""
    folder = copied(trained, tmp_path / "work")
    sources = [str(garments_folder), str(negatives_folder), "--labels", str(garments_folder / "labels.toml")]
    old = "models/wardrobe/1"

    with command_line(folder) as invoke:
        command = ["train", *sources, *TINY, "--epochs", "1", "--run", "runs/taught", "--teacher", old]
        with pytest.raises(ConfigError, match="takes pictures of 32 px: --sizes must say that size alone"):
            invoke(*command, "--sizes", "64")
        with pytest.raises(ConfigError, match="is efficientnet-lite0 with shirt, pants, hat"):
            invoke(*command, "--from-version", old, "--backbone", "efficientnet-lite1")
        status, output = invoke(*command, "--from-version", old)

    assert status == 0, output
    digest = load_artifact(folder / old).digest
    config = read_card(folder / "models" / "wardrobe" / "2").training.config
    assert config["teachers"] == [f"wardrobe/1, SHA-256 of model.pt {digest}"]
    assert config["started_from"] == config["teachers"][0]


def test_pictures_of_one_class_have_embeddings_of_one_direction(artifact: Artifact) -> None:
    """Cosine similarity is higher among hats, and among trousers, than between them."""
    pictures = [draw_garment(label, seed) for label in ("Hat", "Pants") for seed in range(4)]
    scores = artifact.scores(np.stack([artifact.preprocess(np.asarray(picture)) for picture in pictures]))
    embeddings = np.stack([score.embedding / np.linalg.norm(score.embedding) for score in scores])

    similarity = embeddings @ embeddings.T

    within = np.r_[similarity[:4, :4][~np.eye(4, dtype=bool)], similarity[4:, 4:][~np.eye(4, dtype=bool)]]
    assert within.mean() > similarity[:4, 4:].mean()


@pytest.mark.parametrize("name", ["torchscript", "onnxruntime"])
def test_the_mean_of_a_heat_map_is_the_logit(artifact: Artifact, name: EngineName) -> None:
    """So the map is all of the evidence for a class and nothing else."""
    engine = load_verified(artifact.folder, artifact.card, engine=name).engine
    batch = np.stack([artifact.preprocess(np.asarray(draw_garment("Hat", seed))) for seed in range(3)])
    if name == "torchscript":  # which takes any size: maps of 3x3
        batch = np.tile(batch, (1, 1, 3, 3))

    evidence = engine.evidence(batch)

    assert evidence is not None
    assert evidence.shape == (3, 3, batch.shape[2] // 32, batch.shape[3] // 32)
    assert evidence.mean((2, 3)) == pytest.approx(engine.outputs(batch)[0], abs=1e-4)
    assert name == "onnxruntime" or evidence.std((2, 3)).min() > 0


def test_preprocess_squeezes_the_whole_picture(artifact: Artifact) -> None:
    """Of any shape: a plain colour gives that colour, standardised as the ImageNet weights want it."""
    for shape in ((1, 1, 3), (50, 500, 3)):
        prepared = artifact.preprocess(np.full(shape, 191, np.uint8))

        assert prepared.shape == (3, 32, 32)
        assert prepared == pytest.approx((191 - 127) / 128, abs=1e-5)


def test_report_shows_no_photo_unless_asked_for(trained: Trained, own_model: tuple[Path, str]) -> None:
    """Curves, confusion matrix and reliability are its only pictures; misclassified photos are named."""
    page = (trained.artifact_folder / "report.html").read_text(encoding="utf-8")
    with_gallery = (own_model[0] / "models" / "my-photos" / "1" / "report.html").read_text(encoding="utf-8")

    assert page.count("data:image/png;base64,") == 3
    num_wrong = _num_wrong(trained.artifact_folder)
    assert num_wrong == len(set(re.findall(r"<td>photo-\d+</td>", page)))
    assert "<td>not-a-garment</td><td>no</td><td>4</td><td>4</td>" in page  # four pictures of four sources: no interval
    assert page.count("<td>too few</td>") == 1 + len(_slices_without_interval(trained.artifact_folder))
    num_wrong = _num_wrong(own_model[0] / "models" / "my-photos" / "1")
    assert with_gallery.count("data:image/png;base64,") == 3 + num_wrong


def _slices_without_interval(folder: Path) -> list[str]:
    slices = read_card(folder).metrics["validation"].slices
    return [name for name, row in slices.items() if row.accuracy_interval is None]


def _num_wrong(folder: Path) -> int:
    confusion = torch.tensor(read_card(folder).metrics["validation"].confusion_matrix)
    return int(confusion.sum() - confusion.diag().sum())


def test_test_figures_are_written_once(
    trained: Trained,
    garments_folder: Path,
    negatives_folder: Path,
    class_folders: Path,
    snapshot: Callable[[Path], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    """The first evaluation fills card and report, the second compares and changes no byte; other data is refused.

    A card that says something else is told so, with a status of its own.
    """
    folder = tmp_path / "models" / "wardrobe" / "1"
    folder.mkdir(parents=True)
    before = snapshot(trained.artifact_folder)
    for name, content in before.items():
        (folder / name).write_bytes(content)

    with command_line(tmp_path) as invoke:
        words = ["evaluate", "models/wardrobe/1", str(garments_folder), str(negatives_folder)]
        first = invoke(*words)
        written = snapshot(folder)
        second = invoke(*words)
        with pytest.raises(
            Exception, match=r"is not the data that models/wardrobe/1 was trained and .*: pictures, labels"
        ):
            invoke("evaluate", "models/wardrobe/1", str(garments_folder))
        with pytest.raises(Exception, match=r"is not the data .* does not know the label 'Sock'"):
            invoke("evaluate", "models/wardrobe/1", str(table(tmp_path / "socks", "Sock")))
        card = load_artifact(folder).card
        refusals = [row.model_copy(update={"refused": (row.refused + 0.5) / 2}) for row in card.refusals[-1:]]
        write_card(card.model_copy(update={"refusals": [*card.refusals[:-1], *refusals]}), folder)
        third = invoke(*words)
        write_card(card, folder)

    test = card.metrics["test"]
    assert first[0] == second[0] == 0
    assert f"test accuracy {test.accuracy:.2%} (n = {test.num_images}" in first[1]
    assert test.num_images == card.data.num_test - 6
    assert "Written into models/wardrobe/1" in first[1]
    assert "says the same" in second[1]
    assert third[0] == 1
    assert f"differs: refusals of {card.refusals[-1].pictures}." in third[1]
    assert {row.part for row in card.refusals} == {"test"}
    assert snapshot(folder) == written
    assert {name for name in written if written[name] != before[name]} == {"card.json", "report.html"}


def test_own_class_folders_become_a_model(own_model: tuple[Path, str]) -> None:
    """One command on folders: each is a class with its drawer, and pictures of no garment are told apart."""
    folder, output = own_model

    card = load_artifact(folder / "models" / "my-photos" / "1").card

    assert [(info.label, info.group) for info in card.classes] == [("Hat", "headwear"), ("T-Shirt", "tops")]
    assert card.thresholds.garment_score is not None
    assert "(no garment)" in output
    assert "Wrote models/my-photos/1" in output
    assert sorted(path.name for path in folder.iterdir()) == ["data", "mlruns", "models", "runs"]


def test_weights_alone_are_those_of_the_network(own_model: tuple[Path, str]) -> None:
    folder = own_model[0] / "models" / "my-photos" / "1"

    weights = load_file(folder / "model.safetensors")

    expected = load_exported(folder, num_outputs=2, backbone="efficientnet-lite0").state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own query
def test_mlflow_has_the_run_and_its_version(own_model: tuple[Path, str]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install '.[mlflow]'")
    artifact = load_artifact(own_model[0] / "models" / "my-photos" / "1")
    client = mlflow.MlflowClient(f"sqlite:///{own_model[0]}/runs/mlflow.db")

    (run,) = client.search_runs(["0"])
    (version,) = client.search_model_versions("name = 'my-photos'")

    last = artifact.card.training.history[-1]
    assert run.data.metrics == last.model_dump(exclude={"epoch"})
    assert run.data.params["batch_size"] == "16"
    assert (version.run_id, version.tags["sha256"]) == (run.info.run_id, artifact.digest)


def jpeg(label: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    image = draw_noise(seed) if label == "noise" else draw_garment(label, seed)
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def test_running_service_answers_photos_with_the_own_model(own_model: tuple[Path, str], tmp_path: Path) -> None:
    """`python -m app` with the new models folder says what the exported network says."""
    settings = {"MODELS_DIR": str(own_model[0] / "models"), "DEFAULT_MODEL": "my-photos", "NUM_THREADS": "1"}

    with serving(tmp_path / "log", **settings) as (_, client):
        (answer,) = client.post("/predict", content=jpeg("Hat", 7)).json()["predictions"]

    own = load_artifact(own_model[0] / "models" / "my-photos" / "1")
    (scores,) = own.scores(own.preprocess(decode(jpeg("Hat", 7)).pixels)[None])
    assert answer["model"]["name"] == "my-photos"
    assert answer["label"] == own.card.class_names[int(scores.probabilities.argmax())]
    assert {row["label"] for row in answer["top_k"]} == {"Hat", "T-Shirt"}
    assert answer["garment_score"] == pytest.approx(scores.garment, abs=1e-4)


def in_the_middle(values: Iterable[float]) -> float:
    """The middle of the widest gap in the middle half of some numbers: engines differ in the last digits."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    gaps = list(itertools.pairwise(ordered[quarter : len(ordered) - quarter]))
    return sum(max(gaps, key=lambda gap: gap[1] - gap[0])) / 2


def thresholds_that_divide(artifact: Artifact, scores: list[Scores]) -> Thresholds:
    """Some of these pictures are no garment, some have two likely classes, some a sure one; none is at a limit."""
    garment_score = in_the_middle(score.garment or 0.0 for score in scores)
    garments = [np.sort(row.probabilities) for row in scores if (row.garment or 0.0) >= garment_score]
    min_probability = in_the_middle(float(row[-2]) for row in garments)
    sure = [float(row[-1]) for row in garments if row[-2] < min_probability]
    return artifact.card.thresholds.model_copy(
        update={
            "prediction_set": PredictionSetRule(level=0.95, min_probability=min_probability),
            "review_below": (max(sure) + min(1 / 3, *sure)) / 2,
            "garment_score": garment_score,
        }
    )


async def test_service_decides_as_the_card_says(artifact: Artifact, tmp_path: Path) -> None:
    """For each picture the exported network's score, set and decision, by the card's thresholds; all decisions occur.

    The thresholds are made for these pictures: two epochs leave none that divide them.
    """
    files = [jpeg(label, seed) for label in ("T-Shirt", "Pants", "Hat", "noise") for seed in range(3)]
    found = [artifact.scores(artifact.preprocess(decode(content).pixels)[None])[0] for content in files]
    thresholds = thresholds_that_divide(artifact, found)
    assert thresholds.prediction_set is not None
    assert thresholds.review_below is not None
    assert thresholds.garment_score is not None
    folder = tmp_path / "models" / "wardrobe" / "1"
    shutil.copytree(artifact.folder, folder)
    write_card(artifact.card.model_copy(update={"thresholds": thresholds}), folder)
    settings = Settings(models_dir=tmp_path / "models", default_model="wardrobe", num_threads=1)

    async with running(settings) as client:
        await wait_for(client, "/health/ready")
        answers = (await client.post("/predict", files=parts(*files))).json()["predictions"]

    assert {answer["decision"] for answer in answers} == {"sorted", "review", "not_a_garment"}
    for scores, answer in zip(found, answers, strict=True):
        assert scores.garment is not None
        best = int(scores.probabilities.argmax())
        likely = scores.probabilities >= thresholds.prediction_set.min_probability
        alone = int(likely.sum()) <= 1 and scores.probabilities[best] >= thresholds.review_below
        expected = "sorted" if alone else "review"
        if scores.garment < thresholds.garment_score:
            expected = "not_a_garment"
        assert answer["decision"] == expected
        assert answer["label"] == artifact.card.class_names[best]
        assert len(answer["prediction_set"]) == max(1, int(likely.sum()))
        assert answer["garment_score"] == pytest.approx(scores.garment, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere"], "nowhere is neither a CSV file nor a folder"),
        (["train", "nowhere", "--name", "My Model"], "--name 'My Model' may hold lower-case letters"),
        (["train", "nowhere", "--sizes", "48"], "as many numbers in --sizes as in --epochs"),
        (["train", ".", "--exclude", "absent.csv"], "absent.csv is not a CSV file with a column `image`"),
        (["train", ".", "--labels", "absent.toml"], "The label map absent.toml cannot be read"),
        (["train", "."], ". holds neither a CSV file nor folders with pictures"),
        (["folds", ".", "--epochs", "one"], "--epochs 'one' is not a list of whole numbers"),
        (["evaluate", str(FASHION_MNIST / "1"), "."], "was not trained on photos"),
        (["evaluate", str(FASHION_MNIST / "77"), "."], f"is no exported version. There are: {FASHION_MNIST / '1'}"),
        (["evaluate", str(FASHION_MNIST), "."], f"is no exported version. There are: {FASHION_MNIST / '1'}"),
        (["evaluate", "models/nothing/1", "."], "models/nothing/1 is no exported version. There is none beside it"),
    ],
)
def test_a_users_mistake_is_one_line(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Told before anything is decoded or trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", "photos", *words])

    with pytest.raises(SystemExit) as caught:
        main()

    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.startswith("Error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_folds_command_lists_suspects(garments_folder: Path, tmp_path: Path) -> None:
    """Figures and suspects in the run's folder, of which the second is what --exclude takes."""
    labels = ["--labels", str(garments_folder / "labels.toml")]
    options = ["--num-folds", "2", "--sizes", "32", "--epochs", "1", "--batch-size", "16"]

    with command_line(tmp_path) as invoke:
        status, output = invoke("folds", str(garments_folder), *labels, *options)

    assert status == 0
    assert "fold 1 of 2" in output
    assert "cross-validation accuracy" in output
    assert "labels look wrong: runs/folds/suspects.csv, which --exclude takes" in output
    found = {path.name for path in (tmp_path / "runs" / "folds").iterdir()}
    assert found == {"fold-0", "fold-1", "cross-validation.json", "predictions.csv", "suspects.csv"}


def write_scarves(folder: Path, *, label: str = "Scarf", number: int = 12) -> Path:
    """A class folder of striped pictures that look like no garment of the data."""
    (folder / label).mkdir(parents=True)
    for seed in range(number):
        draw_scarf(seed).save(folder / label / f"{seed}.png")
    return folder


def draw_scarf(seed: int) -> Image.Image:
    image = draw_garment("Hat", 5_000 + seed)
    ImageDraw.Draw(image).rectangle((0, 16, 48, 50), fill="gold")
    return image


def copied(trained: Trained, folder: Path) -> Path:
    """A folder with the trained version in it, to write others beside it."""
    shutil.copytree(trained.folder / "models", folder / "models")
    return folder


def outputs_of(folder: Path, *pictures: Image.Image) -> tuple[Artifact, list[Scores], np.ndarray]:
    """A version, what it says of these pictures, and the class logits behind it."""
    artifact = load_artifact(folder)
    batch = np.stack([artifact.preprocess(np.asarray(picture)) for picture in pictures])
    return artifact, artifact.scores(batch), artifact.engine.outputs(batch).logits


def test_a_class_is_taught_and_the_others_keep_their_outputs(trained: Trained, tmp_path: Path) -> None:
    """From a dozen pictures alone: found in new ones, in the drawer asked for, and the card says what is not known."""
    folder, scarves = copied(trained, tmp_path / "work"), write_scarves(tmp_path / "own")
    pictures = [draw_scarf(seed) for seed in range(100, 104)] + [draw_garment("Hat", seed) for seed in range(4)]

    with command_line(folder) as invoke:
        status, output = invoke("teach", "models/wardrobe/1", str(scarves), "--drawer", "Scarf=headwear")

    assert status == 0, output
    before, _, old_logits = outputs_of(folder / "models" / "wardrobe" / "1", *pictures)
    after, scores, logits = outputs_of(folder / "models" / "wardrobe" / "2", *pictures)
    card = after.card
    assert (card.classes[-1].label, card.classes[-1].group) == ("Scarf", "headwear")
    assert card.classes[:-1] == before.card.classes
    assert logits[:, :-1] == pytest.approx(old_logits, abs=1e-4)
    assert [int(score.probabilities.argmax()) for score in scores[:4]] == [3] * 4
    assert card.thresholds.temperature == before.card.thresholds.temperature
    assert card.thresholds.garment_score == before.card.thresholds.garment_score
    assert list(card.metrics) == ["cross-validation"]
    figures = card.metrics["cross-validation"]
    assert [row.num_images for row in figures.per_class] == [0, 0, 0, 12]
    assert f"{round(figures.per_class[-1].recall * 12)} of 12" in output
    assert "taught to wardrobe/1" in card.limits[-1]
    assert "measured on 0 pictures" in card.limits[-1]
    assert card.training.config["started_from"].endswith(before.digest)
    load_verified(after.folder, card, engine="onnxruntime")
    page = (after.folder / "report.html").read_text(encoding="utf-8")
    assert "Taught classes: Scarf" in page
    assert "each held back in turn" in page


def test_with_the_original_data_the_effect_on_the_other_classes_is_measured(
    trained: Trained, garments_folder: Path, negatives_folder: Path, tmp_path: Path
) -> None:
    """Thresholds and figures are of its validation photos and the new pictures; `evaluate` still takes that data."""
    folder, scarves = copied(trained, tmp_path / "work"), write_scarves(tmp_path / "own")
    shutil.copy(garments_folder / "images" / "photo-0.jpg", scarves / "Scarf")
    sources = [str(garments_folder), str(negatives_folder)]

    with command_line(folder) as invoke:
        data = [word for source in sources for word in ("--data", source)]
        status, output = invoke("teach", "models/wardrobe/1", str(scarves), *data)
        tested = invoke("evaluate", "models/wardrobe/2", *sources)

    before, card = read_card(trained.artifact_folder), read_card(folder / "models" / "wardrobe" / "2")
    num_old = before.metrics["validation"].num_images
    assert status == 0, output
    assert "left out: 1 (the original data has this picture already; for instance photo-0.jpg)" in output
    assert "in the drawer `other`: Scarf. --drawer Scarf=tops" in output
    assert card.metrics["validation"].num_images == num_old + 12
    assert "exact McNemar test p = 1.000" in output or "exact McNemar test p = 0." in output
    effect = next(study for study in card.studies if study.title.startswith("Effect"))
    was_right = round(before.metrics["validation"].accuracy * num_old)
    assert effect.rows[-1][:3] == ["all", str(num_old), str(was_right)]
    assert tested[0] == 0, tested[1]
    assert card.metrics["test"].num_images == before.data.num_test - 6


def test_merged_classes_have_the_sum_of_their_probabilities(
    trained: Trained, garments_folder: Path, negatives_folder: Path, tmp_path: Path
) -> None:
    """In both files, with heat maps whose mean is the logit; `evaluate` takes the same data as before."""
    folder = copied(trained, tmp_path)
    (folder / "labels.toml").write_text('[rename]\nshirt = "body"\nhat = "body"\n[classes]\nbody = "tops"\n')
    pictures = [draw_garment(label, seed) for label in ("Hat", "Pants", "T-Shirt") for seed in range(2)]

    with command_line(folder) as invoke:
        status, output = invoke("relabel", "models/wardrobe/1", "labels.toml")
        unmeasured = read_card(folder / "models" / "wardrobe" / "2")
        tested = invoke("evaluate", "models/wardrobe/2", str(garments_folder), str(negatives_folder))
        with pytest.raises(ArtifactError, match="some of its classes were merged"):
            invoke("teach", "models/wardrobe/2", str(write_scarves(folder / "own")))

    assert status == 0, output
    assert [(info.label, info.group) for info in unmeasured.classes] == [("body", "tops"), ("pants", "bottoms")]
    assert unmeasured.metrics == {}
    assert "body of shirt and hat" in unmeasured.limits[-1]
    artifact, after, logits = outputs_of(folder / "models" / "wardrobe" / "2", *pictures)
    _, before, _ = outputs_of(folder / "models" / "wardrobe" / "1", *pictures)
    for old, new in zip(before, after, strict=True):
        shirt, pants, hat = old.probabilities
        assert new.probabilities == pytest.approx([shirt + hat, pants], abs=1e-5)
    batch = np.stack([artifact.preprocess(np.asarray(picture)) for picture in pictures])
    for name in ("torchscript", "onnxruntime"):
        evidence = load_verified(artifact.folder, artifact.card, engine=name).engine.evidence(batch)
        assert evidence is not None
        assert evidence.mean((2, 3)) == pytest.approx(logits, abs=1e-4)
    assert tested[0] == 0, tested[1]
    bodies, trousers = artifact.card.metrics["test"].per_class
    assert bodies.num_images + trousers.num_images == artifact.card.data.num_test - 6
    assert bodies.num_images > trousers.num_images


def test_renamed_classes_keep_files_and_figures(trained: Trained, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    (folder / "labels.toml").write_text('[rename]\nhat = "cap"\n[classes]\ncap = "other"\n')

    with command_line(folder) as invoke:
        status, output = invoke("relabel", "models/wardrobe/1", "labels.toml")

    old, new = (read_card(folder / "models" / "wardrobe" / version) for version in ("1", "2"))
    assert status == 0
    assert "hat                              -> cap, in other\n" in output
    assert new.sha256 == old.sha256
    assert [(info.label, info.group) for info in new.classes][-1] == ("cap", "other")
    assert new.metrics["validation"].accuracy == old.metrics["validation"].accuracy
    assert [row.label for row in new.metrics["validation"].per_class] == ["shirt", "pants", "cap"]
    assert new.training.config["label_map"]["rename"]["Hat"] == "cap"


@pytest.mark.parametrize(
    ("label", "number", "words", "message"),
    [
        ("Scarf", 4, [], "'Scarf' has 4 pictures that can be used. At least 5 are needed"),
        ("Hats", 6, [], "The model has a class 'hat' already: call the folder 'Hats' so"),
        ("T-Shirt", 6, [], "There is no new class to teach: T-Shirt are no news to this model"),
        ("Scarf", 6, ["--drawer", "Scarf=neck"], "--drawer 'Scarf=neck' names no drawer. There are: tops"),
        ("Scarf", 6, ["--drawer", "Shawl=tops"], "is of no new class. It must be label=drawer; new: Scarf"),
    ],
)
def test_what_cannot_be_taught_is_refused(
    trained: Trained, label: str, number: int, words: list[str], message: str, tmp_path: Path
) -> None:
    """Before a version is written."""
    folder, own = copied(trained, tmp_path / "work"), write_scarves(tmp_path / "own", label=label, number=number)

    with command_line(folder) as invoke, pytest.raises(WardrobeError, match=re.escape(message)):
        invoke("teach", "models/wardrobe/1", str(own), *words)

    assert [path.name for path in (folder / "models" / "wardrobe").iterdir()] == ["1"]
