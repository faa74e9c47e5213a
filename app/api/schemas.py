"""What travels as JSON, one model for each direction and role."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api.examples import PREDICT_RESPONSE
from app.artifact import DrawerGroup, PublicCard, Share
from app.inference.decision import Decision

Absent = SkipJsonSchema[None]  # of a parameter in query or header: it is left out, there is no null to be sent


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelReference(_Schema):
    """The model that answered."""

    name: str = Field(examples=["fashion-mnist"])
    version: int = Field(examples=[1])
    digest: str = Field(description="SHA-256 of its model.pt.")


class CandidatePublic(_Schema):
    label: str = Field(examples=["Ankle boot"])
    group: DrawerGroup = Field(description="The drawer that the class belongs to.", examples=["footwear"])
    probability: Share = Field(description="Calibrated on held-out pictures.", examples=[0.93])


class ImagePublic(_Schema):
    """What was read."""

    format: str = Field(description="By content, not by name.", examples=["JPEG"])
    width: int = Field(description="In pixels, upright.", examples=[3024])
    height: int = Field(description="In pixels, upright.", examples=[4032])
    notes: list[str] = Field(description="What was done to read it.", examples=[["rotated by EXIF"]])


class Explanation(_Schema):
    """What the model saw, and where it sees a class."""

    label: str | None = Field(description="The class that is shown.", examples=["shirt"])
    png_base64: str | None = Field(
        description="RGBA, with the evidence as opacity: to be laid over the picture, stretched to its size."
    )
    input_png_base64: str | None = Field(description="The picture as the network gets it, in the size that it gets.")
    reason: str | None = Field(description="Why there is no heat map; else null.")


class PredictionPublic(_Schema):
    """One classified image."""

    filename: str | None = Field(description="As sent; null for a raw body.", examples=["boot.jpg"])
    model: ModelReference
    label: str = Field(description="The most probable class, whatever the decision.", examples=["Ankle boot"])
    group: DrawerGroup = Field(examples=["footwear"])
    probability: Share = Field(description="Of the label, calibrated on held-out pictures.", examples=[0.93])
    decision: Decision = Field(
        description="`sorted`; `review`: a person should look; `not_a_garment`: the model sees no clothes.",
        examples=["sorted"],
    )
    reason: str = Field(
        description="Of the decision, for a person.",
        examples=["Most probably Ankle boot, with a probability of 93.0%."],
    )
    prediction_set: list[str] | None = Field(
        description="The classes that cannot be ruled out at the level in the model's card, most probable first; null "
        "if the model has none.",
        examples=[["Ankle boot"]],
    )
    garment_score: Share | None = Field(
        description="High for pictures of clothes; null if the model cannot tell.", examples=[0.98]
    )
    top_k: list[CandidatePublic] = Field(description="The most probable classes, best first.")
    image: ImagePublic
    explanation: Explanation | None = Field(None, description="Only where it was asked for.")


class Problem(BaseModel):
    """RFC 9457 problem details. Further members name the limit that was passed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URN, one for each kind of problem.", examples=["urn:wardrobe:undecodable-image"])
    title: str = Field(examples=["The image cannot be decoded"])
    status: int = Field(examples=[422])
    detail: str = Field(description="What was wrong and how to mend it.")
    instance: str | None = Field(default=None, description="The request's id, also in the log.")


class FailedImagePublic(_Schema):
    """One image that could not be classified; the others are not affected."""

    filename: str | None = Field(description="As sent; null for a raw body.", examples=["broken.jpg"])
    error: Problem


class PredictResponse(_Schema):
    """One entry for each image, in the order sent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [PREDICT_RESPONSE]})

    predictions: list[PredictionPublic | FailedImagePublic]


class Serving(_Schema):
    """How this service runs the model: measured when it was loaded, on this machine."""

    engine: str = Field(description="What runs the network.", examples=["onnxruntime"])
    max_batch_size: int = Field(description="Most images in a forward pass: more gain no time.", examples=[4])
    milliseconds: dict[str, float] = Field(
        description="Of one image on one core by engine, from pixels to scores.", examples=[{"onnxruntime": 9.1}]
    )
    milliseconds_in_batch: dict[int, float] = Field(
        description="Of each image of a batch by its size, forward pass alone.", examples=[{1: 8.2, 2: 8.0}]
    )
    refused_engines: dict[str, str] = Field(description="Engines that do not agree with the card, and why.")


class ServedCard(PublicCard):
    """The card of the served version and how it is run."""

    serving: Serving


class ModelSummary(_Schema):
    name: str = Field(examples=["fashion-mnist"])
    description: str
    versions: list[int] = Field(description="All that are there and fit to serve.", examples=[[1]])
    served_version: int | None = Field(description="The one that /predict uses.", examples=[1])
    class_names: list[str]
    test_accuracy: Share | None = Field(description="On pictures never used to choose anything; null if not measured.")


class RefusedModel(_Schema):
    folder: str = Field(examples=["fashion-mnist/2"])
    reason: str


class ModelsResponse(_Schema):
    default_model: str = Field(description="What `model=auto` takes for photos.", examples=["wardrobe"])
    thumbnail_model: str | None = Field(
        description="What `model=auto` takes for small grey pictures; null: the default model too.",
        examples=["fashion-mnist"],
    )
    models: list[ModelSummary]
    refused: list[RefusedModel] = Field(description="Folders that are not served, and why.")


class HealthResponse(_Schema):
    status: Annotated[str, Field(examples=["ok"])] = "ok"
