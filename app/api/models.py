"""GET /models and below: what is served, what it was trained on and how good it is."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter

from app.api import problems
from app.api.dependencies import SettingsDependency, StoreDependency
from app.api.schemas import ModelsResponse, ModelSummary, RefusedModel, ServedCard, Serving
from app.artifact import REPORT_NAME, PublicCard
from app.errors import ReportNotFoundError

router = APIRouter(prefix="/models", tags=["models"])

NameParameter = Annotated[str, PathParameter(description="Name of a model.", max_length=64)]
VersionParameter = Annotated[int, PathParameter(description="Version of the model.", ge=1)]

# A report is one page with its style and pictures inside; whatever it holds, it may load and run nothing.
REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
}


@router.get("", operation_id="list_models", summary="The models that are there", responses=problems.responses(503))
def list_models(settings: SettingsDependency, store: StoreDependency) -> ModelsResponse:
    summaries = []
    for name in store.names:
        _, card = store.card(name)
        test = card.metrics.get("test")
        summaries.append(
            ModelSummary(
                name=name,
                description=card.description,
                versions=store.versions(name),
                served_version=store.served_version(name),
                class_names=card.class_names,
                test_accuracy=test.accuracy if test else None,
            )
        )
    return ModelsResponse(
        default_model=settings.default_model,
        thumbnail_model=store.thumbnail_model,
        models=summaries,
        refused=[RefusedModel(folder=refusal.folder, reason=refusal.reason) for refusal in store.refusals],
    )


@router.get(
    "/{name}",
    operation_id="get_model",
    summary="The card of the served version",
    response_model_exclude_unset=True,  # what the file says, and no defaults for what it leaves out
    responses=problems.responses(404, 503) | problems.INVALID_PARAMETER,
)
def get_model(name: NameParameter, store: StoreDependency) -> ServedCard:
    card, tuning = store.served(name)
    serving = Serving(
        engine=tuning.engine,
        max_batch_size=tuning.batch_size,
        milliseconds={engine: 1000 * seconds for engine, seconds in tuning.seconds.items()},
        milliseconds_in_batch={size: 1000 * seconds for size, seconds in tuning.seconds_in_batch.items()},
        refused_engines=tuning.refused,
    )
    shown = {name: value for name, value in card if name in PublicCard.model_fields}
    # The card was checked when it was loaded.
    return ServedCard.model_construct(card.model_fields_set & shown.keys() | {"serving"}, **shown, serving=serving)


@router.get(
    "/{name}/versions/{version}",
    operation_id="get_model_version",
    summary="The card of one version",
    response_model_exclude_unset=True,  # what the file says, and no defaults for what it leaves out
    responses=problems.responses(404, 503) | problems.INVALID_PARAMETER,
)
def get_model_version(name: NameParameter, version: VersionParameter, store: StoreDependency) -> PublicCard:
    return store.card(name, version)[1]


@router.get(
    "/{name}/report",
    operation_id="get_model_report",
    summary="The report of the served version, a page for people",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}}, **problems.responses(404, 503), **problems.INVALID_PARAMETER},
)
def get_model_report(name: NameParameter, store: StoreDependency) -> Response:
    path: Path = store.card(name)[0] / REPORT_NAME
    try:
        return Response(path.read_bytes(), media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)
    except OSError as error:
        raise ReportNotFoundError(name) from error
