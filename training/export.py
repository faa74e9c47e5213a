"""From a run to models/<name>/<version>/: TorchScript, ONNX, card and report, verified, moved in place whole."""

import base64
import hashlib
import io
import os
import platform
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import get_args

import onnx
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from app.artifact import (
    CARD_NAME,
    ONNX_NAME,
    REPORT_NAME,
    SAFETENSORS_NAME,
    TORCHSCRIPT_NAME,
    Artifact,
    Card,
    ClassInfo,
    DataSource,
    FileName,
    GoldenPrediction,
    InputRule,
    Metrics,
    Part,
    Thresholds,
    Training,
)
from app.engines import load_artifact
from app.engines.torchscript import load_torchscript
from app.errors import WardrobeError
from training.data import CLASS_NAMES, DRAWER_GROUPS, Dataset, Splits
from training.evaluate import fit_temperature, measure, measure_robustness, predict_dataset, to_png
from training.fit import FitResult, predict
from training.preprocess import SIZE_PIXELS, ExportedClassifier
from training.promote import pin
from training.report import write_report

# float32 with folded BatchNorm against float32 without: 1e-5 is usual, a wrong layer gives 0.1 and more.
PARITY_TOLERANCE = 1e-3
NUM_PARITY_IMAGES = 256
NUM_ROBUSTNESS_IMAGES = 1_000
LIBRARIES = ("torch", "numpy", "pillow", "onnxruntime")
# Bag: 88 to 96 % of 318 photos, measured with a 92.1 % network. White products: Xiao et al. (2017). Labels: arXiv
# 1912.05283. People: 1,000 pictures, majority of 3, the data set's own README.
LIMITS = [
    "Trained on shop pictures of one garment on a plain background, 28x28 pixels, grey. It does not sort photos: "
    "on phone pictures of clothes nearly everything becomes 'Bag'.",
    "Knows ten classes and must choose one of them; a picture of anything else gets a label too.",
    "White garments were left out of the data set; they are classified worst.",
    "The data set's labels have errors: at least 64 training pictures are known to be wrong or badly cut.",
    "'Shirt', 'T-shirt/top', 'Pullover' and 'Coat' look alike at 28x28 pixels: most mistakes are among them. People "
    "agree with the labels on 83.5 % of the pictures.",
]


class ParityError(WardrobeError):
    """An exported file does not compute what the trained network computes."""


def export(
    result: FitResult,
    splits: Splits,
    *,
    models_folder: Path,
    name: str = "fashion-mnist",
    version: int | None = None,
    safetensors: bool = False,
) -> Artifact:
    """Export a run as the next (or the given) version of `name` and return it as the service would load it.

    Everything is built beside its destination; a failure leaves the model folder as it was.

    Raises:
        ParityError: TorchScript or ONNX disagrees with the trained network.
        FileExistsError: that version is there already.
    """
    with staged(models_folder, name, version) as folder:
        classifier = ExportedClassifier(
            result.network, mean=result.mean, std=result.std, mirror=result.config.flip
        ).eval()
        export_torchscript(classifier, folder / TORCHSCRIPT_NAME)
        export_onnx(
            classifier,
            folder / ONNX_NAME,
            example=torch.zeros(2, 1, SIZE_PIXELS, SIZE_PIXELS),
            output_names=["logits"],
        )
        check_parity(classifier, folder, splits.validation)
        if safetensors:
            export_safetensors(result.network, folder / SAFETENSORS_NAME)

        card = _draft_card(result, classifier, splits, folder)
        write_card(card, folder)
        artifact = load_artifact(folder)
        logits = predict_dataset(artifact, splits.validation)
        temperature = fit_temperature(logits, splits.validation.labels)
        metrics = measure(logits, splits.validation.labels, class_names=card.class_names, temperature=temperature)
        card = card.model_copy(
            update={
                "thresholds": Thresholds(temperature=temperature),
                "metrics": {"validation": metrics},
                "golden": golden_predictions(splits.validation, logits, temperature=temperature),
                "robustness": measure_robustness(artifact, _first(splits.validation, NUM_ROBUSTNESS_IMAGES)),
            }
        )
        write_card(card, folder)
        _write_report(card, folder, splits.validation, logits, part="validation")
    return load_artifact(models_folder / name / folder.name)


@contextmanager
def staged(models_folder: Path, name: str, version: int | None = None) -> Iterator[Path]:
    """A folder `<name>/<version>` to build the given or next version in; moved in place if it is fit to serve.

    What is served does not change by it, unless it is the model's first version.

    Raises:
        FileExistsError: that version is there already.
        ArtifactError: what was built is not what its card says.
    """
    version = version or next_version(models_folder / name)
    destination = models_folder / name / str(version)
    if destination.exists():
        raise FileExistsError(f"{destination} exists. Versions are never overwritten: take the next one.")
    models_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=models_folder) as temporary:
        folder = Path(temporary) / name / str(version)
        folder.mkdir(parents=True)
        yield folder
        load_artifact(folder)  # what will be served: digests, schema and golden predictions of the final card
        destination.parent.mkdir(exist_ok=True)
        pin(destination.parent)
        shutil.move(folder, destination)


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """Test figures measured now, and those that stood in the card before (None: these are the first).

    `logits` (N, K) are what they were measured from.
    """

    measured: Metrics
    recorded: Metrics | None
    logits: Tensor


def evaluate_on_test(folder: Path, splits: Splits) -> TestOutcome:
    """Measure an exported model on the test part and write the figures into its card and report, once.

    When the card has them already, they are measured again for comparison and nothing is written.
    """
    artifact = load_artifact(folder)
    card = artifact.card
    logits = predict_dataset(artifact, splits.test)
    measured = measure(
        logits, splits.test.labels, class_names=card.class_names, temperature=card.thresholds.temperature
    )
    recorded = card.metrics.get("test")
    if recorded is None:
        card = card.model_copy(update={"metrics": {**card.metrics, "test": measured}})
        _write_report(card, folder, splits.test, logits, part="test")
        write_card(card, folder)
    return TestOutcome(measured, recorded, logits)


def next_version(model_folder: Path) -> int:
    found = [int(path.name) for path in model_folder.glob("*") if path.name.isdecimal()]
    return max(found, default=0) + 1


def export_torchscript(classifier: nn.Module, path: Path) -> None:
    """Script and save with the preprocessing; weights keep their names, for whoever wants to train on."""
    with _torchscript_allowed():
        torch.jit.script(classifier).save(path)
    _drop_source_locations(path)


def trace(network: nn.Module, example: Tensor) -> nn.Module:
    """A network that `export_torchscript` can take as part of another one, where its own source cannot be scripted.

    `example` is a batch of any content.
    """
    with _torchscript_allowed():
        traced: nn.Module = torch.jit.trace(network, example)
    return traced


@contextmanager
def _torchscript_allowed() -> Iterator[None]:
    """It is deprecated in favour of torch.export, which keeps no method but forward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def export_safetensors(network: nn.Module, path: Path) -> None:
    """Weights and statistics by name, as the trained network has them: without preprocessing and mirroring."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def export_onnx(classifier: nn.Module, path: Path, *, example: Tensor, output_names: Sequence[str]) -> None:
    """The forward pass alone, with a dynamic batch: preprocessing stays with TorchScript.

    `example` is a batch (2, C, S, S) of any content.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations: nothing the user could act on
        torch.onnx.export(
            classifier,
            (example,),
            path,
            input_names=["images"],
            output_names=list(output_names),
            dynamic_shapes={"batch": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.graph.value_info):  # stack traces with this machine's paths
        part.ClearField("metadata_props")
    onnx.save(model, path)


def _drop_source_locations(path: Path) -> None:
    """Take out of a TorchScript archive what only names this machine's source files; it is not needed for loading."""
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(path, "w") as stripped:
        for entry in archive.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                stripped.writestr(entry, archive.read(entry))


def check_parity(classifier: ExportedClassifier, folder: Path, dataset: Dataset) -> None:
    """Both exported files against the network they came from, on real pictures."""
    images = dataset.images[:NUM_PARITY_IMAGES]
    rgb = images[:, None].expand(-1, 3, -1, -1)
    scripted = load_torchscript(folder / TORCHSCRIPT_NAME)
    with torch.inference_mode():
        batch = torch.stack([classifier.preprocess(image) for image in rgb])
        expected = classifier(batch)
        compare("model.pt, preprocess", torch.stack([scripted.preprocess(image) for image in rgb]), batch)
        compare("model.pt, logits", scripted(batch), expected)
    session = onnxruntime.InferenceSession(folder / ONNX_NAME, providers=["CPUExecutionProvider"])
    compare("model.onnx, logits", torch.from_numpy(session.run(None, {"images": batch.numpy()})[0]), expected)


def compare(what: str, found: Tensor, expected: Tensor) -> None:
    difference = (found - expected).abs().max().item()
    if not difference <= PARITY_TOLERANCE:
        raise ParityError(f"{what} differ from the trained network by {difference:.2e}, more than {PARITY_TOLERANCE}.")


def golden_predictions(dataset: Dataset, logits: Tensor, *, temperature: float) -> list[GoldenPrediction]:
    """The first picture of each class, with the probabilities that the exported file gave it here."""
    probabilities = torch.softmax(logits / temperature, 1)
    golden = []
    for label in dataset.labels.unique().tolist():
        index = int((dataset.labels == label).nonzero()[0])
        content = base64.b64encode(to_png(dataset.images[index].numpy())).decode()
        golden.append(GoldenPrediction(image_base64=content, probabilities=probabilities[index].tolist()))
    return golden


def library_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{library: version_of(library) for library in LIBRARIES}}


def digests(folder: Path) -> dict[FileName, str]:
    """Of the files with weights that are there."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in get_args(FileName)
        if (folder / name).exists()
    }


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _first(dataset: Dataset, num_images: int) -> Dataset:
    return dataset.subset(torch.arange(min(num_images, len(dataset))))


def _write_report(card: Card, folder: Path, dataset: Dataset, logits: Tensor, *, part: Part) -> None:
    names = [f"{part} picture {index}" for index in range(len(dataset))]
    write_report(card, folder / REPORT_NAME, dataset.labels, logits, part=part, names=names, images=dataset.images)


def write_card(card: Card, folder: Path) -> None:
    temporary = folder / f"{CARD_NAME}.tmp"
    temporary.write_text(card.model_dump_json(indent=1) + "\n")
    os.replace(temporary, folder / CARD_NAME)


def _draft_card(result: FitResult, classifier: ExportedClassifier, splits: Splits, folder: Path) -> Card:
    """Everything that is known before the first prediction."""
    config = result.config
    # Of the trained network: the exported file has to reproduce them to be loaded at all.
    trained_logits = predict(classifier, splits.validation, mean=result.mean, std=result.std, device="cpu")
    return Card(
        name=folder.parent.name,
        version=int(folder.name),
        description="Sorts 28x28 grey pictures of single garments into the ten classes of Fashion-MNIST.",
        classes=[ClassInfo(label=label, group=g) for label, g in zip(CLASS_NAMES, DRAWER_GROUPS, strict=True)],
        input=InputRule(
            channels=1,
            size_pixels=SIZE_PIXELS,
            description="Any size and polarity: made grey, negated if its border is light, and, unless 28x28 already, "
            "trimmed, freed of its background level, subsampled to 28x28 and sharpened, as the data set was.",
            recipe="thumbnail",
            mean=result.mean,
            std=result.std,
        ),
        thresholds=Thresholds(temperature=1.0),
        data=DataSource(
            name="Fashion-MNIST",
            source=splits.source,
            license="MIT",
            sha256=splits.sha256,
            num_train=len(splits.train),
            num_validation=len(splits.validation),
            num_test=len(splits.test),
            split_rule=splits.rule,
        ),
        metrics={},
        robustness=None,
        training=Training(
            command=result.command,
            config=config.to_dict(),
            seed=config.seed,
            seconds=sum(record.seconds for record in result.history),
            device=result.device,
            exported_at=datetime.now(UTC).replace(microsecond=0),
            library_versions=library_versions(),
            num_parameters=num_parameters(result.network),
            history=result.history,
        ),
        limits=LIMITS,
        sha256=digests(folder),
        golden=golden_predictions(splits.validation, trained_logits, temperature=1.0),
    )
