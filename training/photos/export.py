"""From a photo run to models/<name>/<version>/: calibrated on validation photos, measured on test photos."""

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from app.artifact import (
    EMBEDDING_OUTPUT,
    EVIDENCE_OUTPUT,
    GARMENT_OUTPUT,
    LOGITS_OUTPUT,
    ONNX_NAME,
    REPORT_NAME,
    SAFETENSORS_NAME,
    TORCHSCRIPT_NAME,
    Artifact,
    Card,
    ClassInfo,
    DataSource,
    GoldenPrediction,
    InputRule,
    Metrics,
    Part,
    RefusalMetrics,
    Study,
    Thresholds,
    Training,
)
from app.engines import load_artifact
from app.engines.torchscript import TorchScriptEngine, load_torchscript
from training.data import DatasetError
from training.evaluate import fit_temperature, to_png
from training.export import (
    compare,
    digests,
    export_onnx,
    export_safetensors,
    export_torchscript,
    library_versions,
    num_parameters,
    staged,
    trace,
    write_card,
)
from training.photos.calibrate import (
    fit_garment_threshold,
    fit_prediction_set,
    fit_review_threshold,
    members,
)
from training.photos.dataset import Columns, PhotoDataset, Photos
from training.photos.evaluate import (
    Predictions,
    measure_photo_robustness,
    measure_photos,
    measure_refusals,
    predict_rows,
)
from training.photos.fit import PhotoFitResult
from training.photos.labels import NOT_A_GARMENT, UNKNOWN
from training.photos.network import ExplainedNetwork
from training.photos.preprocess import PIXEL_MEAN, PIXEL_STD, ExportedPhotoClassifier
from training.photos.splits import TEST, TRAIN, VALIDATION
from training.promote import CORRECTIONS
from training.report import write_report

NUM_PARITY_IMAGES = 32
OUTPUT_NAMES = [LOGITS_OUTPUT, GARMENT_OUTPUT, EVIDENCE_OUTPUT, EMBEDDING_OUTPUT]


@dataclass(frozen=True, slots=True)
class About:
    """What a card says of its data, and no figure can."""

    description: str
    data_name: str
    data_license: str
    limits: tuple[str, ...]


def export_photos(
    result: PhotoFitResult,
    dataset: PhotoDataset,
    about: About,
    *,
    models_folder: Path,
    name: str,
    gallery: bool,
    safetensors: bool = False,
) -> Artifact:
    """Export a run as the next version of `name` and return it as the service would load it.

    Temperature, prediction sets and thresholds are fitted on the validation photos. With `gallery` the report shows
    misclassified photos; without, it names them.

    Raises:
        ParityError: TorchScript or ONNX disagrees with the trained network.
    """
    num_classes, size_pixels = len(result.label_map.classes), result.config.size_pixels
    photos = dataset.photos.part(VALIDATION)
    with staged(models_folder, name) as folder:
        export_network(
            ExplainedNetwork(result.network),
            folder,
            num_classes=num_classes,
            size_pixels=size_pixels,
            images=photos.images[:NUM_PARITY_IMAGES],
        )
        if safetensors:
            export_safetensors(result.network, folder / SAFETENSORS_NAME)
        engine = TorchScriptEngine(load_torchscript(folder / TORCHSCRIPT_NAME))
        card = _draft_card(result, dataset, about, folder)
        predictions = predict_rows(Artifact(folder, card, engine), photos.rows, description="validation")
        thresholds = fit_thresholds(predictions, photos, num_classes=num_classes)
        card = card.model_copy(update={"thresholds": thresholds})
        with_class = photos.with_class(num_classes)
        card = card.model_copy(
            update={
                "robustness": measure_photo_robustness(
                    Artifact(folder, card, engine),
                    with_class.rows,
                    with_class.targets,
                    predictions=predictions.subset(photos.has_class(num_classes)),
                ),
                "golden": golden_predictions(Artifact(folder, card, engine)),
                "metrics": {VALIDATION: measure_part(predictions, photos, card)},
                "refusals": measure_part_refusals(predictions, photos, card, part=VALIDATION),
            }
        )
        write_card(card, folder)
        write_photo_report(card, folder, predictions, photos, part=VALIDATION, gallery=gallery)
    return load_artifact(models_folder / name / folder.name)


def export_network(network: nn.Module, folder: Path, *, num_classes: int, size_pixels: int, images: Tensor) -> None:
    """Write both files and compare them with the network on `images`, uint8 (N, 3, H, W).

    `network` is an ExplainedNetwork or gives what one does, of at least `num_classes` classes.

    Raises:
        ParityError: TorchScript or ONNX disagrees with it.
    """
    network.eval()
    classifier = ExportedPhotoClassifier(network, num_classes=num_classes, size_pixels=size_pixels).eval()
    example = torch.zeros(2, 3, size_pixels, size_pixels)
    traced = trace(network, example)  # the backbone's package cannot be scripted
    scriptable = ExportedPhotoClassifier(traced, num_classes=num_classes, size_pixels=size_pixels).eval()
    export_torchscript(scriptable, folder / TORCHSCRIPT_NAME)
    export_onnx(classifier, folder / ONNX_NAME, example=example, output_names=OUTPUT_NAMES)
    check_parity(classifier, folder, images)


@dataclass(frozen=True, slots=True)
class PhotoTestOutcome:
    """Test figures measured now, and those that stood in the card before (None: these are the first).

    `differences` name what is not the same in both.
    """

    measured: Metrics
    refusals: list[RefusalMetrics]
    recorded: Metrics | None
    differences: list[str]


def evaluate_photos_on_test(
    folder: Path, dataset: PhotoDataset, *, studies: Sequence[Study] = (), gallery: bool
) -> PhotoTestOutcome:
    """Measure an exported model on the test part and write the figures, and `studies`, into its card and report, once.

    When the card has them already, they are measured again for comparison and nothing is written.

    Raises:
        DatasetError: there is nothing to test with.
    """
    artifact = load_artifact(folder)
    card = artifact.card
    photos = dataset.photos.part(TEST)
    if not photos.has_class(len(card.classes)).any():
        raise DatasetError("The test part has no photo with a class. It takes more photos, or smaller groups.")
    predictions = predict_rows(artifact, photos.rows, description="test")
    measured = measure_part(predictions, photos, card)
    refusals = measure_part_refusals(predictions, photos, card, part=TEST)
    recorded = card.metrics.get(TEST)
    differences = [] if recorded is None else find_differences(recorded, card.refusals, measured, refusals)
    if recorded is None:
        card = card.model_copy(
            update={
                "metrics": {**card.metrics, TEST: measured},
                "refusals": refusals,
                "studies": [*card.studies, *studies],
            }
        )
        write_photo_report(card, folder, predictions, photos, part=TEST, gallery=gallery)
        write_card(card, folder)
    return PhotoTestOutcome(measured, refusals, recorded, differences)


def find_differences(
    recorded: Metrics,
    recorded_refusals: Sequence[RefusalMetrics],
    measured: Metrics,
    measured_refusals: Sequence[RefusalMetrics],
) -> list[str]:
    """Names of the figures that are not the same; intervals, which follow from the others, are not compared."""
    differences = []
    if recorded.confusion_matrix != measured.confusion_matrix:
        differences.append("confusion matrix")
    if _figures(recorded) != _figures(measured):
        differences.append("prediction sets")
    found = {row.pictures: row for row in measured_refusals}
    said = {row.pictures: row for row in recorded_refusals}
    for pictures in [*said, *(pictures for pictures in found if pictures not in said)]:
        old, new = said.get(pictures), found.get(pictures)
        if not (old and new and old.num_images == new.num_images and math.isclose(old.refused, new.refused)):
            differences.append(f"refusals of {pictures}")
    return differences


def _figures(metrics: Metrics) -> tuple[float, ...]:
    """Of the prediction sets, to nine digits: counts of pictures, divided."""
    sets = metrics.prediction_sets
    if sets is None:
        return ()
    return tuple(round(value, 9) for value in (sets.level, sets.coverage, sets.mean_size, sets.share_of_size_one))


def check_parity(classifier: ExportedPhotoClassifier, folder: Path, images: Tensor) -> None:
    """Both exported files against the network they came from, on real pictures."""
    scripted = load_torchscript(folder / TORCHSCRIPT_NAME)
    session = onnxruntime.InferenceSession(folder / ONNX_NAME, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        batch = torch.stack([classifier.preprocess(image) for image in images])
        compare("model.pt, preprocess", torch.stack([scripted.preprocess(image) for image in images]), batch)
        found = session.run(None, {"images": batch.numpy()})
        for what, expected, torchscript, onnx in zip(
            OUTPUT_NAMES, classifier(batch), scripted(batch), found, strict=True
        ):
            compare(f"model.pt, {what}", torchscript, expected)
            compare(f"model.onnx, {what}", torch.from_numpy(onnx), expected)


def fit_thresholds(predictions: Predictions, photos: Photos, *, num_classes: int) -> Thresholds:
    """All that turns the network's outputs into answers, from photos that it was not trained on."""
    with_class = photos.has_class(num_classes)
    logits, labels = predictions.logits[with_class], photos.targets[with_class]
    temperature = fit_temperature(logits, labels)
    probabilities = torch.softmax(logits / temperature, 1)
    rule = fit_prediction_set(probabilities, labels)
    negatives = photos.targets == NOT_A_GARMENT
    garment_score = None
    if predictions.garment is not None and negatives.any():  # else the garment head has learned nothing
        labelled = photos.targets >= 0  # garments in other styles are measured, not fitted on: they are too few
        garment_score = fit_garment_threshold(predictions.garment[labelled], predictions.garment[negatives])
    return Thresholds(
        temperature=temperature,
        prediction_set=rule,
        review_below=fit_review_threshold(probabilities, labels, rule),
        garment_score=garment_score,
    )


def measure_part(predictions: Predictions, photos: Photos, card: Card) -> Metrics:
    """Figures of the photos that have a class, as they are labelled."""
    thresholds = card.thresholds
    assert thresholds.prediction_set is not None
    assert thresholds.review_below is not None
    chosen = photos.has_class(len(card.classes))
    rows = [row for row, wanted in zip(photos.rows, chosen.tolist(), strict=True) if wanted]
    of_classes = predictions.subset(chosen)
    probabilities = torch.softmax(of_classes.logits / thresholds.temperature, 1)
    return measure_photos(
        of_classes,
        photos.targets[chosen],
        [row.group for row in rows],
        class_names=card.class_names,
        temperature=thresholds.temperature,
        sets=members(thresholds.prediction_set, probabilities),
        level=thresholds.prediction_set.level,
        review_below=thresholds.review_below,
        garment_score=thresholds.garment_score,
        slices={Columns(**card.training.config["columns"]).slice_name: torch.tensor([row.in_slice for row in rows])},
    )


def measure_part_refusals(predictions: Predictions, photos: Photos, card: Card, *, part: Part) -> list[RefusalMetrics]:
    """How many pictures of each kind are called no garment; empty for a model that calls none so."""
    threshold = card.thresholds.garment_score
    if threshold is None or predictions.garment is None:
        return []
    in_slice = torch.tensor([row.in_slice for row in photos.rows])
    has_class = photos.has_class(len(card.classes))
    kinds = {
        "photos with one of the classes": has_class,
        Columns(**card.training.config["columns"]).slice_name: in_slice,
    }
    for label in sorted({row.label for row in photos.rows}):
        of_label = torch.tensor([row.label == label for row in photos.rows])
        if not has_class[of_label].any():
            kinds[label] = of_label
    return [
        measure_refusals(
            kind,
            predictions.garment[chosen],
            [photos.rows[index].group for index in chosen.nonzero().flatten().tolist()],
            threshold=threshold,
            is_garment=not bool((photos.targets[chosen] == NOT_A_GARMENT).any()),
            part=part,
        )
        for kind, chosen in kinds.items()
        if chosen.any()
    ]


def write_photo_report(
    card: Card, folder: Path, predictions: Predictions, photos: Photos, *, part: Part, gallery: bool
) -> None:
    chosen = photos.has_class(len(card.classes))
    subset = photos.subset(chosen.nonzero().flatten().tolist())
    write_report(
        card,
        folder / REPORT_NAME,
        subset.targets,
        predictions.logits[chosen],
        part=part,
        names=[row.name for row in subset.rows],
        images=subset.images.permute(0, 2, 3, 1) if gallery else None,
    )


def golden_predictions(artifact: Artifact) -> list[GoldenPrediction]:
    """Drawn pictures, so that the card carries nobody's photo, with what the exported file says of them here."""
    golden = []
    for pixels in drawn_pictures():
        scores = artifact.scores(artifact.preprocess(pixels)[None])[0]
        golden.append(
            GoldenPrediction(
                image_base64=base64.b64encode(to_png(pixels)).decode(),
                probabilities=scores.probabilities.tolist(),
                garment_score=scores.garment,
            )
        )
    return golden


def drawn_pictures() -> list[np.ndarray]:
    """A T-shirt, trousers and a sunset, uint8 (200, 150, 3)."""
    shapes = {
        "firebrick": [
            (45, 40),
            (105, 40),
            (140, 80),
            (120, 95),
            (108, 82),
            (108, 165),
            (42, 165),
            (42, 82),
            (30, 95),
            (10, 80),
        ],
        "navy": [(50, 25), (100, 25), (115, 180), (85, 180), (75, 80), (65, 180), (35, 180)],
    }
    pictures = []
    for colour, outline in shapes.items():
        image = Image.new("RGB", (150, 200), "wheat")
        ImageDraw.Draw(image).polygon(outline, fill=colour)
        pictures.append(np.asarray(image))
    rows = np.linspace(0, 1, 200)[:, None, None]
    sky = rows * [255, 140, 60] + (1 - rows) * [60, 90, 160]
    pictures.append(np.broadcast_to(sky, (200, 150, 3)).astype(np.uint8))
    return pictures


def _draft_card(result: PhotoFitResult, dataset: PhotoDataset, about: About, folder: Path) -> Card:
    """Everything that is known before the first photo is predicted."""
    config, size_pixels = result.config, result.config.size_pixels
    class_names = list(result.label_map.classes)
    placeholder = GoldenPrediction(image_base64="", probabilities=[0.0] * len(class_names))
    return Card(
        name=folder.parent.name,
        version=int(folder.name),
        description=about.description,
        classes=[ClassInfo(label=label, group=group) for label, group in result.label_map.classes.items()],
        input=InputRule(
            channels=3,
            size_pixels=size_pixels,
            description=f"Any size: the whole picture, squeezed to {size_pixels}x{size_pixels} pixels in colour.",
            recipe="squeezed",
            mean=PIXEL_MEAN,
            std=PIXEL_STD,
        ),
        thresholds=Thresholds(temperature=1.0),
        data=DataSource(
            name=about.data_name,
            source=dataset.source,
            license=about.data_license,
            sha256={"files, labels and parts": dataset.sha256}
            | ({CORRECTIONS: dataset.corrections_sha256} if dataset.num_corrections else {}),
            num_train=len(dataset.photos.part(TRAIN)),
            num_validation=len(dataset.photos.part(VALIDATION)),
            num_test=len(dataset.photos.part(TEST)),
            split_rule=describe_split(dataset, seed=config.seed),
        ),
        metrics={},
        robustness=None,
        training=Training(
            command=result.command,
            config={
                **config.to_dict(),
                "label_map": result.label_map.to_dict(),
                "columns": asdict(dataset.columns),
                "num_excluded": dataset.num_excluded,
                **({"started_from": result.started_from} if result.started_from else {}),
            },
            seed=config.seed,
            seconds=sum(record.seconds for record in result.history),
            device=result.device,
            exported_at=datetime.now(UTC).replace(microsecond=0),
            library_versions=library_versions(),
            num_parameters=num_parameters(result.network),
            history=result.history,
        ),
        limits=list(about.limits),
        sha256=digests(folder),
        golden=[placeholder],
    )


def describe_split(dataset: PhotoDataset, *, seed: int) -> str:
    """What keeps the parts apart, for the card, and what does not."""
    columns = dataset.columns
    rule = "no sender or source is in two parts; "
    rule += f"the column {columns.part!r} of the data" if columns.part else f"stratified by label, seed {seed}"
    if (dataset.photos.targets == UNKNOWN).any():
        rule += (
            ". Pictures of unknown classes are the exception: all are in the test part, and may come from senders or "
            "sources that training pictures come from"
        )
    if dataset.num_corrections:
        rule += f". {dataset.num_corrections} corrections from a wardrobe are in the training part besides"
    return rule
