"""POST /predict."""

import asyncio
import base64
from collections.abc import Coroutine, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from app.api import problems
from app.api.body import FILE_FIELD, Upload, read_uploads
from app.api.dependencies import PredictorDependency, SettingsDependency, StoreDependency
from app.api.middleware import STAGES_SCOPE_KEY, TIMELINES_SCOPE_KEY
from app.api.schemas import (
    Absent,
    CandidatePublic,
    Explanation,
    FailedImagePublic,
    ImagePublic,
    ModelReference,
    PredictionPublic,
    PredictResponse,
)
from app.errors import WardrobeError
from app.inference.explanation import Explained
from app.inference.predictor import Prediction, Predictor
from app.inference.scheduler import ModelChooser
from app.inference.store import AUTO

router = APIRouter(tags=["predict"])

_BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FILE_FIELD],
                "properties": {
                    FILE_FIELD: {"type": "array", "minItems": 1, "items": _BINARY, "description": "One or more images."}
                },
            }
        },
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}


@router.post(
    "/predict",
    operation_id="predict",
    summary="Classify images of clothes",
    response_model=PredictResponse,
    response_model_exclude_unset=True,  # an explanation only where it was asked for
    responses=problems.responses(400, 404, 408, 413, 415, 422, 429, 503),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def predict(
    request: Request,
    settings: SettingsDependency,
    store: StoreDependency,
    predictor: PredictorDependency,
    model: Annotated[str, Query(description="Name of a model; `auto` chooses for each image.", max_length=64)] = AUTO,
    top_k: Annotated[int, Query(description="How many classes to name for each image.", ge=1, le=100)] = 3,
    explain: Annotated[
        bool, Query(description="Add what the model saw in each image, and where; takes twice as long.")
    ] = False,
    explain_label: Annotated[
        str | Absent, Query(description="The class to show in it; by default the label.", max_length=100)
    ] = None,
) -> Response:
    """Send one or many multipart parts named `file`, or the bytes of one image as the body.

    Answers come in the order sent. An image that cannot be read has an error in its place and does not affect the
    others; if none could be read, the answer has the first one's status.

    Each image's `decision` says what to do with it: `sorted`; `review`, a person should look; or `not_a_garment`. The
    label is the best guess in any case.
    """
    choose = store.chooser(model)
    predictor.require_room()  # else the body would be read, up to its limit, only to be refused
    uploads = await read_uploads(request, settings)
    contents = [upload.content for upload in uploads]
    predicting = predictor.predict(contents, choose=choose, top_k=top_k, explained=explain, explain_label=explain_label)
    outcomes = await while_connected(request, predicting)
    tell_stages(request, outcomes)
    failures = [outcome for outcome in outcomes if isinstance(outcome, WardrobeError)]
    if len(failures) == len(outcomes):
        return all_failed(request, uploads, failures)
    predictions = [_public(request, u, outcome) for u, outcome in zip(uploads, outcomes, strict=True)]
    answer = PredictResponse(predictions=predictions)
    # Written here: FastAPI would check once more what has just been checked.
    return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")


async def classify_one(
    request: Request, predictor: Predictor, content: bytes, *, choose: ModelChooser, top_k: int
) -> Prediction:
    """The answer for a request of one image, for routes that speak another protocol.

    Raises:
        WardrobeError: there is none.
    """
    outcomes = await while_connected(request, predictor.predict([content], choose=choose, top_k=top_k))
    tell_stages(request, outcomes)
    (outcome,) = outcomes
    if isinstance(outcome, WardrobeError):
        raise outcome
    return outcome


async def while_connected(
    request: Request, work: Coroutine[Any, Any, list[Prediction | WardrobeError]]
) -> list[Prediction | WardrobeError]:
    """Do the work, unless the client leaves: then cancel it.

    Raises:
        ClientDisconnect: nobody waits for the answer any more.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # the body is read: the next message is that the client left
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))  # until it has given back its place in the queue
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()


def tell_stages(request: Request, outcomes: Iterable[Prediction | WardrobeError]) -> None:
    """For headers, logs and traces; of several images, each stage of the one that took longest in it."""
    timelines = [(index, it.submitted, it.seconds) for index, it in enumerate(outcomes) if isinstance(it, Prediction)]
    stages = timelines[0][2] if timelines else {}
    request.scope[STAGES_SCOPE_KEY] = {stage: max(seconds[stage] for *_, seconds in timelines) for stage in stages}
    request.scope[TIMELINES_SCOPE_KEY] = timelines


def all_failed(request: Request, uploads: list[Upload], failures: list[WardrobeError]) -> Response:
    problem = problems.describe(failures[0], request)
    if len(failures) > 1:
        problem.errors = [  # type: ignore[attr-defined]  # an extension member, RFC 9457 section 3.2
            {
                "index": index,
                "code": problems.code(failure),
                **failed_image(request, upload, failure).model_dump(mode="json"),
            }
            for index, (upload, failure) in enumerate(zip(uploads, failures, strict=True))
        ]
    return problems.respond(problem)


def _public(
    request: Request, upload: Upload, outcome: Prediction | WardrobeError
) -> PredictionPublic | FailedImagePublic:
    if isinstance(outcome, WardrobeError):
        return failed_image(request, upload, outcome)
    prediction = public_prediction(upload, outcome)
    if outcome.explained is not None:
        prediction.explanation = _explanation(outcome.explained)
    return prediction


def _explanation(explained: Explained | WardrobeError) -> Explanation:
    if isinstance(explained, WardrobeError):
        return Explanation(label=None, png_base64=None, input_png_base64=None, reason=str(explained))
    label, png, reason = None, None, None
    if isinstance(explained.heat_map, WardrobeError):
        reason = str(explained.heat_map)
    else:
        label, png = explained.heat_map
    return Explanation(
        label=label,
        png_base64=None if png is None else base64.b64encode(png).decode(),
        input_png_base64=base64.b64encode(explained.input_png).decode(),
        reason=reason,
    )


def public_prediction(upload: Upload, prediction: Prediction) -> PredictionPublic:
    candidates = [
        CandidatePublic(label=c.info.label, group=c.info.group, probability=c.probability)
        for c in prediction.candidates
    ]
    card, image, verdict = prediction.artifact.card, prediction.image, prediction.verdict
    prediction_set = verdict.prediction_set
    return PredictionPublic(
        filename=upload.filename,
        model=ModelReference(name=card.name, version=card.version, digest=prediction.artifact.digest),
        label=candidates[0].label,
        group=candidates[0].group,
        probability=candidates[0].probability,
        decision=verdict.decision,
        reason=verdict.reason,
        prediction_set=None if prediction_set is None else [info.label for info in prediction_set],
        garment_score=prediction.garment_score,
        top_k=candidates,
        image=ImagePublic(format=image.format, width=image.width, height=image.height, notes=list(image.notes)),
    )


def failed_image(request: Request, upload: Upload, error: WardrobeError) -> FailedImagePublic:
    return FailedImagePublic(filename=upload.filename, error=problems.describe(error, request))
