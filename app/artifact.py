"""The artefact: what training hands to the service, and the only thing both sides know.

models/<name>/<version>/ holds model.pt (TorchScript with preprocessing inside), model.onnx (the same network for ONNX
Runtime), card.json (`Card`) and report.html. `app.engines` loads it, and refuses a folder whose digests, schema or
golden predictions do not match. Nothing here needs torch: a service without it reads the same contract.
"""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import ArtifactError
from app.images import decode

TORCHSCRIPT_NAME = "model.pt"
ONNX_NAME = "model.onnx"
SAFETENSORS_NAME = "model.safetensors"
CARD_NAME = "card.json"
REPORT_NAME = "report.html"
# Names of outputs in model.onnx, in the order of model.pt's. A network may lack all but the first, from the end on.
LOGITS_OUTPUT, GARMENT_OUTPUT, EVIDENCE_OUTPUT, EMBEDDING_OUTPUT = "logits", "garment", "evidence", "embedding"


DrawerGroup = Literal["tops", "bottoms", "dresses", "outerwear", "footwear", "headwear", "bags", "other"]
Drawer = DrawerGroup | Literal["review", "not_a_garment"]  # where an item lies: the last two await or need no group
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FileName = Literal["model.pt", "model.onnx", "model.safetensors"]  # of weights; the last on request only


class _CardPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassInfo(_CardPart):
    """One class the network knows, and the drawer it belongs to."""

    label: str = Field(examples=["Ankle boot"])
    group: DrawerGroup = Field(examples=["footwear"])


class InputRule(_CardPart):
    """What `preprocess` makes of a picture of any size."""

    channels: int
    size_pixels: int
    description: str
    recipe: Literal["squeezed", "thumbnail"] | None = Field(
        None,
        description="How a service without torch repeats it: `squeezed` into a square, or as Fashion-MNIST's "
        "`thumbnail`s were made. Without one only TorchScript can serve the model.",
    )
    mean: float = Field(0, description="Subtracted from a pixel of 0..1 before division by `std`.")
    std: float = Field(1, gt=0)


class PredictionSetRule(_CardPart):
    """Every class of at least `min_probability`, and the most probable one, are in the set.

    Split conformal prediction with the probability as score: Sadinle, Lei, Wasserman, Least ambiguous set-valued
    classifiers with bounded error levels (2019).
    """

    level: Share = Field(description="Share of pictures whose true class is to be in the set.", examples=[0.95])
    min_probability: Share

    def members(self, probabilities: np.ndarray) -> np.ndarray:
        """(..., K) float32 -> bool (..., K): the classes in the set of each picture."""
        classes = np.arange(probabilities.shape[-1])
        best: np.ndarray = probabilities.argmax(-1)[..., None] == classes
        return best | (probabilities >= np.float32(self.min_probability))


class Thresholds(_CardPart):
    """Numbers fitted on the validation part that turn logits into answers."""

    temperature: float = Field(gt=0, description="Logits are divided by this before softmax (Guo et al., 2017).")
    prediction_set: PredictionSetRule | None = None
    review_below: Share | None = Field(None, description="A less probable label is for a person to look at.")
    garment_score: Share | None = Field(None, description="A picture below this is called no garment.")


class DataSource(_CardPart):
    """Where the pictures came from and how they were split."""

    name: str
    source: str
    license: str
    sha256: dict[str, Sha256] = Field(
        description="Of each decompressed file, or one of the digests, labels and parts of all photos."
    )
    num_train: int
    num_validation: int
    num_test: int
    split_rule: str


class ClassMetrics(_CardPart):
    label: str
    num_images: int
    precision: Share
    recall: Share
    recall_interval: tuple[Share, Share] = Field(description="95 %, Wilson score interval.")
    f1: Share


class GroupedMetrics(_CardPart):
    """The same figures when pictures of one sender are not independent: 95 % intervals by bootstrap over senders."""

    num_groups: int
    accuracy_interval: tuple[Share, Share]
    macro_recall: Share = Field(description="Mean of the classes' recalls: rare classes count as much as common ones.")
    macro_recall_interval: tuple[Share, Share]


class PredictionSetMetrics(_CardPart):
    """How the prediction sets did."""

    level: Share
    coverage: Share = Field(description="Share of pictures whose true class is in the set.")
    coverage_interval: tuple[Share, Share] = Field(description="95 %, bootstrap over senders.")
    mean_size: float
    share_of_size_one: Share


CLUSTERED_INTERVAL = Field(
    description="95 %, bootstrap over senders; Wilson score interval where `num_groups` is not given; null with too "
    "few senders."
)
Part = Literal["validation", "test", "cross-validation"]


class SliceMetrics(_CardPart):
    """Accuracy on some of the pictures."""

    num_images: int
    num_groups: int | None = Field(None, description="Senders, or other sources, whose pictures they are.")
    accuracy: Share
    accuracy_interval: tuple[Share, Share] | None = CLUSTERED_INTERVAL


class RefusalMetrics(_CardPart):
    """How many pictures of one kind are called no garment."""

    pictures: str = Field(description="What they are.", examples=["nongarment/photo"])
    is_garment: bool
    part: Part | None = Field(None, description="Of the data; not given in cards older than this field.")
    num_images: int
    num_groups: int | None = Field(None, description="Senders, or other sources, whose pictures they are.")
    refused: Share
    refused_interval: tuple[Share, Share] | None = CLUSTERED_INTERVAL


class Metrics(_CardPart):
    """Figures of the exported file on one part of the data, read through the service's decoder."""

    measured_at: datetime
    num_images: int
    accuracy: Share
    accuracy_interval: tuple[Share, Share] = Field(description="95 %, Wilson score interval.")
    log_loss: float = Field(description="Mean negative log-likelihood in nats, calibrated probabilities.")
    calibration_error_uncalibrated: Share = Field(description="Expected calibration error, 15 bins, temperature 1.")
    calibration_error: Share = Field(description="Expected calibration error, 15 bins, with the card's temperature.")
    per_class: list[ClassMetrics]
    confusion_matrix: list[list[int]] = Field(description="Rows are true classes, columns predicted ones.")
    grouped: GroupedMetrics | None = None
    prediction_sets: PredictionSetMetrics | None = None
    slices: dict[str, SliceMetrics] = Field({}, examples=[{"dark garments": {}}])


class Robustness(_CardPart):
    """Figures of `num_images` validation pictures when they arrive in another form than the data set's."""

    num_images: int
    accuracy: dict[str, Share] = Field(examples=[{"400 px": 0.91}])
    refused: dict[str, Share] = Field(
        {},
        description="Share called no garment; empty for a model that calls none so and in cards older than this.",
        examples=[{"400 px": 0.02}],
    )


class Study(_CardPart):
    """A table that belongs to the report and to no other field."""

    title: str
    text: str
    columns: list[str]
    rows: list[list[str]]


class EpochRecord(_CardPart):
    """One row of the learning curve; validation uses the averaged weights."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: Share
    validation_loss: float
    validation_accuracy: Share
    seconds: float


class Training(_CardPart):
    """How the weights came about."""

    command: str
    config: dict[str, Any]
    seed: int
    seconds: float
    device: str
    exported_at: datetime
    library_versions: dict[str, str]
    num_parameters: int
    history: list[EpochRecord]


class GoldenPrediction(_CardPart):
    """A picture whose probabilities the exported file must reproduce wherever it is loaded."""

    image_base64: str
    probabilities: list[Share]
    garment_score: Share | None = None


class PublicCard(_CardPart):
    """The model card as the service shows it."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    description: str
    classes: list[ClassInfo]
    input: InputRule
    thresholds: Thresholds
    data: DataSource
    metrics: dict[Part, Metrics]
    robustness: Robustness | None
    refusals: list[RefusalMetrics] = []
    studies: list[Study] = []
    training: Training
    limits: list[str]
    sha256: dict[FileName, Sha256]

    @property
    def class_names(self) -> list[str]:
        return [info.label for info in self.classes]


class Card(PublicCard):
    """The model card, card.json."""

    golden: list[GoldenPrediction] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if TORCHSCRIPT_NAME not in self.sha256 or ONNX_NAME not in self.sha256:
            raise ValueError("sha256 must name model.pt and model.onnx")
        if any(len(golden.probabilities) != len(self.classes) for golden in self.golden):
            raise ValueError("golden predictions must have one probability for each of the classes")
        return self


class Scores(NamedTuple):
    """What the network says about one picture.

    `probabilities` float32 (K,) are calibrated and sum to 1. `garment` in 0..1 is high for pictures of clothes.
    `embedding` float32 (D,) points in a similar direction for similar pictures. Both are None if the network has no
    such output.
    """

    probabilities: np.ndarray
    garment: float | None
    embedding: np.ndarray | None = None


class Outputs(NamedTuple):
    """Of one forward pass: class logits (N, K), garment logits (N,), embeddings (N, D), float32.

    The last two are None where the network has no such output.
    """

    logits: np.ndarray
    garment: np.ndarray | None
    embedding: np.ndarray | None


class Engine(Protocol):
    """A model file that is loaded and can be run, by several threads at once."""

    @property
    def name(self) -> str:
        """As in `WARDROBE_ENGINE`."""
        ...

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of any size -> float32 (C, S, S)."""
        ...

    def outputs(self, batch: np.ndarray) -> Outputs:
        """float32 (N, C, S, S) -> what the network answers."""
        ...

    def evidence(self, batch: np.ndarray) -> np.ndarray | None:
        """float32 (N, C, S, S) -> (N, K, h, w): what each place of the picture adds to the logit, which is its mean.

        None where the network has no such output.
        """
        ...


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified model folder, loaded."""

    folder: Path
    card: Card
    engine: Engine

    @property
    def digest(self) -> str:
        """SHA-256 of model.pt, which names this model whatever its folder is called and whichever file runs."""
        return self.card.sha256["model.pt"]

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of any size -> float32 (C, S, S), what `scores` takes a batch of."""
        return self.engine.preprocess(pixels)

    def scores(self, batch: np.ndarray) -> list[Scores]:
        """float32 (N, C, S, S) -> what the network says about each of the N pictures, in one forward pass."""
        logits, garment_logits, embeddings = self.engine.outputs(batch)
        scaled = logits / np.float32(self.card.thresholds.temperature)
        exponentials = np.exp(scaled - scaled.max(1, keepdims=True))
        probabilities = exponentials / exponentials.sum(1, keepdims=True)  # (N, K)
        garment: list[float | None] = [None] * len(batch)
        if garment_logits is not None:
            garment = (0.5 * (1 + np.tanh(garment_logits / 2))).tolist()  # the logistic function, without overflow
        rows = embeddings if embeddings is not None else [None] * len(batch)
        return [Scores(*scores) for scores in zip(probabilities, garment, rows, strict=True)]

    def input_picture(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of any size -> uint8 (S, S, 3) or (S, S): what the network gets, to look at."""
        rule = self.card.input
        shown = 255 * (self.preprocess(pixels) * rule.std + rule.mean)  # (C, S, S)
        picture: np.ndarray = shown.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        return picture[:, :, 0] if rule.channels == 1 else picture

    def evidence(self, pixels: np.ndarray) -> np.ndarray | None:
        """uint8 (H, W, 3) -> (K, h, w), see `Engine.evidence`: of the whole picture, squeezed to a square."""
        found = self.engine.evidence(self.preprocess(pixels)[None])
        return None if found is None else found[0]


def read_card(folder: Path) -> Card:
    """Read card.json and check it against its schema and its place.

    Raises:
        ArtifactError: absent, not valid, or of another name or version than its folder.
    """
    try:
        card = Card.model_validate_json((folder / CARD_NAME).read_bytes())
    except OSError as error:
        raise ArtifactError(folder, f"{CARD_NAME} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(folder, f"{CARD_NAME} does not fit the schema: {place}: {first['msg']}.") from error
    if (card.name, str(card.version)) != (folder.parent.name, folder.name):
        raise ArtifactError(folder, f"its card says {card.name}/{card.version}.")
    return card


def verify_digests(folder: Path, card: Card) -> None:
    """Compare the files with the card.

    Raises:
        ArtifactError: one is absent or another file than the card was written for.
    """
    for name, expected in card.sha256.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise ArtifactError(folder, f"{name} cannot be read ({error.strerror}).") from error
        if found != expected:
            raise ArtifactError(folder, f"the SHA-256 of {name} is {found}, its card says {expected}.")


def check_golden(artifact: Artifact, *, tolerance: float) -> None:
    """Repeat the card's golden predictions with the loaded engine.

    Raises:
        ArtifactError: they cannot be computed, or a probability or score differs by more than `tolerance`.
    """
    try:
        differences = [_golden_difference(artifact, golden) for golden in artifact.card.golden]
    except ArtifactError:
        raise
    except Exception as error:  # no picture, or no such network: engines raise what they like
        reason = f"its golden predictions cannot be computed ({last_line(error)})."
        raise ArtifactError(artifact.folder, reason) from error
    for index, difference in enumerate(differences):
        if not difference <= tolerance:  # also refuses NaN
            raise ArtifactError(
                artifact.folder,
                f"golden prediction {index} differs by {difference:.4f}, more than {tolerance}.",
            )


def last_line(error: Exception) -> str:
    """What an engine says is wrong, without the TorchScript code and stack that stand before it."""
    return str(error).strip().rpartition("\n")[2] or type(error).__name__


def _golden_difference(artifact: Artifact, golden: GoldenPrediction) -> float:
    """The largest one of all probabilities and the garment score."""
    pixels = decode(base64.b64decode(golden.image_base64)).pixels
    found = artifact.scores(artifact.preprocess(pixels)[None])[0]
    if (found.garment is None) != (golden.garment_score is None):
        raise ArtifactError(artifact.folder, "its golden predictions and the network disagree on a garment score.")
    differences = np.abs(found.probabilities - np.array(golden.probabilities))
    return float(np.max([differences.max(), abs((found.garment or 0) - (golden.garment_score or 0))]))  # NaN stays NaN
