"""/items: the wardrobe itself."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as PathParameter
from starlette.convertors import Convertor, register_url_convertor

from app.api import problems
from app.api.access import OWN_PAGES_ONLY
from app.api.body import BoundedJsonRoute, Upload, read_uploads
from app.api.dependencies import (
    FilterDependency,
    PredictorDependency,
    SettingsDependency,
    StoreDependency,
    WardrobeDependency,
)
from app.api.item_schemas import (
    AddedItem,
    AddResponse,
    ChangedItem,
    ChangeRequest,
    ChangeResponse,
    CorrectionPublic,
    DeletedItem,
    DeleteRequest,
    DeleteResponse,
    FailedItem,
    ItemChange,
    ItemPublic,
    ItemsPage,
    ItemUrls,
    KeptPrediction,
)
from app.api.predict import (
    REQUEST_BODY,
    all_failed,
    failed_image,
    public_prediction,
    tell_stages,
    while_connected,
)
from app.api.schemas import Absent, FailedImagePublic, Problem
from app.errors import (
    InvalidCursorError,
    ItemChangedError,
    WardrobeError,
)
from app.images import sniff_format
from app.inference.explanation import Explained
from app.inference.predictor import Prediction, Predictor
from app.inference.store import AUTO, ModelStore
from app.store.similar import Embedded
from app.store.tables import Item
from app.store.wardrobe import Added, Change, NewItem, SortKey, Wardrobe

MAX_CLASSES = 1_000_000  # all of them: a correction to any class finds its drawer
MEDIA_TYPES = {
    image_format: f"image/{image_format.lower()}"
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
} | {"HEIF": "image/heic"}
# Always asked for again, though an id names bytes that never change: what is removed or locked is to be seen no more.
PICTURE_HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}


router = APIRouter(
    prefix="/items",
    tags=["items"],
    route_class=BoundedJsonRoute,
    dependencies=OWN_PAGES_ONLY,
    responses=problems.responses(400, 403, 409, 422, 503),
)


class IdConvertor(Convertor[str]):
    """Takes no other word for an id: what is no route of its own below /items is not there, whatever the method."""

    regex = "[0-9a-f]{64}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("sha256", IdConvertor())

IdParameter = Annotated[str, PathParameter(description="Of the item.", pattern=f"^{IdConvertor.regex}$")]
IfMatch = Annotated[
    str,
    Header(
        pattern=r'^("[0-9]{1,9}"|\*)$',
        description='The ETag that was seen, `"3"`; `*`: whatever it is.',
        json_schema_extra={"format": "entity-tag"},
    ),
]
ModelQuery = Annotated[str, Query(description="Name of a model; `auto` chooses for each image.", max_length=64)]


@router.post(
    "",
    operation_id="add_items",
    summary="Add pictures",
    status_code=201,
    response_model=AddResponse,
    responses={
        200: {"model": AddResponse, "description": "All of them were there already"},
        **problems.responses(400, 404, 408, 413, 415, 422, 429, 503, 507),
    },
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def add_items(
    request: Request,
    response: Response,
    settings: SettingsDependency,
    store: StoreDependency,
    predictor: PredictorDependency,
    wardrobe: WardrobeDependency,
    model: ModelQuery = AUTO,
) -> AddResponse | Response:
    """Send pictures as for /predict; each is classified and kept as it is.

    The same bytes again give the item that is there, as it is, with `duplicate` set. A picture that cannot be read or
    kept has an error in its place; if that holds for all, the answer has the first one's status.
    """
    await asyncio.to_thread(wardrobe.open)
    choose = store.chooser(model)
    predictor.require_room()  # else the body would be read, up to its limit, only to be refused
    digest = store.card(settings.default_model)[1].sha256["model.pt"]
    uploads = await read_uploads(request, settings)
    ids = await asyncio.to_thread(_digests, uploads)
    present = await asyncio.to_thread(wardrobe.find, ids)
    fresh: dict[str, Upload] = {}
    for item_id, upload in zip(ids, uploads, strict=True):
        if item_id not in present:
            fresh.setdefault(item_id, upload)
    predictions: dict[str, Prediction | WardrobeError] = {}
    if fresh:
        contents = [upload.content for upload in fresh.values()]
        predicting = predictor.predict(contents, choose=choose, top_k=MAX_CLASSES)
        predictions = dict(zip(fresh, await while_connected(request, predicting), strict=True))
        tell_stages(request, predictions.values())
    new_items = [
        NewItem(item_id, upload.filename, upload.content, _kept(upload, prediction), _embedded(prediction, digest))
        for item_id, upload in fresh.items()
        if isinstance(prediction := predictions[item_id], Prediction)
    ]
    outcomes: dict[str, Added | WardrobeError] = {
        item_id: Added(item, is_new=False) for item_id, item in present.items()
    }
    outcomes |= {i: outcome for i, outcome in predictions.items() if isinstance(outcome, WardrobeError)}
    outcomes |= await asyncio.to_thread(wardrobe.add, new_items)

    failures = [outcome for item_id in ids if isinstance(outcome := outcomes[item_id], WardrobeError)]
    if len(failures) == len(uploads):
        return all_failed(request, uploads, failures)
    entries: list[AddedItem | FailedImagePublic] = []
    seen: set[str] = set()
    for item_id, upload in zip(ids, uploads, strict=True):
        outcome = outcomes[item_id]
        if isinstance(outcome, WardrobeError):
            entries.append(failed_image(request, upload, outcome))
            continue
        duplicate = item_id in seen or not outcome.is_new
        seen.add(item_id)
        entries.append(AddedItem(filename=upload.filename, duplicate=duplicate, item=public_item(outcome.item)))
    if all(isinstance(entry, FailedImagePublic) or entry.duplicate for entry in entries):
        response.status_code = 200
    return AddResponse(items=entries)


@router.get("", operation_id="list_items", summary="Items, page by page")
def list_items(
    wardrobe: WardrobeDependency,
    chosen: FilterDependency,
    sort: Annotated[
        str,
        Query(
            pattern="^-?(added|changed|label|filename|probability)$",
            description="`added`, `changed`, `label`, `filename` or `probability`; `-` in front turns it.",
        ),
    ] = "-added",
    limit: Annotated[int, Query(ge=1, le=500, description="Most items of the page.")] = 100,
    cursor: Annotated[
        str | Absent,
        Query(max_length=2000, description="`next` of the page before.", json_schema_extra={"format": "cursor"}),
    ] = None,
) -> ItemsPage:
    """What is added or removed meanwhile moves nothing to another page."""
    key: SortKey = sort.removeprefix("-")  # type: ignore[assignment]  # the pattern allows these only
    after = None if cursor is None else _read_cursor(cursor, key)
    page = wardrobe.page(chosen, sort=key, descending=sort.startswith("-"), limit=limit, after=after)
    return ItemsPage(
        items=[public_item(item) for item in page.items],
        next=None if page.next is None else _write_cursor(*page.next),
        total=page.num_matching,
        drawers=page.drawers,
    )


@router.patch(
    "",
    operation_id="change_items",
    summary="Correct many items, or take corrections back",
    responses=problems.responses(408, 413, 429),
)
def change_items(request: Request, wardrobe: WardrobeDependency, wanted: ChangeRequest) -> ChangeResponse:
    """Each item is changed or says why not; a revision that is not the present one is such a reason."""
    seen = [(item.id, item.revision) for item in wanted.items]
    outcomes = wardrobe.change(seen, _change(wanted.change))
    return ChangeResponse(
        items=[
            FailedItem(id=item_id, error=_describe(request, wardrobe, item_id, outcome))
            if isinstance(outcome, WardrobeError)
            else ChangedItem(id=item_id, item=public_item(outcome))
            for (item_id, _), outcome in zip(seen, outcomes, strict=True)
        ]
    )


@router.post(
    "/delete",
    operation_id="delete_items",
    summary="Remove many items for good",
    responses=problems.responses(408, 413, 429),
)
def delete_items(request: Request, wardrobe: WardrobeDependency, wanted: DeleteRequest) -> DeleteResponse:
    """A POST, because proxies drop the body of a DELETE."""
    seen = [(item.id, item.revision) for item in wanted.items]
    return DeleteResponse(
        items=[
            FailedItem(id=item_id, error=_describe(request, wardrobe, item_id, outcome))
            if isinstance(outcome, WardrobeError)
            else DeletedItem(id=item_id)
            for (item_id, _), outcome in zip(seen, wardrobe.delete(seen), strict=True)
        ]
    )


@router.get("/{item_id:sha256}", operation_id="get_item", summary="One item", responses=problems.responses(404))
def get_item(response: Response, wardrobe: WardrobeDependency, item_id: IdParameter) -> ItemPublic:
    return _with_etag(response, wardrobe.get(item_id))


@router.patch(
    "/{item_id:sha256}",
    operation_id="change_item",
    summary="Correct an item, or take a correction back",
    response_model=ItemPublic,
    responses=problems.responses(404, 408, 412, 413, 429),
)
def change_item(
    request: Request,
    response: Response,
    wardrobe: WardrobeDependency,
    item_id: IdParameter,
    change: ItemChange,
    if_match: IfMatch = "*",
) -> ItemPublic | Response:
    """The model's prediction stays as it is beside the corrections, each of which can be taken back."""
    outcome = wardrobe.change([(item_id, _revision(if_match))], _change(change))[0]
    if isinstance(outcome, WardrobeError):
        return _respond(request, wardrobe, item_id, outcome)
    return _with_etag(response, outcome)


@router.delete(
    "/{item_id:sha256}",
    operation_id="delete_item",
    summary="Remove an item for good",
    status_code=204,
    response_class=Response,
    responses=problems.responses(404, 412),
)
def delete_item(
    request: Request, wardrobe: WardrobeDependency, item_id: IdParameter, if_match: IfMatch = "*"
) -> Response:
    """Its picture, thumbnails, prediction and corrections are gone."""
    outcome = wardrobe.delete([(item_id, _revision(if_match))])[0]
    if isinstance(outcome, WardrobeError):
        return _respond(request, wardrobe, item_id, outcome)
    return Response(status_code=204)


@router.get(
    "/{item_id:sha256}/picture",
    operation_id="get_picture",
    summary="The picture, as it was sent",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}}},
        304: {"description": "The copy is still right"},
        **problems.responses(404),
    },
)
def get_picture(
    wardrobe: WardrobeDependency, item_id: IdParameter, if_none_match: Annotated[str | Absent, Header()] = None
) -> Response:
    headers = PICTURE_HEADERS | {"ETag": f'"{item_id}"'}
    if if_none_match == headers["ETag"] and wardrobe.has_picture(item_id):
        return Response(status_code=304, headers=headers)
    content = wardrobe.picture(item_id)
    return Response(content, media_type=MEDIA_TYPES.get(sniff_format(content) or ""), headers=headers)


@router.get(
    "/{item_id:sha256}/thumbnail",
    operation_id="get_thumbnail",
    summary="The picture, small and upright",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}},
        304: {"description": "The copy is still right"},
        **problems.responses(404),
    },
)
def get_thumbnail(
    wardrobe: WardrobeDependency,
    item_id: IdParameter,
    size: Annotated[Literal["160", "320", "960"], Query(description="Longest side, in pixels.")] = "320",
    if_none_match: Annotated[str | Absent, Header()] = None,
) -> Response:
    """A JPEG, whatever the picture's format is."""
    headers = PICTURE_HEADERS | {"ETag": f'"{item_id}-{size}"'}
    if if_none_match == headers["ETag"] and wardrobe.has_picture(item_id):
        return Response(status_code=304, headers=headers)
    thumbnail = wardrobe.thumbnail(item_id, size_pixels=int(size))
    return Response(thumbnail, media_type="image/jpeg", headers=headers)


@router.get(
    "/{item_id:sha256}/explanation",
    operation_id="get_explanation",
    summary="Where the model sees a class in the picture",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **problems.responses(404, 429)},
)
async def get_explanation(
    predictor: PredictorDependency,
    store: StoreDependency,
    wardrobe: WardrobeDependency,
    item_id: IdParameter,
    label: Annotated[str | Absent, Query(description="A class; by default the predicted one.", max_length=100)] = None,
) -> Response:
    """A PNG to lay over the picture, of the version that is served now of the model that classified it."""
    explained = await _explained(predictor, store, wardrobe, item_id, label)
    if isinstance(explained.heat_map, WardrobeError):
        raise explained.heat_map
    return Response(explained.heat_map[1], media_type="image/png", headers=PICTURE_HEADERS)


@router.get(
    "/{item_id:sha256}/input",
    operation_id="get_input",
    summary="The picture as the network gets it",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **problems.responses(404, 429)},
)
async def get_input(
    predictor: PredictorDependency, store: StoreDependency, wardrobe: WardrobeDependency, item_id: IdParameter
) -> Response:
    """A small PNG, made by the version that is served now of the model that classified it."""
    explained = await _explained(predictor, store, wardrobe, item_id, None)
    return Response(explained.input_png, media_type="image/png", headers=PICTURE_HEADERS)


async def _explained(
    predictor: Predictor, store: ModelStore, wardrobe: Wardrobe, item_id: str, label: str | None
) -> Explained:
    item = await asyncio.to_thread(wardrobe.get, item_id)
    choose = store.chooser(item.prediction["model"]["name"])
    return await predictor.explain(partial(wardrobe.picture, item_id), choose=choose, label=label)


def public_item(item: Item) -> ItemPublic:
    return ItemPublic(
        id=item.id,
        revision=item.revision,
        filename=item.filename,
        added_at=item.added_at,
        changed_at=item.changed_at,
        num_bytes=item.num_bytes,
        drawer=item.drawer,
        label=item.label,
        corrected=item.corrected,
        prediction=KeptPrediction.model_validate(item.prediction),
        corrections=[CorrectionPublic.model_validate(it, from_attributes=True) for it in item.corrections],
        possible_duplicate_of=item.possible_duplicate_of,
        urls=ItemUrls(**{part: f"/items/{item.id}/{part}" for part in ItemUrls.model_fields}),
    )


def _digests(uploads: Sequence[Upload]) -> list[str]:
    return [hashlib.sha256(upload.content).hexdigest() for upload in uploads]


def _kept(upload: Upload, prediction: Prediction) -> dict[str, Any]:
    return public_prediction(upload, prediction).model_dump(mode="json", exclude={"filename", "explanation"})


def _embedded(prediction: Prediction, digest: str) -> Embedded | None:
    """Of the model that all items are compared by; what another one classified is embedded later."""
    if prediction.embedding is None or prediction.artifact.digest != digest:
        return None
    return Embedded(digest, prediction.embedding)


def _change(change: ItemChange) -> Change:
    return Change(label=change.label, drawer=change.drawer, undo=change.undo)


def _revision(if_match: str) -> int | None:
    return None if if_match == "*" else int(if_match.strip('"'))


def _with_etag(response: Response, item: Item) -> ItemPublic:
    response.headers["ETag"] = f'"{item.revision}"'
    return public_item(item)


def _describe(request: Request, wardrobe: Wardrobe, item_id: str, error: WardrobeError) -> Problem:
    """With the item as it is now, where it is not as the sender saw it."""
    problem = problems.describe(error, request)
    if isinstance(error, ItemChangedError):
        present = wardrobe.find([item_id]).get(item_id)
        problem.item = present and public_item(present).model_dump(mode="json")  # type: ignore[attr-defined]
    return problem


def _respond(request: Request, wardrobe: Wardrobe, item_id: str, error: WardrobeError) -> Response:
    return problems.respond(_describe(request, wardrobe, item_id, error))


def _write_cursor(value: Any, item_id: str) -> str:
    shown = value.isoformat() if isinstance(value, datetime) else value
    return base64.urlsafe_b64encode(json.dumps([shown, item_id]).encode()).decode()


def _read_cursor(cursor: str, sort: SortKey) -> tuple[Any, str]:
    try:
        value, item_id = json.loads(base64.urlsafe_b64decode(cursor))
        if sort in ("added", "changed"):
            return datetime.fromisoformat(value).astimezone(UTC), _text(item_id)
        return (float(value) if sort == "probability" else _text(value)), _text(item_id)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        # No base64, no JSON or one too deep, no pair, the value of another order, or one that no calendar has.
        raise InvalidCursorError from error


def _text(value: Any) -> str:
    """Such as a database takes.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError
    value.encode()  # raises for half a surrogate pair
    return value
