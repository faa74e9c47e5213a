"""Hugging Face's image-classification task, for `huggingface_hub.InferenceClient(model=URL).image_classification`.

https://huggingface.co/docs/inference-providers/tasks/image-classification
"""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from app.api import problems
from app.api.body import read_body
from app.api.dependencies import PredictorDependency, SettingsDependency, StoreDependency
from app.api.examples import IMAGE_CLASSIFICATION
from app.api.open_inference_tensors import decode_base64, parse_json
from app.api.predict import classify_one
from app.artifact import Share
from app.inference.store import AUTO

router = APIRouter(tags=["predict"])

DEFAULT_TOP_K = 5  # of the task

_BINARY = {"type": "string", "format": "binary"}


class TaskParameters(BaseModel):
    """How the answer should be."""

    model_config = ConfigDict(extra="forbid")

    function_to_apply: Literal["softmax"] | None = Field(
        None, description="Scores are calibrated probabilities: there are no others."
    )
    top_k: int | None = Field(None, ge=1, description="How many classes to name; 5 by default.")


class TaskRequest(BaseModel):
    """An image and how the answer should be, where the body is JSON."""

    model_config = ConfigDict(extra="forbid")

    inputs: str = Field(description="The image file as base64.", json_schema_extra={"format": "byte"})
    parameters: TaskParameters = TaskParameters()


class LabelScore(BaseModel):
    label: str = Field(examples=["Bag"])
    score: Share = Field(description="Its calibrated probability.", examples=[0.99])


def _schema() -> dict[str, Any]:
    schema = TaskRequest.model_json_schema()
    schema["properties"]["parameters"] = schema.pop("$defs")["TaskParameters"]
    return schema


@router.post(
    "/image-classification",
    operation_id="image_classification",
    summary="Classify one image as Hugging Face's task does",
    responses={
        200: {"content": {"application/json": {"example": IMAGE_CLASSIFICATION}}},
        **problems.responses(400, 404, 408, 413, 415, 422, 429, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _schema()},
                "image/*": {"schema": _BINARY},
                "application/octet-stream": {"schema": _BINARY},
            },
        }
    },
)
async def image_classification(
    request: Request,
    settings: SettingsDependency,
    store: StoreDependency,
    predictor: PredictorDependency,
    model: Annotated[str, Query(description="Name of a model; `auto` chooses by the image.", max_length=64)] = AUTO,
) -> list[LabelScore]:
    """Send the bytes of an image, or JSON with the image as base64 and parameters; best class first."""
    choose = store.chooser(model)
    predictor.require_room()
    content, parameters = await read_body(request, settings), TaskParameters()
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json":
        content, parameters = await asyncio.to_thread(_parse, content)
    top_k = parameters.top_k or DEFAULT_TOP_K
    prediction = await classify_one(request, predictor, content, choose=choose, top_k=top_k)
    return [LabelScore(label=it.info.label, score=it.probability) for it in prediction.candidates]


def _parse(body: bytes) -> tuple[bytes, TaskParameters]:
    asked = parse_json(body, TaskRequest)
    return decode_base64(asked.inputs), asked.parameters
