import base64
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from app.artifact import Artifact
from app.engines import load_artifact
from app.images import decode
from app.served_version import ServedVersion, read_pointer
from app.settings import Settings
from tests.app.service import parts, running, wait_for
from training.data import CLASS_NAMES, Dataset, Splits
from training.evaluate import fit_temperature, predict_dataset, to_png
from training.export import ParityError, evaluate_on_test, export
from training.fit import FitResult, build_network, predict


@pytest.fixture
def models(exported: Artifact, tmp_path: Path) -> Path:
    """A models folder of the test's own, with version 1 in it."""
    folder = tmp_path / "models"
    copy = folder / "fashion-mnist" / "1"
    copy.mkdir(parents=True)
    for path in exported.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return folder


def test_card_says_what_was_trained(exported: Artifact, tiny_result: FitResult, sample: Splits) -> None:
    card = exported.card

    assert exported.folder.parts[-2:] == ("fashion-mnist", "1")
    assert card.class_names == list(CLASS_NAMES)
    assert card.training.config == tiny_result.config.to_dict()
    assert card.training.history == tiny_result.history
    assert card.training.command == "a test"
    assert card.training.num_parameters == sum(p.numel() for p in tiny_result.network.parameters())
    assert card.training.library_versions["torch"] == version("torch")
    assert (card.data.num_train, card.data.num_validation, card.data.num_test) == (1_500, 500, 500)
    assert card.data.sha256 == sample.sha256
    assert len(card.golden) == 10
    assert list(card.metrics) == ["validation"]  # the test part is not looked at


def test_card_has_the_files_digests(exported: Artifact) -> None:
    found = {name: sha256((exported.folder / name).read_bytes()).hexdigest() for name in exported.card.sha256}

    assert found == exported.card.sha256
    assert sorted(found) == ["model.onnx", "model.pt"]
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "card.json",
        "model.onnx",
        "model.pt",
        "report.html",
    ]


def test_the_exported_files_name_no_path_of_the_machine(exported: Artifact) -> None:
    repository = str(Path(__file__).parents[2]).encode()

    contents = [path.read_bytes() for path in exported.folder.iterdir()]

    assert len(contents) == 4
    assert not any(repository in content for content in contents)


def test_validation_figures_agree_with_a_recount(exported: Artifact, tiny_result: FitResult, sample: Splits) -> None:
    """Counted again from the network before its export, without decoder, preprocessing or metrics library."""
    labels = sample.validation.labels
    mirrored = Dataset(sample.validation.images.flip(2), labels)
    mean, std = tiny_result.mean, tiny_result.std
    straight_logits, mirrored_logits = (
        predict(tiny_result.network, pictures, mean=mean, std=std, device="cpu").clone()
        for pictures in (sample.validation, mirrored)
    )
    logits = (straight_logits + mirrored_logits) / 2
    predictions = logits.argmax(1)

    metrics = exported.card.metrics["validation"]

    confusion = torch.zeros(10, 10, dtype=torch.long)
    for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True):
        confusion[label, prediction] += 1
    assert metrics.confusion_matrix == confusion.tolist()
    assert metrics.accuracy == (predictions == labels).sum().item() / 500
    assert exported.card.robustness.accuracy["as published"] == metrics.accuracy
    assert exported.card.robustness.num_images == 500
    temperature = exported.card.thresholds.temperature
    assert temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-3)
    expected_loss = torch.nn.functional.cross_entropy(logits / temperature, labels).item()
    assert metrics.log_loss == pytest.approx(expected_loss, abs=1e-4)


def test_onnx_runtime_agrees_with_torchscript(exported: Artifact, sample: Splits) -> None:
    """On real pictures, in batches of every size."""
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    rgb = [np.repeat(image.numpy()[:, :, None], 3, axis=2) for image in sample.test.images[:33]]
    inputs = np.stack([exported.preprocess(pixels) for pixels in rgb])

    for num_images in (1, 2, 33):
        batch = inputs[:num_images]
        (logits,) = session.run(["logits"], {"images": batch})
        assert logits == pytest.approx(exported.engine.outputs(batch)[0], abs=1e-3)


TORCH_ALONE = """
import sys
sys.modules["app"] = sys.modules["training"] = sys.modules["torchvision"] = None  # importing them fails
import torch
model = torch.jit.load(sys.argv[1])
image = torch.frombuffer(bytearray(sys.stdin.buffer.read()), dtype=torch.uint8).reshape(28, 28).expand(3, 28, 28)
print(model(model.preprocess(image)[None]).argmax(1).item())
"""


def test_torchscript_needs_torch_alone(exported: Artifact, sample: Splits, tmp_path: Path) -> None:
    """model.pt classifies in a process that can import neither the project nor torchvision."""
    expected = predict_dataset(exported, sample.test.subset(torch.arange(1))).argmax(1).item()

    process = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", TORCH_ALONE, exported.folder / "model.pt"],
        input=sample.test.images[0].numpy().tobytes(),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )

    assert process.returncode == 0, process.stderr.decode()
    assert int(process.stdout) == expected


def test_exporting_again_makes_the_next_version(
    models: Path, tiny_result: FitResult, sample: Splits, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    """Version 1 is left as it is and stays the one that is served; nothing temporary stays behind."""
    before = snapshot(models)

    artifact = export(tiny_result, _fewer(sample), models_folder=models)

    after = snapshot(models)
    assert artifact.card.version == 2
    assert before.items() <= after.items()
    assert {Path(name).parent.as_posix() for name in after} == {
        "fashion-mnist",
        "fashion-mnist/1",
        "fashion-mnist/2",
    }
    assert read_pointer(models / "fashion-mnist") == ServedVersion(version=1)


def _fewer(sample: Splits) -> Splits:
    return replace(sample, validation=sample.validation.subset(torch.arange(40)))


def test_existing_version_is_never_overwritten(
    models: Path, tiny_result: FitResult, sample: Splits, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    before = snapshot(models)

    with pytest.raises(FileExistsError, match=r"fashion-mnist/1 exists\. Versions are never overwritten"):
        export(tiny_result, sample, models_folder=models, version=1)

    assert snapshot(models) == before


def test_failing_export_leaves_the_folder_as_it_was(
    models: Path, tiny_result: FitResult, sample: Splits, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    """A diverged network has no parity with anything: no version 2, nothing temporary, version 1 still loads."""
    network = build_network(tiny_result.config).eval()
    with torch.no_grad():
        network.head.weight.fill_(torch.nan)
    before = snapshot(models)

    with pytest.raises(ParityError, match="differ from the trained network by nan"):
        export(replace(tiny_result, network=network), sample, models_folder=models)

    assert snapshot(models) == before
    assert sorted(path.name for path in models.iterdir()) == ["fashion-mnist"]
    assert load_artifact(models / "fashion-mnist" / "1").card.version == 1


def test_test_figures_are_written_once(
    models: Path, sample: Splits, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    """The first measurement goes into card and report; the second compares and changes no byte."""
    folder = models / "fashion-mnist" / "1"
    before = snapshot(folder)

    first = evaluate_on_test(folder, sample)
    written = snapshot(folder)
    second = evaluate_on_test(folder, sample)

    assert first.recorded is None
    assert second.recorded == first.measured
    assert snapshot(folder) == written
    card = load_artifact(folder).card
    assert card.metrics["test"] == first.measured
    assert card.metrics["test"].num_images == 500
    assert {name for name in written if written[name] != before[name]} == {"card.json", "report.html"}
    assert f"{100 * first.measured.accuracy:.2f}\N{NO-BREAK SPACE}%" in written["report.html"].decode()


def test_report_is_one_file(exported: Artifact) -> None:
    """Nothing in it is loaded from elsewhere, and nothing in it runs."""
    page = (exported.folder / "report.html").read_text(encoding="utf-8")

    references = re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']?([^"'>\s]{0,20})""", page)
    assert len(references) >= 3  # curves, confusion matrix, reliability diagram
    assert all(reference.startswith("data:image/png;base64,"[:20]) for reference in references)
    assert not re.search(r"<\s*(script|link|iframe|object|embed|base|form)\b|@import|url\(", page)


def test_report_holds_the_figures(exported: Artifact, tiny_result: FitResult) -> None:
    page = (exported.folder / "report.html").read_text(encoding="utf-8")
    metrics = exported.card.metrics["validation"]
    num_wrong = 500 - round(500 * metrics.accuracy)

    for text in (
        "fashion-mnist, version 1",
        f"{100 * metrics.accuracy:.2f}\N{NO-BREAK SPACE}%",
        f"{metrics.calibration_error:.4f}",
        f"{exported.card.thresholds.temperature:.3f}",
        f"of {num_wrong} misclassified validation pictures",
        exported.card.sha256["model.pt"],
        *CLASS_NAMES,
    ):
        assert text in page
    for row in metrics.per_class:
        assert f"{100 * row.recall:.2f}\N{NO-BREAK SPACE}%" in page
    pngs = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert all(decode(base64.b64decode(png)).format == "PNG" for png in pngs)


async def test_service_serves_what_was_exported(exported: Artifact, sample: Splits) -> None:
    """Train, export, serve: the answer to a picture is what the trained network says about it."""
    pictures = sample.test.subset(torch.arange(8))
    logits = predict_dataset(exported, pictures)
    expected = torch.softmax(logits / exported.card.thresholds.temperature, 1).max(1)

    settings = Settings(models_dir=exported.folder.parents[1], default_model="fashion-mnist", num_threads=1)
    async with running(settings) as client:
        await wait_for(client, "/health/ready")
        response = await client.post("/predict", files=parts(*(to_png(image.numpy()) for image in pictures.images)))
        card = (await client.get("/models/fashion-mnist")).json()
        report = await client.get("/models/fashion-mnist/report")

    answer = response.json()
    model = {"name": "fashion-mnist", "version": 1, "digest": exported.digest}
    assert [p["model"] for p in answer["predictions"]] == [model] * 8
    assert [p["label"] for p in answer["predictions"]] == [CLASS_NAMES[k] for k in expected.indices.tolist()]
    assert [p["probability"] for p in answer["predictions"]] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert card["metrics"]["validation"]["accuracy"] == exported.card.metrics["validation"].accuracy
    assert report.headers["content-type"].startswith("text/html")
    assert report.content == (exported.folder / "report.html").read_bytes()
