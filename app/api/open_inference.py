"""The Open Inference Protocol, version 2: what the clients of Triton and KServe speak, under /v2.

https://github.com/kserve/open-inference-protocol. A request becomes images for the predictor that /predict asks too.
Every error is the protocol's {"error": text}: see app.api.problems.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import __version__
from app.api import problems
from app.api.body import read_body
from app.api.dependencies import MetricsDependency, PredictorDependency, SettingsDependency, StoreDependency
from app.api.examples import INFER_ANSWER
from app.api.models import NameParameter
from app.api.open_inference_tensors import (
    HEADER_LENGTH,
    InferRequest,
    RequestedOutput,
    Tensor,
    TensorSpec,
    read_request,
    write_response,
)
from app.api.predict import tell_stages, while_connected
from app.api.schemas import Absent
from app.artifact import Card
from app.errors import InvalidInferRequestError, ModelControlOffError, WardrobeError
from app.inference.predictor import Prediction
from app.inference.store import ModelStore
from app.metrics import Metrics

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]
PLATFORM = "pytorch_torchscript"  # of the artefact; `properties` say which engine runs it here
IMAGE, PREPARED = "image", "prepared"  # the inputs
PROBABILITIES, LABEL, DECISION, GARMENT_SCORE = "probabilities", "label", "decision", "garment_score"  # the outputs

_DATA_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}  # in Triton's model configuration
_NANOSECONDS = 1e9


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorAnswer(_Answer):
    error: str = Field(examples=["There is no model tents. There is: fashion-mnist/1, wardrobe/4."])


class LiveAnswer(_Answer):
    live: Literal[True] = True


class ReadyAnswer(_Answer):
    ready: Literal[True] = True


class ModelReadyAnswer(_Answer):
    name: str
    ready: Literal[True] = True


class ServerMetadata(_Answer):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Answer):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1 is the batch.", examples=[[-1, 1]])


class ModelMetadata(_Answer):
    name: str
    versions: list[str] = Field(description="All that are there; the served one is in `properties`.")
    platform: str
    inputs: list[TensorMetadata] = Field(description="One of them at a time.")
    outputs: list[TensorMetadata]
    properties: dict[str, str]


class IndexEntry(_Answer):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class OutputTensor(_Answer):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class InferAnswer(_Answer):
    """The answer in JSON; outputs that were wanted in binary have a `binary_data_size` and no data."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


async def path_version(request: Request) -> int | None:
    """Of routes that are there for the served version and for a given one."""
    version: int | None = request.path_params.get("version")
    return version


VersionDependency = Annotated[int | None, Depends(path_version)]


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these errors."""
    described = problems.responses(*statuses)
    return {status: {"description": described[status]["description"], "model": ErrorAnswer} for status in statuses}


def _inline(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with its definitions in their places: FastAPI collects only those of bodies that it reads itself."""
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inline(value, definitions) for key, value in schema.items() if key != "$defs"}


_INFER_SCHEMA = InferRequest.model_json_schema()
_INFER_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": _inline(_INFER_SCHEMA, _INFER_SCHEMA["$defs"])},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


@router.get("", operation_id="v2_server", summary="What this server is and can do")
@router.get("/", include_in_schema=False)
async def server_metadata() -> ServerMetadata:
    return ServerMetadata(name="self-sorting-wardrobe", version=__version__, extensions=EXTENSIONS)


@router.get("/health/live", operation_id="v2_live", summary="The process answers")
async def live() -> LiveAnswer:
    return LiveAnswer()


@router.get("/health/ready", operation_id="v2_ready", summary="The models can be asked", responses=errors(503))
async def ready(store: StoreDependency) -> ReadyAnswer:
    store.require_ready()
    return ReadyAnswer()


@router.get("/models/stats", operation_id="v2_all_statistics", summary="What each model did", responses=errors(503))
def all_statistics(store: StoreDependency, metrics: MetricsDependency) -> dict[str, Any]:
    return {"model_stats": [_statistics(name, store, metrics) for name in store.names if store.served_version(name)]}


@router.get(
    "/models/{name}/stats", operation_id="v2_statistics", summary="What it did", responses=errors(404, 422, 503)
)
@router.get("/models/{name}/versions/{version:int}/stats", include_in_schema=False)
def statistics(
    name: NameParameter, store: StoreDependency, metrics: MetricsDependency, version: VersionDependency
) -> dict[str, Any]:
    """Since this process, or the first of several, started; of all versions that were served meanwhile."""
    _require_served(store, name, version)
    return {"model_stats": [_statistics(name, store, metrics)]}


@router.get(
    "/models/{name}", operation_id="v2_model", summary="What it takes and gives", responses=errors(404, 422, 503)
)
@router.get("/models/{name}/versions/{version:int}", include_in_schema=False)
def model_metadata(name: NameParameter, store: StoreDependency, version: VersionDependency) -> ModelMetadata:
    card = store.card(name, version)[1]
    tuning = store.tuning(name)
    served_version = store.served_version(name)
    return ModelMetadata(
        name=name,
        versions=[str(number) for number in store.versions(name)],
        platform=PLATFORM,
        inputs=[_described(spec) for spec in _inputs(card)],
        outputs=[_described(spec) for spec in _outputs(card)],
        properties={
            "description": card.description,
            "class_names": ", ".join(card.class_names),
            "digest": card.sha256["model.pt"],
            "served_version": str(served_version),
            "engine": tuning.engine if tuning else "",
        },
    )


@router.get(
    "/models/{name}/ready", operation_id="v2_model_ready", summary="It can be asked", responses=errors(404, 422, 503)
)
@router.get("/models/{name}/versions/{version:int}/ready", include_in_schema=False)
async def model_ready(name: NameParameter, store: StoreDependency, version: VersionDependency) -> ModelReadyAnswer:
    _require_served(store, name, version)
    return ModelReadyAnswer(name=name)


@router.get(
    "/models/{name}/config",
    operation_id="v2_config",
    summary="The same in Triton's words",
    responses=errors(404, 422, 503),
)
@router.get("/models/{name}/versions/{version:int}/config", include_in_schema=False)
def model_config(
    name: NameParameter,
    settings: SettingsDependency,
    store: StoreDependency,
    version: VersionDependency,
) -> dict[str, Any]:
    card = store.card(name, version)[1]
    tuning = store.tuning(name)
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "pytorch",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": settings.max_images_per_request,
        "input": [
            {
                **_configured(spec),
                "format": "FORMAT_NCHW" if spec.name == PREPARED else "FORMAT_NONE",
                "optional": True,  # one of them at a time
            }
            for spec in _inputs(card)
        ],
        "output": [_configured(spec) for spec in _outputs(card)],
        "dynamic_batching": {
            "preferred_batch_size": [tuning.batch_size if tuning else 1],
            "max_queue_delay_microseconds": 0,
        },
    }


@router.post(
    "/repository/index",
    operation_id="v2_repository_index",
    summary="All models and versions",
    responses=errors(400, 413, 503),
)
async def repository_index(request: Request, settings: SettingsDependency, store: StoreDependency) -> list[IndexEntry]:
    """With `{"ready": true}` as the body, only those that are served."""
    body = await read_body(request, settings)
    try:
        wanted = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise InvalidInferRequestError(f"its JSON cannot be read ({error})") from error
    if not isinstance(wanted, dict):
        raise InvalidInferRequestError("its JSON is no object")
    entries = [_index_entry(name, number, store) for name in store.names for number in store.versions(name)]
    for refusal in store.refusals:
        name, _, number = refusal.folder.partition("/")
        entries.append(IndexEntry(name=name, version=number, state="UNAVAILABLE", reason=refusal.reason))
    return [entry for entry in entries if entry.state == "READY" or not wanted.get("ready")]


@router.post("/repository/models/{name}/load", operation_id="v2_load", summary="Is off", responses=errors(403, 422))
@router.post("/repository/models/{name}/unload", operation_id="v2_unload", summary="Is off", responses=errors(403, 422))
async def control_model(name: NameParameter) -> None:
    """Which models are served is the operator's to say, by what lies in the model folder."""
    raise ModelControlOffError


@router.post(
    "/models/{name}/infer",
    operation_id="v2_infer",
    summary="Classify images of clothes",
    response_model=InferAnswer,
    responses={
        200: {
            "content": {
                "application/json": {"example": INFER_ANSWER},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},  # binary tensors
            }
        },
        **errors(400, 404, 408, 413, 415, 422, 429, 503),
    },
    openapi_extra={"requestBody": _INFER_BODY},
)
@router.post("/models/{name}/versions/{version:int}/infer", include_in_schema=False)
async def infer(
    request: Request,
    settings: SettingsDependency,
    store: StoreDependency,
    predictor: PredictorDependency,
    name: NameParameter,
    version: VersionDependency,
    header_length: Annotated[
        str | Absent,
        Header(alias=HEADER_LENGTH, description="Bytes of JSON before the tensors; 0: the body is one image file."),
    ] = None,
) -> Response:
    """Send image files as the input `image`, or what the network takes as `prepared`.

    One image that cannot be read makes an error of the whole answer, which says which it was: the protocol has no other
    place for it.
    """
    card = store.card(name, version)[1]
    choose = store.chooser(name, version)
    predictor.require_room()  # else the body would be read, up to its limit, only to be refused
    body = await read_body(request, settings)
    specs, max_batch = _inputs(card), settings.max_images_per_request
    asked, tensor = await asyncio.to_thread(read_request, body, header_length, specs=specs, max_batch=max_batch)
    wanted = _wanted(asked, card)
    if isinstance(tensor.data, np.ndarray):
        contents: Sequence[bytes | np.ndarray] = list(tensor.data.reshape(tensor.shape))
    else:
        contents = tensor.data
    predicting = predictor.predict(contents, choose=choose, top_k=len(card.classes))
    outcomes = await while_connected(request, predicting)
    tell_stages(request, outcomes)
    predictions: list[Prediction] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, WardrobeError):
            return _failed(request, outcome, f"Image {index}: " if len(outcomes) > 1 else "")
        predictions.append(outcome)
    served = predictions[0].artifact.card
    head = {"model_name": served.name, "model_version": str(served.version)}
    if asked.id is not None:
        head["id"] = asked.id
    by_default = asked.parameters.binary_data_output
    tensors = [(_output(it, served, predictions), _is_binary(it, default=by_default)) for it in wanted]
    content, num_json = write_response(head, tensors)
    if num_json is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(num_json)})


def _inputs(card: Card) -> list[TensorSpec]:
    side = card.input.size_pixels
    return [TensorSpec(IMAGE, "BYTES", (1,)), TensorSpec(PREPARED, "FP32", (card.input.channels, side, side))]


def _outputs(card: Card) -> list[TensorSpec]:
    specs = [
        TensorSpec(PROBABILITIES, "FP32", (len(card.classes),)),
        TensorSpec(LABEL, "BYTES", (1,)),
        TensorSpec(DECISION, "BYTES", (1,)),
    ]
    if card.golden[0].garment_score is not None:
        specs.append(TensorSpec(GARMENT_SCORE, "FP32", (1,)))
    return specs


def _wanted(asked: InferRequest, card: Card) -> list[RequestedOutput]:
    """The outputs to give, after checking that the model has them in the form that is wanted."""
    known = [spec.name for spec in _outputs(card)]
    wanted = [RequestedOutput(name=name) for name in known] if asked.outputs is None else asked.outputs
    for output in wanted:
        if output.name not in known:
            raise InvalidInferRequestError(f"the model has no output {output.name!r}, but {', '.join(known)}")
        if output.parameters.classification and output.name != PROBABILITIES:
            raise InvalidInferRequestError(f"only {PROBABILITIES!r} can be given as a classification")
        if output.parameters.shared_memory_region is not None:
            raise InvalidInferRequestError("this server has no shared memory")
    return wanted


def _is_binary(output: RequestedOutput, *, default: bool) -> bool:
    wanted = output.parameters.binary_data
    return default if wanted is None else wanted


def _output(output: RequestedOutput, card: Card, predictions: Sequence[Prediction]) -> Tensor:
    num_images = len(predictions)
    if output.parameters.classification:
        return _classification(min(output.parameters.classification, len(card.classes)), card, predictions)
    match output.name:
        case "probabilities":
            by_label = [{c.info.label: c.probability for c in it.candidates} for it in predictions]
            rows = np.array([[found[label] for label in card.class_names] for found in by_label], np.float32)
            return Tensor(PROBABILITIES, "FP32", rows.shape, rows)
        case "label":
            labels = [it.candidates[0].info.label.encode() for it in predictions]
            return Tensor(LABEL, "BYTES", (num_images, 1), labels)
        case "decision":
            return Tensor(DECISION, "BYTES", (num_images, 1), [it.verdict.decision.encode() for it in predictions])
        case _:
            scores = np.array([it.garment_score for it in predictions], np.float32)
            return Tensor(GARMENT_SCORE, "FP32", (num_images, 1), scores)


def _classification(num_classes: int, card: Card, predictions: Sequence[Prediction]) -> Tensor:
    """Triton's classification extension: the best classes as `value:index:label`."""
    best = [
        f"{candidate.probability:f}:{card.class_names.index(candidate.info.label)}:{candidate.info.label}".encode()
        for it in predictions
        for candidate in it.candidates[:num_classes]
    ]
    return Tensor(PROBABILITIES, "BYTES", (len(predictions), num_classes), best)


def _failed(request: Request, failure: WardrobeError, which: str) -> Response:
    problem = problems.describe(failure, request)
    problem.detail = which + problem.detail
    return problems.respond(problem, path=request.scope["path"])


def _require_served(store: ModelStore, name: str, version: int | None) -> None:
    """Raise what `infer` would of this model and version."""
    store.card(name, version)
    store.chooser(name, version)


def _index_entry(name: str, version: int, store: ModelStore) -> IndexEntry:
    served_version = store.served_version(name)
    if version == served_version:
        return IndexEntry(name=name, version=str(version), state="READY", reason="")
    reason = f"version {served_version} is served"
    return IndexEntry(name=name, version=str(version), state="UNAVAILABLE", reason=reason)


def _described(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[-1, *spec.dims])


def _configured(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": _DATA_TYPES[spec.datatype], "dims": list(spec.dims)}


def _statistics(name: str, store: ModelStore, metrics: Metrics) -> dict[str, Any]:
    """Triton's statistics extension, from what /metrics counts: of pictures, not requests."""
    num_failed = int(metrics.total("wardrobe_images_total", model=name, outcome="failed"))
    num_done = int(metrics.total("wardrobe_images_total", model=name)) - num_failed
    stages = ("wait", "decode", "preprocess", "queue", "infer")
    nanoseconds = {
        stage: int(_NANOSECONDS * metrics.total("wardrobe_stage_seconds_sum", model=name, stage=stage))
        for stage in stages
    }
    durations = {
        "success": sum(nanoseconds.values()),
        "queue": nanoseconds["wait"] + nanoseconds["queue"],
        "compute_input": nanoseconds["decode"] + nanoseconds["preprocess"],
        "compute_infer": nanoseconds["infer"],
        "compute_output": 0,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    counted = ("success", "queue", "compute_input", "compute_infer")
    return {
        "name": name,
        "version": str(store.served_version(name)),
        "inference_count": num_done,
        "execution_count": int(metrics.total("wardrobe_batch_size_count", model=name)),
        "inference_stats": {
            "fail": {"count": num_failed, "ns": 0},
            **{stage: {"count": num_done if stage in counted else 0, "ns": ns} for stage, ns in durations.items()},
        },
        "batch_stats": [],
    }
